//! All wiring: client, Lease, watches, clusters' tasks, HTTP port, and the end of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use anyhow::Context as _;
use k8s_openapi::api::core::v1::{Node, PersistentVolumeClaim, Pod, Secret};
use kube::api::{ApiResource, DynamicObject};
use kube::runtime::watcher::Config as WatchConfig;
use kube::{Api, Client, Resource};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, watch};

use crate::args::RunArguments;
use crate::build::Images;
use crate::cluster::mailbox::{Input, Pending};
use crate::context::{Caches, Context, Machines};
use crate::crd::{RawReplicatedDB, label};
use crate::fleet::Fleet;
use crate::kubernetes::cache::{Cache, ClusterKey, by_label, by_name};
use crate::kubernetes::events::Reporter;
use crate::kubernetes::follow::{Change, Followed, follow};
use crate::kubernetes::lease::Keeper;
use crate::metrics::Metrics;
use crate::server;

/// Runs until a signal asks for the end.
pub async fn run(arguments: RunArguments) -> anyhow::Result<()> {
    let client = Client::try_default().await.context("no way to the API server")?;
    let salt = getrandom::u32().context("no randomness")?;
    let identity = format!("{}_{salt:08x}", arguments.identity);
    let keeper = Keeper::new(client.clone(), &arguments.lease_namespace, &arguments.lease_name, &identity);
    let metrics = Metrics::default();
    let snapshots = snapshot_api(&client).await;
    let context = Arc::new(Context {
        client: client.clone(),
        caches: Caches::default(),
        machines: Machines::default(),
        lease: keeper.lease(),
        reporter: Reporter::new(client.clone(), &identity),
        metrics: metrics.clone(),
        images: Images { node: arguments.node_image.clone() },
        has_snapshots: snapshots.is_some(),
    });
    let fleet = Fleet::new(Arc::clone(&context));
    let ready = Arc::new(AtomicBool::new(false));
    tokio::spawn(server::serve(arguments.listen, metrics.clone(), Arc::clone(&ready)));
    tracing::info!(identity, version = env!("CARGO_PKG_VERSION"), "operator started");

    let synced = Synced::default();
    for namespace in arguments.namespaces() {
        watch_objects(&context, &fleet, namespace.as_deref(), snapshots.as_ref(), &synced);
    }
    watch_machines(&context, &fleet, &synced);
    let (stop, stopped) = watch::channel(false);
    let notify = fleet.clone();
    let lease_kept = tokio::spawn(keeper.run(
        move |holds| {
            metrics.holds_lease(holds);
            notify.put_all(|pending| pending.lease = true);
        },
        wait_for(stopped),
    ));
    // No cluster's task may take a missing cache entry for a missing volume.
    tokio::select! {
        () = synced.all() => {
            for namespace in arguments.namespaces() {
                watch_resources(&context, &fleet, namespace.as_deref());
            }
            ready.store(true, Ordering::Relaxed);
            ended().await?;
        }
        end = ended() => end?,
    }
    tracing::info!("told to end: the Lease is given back");
    stop.send_replace(true);
    lease_kept.await.context("the Lease's task ended by itself")
}

async fn wait_for(mut stopped: watch::Receiver<bool>) {
    // An error is that nobody can say it any more.
    let _ = stopped.wait_for(|stopped| *stopped).await;
}

async fn ended() -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for SIGINT")?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

/// Counts watches that have read their first list.
#[derive(Clone, Default)]
struct Synced(Arc<(AtomicUsize, Notify)>);

impl Synced {
    /// One more to wait for; the answer is called when it is done.
    fn expect(&self) -> impl FnOnce() + Send + 'static {
        self.0.0.fetch_add(1, Ordering::SeqCst);
        let this = self.clone();
        move || {
            this.0.0.fetch_sub(1, Ordering::SeqCst);
            this.0.1.notify_one();
        }
    }

    async fn all(&self) {
        while self.0.0.load(Ordering::SeqCst) > 0 {
            self.0.1.notified().await;
        }
    }
}

fn scoped<K>(client: &Client, namespace: Option<&str>) -> Api<K>
where
    K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>,
{
    match namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    }
}

fn ours() -> WatchConfig {
    WatchConfig::default().labels(&format!("{}={}", label::MANAGED_BY, label::MANAGED_BY_VALUE))
}

fn watch_objects(
    context: &Arc<Context>,
    fleet: &Fleet,
    namespace: Option<&str>,
    snapshots: Option<&ApiResource>,
    synced: &Synced,
) {
    let client = &context.client;
    let pods = fleet.clone();
    spawn(scoped::<Pod>(client, namespace), &context.caches.pods, synced, move |cluster, pod, _| {
        let pod = Arc::clone(pod);
        pods.put(cluster, |pending| {
            pending.objects = true;
            pending.inputs.push_back(Input::Pod(pod));
        });
    });
    let changed = |fleet: &Fleet, cluster: &ClusterKey| fleet.put(cluster, |pending| pending.objects = true);
    let claims = fleet.clone();
    let api = scoped::<PersistentVolumeClaim>(client, namespace);
    spawn(api, &context.caches.claims, synced, move |cluster, _, _| changed(&claims, cluster));
    let secrets = fleet.clone();
    let api = scoped::<Secret>(client, namespace);
    spawn(api, &context.caches.secrets, synced, move |cluster, _, _| changed(&secrets, cluster));
    if let Some(resource) = snapshots {
        let fleet = fleet.clone();
        let api: Api<DynamicObject> = match namespace {
            Some(namespace) => Api::namespaced_with(client.clone(), namespace, resource),
            None => Api::all_with(client.clone(), resource),
        };
        let followed = Followed {
            api,
            config: ours(),
            cache: Arc::clone(&context.caches.snapshots),
            key: snapshot_key,
            notify: move |cluster: &ClusterKey, _: &Arc<DynamicObject>, _| {
                fleet.put(cluster, |pending: &mut Pending| pending.objects = true);
            },
        };
        tokio::spawn(follow(followed, synced.expect()));
    }
}

fn snapshot_key(object: &DynamicObject) -> Option<ClusterKey> {
    let labels = object.metadata.labels.as_ref()?;
    Some(ClusterKey { namespace: object.metadata.namespace.clone()?, name: labels.get(label::CLUSTER)?.clone() })
}

fn spawn<K, N>(api: Api<K>, cache: &Arc<Cache<K>>, synced: &Synced, notify: N)
where
    K: Resource<DynamicType = ()> + Clone + serde::de::DeserializeOwned + std::fmt::Debug + Send + Sync + 'static,
    N: Fn(&ClusterKey, &Arc<K>, Change) + Send + Sync + 'static,
{
    let followed = Followed { api, config: ours(), cache: Arc::clone(cache), key: by_label, notify };
    tokio::spawn(follow(followed, synced.expect()));
}

fn watch_resources(context: &Arc<Context>, fleet: &Fleet, namespace: Option<&str>) {
    let fleet = fleet.clone();
    let followed = Followed {
        api: scoped::<RawReplicatedDB>(&context.client, namespace),
        config: WatchConfig::default(),
        cache: Arc::clone(&context.caches.resources),
        key: by_name,
        notify: move |cluster: &ClusterKey, _: &Arc<RawReplicatedDB>, _| fleet.resource(cluster),
    };
    tokio::spawn(follow(followed, || {}));
}

/// Zones, and which machines are being emptied. An operator that may not see machines goes without.
fn watch_machines(context: &Arc<Context>, fleet: &Fleet, _synced: &Synced) {
    let (context, fleet) = (Arc::clone(context), fleet.clone());
    let api: Api<Node> = Api::all(context.client.clone());
    tokio::spawn(async move {
        let followed = Followed {
            api,
            config: WatchConfig::default(),
            // Not kept here: by name, for all clusters, in `machines`.
            cache: Arc::new(Cache::default()),
            key: |node| Some(ClusterKey { namespace: String::new(), name: node.metadata.name.clone()? }),
            notify: move |_: &ClusterKey, node: &Arc<Node>, change| {
                let changed = match change {
                    Change::There => context.machines.put(Arc::clone(node)),
                    Change::Gone => {
                        context.machines.remove(node.metadata.name.as_deref().unwrap_or_default());
                        true
                    }
                };
                if changed {
                    fleet.put_all(|pending| pending.objects = true);
                }
            },
        };
        follow(followed, || {}).await;
    });
}

/// The VolumeSnapshot API, if there is one.
async fn snapshot_api(client: &Client) -> Option<ApiResource> {
    let gvk = kube::api::GroupVersionKind::gvk("snapshot.storage.k8s.io", "v1", "VolumeSnapshot");
    match kube::discovery::pinned_kind(client, &gvk).await {
        Ok((resource, _)) => Some(resource),
        Err(error) => {
            tracing::info!(%error, "no volume snapshots in this cluster");
            None
        }
    }
}
