//! A plan in the making. It keeps the promises that a [`Plan`] makes: one decision per plan, swapped in last; calls that
//! are in flight or were refused a moment ago are not sent again; one wake-up.

use std::time::Duration;

use rdb_protocol::NodeName;

use super::view::View;
use super::{CALL_RETRY, REPEAT_DONE, RESYNC};
use crate::observed::{CallKey, CallOutcome, CallRecord, Connection};
use crate::plan::{Action, AdminCall, Event, Plan, RequestKind};
use crate::status::ClusterStatus;
use crate::time::Time;

pub(super) struct Draft {
    /// The status as it will be.
    pub(super) status: ClusterStatus,
    /// Why the cluster can't go on by itself, for `message`; the first reason given is kept.
    pub(super) blocked: Option<String>,
    /// What the rolling update does or waits for, for `message`.
    pub(super) updating: Option<String>,
    /// The leader is known to be lost while `blocked`.
    pub(super) leaderless: bool,
    actions: Vec<Action>,
    events: Vec<Event>,
    wake: Option<Time>,
    decided: bool,
}

/// What to do about a call that was answered with `Done`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum AfterDone {
    /// The node keeps it for as long as its process lives, unless an older call of the same kind comes late, such as one of an
    /// operator that is gone: it is said again after [`RESYNC`].
    Rest,
    /// Its effect should show in the reports; ask again if it does not.
    Repeat,
}

impl Draft {
    pub(super) fn new(view: &View) -> Draft {
        Draft {
            status: view.status().clone(),
            blocked: None,
            updating: None,
            leaderless: false,
            actions: Vec::new(),
            events: Vec::new(),
            wake: None,
            decided: false,
        }
    }

    /// Makes the one decision of this plan. What depends on it waits for the status to be read back, so nothing else is
    /// decided in the same plan.
    pub(super) fn decide(&mut self, change: impl FnOnce(&mut ClusterStatus)) {
        debug_assert!(!self.decided, "one decision per plan");
        if !self.decided {
            change(&mut self.status);
            self.decided = true;
        }
    }

    pub(super) fn has_decided(&self) -> bool {
        self.decided
    }

    pub(super) fn act(&mut self, action: Action) {
        self.actions.push(action);
    }

    pub(super) fn clear(&mut self, request: RequestKind) {
        self.actions.push(Action::ClearRequest(request));
    }

    pub(super) fn event(&mut self, reason: &str, message: impl Into<String>, evidence: impl Into<String>) {
        self.push_event(reason, message.into(), evidence.into(), false);
    }

    pub(super) fn warn(&mut self, reason: &str, message: impl Into<String>, evidence: impl Into<String>) {
        self.push_event(reason, message.into(), evidence.into(), true);
    }

    fn push_event(&mut self, reason: &str, message: String, evidence: String, warning: bool) {
        self.events.push(Event { reason: reason.to_owned(), message, evidence, warning });
    }

    /// Says what the cluster waits for.
    pub(super) fn block(&mut self, sentence: impl Into<String>) {
        self.blocked.get_or_insert(sentence.into());
    }

    /// Decide again at `time` at the latest. A time that has passed is none: what depended on it was decided just now.
    pub(super) fn wake(&mut self, view: &View, time: Time) {
        if time > view.now {
            self.wake = Some(self.wake.map_or(time, |wake| wake.min(time)));
        }
    }

    /// Sends a call unless the same one is in flight, was obeyed, or failed a moment ago.
    pub(super) fn call(&mut self, view: &View, to: &NodeName, call: AdminCall, after_done: AfterDone) {
        let Some(instance) = view.instance(to) else { return };
        if instance.address.is_none() {
            return;
        }
        let key = CallKey { to: to.clone(), kind: call.kind() };
        let boot = instance.status().map(|status| status.boot);
        let wait = match view.observed.calls.get(&key) {
            None => None,
            Some(record) if !same_intent(&record.call, &call) => None,
            Some(record) => match pause_before_repeat(record, instance.connection, boot, after_done) {
                Pause::For(pause) => Some(record.finished_at.unwrap_or(record.sent_at).plus(pause)),
                Pause::UntilAnswered => return,
            },
        };
        match wait {
            Some(time) if time > view.now => self.wake(view, time),
            _ => self.actions.push(Action::Call { to: to.clone(), call }),
        }
    }

    /// The plan, with the status to be swapped in last.
    pub(super) fn finish(self, swap: bool) -> Plan {
        let Draft { status, blocked: _, updating: _, leaderless: _, mut actions, events, wake, decided: _ } = self;
        actions.extend(events.into_iter().map(Action::Event));
        actions.extend(wake.map(Action::WakeAt));
        if swap {
            actions.push(Action::SwapStatus(Box::new(status)));
        }
        Plan { actions }
    }
}

enum Pause {
    For(Duration),
    UntilAnswered,
}

fn pause_before_repeat(
    record: &CallRecord,
    connection: Connection,
    boot: Option<rdb_protocol::Incarnation>,
    after_done: AfterDone,
) -> Pause {
    match &record.outcome {
        None => Pause::UntilAnswered,
        // A restarted node may have forgotten.
        Some(CallOutcome::Done) if record.boot != boot => Pause::For(Duration::ZERO),
        Some(CallOutcome::Done) if after_done == AfterDone::Rest => Pause::For(RESYNC),
        Some(CallOutcome::Done | CallOutcome::Refused(_)) => Pause::For(REPEAT_DONE),
        Some(CallOutcome::Failed(_)) if connection == Connection::Connected => Pause::For(CALL_RETRY),
        Some(CallOutcome::Failed(_)) => Pause::For(REPEAT_DONE),
    }
}

/// Do two calls ask for the same, apart from what only matters at the moment of sending?
fn same_intent(a: &AdminCall, b: &AdminCall) -> bool {
    match (a, b) {
        (AdminCall::Promote(a), AdminCall::Promote(b)) => {
            let mut a = a.clone();
            a.lease_wait_ms = b.lease_wait_ms;
            // A leader learns of config changes by rule 15's own calls; a promotion that is still wanted has the latest.
            a.config = b.config.clone();
            a == *b
        }
        (a, b) => a == b,
    }
}
