//! After the format `logical`: followers that applied row changes have the leader's rows on pages of their own, which neither
//! page images nor statements can be applied to. They are given new base copies, one at a time, each only while the
//! durability rule can be met without it and all others follow; until the last of them has one, the leader's records carry
//! row changes beside the rest ([`View::settings`]).
//!
//! Whether there may be such nodes is kept in the status, not taken from the reports: a member that is away, or of which a
//! new operator knows nothing yet, would be given pages that it must refuse, and its copy with it. Nor is it enough that a
//! node reports nothing: what it says is about the leader whose records it applied last, and it may lag behind the row
//! changes. So each must have applied a record of this leader as it is that was logged after them.

use rdb_protocol::NodeName;
use rdb_protocol::settings::LogFormat;
use rdb_protocol::status::{NodeState, NodeStatus};

use super::draft::Draft;
use super::membership::{refuse_reseed, send_reseed};
use super::view::{View, is_fit};
use crate::observed::{CallKey, Lifecycle};
use crate::plan::{AdminCall, CallKind};

/// What a node says that was given pages, such as one whose volume was made from a snapshot of when row changes were logged.
pub(super) const OTHER_LAYOUT: &str = "OTHER_LAYOUT";

/// Whose pages matter: what is being deleted and is no member any more is given nothing again. Both decisions look at the same
/// ones, or they would take turns.
fn concerned<'a>(view: &View<'a>) -> impl Iterator<Item = &'a NodeName> {
    let counted = view.status().config.iter().flat_map(|pair| pair.standing()).flat_map(|config| &config.cohort);
    let kept = view.observed.instances.iter().filter(|(_, instance)| instance.lifecycle != Lifecycle::Deleting);
    counted.map(|member| &member.name).chain(kept.map(|(name, _)| name))
}

/// Before anybody is told to log row changes alone, or as soon as it shows that somebody did. True: it was decided.
pub(super) fn note(view: &View, draft: &mut Draft) -> bool {
    let logical = view.cluster.settings().log_format == LogFormat::Logical;
    let mut reports = concerned(view).filter_map(|name| view.instance(name)?.status());
    let differ = logical || reports.any(|status| view.is_ours(status) && status.other_layout);
    if view.status().cluster.is_none() || view.status().layouts_differ || !differ {
        return false;
    }
    draft.decide(|status| status.layouts_differ = true);
    true
}

/// When all are known to have the leader's pages. True: it was decided.
pub(super) fn forget(view: &View, draft: &mut Draft) -> bool {
    let Some(leading) = view.leading().filter(|leading| leading.opened) else { return false };
    let logical = view.cluster.settings().log_format == LogFormat::Logical;
    if !view.status().layouts_differ || logical || leading.other_layout || leading.exact.epoch != view.status().epoch {
        return false;
    }
    let same = |name: &NodeName| {
        let Some(instance) = view.instance(name).filter(|instance| view.is_reachable(instance)) else { return false };
        instance.status().is_some_and(|status| {
            let shown = status.exact.epoch == leading.exact.epoch && status.exact.index >= leading.exact.index;
            view.is_ours(status) && is_fit(status.state) && !status.other_layout && shown
        })
    };
    if !concerned(view).all(|name| *name == leading.name || same(name)) {
        return false;
    }
    draft.decide(|status| status.layouts_differ = false);
    true
}

/// Re-seeds the next follower whose pages are not the leader's.
pub(super) fn go_on(view: &View, draft: &mut Draft) {
    let Some(leading) = view.leading().filter(|leading| leading.opened) else { return };
    // Until the leader writes pages again, a new copy would soon be as different as the old one.
    if view.cluster.settings().log_format == LogFormat::Logical || leading.other_layout {
        return;
    }
    let followers = || {
        let reports = view.running().filter(|(name, _)| **name != leading.name);
        reports.filter_map(|(name, instance)| Some((name, instance, instance.status()?)))
    };
    let Some((name, _, status)) =
        followers().find(|(_, instance, status)| status.other_layout && view.is_reachable(instance))
    else {
        return;
    };
    // One at a time: all that follow must be able to go on, but for those that can do so only with a new copy.
    let goes_on = |status: &NodeStatus| match status.state {
        NodeState::Streaming => true,
        NodeState::CatchingUp => status.problems.iter().any(|problem| problem.code == OTHER_LAYOUT),
        _ => false,
    };
    if followers().any(|(_, instance, status)| !view.is_reachable(instance) || !goes_on(status)) {
        return;
    }
    if !view.is_ours(status) || refuse_reseed(view, leading, name).is_some() {
        return;
    }
    let key = CallKey { to: name.clone(), kind: CallKind::Reseed };
    let told = |call: &AdminCall| matches!(call, AdminCall::Reseed(call) if call.incarnation == status.incarnation);
    let asked = view.observed.calls.get(&key).is_some_and(|record| told(&record.call));
    if !asked {
        let why = "after row changes its pages are not the leader's";
        draft.event("Reseeding", format!("{name} fetches a new base copy"), why);
    }
    send_reseed(view, draft, name, status);
}
