//! How long writes fail after the leader was killed or frozen, with default settings.
//!
//! Each failover has a cluster of its own: leaders that die soon after one another are made to wait by design.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::json;

use super::report::Line;
use super::throughput::prepared;
use super::{ScenarioError, Settings};
use crate::client::Client;
use crate::clock::{now, pause, until};

const CLIENTS: usize = 16;

/// Load before the fault.
const BEFORE: Duration = Duration::from_secs(2);

/// Until writes succeed again.
const LIMIT: Duration = Duration::from_secs(60);

/// Each attempt's deadline. Requests that a follower holds are answered as soon as there is a leader again.
const DEADLINE: Duration = Duration::from_secs(2);

/// What happens to the leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Killed,
    Frozen,
}

#[derive(Debug, Default)]
struct Watch {
    stop: AtomicBool,
    /// The latest epoch that acknowledged a write, and when it first did.
    latest: Mutex<(u64, Option<Instant>)>,
}

impl Watch {
    fn acknowledged(&self, epoch: u64) {
        let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        if epoch > latest.0 {
            *latest = (epoch, Some(now()));
        }
    }

    fn latest(&self) -> (u64, Option<Instant>) {
        *self.latest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Measures all failovers of one kind.
pub async fn run(settings: &Settings, kind: Kind) -> Result<Vec<Line>, ScenarioError> {
    let mut outages = Vec::new();
    for number in 1..=settings.failovers {
        let outage = once(settings, kind).await?;
        eprintln!("  {kind:?} {number}/{}: {} ms", settings.failovers, outage.as_millis());
        outages.push(outage);
    }
    let name = match kind {
        Kind::Killed => "failover-killed",
        Kind::Frozen => "failover-frozen",
    };
    Ok(vec![Line::of_durations(name, CLIENTS, outages)])
}

async fn once(settings: &Settings, kind: Kind) -> Result<Duration, ScenarioError> {
    let (mut cluster, leader) = prepared(settings).await?;
    let watch = Arc::new(Watch::default());
    let mut clients = tokio::task::JoinSet::new();
    for client in 0..CLIENTS {
        clients.spawn(write(watch.clone(), cluster.addresses(), client));
    }
    pause(BEFORE).await;
    let (epoch, _) = watch.latest();
    let name = cluster.nodes[leader].name.clone();
    let start = now();
    cluster.command(if kind == Kind::Killed { "kill" } else { "freeze" }, &[&name]).await?;
    let back = until(LIMIT, async || watch.latest().1.filter(|_| watch.latest().0 > epoch)).await;
    watch.stop.store(true, Ordering::Relaxed);
    if kind == Kind::Frozen {
        cluster.command("thaw", &[&name]).await?;
    }
    while clients.join_next().await.is_some() {}
    cluster.stop().await;
    let back = back.ok_or_else(|| ScenarioError::Failed(format!("no writes within {} s", LIMIT.as_secs())))?;
    Ok(back - start)
}

/// Writes with idempotency keys at whatever node answers.
async fn write(watch: Arc<Watch>, addresses: Vec<String>, client: usize) {
    let mut nodes: Vec<Client> = addresses.iter().map(|address| Client::new(address, None)).collect();
    let mut at = client % nodes.len();
    let mut number = 0u64;
    while !watch.stop.load(Ordering::Relaxed) {
        number += 1;
        let key = format!("failover-{client}:{number}");
        while !watch.stop.load(Ordering::Relaxed) {
            let sql = "INSERT INTO rows (client, value) VALUES (?1, 'x')";
            match nodes[at].execute(sql, json!([client]), Some(&key), DEADLINE).await {
                Ok(answer) => {
                    watch.acknowledged(answer.position.epoch.0);
                    break;
                }
                Err(_) => at = (at + 1) % nodes.len(),
            }
            pause(Duration::from_millis(2)).await;
        }
    }
}
