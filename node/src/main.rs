//! The `rdb-node` binary.

use clap::Parser;
use rdb_node::args::Args;
use tracing_subscriber::EnvFilter;

fn main() -> Result<(), anyhow::Error> {
    let args = Args::parse();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    if args.log_json {
        log.json().init();
    } else {
        log.with_ansi(false).init();
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let outcome = runtime.block_on(rdb_node::run::run(args));
    // Threads of the driver may wait on disk or sockets; everything that matters is durable by design.
    runtime.shutdown_background();
    outcome
}
