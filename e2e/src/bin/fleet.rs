//! `rdb-fleet`: what one operator costs that looks after many databases, and how quick it is then.

use clap::Parser;
use rdb_e2e::fleet::measure::{self, Plan};

#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    #[command(flatten)]
    plan: Plan,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "error".into());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    measure::run(&Args::parse().plan).await
}
