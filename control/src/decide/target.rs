//! Which config the cluster should have: from what is asked for, who is caught up and who is gone.

use std::collections::{BTreeMap, BTreeSet};

use rdb_protocol::settings::{Mode, SyncSet, WhenUnavailable};
use rdb_protocol::status::NodeStatus;
use rdb_protocol::{BOOTSTRAP_VERSION, ClusterConfig, Member, NodeName};

use super::membership;
use super::view::View;

/// K and W, without a version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) cohort: BTreeSet<Member>,
    pub(super) acks: u32,
}

impl Target {
    pub(super) fn is(&self, config: &ClusterConfig) -> bool {
        self.cohort == config.cohort && self.acks == config.acks
    }
}

/// W as the user asks for it.
pub(super) fn asked_acks(view: &View) -> u32 {
    let followers = view.cluster.instances - 1;
    match view.cluster.mode {
        Mode::Async => 0,
        Mode::SemiSync => view.cluster.sync_followers.min(followers),
        Mode::Sync => followers,
    }
}

/// The least W that a change may lead to.
fn least_acks(view: &View, current: &ClusterConfig) -> u32 {
    let asked = asked_acks(view);
    if current.version == BOOTSTRAP_VERSION {
        return asked;
    }
    match view.cluster.when_unavailable {
        WhenUnavailable::Degrade => asked.min(view.cluster.min_sync_followers),
        // Never below what holds now, unless less is asked for: a cluster of `sync` grows member by member.
        WhenUnavailable::Block => asked.min(current.acks.max(1)),
    }
}

/// The config to change to; `None` = nothing better than the present one can be had now.
pub(super) fn target(view: &View, leading: &NodeStatus) -> Option<Target> {
    let current = &view.status().config.as_ref()?.current;
    let leader = leading.member();
    let mut followers = eligible(view, current, &leader);
    let one = view.cluster.sync_set == SyncSet::One && view.cluster.mode == Mode::SemiSync;
    if one {
        followers = named(view, current, followers);
    } else if view.cluster.mode != Mode::Async && view.cluster.when_unavailable == WhenUnavailable::Degrade {
        followers = without_absent(view, current, followers);
    }
    let count = u32::try_from(followers.len()).unwrap_or(u32::MAX);
    let acks = match view.cluster.mode {
        Mode::Async => 0,
        Mode::Sync => count,
        Mode::SemiSync => asked_acks(view).min(count),
    };
    if acks < least_acks(view, current) {
        return None;
    }
    let cohort: BTreeSet<Member> = followers.into_iter().chain([leader]).collect();
    let config = ClusterConfig { version: 0, cohort, acks };
    // Bootstrapping ends with a change even if K and W stay: version 2 opens the cluster to clients.
    let same = config.cohort == current.cohort && config.acks == current.acks;
    let useful = !same || current.version == BOOTSTRAP_VERSION;
    (useful && view.can_commit(&config)).then_some(Target { cohort: config.cohort, acks: config.acks })
}

/// Followers that belong in K: those that are caught up; and those that are in K already, for as long as nothing better
/// has their name. Members whose instance is to go are left out.
fn eligible(view: &View, current: &ClusterConfig, leader: &Member) -> BTreeSet<Member> {
    let old: BTreeMap<&NodeName, &Member> = current.cohort.iter().map(|member| (&member.name, member)).collect();
    let wanted = membership::wanted_names(view);
    let pick = |name: &NodeName| {
        let reported = view.instance(name).and_then(|instance| instance.status()).map(NodeStatus::member);
        let caught_up = reported.filter(|member| view.is_caught_up(member));
        caught_up.or_else(|| old.get(name).map(|member| (*member).clone()))
    };
    wanted.iter().filter(|name| **name != leader.name).filter_map(pick).collect()
}

/// `syncSet: one`: the named followers, W of them; kept while they answer, replaced by caught-up ones otherwise.
fn named(view: &View, current: &ClusterConfig, eligible: BTreeSet<Member>) -> BTreeSet<Member> {
    let count = asked_acks(view) as usize;
    let opened = view.leading().is_some_and(|leading| leading.opened);
    let keep = |member: &&Member| {
        // Before opening nothing else is at stake: a missing one is replaced at once, under `block` too.
        let patience = if opened { view.cluster.sync_timeout } else { std::time::Duration::ZERO };
        let here = view.answers(member) || view.absent_for(member) < patience;
        current.cohort.contains(*member) && here && !is_slow(view, member) && !is_leaving(view, member)
    };
    let rank = |member: &Member| {
        if keep(&member) {
            0
        } else if view.is_caught_up(member) && !is_slow(view, member) && !is_leaving(view, member) {
            1
        } else if current.cohort.contains(member) {
            2
        } else {
            3
        }
    };
    let mut ranked: Vec<Member> = eligible.into_iter().collect();
    ranked.sort_by_key(|member| (rank(member), member.clone()));
    ranked.truncate(count);
    ranked.into_iter().collect()
}

/// It is about to be ended by the rolling update.
fn is_leaving(view: &View, member: &Member) -> bool {
    let renewed = view.status().rollout.as_ref().is_some_and(|rollout| rollout.instance == member.name);
    renewed && view.instance(&member.name).is_some_and(|instance| instance.outdated.is_some())
}

/// It is about to be ended, and writes could not go on if its copy were still counted. One that was let go of for this
/// stays outside until it was renewed.
fn must_leave(view: &View, current: &ClusterConfig, member: &Member) -> bool {
    let mut others = view.answering();
    others.remove(member);
    is_leaving(view, member) && !(current.cohort.contains(member) && current.is_durable(&others))
}

/// It answers, but the oldest write has waited for it for `syncTimeout`.
fn is_slow(view: &View, member: &Member) -> bool {
    let (Some(leading), Some(progress)) = (view.leading(), view.progress(member)) else { return false };
    let waits = leading.uncommitted_ms.is_some_and(|ms| u128::from(ms) >= view.cluster.sync_timeout.as_millis());
    waits && progress.acknowledged <= leading.committed
}

/// `degrade`: without those who were away for `syncTimeout` or are about to leave, unless too few are left.
fn without_absent(view: &View, current: &ClusterConfig, eligible: BTreeSet<Member>) -> BTreeSet<Member> {
    let here =
        |member: &Member| view.absent_for(member) < view.cluster.sync_timeout && !must_leave(view, current, member);
    let left: BTreeSet<Member> = eligible.iter().filter(|member| here(member)).cloned().collect();
    let enough = u32::try_from(left.len()).is_ok_and(|count| count >= least_acks(view, current));
    if enough { left } else { eligible }
}
