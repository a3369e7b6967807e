//! `rdb-torture`: kills and freezes nodes of a local cluster under load and checks what is left.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use rdb_bench::torture::{self, MODES, Options};

#[derive(Parser)]
#[command(about = "Kills and freezes nodes of a real local cluster under load, then checks every acknowledged write")]
struct Arguments {
    /// Faults in each mode.
    #[arg(long, default_value_t = 20)]
    faults: u64,
    /// Only this mode: semiSync, sync, one or async. May be repeated.
    #[arg(long)]
    mode: Vec<String>,
    /// Plans the same faults again; random if left out.
    #[arg(long)]
    seed: Option<u64>,
    /// What the leaders log: page, statement, logical or mixed.
    #[arg(long, default_value = "page")]
    log_format: String,
    /// Where the clusters keep their data; that of failed runs stays.
    #[arg(long, default_value = "target/torture")]
    data: PathBuf,
}

#[tokio::main(flavor = "multi_thread", worker_threads = 1)]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let wanted = |name: &str| arguments.mode.is_empty() || arguments.mode.iter().any(|mode| mode == name);
    let modes: Vec<_> = MODES.into_iter().filter(|mode| wanted(mode.name)).collect();
    if modes.is_empty() || arguments.mode.iter().any(|wanted| MODES.iter().all(|mode| mode.name != wanted)) {
        eprintln!("rdb-torture: modes are {}", MODES.map(|mode| mode.name).join(", "));
        return ExitCode::from(2);
    }
    // Different in every run, and short enough to be typed again.
    let seed = arguments.seed.unwrap_or_else(rdb_bench::random::fresh_seed);
    let options =
        Options { faults: arguments.faults, modes, seed, log_format: arguments.log_format, data: arguments.data };
    let totals = torture::run(&options).await;
    println!("{totals}");
    if totals.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
