//! `rdb-demo`: a cluster, a dump, a write load, a killed leader, and a report.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

#[derive(Parser)]
#[command(
    about = "Starts three nodes, loads a SQL dump, kills the leader under load and checks every acknowledged write"
)]
struct Arguments {
    /// Where the cluster keeps its data; emptied first.
    #[arg(long, default_value = "target/demo")]
    data: PathBuf,
    /// SQL dump of the shop.
    #[arg(long, default_value = "bench/data/shop.sql")]
    dump: PathBuf,
    /// What the leader logs: page, statement, logical or mixed.
    #[arg(long, default_value = "page")]
    log_format: String,
}

#[tokio::main(flavor = "multi_thread", worker_threads = 1)]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match rdb_bench::demo::run(&arguments.data, &arguments.dump, &arguments.log_format).await {
        Ok(report) => {
            println!("{report}");
            if report.lost + report.duplicated == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            eprintln!("demo failed: {error}");
            eprintln!("logs and data are in {}", arguments.data.display());
            ExitCode::FAILURE
        }
    }
}
