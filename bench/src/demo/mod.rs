//! `make demo`: a cluster, a real dump, a write load, and a leader that is killed in the middle of it.
//!
//! - [`orders`]: the load, and the check of every acknowledged order on each node.
//! - this file: the course of events and the report.

pub mod orders;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::client::{CallError, Client};
use crate::clock::{now, pause, until};
use crate::cluster::{Cluster, ClusterError, Options};
use orders::{Journal, Order};

/// Clients that place orders.
const CLIENTS: u64 = 16;

/// Before the kill, and after writes succeed again.
const LOAD_TIME: Duration = Duration::from_secs(3);

/// Until writes succeed again. The goal is a second and a half; more than this is a failed demo.
const OUTAGE_LIMIT: Duration = Duration::from_secs(60);

/// Until the killed node is back and has caught up.
const REJOIN_LIMIT: Duration = Duration::from_secs(60);

#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    #[error("no node leads")]
    NoLeader,
    #[error("writes did not succeed again within {} s", OUTAGE_LIMIT.as_secs())]
    NoRecovery,
    #[error("a node could not be read: {0}")]
    Read(#[from] CallError),
}

/// The figures of the report.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    pub detected_ms: Option<u64>,
    pub outage_ms: u64,
    pub before: u64,
    pub after: u64,
    /// Acknowledged orders that a survivor has not.
    pub lost: u64,
    /// Orders that are there twice.
    pub duplicated: u64,
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let acknowledged = self.before + self.after;
        write!(f, "demo: acknowledged={acknowledged} lost={} outage_ms={}", self.lost, self.outage_ms)
    }
}

/// Runs the demo in `data` with the SQL dump `dump`, logged in the format `log_format`.
pub async fn run(data: &Path, dump: &Path, log_format: &str) -> Result<Report, DemoError> {
    println!("Starting three nodes on loopback (data in {}) ...", data.display());
    let mut options = Options::new(data)?;
    options.extra.extend(["--log-format".to_owned(), log_format.to_owned()]);
    let mut cluster = Cluster::start(options).await?;
    let outcome = on_cluster(&mut cluster, dump).await;
    cluster.stop().await;
    outcome
}

async fn on_cluster(cluster: &mut Cluster, dump: &Path) -> Result<Report, DemoError> {
    for node in &cluster.nodes {
        println!("  {} at http://{}", node.name, node.address);
    }
    println!("Loading {} with `rdb load` ...", dump.display());
    let urls: Vec<String> = cluster.nodes.iter().map(|node| format!("http://{}", node.address)).collect();
    let dump: PathBuf = dump.to_owned();
    cluster.rdb(&["load", &urls.join(","), &dump.to_string_lossy()]).await?;
    let found = orders::totals(&cluster.nodes[0].address).await?;
    println!("  {} orders of {} customers, {} items", found.orders, found.customers, found.items);

    println!("{CLIENTS} clients place orders ...");
    let journal = Arc::new(Journal::default());
    let mut clients = tokio::task::JoinSet::new();
    for client in 0..CLIENTS {
        clients.spawn(orders::place(journal.clone(), cluster.addresses(), client));
    }
    pause(LOAD_TIME).await;
    let leader = cluster.leader().await.ok_or(DemoError::NoLeader)?;
    let killed = cluster.nodes[leader].clone();
    let epoch = journal.latest_epoch();
    println!("SIGKILL to the leader, {} ...", killed.name);
    let kill_time = now();
    cluster.command("kill", &[&killed.name]).await?;
    let back = until(OUTAGE_LIMIT, async || journal.first_after(epoch)).await.ok_or(DemoError::NoRecovery)?;
    println!("Writes succeed again ...");
    pause(LOAD_TIME).await;
    journal.stop();
    while clients.join_next().await.is_some() {}

    let survivors: Vec<usize> = (0..cluster.nodes.len()).filter(|at| *at != leader).collect();
    judge(cluster, &journal, epoch, kill_time, back, &survivors, &killed.name).await
}

async fn judge(
    cluster: &Cluster,
    journal: &Journal,
    epoch: u64,
    kill_time: Instant,
    back: Instant,
    survivors: &[usize],
    killed: &str,
) -> Result<Report, DemoError> {
    let placed = journal.acknowledged();
    let before = placed.iter().filter(|order| order.epoch <= epoch).count() as u64;
    let mut report = Report {
        detected_ms: detected_ms(&cluster.stored_status(), epoch),
        outage_ms: u64::try_from((back - kill_time).as_millis()).unwrap_or(u64::MAX),
        before,
        after: placed.len() as u64 - before,
        ..Report::default()
    };
    let quiet = cluster.await_quiet(REJOIN_LIMIT).await;
    for at in survivors {
        verify(cluster, *at, &placed, &mut report).await?;
    }
    print_report(&report, &cluster.stored_status());
    let rejoined = quiet.is_some();
    println!("  {killed} {}", if rejoined { "is back, as a follower that has everything" } else { "is not back yet" });
    Ok(report)
}

async fn verify(cluster: &Cluster, at: usize, placed: &[Order], report: &mut Report) -> Result<(), DemoError> {
    let node = &cluster.nodes[at];
    let there = orders::references(&mut Client::new(&node.address, None)).await?;
    let lost = placed.iter().filter(|order| !there.contains_key(&order.reference)).count() as u64;
    let duplicated = there.values().filter(|count| **count > 1).count() as u64;
    println!("  {}: {} acknowledged orders looked up, {lost} missing, {duplicated} double", node.name, placed.len());
    report.lost = report.lost.max(lost);
    report.duplicated = report.duplicated.max(duplicated);
    Ok(())
}

/// From the last sign of life to the decision, as the receipt of the failover after `epoch` says.
fn detected_ms(status: &Value, epoch: u64) -> Option<u64> {
    let receipt = &status["lastFailover"];
    receipt["epoch"].as_u64().filter(|new| *new > epoch)?;
    receipt["detectedMs"].as_u64()
}

fn print_report(report: &Report, status: &Value) {
    let receipt = &status["lastFailover"];
    let text = |field: &str| receipt[field].as_str().unwrap_or("?").to_owned();
    println!("Report");
    println!("  failover to {} because {} ({})", text("to"), text("reason"), text("evidence"));
    match report.detected_ms {
        Some(ms) => println!("  time to detect                  {ms:>7} ms"),
        None => println!("  time to detect                  unknown: no receipt was seen"),
    }
    println!("  time until writes succeed again {:>7} ms", report.outage_ms);
    println!("  acknowledged writes before      {:>7}", report.before);
    println!("  acknowledged writes after       {:>7}", report.after);
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_last_line_has_its_agreed_form() {
        let report = Report { before: 40, after: 2, lost: 0, outage_ms: 812, ..Report::default() };
        assert_eq!(report.to_string(), "demo: acknowledged=42 lost=0 outage_ms=812");
    }

    #[test]
    fn an_older_receipt_is_not_taken_for_this_failover() {
        let status = json!({"lastFailover": {"epoch": 3, "detectedMs": 12}});
        assert_eq!(detected_ms(&status, 2), Some(12));
        assert_eq!(detected_ms(&status, 3), None);
        assert_eq!(detected_ms(&json!({"lastFailover": null}), 0), None);
    }
}
