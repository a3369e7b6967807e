//! Objects of the cluster, as JSON: the tests look at them as a user with kubectl would.

use std::time::Duration;

use anyhow::{Context as _, bail};
use futures_util::{Stream, StreamExt as _};
use kube::api::{
    Api, ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams,
};
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::Value;

/// Who the tests are to server-side apply.
const FIELD_MANAGER: &str = "rdb-e2e";

/// A request to a healthy API server answers in milliseconds; one to a stopped one should not stop the test too.
const REQUEST_LIMIT: Duration = Duration::from_secs(30);

/// Kinds that the tests touch: kind, group, version, plural, namespaced.
const KINDS: &[(&str, &str, &str, &str, bool)] = &[
    ("Namespace", "", "v1", "namespaces", false),
    ("Node", "", "v1", "nodes", false),
    ("Pod", "", "v1", "pods", true),
    ("Secret", "", "v1", "secrets", true),
    ("Service", "", "v1", "services", true),
    ("Event", "", "v1", "events", true),
    ("PersistentVolumeClaim", "", "v1", "persistentvolumeclaims", true),
    ("PersistentVolume", "", "v1", "persistentvolumes", false),
    ("EndpointSlice", "discovery.k8s.io", "v1", "endpointslices", true),
    ("PodDisruptionBudget", "policy", "v1", "poddisruptionbudgets", true),
    ("Deployment", "apps", "v1", "deployments", true),
    ("Lease", "coordination.k8s.io", "v1", "leases", true),
    ("VolumeSnapshot", "snapshot.storage.k8s.io", "v1", "volumesnapshots", true),
    ("ReplicatedDB", "replicateddb.io", "v1alpha1", "replicateddbs", true),
];

/// What a watch told of an object.
#[derive(Clone, Debug)]
pub struct Change {
    pub object: Value,
    pub deleted: bool,
    /// Where a later watch goes on.
    pub version: String,
}

/// A connection to the API server.
#[derive(Clone)]
pub struct Kube {
    client: kube::Client,
    pub context: String,
}

impl Kube {
    /// The cluster of `E2E_CONTEXT`, or the one that `e2e/cluster/up` makes.
    pub async fn connect() -> anyhow::Result<Kube> {
        let context = std::env::var("E2E_CONTEXT").unwrap_or_else(|_| "kind-rdb-e2e".to_owned());
        let options = KubeConfigOptions { context: Some(context.clone()), ..KubeConfigOptions::default() };
        let mut config = kube::Config::from_custom_kubeconfig(Kubeconfig::read()?, &options)
            .await
            .with_context(|| format!("no context {context}; run e2e/cluster/up"))?;
        config.read_timeout = Some(REQUEST_LIMIT);
        config.connect_timeout = Some(REQUEST_LIMIT);
        Ok(Kube { client: kube::Client::try_from(config)?, context })
    }

    /// For what is not written here.
    pub fn client(&self) -> kube::Client {
        self.client.clone()
    }

    fn api(&self, kind: &str, namespace: &str) -> anyhow::Result<Api<DynamicObject>> {
        let Some((kind, group, version, plural, namespaced)) = KINDS.iter().find(|entry| entry.0 == kind) else {
            bail!("the tests do not know the kind {kind}");
        };
        let api_version = if group.is_empty() { (*version).to_owned() } else { format!("{group}/{version}") };
        let resource = ApiResource {
            group: (*group).to_owned(),
            version: (*version).to_owned(),
            api_version,
            kind: (*kind).to_owned(),
            plural: (*plural).to_owned(),
        };
        Ok(match namespaced {
            true => Api::namespaced_with(self.client.clone(), namespace, &resource),
            false => Api::all_with(self.client.clone(), &resource),
        })
    }

    /// Server-side apply of a manifest.
    pub async fn apply(&self, namespace: &str, manifest: &Value) -> anyhow::Result<Value> {
        let kind = manifest["kind"].as_str().context("manifest without kind")?;
        let name = manifest["metadata"]["name"].as_str().context("manifest without name")?;
        let parameters = PatchParams::apply(FIELD_MANAGER).force();
        let applied = self.api(kind, namespace)?.patch(name, &parameters, &Patch::Apply(manifest)).await?;
        Ok(serde_json::to_value(applied)?)
    }

    pub async fn create(&self, namespace: &str, manifest: &Value) -> anyhow::Result<Value> {
        let kind = manifest["kind"].as_str().context("manifest without kind")?;
        let object: DynamicObject = serde_json::from_value(manifest.clone())?;
        Ok(serde_json::to_value(self.api(kind, namespace)?.create(&PostParams::default(), &object).await?)?)
    }

    /// A JSON merge patch.
    pub async fn patch(&self, kind: &str, namespace: &str, name: &str, patch: &Value) -> anyhow::Result<Value> {
        let patched = self.api(kind, namespace)?.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await?;
        Ok(serde_json::to_value(patched)?)
    }

    /// Sets the scale subresource, as `kubectl scale` does.
    pub async fn scale(&self, kind: &str, namespace: &str, name: &str, replicas: u64) -> anyhow::Result<()> {
        let patch = serde_json::json!({"spec": {"replicas": replicas}});
        self.api(kind, namespace)?.patch_scale(name, &PatchParams::default(), &Patch::Merge(&patch)).await?;
        Ok(())
    }

    /// `None` when there is no such object.
    pub async fn find(&self, kind: &str, namespace: &str, name: &str) -> anyhow::Result<Option<Value>> {
        Ok(match self.api(kind, namespace)?.get_opt(name).await? {
            Some(object) => Some(serde_json::to_value(object)?),
            None => None,
        })
    }

    pub async fn get(&self, kind: &str, namespace: &str, name: &str) -> anyhow::Result<Value> {
        self.find(kind, namespace, name).await?.with_context(|| format!("there is no {kind} {name}"))
    }

    /// Objects with these labels (`a=b,c=d`; empty = all), in order of their names.
    pub async fn list(&self, kind: &str, namespace: &str, labels: &str) -> anyhow::Result<Vec<Value>> {
        Ok(self.list_at(kind, namespace, labels).await?.0)
    }

    /// The same, and the version from which a watch goes on.
    pub async fn list_at(&self, kind: &str, namespace: &str, labels: &str) -> anyhow::Result<(Vec<Value>, String)> {
        let list = self.api(kind, namespace)?.list(&ListParams::default().labels(labels)).await?;
        let version = list.metadata.resource_version.clone().unwrap_or_default();
        let mut objects = Vec::new();
        for object in list.items {
            objects.push(serde_json::to_value(object)?);
        }
        objects.sort_by_key(|object| object["metadata"]["name"].as_str().unwrap_or_default().to_owned());
        Ok((objects, version))
    }

    /// Changes of objects with these labels after `version`, one by one, as the API server made them.
    pub async fn watch(
        &self,
        kind: &str,
        namespace: &str,
        labels: &str,
        version: &str,
    ) -> anyhow::Result<impl Stream<Item = anyhow::Result<Change>> + use<>> {
        let parameters = WatchParams::default().labels(labels).disable_bookmarks();
        let events = self.api(kind, namespace)?.watch(&parameters, version).await?;
        Ok(events.map(|event| {
            let (object, deleted) = match event? {
                WatchEvent::Added(object) | WatchEvent::Modified(object) => (object, false),
                WatchEvent::Deleted(object) => (object, true),
                WatchEvent::Bookmark(_) => bail!("a bookmark that nobody asked for"),
                WatchEvent::Error(status) => return Err(kube::Error::Api(status).into()),
            };
            let version = object.metadata.resource_version.clone().unwrap_or_default();
            Ok(Change { object: serde_json::to_value(object)?, deleted, version })
        }))
    }

    /// A watch that ended so may be taken up where it was: it was quiet for too long, or its connection broke.
    pub fn goes_on(error: &anyhow::Error) -> bool {
        !matches!(error.downcast_ref::<kube::Error>(), None | Some(kube::Error::Api(_)))
    }

    /// Deletes; nothing to delete is fine. `grace` in seconds, `None` = as the object says.
    pub async fn delete(&self, kind: &str, namespace: &str, name: &str, grace: Option<u32>) -> anyhow::Result<()> {
        let parameters = DeleteParams { grace_period_seconds: grace, ..DeleteParams::default() };
        match self.api(kind, namespace)?.delete(name, &parameters).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(error)) if error.code == 404 => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Asks the API server to evict a pod, as `kubectl drain` does; `false`: a disruption budget forbids it now.
    pub async fn evict(&self, namespace: &str, pod: &str) -> anyhow::Result<bool> {
        let body = serde_json::json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod, "namespace": namespace}});
        let path = format!("/api/v1/namespaces/{namespace}/pods/{pod}/eviction");
        let request = warp::http::Request::post(path)
            .header("Content-Type", "application/json")
            .body(body.to_string().into_bytes())?;
        match self.client.request::<Value>(request).await {
            Ok(_) => Ok(true),
            Err(kube::Error::Api(error)) if error.code == 404 => Ok(true),
            Err(kube::Error::Api(error)) if error.code == 429 => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// A request to a pod's port through the API server; `body` makes it a POST.
    pub async fn pod_call(
        &self,
        namespace: &str,
        pod: &str,
        port: u16,
        path: &str,
        body: Option<&Value>,
    ) -> anyhow::Result<Value> {
        let url = format!("/api/v1/namespaces/{namespace}/pods/{pod}:{port}/proxy{path}");
        let request = match body {
            Some(body) => warp::http::Request::post(url)
                .header("Content-Type", "application/json")
                .body(body.to_string().into_bytes())?,
            None => warp::http::Request::get(url).body(Vec::new())?,
        };
        let text = self.client.request_text(request).await?;
        Ok(serde_json::from_str(&text).unwrap_or(Value::String(text)))
    }
}

/// The text with which the API server refused something; an error if it did not.
pub fn refusal(result: anyhow::Result<Value>) -> anyhow::Result<String> {
    match result {
        Ok(object) => bail!("this was accepted: {}", object["spec"]),
        Err(error) => match error.downcast::<kube::Error>()? {
            kube::Error::Api(status) => Ok(status.message.clone()),
            other => Err(other.into()),
        },
    }
}
