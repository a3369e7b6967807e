//! `rdb-bench`: measures a local cluster and prints a line per scenario.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use rdb_bench::scenarios::{self, SCENARIOS, Settings};

#[derive(Parser)]
#[command(about = "Measures a cluster of three nodes on this machine")]
struct Arguments {
    /// Only this scenario; may be repeated. One of: memory, insert, transaction, read, failover-killed, failover-frozen,
    /// seeding, peers.
    #[arg(long)]
    scenario: Vec<String>,
    /// Repetitions of each measurement.
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// Length of one measurement.
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// Failovers of each kind.
    #[arg(long, default_value_t = 10)]
    failovers: usize,
    /// Size of the database that is seeded, in MiB.
    #[arg(long, default_value_t = 1024)]
    seed_mib: u64,
    /// Where the clusters keep their data; emptied first.
    #[arg(long, default_value = "target/bench")]
    data: PathBuf,
    /// Scripts that measure other systems.
    #[arg(long, default_value = "bench/peers")]
    peers: PathBuf,
    /// Write the results as a Markdown table.
    #[arg(long)]
    table: Option<PathBuf>,
}

// One thread for all clients: what it costs is taken from the nodes, which share the machine.
#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let Arguments { scenario, runs, seconds, failovers, seed_mib, data, peers, table } = Arguments::parse();
    let measure = Duration::from_secs(seconds);
    let settings = Settings { runs, warm_up: Duration::from_secs(1), measure, failovers, seed_mib, data, peers };
    let names: Vec<&str> = match scenario.is_empty() {
        true => SCENARIOS.to_vec(),
        false => scenario.iter().map(String::as_str).collect(),
    };
    scenarios::run_all(&names, &settings, table.as_deref()).await
}
