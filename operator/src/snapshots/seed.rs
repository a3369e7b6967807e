//! What a new instance starts from.
//!
//! | `seeding.method` | first | then |
//! | --- | --- | --- |
//! | `auto` | the newest usable snapshot | an empty volume, filled by a streamed base copy |
//! | `snapshot` | the newest usable snapshot | wait, and say for what |
//! | `stream` | an empty volume | |
//!
//! A snapshot is usable when it is of this cluster, its epoch is in the leader's history, and the leader's log still
//! begins at or before it. What can't be known from here (whether the few records that were flushed and not committed
//! when it was taken survived the next election) the node finds out by rule 10: it cuts them, like any follower.

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use rdb_control::spec::SeedMethod;
use rdb_control::{Connection, Observed};
use rdb_protocol::status::NodeStatus;
use rdb_protocol::{ClusterId, Epoch, Index, Position};

use super::keep::is_usable;
use super::object::{Listed, Snapshot, seed_of};
use crate::build::{Owner, SnapshotSeed};

/// A claim that is to be made from a snapshot and is not bound after this gets an empty volume instead. Drivers copy for
/// minutes at most, or copy while the volume is in use already.
const BIND_PATIENCE_MS: u64 = 10 * 60 * 1000;

/// The scheduler's choice for a claim that waits for its first pod.
const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";

/// What to make a new instance's volume from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seed {
    Snapshot(SnapshotSeed),
    /// An empty volume, and why not a snapshot.
    Empty {
        why: String,
    },
    /// Nothing yet, and what for.
    Wait {
        why: String,
    },
}

/// Chooses what a new instance starts from.
pub fn seed_for(owner: &Owner, observed: &Observed, listed: &Listed) -> Seed {
    let Some(cluster) = observed.status.cluster.filter(|_| observed.status.epoch > Epoch::ZERO) else {
        return Seed::Empty { why: "the cluster has no data yet".to_owned() };
    };
    let method = owner.spec().seeding.method;
    if method == SeedMethod::Stream {
        return Seed::Empty { why: "seeding.method is stream".to_owned() };
    }
    let ours: Vec<&Snapshot> = listed.snapshots.iter().filter(|snapshot| snapshot.cluster == Some(cluster)).collect();
    let missing = match newest(observed, cluster, &ours) {
        Ok(seed) => return Seed::Snapshot(seed),
        Err(Missing::Unknown) => {
            // What the log still has is not known before somebody says so; the next look will tell.
            return Seed::Wait { why: "no member has reported yet from where its log begins".to_owned() };
        }
        Err(Missing::None(why)) => why,
    };
    match method {
        SeedMethod::Snapshot => Seed::Wait { why: format!("seeding.method is snapshot, and {missing}") },
        SeedMethod::Auto | SeedMethod::Stream => Seed::Empty { why: missing },
    }
}

enum Missing {
    None(String),
    Unknown,
}

fn newest(observed: &Observed, cluster: ClusterId, ours: &[&Snapshot]) -> Result<SnapshotSeed, Missing> {
    let usable: Vec<(&Snapshot, Position)> =
        ours.iter().filter(|s| is_usable(s)).filter_map(|s| Some((*s, s.position?))).collect();
    if usable.is_empty() {
        return Err(Missing::None("there is no ready volume snapshot of this cluster".to_owned()));
    }
    let log = log_of(observed, cluster).ok_or(Missing::Unknown)?;
    let in_log = usable.into_iter().filter(|(_, at)| log.has(observed, at));
    let best = in_log.max_by_key(|(snapshot, at)| (at.rank(), snapshot.created_unix_ms, snapshot.name.clone()));
    let (snapshot, position) = best.ok_or_else(|| {
        Missing::None(format!("the log no longer goes back to any volume snapshot: it begins at {}", log.first))
    })?;
    Ok(SnapshotSeed { snapshot: snapshot.name.clone(), cluster, position, restore_bytes: snapshot.restore_bytes })
}

/// What the log is known to hold.
struct LogRange {
    first: Index,
    end: Position,
}

/// The leader's word; without one, what all members in reach have, since any of them may be the next leader.
fn log_of(observed: &Observed, cluster: ClusterId) -> Option<LogRange> {
    let connected = observed.instances.values().filter(|instance| instance.connection == Connection::Connected);
    let reports = connected.filter_map(|instance| instance.status());
    let ours: Vec<&NodeStatus> =
        reports.filter(|status| status.cluster == Some(cluster) && status.flushed.index > Index::ZERO).collect();
    let leader = observed.status.leader.as_ref();
    let range = |status: &NodeStatus| LogRange { first: status.first_retained, end: status.flushed };
    if let Some(leading) = ours.iter().find(|status| Some(&status.member()) == leader) {
        return Some(range(leading));
    }
    let first = ours.iter().map(|status| status.first_retained).max()?;
    let end = ours.iter().map(|status| status.flushed).max_by_key(Position::rank)?;
    Some(LogRange { first, end })
}

impl LogRange {
    /// The log goes on from this position, as far as can be told.
    fn has(&self, observed: &Observed, at: &Position) -> bool {
        let within = at.index >= self.first && at.index <= self.end.index && at.epoch <= self.end.epoch;
        within && !is_cut(observed, at)
    }
}

/// Lies in a tail that a failover left behind: its epoch is older than the failover's, its index beyond what was promoted.
fn is_cut(observed: &Observed, at: &Position) -> bool {
    let receipts = observed.status.earlier_losses.iter().chain(&observed.status.last_failover);
    receipts.into_iter().any(|receipt| at.epoch < receipt.epoch && at.index > receipt.promoted)
}

/// A claim from a snapshot that is not going to be bound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GiveUp {
    /// To be marked as unusable, so that it is not chosen again.
    pub snapshot: String,
    pub why: String,
}

/// Is it time to give up on this claim's snapshot? Then the claim and its pod are deleted (the claim was never bound, so it
/// holds nothing), the snapshot is marked, and the instance is created anew down the ladder. `pod` is the one that uses it.
pub fn give_up(owner: &Owner, claim: &PersistentVolumeClaim, pod: Option<&Pod>, now_unix_ms: u64) -> Option<GiveUp> {
    let seed = claim.metadata.annotations.as_ref().and_then(seed_of)?;
    let phase = claim.status.as_ref().and_then(|status| status.phase.as_deref());
    let bound = claim.spec.as_ref().is_some_and(|spec| spec.volume_name.is_some());
    let being_deleted = claim.metadata.deletion_timestamp.is_some();
    if bound || being_deleted || phase.is_some_and(|phase| phase != "Pending") || is_unschedulable(claim, pod) {
        return None;
    }
    let created = claim.metadata.creation_timestamp.as_ref()?;
    let created = u64::try_from(created.0.as_millisecond()).ok()?;
    let patience = owner.spec().seeding.catch_up_timeout.millis().min(BIND_PATIENCE_MS);
    let waited = now_unix_ms.saturating_sub(created);
    (waited >= patience).then(|| GiveUp {
        snapshot: seed.snapshot.clone(),
        why: format!("no volume could be made from {} within {} s", seed.snapshot, patience / 1000),
    })
}

/// The pod finds no machine, so the volume is not even asked for: no fault of the snapshot.
fn is_unschedulable(claim: &PersistentVolumeClaim, pod: Option<&Pod>) -> bool {
    if claim.metadata.annotations.as_ref().is_some_and(|annotations| annotations.contains_key(SELECTED_NODE)) {
        return false;
    }
    let conditions = pod.and_then(|pod| pod.status.as_ref()).and_then(|status| status.conditions.as_ref());
    conditions.is_some_and(|conditions| {
        conditions.iter().any(|condition| {
            condition.type_ == "PodScheduled"
                && condition.status == "False"
                && condition.reason.as_deref() == Some("Unschedulable")
        })
    })
}
