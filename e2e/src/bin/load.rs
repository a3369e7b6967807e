//! `rdb-load`: the load of a client pod; see `rdb_e2e::load`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser;
use rdb_bench::clock::{pause, until};
use rdb_e2e::clock::wall_ms;
use rdb_e2e::load::{Journal, Pace, Shared, control, standstill, writer};

/// How long the target's name may take to exist, and its token file to appear.
const START_LIMIT: Duration = Duration::from_secs(120);

/// Writes all the time, and knows what became of it.
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    /// Where to write: host:port, usually the Service <cluster>-rw.
    #[arg(long, env = "RDB_LOAD_TARGET")]
    target: String,
    /// File with the client token.
    #[arg(long, env = "RDB_LOAD_TOKEN_FILE")]
    token_file: Option<PathBuf>,
    /// Microseconds from write to write.
    #[arg(long, env = "RDB_LOAD_INTERVAL_US", default_value_t = 2_000)]
    interval_us: u64,
    /// Milliseconds that one attempt may take.
    #[arg(long, env = "RDB_LOAD_ATTEMPT_MS", default_value_t = 250)]
    attempt_ms: u64,
    /// Where acknowledgements and failures are written as JSON lines.
    #[arg(long, env = "RDB_LOAD_JOURNAL")]
    journal: Option<PathBuf>,
    /// Where the test's requests are served.
    #[arg(long, env = "RDB_LOAD_LISTEN", default_value = "0.0.0.0:7800")]
    listen: SocketAddr,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let target = until(START_LIMIT, async || resolve(&args.target).await)
        .await
        .with_context(|| format!("{} does not resolve", args.target))?;
    let token = args.token_file.as_deref().map(std::fs::read_to_string).transpose().context("token file")?;
    let token = token.map(|text| text.trim().to_owned());
    let file = args.journal.as_deref().map(std::fs::File::create).transpose().context("journal")?;
    let pace =
        Pace { interval: Duration::from_micros(args.interval_us), attempt: Duration::from_millis(args.attempt_ms) };
    let run = format!("load-{:x}", wall_ms());
    println!("{run}: writing to {target}");
    let shared = Arc::new(Shared::new(run, target, token, Journal::new(file), pace));
    tokio::spawn(standstill::watch(shared.clone()));
    let writer = tokio::spawn(writer::run(shared.clone()));
    tokio::select! {
        () = control::serve(shared, args.listen) => {}
        _ = writer => {}
        _ = tokio::signal::ctrl_c() => {}
        () = terminated() => {}
    }
    Ok(())
}

/// The first process of a container gets no default action for SIGTERM.
async fn terminated() {
    match tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) {
        Ok(mut signal) => {
            signal.recv().await;
        }
        Err(_) => std::future::pending().await,
    }
}

async fn resolve(target: &str) -> Option<SocketAddr> {
    match tokio::net::lookup_host(target).await {
        Ok(mut addresses) => addresses.next(),
        Err(_) => {
            // A name that does not exist yet is asked for again, at a pace that the cluster's DNS does not mind.
            pause(Duration::from_millis(200)).await;
            None
        }
    }
}
