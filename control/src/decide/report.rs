//! What the status tells people: phase, message, instances, conditions. Nothing is decided here.

use rdb_protocol::status::{NodeState, NodeStatus, Role};
use rdb_protocol::{BOOTSTRAP_VERSION, Index, NodeName};

use super::draft::Draft;
use super::forecast::forecast;
use super::receipt;
use super::target::asked_acks;
use super::view::{View, is_fit, list};
use crate::observed::{InstanceObservation, Lifecycle};
use crate::status::{ClusterStatus, Condition, InstanceStatus, Phase};

/// Fills in everything but the decisions.
pub(super) fn describe(view: &View, draft: &mut Draft) {
    let instances = instances(view);
    let ready = instances.iter().filter(|instance| instance.ready).count();
    let blocked = draft.blocked.clone();
    let updating = draft.updating.clone();
    let status = &mut draft.status;
    status.observed_generation = view.observed.generation;
    status.phase = phase(view, status, draft.leaderless);
    status.ready_instances = u32::try_from(ready).unwrap_or(u32::MAX);
    status.instances = instances;
    status.forecast = forecast(view);
    if let Some(settled) = status.last_failover.as_ref().and_then(|last| receipt::settled(view, last)) {
        status.last_failover = Some(settled);
    }
    for loss in &mut status.earlier_losses {
        if let Some(settled) = receipt::settled(view, loss) {
            *loss = settled;
        }
    }
    let word = if blocked.is_none() { updating.as_ref() } else { None };
    status.message = message(view, status, blocked.as_ref().or(word).cloned());
    status.conditions = conditions(view, status, updating.is_some());
}

/// The phase is a word for what the decisions say; nothing is decided by it that they do not say too.
fn phase(view: &View, status: &ClusterStatus, leaderless: bool) -> Phase {
    let bootstrapping = status.config.as_ref().is_none_or(|config| config.version() <= BOOTSTRAP_VERSION);
    if view.cluster.hibernated && all_stopped(view) {
        Phase::Hibernated
    } else if status.epoch > status.leader_epoch {
        Phase::FailingOver
    } else if leaderless && status.epoch == view.status().epoch {
        Phase::Stalled
    } else if status.epoch.0 > 0 && status.opened.is_none_or(|opened| opened.epoch < status.epoch) {
        Phase::Promoting
    } else if status.switchover.is_some() {
        Phase::SwitchingOver
    } else if bootstrapping {
        Phase::Bootstrapping
    } else if status.config.as_ref().is_some_and(|config| config.next.is_some()) {
        Phase::Reconfiguring
    } else {
        Phase::Steady
    }
}

fn all_stopped(view: &View) -> bool {
    view.observed.instances.values().all(|instance| instance.lifecycle != Lifecycle::Running)
}

fn instances(view: &View) -> Vec<InstanceStatus> {
    let row = |(name, instance): (&NodeName, &InstanceObservation)| instance_status(view, name, instance);
    view.observed.instances.iter().map(row).collect()
}

fn instance_status(view: &View, name: &NodeName, instance: &InstanceObservation) -> InstanceStatus {
    let reachable = view.is_reachable(instance);
    let state = match (instance.lifecycle, reachable, instance.status()) {
        (Lifecycle::Stopped, _, _) => "Stopped".to_owned(),
        (Lifecycle::Deleting, _, _) => "Deleting".to_owned(),
        (Lifecycle::Running, true, Some(status)) => format!("{:?}", status.state),
        (Lifecycle::Running, _, _) => "Unreachable".to_owned(),
    };
    let last = view.leading().map_or(Index::ZERO, |leading| leading.flushed.index);
    let report = instance.status();
    let role = match report.filter(|_| reachable).map(|status| status.role) {
        Some(Role::Leader) => "leader",
        Some(Role::Follower) => "follower",
        Some(Role::Empty) => "empty",
        None => "unknown",
    };
    let index = report.map_or(Index::ZERO, |status| status.flushed.index);
    let sync = report
        .is_some_and(|status| view.status().config.as_ref().is_some_and(|config| config.counts(&status.member())));
    InstanceStatus {
        name: name.clone(),
        role: role.to_owned(),
        epoch: report.map(|status| status.promise.epoch).unwrap_or_default(),
        index,
        lag_records: last.0.saturating_sub(index.0),
        state,
        sync,
        ready: reachable && report.is_some_and(|status| serves(view, status)),
        node: instance.node.clone(),
    }
}

/// An open leader, or a follower that is caught up.
fn serves(view: &View, status: &NodeStatus) -> bool {
    match status.role {
        Role::Leader => status.opened,
        Role::Follower => is_fit(status.state) && view.is_caught_up(&status.member()),
        Role::Empty => false,
    }
}

fn message(view: &View, status: &ClusterStatus, blocked: Option<String>) -> String {
    if view.cluster.hibernated {
        return "Hibernated: no instances run, the data is kept".to_owned();
    }
    if let Some(blocked) = blocked {
        return blocked;
    }
    match status.phase {
        Phase::Bootstrapping => {
            "Waits for followers to catch up; clients are let in when the durability rule holds".into()
        }
        Phase::Steady if view.cluster.paused => "Paused: observing only".to_owned(),
        Phase::Steady => degraded(view, status).map_or_else(|| "Cluster in healthy state".to_owned(), |(_, text)| text),
        Phase::FailingOver => format!("Electing the leader of epoch {}", status.epoch),
        Phase::Promoting => match &status.leader {
            Some(leader) => format!("Waits for {} to open as the leader of epoch {}", leader.name, status.epoch),
            None => "Waits for the leader to open".to_owned(),
        },
        Phase::SwitchingOver => match &status.switchover {
            Some(switchover) => format!("Switching over to {}", switchover.target),
            None => "Switching over".to_owned(),
        },
        Phase::Reconfiguring => match status.config.as_ref().and_then(|config| config.next.as_ref()) {
            Some(next) => format!("Changing to config {}", next.version),
            None => "Changing the config".to_owned(),
        },
        Phase::Stalled => "Stalled".to_owned(),
        Phase::Hibernated => "Hibernated: no instances run, the data is kept".to_owned(),
    }
}

/// What is less than asked for: one word and a sentence.
fn degraded(view: &View, status: &ClusterStatus) -> Option<(&'static str, String)> {
    let config = &status.config.as_ref()?.current;
    if view.cluster.instances == 1 {
        return Some(("SingleInstance", "One instance runs without followers".to_owned()));
    }
    let asked = asked_acks(view);
    if config.version > BOOTSTRAP_VERSION && config.acks < asked {
        let text = format!("A write needs {} follower copies instead of {asked}", config.acks);
        return Some(("FewerCopies", format!("{text}, until more followers are caught up")));
    }
    let not_ready: Vec<&NodeName> = status.instances.iter().filter(|i| !i.ready).map(|i| &i.name).collect();
    if !not_ready.is_empty() {
        let why = |name: &&NodeName| match view.instance(name).and_then(|instance| instance.stuck.as_ref()) {
            Some(stuck) => format!("{name} ({stuck})"),
            None => name.to_string(),
        };
        return Some(("InstancesNotReady", format!("Not ready: {}", list(not_ready.iter().map(why)))));
    }
    let outside: Vec<&NodeName> = status.instances.iter().filter(|i| !i.sync).map(|i| &i.name).collect();
    let named = view.cluster.sync_set == rdb_protocol::settings::SyncSet::One;
    (!outside.is_empty() && !named).then(|| ("OutsideSyncSet", format!("Not in the sync set yet: {}", list(outside))))
}

fn conditions(view: &View, status: &ClusterStatus, updating: bool) -> Vec<Condition> {
    let bootstrapped = status.config.as_ref().is_some_and(|config| config.current.version > BOOTSTRAP_VERSION);
    let open = view.leading().is_some_and(|leading| leading.opened);
    let served = matches!(status.phase, Phase::Steady | Phase::Reconfiguring | Phase::SwitchingOver);
    let stopped = status.rollout.as_ref().is_some_and(|rollout| rollout.stopped);
    let under_way = !matches!(status.phase, Phase::Steady | Phase::Stalled | Phase::Hibernated);
    let reconciling = under_way || (updating && !stopped);
    let stalled = status.phase == Phase::Stalled || stopped;
    let word = format!("{:?}", status.phase);
    let doing = if updating && !under_way { "RollingUpdate".to_owned() } else { word.clone() };
    let stuck = match (status.message.starts_with("StatusLost"), stopped) {
        (true, _) => "StatusLost".to_owned(),
        (false, true) => "RolloutStopped".to_owned(),
        (false, false) => word.clone(),
    };
    let mut list = vec![
        (open && served && bootstrapped, "Ready", word, status.message.clone()),
        (reconciling, "Reconciling", doing, status.message.clone()),
        (stalled, "Stalled", stuck, status.message.clone()),
    ];
    match degraded(view, status) {
        Some((reason, text)) => list.push((true, "Degraded", reason.to_owned(), text)),
        None => list.push((false, "Degraded", "AsAskedFor".to_owned(), String::new())),
    }
    list.push(divergence(view));
    if let Some(snapshots) = &view.observed.snapshots {
        let (reason, message) = (snapshots.reason.clone(), snapshots.message.clone());
        list.push((snapshots.healthy, "SnapshotsHealthy", reason, message));
    }
    list.into_iter().map(|(value, kind, reason, message)| condition(view, kind, value, reason, message)).collect()
}

/// Tails that the cluster has not, and content that is not the leader's.
fn divergence(view: &View) -> (bool, &'static str, String, String) {
    let differs = view.observed.instances.iter().filter(|(_, instance)| {
        instance.status().is_some_and(|status| status.state == NodeState::Diverged && view.is_ours(status))
    });
    let differs: Vec<&NodeName> = differs.map(|(name, _)| name).collect();
    let divergent = receipt::divergent(view);
    let text = divergent.iter().map(|(name, d)| {
        let complete = if d.complete { "" } else { " (incomplete)" };
        format!("{name} had {}–{} alone, kept in its archive {}{complete}", d.from, d.to, d.archive)
    });
    let other = (!differs.is_empty()).then(|| {
        format!("the content of {} is not the leader's; it serves nothing and is seeded anew", list(&differs))
    });
    let text = other.into_iter().chain(text).collect::<Vec<_>>().join("; ");
    let reason = match (differs.is_empty(), divergent.is_empty()) {
        (false, _) => "ContentDiffers",
        (true, false) => "TailArchived",
        (true, true) => "None",
    };
    (reason != "None", "Divergence", reason.to_owned(), text)
}

/// Keeps the time of the last change of its value.
fn condition(view: &View, kind: &str, status: bool, reason: String, message: String) -> Condition {
    let old = view.status().condition(kind).filter(|old| old.status == status);
    let since_unix_ms = old.map_or(view.observed.unix_ms, |old| old.since_unix_ms);
    Condition { kind: kind.to_owned(), status, reason, message, since_unix_ms }
}

/// What is worth writing at once although nothing was decided: everything but positions and lags.
pub(super) fn differs(old: &ClusterStatus, new: &ClusterStatus) -> bool {
    coarse(old) != coarse(new)
}

fn coarse(status: &ClusterStatus) -> ClusterStatus {
    let mut status = status.clone();
    for instance in &mut status.instances {
        instance.index = Index::ZERO;
        instance.lag_records = 0;
    }
    if let Some(forecast) = &mut status.forecast {
        forecast.acknowledged_at_risk = 0;
        // The reasons name numbers.
        forecast.vetoes.iter_mut().for_each(|veto| veto.reason.clear());
    }
    status
}
