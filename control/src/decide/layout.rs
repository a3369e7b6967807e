//! After the format `logical`: followers that applied row changes have the leader's rows on pages of their own, which neither
//! page images nor statements can be applied to. They are given new base copies, one at a time, each only while the
//! durability rule can be met without it and all others follow; until the last of them has one, the leader's records carry
//! row changes beside the rest ([`View::settings`]).

use rdb_protocol::settings::LogFormat;
use rdb_protocol::status::NodeState;

use super::draft::Draft;
use super::membership::{refuse_reseed, send_reseed};
use super::view::View;
use crate::observed::CallKey;
use crate::plan::{AdminCall, CallKind};

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
    // One at a time: all that follow must be able to go on.
    if followers().any(|(_, instance, status)| !view.is_reachable(instance) || status.state != NodeState::Streaming) {
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
