//! Requests that are wrong or dangerous: a clear answer, and nothing lost.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use rdb_bench::clock::pause;
use serde_json::json;

use super::changes::{condition_text, names};
use super::failover::mended;
use super::{before, database_with_load};
use crate::faults;
use crate::harness::client::SUITE_INTERVAL;
use crate::harness::database::{condition, manifest};
use crate::harness::kube::refusal;
use crate::harness::{Case, Database, LoadPod, eventually, until};

const ANSWER_LIMIT: Duration = Duration::from_secs(30);

pub async fn dangerous_requests_lose_nothing(case: Case) -> anyhow::Result<()> {
    let (database, load) =
        database_with_load(&case, json!({"replication": {"syncFollowers": 2, "minSyncFollowers": 1}})).await?;
    let leader = database.leader().await?;
    let (epoch, _) = before(&load).await?;

    let text = refusal(database.set(json!({"instances": 2})).await)?;
    ensure!(text.contains("syncFollowers"), "scaling below the rule: {text}");
    let text = refusal(database.set(json!({"storage": {"size": "400Mi"}})).await)?;
    ensure!(text.contains("size") || text.contains("storage"), "shrinking: {text}");

    refused_switchover(&case, &database, "db-99", "db-99").await?;
    let follower = database.followers().await?.remove(0);
    {
        let _cut = faults::isolate_pod(&database, &follower).await?;
        pause(Duration::from_secs(4)).await; // until operator and leader miss it
        refused_switchover(&case, &database, &follower, &follower).await?;
    }
    database.annotate("replicateddb.io/accept-data-loss", "0").await?;
    eventually("the permission for another epoch is taken away", ANSWER_LIMIT, async || {
        let resource = database.resource().await?;
        Ok(resource["metadata"]["annotations"]["replicateddb.io/accept-data-loss"].is_null())
    })
    .await?;
    mended(&database, &load).await?;
    ensure!(database.leader().await? == leader, "the leader has changed");
    ensure!(before(&load).await?.0 == epoch, "the epoch has changed");
    Ok(())
}

/// Asks for a switchover that cannot be; waits until the request is gone and an event names the target.
async fn refused_switchover(case: &Case, database: &Database, target: &str, named: &str) -> anyhow::Result<()> {
    let leader = database.leader().await?;
    database.annotate("replicateddb.io/switchover", target).await?;
    until(&format!("the switchover to {target} is refused"), ANSWER_LIMIT, async || {
        let resource = database.resource().await?;
        let pending = resource["metadata"]["annotations"]["replicateddb.io/switchover"].clone();
        let events = case.events().await?;
        let said = events.iter().any(|event| event.to_lowercase().contains("switchover") && event.contains(named));
        Ok(if pending.is_null() && said { Ok(()) } else { Err(format!("pending {pending}, events {events:?}")) })
    })
    .await?;
    ensure!(database.leader().await? == leader, "the leader has changed");
    Ok(())
}

/// A Secret without its key, a class that does not exist or fails, an image that does not start: the status names it.
pub async fn broken_surroundings_are_named(case: Case) -> anyhow::Result<()> {
    case.kube
        .create(&case.namespace, &json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "keyless"}, "stringData": {"password": "x"}}))
        .await?;
    let keyless = Database::apply(&case, "keyless", &json!({"access": {"clientTokenSecret": "keyless"}})).await?;
    let imageless =
        Database::apply(&case, "imageless", &json!({"image": "ghcr.io/replicateddb/no-such-image:1"})).await?;
    let database =
        Database::create(&case, "db", json!({"snapshots": {"className": "no-such-class", "schedule": "* * * * *"}}))
            .await?;
    let load = LoadPod::start(&case, &database, SUITE_INTERVAL).await?;

    keyless
        .status_shows("the Secret's key is missed", ANSWER_LIMIT, |status| {
            let text = format!("{} {}", status["message"], status["conditions"]);
            text.contains("keyless") && text.contains("token")
        })
        .await?;
    imageless
        .status_shows("the image is named", ANSWER_LIMIT, |status| {
            let text = format!("{} {}", status["message"], status["conditions"]);
            text.contains("no-such-image") || text.contains("ImagePull") || text.contains("ErrImage")
        })
        .await?;
    // Its Secret gets its key: the database comes up. Soon, while the kubelet's pauses between two starts are short.
    case.kube
        .patch(
            "Secret",
            &case.namespace,
            "keyless",
            &json!({"stringData": {"token": "0123456789abcdef0123456789abcdef"}}),
        )
        .await?;
    keyless.healthy().await?;
    for class in ["no-such-class", "rdb-failing"] {
        database.set(json!({"snapshots": {"className": class}})).await?;
        database
            .status_shows(&format!("SnapshotsHealthy names {class}"), Duration::from_secs(100), |status| {
                let text = condition_text(status, "SnapshotsHealthy");
                text.starts_with("False") && (text.contains(class) || text.contains("always fails"))
            })
            .await?;
    }
    database.set(json!({"snapshots": {"className": ""}})).await?;
    mended(&database, &load).await
}

/// A claim that is somebody else's, and one with the data of another database: neither is used, neither is touched, and the
/// answer names it.
pub async fn foreign_volumes_are_left_alone(case: Case) -> anyhow::Result<()> {
    let claim = json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "db-1", "labels": {"whose": "mine"}},
        "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "rdb-image",
            "resources": {"requests": {"storage": "400Mi"}}},
    });
    let made = case.kube.create(&case.namespace, &claim).await?;
    let database = Database::apply(&case, "db", &json!({})).await?;
    until("an event names the claim", ANSWER_LIMIT, async || {
        let events = case.events().await?;
        let named = events.iter().any(|event| event.contains("db-1") && event.contains("not ours"));
        Ok(if named { Ok(()) } else { Err(format!("{events:?}")) })
    })
    .await?;
    let there = case.kube.get("PersistentVolumeClaim", &case.namespace, "db-1").await?;
    ensure!(there["metadata"]["labels"] == made["metadata"]["labels"], "the claim was changed: {}", there["metadata"]);
    case.kube.delete("PersistentVolumeClaim", &case.namespace, "db-1", None).await?;
    database.healthy().await?;

    // The data of `db` under the name of another database.
    let snapshot = json!({
        "apiVersion": "snapshot.storage.k8s.io/v1", "kind": "VolumeSnapshot", "metadata": {"name": "copy"},
        "spec": {"volumeSnapshotClassName": "rdb", "source": {"persistentVolumeClaimName": "db-2"}},
    });
    case.kube.create(&case.namespace, &snapshot).await?;
    eventually("the snapshot is ready", ANSWER_LIMIT, async || {
        let snapshot = case.kube.get("VolumeSnapshot", &case.namespace, "copy").await?;
        Ok(snapshot["status"]["readyToUse"] == true)
    })
    .await?;
    let claim = json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim",
        "metadata": {"name": "other-1", "labels": {
            "replicateddb.io/cluster": "other", "replicateddb.io/instance": "other-1",
            "app.kubernetes.io/name": "replicateddb", "app.kubernetes.io/managed-by": "rdb-operator"}},
        "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "rdb-image",
            "resources": {"requests": {"storage": "512Mi"}},
            "dataSource": {"apiGroup": "snapshot.storage.k8s.io", "kind": "VolumeSnapshot", "name": "copy"}},
    });
    case.kube.create(&case.namespace, &claim).await?;
    let other = Database::apply(&case, "other", &json!({})).await?;
    // What it says is what it would say if its own status had been lost: whose the data is, and who must be there.
    let status = other
        .status_shows("the status names the volume's owners", Duration::from_secs(60), |status| {
            let stalled = condition(status, "Stalled");
            stalled["status"] == "True" && stalled["message"].as_str().is_some_and(|text| text.contains("db-2"))
        })
        .await?;
    ensure!(status["readyInstances"] == 0, "a database was made over the data of another: {status}");
    Ok(())
}

/// A resource made anew over the volumes of an old one of the same name: what they hold is not lost.
pub async fn name_reused_over_old_volumes(case: Case) -> anyhow::Result<()> {
    let (database, load) = database_with_load(&case, json!({})).await?;
    load.pause().await?;
    case.kube.delete("ReplicatedDB", &case.namespace, &database.name, None).await?;
    eventually("resource and pods are gone", Duration::from_secs(90), async || {
        let resource = case.kube.find("ReplicatedDB", &case.namespace, &database.name).await?;
        Ok(resource.is_none() && database.pods().await?.is_empty())
    })
    .await?;
    ensure!(names(&database.volumes().await?).len() == 3, "volumes were not retained");
    case.kube.create(&case.namespace, &manifest(&database.name, &json!({}))).await.context("the name again")?;
    database.healthy().await?;
    // The load's Service may have a new address and its Secret a new token: another load, and the rows of the first.
    case.kube.delete("Pod", &case.namespace, "db-load", Some(0)).await?;
    eventually("the old load is gone", ANSWER_LIMIT, async || {
        Ok(case.kube.find("Pod", &case.namespace, "db-load").await?.is_none())
    })
    .await?;
    let load = LoadPod::start(&case, &database, SUITE_INTERVAL).await?;
    let answer = load.execute("SELECT count(DISTINCT run) FROM rdb_load").await?;
    ensure!(answer.body["rows"] == json!([[2]]), "the rows of before are not there: {}", answer.body);
    mended(&database, &load).await
}
