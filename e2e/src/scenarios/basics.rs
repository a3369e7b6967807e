//! A new database, its objects, its documentation, and what the API server refuses.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};

use super::database_with_load;
use crate::harness::database::{condition, manifest};
use crate::harness::kube::refusal;
use crate::harness::{Case, Database, shell};
use crate::load::control::Call;

pub async fn new_database_serves(case: Case) -> anyhow::Result<()> {
    let (database, load) = database_with_load(&case, json!({})).await?;
    objects(&case, &database).await?;
    routes(&case, &database).await?;

    // Any node takes a write and a linearizable read; followers answer reads of their own.
    let any = format!("{}.{}.svc:7700", database.name, case.namespace);
    let readers = format!("{}-ro.{}.svc:7700", database.name, case.namespace);
    let post = |address: &str, path: &str, body: Value| Call {
        address: Some(address.to_owned()),
        path: path.to_owned(),
        body: Some(body),
        key: None,
        token: None,
    };
    let answer = load.call(&post(&any, "/v1/execute", json!({"sql": "CREATE TABLE t (a)"}))).await?;
    ensure!(answer.status == 200, "{}", answer.body);
    let answer = load.call(&post(&any, "/v1/execute", json!({"sql": "INSERT INTO t VALUES (42)"}))).await?;
    let position = answer.body["position"].clone();
    let read = json!({"sql": "SELECT a FROM t", "consistency": "session", "position": position});
    let answer = load.call(&post(&readers, "/v1/query", read)).await?;
    ensure!(answer.body["rows"] == json!([[42]]), "{}", answer.body);

    // Without the token nobody gets in.
    let mut stranger = post(&any, "/v1/execute", json!({"sql": "DELETE FROM t"}));
    stranger.token = Some("wrong".to_owned());
    ensure!(load.call(&stranger).await?.status == 401, "a stranger was let in");

    let status = database.status().await?;
    ensure!(condition(&status, "Ready")["status"] == "True", "{status}");
    // What an operator last wrote may be from just before the change that made the followers count.
    database
        .status_shows("a forecast", Duration::from_secs(30), |status| status["forecast"]["successor"].is_string())
        .await?;
    // The installed definition keeps all of the operator's status.
    let events = case.events().await?;
    ensure!(!events.iter().any(|event| event.starts_with("DefinitionTooOld")), "{events:?}");
    load.verify().await?;
    explained(&case).await
}

async fn objects(case: &Case, database: &Database) -> anyhow::Result<()> {
    let labels = database.labels();
    for (kind, count) in [("Pod", 3), ("PersistentVolumeClaim", 3), ("PodDisruptionBudget", 1), ("Service", 4)] {
        let found = case.kube.list(kind, &case.namespace, &labels).await?.len();
        ensure!(found == count, "{found} objects of kind {kind}, not {count}");
    }
    let mut nodes: Vec<Value> = database.pods().await?.iter().map(|pod| pod["spec"]["nodeName"].clone()).collect();
    nodes.sort_by_key(Value::to_string);
    nodes.dedup();
    ensure!(nodes.len() == 3, "three instances on {nodes:?}");
    Ok(())
}

/// `-rw` leads to the leader, `-ro` to the followers, the plain name to all.
async fn routes(case: &Case, database: &Database) -> anyhow::Result<()> {
    let leader = database.leader().await?;
    for (suffix, has_leader, count) in [("-rw", true, 1), ("-ro", false, 2), ("", true, 3)] {
        let name = format!("{}{suffix}", database.name);
        let slice = case.kube.get("EndpointSlice", &case.namespace, &name).await?;
        let targets = slice["endpoints"].as_array().cloned().unwrap_or_default();
        let names: Vec<&str> = targets.iter().filter_map(|target| target["targetRef"]["name"].as_str()).collect();
        ensure!(
            targets.len() == count && names.contains(&leader.as_str()) == has_leader,
            "{name} leads to {names:?}, leader {leader}"
        );
    }
    Ok(())
}

/// `kubectl explain` reads like documentation: every field says something.
async fn explained(case: &Case) -> anyhow::Result<()> {
    let context = case.kube.context.as_str();
    // kubectl remembers for ten minutes which kinds there are; this makes it look again.
    shell::run("kubectl", &["--context", context, "api-resources", "--api-group=replicateddb.io"]).await?;
    for path in ["rdb.spec", "rdb.spec.replication", "rdb.spec.failover", "rdb.spec.storage", "rdb.status"] {
        let text = shell::run("kubectl", &["--context", context, "explain", path]).await?;
        let fields = text.split_once("FIELDS:").with_context(|| format!("{path}: {text}"))?.1;
        for block in fields.split("\n\n").filter(|block| !block.trim().is_empty()) {
            let lines =
                block.lines().filter(|line| !line.trim().is_empty() && !line.trim().starts_with("enum")).count();
            ensure!(lines >= 2, "{path}: a field without a description: {block}");
        }
    }
    Ok(())
}

/// What is wrong, and what the API server's answer must name.
const WRONG: &[(&str, &str, &[&str])] = &[
    ("no more copies than instances", r#"{"instances": 3, "replication": {"syncFollowers": 3}}"#, &["syncFollowers"]),
    ("no instances", r#"{"instances": 0}"#, &["spec.instances", "1"]),
    ("too many instances", r#"{"instances": 99}"#, &["spec.instances", "15"]),
    ("a mode that does not exist", r#"{"replication": {"mode": "eventually"}}"#, &["mode", "semiSync"]),
    ("a size that is none", r#"{"storage": {"size": "lots"}}"#, &["storage.size"]),
    ("a duration that is none", r#"{"failover": {"detectionTimeout": "soon"}}"#, &["detectionTimeout"]),
    (
        "a lease longer than detection",
        r#"{"failover": {"leaseDuration": "10s"}}"#,
        &["leaseDuration", "detectionTimeout"],
    ),
    ("a schedule that is none", r#"{"snapshots": {"schedule": "sometimes"}}"#, &["schedule"]),
    ("floor above the rule", r#"{"replication": {"minSyncFollowers": 2}}"#, &["minSyncFollowers", "syncFollowers"]),
];

pub async fn wrong_manifests_are_refused_with_helpful_text(case: Case) -> anyhow::Result<()> {
    for (what, spec, names) in WRONG {
        let spec: Value = serde_json::from_str(spec)?;
        let text = refusal(case.kube.create(&case.namespace, &manifest("wrong", &spec)).await)
            .with_context(|| (*what).to_owned())?;
        for name in *names {
            ensure!(text.contains(name), "{what}: the answer does not name {name}: {text}");
        }
    }
    // Every default stands: a manifest with nothing but a name is fine.
    let bare = json!({"apiVersion": "replicateddb.io/v1alpha1", "kind": "ReplicatedDB",
        "metadata": {"name": "bare"}, "spec": {"paused": true}});
    let made = case.kube.create(&case.namespace, &bare).await?;
    ensure!(made["spec"]["instances"] == 3 && made["spec"]["replication"]["mode"] == "semiSync", "{}", made["spec"]);
    let shrink = json!({"spec": {"storage": {"size": "512Mi"}}});
    let text = refusal(case.kube.patch("ReplicatedDB", &case.namespace, "bare", &shrink).await)?;
    ensure!(text.contains("grow") || text.contains("smaller") || text.contains("shrink"), "{text}");
    Ok(())
}
