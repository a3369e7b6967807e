//! The decisions. `decide` reads from top to bottom as the order in which concerns come:
//!
//! | module | concern |
//! | --- | --- |
//! | [`lost`] | the stored status is older than the nodes |
//! | [`bootstrap`] | the first node of a new cluster |
//! | [`elect`] | an election is under way: fence, recruits, choice (rules 4, 7, 8) |
//! | [`open`] | the chosen leader is promoted until it is open (rules 9, 13, 14) |
//! | [`failover`], [`detect`] | the open leader failed: evidence, what holds a failover back, its start |
//! | [`forced`] | two configs that can't be met, and a person's word |
//! | [`config_change`], [`target`] | which config is wanted, and rule 15 |
//! | [`switchover`] | planned change of the leader |
//! | [`rollout`] | rolling updates and drained machines: one instance at a time, the leader last |
//! | [`membership`] | instances: create, initialise, point at the leader, re-seed, remove |
//! | [`layout`] | row changes for all, and new base copies, after the log carried row changes alone |
//! | [`lease`] | rules 16 and 17 |
//! | [`forecast`], [`receipt`], [`report`] | what people are told |
//! | [`view`], [`draft`] | questions about what was observed; the plan in the making |
//!
//! Only what was swapped into the status and read back is acted on. What is decided depends on (epoch, leaderEpoch,
//! opened, config, switchover); `phase` is the word for it.

mod bootstrap;
mod config_change;
mod detect;
mod draft;
mod elect;
mod failover;
mod forced;
mod forecast;
mod layout;
mod lease;
mod lost;
mod membership;
mod open;
mod receipt;
mod report;
mod rollout;
mod switchover;
mod target;
mod view;

use std::time::Duration;

use crate::cluster::Cluster;
use crate::observed::{Lifecycle, Observed};
use crate::plan::{Action, Plan, RequestKind};
use crate::status::Phase;
use crate::time::Time;
use draft::Draft;
use view::View;

/// A call that was not answered by a node in reach is repeated no sooner than this: the default heartbeat interval, so
/// that repeating costs no more than the status streams do.
pub const CALL_RETRY: Duration = Duration::from_millis(250);

/// A call that was obeyed without showing in the reports, was refused, or goes to a node out of reach, is repeated no
/// sooner than this.
pub const REPEAT_DONE: Duration = Duration::from_secs(1);

/// Settings and addresses that a node took are said again so often: a call that was under way for long may have put older
/// ones in their place. Three hundred databases of three instances make thirty small calls a second of it.
pub const RESYNC: Duration = Duration::from_secs(30);

/// Positions in the status are refreshed this often when nothing else changes: every write goes to the API server's disk.
pub const REFRESH_INTERVAL: Duration = Duration::from_secs(10);

/// Between two writes that only tell people something, so that a flapping node does not turn into a stream of writes.
pub const DESCRIBE_INTERVAL: Duration = Duration::from_secs(1);

/// What to do now. Pure and total: the same arguments give the same plan, and every argument gives one. Without the
/// operator's Lease the plan is empty.
pub fn decide(cluster: &Cluster, observed: &Observed, now: Time) -> Plan {
    if observed.lease_held_since.is_none() {
        return Plan::default();
    }
    let view = View { cluster, observed, now };
    let mut draft = Draft::new(&view);
    if !lost::go_on(&view, &mut draft) {
        manage(&view, &mut draft);
    }
    lease::answer_leader(&view, &mut draft);
    report::describe(&view, &mut draft);
    let swap = is_worth_writing(&view, &mut draft);
    if swap && draft.leaderless && draft.blocked.is_some() && draft.status.message != observed.status.message {
        let message = draft.status.message.clone();
        draft.warn("NoLeader", message, "");
    }
    draft.finish(swap)
}

fn manage(view: &View, draft: &mut Draft) {
    drop_stale_permission(view, draft);
    if hibernate(view, draft) || layout::note(view, draft) {
        return;
    }
    if !view.cluster.paused {
        membership::run_instances(view, draft);
    }
    if bootstrap::go_on(view, draft) {
        return;
    }
    if !view.cluster.paused {
        membership::initialise(view, draft);
    }
    let status = view.status();
    if status.epoch > status.leader_epoch {
        elect::go_on(view, draft);
        return;
    }
    membership::point_followers(view, draft);
    if !view.is_opened() {
        if !open::go_on(view, draft) && !forced::go_on(view, draft) {
            change_config(view, draft);
        }
        if view.leading().is_some() {
            draft.block(open::waiting_sentence(view));
        }
        return;
    }
    open::promote(view, draft);
    if failover::watch(view, draft) || view.cluster.paused {
        return;
    }
    run_steadily(view, draft);
}

/// An open leader is there.
fn run_steadily(view: &View, draft: &mut Draft) {
    switchover::resume_writes(view, draft);
    if switchover::go_on(view, draft) || view.status().switchover.is_some() {
        return;
    }
    drop_needless_permission(view, draft);
    if forced::go_on(view, draft) || change_config(view, draft) {
        return;
    }
    let changing = view.status().config.as_ref().is_some_and(|config| config.next.is_some());
    if changing || switchover::start(view, draft) {
        return;
    }
    if layout::forget(view, draft) {
        return;
    }
    membership::reseed(view, draft);
    layout::go_on(view, draft);
    membership::remove_surplus(view, draft);
    rollout::go_on(view, draft);
}

/// Rule 15, before and after opening. True: something was decided.
fn change_config(view: &View, draft: &mut Draft) -> bool {
    config_change::go_on(view, draft) || (!view.cluster.paused && config_change::start(view, draft))
}

/// A permission to lose records is for one epoch; one for an epoch that has passed is not kept for later.
fn drop_stale_permission(view: &View, draft: &mut Draft) {
    if let Some(epoch) = view.observed.requests.accept_data_loss.filter(|epoch| *epoch < view.status().epoch) {
        // Until the choice is made, it is the permission that the election was started with.
        if view.status().has_leader() {
            draft.warn(
                "PermissionDropped",
                format!("The permission to lose data was for epoch {epoch}, which has passed"),
                "",
            );
            draft.clear(RequestKind::AcceptDataLoss);
        }
    }
}

/// A permission for the present epoch while its leader is well would stand until a later failover, and then lose what nobody
/// was asked about.
fn drop_needless_permission(view: &View, draft: &mut Draft) {
    let well = view.leading().is_some_and(|leading| leading.opened)
        && view.status().config.as_ref().is_some_and(|pair| pair.standing().all(|config| view.can_commit(config)));
    if view.loss_accepted() && well {
        let epoch = view.status().epoch;
        draft.warn(
            "PermissionDropped",
            format!("The permission to lose data in epoch {epoch} is not needed: its leader is well and commits"),
            "",
        );
        draft.clear(RequestKind::AcceptDataLoss);
    }
}

/// True: the cluster sleeps, or is being put to sleep. Waking up needs nothing here: its instances are started, and the
/// leader's new process does not lead, so it is elected anew.
fn hibernate(view: &View, draft: &mut Draft) -> bool {
    if !view.cluster.hibernated || view.cluster.paused {
        return view.cluster.hibernated;
    }
    for (name, instance) in &view.observed.instances {
        if instance.lifecycle == Lifecycle::Running {
            draft.act(Action::StopInstance { name: name.clone() });
        }
    }
    true
}

/// Writes decisions at once, news after a short pause, and positions now and then.
fn is_worth_writing(view: &View, draft: &mut Draft) -> bool {
    if draft.has_decided() {
        return true;
    }
    if draft.status == *view.status() {
        return false;
    }
    let interval = if report::differs(view.status(), &draft.status) { DESCRIBE_INTERVAL } else { REFRESH_INTERVAL };
    match view.observed.status_written_at.map(|at| at.plus(interval)).filter(|at| *at > view.now) {
        Some(at) => {
            draft.wake(view, at);
            false
        }
        // What nobody asked to be told of a phase that just ended is not worth a write of its own.
        None => draft.status.phase != Phase::Hibernated || view.status().phase != Phase::Hibernated,
    }
}
