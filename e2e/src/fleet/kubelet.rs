//! Plays the kubelet for the fleet's pods: gives each an address and a process, and says so in its status. No machine is
//! involved: the pods ask for a node that does not exist, so that no real kubelet takes them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use futures_util::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, Patch, PatchParams};
use kube::runtime::watcher::{self, Event, watcher};
use rdb_bench::clock::pause;
use rdb_protocol::NodeName;
use serde_json::{Value, json};
use tokio::sync::Mutex;

use super::server::{Server, serve};
use super::{Fleet, address, database_of};

/// A kubelet reports a container's end after 0.6 to 0.9 s, and has started it anew soon after.
const REPORT_AFTER: Duration = Duration::from_millis(700);

/// A watch is renewed before our client takes its silence for a dead connection, which it does after 30 s.
const WATCH_SECONDS: u32 = 20;

/// The processes that run, and the pods that they run for.
pub struct Kubelet {
    fleet: Arc<Fleet>,
    pods: Api<Pod>,
    servers: Mutex<BTreeMap<NodeName, (String, Server)>>,
    ids: AtomicU64,
}

impl Kubelet {
    pub fn new(fleet: Arc<Fleet>, client: kube::Client, namespace: &str) -> Arc<Kubelet> {
        // Identities of this run differ from those of earlier ones.
        let ids = AtomicU64::new(crate::clock::wall_ms() << 20);
        Arc::new(Kubelet { fleet, pods: Api::namespaced(client, namespace), servers: Mutex::default(), ids })
    }

    /// Looks after pods until it is dropped.
    pub async fn run(self: Arc<Kubelet>) -> anyhow::Result<()> {
        let mut events = std::pin::pin!(watcher(self.pods.clone(), watcher::Config::default().timeout(WATCH_SECONDS)));
        while let Some(event) = events.next().await {
            match event {
                Ok(Event::Apply(pod) | Event::InitApply(pod)) => {
                    let this = Arc::clone(&self);
                    tokio::spawn(async move {
                        if let Err(error) = this.start(&pod).await {
                            tracing::warn!("{error:#}");
                        }
                    });
                }
                Ok(Event::Delete(pod)) => self.stop(&pod).await,
                Ok(Event::Init | Event::InitDone) => {}
                Err(error) => tracing::warn!(%error, "the watch on pods"),
            }
        }
        anyhow::bail!("the watch on pods ended")
    }

    /// Starts a pod's process if it has none.
    async fn start(&self, pod: &Pod) -> anyhow::Result<()> {
        let (name, uid) = identity(pod)?;
        let mut servers = self.servers.lock().await;
        if servers.get(&name).is_some_and(|(running, _)| *running == uid) {
            return Ok(());
        }
        servers.remove(&name);
        let server = self.launch(&name).await?;
        servers.insert(name.clone(), (uid, server));
        drop(servers);
        self.write(&name, json!({"running": {}}), Value::Null, 0).await
    }

    async fn launch(&self, name: &NodeName) -> anyhow::Result<Server> {
        let database = self.fleet.database(database_of(name).context("a pod without a number")?);
        database.start(name, self.ids.fetch_add(1, Ordering::Relaxed));
        serve(database, name.clone(), address(self.fleet.number(name))).await
    }

    async fn stop(&self, pod: &Pod) {
        let Ok((name, uid)) = identity(pod) else { return };
        let mut servers = self.servers.lock().await;
        if servers.get(&name).is_some_and(|(running, _)| *running == uid) {
            servers.remove(&name);
            if let Some(database) = database_of(&name).map(|database| self.fleet.database(database)) {
                database.kill(&name);
            }
        }
    }

    /// Kills a node's process; it is reported and started anew as a kubelet would.
    pub async fn kill(self: &Arc<Kubelet>, name: &NodeName) -> anyhow::Result<()> {
        let database = self.fleet.database(database_of(name).context("a node without a number")?);
        let mut servers = self.servers.lock().await;
        let (uid, server) = servers.remove(name).with_context(|| format!("{name} does not run"))?;
        drop(server);
        let boot = database.kill(name).with_context(|| format!("{name} is unknown"))?;
        drop(servers);
        let (this, name) = (Arc::clone(self), name.clone());
        tokio::spawn(async move {
            pause(REPORT_AFTER).await;
            if let Err(error) = this.restart(&name, uid, &boot.to_string()).await {
                tracing::warn!("{error:#}");
            }
        });
        Ok(())
    }

    async fn restart(&self, name: &NodeName, uid: String, boot: &str) -> anyhow::Result<()> {
        let server = self.launch(name).await?;
        self.servers.lock().await.insert(name.clone(), (uid, server));
        let ended = json!({"terminated": {"exitCode": 137, "reason": "Error", "message": format!("{boot}\n")}});
        self.write(name, json!({"running": {}}), ended, 1).await
    }

    async fn write(&self, name: &NodeName, state: Value, last: Value, restarts: u32) -> anyhow::Result<()> {
        let ip = address(self.fleet.number(name)).to_string();
        let condition = |kind: &str| json!({"type": kind, "status": "True"});
        let mut container = json!({
            "name": "node", "image": "fake", "imageID": "fake", "ready": true, "started": true,
            "restartCount": restarts, "state": state, "containerID": format!("fake://{name}"),
        });
        if !last.is_null() {
            container["lastState"] = last;
        }
        let conditions = ["PodScheduled", "Initialized", "ContainersReady", "Ready"].map(condition);
        let status = json!({"status": {
            "phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}], "conditions": conditions,
            "containerStatuses": [container],
        }});
        self.pods.patch_status(name.as_str(), &PatchParams::default(), &Patch::Merge(&status)).await?;
        Ok(())
    }
}

fn identity(pod: &Pod) -> anyhow::Result<(NodeName, String)> {
    let name = pod.metadata.name.as_deref().context("a pod without a name")?;
    Ok((name.parse()?, pod.metadata.uid.clone().unwrap_or_default()))
}
