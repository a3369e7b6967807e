//! No API server, no operator, two operators: the nodes go on.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use rdb_bench::clock::pause;
use serde_json::{Value, json};

use super::failover::{ELECTION_LIMIT, mended};
use super::{before, database_with_load};
use crate::clock::wall_ms;
use crate::faults;
use crate::harness::case::{OPERATOR_LABELS, OPERATOR_NAMESPACE};
use crate::harness::client::PATIENT_ATTEMPT;
use crate::harness::{Case, Kube, LoadPod, eventually, until};

/// For the API server to come back after its manifest is back.
const RETURN_LIMIT: Duration = Duration::from_secs(120);

/// For a new operator to take over the Lease of one that died.
const TAKEOVER_LIMIT: Duration = Duration::from_secs(60);

pub async fn api_server_away_for_half_a_minute(case: Case) -> anyhow::Result<()> {
    api_server_away(case, Duration::from_secs(30)).await
}

pub async fn api_server_away_for_five_minutes(case: Case) -> anyhow::Result<()> {
    api_server_away(case, Duration::from_secs(300)).await
}

async fn api_server_away(case: Case, time: Duration) -> anyhow::Result<()> {
    let (database, load) = database_with_load(&case, json!({})).await?;
    load.set_attempt(PATIENT_ATTEMPT).await?;
    let (epoch, since) = before(&load).await?;
    let control_plane = faults::nodes(&case.kube).await?.remove(0);
    let fault = faults::stop_api_server(&control_plane).await?;
    pause(time).await;
    ensure!(case.kube.list("Node", "", "").await.is_err(), "the API server answers although it was stopped");
    let end = wall_ms();
    fault.heal();
    back(&case.kube, &load).await?;
    let report = load.report(since).await?;
    ensure!(report.failed_attempts == 0, "writes failed without the API server: {report:?}");
    ensure!(report.last_epoch == epoch, "a failover without a reason: {report:?}");
    ensure!(report.last_acknowledged_ms > end, "writes stopped: {report:?}");
    // What comes after: the operator catches up and works again.
    mended(&database, &load).await?;
    let leader = database.leader().await?;
    let (epoch, since) = before(&load).await?;
    faults::kill_process(&database, &leader).await?;
    load.writes_in_epoch_after(epoch, since, ELECTION_LIMIT).await?;
    mended(&database, &load).await
}

pub async fn api_server_hangs(case: Case) -> anyhow::Result<()> {
    let (database, load) = database_with_load(&case, json!({})).await?;
    load.set_attempt(PATIENT_ATTEMPT).await?;
    let (epoch, since) = before(&load).await?;
    let control_plane = faults::nodes(&case.kube).await?.remove(0);
    let fault = faults::hang_api_server(&control_plane).await?;
    pause(Duration::from_secs(60)).await;
    fault.heal();
    back(&case.kube, &load).await?;
    let report = load.report(since).await?;
    ensure!(report.failed_attempts == 0 && report.last_epoch == epoch, "writes suffered: {report:?}");
    mended(&database, &load).await
}

/// Waits until the API server answers, and through it the client pod.
async fn back(kube: &Kube, load: &LoadPod) -> anyhow::Result<()> {
    until("the API server is back", RETURN_LIMIT, async || {
        kube.list("Node", "", "").await?;
        load.report(0).await?;
        Ok(Ok(()))
    })
    .await
}

/// The pods of the operator that run.
pub async fn operators(kube: &Kube) -> anyhow::Result<Vec<String>> {
    let pods = kube.list("Pod", OPERATOR_NAMESPACE, OPERATOR_LABELS).await?;
    let running = pods.iter().filter(|pod| pod["metadata"]["deletionTimestamp"].is_null());
    Ok(running.filter_map(|pod| pod["metadata"]["name"].as_str().map(str::to_owned)).collect())
}

/// Ends all operators at once, without a chance to clean up.
async fn kill_operators(kube: &Kube) -> anyhow::Result<()> {
    for pod in operators(kube).await? {
        kube.delete("Pod", OPERATOR_NAMESPACE, &pod, Some(0)).await?;
    }
    Ok(())
}

/// Whatever the operator was doing when it ended, its successor finishes it.
pub async fn operator_killed_at_any_moment(case: Case) -> anyhow::Result<()> {
    let (database, load) = database_with_load(&case, json!({})).await?;
    // A moment within a failover, later each time.
    for delay in [0_u64, 150, 400] {
        let leader = database.leader().await?;
        let (epoch, since) = before(&load).await?;
        faults::kill_process(&database, &leader).await?;
        pause(Duration::from_millis(delay)).await;
        kill_operators(&case.kube).await?;
        load.writes_in_epoch_after(epoch, since, TAKEOVER_LIMIT)
            .await
            .with_context(|| format!("killed after {delay} ms"))?;
        database.healthy().await?;
    }
    // And within a switchover and a scaling.
    let target = database.followers().await?.remove(0);
    database.annotate("replicateddb.io/switchover", &target).await?;
    pause(Duration::from_millis(100)).await;
    kill_operators(&case.kube).await?;
    database.healthy().await?;
    database.set(json!({"instances": 4})).await?;
    pause(Duration::from_millis(500)).await;
    kill_operators(&case.kube).await?;
    mended(&database, &load).await
}

/// Both operators act at the same time: the Lease is taken from the one that holds it, again and again, while leaders die.
pub async fn two_operators_at_once(case: Case) -> anyhow::Result<()> {
    let (database, load) = database_with_load(&case, json!({})).await?;
    eventually("two operators run", TAKEOVER_LIMIT, async || Ok(operators(&case.kube).await?.len() >= 2)).await?;
    for _ in 0..2 {
        let leader = database.leader().await?;
        let (epoch, since) = before(&load).await?;
        faults::kill_process(&database, &leader).await?;
        hand_over_lease(&case.kube).await?;
        load.writes_in_epoch_after(epoch, since, TAKEOVER_LIMIT).await?;
        database.healthy().await?;
    }
    mended(&database, &load).await
}

/// Makes the operator's Lease look released while its holder still believes in it.
async fn hand_over_lease(kube: &Kube) -> anyhow::Result<()> {
    let leases = kube.list("Lease", OPERATOR_NAMESPACE, "").await?;
    let held =
        leases.iter().find(|lease| !lease["spec"]["holderIdentity"].is_null()).context("no operator holds a Lease")?;
    let name = held["metadata"]["name"].as_str().context("a Lease without a name")?;
    let patch: Value = json!({"spec": {"holderIdentity": null, "leaseDurationSeconds": 1}});
    kube.patch("Lease", OPERATOR_NAMESPACE, name, &patch).await.map(drop)
}
