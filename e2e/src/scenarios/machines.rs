//! Nodes that are drained, die, or lose their network.

use std::time::Duration;

use anyhow::ensure;
use serde_json::json;

use super::failover::{AFTER_SILENCE, ELECTION_LIMIT, mended};
use super::{before, database_with_load, within};
use crate::clock::wall_ms;
use crate::faults;
use crate::harness::client::PATIENT_ATTEMPT;
use crate::harness::{Case, eventually};

/// For `kubectl drain` to get rid of a pod.
const DRAIN_LIMIT: Duration = Duration::from_secs(60);

/// The longest time without a write that a planned move of the leader may cost.
pub const PLANNED: Duration = Duration::from_secs(1);

/// Draining the leader's node moves the leader first; a client that lets the nodes hold its requests sees no error.
pub async fn node_drained(case: Case) -> anyhow::Result<()> {
    let (database, load) = database_with_load(&case, json!({})).await?;
    load.set_attempt(PATIENT_ATTEMPT).await?;
    let leader = database.leader().await?;
    let node = database.node_of(&leader).await?;
    let since = wall_ms();
    case.kube.patch("Node", "", &node, &json!({"spec": {"unschedulable": true}})).await?;
    // What kubectl drain does: ask again and again until the disruption budget allows it.
    let uid = database.pod(&leader).await?["metadata"]["uid"].clone();
    eventually("the pod is evicted", DRAIN_LIMIT, async || {
        let evicted = case.kube.evict(&case.namespace, &leader).await?;
        Ok(evicted && database.pod_is_gone(&leader, &uid).await?)
    })
    .await?;
    let report = load.report(since).await?;
    ensure!(report.failed_attempts == 0, "requests failed during the drain: {report:?}");
    within(&report, PLANNED)?;
    ensure!(database.leader().await? != leader, "the leader is still the drained one");
    case.kube.patch("Node", "", &node, &json!({"spec": {"unschedulable": null}})).await?;
    mended(&database, &load).await
}

/// A paused machine: its connections stay open, nobody answers, and later it goes on as if nothing had happened.
pub async fn node_frozen(case: Case) -> anyhow::Result<()> {
    let (database, load) = database_with_load(&case, json!({})).await?;
    let node = database.node_of(&database.leader().await?).await?;
    let (epoch, since) = before(&load).await?;
    let fault = faults::freeze_node(&node).await?;
    let report = load.writes_in_epoch_after(epoch, since, ELECTION_LIMIT).await?;
    within(&report, AFTER_SILENCE)?;
    fault.heal();
    mended(&database, &load).await
}

pub async fn node_dies(case: Case) -> anyhow::Result<()> {
    let (database, load) = database_with_load(&case, json!({})).await?;
    let node = database.node_of(&database.leader().await?).await?;
    let (epoch, since) = before(&load).await?;
    let fault = faults::kill_node(&node).await?;
    let report = load.writes_in_epoch_after(epoch, since, ELECTION_LIMIT).await?;
    within(&report, AFTER_SILENCE)?;
    fault.heal();
    faults::heal_all(&case.kube).await?;
    mended(&database, &load).await
}

pub async fn node_unplugged(case: Case) -> anyhow::Result<()> {
    let (database, load) = database_with_load(&case, json!({})).await?;
    let node = database.node_of(&database.leader().await?).await?;
    let (epoch, since) = before(&load).await?;
    let fault = faults::unplug_node(&node).await?;
    let report = load.writes_in_epoch_after(epoch, since, ELECTION_LIMIT).await?;
    within(&report, AFTER_SILENCE)?;
    fault.heal();
    faults::heal_all(&case.kube).await?;
    mended(&database, &load).await
}
