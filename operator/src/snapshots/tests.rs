//! Schedule, retention, health and the choice of a seed.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time as MetaTime;
use kube::api::DynamicObject;
use rdb_control::spec::{SeedMethod, Span};
use rdb_control::status::{Reason, Receipt};
use rdb_control::{ClusterSpec, Connection, InstanceObservation, Observed, Report, Time};
use rdb_protocol::status::NodeStatus;
use rdb_protocol::{Chain, ClusterId, Epoch, Incarnation, Index, Member, NodeName, Position};
use serde_json::json;

use super::keep::{SnapshotAction, plan};
use super::object::{Listed, Snapshot, SnapshotClass, name, read};
use super::schedule::Schedule;
use super::seed::{Seed, give_up, seed_for};
use crate::build::{Images, Owner, volume_claim};
use crate::crd::ReplicatedDB;

const HOUR: u64 = 3600 * 1000;
/// 2026-01-31T18:00:00Z.
const SIX: u64 = 1_769_882_400_000;
const CLUSTER: ClusterId = ClusterId(7);

struct World {
    resource: ReplicatedDB,
    images: Images,
    observed: Observed,
    listed: Listed,
}

fn node(text: &str) -> NodeName {
    NodeName::new(text).unwrap()
}

fn at(epoch: u64, index: u64) -> Position {
    Position { epoch: Epoch(epoch), index: Index(index), chain: Chain(index) }
}

fn status(name: &str, role: &str, state: &str, flushed: Position) -> NodeStatus {
    serde_json::from_value(json!({
        "name": name, "incarnation": "0000000000000001", "cluster": CLUSTER, "boot": "0000000000000002",
        "version": "test", "role": role, "state": state, "promise": {"epoch": 2, "leader": null}, "led": 0,
        "flushed": flushed, "committed": flushed.index, "applied": flushed.index, "first_retained": 50,
        "config": null, "opened": role == "leader", "settled": null, "followers": [], "leader_heard_ms_ago": 1,
        "lease_valid": true, "lease_request": null, "uncommitted_ms": null, "acknowledged": 0, "seed": null,
        "divergences": [], "problems": [],
    }))
    .unwrap()
}

impl World {
    /// Three instances; orders-1 leads epoch 2 with a log of 50 to 200. Made at half past four.
    fn new(change: impl FnOnce(&mut ClusterSpec)) -> World {
        let mut spec = ClusterSpec::default();
        spec.snapshots.class_name = "fast".to_owned();
        change(&mut spec);
        let mut resource = ReplicatedDB::new("orders", spec);
        resource.metadata.namespace = Some("shop".to_owned());
        resource.metadata.creation_timestamp = Some(time(SIX - 3 * HOUR / 2));
        let mut observed = Observed::default();
        observed.status.cluster = Some(CLUSTER);
        observed.status.epoch = Epoch(2);
        observed.status.leader_epoch = Epoch(2);
        observed.status.leader = Some(Member { name: node("orders-1"), incarnation: Incarnation(1) });
        let mut world = World {
            resource,
            images: Images { node: "node:1".to_owned() },
            observed,
            listed: Listed { snapshots: Vec::new(), class: SnapshotClass::Known },
        };
        world.sees(status("orders-1", "leader", "Leading", at(2, 200)));
        world.sees(status("orders-2", "follower", "Streaming", at(2, 200)));
        world.sees(status("orders-3", "follower", "Streaming", at(2, 199)));
        world
    }

    fn sees(&mut self, status: NodeStatus) {
        let name = status.name.clone();
        let report = Report { status, received_at: Time::default() };
        let known = InstanceObservation {
            connection: Connection::Connected,
            report: Some(report),
            ..InstanceObservation::unknown(Time::default())
        };
        self.observed.instances.insert(name, known);
    }

    fn has(&mut self, created: u64, position: Position, change: impl FnOnce(&mut Snapshot)) {
        let mut snapshot = Snapshot {
            name: name("orders", created),
            uid: format!("uid-{created}"),
            created_unix_ms: created,
            ready: true,
            cluster: Some(CLUSTER),
            position: Some(position),
            ..Snapshot::default()
        };
        change(&mut snapshot);
        self.listed.snapshots.push(snapshot);
    }

    fn owner(&self) -> Owner<'_> {
        Owner { resource: &self.resource, images: &self.images }
    }

    fn plan(&self, now: u64) -> super::Outcome {
        plan(&self.owner(), &self.observed, &self.listed, now)
    }

    /// What is taken: snapshot and instance.
    fn takes(&self, now: u64) -> Vec<(String, String)> {
        let of = |action: SnapshotAction| match action {
            SnapshotAction::Take(object) => {
                let source = object.data["spec"]["source"]["persistentVolumeClaimName"].as_str().unwrap().to_owned();
                Some((object.metadata.name.unwrap(), source))
            }
            SnapshotAction::Delete { .. } => None,
        };
        self.plan(now).actions.into_iter().filter_map(of).collect()
    }

    fn deletes(&self, now: u64) -> Vec<String> {
        let of = |action: SnapshotAction| match action {
            SnapshotAction::Delete { name, .. } => Some(name),
            SnapshotAction::Take(_) => None,
        };
        self.plan(now).actions.into_iter().filter_map(of).collect()
    }

    fn health(&self, now: u64) -> (bool, String) {
        let observation = self.plan(now).observation.unwrap();
        (observation.healthy, observation.reason)
    }

    fn seed(&self) -> Seed {
        seed_for(&self.owner(), &self.observed, &self.listed)
    }

    fn seeded_from(&self) -> Option<String> {
        match self.seed() {
            Seed::Snapshot(seed) => Some(seed.snapshot),
            Seed::Empty { .. } | Seed::Wait { .. } => None,
        }
    }
}

fn time(unix_ms: u64) -> MetaTime {
    MetaTime(super::object::timestamp(unix_ms))
}

#[test]
fn schedules_are_cron_in_utc() {
    let next = |text: &str, from: u64| Schedule::parse(text).unwrap().after(from).unwrap();
    assert_eq!(next("0 * * * *", SIX), SIX + HOUR, "strictly after");
    assert_eq!(next("30 18 * * *", SIX), SIX + HOUR / 2);
    assert_eq!(next("0 0 1 * *", SIX), SIX + 6 * HOUR, "midnight in UTC, and the next month");
    for wrong in ["", "hourly", "* * * *", "0 0 * * * *", "60 * * * *", "0 0 30 2 *", "ÄÄ Ä Ä Ä Ä"] {
        assert!(Schedule::parse(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn names_are_sorted_by_time() {
    assert_eq!(name("orders", SIX + 61_000), "orders-20260131180101");
}

#[test]
fn one_is_taken_of_a_follower_when_it_is_due() {
    let mut world = World::new(|_| {});
    // The last due time before six was five; the resource was made before that.
    assert_eq!(world.takes(SIX - 1), [("orders-20260131175959".to_owned(), "orders-2".to_owned())]);
    world.has(SIX - HOUR / 2, at(2, 100), |_| {});
    assert!(world.takes(SIX - 1).is_empty(), "not due");
    assert_eq!(world.takes(SIX), [("orders-20260131180000".to_owned(), "orders-2".to_owned())]);
    assert_eq!(world.plan(SIX - 1).next_unix_ms, Some(SIX));
    assert_eq!(world.plan(SIX).next_unix_ms, Some(SIX + 10_000), "unless it is there by then, it is tried again");
    // After a day without an operator it is one, not twenty-four.
    assert_eq!(world.takes(SIX + 24 * HOUR).len(), 1);
    world.has(SIX + 24 * HOUR, at(2, 100), |_| {});
    assert!(world.takes(SIX + 24 * HOUR + 1).is_empty());
}

#[test]
fn its_annotations_state_cluster_and_position() {
    let world = World::new(|_| {});
    let outcome = world.plan(SIX);
    let Some(SnapshotAction::Take(object)) = outcome.actions.first() else { panic!("{outcome:?}") };
    let annotations = object.metadata.annotations.clone().unwrap();
    let expected = [
        ("replicateddb.io/chain", "00000000000000c8"),
        ("replicateddb.io/cluster-id", "0000000000000007"),
        ("replicateddb.io/epoch", "2"),
        ("replicateddb.io/index", "200"),
        ("replicateddb.io/instance", "orders-2"),
    ];
    assert_eq!(annotations, BTreeMap::from(expected.map(|(key, value)| (key.to_owned(), value.to_owned()))));
    assert_eq!(object.data["spec"]["volumeSnapshotClassName"], "fast");
    assert_eq!(object.metadata.owner_references, None, "it may outlive the cluster");
    // It is read as it was written.
    let mut stored: DynamicObject = (**object).clone();
    stored.data["status"] = json!({"readyToUse": true, "restoreSize": "1Gi"});
    let snapshot = read(&stored);
    assert_eq!((snapshot.cluster, snapshot.position), (Some(CLUSTER), Some(at(2, 200))));
    assert!(snapshot.ready && snapshot.restore_bytes == Some(1 << 30));
    assert_eq!(snapshot.instance, Some(node("orders-2")));
}

#[test]
fn the_leader_is_taken_only_when_it_is_alone() {
    let mut world = World::new(|_| {});
    for follower in ["orders-2", "orders-3"] {
        world.sees(status(follower, "follower", "CatchingUp", at(2, 60)));
    }
    assert!(world.takes(SIX).is_empty());
    let message = world.plan(SIX).observation.unwrap().message;
    assert!(message.contains("caught up"), "{message}");
    let mut alone = World::new(|spec| spec.instances = 1);
    alone.observed.instances.retain(|name, _| *name == node("orders-1"));
    assert_eq!(alone.takes(SIX)[0].1, "orders-1");
}

#[test]
fn nothing_is_taken_while_one_is_under_way_or_the_cluster_is_not_to_be_touched() {
    let mut world = World::new(|_| {});
    world.has(SIX - HOUR / 2, at(2, 100), |snapshot| snapshot.ready = false);
    assert!(world.takes(SIX).is_empty());
    for change in [|spec: &mut ClusterSpec| spec.paused = true, |spec: &mut ClusterSpec| spec.hibernated = true] {
        assert!(World::new(change).takes(SIX).is_empty());
    }
    assert!(World::new(|spec| spec.snapshots.class_name.clear()).plan(SIX).observation.is_none(), "none are asked for");
}

#[test]
fn the_newest_ready_ones_are_kept_and_hold_the_log() {
    let mut world = World::new(|spec| spec.snapshots.keep = 2);
    for hours in 1..=5 {
        world.has(SIX - hours * HOUR, at(2, 200 - 10 * hours), |snapshot| snapshot.ready = hours != 2);
    }
    // The second newest is not ready and does not count.
    assert_eq!(world.deletes(SIX), [4, 5].map(|hours| name("orders", SIX - hours * HOUR)));
    assert_eq!(world.plan(SIX).observation.unwrap().retain_from, Some(Index(170)));
}

#[test]
fn failed_ones_go_after_a_day_and_others_clusters_never() {
    let mut world = World::new(|_| {});
    world.has(SIX - 25 * HOUR, at(2, 100), |snapshot| {
        snapshot.ready = false;
        snapshot.error = Some("no space".to_owned());
    });
    world.has(SIX - 23 * HOUR, at(2, 100), |snapshot| {
        snapshot.ready = false;
        snapshot.error = Some("no space".to_owned());
    });
    for _ in 0..9 {
        world.has(SIX - 90 * HOUR, at(2, 100), |snapshot| snapshot.cluster = Some(ClusterId(8)));
        world.has(SIX - 90 * HOUR, at(2, 100), |snapshot| snapshot.cluster = None);
    }
    assert_eq!(world.deletes(SIX), [name("orders", SIX - 25 * HOUR)]);
}

#[test]
fn health_names_what_is_wrong() {
    let good = |world: &mut World| world.has(SIX - HOUR, at(2, 100), |_| {});
    type Change = fn(&mut World);
    let cases: [(Change, bool, &str); 7] = [
        (|_| {}, true, "UpToDate"),
        (|world| world.listed.class = SnapshotClass::Missing, false, "ClassMissing"),
        (|world| world.listed.class = SnapshotClass::NoApi, false, "NotSupported"),
        (|world| world.resource.spec.snapshots.schedule = "often".to_owned(), false, "InvalidSchedule"),
        (
            |world| world.has(SIX - 1, at(2, 100), |s| (s.ready, s.error) = (false, Some("no".to_owned()))),
            false,
            "SnapshotFailed",
        ),
        (|world| world.has(SIX - 1, at(2, 100), |s| s.ready = false), true, "UpToDate"),
        (|world| world.listed.class = SnapshotClass::Unknown, true, "UpToDate"),
    ];
    for (change, healthy, reason) in cases {
        let mut world = World::new(|_| {});
        good(&mut world);
        change(&mut world);
        assert_eq!(world.health(SIX), (healthy, reason.to_owned()));
    }
    let mut world = World::new(|_| {});
    assert_eq!(world.health(SIX), (true, "NoneYet".to_owned()));
    assert_eq!(world.health(SIX + HOUR), (false, "TooOld".to_owned()), "there never was one");
    good(&mut world);
    assert_eq!(world.health(SIX + HOUR), (true, "UpToDate".to_owned()), "the second time has only just passed");
    assert_eq!(world.health(SIX + HOUR + HOUR / 2), (false, "TooOld".to_owned()));
    let mut world = World::new(|_| {});
    world.has(SIX - 2 * HOUR, at(2, 100), |snapshot| snapshot.ready = false);
    assert_eq!(world.health(SIX), (false, "SnapshotStuck".to_owned()));
    assert!(world.takes(SIX).len() == 1, "a stuck one does not hold up the next");
}

#[test]
fn a_new_instance_starts_from_the_newest_snapshot_that_the_log_goes_on_from() {
    let mut world = World::new(|_| {});
    world.has(SIX - 3 * HOUR, at(1, 60), |_| {});
    world.has(SIX - 2 * HOUR, at(2, 150), |_| {});
    let newest = name("orders", SIX - 2 * HOUR);
    assert_eq!(world.seeded_from(), Some(newest.clone()));
    type Spoil = fn(&mut Snapshot);
    let unusable: [(Spoil, &str); 7] = [
        (|s| s.cluster = Some(ClusterId(8)), "another cluster of that name"),
        (|s| s.position = Some(at(2, 49)), "the log begins after it"),
        (|s| s.position = Some(at(2, 201)), "the leader does not have it"),
        (|s| s.position = Some(at(3, 150)), "an epoch that the leader knows nothing of"),
        (|s| s.ready = false, "not ready"),
        (|s| s.unusable = Some("no volume".to_owned()), "tried before"),
        (|s| s.deleting = true, "about to go"),
    ];
    for (spoil, why) in unusable {
        let mut world = World::new(|_| {});
        world.has(SIX - 3 * HOUR, at(1, 60), |_| {});
        world.has(SIX - 2 * HOUR, at(2, 150), spoil);
        assert_eq!(world.seeded_from(), Some(name("orders", SIX - 3 * HOUR)), "{why}");
    }
    // The first index that is retained is enough.
    let mut world = World::new(|_| {});
    world.has(SIX, at(1, 50), |_| {});
    assert!(world.seeded_from().is_some());
}

#[test]
fn a_snapshot_of_a_tail_that_a_failover_left_behind_is_not_used() {
    let mut world = World::new(|_| {});
    world.has(SIX, at(1, 120), |_| {});
    let receipt = Receipt {
        epoch: Epoch(2),
        from: None,
        from_incarnation: None,
        from_epoch: Epoch(1),
        to: node("orders-1"),
        reason: Reason::Silent,
        evidence: String::new(),
        detected_ms: 0,
        opened_ms: 0,
        records_at_risk: 0,
        exact: true,
        incomplete: false,
        acknowledged: Index(110),
        promoted: Index(120),
        lossy: false,
        in_a_row: 1,
        at_unix_ms: 0,
    };
    world.observed.status.last_failover = Some(receipt.clone());
    assert!(world.seeded_from().is_some());
    world.observed.status.last_failover = Some(Receipt { promoted: Index(119), ..receipt });
    assert!(world.seeded_from().is_none());
}

#[test]
fn the_ladder_goes_on_as_asked() {
    let none = |method| World::new(|spec| spec.seeding.method = method).seed();
    assert!(matches!(none(SeedMethod::Auto), Seed::Empty { why } if why.contains("no ready volume snapshot")));
    assert!(matches!(none(SeedMethod::Snapshot), Seed::Wait { why } if why.contains("seeding.method is snapshot")));
    let mut world = World::new(|spec| spec.seeding.method = SeedMethod::Stream);
    world.has(SIX, at(2, 150), |_| {});
    assert!(matches!(world.seed(), Seed::Empty { .. }));
    // A cluster that is being bootstrapped has nothing to be seeded with, whatever lies about.
    world.resource.spec.seeding.method = SeedMethod::Snapshot;
    world.observed.status.epoch = Epoch(0);
    assert!(matches!(world.seed(), Seed::Empty { .. }));
}

#[test]
fn without_a_leader_the_members_in_reach_say_what_the_log_holds() {
    let mut world = World::new(|_| {});
    world.has(SIX, at(2, 150), |_| {});
    world.observed.instances.remove(&node("orders-1"));
    assert!(world.seeded_from().is_some());
    world.observed.instances.clear();
    assert!(matches!(world.seed(), Seed::Wait { .. }), "an operator that has just started does not know yet");
}

fn claim(world: &World, created: u64) -> PersistentVolumeClaim {
    let Seed::Snapshot(seed) = world.seed() else { panic!("no snapshot") };
    let mut claim = volume_claim(&world.owner(), &node("orders-4"), Some(&seed));
    claim.metadata.creation_timestamp = Some(time(created));
    claim
}

#[test]
fn a_claim_that_is_never_bound_is_given_up() {
    let mut world = World::new(|spec| spec.seeding.catch_up_timeout = Span::from_secs(60));
    world.has(SIX, at(2, 150), |_| {});
    let pending = claim(&world, SIX);
    let asked = |claim: &PersistentVolumeClaim, pod: Option<&Pod>, now| give_up(&world.owner(), claim, pod, now);
    assert_eq!(asked(&pending, None, SIX + 59_999), None);
    let given_up = asked(&pending, None, SIX + 60_000).unwrap();
    assert_eq!(given_up.snapshot, name("orders", SIX));
    let mut bound = pending.clone();
    bound.spec.as_mut().unwrap().volume_name = Some("pv-1".to_owned());
    assert_eq!(asked(&bound, None, SIX + 60_000), None, "it holds data");
    let empty = volume_claim(&world.owner(), &node("orders-4"), None);
    assert_eq!(asked(&empty, None, SIX + 60_000), None, "nothing would be better");
    // Its pod fits nowhere: the volume was never asked for.
    let homeless: Pod = serde_json::from_value(json!({
        "metadata": {}, "status": {"conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}]}
    }))
    .unwrap();
    assert_eq!(asked(&pending, Some(&homeless), SIX + 60_000), None);
    let mut selected = pending.clone();
    let annotations = selected.metadata.annotations.as_mut().unwrap();
    annotations.insert("volume.kubernetes.io/selected-node".to_owned(), "worker-1".to_owned());
    assert!(asked(&selected, Some(&homeless), SIX + 60_000).is_some());
}
