//! Snapshots, lost volumes, a restart of everything, full disks.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};

use super::changes::names;
use super::failover::{AFTER_SILENCE, ELECTION_LIMIT, mended};
use super::{before, database_with_load, within};
use crate::clock::wall_ms;
use crate::faults;
use crate::harness::{Case, Database, LoadPod, eventually, until};

/// The schedule of the test is once a minute.
const SNAPSHOT_LIMIT: Duration = Duration::from_secs(100);

pub async fn fourth_instance_is_seeded_from_a_snapshot(case: Case) -> anyhow::Result<()> {
    let spec = json!({"snapshots": {"className": "rdb", "schedule": "* * * * *", "keep": 2}});
    let (database, load) = database_with_load(&case, spec).await?;
    let snapshot = until("a snapshot is ready", SNAPSHOT_LIMIT, async || {
        let snapshots = database.snapshots().await?;
        let ready = snapshots.iter().find(|snapshot| snapshot["status"]["readyToUse"] == true);
        Ok(ready.cloned().ok_or(format!("{:?}", snapshots.first().map(|snapshot| &snapshot["status"]))))
    })
    .await?;
    let noted = annotation(&snapshot, "index")?;
    let old = names(&database.pods().await?);
    // Enough after the snapshot that the difference shows.
    let since = wall_ms();
    eventually("writes after the snapshot", Duration::from_secs(30), async || {
        Ok(load.report(since).await?.acknowledged >= 200)
    })
    .await?;
    let leader = database.leader().await?;
    let at_scaling = load.node_status(&database, &leader).await?.committed.0;
    case.kube.scale("ReplicatedDB", &case.namespace, &database.name, 4).await?;
    database.healthy().await?;
    let new = names(&database.pods().await?).into_iter().find(|name| !old.contains(name)).context("no new pod")?;

    let volume = case.kube.get("PersistentVolumeClaim", &case.namespace, &new).await?;
    ensure!(volume["spec"]["dataSource"]["kind"] == "VolumeSnapshot", "made from {}", volume["spec"]["dataSource"]);
    let seed = load.node_status(&database, &new).await?.seed.context("the node reports no seed")?;
    ensure!(seed.method == "snapshot", "{seed:?}");
    let start = seed.position.index.0;
    // The snapshot was taken right after its position was read; the rest was streamed.
    ensure!(start >= noted && start < at_scaling, "seeded at {start}; noted {noted}, scaled at {at_scaling}");
    mended(&database, &load).await?;
    ensure!(database.snapshots().await?.len() <= 3, "more snapshots than are to be kept");
    Ok(())
}

fn annotation(object: &Value, name: &str) -> anyhow::Result<u64> {
    let text = object["metadata"]["annotations"][format!("replicateddb.io/{name}")].as_str();
    Ok(text.with_context(|| format!("no annotation {name}: {}", object["metadata"]))?.parse()?)
}

/// Takes an instance's volume away: claim and pod.
async fn lose_volume(case: &Case, instance: &str) -> anyhow::Result<()> {
    let uid = case.kube.get("PersistentVolumeClaim", &case.namespace, instance).await?["metadata"]["uid"].clone();
    case.kube.delete("PersistentVolumeClaim", &case.namespace, instance, None).await?;
    case.kube.delete("Pod", &case.namespace, instance, Some(1)).await?;
    until("the claim is another one", Duration::from_secs(60), async || {
        let claim = case.kube.find("PersistentVolumeClaim", &case.namespace, instance).await?;
        Ok(match claim {
            Some(claim) if claim["metadata"]["uid"] != uid => Ok(()),
            Some(claim) => Err(format!("the old claim is still there: {}", claim["metadata"])),
            None => Err("there is no claim".to_owned()),
        })
    })
    .await
}

/// The instance is back under a new incarnation, seeded from the others.
async fn seeded_anew(database: &Database, load: &LoadPod, instance: &str, incarnation: &str) -> anyhow::Result<()> {
    mended(database, load).await?;
    let status = load.node_status(database, instance).await?;
    ensure!(status.incarnation.to_string() != incarnation, "{instance} has kept its incarnation without its data");
    ensure!(status.seed.is_some(), "{instance} does not say where its data came from");
    Ok(())
}

pub async fn follower_loses_its_volume(case: Case) -> anyhow::Result<()> {
    let (database, load) = database_with_load(&case, json!({})).await?;
    let follower = database.followers().await?.remove(0);
    let incarnation = load.node_status(&database, &follower).await?.incarnation.to_string();
    let (epoch, since) = before(&load).await?;
    lose_volume(&case, &follower).await?;
    seeded_anew(&database, &load, &follower, &incarnation).await?;
    let report = load.report(since).await?;
    ensure!(report.last_epoch == epoch, "an election because of a follower: {report:?}");
    Ok(())
}

pub async fn leader_loses_its_volume(case: Case) -> anyhow::Result<()> {
    let (database, load) = database_with_load(&case, json!({})).await?;
    let leader = database.leader().await?;
    let incarnation = load.node_status(&database, &leader).await?.incarnation.to_string();
    let (epoch, since) = before(&load).await?;
    lose_volume(&case, &leader).await?;
    let report = load.writes_in_epoch_after(epoch, since, ELECTION_LIMIT).await?;
    within(&report, AFTER_SILENCE)?;
    seeded_anew(&database, &load, &leader, &incarnation).await
}

/// All pods at once, as when a cluster is shut down: nobody leads from disk, the operator elects.
pub async fn everything_restarts(case: Case) -> anyhow::Result<()> {
    let (database, load) = database_with_load(&case, json!({})).await?;
    let (epoch, since) = before(&load).await?;
    let pods = names(&database.pods().await?);
    for pod in &pods {
        case.kube.delete("Pod", &case.namespace, pod, Some(1)).await?;
    }
    load.writes_in_epoch_after(epoch, since, Duration::from_secs(60)).await?;
    mended(&database, &load).await
}

/// A full disk stops the writes, loses nothing, and is over when there is space.
pub async fn disk_full(case: Case) -> anyhow::Result<()> {
    let (database, load) = database_with_load(&case, json!({})).await?;
    let leader = database.leader().await?;
    let ballast = faults::fill_disk(&database, &leader).await?;
    eventually("the node names its full disk", Duration::from_secs(60), async || {
        let status = load.node_status(&database, &leader).await?;
        Ok(status.problems.iter().any(|problem| problem.code == "DISK_FULL"))
    })
    .await?;
    ballast.heal();
    let since = wall_ms();
    load.writes_again("writes with space", since, Duration::from_secs(60)).await?;
    mended(&database, &load).await
}
