//! Elections: rules 4, 7 and 8.
//!
//! `start` swaps in the epoch → every member is fenced → with enough recruits, `choose` swaps in the leader. Nothing here
//! looks at pause, maintenance or cooldown: an election once started ends in a leader (rule 14).

use std::collections::BTreeSet;
use std::time::Duration;

use rdb_protocol::admin::{Fence, Recruit};
use rdb_protocol::status::Role;
use rdb_protocol::{ConfigPair, Epoch, Index, Member, NodeName};

use super::detect::Failure;
use super::draft::{AfterDone, Draft};
use super::view::{View, is_fit, list};
use crate::plan::{AdminCall, RequestKind};
use crate::status::{ClusterStatus, Election, Phase, Reason};
use crate::time::Time;

/// An election that could go on without somebody waits so long for them first: for the switchover's target, and for those
/// who may have more when acknowledged records may be lost. Four times the default heartbeat interval, so that a node that
/// lives has answered, and well below what a client waits.
const RECRUIT_GRACE: Duration = Duration::from_secs(1);

/// An election that another process began is left to it for so long after it was first seen: where a leader can be chosen at
/// once, that takes some milliseconds. Two operators that both act outbid each other once in so long while nobody can be
/// chosen; as soon as somebody can, the one whose epoch it is has done it before.
const OTHERS_ELECTION: Duration = Duration::from_secs(1);

/// After a cold start the old leader may only be slower to boot than its followers. So long it is waited for before
/// acknowledged records are given up without a person's word: a machine's boot.
const COLD_START_GRACE: Duration = Duration::from_secs(60);

/// Answers to the fence of the present epoch by members that still have the data that they answered for.
pub(super) fn recruits<'a>(view: &View<'a>) -> impl Iterator<Item = (&'a Recruit, Time)> {
    let epoch = view.status().epoch;
    let now_ours = view.observed.instances.values();
    now_ours.filter_map(move |instance| {
        let answer = instance.fence_answer.as_ref()?;
        let same_data = instance.status().is_none_or(|status| status.incarnation == answer.recruit.member.incarnation);
        (answer.recruit.epoch == epoch && same_data).then_some((&answer.recruit, answer.received_at))
    })
}

/// Rule 7: swaps in a new epoch.
pub(super) fn start(view: &View, draft: &mut Draft, failure: &Failure, preferred: Option<NodeName>) {
    start_with(view, draft, failure, preferred, |_| {});
}

/// The same, with something else that has to be swapped in together with the epoch.
pub(super) fn start_with(
    view: &View,
    draft: &mut Draft,
    failure: &Failure,
    preferred: Option<NodeName>,
    change: impl FnOnce(&mut ClusterStatus),
) {
    let status = view.status();
    let loss_permitted = view.loss_accepted() || status.election.as_ref().is_some_and(|e| e.loss_permitted);
    let opened = view.is_opened();
    let earlier = status.election.as_ref().filter(|_| !opened);
    // A switchover that went wrong is a failover from there on.
    let cause = earlier.filter(|earlier| earlier.reason != Reason::Switchover);
    // A leader that never opened is no one's loss: the receipt is about the one before it.
    let election = Election {
        reason: match (cold(view), failure.reason) {
            _ if is_rebuilt(view) => Reason::StatusRebuilt,
            (true, Reason::Restarted | Reason::ProcessExited | Reason::Silent | Reason::ConnectionRefused) => {
                Reason::ColdStart
            }
            (_, reason) => cause.map_or(reason, |earlier| earlier.reason),
        },
        evidence: cause.map_or(failure.evidence.clone(), |earlier| earlier.evidence.clone()),
        from: if opened { status.leader.clone() } else { earlier.and_then(|earlier| earlier.from.clone()) },
        from_epoch: if opened {
            status.leader_epoch
        } else {
            earlier.map_or(Epoch::ZERO, |earlier| earlier.from_epoch)
        },
        started_unix_ms: earlier.map_or(view.observed.unix_ms, |earlier| earlier.started_unix_ms),
        detected_ms: earlier.map_or_else(|| millis(view.now.since(failure.last_sign)), |earlier| earlier.detected_ms),
        acknowledged: earlier.map_or_else(|| last_acknowledged(view), |earlier| earlier.acknowledged),
        preferred: preferred.or_else(|| earlier.and_then(|earlier| earlier.preferred.clone())),
        avoided: match failure.reason {
            Reason::NoProgress => status.leader.clone(),
            // The same election under another number.
            Reason::Retry => earlier.and_then(|earlier| earlier.avoided.clone()),
            _ => None,
        },
        attempts: earlier.map_or(0, |earlier| earlier.attempts).saturating_add(1),
        loss_permitted,
        replaced: status.leader.clone(),
        replaced_epoch: status.leader_epoch,
        lossy: earlier.is_some_and(|earlier| earlier.lossy),
        promoted: earlier.and_then(|earlier| earlier.promoted),
    };
    let epoch = status.epoch.max(view.highest_reported().0).max(view.observed.elections.highest).next();
    let message = format!("Electing a leader for epoch {epoch}: {}", failure.evidence);
    draft.event("ElectionStarted", message, &failure.evidence);
    draft.decide(|status| {
        status.epoch = epoch;
        status.phase = Phase::FailingOver;
        status.election = Some(election);
        status.switchover = None;
        change(status);
    });
}

/// No reporting follower has heard a leader since it was started.
fn cold(view: &View) -> bool {
    let mut followers = view.reachable_members().filter(|(_, status)| status.role == Role::Follower).peekable();
    view.status().leader_epoch > Epoch::ZERO
        && followers.peek().is_some()
        && followers.all(|(_, status)| status.leader_heard_ms_ago.is_none())
}

/// Highest index that the leader may have acknowledged as far as its last report goes.
fn last_acknowledged(view: &View) -> Index {
    let leader = view.status().leader.as_ref();
    let report = leader.and_then(|leader| view.instance(&leader.name)?.status());
    report.filter(|status| Some(&status.member()) == leader).map_or(Index::ZERO, |status| status.acknowledged)
}

/// An election is under way: fence everybody, then choose.
pub(super) fn go_on(view: &View, draft: &mut Draft) {
    let status = view.status();
    let Some(config) = &status.config else { return };
    fence_all(view, draft);
    let Some(election) = &status.election else {
        // Only a status that was edited by hand gets here; the election is as good without its reason.
        draft.decide(|status| status.election = Some(unexplained(status.leader.clone(), status.leader_epoch)));
        return;
    };
    let highest = view.highest_reported().0;
    rdb_protocol::if_planted!(ChangeDuringElection => {
        if status.leader_epoch > Epoch::ZERO && super::config_change::during_election(view, draft) {
            return;
        }
    });
    if highest > status.epoch {
        let evidence = format!("a node has promised epoch {highest}");
        start(view, draft, &Failure { reason: Reason::Retry, evidence, last_sign: view.now }, None);
        return;
    }
    if view.observed.elections.own != Some(status.epoch) {
        return begin_anew(view, draft);
    }
    let recruited = Recruited::of(view, config);
    let waits = election_wait(view, election, &recruited, config);
    match recruited.choice(view, config, election) {
        Some(chosen) if waits.is_none() => choose(view, draft, chosen, false),
        Some(_) => {
            draft.wake(view, waits.unwrap_or(view.now));
            draft.block("Waits for the remaining members to answer");
        }
        None => choose_with_loss(view, draft, election, &recruited, config),
    }
}

/// Another process began this election, or the status went back to it: a leader may have been chosen in it and be forgotten.
/// Where the other one still is at work, it is given the time.
fn begin_anew(view: &View, draft: &mut Draft) {
    let until = view.observed.elections.since.plus(OTHERS_ELECTION);
    if until > view.now {
        draft.wake(view, until);
        draft.block("Waits for the election that another operator began");
        return;
    }
    let evidence = "the election was begun by another process".to_owned();
    start(view, draft, &Failure { reason: Reason::Retry, evidence, last_sign: view.now }, None);
}

fn unexplained(replaced: Option<Member>, replaced_epoch: Epoch) -> Election {
    Election {
        reason: Reason::Retry,
        evidence: "the status has an election without a reason".to_owned(),
        from: None,
        from_epoch: Epoch::ZERO,
        started_unix_ms: 0,
        detected_ms: 0,
        acknowledged: Index::ZERO,
        preferred: None,
        avoided: None,
        attempts: 1,
        loss_permitted: false,
        replaced,
        replaced_epoch,
        lossy: false,
        promoted: None,
    }
}

/// Every instance with data of ours, the old leader included.
fn fence_all(view: &View, draft: &mut Draft) {
    let epoch = view.status().epoch;
    let answered: BTreeSet<&NodeName> = recruits(view).map(|(recruit, _)| &recruit.member.name).collect();
    for (name, instance) in view.running() {
        let has_data = instance.status().is_none_or(|status| view.is_ours(status));
        if has_data && !answered.contains(name) {
            draft.call(view, name, AdminCall::Fence(Fence { epoch }), AfterDone::Repeat);
        }
    }
}

/// Rule 4: may an election go on with these recruits? With the last leader among them they are always enough.
pub(super) fn is_enough(view: &View, config: &ConfigPair, recruits: &BTreeSet<Member>) -> bool {
    if is_rebuilt(view) {
        return config.standing().all(|standing| standing.cohort.is_subset(recruits));
    }
    config.is_electable(recruits, view.status().leader.as_ref())
}

/// The status was rebuilt, and no leader has opened since. What stands in it as the config is what the nodes knew; a leader may
/// have settled it and never got its record of that committed, and then what was acknowledged before counts by the config
/// before. That leader is a member of both: with the word of every member, nothing is missed.
fn is_rebuilt(view: &View) -> bool {
    let election = view.status().election.as_ref();
    !view.is_opened() && election.is_some_and(|election| election.reason == Reason::StatusRebuilt && !election.lossy)
}

/// The recruits that may be counted: K's members, and the old leader for the shortcut of rule 4.
struct Recruited<'a> {
    all: Vec<&'a Recruit>,
}

impl<'a> Recruited<'a> {
    fn of(view: &View<'a>, config: &ConfigPair) -> Recruited<'a> {
        let leader = view.status().leader.as_ref();
        let counted = |recruit: &Recruit| config.counts(&recruit.member) || leader == Some(&recruit.member);
        // Whoever can't be reached now could not be promoted either, and leaving a recruit out is always safe.
        let fit = |recruit: &Recruit| view.reachable(&recruit.member).is_some_and(|status| is_fit(status.state));
        Recruited { all: recruits(view).map(|(r, _)| r).filter(|r| counted(r) && fit(r)).collect() }
    }

    fn members(&self) -> BTreeSet<Member> {
        self.all.iter().map(|recruit| recruit.member.clone()).collect()
    }

    /// Rule 8 among those recruits that make an election possible (rule 4); `None` = too few.
    fn choice(&self, view: &View, config: &ConfigPair, election: &Election) -> Option<&'a Recruit> {
        if !is_enough(view, config, &self.members()) {
            return None;
        }
        let others = self.without(election.avoided.as_ref(), config).filter(|_| !is_rebuilt(view));
        let among = others.as_ref().unwrap_or(self);
        // R may be any electable set. The switchover's target wins if it is the greatest of one.
        let preferred = among.all.iter().find(|r| Some(&r.member.name) == election.preferred.as_ref());
        if let Some(preferred) = preferred {
            let up_to = among.all.iter().filter(|r| r.position.rank() <= preferred.position.rank());
            let members = up_to.map(|recruit| recruit.member.clone()).collect();
            if is_enough(view, config, &members) {
                return Some(preferred);
            }
        }
        among.greatest(view)
    }

    /// Those recruits but this one, if they are enough by themselves.
    fn without(&self, avoided: Option<&Member>, config: &ConfigPair) -> Option<Recruited<'a>> {
        let avoided = avoided?;
        let all: Vec<&Recruit> = self.all.iter().copied().filter(|recruit| recruit.member != *avoided).collect();
        let others = Recruited { all };
        config.is_electable(&others.members(), None).then_some(others)
    }

    /// Greatest (epoch of the last record, index); ties by the old leader's zone, then name.
    fn greatest(&self, view: &View) -> Option<&'a Recruit> {
        let zone = |name: &NodeName| view.instance(name).and_then(|instance| instance.zone.as_ref());
        let home = view.status().leader.as_ref().and_then(|leader| zone(&leader.name));
        let key = |recruit: &Recruit| {
            let name = recruit.member.name.clone();
            (recruit.position.rank(), home.is_some() && zone(&name) == home, std::cmp::Reverse(name))
        };
        rdb_protocol::if_planted!(AnyCandidate => {
            return self.all.iter().copied().min_by_key(|recruit| key(recruit));
        });
        self.all.iter().copied().max_by_key(|recruit| key(recruit))
    }
}

/// Until when an election that has enough recruits waits for more: for the switchover's target, and for an old leader in
/// reach, whose answer ends its lease and so the new one's wait for it.
fn election_wait(view: &View, election: &Election, recruited: &Recruited, config: &ConfigPair) -> Option<Time> {
    if election.avoided.is_some() && recruited.without(election.avoided.as_ref(), config).is_none() {
        return grace_end(view, RECRUIT_GRACE);
    }
    let members = recruited.members();
    let target = election.preferred.as_ref().filter(|target| !members.iter().any(|m| m.name == **target));
    let answering = matches!(election.reason, Reason::Switchover | Reason::Restarted | Reason::ColdStart);
    let old = election.replaced.as_ref().filter(|old| answering && !members.contains(old));
    let old = old.filter(|old| view.likely_recruits().contains(old));
    if target.is_none() && old.is_none() { None } else { grace_end(view, RECRUIT_GRACE) }
}

/// When the grace ends, from the first recruit's answer on; `None` if it has.
fn grace_end(view: &View, grace: Duration) -> Option<Time> {
    let first = recruits(view).map(|(_, at)| at).min().unwrap_or(view.now);
    let end = first.plus(grace);
    (end > view.now).then_some(end)
}

/// Too few recruits for rule 4: only permission to lose acknowledged records goes further.
fn choose_with_loss(view: &View, draft: &mut Draft, election: &Election, recruited: &Recruited, config: &ConfigPair) {
    let accepted = election.loss_permitted || view.loss_accepted();
    if let Some(best) = recruited.greatest(view)
        && (accepted || view.loss_allowed(&recruited.members()))
    {
        let cold = election.reason == Reason::ColdStart || election.reason == Reason::StatusRebuilt;
        let grace = if cold && !accepted { COLD_START_GRACE } else { RECRUIT_GRACE };
        let leader = view.status().leader.as_ref();
        let others_answered = view
            .likely_recruits()
            .iter()
            .filter(|member| config.counts(member) || leader == Some(member))
            .all(|member| recruited.members().contains(member));
        let everybody = others_answered && !cold;
        match grace_end(view, grace).filter(|_| !everybody) {
            None => return choose(view, draft, best, true),
            Some(end) => draft.wake(view, end),
        }
    }
    let epoch = view.status().epoch;
    draft.block(missing_sentence(view, config, &recruited.members(), epoch));
}

/// Who is missing for rule 4, and what a person can do.
pub(super) fn missing_sentence(view: &View, config: &ConfigPair, have: &BTreeSet<Member>, epoch: Epoch) -> String {
    let leader = view.status().leader.as_ref();
    let missing: BTreeSet<&Member> =
        config.standing().flat_map(|c| &c.cohort).chain(leader).filter(|member| !have.contains(member)).collect();
    let needed = if is_rebuilt(view) {
        missing.len()
    } else {
        config.standing().map(|c| c.missing_recruits(have)).max().unwrap_or(0)
    };
    let names = list(missing.iter().map(|member| &member.name));
    let shortcut = match leader {
        Some(leader) if !have.contains(leader) && !is_rebuilt(view) => {
            format!(" (or {}, the last leader, alone)", leader.name)
        }
        _ => String::new(),
    };
    format!(
        "No leader can be elected safely: {needed} more of {names} must be reachable with their data{shortcut}. To go on \
         without them, at the risk of losing acknowledged records, accept the data loss for epoch {epoch}"
    )
}

/// Rule 8: swaps in the leader. Nothing but `promote` to it may follow in this epoch.
fn choose(view: &View, draft: &mut Draft, chosen: &Recruit, lossy: bool) {
    let member = chosen.member.clone();
    let index = chosen.position.index;
    // What the old leader says of itself when it is fenced is later, and so better, than its last report.
    let from = view.status().election.as_ref().and_then(|election| election.from.clone());
    let own_word = recruits(view).find(|(r, _)| Some(&r.member) == from.as_ref()).map(|(r, _)| r.acknowledged);
    let evidence = format!("recruits: {}, the greatest position: {}", recruits(view).count(), chosen.position);
    let message = format!("{} becomes the leader of epoch {}", member.name, chosen.epoch);
    if lossy {
        draft.warn("LeaderChosenWithLoss", format!("{message}; acknowledged records may be lost"), evidence);
    } else {
        draft.event("LeaderChosen", message, evidence);
    }
    if view.observed.requests.accept_data_loss.is_some() {
        draft.clear(RequestKind::AcceptDataLoss);
    }
    draft.decide(|status| {
        #[cfg(feature = "planted")]
        take_out_of_cohort(status, &member);
        status.leader = Some(member);
        status.leader_epoch = status.epoch;
        status.phase = Phase::Promoting;
        if let Some(election) = &mut status.election {
            election.lossy |= lossy;
            if election.lossy {
                status.loss_epoch = Some(status.epoch);
            }
            election.promoted = Some(election.promoted.map_or(index, |earlier| earlier.min(index)));
            election.acknowledged = election.acknowledged.max(own_word.unwrap_or_default());
        }
    });
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(feature = "planted")]
fn take_out_of_cohort(status: &mut ClusterStatus, chosen: &Member) {
    use rdb_protocol::if_planted;
    let old = status.leader.clone();
    let Some(pair) = &mut status.config else { return };
    let mut drop = |member: &Member| {
        if pair.current.cohort.len() > pair.current.acks as usize + 1 {
            pair.current.cohort.remove(member);
        }
    };
    if_planted!(OldLeaderLeavesCohort => {
        if let Some(old) = &old {
            drop(old);
        }
    });
    if_planted!(NewLeaderLeavesCohort => { drop(chosen); });
    let _ = (&old, &mut drop, chosen);
}

/// A planted bug: the chosen leader was lost, and another one is chosen for the very same epoch.
#[cfg(feature = "planted")]
pub(super) fn choose_again(view: &View, draft: &mut Draft) -> bool {
    let Some(config) = &view.status().config else { return false };
    let leader = view.status().leader.as_ref();
    let mut recruited = Recruited::of(view, config);
    recruited.all.retain(|recruit| Some(&recruit.member) != leader);
    if !config.is_electable(&recruited.members(), None) {
        return false;
    }
    let Some(chosen) = recruited.greatest(view) else { return false };
    choose(view, draft, chosen, false);
    true
}
