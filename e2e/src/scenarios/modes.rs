//! Durability modes, degraded mode, maintenance, hibernation.

use std::time::Duration;

use anyhow::ensure;
use serde_json::json;

use super::failover::{AFTER_SILENCE, ELECTION_LIMIT, mended};
use super::{before, database_with_load, within};
use crate::clock::wall_ms;
use crate::faults;
use crate::harness::client::PATIENT_ATTEMPT;
use crate::harness::database::condition;
use crate::harness::{Case, eventually};

/// Every mode, one after the other, while writes go on and none fails.
pub async fn durability_changes_while_writes_go_on(case: Case) -> anyhow::Result<()> {
    let (database, load) = database_with_load(&case, json!({})).await?;
    load.set_attempt(PATIENT_ATTEMPT).await?;
    let (epoch, since) = before(&load).await?;
    for (mode, acks) in [("sync", 2), ("async", 0), ("semiSync", 1)] {
        database.set(json!({"replication": {"mode": mode}})).await?;
        let status = database.healthy().await?;
        ensure!(status["config"]["current"]["acks"] == acks, "{mode}: {}", status["config"]);
    }
    database.set(json!({"replication": {"syncSet": "one"}})).await?;
    let status = database.healthy().await?;
    let cohort = &status["config"]["current"]["cohort"];
    ensure!(cohort.as_array().map(Vec::len) == Some(2), "one named follower: {cohort}");
    let report = load.report(since).await?;
    ensure!(report.failed_attempts == 0 && report.last_epoch == epoch, "writes suffered: {report:?}");
    mended(&database, &load).await
}

/// With `degrade` a follower that is gone for `syncTimeout` holds up nothing any more, and counts again when it is back.
pub async fn degraded_until_the_follower_is_back(case: Case) -> anyhow::Result<()> {
    let spec = json!({"replication": {
        "syncFollowers": 2, "minSyncFollowers": 1, "whenUnavailable": "degrade", "syncTimeout": "2s"}});
    let (database, load) = database_with_load(&case, spec).await?;
    let follower = database.followers().await?.remove(0);
    let cut = faults::isolate_pod(&database, &follower).await?;
    let status = database
        .status_shows("degraded", ELECTION_LIMIT, |status| {
            condition(status, "Degraded")["status"] == "True" && status["config"]["current"]["acks"] == 1
        })
        .await?;
    let since = wall_ms();
    let report = load.writes_again("writes with one copy less", since, ELECTION_LIMIT).await?;
    ensure!(report.last_epoch == 1, "an election because of a follower: {report:?}; {status}");
    cut.heal();
    let status = database.healthy().await?;
    ensure!(status["config"]["current"]["acks"] == 2, "{}", status["config"]);
    eventually("no longer degraded", ELECTION_LIMIT, async || {
        Ok(condition(&database.status().await?, "Degraded")["status"] == "False")
    })
    .await?;
    mended(&database, &load).await
}

/// In maintenance a silent leader is not replaced; afterwards it is.
pub async fn maintenance_holds_failover_back(case: Case) -> anyhow::Result<()> {
    let (database, load) = database_with_load(&case, json!({"maintenance": {"active": true}})).await?;
    let leader = database.leader().await?;
    let (epoch, _) = before(&load).await?;
    let frozen = faults::freeze_process(&database, &leader).await?;
    let status = database
        .status_shows("the status says why nothing happens", ELECTION_LIMIT, |status| {
            status["message"].as_str().is_some_and(|message| message.contains("maintenance"))
        })
        .await?;
    ensure!(status["epoch"] == epoch, "an election in maintenance: {status}");
    let since = wall_ms();
    database.set(json!({"maintenance": {"active": false}})).await?;
    load.writes_in_epoch_after(epoch, since, AFTER_SILENCE).await?;
    frozen.heal();
    mended(&database, &load).await
}

/// Hibernated, a database is its volumes and nothing else; awake, it has all its rows.
pub async fn hibernates_and_wakes(case: Case) -> anyhow::Result<()> {
    let (database, load) = database_with_load(&case, json!({})).await?;
    database.set(json!({"hibernated": true})).await?;
    eventually("no pods are left", Duration::from_secs(60), async || Ok(database.pods().await?.is_empty())).await?;
    ensure!(database.volumes().await?.len() == 3, "volumes are gone");
    database.status_shows("hibernated", ELECTION_LIMIT, |status| status["phase"] == "Hibernated").await?;
    let since = wall_ms();
    database.set(json!({"hibernated": false})).await?;
    load.writes_again("writes after waking", since, Duration::from_secs(60)).await?;
    mended(&database, &load).await
}

/// A mode that can lose writes says so: the receipt of a failover without the leader names what is at risk.
pub async fn async_mode_accounts_for_what_it_loses(case: Case) -> anyhow::Result<()> {
    let (database, load) = database_with_load(&case, json!({"replication": {"mode": "async"}})).await?;
    let leader = database.leader().await?;
    let (epoch, since) = before(&load).await?;
    let cut = faults::isolate_pod(&database, &leader).await?;
    let report = load.writes_in_epoch_after(epoch, since, ELECTION_LIMIT).await?;
    within(&report, AFTER_SILENCE)?;
    cut.heal();
    database.healthy().await?;
    let receipt = database.status().await?["lastFailover"].clone();
    ensure!(receipt["recordsAtRisk"].is_number(), "{receipt}");
    Ok(())
}
