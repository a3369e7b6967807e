//! `make bench`: what a cluster of three nodes on this machine does, fsync on, semiSync.
//!
//! - [`floor`]: what the machine itself allows a lone client.
//! - [`throughput`]: inserts, transactions of a hundred rows, point reads.
//! - [`failover`]: how long writes fail after the leader is killed or frozen.
//! - [`seeding`]: the leader's write rate while a follower receives a large database.
//! - [`memory`]: resident memory of idle and of loaded nodes.
//! - [`peers`]: other systems, measured in the same run if they are installed.
//! - [`report`]: the lines and the table.
//!
//! Client and nodes share the machine, so what the client costs is taken from what the nodes could do.

pub mod failover;
pub mod floor;
pub mod memory;
pub mod peers;
pub mod report;
pub mod seeding;
pub mod throughput;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use crate::client::CallError;
use crate::cluster::{Cluster, ClusterError, Options};
use report::Line;

#[derive(Debug, thiserror::Error)]
pub enum ScenarioError {
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    #[error("preparing: {0}")]
    Call(#[from] CallError),
    #[error("{0}")]
    Failed(String),
}

/// How to measure.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Each measurement is repeated so many times; the median counts and the spread is shown.
    pub runs: usize,
    pub warm_up: Duration,
    pub measure: Duration,
    /// Failovers of each kind.
    pub failovers: usize,
    /// Size of the database that is seeded.
    pub seed_mib: u64,
    /// Data directory of the clusters.
    pub data: PathBuf,
    /// Scripts that measure other systems.
    pub peers: PathBuf,
}

/// The scenarios by name, in the order in which they run.
pub const SCENARIOS: [&str; 9] =
    ["memory", "floor", "insert", "transaction", "read", "failover-killed", "failover-frozen", "seeding", "peers"];

/// Runs one scenario on a cluster of its own.
pub async fn run(name: &str, settings: &Settings) -> Result<Vec<Line>, ScenarioError> {
    match name {
        "memory" => memory::run(settings).await,
        "floor" => floor::run(settings).await,
        "insert" => throughput::inserts(settings).await,
        "transaction" => throughput::transactions(settings).await,
        "read" => throughput::reads(settings).await,
        "failover-killed" => failover::run(settings, failover::Kind::Killed).await,
        "failover-frozen" => failover::run(settings, failover::Kind::Frozen).await,
        "seeding" => seeding::run(settings).await,
        "peers" => peers::run(settings).await,
        other => Err(ScenarioError::Failed(format!("no scenario {other}; there are {}", SCENARIOS.join(", ")))),
    }
}

/// Runs the scenarios, then prints a line for each measurement and writes the table. A scenario that fails is named, and
/// the others go on.
pub async fn run_all(names: &[&str], settings: &Settings, table: Option<&Path>) -> ExitCode {
    let mut lines = Vec::new();
    let mut code = ExitCode::SUCCESS;
    for name in names {
        eprintln!("{name} ...");
        match run(name, settings).await {
            Ok(more) => {
                more.iter().for_each(|line| eprintln!("  {line}"));
                lines.extend(more);
            }
            Err(error) => {
                eprintln!("  FAILED: {error}");
                code = ExitCode::FAILURE;
            }
        }
    }
    if let Some(path) = table
        && let Err(error) = std::fs::write(path, report::table(&lines))
    {
        eprintln!("{}: {error}", path.display());
        code = ExitCode::FAILURE;
    }
    lines.iter().for_each(|line| println!("{line}"));
    code
}

/// A fresh cluster with default settings; also the number of its leader.
async fn start(data: &Path) -> Result<(Cluster, usize), ScenarioError> {
    let cluster = Cluster::start(Options::new(data)?).await?;
    let leader = cluster.leader().await.ok_or_else(|| ScenarioError::Failed("no node leads".into()))?;
    Ok((cluster, leader))
}
