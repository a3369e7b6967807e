//! What to take, what to delete, and whether all is well.

use rdb_control::{Event, Observed, SnapshotsObservation};
use rdb_protocol::status::{NodeState, NodeStatus, Role};
use rdb_protocol::{ClusterId, Index};

use kube::api::DynamicObject;

use super::object::{Listed, Snapshot, SnapshotClass, volume_snapshot};
use super::schedule::Schedule;
use crate::build::Owner;

/// A snapshot that is neither ready nor failed after this is stuck: drivers upload large volumes for minutes, not hours.
const STUCK_AFTER_MS: u64 = 3600 * 1000;

/// Failed snapshots stay for people to look at, and go after a day.
const FAILED_KEPT_MS: u64 = 24 * 3600 * 1000;

/// A snapshot may be late by this before it is called too old: a round of catching up and a driver's retries.
const LATE_MS: u64 = 10 * 60 * 1000;

/// Followers catch up within seconds, and a write to the API server is repeated no sooner than this.
const RETRY_MS: u64 = 10 * 1000;

/// One thing to do.
#[derive(Clone, Debug, PartialEq)]
pub enum SnapshotAction {
    Take(Box<DynamicObject>),
    /// With a precondition on the UID.
    Delete {
        name: String,
        uid: String,
    },
}

/// What follows from the schedule and from what there is.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outcome {
    pub actions: Vec<SnapshotAction>,
    pub events: Vec<Event>,
    /// For `Observed::snapshots`; `None` when no snapshots are asked for and there are none.
    pub observation: Option<SnapshotsObservation>,
    /// Look again then, even if nothing changes.
    pub next_unix_ms: Option<u64>,
}

/// Decides about scheduled snapshots. `observed` is what `control` sees; `created_unix_ms` is when the resource was made.
pub fn plan(owner: &Owner, observed: &Observed, listed: &Listed, now_unix_ms: u64) -> Outcome {
    let mut outcome = Outcome::default();
    let Some(cluster) = observed.status.cluster else { return outcome };
    let ours: Vec<&Snapshot> =
        listed.snapshots.iter().filter(|snapshot| snapshot.cluster == Some(cluster) && !snapshot.deleting).collect();
    let asked = !owner.spec().snapshots.class_name.is_empty();
    if !asked && ours.is_empty() {
        return outcome;
    }
    let kept =
        if asked && !owner.spec().paused { clean_up(owner, &ours, now_unix_ms, &mut outcome) } else { ours.clone() };
    let retain_from = kept.iter().filter(|s| is_usable(s)).filter_map(|s| s.position).map(|p| p.index).min();
    let health =
        if asked { scheduled(owner, observed, cluster, listed, now_unix_ms, &mut outcome) } else { Health::off() };
    outcome.observation = Some(health.observation(retain_from));
    outcome
}

/// May a new instance be made from it?
pub(super) fn is_usable(snapshot: &Snapshot) -> bool {
    snapshot.ready && !snapshot.deleting && snapshot.unusable.is_none() && snapshot.position.is_some()
}

/// Deletes what is not to be kept; returns the rest.
fn clean_up<'a>(owner: &Owner, ours: &[&'a Snapshot], now: u64, outcome: &mut Outcome) -> Vec<&'a Snapshot> {
    let mut usable: Vec<&Snapshot> = ours.iter().filter(|snapshot| is_usable(snapshot)).copied().collect();
    usable.sort_by_key(|snapshot| std::cmp::Reverse((snapshot.created_unix_ms, snapshot.name.clone())));
    let keep = owner.spec().snapshots.keep as usize;
    let surplus: Vec<&str> = usable.iter().skip(keep).map(|snapshot| snapshot.name.as_str()).collect();
    let expired = |snapshot: &Snapshot| {
        let age = now.saturating_sub(snapshot.created_unix_ms);
        !is_usable(snapshot) && age >= FAILED_KEPT_MS
    };
    let (gone, kept): (Vec<&Snapshot>, Vec<&Snapshot>) =
        ours.iter().copied().partition(|snapshot| expired(snapshot) || surplus.contains(&snapshot.name.as_str()));
    let delete =
        |snapshot: &&Snapshot| SnapshotAction::Delete { name: snapshot.name.clone(), uid: snapshot.uid.clone() };
    outcome.actions.extend(gone.iter().map(delete));
    kept
}

/// Takes what is due, and says how things are.
fn scheduled(
    owner: &Owner,
    observed: &Observed,
    cluster: ClusterId,
    listed: &Listed,
    now: u64,
    outcome: &mut Outcome,
) -> Health {
    let asked = &owner.spec().snapshots;
    let schedule = match Schedule::parse(&asked.schedule) {
        Ok(schedule) => schedule,
        Err(error) => return Health::bad("InvalidSchedule", format!("snapshots.schedule: {error}")),
    };
    match listed.class {
        SnapshotClass::NoApi => {
            let text =
                "this Kubernetes cluster has no volume snapshots (the VolumeSnapshot definitions are not installed)";
            return Health::bad("NotSupported", text.to_owned());
        }
        SnapshotClass::Missing => {
            let text = format!("there is no VolumeSnapshotClass {:?} (snapshots.className)", asked.class_name);
            return Health::bad("ClassMissing", text);
        }
        SnapshotClass::Known | SnapshotClass::Unknown => {}
    }
    let ours = listed.snapshots.iter().filter(|snapshot| snapshot.cluster == Some(cluster));
    let mut ours: Vec<&Snapshot> = ours.collect();
    ours.sort_by_key(|snapshot| (snapshot.created_unix_ms, snapshot.name.clone()));
    let last = ours.last().map_or_else(|| born(owner), |snapshot| snapshot.created_unix_ms);
    let is_due = schedule.due(last, now) && !owner.spec().paused && !owner.spec().hibernated;
    // One that is due and could not be taken, or was not stored after all, is tried again soon.
    let again = Some(now.saturating_add(RETRY_MS)).filter(|_| is_due);
    outcome.next_unix_ms = again.or_else(|| schedule.after(now));
    let under_way = ours.iter().any(|snapshot| is_under_way(snapshot, now));
    let mut waits = None;
    if is_due && !under_way {
        match source(owner, observed, cluster) {
            Some(report) => take(owner, report, cluster, now, outcome),
            None => waits = Some("waits for a follower that is caught up"),
        }
    }
    health(owner, &schedule, &ours, now, waits)
}

fn is_under_way(snapshot: &Snapshot, now: u64) -> bool {
    !snapshot.ready && snapshot.error.is_none() && now.saturating_sub(snapshot.created_unix_ms) < STUCK_AFTER_MS
}

/// When the resource was made: before its first snapshot, times are counted from here.
fn born(owner: &Owner) -> u64 {
    let created = owner.resource.metadata.creation_timestamp.as_ref();
    created.and_then(|time| u64::try_from(time.0.as_millisecond()).ok()).unwrap_or(0)
}

/// Whose volume to take: a follower that is caught up, the one with most; the leader only when it is alone, since a
/// snapshot may hold up its writes.
fn source<'a>(owner: &Owner, observed: &'a Observed, cluster: ClusterId) -> Option<&'a NodeStatus> {
    let reports = observed
        .instances
        .values()
        .filter(|instance| instance.connection == rdb_control::Connection::Connected && !instance.draining);
    let reports = reports.filter_map(|instance| instance.status()).filter(|status| status.cluster == Some(cluster));
    let fit = reports.filter(|status| match (status.role, status.state) {
        (Role::Follower, NodeState::Streaming) => true,
        (Role::Leader, NodeState::Leading) => owner.spec().instances == 1 && observed.instances.len() == 1,
        _ => false,
    });
    fit.max_by_key(|status| (status.flushed.rank(), std::cmp::Reverse(status.name.clone())))
}

fn take(owner: &Owner, report: &NodeStatus, cluster: ClusterId, now: u64, outcome: &mut Outcome) {
    let snapshot = volume_snapshot(owner, &report.name, cluster, &report.flushed, now);
    outcome.events.push(Event {
        reason: "SnapshotTaken".to_owned(),
        message: format!("{} of {}", snapshot.metadata.name.as_deref().unwrap_or_default(), report.name),
        evidence: format!("it has flushed {}", report.flushed),
        warning: false,
    });
    outcome.actions.push(SnapshotAction::Take(Box::new(snapshot)));
}

struct Health {
    healthy: bool,
    reason: &'static str,
    message: String,
}

impl Health {
    fn bad(reason: &'static str, message: String) -> Health {
        Health { healthy: false, reason, message }
    }

    fn good(reason: &'static str, message: String) -> Health {
        Health { healthy: true, reason, message }
    }

    fn off() -> Health {
        Health::good("NotScheduled", "no snapshots are taken; earlier ones are kept".to_owned())
    }

    fn observation(self, retain_from: Option<Index>) -> SnapshotsObservation {
        SnapshotsObservation {
            healthy: self.healthy,
            reason: self.reason.to_owned(),
            message: self.message,
            retain_from,
        }
    }
}

/// Bad when the newest one failed or got stuck, or when the newest good one is older than the schedule allows.
fn health(owner: &Owner, schedule: &Schedule, ours: &[&Snapshot], now: u64, waits: Option<&str>) -> Health {
    if let Some(newest) = ours.iter().rev().find(|snapshot| !snapshot.deleting) {
        if let Some(error) = &newest.error {
            return Health::bad("SnapshotFailed", format!("{}: {error}", newest.name));
        }
        if !newest.ready && !is_under_way(newest, now) {
            return Health::bad("SnapshotStuck", format!("{} has not become ready for an hour", newest.name));
        }
    }
    let good = ours.iter().rev().find(|snapshot| is_usable(snapshot));
    let since = good.map_or_else(|| born(owner), |snapshot| snapshot.created_unix_ms);
    // The next one is due after `since`; when even the one after that has passed, one was missed.
    let deadline = schedule.after(since).and_then(|next| schedule.after(next)).map(|at| at.saturating_add(LATE_MS));
    let late = deadline.is_some_and(|deadline| now > deadline);
    let waits = waits.map(|waits| format!("; the next one {waits}")).unwrap_or_default();
    match (good, late) {
        (Some(good), false) => Health::good("UpToDate", format!("the newest is {}{waits}", good.name)),
        (None, false) => Health::good("NoneYet", format!("none was due and ready yet{waits}")),
        (Some(good), true) => Health::bad("TooOld", format!("the newest is {}{waits}", good.name)),
        (None, true) => Health::bad("TooOld", format!("there is none{waits}")),
    }
}
