//! `rdb-e2e`: tests and measurements against the cluster of `e2e/cluster/up`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use rdb_e2e::bench::{self, FAULTS, Fault};
use rdb_e2e::harness::Kube;
use rdb_e2e::scenarios::{ALL, Tier};
use rdb_e2e::suite::{self, Selection};
use rdb_e2e::{demo, faults};

#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs the tests.
    Run {
        /// Tests whose names contain one of these; without, all of the tiers.
        names: Vec<String>,
        #[arg(long, value_delimiter = ',', default_value = "smoke,faults")]
        tier: Vec<Tier>,
        /// Leave the namespaces of failed tests, and their faults, as they are.
        #[arg(long)]
        keep: bool,
    },
    /// Lists the tests.
    List,
    /// A failover or two, told.
    Demo {
        #[arg(default_value = "docs/examples/quickstart.yaml")]
        manifest: PathBuf,
    },
    /// Measures failover times.
    Bench {
        /// All of them by default.
        fault: Vec<Fault>,
        /// How often each.
        #[arg(short, default_value_t = 10)]
        n: usize,
        /// Seconds without API server at the end; 0 = leave that out.
        #[arg(long, default_value_t = 0)]
        outage: u64,
    },
    /// Undoes every fault that an interrupted run left behind.
    Heal,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "warn".into());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    match run(Args::parse().command).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("rdb-e2e: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Run { names, tier, keep } => suite::run(&Selection { tiers: tier, names, keep }).await,
        Command::Demo { manifest } => demo::run(&manifest).await,
        Command::Bench { fault, n, outage } => {
            let chosen = if fault.is_empty() { FAULTS.to_vec() } else { fault };
            bench::run(&chosen, n, Duration::from_secs(outage)).await
        }
        Command::Heal => faults::heal_all(&Kube::connect().await?).await,
        Command::List => {
            for scenario in ALL {
                println!("{:?} {}", scenario.tier, scenario.name);
            }
            Ok(())
        }
    }
}
