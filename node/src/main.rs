//! The `rdb-node` binary.

use std::process::ExitCode;

use clap::Parser;
use rdb_node::args::Args;
use rdb_node::driver::boot::{BootError, Paths};
use tracing_subscriber::EnvFilter;

/// A start that was refused, which trying again will not change (`EX_CONFIG` of sysexits.h).
const EXIT_REFUSED: u8 = 78;

/// Threads that serve HTTP: half of the processors. The database, the peers and the disk need the others, and idle workers
/// that wake each other for every request cost more than they serve.
fn http_threads() -> usize {
    std::thread::available_parallelism().map_or(1, |processors| (processors.get() / 2).max(1))
}

/// A thread that panicked may leave a step half done, in memory only: what the node says next could be untrue. A restart
/// begins from what is on disk.
fn end_with_the_first_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        report(info);
        // Without destructors, which could wait for the thread that panicked.
        unsafe { libc::_exit(EXIT_PANIC) }
    }));
}

/// Exit code of a defect of ours (`EX_SOFTWARE` of sysexits.h).
const EXIT_PANIC: i32 = 70;

fn main() -> Result<ExitCode, anyhow::Error> {
    // SQL's 'localtime' must mean the same on every node.
    // SAFETY: no other thread runs yet.
    unsafe { std::env::set_var("TZ", "UTC") };
    let args = Args::parse();
    // SQLite reads it when it needs a file of its own; the file system around the data directory may be read-only.
    // SAFETY: there is no other thread yet.
    unsafe { std::env::set_var("SQLITE_TMPDIR", Paths::temporary(&args.data)) };
    end_with_the_first_panic();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    if args.log_json {
        log.json().init();
    } else {
        log.with_ansi(false).init();
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(http_threads()).enable_all().build()?;
    let outcome = runtime.block_on(rdb_node::run::run(args));
    // Threads of the driver may wait on disk or sockets; everything that matters is durable by design.
    runtime.shutdown_background();
    match outcome {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(error) => {
            let Some(boot) = error.downcast_ref::<BootError>() else { return Err(error) };
            tracing::error!(code = boot.code(), error = %boot, "this node does not start");
            Ok(ExitCode::from(EXIT_REFUSED))
        }
    }
}
