//! Switchover, scaling, growth, rolling updates, deletion.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};

use super::failover::{ELECTION_LIMIT, mended};
use super::machines::PLANNED;
use super::{before, database_with_load, within};
use crate::clock::wall_ms;
use crate::harness::client::PATIENT_ATTEMPT;
use crate::harness::database::condition;
use crate::harness::{Case, Database, Renewals, eventually, until};

/// Greatest time without a successful write in a switchover.
const SWITCHOVER: Duration = Duration::from_millis(500);

/// For three instances to be renewed, one after the other.
pub const RENEWAL_LIMIT: Duration = Duration::from_secs(180);

/// A file system grows when its kubelet looks at the pod again, about once a minute.
const GROWTH_LIMIT: Duration = Duration::from_secs(180);

const SWITCHOVER_ANNOTATION: &str = "replicateddb.io/switchover";

pub async fn switch_over(database: &Database, target: &str) -> anyhow::Result<()> {
    database.annotate(SWITCHOVER_ANNOTATION, target).await?;
    database
        .status_shows(&format!("{target} leads"), ELECTION_LIMIT, |status| {
            status["leader"]["name"] == target && status["phase"] == "Steady"
        })
        .await
        .map(drop)
}

pub async fn switchover_fails_no_request(case: Case) -> anyhow::Result<()> {
    let (database, load) = database_with_load(&case, json!({})).await?;
    load.set_attempt(PATIENT_ATTEMPT).await?;
    for _ in 0..3 {
        let target = database.followers().await?.remove(0);
        let (epoch, since) = before(&load).await?;
        switch_over(&database, &target).await?;
        let report = load.writes_in_epoch_after(epoch, since, ELECTION_LIMIT).await?;
        ensure!(report.failed_attempts == 0, "requests failed: {report:?}");
        within(&report, SWITCHOVER)?;
        database.healthy().await?;
    }
    let resource = database.resource().await?;
    ensure!(resource["metadata"]["annotations"][SWITCHOVER_ANNOTATION].is_null(), "the annotation is still there");
    mended(&database, &load).await
}

pub async fn scaled_up_and_down(case: Case) -> anyhow::Result<()> {
    let (database, load) = database_with_load(&case, json!({})).await?;
    load.set_attempt(PATIENT_ATTEMPT).await?;
    let since = wall_ms();
    case.kube.scale("ReplicatedDB", &case.namespace, &database.name, 4).await?;
    database.healthy().await?;
    // The last one leads, so it is not simply the last one that goes.
    let newest = names(&database.pods().await?).pop().context("no pods")?;
    switch_over(&database, &newest).await?;
    case.kube.scale("ReplicatedDB", &case.namespace, &database.name, 2).await?;
    database.healthy().await?;
    let leader = database.leader().await?;
    let left = names(&database.pods().await?);
    ensure!(left.len() == 2 && left.contains(&leader), "{left:?} are left, {leader} leads");
    until("the volumes of removed instances are gone", Duration::from_secs(60), async || {
        let volumes = names(&database.volumes().await?);
        Ok(if volumes == left { Ok(()) } else { Err(format!("{volumes:?}")) })
    })
    .await?;
    case.kube.scale("ReplicatedDB", &case.namespace, &database.name, 3).await?;
    database.healthy().await?;
    let report = load.report(since).await?;
    ensure!(report.failed_attempts == 0, "requests failed: {report:?}");
    mended(&database, &load).await
}

pub fn names(objects: &[Value]) -> Vec<String> {
    objects.iter().filter_map(|object| object["metadata"]["name"].as_str().map(str::to_owned)).collect()
}

pub async fn volumes_grow(case: Case) -> anyhow::Result<()> {
    let (database, load) = database_with_load(&case, json!({})).await?;
    let before = wall_ms();
    database.set(json!({"storage": {"size": "640Mi"}})).await?;
    until("all volumes have 640Mi", GROWTH_LIMIT, async || {
        let sizes: Vec<Value> =
            database.volumes().await?.iter().map(|volume| volume["status"]["capacity"]["storage"].clone()).collect();
        Ok(if sizes.len() == 3 && sizes.iter().all(|size| size == "640Mi") {
            Ok(())
        } else {
            Err(format!("{sizes:?}"))
        })
    })
    .await?;
    let report = load.report(before).await?;
    ensure!(report.gaps.iter().all(|gap| gap.epoch_before == gap.epoch_after), "growing cost an election: {report:?}");
    mended(&database, &load).await
}

/// Names and uids of the pods.
async fn generations(database: &Database) -> anyhow::Result<Vec<(String, String)>> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let pods = database.pods().await?;
    Ok(pods.iter().map(|pod| (text(&pod["metadata"]["name"]), text(&pod["metadata"]["uid"]))).collect())
}

/// Image and resources change; followers first, the leader by switchover, and no request fails.
pub async fn rolling_update(case: Case) -> anyhow::Result<()> {
    let (database, load) = database_with_load(&case, json!({})).await?;
    load.set_attempt(PATIENT_ATTEMPT).await?;
    let version = env!("CARGO_PKG_VERSION");
    let changes = [
        json!({"image": format!("ghcr.io/replicateddb/rdb-node:{version}-next")}),
        json!({"resources": {"requests": {"memory": "56Mi"}}, "access": {"maxResultSize": "32Mi"}}),
    ];
    for change in changes {
        let leader = database.leader().await?;
        let renewals = Renewals::begin(&database).await?;
        let since = wall_ms();
        database.set(change.clone()).await?;
        renewals.one_at_a_time(&leader, RENEWAL_LIMIT).await.with_context(|| change.to_string())?;
        database.healthy().await?;
        let report = load.report(since).await?;
        ensure!(report.failed_attempts == 0, "requests failed during {change}: {report:?}");
        // Its nodes hold requests for much longer, so that two missing copies would not show in the failures.
        within(&report, PLANNED).with_context(|| change.to_string())?;
    }
    mended(&database, &load).await
}

/// An image that does not start stops the update at its first instance, and going back mends it.
pub async fn stuck_update_stops(case: Case) -> anyhow::Result<()> {
    let (database, load) = database_with_load(&case, json!({"seeding": {"catchUpTimeout": "15s"}})).await?;
    let leader = database.leader().await?;
    let old = generations(&database).await?;
    database.set(json!({"image": "ghcr.io/replicateddb/rdb-node:no-such-tag"})).await?;
    let status = database
        .status_shows("the update is said to be stuck", Duration::from_secs(90), |status| {
            let texts = format!("{} {}", status["message"], status["conditions"]);
            texts.contains("no-such-tag") || texts.contains("update") && texts.contains("did not")
        })
        .await?;
    let new = generations(&database).await?;
    let changed = old.iter().filter(|pod| !new.iter().any(|pod2| pod2.1 == pod.1)).count();
    ensure!(changed <= 1, "{changed} instances were replaced: {status}");
    ensure!(database.leader().await? == leader, "the leader was changed");
    let since = wall_ms();
    load.writes_again("writes go on", since, Duration::from_secs(10)).await?;
    database.set(json!({"image": ""})).await?;
    mended(&database, &load).await
}

pub async fn deletion_retains_or_deletes(case: Case) -> anyhow::Result<()> {
    let gone = Duration::from_secs(90);
    for (name, reclaim, left) in [("kept", "Retain", 3), ("dropped", "Delete", 0)] {
        let database = Database::create(&case, name, json!({"reclaim": reclaim})).await?;
        case.kube.delete("ReplicatedDB", &case.namespace, name, None).await?;
        eventually("resource and pods are gone", gone, async || {
            let resource = case.kube.find("ReplicatedDB", &case.namespace, name).await?;
            Ok(resource.is_none() && database.pods().await?.is_empty())
        })
        .await?;
        until("the volumes are as asked for", gone, async || {
            let volumes = names(&database.volumes().await?);
            Ok(if volumes.len() == left { Ok(()) } else { Err(format!("{volumes:?} with {reclaim}")) })
        })
        .await?;
        let services = case.kube.list("Service", &case.namespace, &database.labels()).await?;
        ensure!(services.is_empty() || left > 0, "services are left: {:?}", names(&services));
    }
    Ok(())
}

/// Used by other tests: the text of a condition.
pub fn condition_text(status: &Value, kind: &str) -> String {
    let condition = condition(status, kind);
    format!(
        "{} {}: {}",
        condition["status"].as_str().unwrap_or("?"),
        condition["reason"].as_str().unwrap_or(""),
        condition["message"].as_str().unwrap_or("")
    )
}
