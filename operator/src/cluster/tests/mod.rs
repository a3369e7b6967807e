//! Observe and act against a fake API server.

mod volumes;

use std::sync::Arc;

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use rdb_control::{CallKey, CallKind, ClusterStatus, Connection, Lifecycle, Report, RequestKind};
use rdb_protocol::status::{NodeState, NodeStatus, Promise, Role};
use rdb_protocol::{ClusterId, Epoch, Incarnation, Index, NodeName, Position};
use serde_json::{Value, json};

use super::Worker;
use super::mailbox::{Input, Mailbox};
use super::observe::DELETING;
use crate::build::Images;
use crate::clock;
use crate::context::{Caches, Context, Machines};
use crate::crd::RawReplicatedDB;
use crate::fake_api::FakeApi;
use crate::kubernetes::cache::ClusterKey;
use crate::kubernetes::events::Reporter;
use crate::kubernetes::lease::{Keeper, Lease};
use crate::metrics::Metrics;

const RESOURCE: &str = "/apis/replicateddb.io/v1alpha1/namespaces/shop/replicateddbs/orders";
const CLAIMS: &str = "/api/v1/namespaces/shop/persistentvolumeclaims";
const PODS: &str = "/api/v1/namespaces/shop/pods";

struct World {
    api: FakeApi,
    worker: Worker,
}

impl World {
    async fn new(spec: Value) -> World {
        World::with_status(spec, Value::Null).await
    }

    async fn with_status(spec: Value, status: Value) -> World {
        let api = FakeApi::default();
        let mut resource = json!({"apiVersion": "replicateddb.io/v1alpha1", "kind": "ReplicatedDB", "spec": spec,
            "metadata": {"name": "orders", "namespace": "shop", "uid": "u-1", "generation": 1}});
        if !status.is_null() {
            resource["status"] = status;
        }
        api.store(RESOURCE, resource);
        let lease = held_lease(&api).await;
        World { worker: worker(&api, lease), api }
    }

    /// Annotates the resource, as a person does.
    fn annotate(&mut self, key: &str, value: &str) {
        let mut object = self.api.object(RESOURCE);
        object["metadata"]["annotations"] = json!({ key: value });
        self.api.store(RESOURCE, object);
        self.notice();
    }

    /// The watch delivers what is stored.
    fn notice(&mut self) {
        let stored: RawReplicatedDB = serde_json::from_value(self.api.object(RESOURCE)).unwrap();
        self.worker.take_resource(Arc::new(stored));
    }

    /// An instance reports itself.
    fn report(&mut self, name: &str, status: NodeStatus) {
        let instance = self.worker.instances.get_mut(&node(name)).unwrap();
        instance.observed.connection = Connection::Connected;
        instance.observed.report = Some(Report { status, received_at: clock::now() });
    }

    fn conditions(&self) -> Value {
        self.api.object(RESOURCE)["status"]["conditions"].clone()
    }
}

async fn held_lease(api: &FakeApi) -> Lease {
    let keeper = Keeper::new(api.client(), "system", "rdb-operator", "me");
    let lease = keeper.lease();
    let (stop, mut stopped) = tokio::sync::watch::channel(false);
    let (got, mut waiting) = tokio::sync::watch::channel(false);
    let told = move |holds| got.send(holds).unwrap_or_default();
    tokio::spawn(keeper.run(told, async move { stopped.changed().await.unwrap_or_default() }));
    waiting.wait_for(|holds| *holds).await.unwrap();
    // Held for as long as the test runs.
    std::mem::forget(stop);
    api.writes();
    lease
}

fn worker(api: &FakeApi, lease: Lease) -> Worker {
    let context = Arc::new(Context {
        client: api.client(),
        caches: Caches::default(),
        machines: Machines::default(),
        lease,
        reporter: Reporter::new(api.client(), "me"),
        metrics: Metrics::default(),
        images: Images { node: "rdb-node:test".to_owned() },
        has_snapshots: false,
    });
    let key = ClusterKey { namespace: "shop".to_owned(), name: "orders".to_owned() };
    let resource: RawReplicatedDB = serde_json::from_value(api.object(RESOURCE)).unwrap();
    context.caches.resources.put(&key, Arc::new(resource.clone()));
    Worker::new(context, key, Arc::new(Mailbox::default()), Arc::new(resource))
}

fn node(name: &str) -> NodeName {
    NodeName::new(name).unwrap()
}

fn empty_node(name: &str, n: u64) -> NodeStatus {
    NodeStatus {
        name: node(name),
        incarnation: Incarnation(n),
        cluster: None,
        boot: Incarnation(n + 100),
        version: "0.1.0".to_owned(),
        role: Role::Empty,
        state: NodeState::Empty,
        promise: Promise::default(),
        led: Epoch::ZERO,
        lossy: Epoch::ZERO,
        flushed: Position::ZERO,
        committed: Index::ZERO,
        applied: Index::ZERO,
        first_retained: Index::ZERO,
        config: None,
        peers: Vec::new(),
        opened: false,
        settled: None,
        followers: Vec::new(),
        leader_heard_ms_ago: None,
        lease_valid: false,
        lease_request: None,
        uncommitted_ms: None,
        acknowledged: Index::ZERO,
        seed: None,
        divergences: Vec::new(),
        problems: Vec::new(),
        other_layout: false,
        exact: Default::default(),
    }
}

/// Writes that are not events, which come when they come.
fn deeds(writes: Vec<String>) -> Vec<String> {
    writes.into_iter().filter(|write| !write.contains("/events")).filter(|write| !write.contains("/leases")).collect()
}

/// Without the status either: on a slow machine, news that had to wait are stored now.
fn objects(writes: Vec<String>) -> Vec<String> {
    deeds(writes).into_iter().filter(|write| !write.starts_with("STATUS")).collect()
}

#[tokio::test]
async fn everything_a_cluster_needs_is_made_once() {
    let mut world = World::new(json!({})).await;
    world.worker.turn().await;
    let made = deeds(world.api.writes());
    let count = |part: &str| made.iter().filter(|write| write.contains(part)).count();
    assert_eq!(made[0], format!("PATCH {RESOURCE}"), "the finalizer comes first");
    assert_eq!((count(CLAIMS), count(PODS), count("/secrets"), count("/services")), (3, 3, 3, 4), "{made:#?}");
    let pod = world.api.object(&format!("{PODS}/orders-1"));
    let claim = world.api.object(&format!("{CLAIMS}/orders-1"));
    let environment = pod["spec"]["containers"][0]["env"].to_string();
    assert!(
        environment.contains(claim["metadata"]["uid"].as_str().unwrap()),
        "the pod knows its volume: {environment}"
    );
    world.worker.objects_due = true;
    world.worker.turn().await;
    assert_eq!(objects(world.api.writes()), Vec::<String>::new());
}

#[tokio::test]
async fn without_the_lease_nothing_is_written() {
    let mut world = World::new(json!({})).await;
    world.worker = worker(&world.api, Lease::default());
    world.worker.turn().await;
    assert_eq!(deeds(world.api.writes()), Vec::<String>::new());
}

#[tokio::test]
async fn a_status_that_can_not_be_read_stops_everything() {
    let mut world = World::with_status(json!({}), json!({"epoch": "seven"})).await;
    world.worker.turn().await;
    assert_eq!(deeds(world.api.writes()), Vec::<String>::new());
    assert!(world.worker.told["status"].contains("cannot be read"));
}

#[tokio::test]
async fn an_invalid_spec_is_told_and_nothing_is_decided() {
    let mut world = World::new(json!({"instances": 99})).await;
    world.worker.turn().await;
    assert_eq!(deeds(world.api.writes()), [format!("STATUS {RESOURCE}")]);
    let conditions = world.conditions().to_string();
    assert!(conditions.contains("InvalidSpec") && conditions.contains("99 is not within 1–15"), "{conditions}");
    world.worker.turn().await;
    assert_eq!(deeds(world.api.writes()), Vec::<String>::new());
}

/// Rule 1: what somebody else decided is not written over, and the next decision is made on theirs.
#[tokio::test]
async fn a_conflict_is_read_and_decided_again() {
    let mut world = World::new(json!({})).await;
    world.worker.turn().await;
    let mut theirs = world.api.object(RESOURCE);
    theirs["status"]["epoch"] = json!(41);
    theirs["status"]["cluster"] = json!(ClusterId(5));
    world.api.store(RESOURCE, theirs);
    world.api.writes();
    let mine = ClusterStatus { epoch: Epoch(7), ..world.worker.observed.status.clone() };
    world.worker.basis.clone_from(&world.worker.observed.version.clone());
    assert!(world.worker.swap(&mine).await);
    assert_eq!(world.api.object(RESOURCE)["status"]["epoch"], 41);
    assert_eq!(world.worker.observed.status.epoch, Epoch(41));
    assert_eq!(
        world.worker.observed.version,
        world.api.object(RESOURCE)["metadata"]["resourceVersion"].as_str().unwrap()
    );
}

/// An operator that was upgraded without its definition: it says so, and does not swap the same status again and again.
#[tokio::test]
async fn a_definition_that_drops_a_part_of_the_status_is_told() {
    let mut world = World::new(json!({})).await;
    world.worker.turn().await;
    for (n, name) in [(1, "orders-1"), (2, "orders-2"), (3, "orders-3")] {
        world.report(name, empty_node(name, n));
    }
    world.api.state().unknown_field = Some("config");
    world.api.writes();
    world.worker.turn().await;
    assert_eq!(deeds(world.api.writes()), [format!("STATUS {RESOURCE}")], "nothing follows from it");
    assert!(world.worker.told["definition"].contains("status.config,"), "{:?}", world.worker.told);
    assert!(world.worker.observed.status.config.is_none());
    assert!(world.worker.observed.status_written_at.is_some(), "no news are written before their time");
    world.api.state().unknown_field = None;
    world.worker.turn().await;
    assert!(world.worker.observed.status.config.is_some(), "it goes on when the definition was applied");
    assert!(world.worker.told("definition").is_none());
}

/// What is not there is read as its default, so nothing is lost.
#[tokio::test]
async fn a_definition_that_drops_a_default_is_as_good_as_another() {
    let mut world = World::new(json!({})).await;
    world.worker.turn().await;
    for (n, name) in [(1, "orders-1"), (2, "orders-2"), (3, "orders-3")] {
        world.report(name, empty_node(name, n));
    }
    world.api.state().unknown_field = Some("layoutsDiffer");
    world.worker.turn().await;
    assert!(world.api.object(RESOURCE)["status"]["layoutsDiffer"].is_null());
    assert!(world.worker.told("definition").is_none(), "{:?}", world.worker.told);
    assert!(world.worker.observed.status.config.is_some());
}

/// Where it can't be stored it is remembered, and all else is decided and stored.
#[tokio::test]
async fn that_layouts_differ_holds_nothing_up_where_it_is_not_kept() {
    let mut world = World::new(json!({"replication": {"logFormat": "logical"}})).await;
    world.worker.turn().await;
    for (n, name) in [(1, "orders-1"), (2, "orders-2"), (3, "orders-3")] {
        world.report(name, empty_node(name, n));
    }
    world.worker.turn().await;
    let stored = world.api.object(RESOURCE)["status"].clone();
    assert!(!stored["cluster"].is_null());
    world.api.state().unknown_field = Some("layoutsDiffer");
    for asked in ["first", "again"] {
        let mut mine = ClusterStatus { layouts_differ: true, ..world.worker.observed.status.clone() };
        mine.config_version += 1;
        world.worker.basis.clone_from(&world.worker.observed.version.clone());
        assert!(world.worker.swap(&mine).await, "{asked}");
        assert!(world.worker.observed.status == mine, "{asked}");
    }
    assert!(world.api.object(RESOURCE)["status"]["layoutsDiffer"].is_null());
    assert!(world.worker.told["definition"].contains("status.layoutsDiffer,"), "{:?}", world.worker.told);
    let same = ClusterStatus { layouts_differ: false, ..world.worker.observed.status.clone() };
    world.worker.basis.clone_from(&world.worker.observed.version.clone());
    assert!(world.worker.swap(&same).await);
    assert!(!world.worker.observed.status.layouts_differ && world.worker.told("definition").is_none());
}

/// A decision whose object changed while its own plan was carried out is dropped.
#[tokio::test]
async fn a_decision_on_an_older_object_is_not_stored() {
    let mut world = World::new(json!({})).await;
    world.worker.turn().await;
    world.worker.basis.clone_from(&world.worker.observed.version.clone());
    world.annotate("replicateddb.io/switchover", "orders-2");
    world.api.writes();
    let mine = ClusterStatus { epoch: Epoch(7), ..world.worker.observed.status.clone() };
    assert!(world.worker.swap(&mine).await, "it is decided again");
    assert_eq!(deeds(world.api.writes()), Vec::<String>::new());
}

/// What was decided is acted on only when it was read back: here the write is carried out, and its answer lost.
#[tokio::test]
async fn nothing_follows_from_a_write_whose_answer_was_lost_until_it_is_read() {
    let mut world = World::new(json!({})).await;
    world.worker.turn().await;
    for (n, name) in [(1, "orders-1"), (2, "orders-2"), (3, "orders-3")] {
        world.report(name, empty_node(name, n));
    }
    world.api.state().lose_answers_of = Some("/status");
    world.worker.turn().await;
    assert!(world.worker.unread);
    assert!(world.worker.observed.status.cluster.is_none());
    assert!(!world.api.object(RESOURCE)["status"]["cluster"].is_null(), "it was stored all the same");
    let decided = world.api.object(RESOURCE)["status"]["cluster"].clone();
    world.api.state().lose_answers_of = None;
    world.worker.turn().await;
    assert!(!world.worker.unread);
    assert_eq!(json!(world.worker.observed.status.cluster), decided, "its own decision is found, and not made twice");
}

#[tokio::test]
async fn a_request_is_cleared_only_if_it_is_still_the_same() {
    let mut world = World::new(json!({})).await;
    world.worker.turn().await;
    world.annotate("replicateddb.io/switchover", "orders-2");
    // A person changes their mind, and the watch has not told us yet.
    let mut object = world.api.object(RESOURCE);
    object["metadata"]["annotations"]["replicateddb.io/switchover"] = json!("orders-3");
    world.api.store(RESOURCE, object);
    world.worker.clear_request(&RequestKind::Switchover).await;
    let kept = &world.api.object(RESOURCE)["metadata"]["annotations"]["replicateddb.io/switchover"];
    assert_eq!(kept, "orders-3");
    assert_eq!(world.worker.observed.requests.switchover, Some(node("orders-3")));
    world.worker.clear_request(&RequestKind::Switchover).await;
    assert_eq!(world.worker.observed.requests.switchover, None);
}

#[tokio::test]
async fn a_request_that_makes_no_sense_is_told_and_removed() {
    let mut world = World::new(json!({})).await;
    world.annotate("replicateddb.io/accept-data-loss", "yes");
    world.worker.turn().await;
    assert!(world.api.object(RESOURCE)["metadata"]["annotations"]["replicateddb.io/accept-data-loss"].is_null());
}

/// The slot of a call that was replaced is not completed by the old call's answer.
#[tokio::test]
async fn an_answer_completes_only_its_own_call() {
    let mut world = World::new(json!({})).await;
    world.worker.turn().await;
    world.worker.answered(4711, rdb_control::CallOutcome::Done, None, clock::now());
    assert!(!world.worker.observed.calls.contains_key(&CallKey { to: node("orders-1"), kind: CallKind::Fence }));
}

/// A leader that opened is routed to in one write, before anything else is; while there is none, the routes stay.
#[tokio::test]
async fn routes_follow_the_open_leader() {
    let member = json!({"name": "orders-2", "incarnation": Incarnation(2)});
    let status = json!({"epoch": 4, "leaderEpoch": 4, "leader": member, "cluster": ClusterId(5), "phase": "Promoting"});
    let mut world = World::with_status(json!({}), status).await;
    world.worker.turn().await;
    let slice = "/apis/discovery.k8s.io/v1/namespaces/shop/endpointslices/orders-rw";
    assert!(world.api.object(slice).is_null(), "no leader yet");
    let pod = format!("{PODS}/orders-2");
    let mut running = world.api.object(&pod);
    running["status"] = json!({"podIP": "10.0.0.2", "phase": "Running"});
    let running: Pod = serde_json::from_value(world.api.store(&pod, running)).unwrap();
    let key = world.worker.key.clone();
    world.worker.context.caches.pods.put(&key, Arc::new(running));
    world.worker.observe_objects();
    let leader = NodeStatus {
        cluster: Some(ClusterId(5)),
        role: Role::Leader,
        state: NodeState::Leading,
        promise: Promise { epoch: Epoch(4), leader: None },
        led: Epoch(4),
        opened: true,
        ..empty_node("orders-2", 2)
    };
    world.report("orders-2", leader.clone());
    world.api.writes();
    world.worker.route();
    let mut routed = false;
    while !routed {
        world.worker.mailbox.arrival().await;
        let pending = world.worker.mailbox.take();
        routed = pending.inputs.iter().any(|input| matches!(input, Input::Routed(_)));
        world.worker.take(pending);
    }
    let written = deeds(world.api.writes());
    assert_eq!(written[0], format!("PATCH {slice}"), "{written:?}");
    assert_eq!(world.api.object(slice)["endpoints"][0]["addresses"], json!(["10.0.0.2"]));
    world.report("orders-2", NodeStatus { opened: false, ..leader });
    world.worker.route();
    assert!(world.worker.wake_at.is_some(), "it is looked at again");
    assert_eq!(deeds(world.api.writes()), Vec::<String>::new());
}
