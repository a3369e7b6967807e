//! A ReplicatedDB and its instances.

use std::time::Duration;

use anyhow::Context as _;
use serde_json::{Value, json};

use super::case::Case;
use super::kube::Kube;
use super::wait::until;

/// For a cluster to be made or mended: volumes, pods and a seeding each take seconds, a node that rejoins takes ten.
pub const HEALTHY_LIMIT: Duration = Duration::from_secs(120);

pub const PORT: u16 = 7700;

#[derive(Clone)]
pub struct Database {
    pub kube: Kube,
    pub namespace: String,
    pub name: String,
}

/// Laid over the spec that tests use.
fn merge(target: &mut Value, patch: &Value) {
    match (target, patch) {
        (Value::Object(target), Value::Object(patch)) => {
            for (key, value) in patch {
                merge(target.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (target, patch) => *target = patch.clone(),
    }
}

/// The manifest of a database of three; `spec` is laid over it.
pub fn manifest(name: &str, spec: &Value) -> Value {
    let mut manifest = json!({
        "apiVersion": "replicateddb.io/v1alpha1",
        "kind": "ReplicatedDB",
        "metadata": {"name": name},
        "spec": {
            "instances": 3,
            // Above what XFS needs at least; room for the log and one checkpoint.
            "storage": {"size": "512Mi", "storageClass": "rdb-image"},
            "replication": {"mode": "semiSync", "syncFollowers": 1, "logRetention": {"size": "128Mi"}},
            // One test kills more than one leader; the default of 10 s is for clusters that nobody kills on purpose.
            "failover": {"cooldown": "0s"},
            "resources": {"requests": {"cpu": "10m", "memory": "48Mi"}},
        },
    });
    merge(&mut manifest["spec"], spec);
    manifest
}

impl Database {
    /// Applies the manifest and waits until the cluster is healthy.
    pub async fn create(case: &Case, name: &str, spec: Value) -> anyhow::Result<Database> {
        let database = Database::apply(case, name, &spec).await?;
        database.healthy().await?;
        Ok(database)
    }

    /// Applies the manifest.
    pub async fn apply(case: &Case, name: &str, spec: &Value) -> anyhow::Result<Database> {
        case.kube.apply(&case.namespace, &manifest(name, spec)).await?;
        Ok(Database { kube: case.kube.clone(), namespace: case.namespace.clone(), name: name.to_owned() })
    }

    pub async fn resource(&self) -> anyhow::Result<Value> {
        self.kube.get("ReplicatedDB", &self.namespace, &self.name).await
    }

    pub async fn status(&self) -> anyhow::Result<Value> {
        Ok(self.resource().await?["status"].clone())
    }

    /// A merge patch of the spec.
    pub async fn set(&self, spec: Value) -> anyhow::Result<Value> {
        self.kube.patch("ReplicatedDB", &self.namespace, &self.name, &json!({"spec": spec})).await
    }

    pub async fn annotate(&self, key: &str, value: &str) -> anyhow::Result<()> {
        let patch = json!({"metadata": {"annotations": {key: value}}});
        self.kube.patch("ReplicatedDB", &self.namespace, &self.name, &patch).await.map(drop)
    }

    /// Waits until all instances asked for are ready, in the cohort, streaming, and the operator says so.
    pub async fn healthy(&self) -> anyhow::Result<Value> {
        self.healthy_within(HEALTHY_LIMIT).await
    }

    pub async fn healthy_within(&self, limit: Duration) -> anyhow::Result<Value> {
        until(&format!("{} is healthy", self.name), limit, async || {
            let resource = self.resource().await?;
            Ok(unhealthy(&resource).map_or(Ok(resource["status"].clone()), Err))
        })
        .await
    }

    /// The leader that the operator names.
    pub async fn leader(&self) -> anyhow::Result<String> {
        let status = self.status().await?;
        status["leader"]["name"].as_str().map(str::to_owned).with_context(|| format!("no leader: {status}"))
    }

    /// Names of the instances that do not lead.
    pub async fn followers(&self) -> anyhow::Result<Vec<String>> {
        let status = self.status().await?;
        let leader = status["leader"]["name"].as_str().unwrap_or_default().to_owned();
        let instances = status["instances"].as_array().cloned().unwrap_or_default();
        let names = instances.iter().filter_map(|instance| instance["name"].as_str());
        Ok(names.filter(|name| *name != leader).map(str::to_owned).collect())
    }

    pub async fn pod(&self, instance: &str) -> anyhow::Result<Value> {
        self.kube.get("Pod", &self.namespace, instance).await
    }

    /// The pod with this UID is gone; the instance may have another one.
    pub async fn pod_is_gone(&self, instance: &str, uid: &Value) -> anyhow::Result<bool> {
        let pod = self.kube.find("Pod", &self.namespace, instance).await?;
        Ok(pod.is_none_or(|pod| pod["metadata"]["uid"] != *uid))
    }

    /// Where a client of this instance connects.
    pub async fn address(&self, instance: &str) -> anyhow::Result<String> {
        let pod = self.pod(instance).await?;
        let ip = pod["status"]["podIP"].as_str().with_context(|| format!("{instance} has no address"))?;
        Ok(format!("{ip}:{PORT}"))
    }

    /// The Kubernetes node that an instance runs on.
    pub async fn node_of(&self, instance: &str) -> anyhow::Result<String> {
        let pod = self.pod(instance).await?;
        Ok(pod["spec"]["nodeName"].as_str().with_context(|| format!("{instance} is on no node"))?.to_owned())
    }

    pub async fn pods(&self) -> anyhow::Result<Vec<Value>> {
        self.kube.list("Pod", &self.namespace, &self.labels()).await
    }

    pub async fn volumes(&self) -> anyhow::Result<Vec<Value>> {
        self.kube.list("PersistentVolumeClaim", &self.namespace, &self.labels()).await
    }

    pub async fn snapshots(&self) -> anyhow::Result<Vec<Value>> {
        self.kube.list("VolumeSnapshot", &self.namespace, &self.labels()).await
    }

    pub fn labels(&self) -> String {
        format!("replicateddb.io/cluster={}", self.name)
    }

    /// Waits until the operator's status says something.
    pub async fn status_shows(
        &self,
        what: &str,
        limit: Duration,
        holds: impl Fn(&Value) -> bool,
    ) -> anyhow::Result<Value> {
        until(what, limit, async || {
            let status = self.status().await?;
            Ok(if holds(&status) { Ok(status) } else { Err(status.to_string()) })
        })
        .await
    }
}

/// The condition of this type; `null` when there is none.
pub fn condition<'a>(status: &'a Value, kind: &str) -> &'a Value {
    let conditions = status["conditions"].as_array().map_or(&[][..], Vec::as_slice);
    conditions.iter().find(|condition| condition["type"] == kind).unwrap_or(&Value::Null)
}

/// Why this resource is not healthy, as far as its status says.
fn unhealthy(resource: &Value) -> Option<String> {
    let (spec, status) = (&resource["spec"], &resource["status"]);
    let text = |name: &str| status[name].to_string();
    let cohort = status["config"]["current"]["cohort"].as_array().map_or(0, Vec::len) as u64;
    let wanted = spec["instances"].as_u64().unwrap_or(0);
    let whole_cohort = spec["replication"]["syncSet"] != "one";
    let instances = status["instances"].as_array().cloned().unwrap_or_default();
    let restless = instances.iter().find(|instance| instance["state"] != "Streaming" && instance["state"] != "Leading");
    if status["observedGeneration"] != resource["metadata"]["generation"] {
        Some("the operator has not seen this generation".to_owned())
    } else if status["phase"] != "Steady" {
        Some(format!("phase {}: {}", text("phase"), text("message")))
    } else if status["readyInstances"].as_u64() != Some(wanted) || instances.len() as u64 != wanted {
        Some(format!("ready {} of {wanted}: {}", text("readyInstances"), text("message")))
    } else if !status["config"]["next"].is_null() || (whole_cohort && cohort != wanted) {
        Some(format!("config {}", text("config")))
    } else if !status["rollout"].is_null() {
        Some(format!("rolling update {}", text("rollout")))
    } else if let Some(instance) = restless {
        Some(format!("instance {instance}"))
    } else if condition(status, "Ready")["status"] != "True" {
        Some(format!("conditions {}", text("conditions")))
    } else {
        None
    }
}
