//! `rdb-formats`: a random workload through real clusters, in every log format.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use rdb_bench::formats::{self, Options};

#[derive(Parser)]
#[command(
    about = "Runs a random workload through real clusters in every log format and compares all nodes after each case"
)]
struct Arguments {
    /// Only this format: page, statement, mixed or logical. May be repeated.
    #[arg(long)]
    format: Vec<String>,
    /// Cases for each format.
    #[arg(long, default_value_t = 5)]
    cases: u64,
    /// Plans the same cases again; random if left out.
    #[arg(long)]
    seed: Option<u64>,
    /// Where the clusters keep their data.
    #[arg(long, default_value = "target/formats")]
    data: PathBuf,
}

#[tokio::main(flavor = "multi_thread", worker_threads = 1)]
async fn main() -> ExitCode {
    let Arguments { mut format, cases, seed, data } = Arguments::parse();
    if format.is_empty() {
        format = ["page", "statement", "mixed", "logical"].map(str::to_owned).to_vec();
    }
    let seed = seed.unwrap_or_else(rdb_bench::random::fresh_seed);
    println!("formats: seed {seed}");
    match formats::run(&Options { formats: format, cases, seed, data }).await {
        Ok(cases) => {
            println!("formats: cases={cases} different=0");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("formats: {error}");
            ExitCode::FAILURE
        }
    }
}
