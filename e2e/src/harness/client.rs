//! The pod that writes to a database, and through which a test speaks to its nodes.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use rdb_bench::clock::pause;
use rdb_protocol::status::NodeStatus;
use serde_json::{Value, json};

use super::case::Case;
use super::database::Database;
use super::kube::Kube;
use super::wait::{eventually, until};
use crate::clock::wall_ms;
use crate::load::control::{Answer, Call};
use crate::load::{Report, Verdict};

const PORT: u16 = 7800;
const START_LIMIT: Duration = Duration::from_secs(60);

/// How fast the suite writes. The benchmarks write faster; here a dozen other things share the machine.
pub const SUITE_INTERVAL: Duration = Duration::from_millis(5);
pub const BENCH_INTERVAL: Duration = Duration::from_millis(2);

/// Given up soon, so that an outage is measured closely.
pub const SHORT_ATTEMPT: Duration = Duration::from_millis(250);

/// Longer than any planned interruption: the nodes hold the request meanwhile.
pub const PATIENT_ATTEMPT: Duration = Duration::from_secs(10);

#[derive(Clone)]
pub struct LoadPod {
    kube: Kube,
    namespace: String,
    name: String,
}

impl LoadPod {
    /// Starts the load and waits for its first acknowledged writes.
    pub async fn start(case: &Case, database: &Database, interval: Duration) -> anyhow::Result<LoadPod> {
        let load = LoadPod {
            kube: case.kube.clone(),
            namespace: case.namespace.clone(),
            name: format!("{}-load", database.name),
        };
        let token = format!("{}-client", database.name);
        load.kube.create(&case.namespace, &load.manifest(&database.name, &token, interval)).await?;
        load.writes_again("first writes", 0, START_LIMIT).await?;
        Ok(load)
    }

    fn manifest(&self, database: &str, secret: &str, interval: Duration) -> Value {
        let version = env!("CARGO_PKG_VERSION");
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": self.name, "labels": {"app": "rdb-load"}},
            "spec": {
                // Away from the databases: what happens to their nodes must not happen to the observer.
                "affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{
                    "weight": 100,
                    "preference": {"matchExpressions": [{"key": "node-role.kubernetes.io/control-plane", "operator": "Exists"}]},
                }]}},
                "tolerations": [{"operator": "Exists"}],
                "restartPolicy": "Never",
                "terminationGracePeriodSeconds": 1,
                "automountServiceAccountToken": false,
                "enableServiceLinks": false,
                "securityContext": {"runAsNonRoot": true, "runAsUser": 65532, "runAsGroup": 65532, "fsGroup": 65532,
                    "seccompProfile": {"type": "RuntimeDefault"}},
                "containers": [{
                    "name": "load",
                    "image": format!("rdb-e2e:{version}"),
                    "imagePullPolicy": "IfNotPresent",
                    "env": [
                        {"name": "RDB_LOAD_TARGET", "value": format!("{database}-rw:7700")},
                        {"name": "RDB_LOAD_TOKEN_FILE", "value": "/etc/rdb/client/token"},
                        {"name": "RDB_LOAD_JOURNAL", "value": "/journal/load.jsonl"},
                        {"name": "RDB_LOAD_INTERVAL_US", "value": interval.as_micros().to_string()},
                        {"name": "RDB_LOAD_ATTEMPT_MS", "value": SHORT_ATTEMPT.as_millis().to_string()},
                    ],
                    "securityContext": {"allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true,
                        "capabilities": {"drop": ["ALL"]}},
                    "volumeMounts": [
                        {"name": "token", "mountPath": "/etc/rdb/client"},
                        {"name": "journal", "mountPath": "/journal"},
                    ],
                }],
                "volumes": [
                    {"name": "token", "secret": {"secretName": secret}},
                    {"name": "journal", "emptyDir": {}},
                ],
            },
        })
    }

    async fn get<T: serde::de::DeserializeOwned>(&self, path: &str, body: Option<&Value>) -> anyhow::Result<T> {
        let value = self.kube.pod_call(&self.namespace, &self.name, PORT, path, body).await?;
        serde_json::from_value(value.clone()).with_context(|| format!("{path}: {value}"))
    }

    /// What happened since a moment ([`wall_ms`]).
    pub async fn report(&self, since_ms: u64) -> anyhow::Result<Report> {
        self.get(&format!("/report?since={since_ms}"), None).await
    }

    /// Waits until something was acknowledged after a moment; gives what happened since then.
    pub async fn writes_again(&self, what: &str, since_ms: u64, limit: Duration) -> anyhow::Result<Report> {
        until(what, limit, async || {
            let report = self.report(since_ms).await?;
            Ok(if report.acknowledged > 0 { Ok(report) } else { Err(format!("{:?}", report.failures.last())) })
        })
        .await
    }

    /// Waits until writes are acknowledged in a later epoch.
    pub async fn writes_in_epoch_after(&self, epoch: u64, since_ms: u64, limit: Duration) -> anyhow::Result<Report> {
        until(&format!("writes in an epoch after {epoch}"), limit, async || {
            let report = self.report(since_ms).await?;
            Ok(if report.last_epoch > epoch {
                Ok(report)
            } else {
                Err(format!("epoch {}, {:?}", report.last_epoch, report.failures.last()))
            })
        })
        .await
    }

    /// Lets the load run for a while and gives what happened meanwhile.
    pub async fn watch(&self, time: Duration) -> anyhow::Result<Report> {
        let since = wall_ms();
        pause(time).await;
        self.report(since).await
    }

    /// Fails if an acknowledged write is missing or anything is there twice. Gives the number of acknowledged writes.
    pub async fn verify(&self) -> anyhow::Result<u64> {
        let verdict: Verdict = self.get("/verify", Some(&json!({}))).await?;
        ensure!(verdict.is_clean(), "acknowledged writes are not there exactly once: {verdict:?}");
        ensure!(verdict.acknowledged > 0, "nothing was written");
        Ok(verdict.acknowledged)
    }

    pub async fn set_attempt(&self, attempt: Duration) -> anyhow::Result<()> {
        self.get::<Value>(&format!("/pace?attempt_ms={}", attempt.as_millis()), Some(&json!({}))).await.map(drop)
    }

    pub async fn pause(&self) -> anyhow::Result<()> {
        self.get::<Value>("/pause", Some(&json!({}))).await.map(drop)
    }

    pub async fn resume(&self) -> anyhow::Result<()> {
        self.get::<Value>("/resume", Some(&json!({}))).await.map(drop)
    }

    /// Sends a request of the test's own from the client pod.
    pub async fn call(&self, call: &Call) -> anyhow::Result<Answer> {
        self.get("/call", Some(&serde_json::to_value(call)?)).await
    }

    /// One statement, at the leader's Service.
    pub async fn execute(&self, sql: &str) -> anyhow::Result<Answer> {
        let body = json!({"sql": sql, "deadline_ms": 10_000});
        self.call(&Call { address: None, path: "/v1/execute".to_owned(), body: Some(body), key: None, token: None })
            .await
    }

    /// What an instance says of itself.
    pub async fn node_status(&self, database: &Database, instance: &str) -> anyhow::Result<NodeStatus> {
        let address = Some(database.address(instance).await?);
        let answer =
            self.call(&Call { address, path: "/v1/status".to_owned(), body: None, key: None, token: None }).await?;
        ensure!(answer.status == 200, "{instance}: {}", answer.body);
        Ok(serde_json::from_value(answer.body)?)
    }

    /// Waits until all instances have applied what the leader has committed.
    pub async fn all_caught_up(&self, database: &Database, limit: Duration) -> anyhow::Result<()> {
        eventually("all instances have caught up", limit, async || {
            let leader = database.leader().await?;
            let goal = self.node_status(database, &leader).await?.committed;
            for follower in database.followers().await? {
                if self.node_status(database, &follower).await?.applied < goal {
                    return Ok(false);
                }
            }
            Ok(true)
        })
        .await
    }
}
