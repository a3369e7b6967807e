//! Leaders that end, are deleted, hang or are cut off.

use std::time::Duration;

use anyhow::ensure;
use rdb_protocol::status::Role;
use serde_json::json;

use super::{before, database_with_load, within};
use crate::faults;
use crate::harness::{Case, Database, LoadPod, eventually};

/// A new leader must be there well within this; the tighter bounds are asserted on the client's gap.
pub const ELECTION_LIMIT: Duration = Duration::from_secs(30);

/// Greatest outage after the end of the leader's process.
pub const AFTER_CRASH: Duration = Duration::from_secs(3);

/// Greatest outage when the leader only falls silent: `detectionTimeout` (3 s) and as much again as after a crash.
pub const AFTER_SILENCE: Duration = Duration::from_secs(6);

/// The cluster as it should be in the end: healthy, all caught up, every acknowledged write there.
pub async fn mended(database: &Database, load: &LoadPod) -> anyhow::Result<()> {
    database.healthy().await?;
    load.all_caught_up(database, Duration::from_secs(30)).await?;
    load.verify().await?;
    Ok(())
}

pub async fn leader_process_killed(case: Case) -> anyhow::Result<()> {
    let (database, load) = database_with_load(&case, json!({})).await?;
    let leader = database.leader().await?;
    let (epoch, since) = before(&load).await?;
    faults::kill_process(&database, &leader).await?;
    let report = load.writes_in_epoch_after(epoch, since, ELECTION_LIMIT).await?;
    within(&report, AFTER_CRASH)?;
    mended(&database, &load).await?;
    let status = database.status().await?;
    let receipt = &status["lastFailover"];
    ensure!(receipt["from"] == leader.as_str() && receipt["recordsAtRisk"] == 0, "receipt {receipt}");
    let events = case.events().await?;
    ensure!(events.iter().any(|event| event.contains(&leader)), "no event names the failed leader: {events:?}");
    Ok(())
}

/// The pod of a leader is deleted in good order: the operator may use the grace period to switch over.
pub async fn leader_pod_deleted(case: Case) -> anyhow::Result<()> {
    let (database, load) = database_with_load(&case, json!({})).await?;
    let leader = database.leader().await?;
    let (epoch, since) = before(&load).await?;
    case.kube.delete("Pod", &case.namespace, &leader, None).await?;
    let report = load.writes_in_epoch_after(epoch, since, ELECTION_LIMIT).await?;
    within(&report, AFTER_CRASH)?;
    mended(&database, &load).await
}

/// A pod that is gone from the API is no proof that its process is gone.
pub async fn leader_pod_deleted_by_force(case: Case) -> anyhow::Result<()> {
    let (database, load) = database_with_load(&case, json!({})).await?;
    let leader = database.leader().await?;
    let (epoch, since) = before(&load).await?;
    case.kube.delete("Pod", &case.namespace, &leader, Some(0)).await?;
    let report = load.writes_in_epoch_after(epoch, since, ELECTION_LIMIT).await?;
    within(&report, AFTER_SILENCE)?;
    mended(&database, &load).await
}

/// The leader's process hangs, and goes on later in the belief that it leads.
pub async fn leader_frozen(case: Case) -> anyhow::Result<()> {
    let (database, load) = database_with_load(&case, json!({})).await?;
    let leader = database.leader().await?;
    let (epoch, since) = before(&load).await?;
    let fault = faults::freeze_process(&database, &leader).await?;
    let report = load.writes_in_epoch_after(epoch, since, ELECTION_LIMIT).await?;
    within(&report, AFTER_SILENCE)?;
    fault.heal();
    follows(&database, &load, &leader).await?;
    mended(&database, &load).await
}

/// Nobody reaches the leader, and it reaches nobody.
pub async fn leader_cut_off(case: Case) -> anyhow::Result<()> {
    let (database, load) = database_with_load(&case, json!({})).await?;
    let leader = database.leader().await?;
    let (epoch, since) = before(&load).await?;
    let fault = faults::isolate_pod(&database, &leader).await?;
    let report = load.writes_in_epoch_after(epoch, since, ELECTION_LIMIT).await?;
    within(&report, AFTER_SILENCE)?;
    fault.heal();
    follows(&database, &load, &leader).await?;
    mended(&database, &load).await
}

/// Half a partition is no reason to fail over: the other follower carries the rule.
pub async fn leader_and_one_follower_cut_apart(case: Case) -> anyhow::Result<()> {
    let (database, load) = database_with_load(&case, json!({})).await?;
    let leader = database.leader().await?;
    let follower = database.followers().await?.remove(0);
    let (epoch, _) = before(&load).await?;
    let fault = faults::cut_pods(&database, &leader, &follower).await?;
    let report = load.watch(Duration::from_secs(8)).await?;
    ensure!(report.last_epoch == epoch, "an election although the leader was well: {report:?}");
    within(&report, AFTER_CRASH)?;
    fault.heal();
    mended(&database, &load).await
}

/// An old leader that came back has become a follower.
async fn follows(database: &Database, load: &LoadPod, instance: &str) -> anyhow::Result<()> {
    eventually("the old leader follows", ELECTION_LIMIT, async || {
        Ok(load.node_status(database, instance).await?.role == Role::Follower)
    })
    .await
}
