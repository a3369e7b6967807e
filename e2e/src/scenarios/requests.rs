//! What people ask for by annotation, and secrets that they replace.

use std::time::Duration;

use anyhow::ensure;
use serde_json::{Value, json};

use super::changes::RENEWAL_LIMIT;
use super::failover::mended;
use super::{before, database_with_load};
use crate::faults;
use crate::harness::client::PATIENT_ATTEMPT;
use crate::harness::{Case, Database, LoadPod, Renewals, eventually};
use crate::load::control::Call;

/// A pod ends or starts; images are there.
const POD_LIMIT: Duration = Duration::from_secs(60);

/// Keeps one instance stopped, re-seeds another, restarts all of them: no request of a client fails.
pub async fn annotations_are_carried_out(case: Case) -> anyhow::Result<()> {
    let (database, load) = database_with_load(&case, json!({})).await?;
    load.set_attempt(PATIENT_ATTEMPT).await?;
    let (_, since) = before(&load).await?;

    let follower = database.followers().await?.remove(0);
    database.annotate("replicateddb.io/fence", &follower).await?;
    eventually("the fenced instance has no pod", POD_LIMIT, async || {
        Ok(case.kube.find("Pod", &case.namespace, &follower).await?.is_none())
    })
    .await?;
    database
        .status_shows("the status says that it is stopped", POD_LIMIT, |status| {
            status["instances"].as_array().is_some_and(|instances| {
                instances.iter().any(|instance| instance["name"] == follower.as_str() && instance["state"] == "Stopped")
            })
        })
        .await?;
    database.annotate("replicateddb.io/fence", "").await?;
    database.healthy().await?;

    let before_seed = load.node_status(&database, &follower).await?.incarnation;
    database.annotate("replicateddb.io/reseed", &follower).await?;
    eventually("the re-seeded instance is another incarnation", POD_LIMIT, async || {
        Ok(load.node_status(&database, &follower).await?.incarnation != before_seed)
    })
    .await?;
    database.healthy().await?;
    let left = database.resource().await?["metadata"]["annotations"]["replicateddb.io/reseed"].clone();
    ensure!(left.is_null(), "the annotation is still there: {left}");

    let leader = database.leader().await?;
    let renewals = Renewals::begin(&database).await?;
    database.annotate("replicateddb.io/restart", "once").await?;
    renewals.one_at_a_time(&leader, RENEWAL_LIMIT).await?;
    database.healthy().await?;
    let report = load.report(since).await?;
    ensure!(report.failed_attempts == 0, "requests failed: {report:?}");
    mended(&database, &load).await
}

/// The kubelet brings a changed secret within two minutes; until then, and for a while after, both tokens are good.
const SECRET_LIMIT: Duration = Duration::from_secs(180);

/// The tokens are replaced under load: writes and a failover go on. A client may use its old token for a while, at nodes that
/// have known it.
pub async fn tokens_are_replaced(case: Case) -> anyhow::Result<()> {
    let (database, load) = database_with_load(&case, json!({})).await?;
    load.set_attempt(PATIENT_ATTEMPT).await?;
    let (epoch, since) = before(&load).await?;
    for which in ["peer", "admin"] {
        replace_token(&case, &database, which).await?;
    }
    all_take(&database, &load, "admin").await?;
    let leader = database.leader().await?;
    faults::kill_process(&database, &leader).await?;
    load.writes_in_epoch_after(epoch, since, POD_LIMIT).await?;
    database.healthy().await?;

    let (epoch, since) = before(&load).await?;
    replace_token(&case, &database, "client").await?;
    all_take(&database, &load, "client").await?;
    let report = load.report(since).await?;
    ensure!(report.failed_attempts == 0 && report.last_epoch == epoch, "writes suffered: {report:?}");
    mended(&database, &load).await
}

/// Waits until every instance takes the new token, and sees that none takes just any.
async fn all_take(database: &Database, load: &LoadPod, which: &str) -> anyhow::Result<()> {
    for instance in instances(database).await? {
        eventually(&format!("{instance} takes the new {which} token"), SECRET_LIMIT, async || {
            Ok(status_with(load, database, &instance, &new_token(which)).await? == 200)
        })
        .await?;
        ensure!(status_with(load, database, &instance, "neither of them").await? == 401, "{instance} takes anything");
    }
    Ok(())
}

async fn instances(database: &Database) -> anyhow::Result<Vec<String>> {
    let mut names = database.followers().await?;
    names.push(database.leader().await?);
    Ok(names)
}

fn new_token(which: &str) -> String {
    format!("another-{which}-token-that-is-long-enough-for-everybody")
}

async fn replace_token(case: &Case, database: &Database, which: &str) -> anyhow::Result<Value> {
    let name = format!("{}-{which}", database.name);
    let patch = json!({"stringData": {"token": new_token(which)}});
    case.kube.patch("Secret", &case.namespace, &name, &patch).await
}

/// The HTTP status of a request for an instance's status with this token.
async fn status_with(load: &LoadPod, database: &Database, instance: &str, token: &str) -> anyhow::Result<u16> {
    let address = Some(database.address(instance).await?);
    let path = "/v1/status".to_owned();
    let answer = load.call(&Call { address, path, body: None, key: None, token: Some(token.to_owned()) }).await?;
    Ok(answer.status)
}
