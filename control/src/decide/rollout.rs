//! Rolling updates and drained machines. Instances that differ from what the spec asks for are renewed one at a time: the
//! followers first, each caught up and streaming again before the next, the leader last, by a switchover. A leader whose
//! machine is being emptied is switched over before anything else; a follower there is simply let go.
//!
//! The step under way stands in the status, so that another operator goes on with it and a follower that never catches up
//! stops the update instead of letting the next one follow.
//!
//! An instance is ended only if writes can go on without its copy. Where the sync set has a spare member, or may be made
//! smaller (`degrade`, `syncSet: one`), a config change lets go of it first. Where every copy is asked for (`sync`, or two
//! instances) and nothing may be given up, writes wait for the restart: none is acknowledged with fewer copies than asked
//! for, and it is done only while all the others are well.

use std::cmp::Reverse;
use std::time::Duration;

use rdb_protocol::status::{NodeState, NodeStatus};
use rdb_protocol::{Index, Member, NodeName};

use super::draft::Draft;
use super::membership::wanted_names;
use super::switchover;
use super::target::target;
use super::view::{View, list};
use crate::observed::InstanceObservation;
use crate::plan::Action;
use crate::status::Rollout;

/// After a switchover that nobody asked for was called off, the next is tried no sooner: each attempt holds up writes for
/// up to five seconds.
const PAUSE_AFTER_CALLING_OFF: Duration = Duration::from_secs(30);

/// Goes on with what is to be renewed or left. Called when an open leader is there and nothing else is under way.
pub(super) fn go_on(view: &View, draft: &mut Draft) {
    let Some(leading) = view.leading().filter(|leading| leading.opened) else { return };
    let drained = view.instance(&leading.name).filter(|instance| instance.draining);
    if drained.is_some_and(|instance| leave_drained_machine(view, draft, leading, instance)) {
        return;
    }
    match &view.status().rollout {
        Some(rollout) => renew(view, draft, leading, rollout),
        // The followers are those that may take over: none of them is ended now.
        None if drained.is_some() => {}
        None => next(view, draft, leading),
    }
}

/// True: a switchover away from a machine that is being emptied was started.
fn leave_drained_machine(view: &View, draft: &mut Draft, leading: &NodeStatus, instance: &InstanceObservation) -> bool {
    let machine = instance.node.as_deref().unwrap_or("its machine");
    let evidence = format!("{} has to leave {machine}", leading.name);
    switch_over(view, draft, leading, &evidence, |instance| !instance.draining)
}

/// Makes the best follower that passes `fit` the leader. True: decided.
fn switch_over(
    view: &View,
    draft: &mut Draft,
    leading: &NodeStatus,
    evidence: &str,
    fit: impl Fn(&InstanceObservation) -> bool,
) -> bool {
    if let Some(at) = view.status().switchover_called_off_unix_ms {
        let since = Duration::from_millis(view.observed.unix_ms.saturating_sub(at));
        if let Some(left) = PAUSE_AFTER_CALLING_OFF.checked_sub(since).filter(|left| !left.is_zero()) {
            draft.wake(view, view.now.plus(left));
            draft
                .updating
                .get_or_insert(format!("{evidence}; the last switchover was called off, another one follows"));
            return false;
        }
    }
    let running = kept(view).filter(|(name, instance)| **name != leading.name && fit(instance));
    let able = running.filter_map(|(name, _)| switchover::fit_target(view, leading, name).ok());
    let rank = |member: &Member| {
        let acknowledged = view.progress(member).map_or(Index::ZERO, |progress| progress.acknowledged);
        (Reverse(acknowledged), member.name.clone())
    };
    match able.min_by_key(rank) {
        Some(member) => {
            switchover::begin(view, draft, &member.name, evidence);
            true
        }
        None => {
            draft.updating.get_or_insert(format!("{evidence}, but no follower can take over now"));
            false
        }
    }
}

/// Chooses the instance to renew next.
fn next(view: &View, draft: &mut Draft, leading: &NodeStatus) {
    let outdated: Vec<(&NodeName, &InstanceObservation)> =
        kept(view).filter(|(_, instance)| instance.outdated.is_some()).collect();
    let Some(reason) = outdated.iter().find_map(|(_, instance)| instance.outdated.clone()) else { return };
    // Those that are down come first: renewing them may be what brings them back, and takes nothing away.
    let followers = outdated.iter().filter(|(name, _)| **name != leading.name);
    let first = followers.min_by_key(|(name, instance)| (is_well(view, instance), (*name).clone()));
    let Some((name, instance)) = first else {
        renew_leader(view, draft, leading, &reason);
        return;
    };
    let unwell = unwell_others(view, leading, name);
    if is_well(view, instance) && !unwell.is_empty() {
        let names = list(&unwell);
        draft.updating.get_or_insert(format!("Rolling update ({reason}) waits until {names} caught up"));
        return;
    }
    if let Spare::No(missing) = spare(view, leading, name) {
        draft.updating.get_or_insert(format!("Rolling update ({reason}) waits until {missing} can be reached"));
        return;
    }
    begin(view, draft, name, instance.outdated.clone().unwrap_or(reason));
}

/// Instances that run and are to stay.
fn kept<'a>(view: &View<'a>) -> impl Iterator<Item = (&'a NodeName, &'a InstanceObservation)> {
    let wanted = wanted_names(view);
    view.running().filter(move |(name, _)| wanted.contains(*name))
}

/// Followers other than `name` that are not caught up and streaming.
fn unwell_others<'a>(view: &View<'a>, leading: &NodeStatus, name: &NodeName) -> Vec<&'a NodeName> {
    let others = kept(view).filter(|(other, _)| **other != leading.name && *other != name);
    others.filter(|(_, instance)| !is_well(view, instance)).map(|(name, _)| name).collect()
}

/// Caught up and streaming, and not about to stop: a process that was told to end serves on for seconds.
fn is_well(view: &View, instance: &InstanceObservation) -> bool {
    let well = |status: &NodeStatus| {
        view.is_reachable(instance) && status.state == NodeState::Streaming && view.is_caught_up(&status.member())
    };
    !instance.ending && instance.status().is_some_and(well)
}

/// Only the leader is left.
fn renew_leader(view: &View, draft: &mut Draft, leading: &NodeStatus, reason: &str) {
    let alone = kept(view).count() == 1;
    if !alone {
        let evidence = format!("rolling update of {}: {reason}", leading.name);
        switch_over(view, draft, leading, &evidence, |instance| !instance.draining && instance.outdated.is_none());
    } else if view.in_maintenance() || !view.cluster.failover_enabled {
        // Its next process has to be elected.
        draft.updating.get_or_insert(format!("Rolling update ({reason}) waits until elections are allowed again"));
    } else {
        begin(view, draft, &leading.name, reason.to_owned());
    }
}

fn begin(view: &View, draft: &mut Draft, name: &NodeName, reason: String) {
    draft.event("InstanceRenewalStarted", format!("{name} is ended and started anew: {reason}"), "");
    let rollout = Rollout { instance: name.clone(), reason, started_unix_ms: view.observed.unix_ms, stopped: false };
    draft.decide(|status| status.rollout = Some(rollout));
}

/// The step under way: end the instance, then wait until it has caught up.
fn renew(view: &View, draft: &mut Draft, leading: &NodeStatus, rollout: &Rollout) {
    let name = &rollout.instance;
    let instance = kept(view).find(|(running, _)| *running == name).map(|(_, instance)| instance);
    let Some(instance) = instance else {
        draft.decide(|status| status.rollout = None);
        return;
    };
    let leads = leading.name == *name;
    match &instance.outdated {
        // It was made the leader meanwhile: it has to be switched over first.
        Some(_) if leads && kept(view).count() > 1 => draft.decide(|status| status.rollout = None),
        // It was told, and that takes its time; if it never ends, the update stops like any other.
        Some(_) if instance.ending => wait_for(view, draft, rollout),
        Some(_) => end(view, draft, leading, rollout, instance),
        None if (leads && !instance.ending) || is_well(view, instance) => {
            draft.event("InstanceRenewed", format!("{name} is up to date and has caught up"), "");
            draft.decide(|status| status.rollout = None);
        }
        None => wait_for(view, draft, rollout),
    }
}

/// Ends the instance if writes can go on without it.
fn end(view: &View, draft: &mut Draft, leading: &NodeStatus, rollout: &Rollout, instance: &InstanceObservation) {
    let name = &rollout.instance;
    if rollout.stopped {
        // What it did not catch up with has changed since: a new attempt, with a time of its own.
        begin(view, draft, name, instance.outdated.clone().unwrap_or_else(|| rollout.reason.clone()));
        return;
    }
    match spare(view, leading, name) {
        Spare::Yes => {
            let incarnation = instance.status().map(|status| status.incarnation);
            draft.updating.get_or_insert(format!("Rolling update: {name} is started anew ({})", rollout.reason));
            draft.act(Action::RecreateInstance { name: name.clone(), incarnation });
        }
        Spare::AfterConfigChange => {
            draft.updating.get_or_insert(format!("Rolling update: the sync set has to let go of {name} first"));
        }
        Spare::No(missing) => {
            let why = format!("writes could not go on without its copy while {missing} can't be reached");
            draft.warn("InstanceRenewalCalledOff", format!("{name} is not renewed now: {why}"), "");
            draft.decide(|status| status.rollout = None);
        }
    }
}

/// Can this instance's copy be done without for a while?
enum Spare {
    Yes,
    AfterConfigChange,
    /// Not while these members are out of reach.
    No(String),
}

fn spare(view: &View, leading: &NodeStatus, name: &NodeName) -> Spare {
    let Some(pair) = &view.status().config else { return Spare::AfterConfigChange };
    let answering = view.answering();
    let ending = |member: &Member| view.instance(&member.name).is_some_and(|instance| instance.ending);
    let mut others = answering.clone();
    others.retain(|member| member.name != *name && !ending(member));
    // It is down already, or nobody needs it.
    let is_down = !answering.iter().any(|member| member.name == *name);
    if is_down || pair.standing().all(|config| config.is_durable(&others)) {
        return Spare::Yes;
    }
    let keeps = |target: super::target::Target| target.cohort.iter().any(|member| member.name == *name);
    if target(view, leading).is_some_and(|target| !keeps(target)) {
        return Spare::AfterConfigChange;
    }
    let missing = pair.current.cohort.iter().filter(|member| member.name != *name && !others.contains(member));
    let missing: Vec<&NodeName> = missing.map(|member| &member.name).collect();
    if missing.is_empty() { Spare::Yes } else { Spare::No(list(missing)) }
}

fn wait_for(view: &View, draft: &mut Draft, rollout: &Rollout) {
    let name = &rollout.instance;
    let elapsed = Duration::from_millis(view.observed.unix_ms.saturating_sub(rollout.started_unix_ms));
    if let Some(left) = view.cluster.catch_up_timeout.checked_sub(elapsed).filter(|left| !left.is_zero()) {
        draft.wake(view, view.now.plus(left));
        draft.updating.get_or_insert(format!("Rolling update: waits until {name} has caught up"));
        return;
    }
    let stuck = view.instance(name).and_then(|instance| instance.stuck.as_deref());
    let why = stuck.map_or(String::new(), |stuck| format!(" ({stuck})"));
    let message = format!(
        "The rolling update stopped: {name} has not caught up within seeding.catchUpTimeout{why}. It goes on when it has, \
         or when the spec changes"
    );
    draft.updating.get_or_insert(message.clone());
    if !rollout.stopped {
        draft.warn("RolloutStopped", message, rollout.reason.clone());
        draft.decide(|status| {
            if let Some(rollout) = &mut status.rollout {
                rollout.stopped = true;
            }
        });
    }
}
