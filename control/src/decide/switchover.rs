//! Planned switchover: stop writes → everything is flushed at the target → an election with the old leader as
//! recruit and the target preferred. Until that election it can be called off at any time.

use std::time::Duration;

use rdb_protocol::admin::{ResumeWrites, StopWrites};
use rdb_protocol::status::NodeStatus;
use rdb_protocol::{Member, NodeName};

use super::detect::Failure;
use super::draft::{AfterDone, Draft};
use super::elect;
use super::open::is_stopped;
use super::view::View;
use crate::plan::{AdminCall, RequestKind};
use crate::status::{Phase, Reason, Switchover};

/// A target this far behind is caught up with in well under a second, so writes stop only briefly.
const MAX_LAG_RECORDS: u64 = 1000;

/// The leader resumes by itself after this: longer than the operator tries, so that it does not resume in the middle.
const STOP_DEADLINE: Duration = Duration::from_secs(10);

/// Called off after this. A switchover takes some heartbeats; what takes longer would rather be told.
const GIVE_UP_AFTER: Duration = Duration::from_secs(5);

/// A request to switch over. True: decided.
pub(super) fn start(view: &View, draft: &mut Draft) -> bool {
    let (Some(target), Some(leading)) = (&view.observed.requests.switchover, view.leading()) else { return false };
    if leading.name == *target {
        draft.event("SwitchoverDone", format!("{target} is the leader"), "");
        draft.clear(RequestKind::Switchover);
        return false;
    }
    if let Err(why) = fit_target(view, leading, target) {
        draft.warn("SwitchoverRefused", format!("No switchover to {target}: {why}"), "");
        draft.clear(RequestKind::Switchover);
        return false;
    }
    begin(view, draft, target, "requested");
    true
}

/// Starts a switchover to a fit target.
pub(super) fn begin(view: &View, draft: &mut Draft, target: &NodeName, evidence: &str) {
    draft.event("SwitchoverStarted", format!("Stopping writes to switch over to {target}"), evidence);
    let switchover = Switchover { target: target.clone(), started_unix_ms: view.observed.unix_ms };
    draft.decide(|status| {
        status.phase = Phase::SwitchingOver;
        status.switchover = Some(switchover);
        status.switchover_called_off_unix_ms = None;
    });
}

/// May this instance be made the leader?
pub(super) fn fit_target(view: &View, leading: &NodeStatus, target: &NodeName) -> Result<Member, String> {
    let instance = view.instance(target).ok_or("there is no such instance")?;
    let status = instance.status().filter(|_| view.is_reachable(instance)).ok_or("it can't be reached")?;
    let member = status.member();
    let progress = view.progress(&member).ok_or("it does not follow the leader")?;
    if !view.status().config.as_ref().is_some_and(|config| config.counts(&member)) {
        return Err("it is not in the sync set".to_owned());
    }
    if !view.is_caught_up(&member) {
        return Err(format!("it is not caught up (it is {:?})", status.state));
    }
    let lag = leading.flushed.index.0.saturating_sub(progress.acknowledged.0);
    if lag > MAX_LAG_RECORDS {
        return Err(format!("it lags {lag} records"));
    }
    Ok(member)
}

/// A switchover is under way and its election has not begun. True: decided.
pub(super) fn go_on(view: &View, draft: &mut Draft) -> bool {
    let Some(switchover) = &view.status().switchover else { return false };
    let elapsed = Duration::from_millis(view.observed.unix_ms.saturating_sub(switchover.started_unix_ms));
    let Some(left) = GIVE_UP_AFTER.checked_sub(elapsed).filter(|left| !left.is_zero()) else {
        call_off(view, draft, &switchover.target, "the target did not get everything in time");
        return true;
    };
    draft.wake(view, view.now.plus(left));
    let Some(leading) = view.leading() else { return false };
    let member = match fit_target(view, leading, &switchover.target) {
        Ok(member) => member,
        Err(why) => {
            call_off(view, draft, &switchover.target, &why);
            return true;
        }
    };
    let deadline_ms = u64::try_from(STOP_DEADLINE.as_millis()).unwrap_or(u64::MAX);
    if !is_stopped(leading) {
        let call = AdminCall::StopWrites(StopWrites { epoch: view.status().epoch, deadline_ms });
        draft.call(view, &leading.name, call, AfterDone::Repeat);
        return false;
    }
    let has_all = view.progress(&member).is_some_and(|progress| progress.acknowledged >= leading.flushed.index);
    if has_all && leading.committed >= leading.flushed.index {
        let evidence = format!("{} has everything up to {}", switchover.target, leading.flushed);
        let failure = Failure { reason: Reason::Switchover, evidence, last_sign: view.now };
        draft.clear(RequestKind::Switchover);
        elect::start(view, draft, &failure, Some(switchover.target.clone()));
        return true;
    }
    false
}

fn call_off(view: &View, draft: &mut Draft, target: &NodeName, why: &str) {
    draft.warn("SwitchoverCalledOff", format!("No switchover to {target}: {why}"), "");
    let requested = view.observed.requests.switchover.as_ref() == Some(target);
    if requested {
        draft.clear(RequestKind::Switchover);
    }
    draft.decide(|status| {
        status.switchover = None;
        status.switchover_called_off_unix_ms = (!requested).then_some(view.observed.unix_ms);
        status.phase = Phase::Steady;
    });
}

/// Writes that were stopped for a switchover that is no more.
pub(super) fn resume_writes(view: &View, draft: &mut Draft) {
    if let Some(leading) = view.leading().filter(|leading| is_stopped(leading))
        && view.status().switchover.is_none()
    {
        let call = AdminCall::ResumeWrites(ResumeWrites { epoch: view.status().epoch });
        draft.call(view, &leading.name, call, AfterDone::Repeat);
    }
}
