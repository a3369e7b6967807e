//! Time: when a new leader may open (rules 16 and 17), and the operator's lease answers of async mode (rule 17).
//!
//! Every age is counted from the receipt of the answer that stated it, which can only make the wait longer.

use std::collections::BTreeSet;
use std::time::Duration;

use rdb_protocol::admin::{LeaseAnswer, Recruit};
use rdb_protocol::{ConfigPair, Epoch, Member};

use super::draft::Draft;
use super::elect::recruits;
use super::view::View;
use crate::plan::Action;
use crate::time::Time;

/// For how long the leader of the present epoch has to wait before it opens, from now.
pub(super) fn promotion_wait(view: &View) -> Duration {
    let full = view.cluster.lease_wait();
    let Some(config) = &view.status().config else { return full };
    let Some(election) = &view.status().election else { return full };
    let (replaced, replaced_epoch) = (election.replaced.as_ref(), election.replaced_epoch);
    let answers: Vec<(&Recruit, Time)> = recruits(view).collect();
    if old_leader_surely_stopped(view, replaced, replaced_epoch, &answers) {
        return Duration::ZERO;
    }
    let recruits_wait = youngest_answer(config, &answers).map_or(full, |at| at.plus(full).since(view.now));
    recruits_wait.max(operator_wait(view, config))
}

/// The only leader that can hold a lease is the one that was open in the epoch before: was its process proved to have
/// ended, or did it answer our fence (which ends its lease)?
fn old_leader_surely_stopped(
    view: &View,
    replaced: Option<&Member>,
    replaced_epoch: Epoch,
    answers: &[(&Recruit, Time)],
) -> bool {
    let Some(replaced) = replaced else {
        // The first election of a new cluster. (A rebuilt status does not know whom it replaces: no shortcut.)
        return replaced_epoch == Epoch::ZERO && view.status().epoch == Epoch(1);
    };
    let proof = view.status().opened.is_some_and(|opened| {
        let exited = |boot| view.instance(&replaced.name).is_some_and(|i| i.exited_boots.contains(boot));
        opened.epoch == replaced_epoch && exited(&opened.boot)
    });
    rdb_protocol::if_planted!(Shortcut => {
        return proof || answers.iter().any(|(recruit, _)| recruit.member == *replaced);
    });
    proof || answers.iter().any(|(recruit, _)| recruit.member == *replaced && recruit.had_opened)
}

/// When a recruit last answered an older leader; `None` if they are too few to say it for every possible lease.
fn youngest_answer(config: &ConfigPair, answers: &[(&Recruit, Time)]) -> Option<Time> {
    let members: BTreeSet<Member> = answers.iter().map(|(recruit, _)| recruit.member.clone()).collect();
    if !config.is_electable(&members, None) {
        return None;
    }
    let counted = answers.iter().filter(|(recruit, _)| config.counts(&recruit.member));
    counted.map(|(recruit, at)| at.minus(Duration::from_millis(recruit.answered_ms_ago))).max()
}

/// Rule 17: what is left of a lease that an operator gave. Before we held our own Lease another one may have answered.
fn operator_wait(view: &View, config: &ConfigPair) -> Duration {
    if !leases_by_operator(config) {
        return Duration::ZERO;
    }
    let answered = view.observed.lease_answered.map(|answered| answered.at);
    let held = view.observed.lease_held_since.unwrap_or(view.now);
    answered.map_or(held, |at| at.max(held)).plus(view.cluster.lease_wait()).since(view.now)
}

/// A cluster of one member needs no lease.
fn leases_by_operator(config: &ConfigPair) -> bool {
    config.standing().any(|standing| standing.acks == 0 && standing.cohort.len() > 1)
}

/// Answers the leader's request while it is the leader for sure; never in a plan that starts an election.
pub(super) fn answer_leader(view: &View, draft: &mut Draft) {
    let status = view.status();
    let Some(leader) = status.leader.as_ref().filter(|_| status.has_leader()) else { return };
    if draft.status.epoch != status.epoch || draft.leaderless {
        return;
    }
    let Some(request) = view.leading().and_then(|leading| leading.lease_request) else { return };
    let done = view.observed.lease_answered.is_some_and(|a| a.epoch == status.epoch && a.request >= request);
    let Some(held_since) = view.observed.lease_held_since else { return };
    let allowed_at = held_since.plus(view.cluster.lease_wait());
    if done {
        return;
    }
    if view.now < allowed_at {
        draft.wake(view, allowed_at);
        return;
    }
    let answer = LeaseAnswer { epoch: status.epoch, request };
    draft.act(Action::AnswerLease { to: leader.name.clone(), answer });
}
