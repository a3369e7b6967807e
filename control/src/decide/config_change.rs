//! Config changes (rule 15): propose `next`, tell the leader, settle, and swap in `current` on its report.
//!
//! An operator that finds `next` in the status goes on from there; so does the leader of a later epoch, which was promoted
//! with both.

use std::time::Duration;

use rdb_protocol::admin::{NextConfig, Settle};
use rdb_protocol::status::{NodeStatus, SettleReport};
use rdb_protocol::{BOOTSTRAP_VERSION, ClusterConfig, ConfigPair, Member};

use super::draft::{AfterDone, Draft};
use super::target::target;
use super::view::{View, list};
use crate::observed::{CallKey, CallOutcome};
use crate::plan::{AdminCall, CallKind};
use crate::status::Phase;

/// Starts a change if the config should be another one, before opening only if the leader can't open otherwise. True: it
/// was decided.
pub(super) fn start(view: &View, draft: &mut Draft) -> bool {
    let status = view.status();
    let (Some(leading), Some(pair)) = (view.leading(), &status.config) else { return false };
    if pair.next.is_some() || (!leading.opened && view.can_commit(&pair.current)) {
        return false;
    }
    if let Some(left) = pause_left(view) {
        draft.wake(view, view.now.plus(left));
        return false;
    }
    wake_for_absent(view, draft, &pair.current);
    let Some(target) = target(view, leading) else { return false };
    if target.is(&pair.current) && pair.current.version != BOOTSTRAP_VERSION {
        return false;
    }
    let version = status.config_version.max(pair.version()).saturating_add(1);
    let next = ClusterConfig { version, cohort: target.cohort, acks: target.acks };
    draft.event("ConfigChangeStarted", describe("Changing to", &next), describe("from", &pair.current));
    let opened = view.is_opened();
    draft.decide(|status| {
        status.config_version = version;
        rdb_protocol::if_planted!(Rewritten => {
            if pair.current.version != BOOTSTRAP_VERSION {
                status.config = Some(ConfigPair::settled(next));
                return;
            }
        });
        if let Some(pair) = &mut status.config {
            pair.next = Some(next);
        }
        if opened {
            status.phase = Phase::Reconfiguring;
        }
    });
    true
}

/// After a change was given up: a member that comes and goes, or a leader that refuses, must not turn into a stream of
/// changes. The default `syncTimeout`, the time scale on which members count as gone.
const PAUSE_AFTER_GIVING_UP: Duration = Duration::from_secs(10);

fn pause_left(view: &View) -> Option<Duration> {
    let at = view.status().config_given_up_unix_ms?;
    let since = Duration::from_millis(view.observed.unix_ms.saturating_sub(at));
    PAUSE_AFTER_GIVING_UP.checked_sub(since).filter(|left| !left.is_zero())
}

/// Looks again when a member has been away for `syncTimeout`.
fn wake_for_absent(view: &View, draft: &mut Draft, config: &ClusterConfig) {
    for member in config.cohort.iter().filter(|member| !view.answers(member)) {
        if let Some(left) = view.cluster.sync_timeout.checked_sub(view.absent_for(member)) {
            draft.wake(view, view.now.plus(left));
        }
    }
}

fn describe(verb: &str, config: &ClusterConfig) -> String {
    let names = list(config.cohort.iter().map(|member| &member.name));
    let copies = if config.acks == 1 { "follower copy" } else { "follower copies" };
    format!("{verb} config {}: a write needs {} {copies}, out of {names}", config.version, config.acks)
}

/// Goes on with the change that stands. True: it ended in this plan.
pub(super) fn go_on(view: &View, draft: &mut Draft) -> bool {
    let status = view.status();
    let (Some(leading), Some(leader), Some(pair)) = (view.leading(), &status.leader, &status.config) else {
        return false;
    };
    let Some(next) = &pair.next else { return false };
    if let Some(report) = settled_report(view, leading, next) {
        if report.committed {
            finish(view, draft, pair, report);
            return true;
        }
        draft.block(format!("{} waits for enough copies of its record", describe("Changing to", &report.keep)));
        return false;
    }
    let knows = leading.config.as_ref().is_some_and(|known| known.next.as_ref() == Some(next));
    let answer = told(view, CallKind::NextConfig, |call| matches!(call, AdminCall::NextConfig(c) if c.next == *next));
    let refused = !knows && matches!(answer, Some(CallOutcome::Refused(_))) && view.can_commit(&pair.current);
    let given_up = refused.then(|| as_before(view, pair, next)).flatten();
    if !knows && given_up.is_none() {
        let call = AdminCall::NextConfig(NextConfig { epoch: status.epoch, next: next.clone() });
        draft.call(view, &leader.name, call, AfterDone::Repeat);
        return false;
    }
    match given_up.or_else(|| keep(view, pair, next)) {
        Some(keep) => {
            let call = AdminCall::Settle(Settle { epoch: status.epoch, version: next.version, keep });
            draft.call(view, &leader.name, call, AfterDone::Repeat);
        }
        None => {
            wake_for_absent(view, draft, next);
            draft.block(format!(
                "{} waits for enough members in reach; there are {}",
                describe("Changing to", next),
                list(view.answering().iter().map(|member| &member.name)),
            ));
        }
    }
    false
}

/// Its report of this very change; those of other epochs and versions are refused.
fn settled_report<'a>(view: &View, leading: &'a NodeStatus, next: &ClusterConfig) -> Option<&'a SettleReport> {
    rdb_protocol::if_planted!(StaleReport => { return leading.settled.as_ref(); });
    let ours = |report: &&SettleReport| report.epoch == view.status().epoch && report.version == next.version;
    leading.settled.as_ref().filter(ours)
}

/// How the leader answered the last call of this kind, if it was this one.
fn told<'a>(view: &View<'a>, kind: CallKind, is_it: impl Fn(&AdminCall) -> bool) -> Option<&'a CallOutcome> {
    let key = CallKey { to: view.status().leader.as_ref()?.name.clone(), kind };
    let record = view.observed.calls.get(&key).filter(|record| is_it(&record.call))?;
    record.outcome.as_ref()
}

/// What to keep when the change is given up. `None`: not yet. The first change waits until members that it needs have been
/// away for `syncTimeout`: before it has ended nobody may write, so there is no hurry to go back.
fn as_before(view: &View, pair: &ConfigPair, next: &ClusterConfig) -> Option<ClusterConfig> {
    let here = |member: &&Member| view.absent_for(member) < view.cluster.sync_timeout;
    let hopeless = !next.is_durable(next.cohort.iter().filter(here));
    let may = pair.current.version != BOOTSTRAP_VERSION || hopeless;
    may.then(|| pair.current.after_giving_up(next.version))
}

/// Which of the two to keep: the new one if it can be met, else the old one. The leader obeys the first answer in its
/// epoch, so what was asked once is asked again.
fn keep(view: &View, pair: &ConfigPair, next: &ClusterConfig) -> Option<ClusterConfig> {
    rdb_protocol::if_planted!(SettledTwice => {
        return std::iter::once(next.clone()).chain(as_before(view, pair, next)).find(|config| view.can_commit(config));
    });
    let key = CallKey { to: view.status().leader.as_ref()?.name.clone(), kind: CallKind::Settle };
    let asked = view.observed.calls.get(&key).and_then(|record| match (&record.call, &record.outcome) {
        (_, Some(CallOutcome::Refused(_))) => None,
        (AdminCall::Settle(settle), _) => Some(settle),
        _ => None,
    });
    if let Some(asked) = asked.filter(|asked| asked.epoch == view.status().epoch && asked.version == next.version) {
        return Some(asked.keep.clone());
    }
    std::iter::once(next.clone()).chain(as_before(view, pair, next)).find(|config| view.can_commit(config))
}

fn finish(view: &View, draft: &mut Draft, pair: &ConfigPair, report: &SettleReport) {
    let kept = report.keep.clone();
    let given_up = pair.next.as_ref() != Some(&kept);
    if given_up {
        draft.warn("ConfigChangeGivenUp", describe("Still in force:", &kept), "the new members could not be reached");
    } else {
        draft.event("ConfigChanged", describe("In force:", &kept), describe("before:", &pair.current));
    }
    draft.decide(|status| {
        status.config = Some(ConfigPair::settled(kept));
        status.config_given_up_unix_ms = given_up.then_some(view.observed.unix_ms);
        if status.phase == Phase::Reconfiguring {
            status.phase = Phase::Steady;
        }
    });
}

/// A planted bug: K and W are changed while nobody leads, from what the last leader's followers look like.
#[cfg(feature = "planted")]
pub(super) fn during_election(view: &View, draft: &mut Draft) -> bool {
    let status = view.status();
    let Some(pair) = status.config.as_ref().filter(|pair| pair.next.is_none()) else { return false };
    let cohort: std::collections::BTreeSet<rdb_protocol::Member> = view.likely_recruits();
    if cohort == pair.current.cohort || cohort.len() <= pair.current.acks as usize {
        return false;
    }
    let version = status.config_version.max(pair.version()).saturating_add(1);
    let next = ClusterConfig { version, cohort, acks: pair.current.acks };
    draft.decide(|status| {
        status.config_version = version;
        status.config = Some(ConfigPair::settled(next));
    });
    true
}
