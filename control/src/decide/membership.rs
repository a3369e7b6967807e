//! Instances: which there should be, creating, initialising, pointing them at the leader, re-seeding, removing.

use std::collections::BTreeSet;

use rdb_protocol::admin::{Follow, Init, Reseed};
use rdb_protocol::status::{NodeState, NodeStatus, Role};
use rdb_protocol::{ConfigPair, Epoch, NodeName};

use super::draft::{AfterDone, Draft};
use super::open::peers;
use super::view::{RESEED_MEMORY, View};
use crate::observed::{CallKey, CallOutcome, Lifecycle};
use crate::plan::{Action, AdminCall, CallKind, RequestKind};
use crate::status::Phase;

/// Names of the instances that should exist: those that do, the leader first and then by number, filled up with the lowest
/// free numbers.
pub(super) fn wanted_names(view: &View) -> BTreeSet<NodeName> {
    let leader = view.status().leader.as_ref().map(|leader| &leader.name);
    let live = view.observed.instances.iter().filter(|(_, instance)| instance.lifecycle != Lifecycle::Deleting);
    let mut existing: Vec<&NodeName> = live.map(|(name, _)| name).collect();
    existing.sort_by_cached_key(|name| (Some(*name) != leader, number(name), *name));
    existing.truncate(view.cluster.instances as usize);
    let mut wanted: BTreeSet<NodeName> = existing.into_iter().cloned().collect();
    let fresh = (1..).map_while(|n: u32| NodeName::new(format!("{}-{n}", view.cluster.name)).ok());
    // Names in use, even of instances that are being deleted, stay taken.
    let free = fresh.filter(|name| !view.observed.instances.contains_key(name));
    let missing = (view.cluster.instances as usize).saturating_sub(wanted.len());
    wanted.extend(free.take(missing));
    wanted
}

/// The number at the end of an instance's name.
fn number(name: &NodeName) -> u32 {
    name.as_str().rsplit('-').next().and_then(|digits| digits.parse().ok()).unwrap_or(u32::MAX)
}

/// Creates what is missing, and starts or stops what people asked for.
pub(super) fn run_instances(view: &View, draft: &mut Draft) {
    let wanted = wanted_names(view);
    start_stopped(view, draft, |name| wanted.contains(name) || counts(view, name));
    for name in wanted {
        match view.instance(&name).map(|instance| instance.lifecycle) {
            None => draft.act(Action::CreateInstance { name }),
            Some(Lifecycle::Running) if view.observed.requests.fence.contains(&name) => {
                draft.act(Action::StopInstance { name });
            }
            Some(Lifecycle::Running | Lifecycle::Stopped | Lifecycle::Deleting) => {}
        }
    }
    renew_stuck(view, draft);
}

/// Starts what is stopped and needed, unless a person asked to stop it.
pub(super) fn start_stopped(view: &View, draft: &mut Draft, is_needed: impl Fn(&NodeName) -> bool) {
    for (name, instance) in &view.observed.instances {
        let asked_to_stop = view.observed.requests.fence.contains(name);
        if instance.lifecycle == Lifecycle::Stopped && !asked_to_stop && is_needed(name) {
            draft.act(Action::StartInstance { name: name.clone() });
        }
    }
}

/// Is this instance's copy one of those that stand, wanted or not?
fn counts(view: &View, name: &NodeName) -> bool {
    let standing = view.status().config.iter().flat_map(ConfigPair::standing);
    standing.flat_map(|config| &config.cohort).any(|member| member.name == *name)
}

/// An instance that can't start as it was asked for once, and is asked for otherwise now, such as with the right image.
/// No process ends by it, so it needs neither a turn nor a leader.
fn renew_stuck(view: &View, draft: &mut Draft) {
    for (name, instance) in view.running() {
        if instance.stuck.is_some() && instance.outdated.is_some() && !view.is_reachable(instance) {
            let incarnation = instance.status().map(|status| status.incarnation);
            draft.act(Action::RecreateInstance { name: name.clone(), incarnation });
        }
    }
}

/// Gives empty nodes the cluster's identity; their data comes from the leader.
pub(super) fn initialise(view: &View, draft: &mut Draft) {
    let Some(cluster) = view.status().cluster else { return };
    let wanted = wanted_names(view);
    for (name, instance) in view.running().filter(|(name, _)| wanted.contains(*name)) {
        let Some(status) = instance.status().filter(|s| s.role == Role::Empty && s.cluster.is_none()) else { continue };
        // The first node of a new cluster makes the empty database itself; `bootstrap` tells it so.
        let is_first = view.status().epoch == Epoch(0)
            && view.status().config.as_ref().is_some_and(|config| config.counts(&status.member()));
        if view.is_reachable(instance) && !is_first {
            let call = AdminCall::Init(Init { cluster, incarnation: status.incarnation, create: false });
            draft.call(view, name, call, AfterDone::Repeat);
        }
    }
}

/// Tells everybody who leads. It raises their promise, so it also ends what an old leader still does.
pub(super) fn point_followers(view: &View, draft: &mut Draft) {
    let status = view.status();
    let Some(leader) = status.leader.as_ref().filter(|_| status.has_leader()) else { return };
    for (name, instance) in view.running().filter(|(name, _)| **name != leader.name) {
        let Some(report) = instance.status().filter(|report| view.is_ours(report)) else { continue };
        if !view.is_reachable(instance) {
            continue;
        }
        let call = AdminCall::Follow(Follow {
            epoch: status.epoch,
            leader: leader.clone(),
            peers: peers(view),
            settings: view.settings(),
            // A log that ends before the lossy epoch may hold what was lost by permission.
            loss_permitted: status.loss_epoch.is_some_and(|epoch| report.flushed.epoch < epoch),
        });
        let told = report.promise.epoch == status.epoch && report.promise.leader.as_ref() == Some(leader);
        draft.call(view, name, call, if told { AfterDone::Rest } else { AfterDone::Repeat });
    }
}

/// Re-seeds those that ask for it by their state, and the one that a person named.
pub(super) fn reseed(view: &View, draft: &mut Draft) {
    let Some(leading) = view.leading().filter(|leading| leading.opened) else { return };
    if let Some(name) = &view.observed.requests.reseed {
        match refuse_reseed(view, leading, name) {
            Some(why) => {
                draft.warn("ReseedRefused", format!("{name} is not re-seeded: {why}"), "");
                draft.clear(RequestKind::Reseed);
            }
            None => requested_reseed(view, draft, name),
        }
    }
    for (name, instance) in view.running() {
        let Some(status) = instance.status() else { continue };
        let corrupt = status.state == NodeState::Halted && status.problems.iter().any(|p| p.code == "LOG_CORRUPT");
        let broken = status.state == NodeState::Diverged || corrupt;
        if broken && view.is_ours(status) && refuse_reseed(view, leading, name).is_none() {
            send_reseed(view, draft, name, status);
        }
    }
}

pub(super) fn send_reseed(view: &View, draft: &mut Draft, name: &NodeName, status: &NodeStatus) {
    let call = AdminCall::Reseed(Reseed { epoch: view.status().epoch, incarnation: status.incarnation });
    draft.call(view, name, call, AfterDone::Repeat);
}

fn requested_reseed(view: &View, draft: &mut Draft, name: &NodeName) {
    let Some(status) = view.instance(name).and_then(|instance| instance.status()) else { return };
    let record = view.observed.calls.get(&CallKey { to: name.clone(), kind: CallKind::Reseed });
    let obeyed = record.is_some_and(|record| {
        let recent = record.finished_at.is_some_and(|at| view.now.since(at) < RESEED_MEMORY);
        record.outcome == Some(CallOutcome::Done) && recent
    });
    if obeyed {
        draft.event("Reseeding", format!("{name} fetches a new base copy"), "requested");
        draft.clear(RequestKind::Reseed);
    } else {
        send_reseed(view, draft, name, status);
    }
}

pub(super) fn refuse_reseed(view: &View, leading: &NodeStatus, name: &NodeName) -> Option<String> {
    let Some(instance) = view.instance(name) else { return Some("there is no such instance".to_owned()) };
    if leading.name == *name {
        return Some("it is the leader; switch over first".to_owned());
    }
    let status = instance.status().filter(|status| view.is_ours(status));
    let Some(status) = status.filter(|_| view.is_reachable(instance)) else {
        return Some("it can't be reached".to_owned());
    };
    let pair = view.status().config.as_ref()?;
    let member = status.member();
    let mut others = view.answering();
    others.remove(&member);
    let needed = pair.counts(&member) && !pair.standing().all(|config| config.is_durable(&others));
    needed.then(|| "without its copy writes would stop".to_owned())
}

/// Removes one surplus instance whose copy nobody counts any more. The config change that lets go of it comes first. A leader
/// that writes with this config has to be seen: the status may be older than the nodes, and this the only copy that is left.
pub(super) fn remove_surplus(view: &View, draft: &mut Draft) {
    let (status, wanted) = (view.status(), wanted_names(view));
    let in_force = status.config.as_ref().filter(|pair| pair.next.is_none()).map(|pair| &pair.current);
    let serves = view.leading().is_some_and(|leading| leading.opened);
    if status.phase != Phase::Steady || !serves || !in_force.is_some_and(|config| view.can_commit(config)) {
        return;
    }
    let surplus = view.observed.instances.iter().rev().find(|(name, instance)| {
        instance.lifecycle != Lifecycle::Deleting && !wanted.contains(*name) && !counts(view, name)
    });
    if let Some((name, instance)) = surplus {
        let incarnation = instance.status().map(|status| status.incarnation);
        draft.act(Action::DeleteInstance { name: name.clone(), incarnation });
    }
}
