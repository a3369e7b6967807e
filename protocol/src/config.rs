//! The cluster config: which copies count (K) and how many of them a write needs (W), with the arithmetic of rules 3, 4
//! and 16. Nothing else in the project counts copies.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::ids::Member;

/// Version of the config that a cluster is bootstrapped with, K = {first node} and W = 0. A leader under it refuses client
/// writes: the asked-for durability rule does not hold before version 2.
pub const BOOTSTRAP_VERSION: u64 = 1;

/// {version, K, W}: versioned, stored in the resource's status and in every node's control file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ClusterConfig {
    /// Grows by one with every change (rule 15).
    pub version: u64,
    /// K: the members whose copies count, the leader's own included.
    pub cohort: BTreeSet<Member>,
    /// W: follower copies that a write must have.
    pub acks: u32,
}

impl ClusterConfig {
    /// Rule 3, and rule 16 for a heartbeat round: do these members, the leader among them, make a record durable?
    /// `holders` are those that have flushed it (or answered the round).
    pub fn is_durable<'a>(&self, holders: impl IntoIterator<Item = &'a Member>) -> bool {
        self.count(holders) > self.acks as usize
    }

    /// The greatest value that W+1 members of K have, where `value` gives each member's: with acknowledged indexes, the
    /// index that is durable by rule 3; with answered heartbeat rounds, the round that counts by rule 16. The same question
    /// as [`ClusterConfig::is_durable`], answered for all values at once and without allocating. 0 when K is too small.
    pub fn held_by_enough(&self, value: impl Fn(&Member) -> u64) -> u64 {
        // The value of rank W+1: for each member, count those that have as much. K is a handful, so squares are cheap.
        let enough =
            |least: u64| self.cohort.iter().filter(|member| value(member) >= least).count() > self.acks as usize;
        self.cohort.iter().map(&value).filter(|held| enough(*held)).max().unwrap_or(0)
    }

    /// Rule 4: may an election go on with these recruits? `leader` is `status.leader`; with it among them every
    /// acknowledged record is.
    pub fn is_electable(&self, recruits: &BTreeSet<Member>, leader: Option<&Member>) -> bool {
        if leader.is_some_and(|leader| recruits.contains(leader)) {
            return true;
        }
        // At least one recruit even if K is empty by mistake: nobody can be promoted from nothing.
        let needed = self.cohort.len().saturating_sub(self.acks as usize).max(1);
        crate::if_planted!(OneRecruitTooFew => { return self.count(recruits) + 1 >= needed.max(2); });
        self.count(recruits) >= needed
    }

    /// How many more members of K rule 4 wants, the leader's shortcut apart.
    pub fn missing_recruits(&self, recruits: &BTreeSet<Member>) -> usize {
        let needed = self.cohort.len().saturating_sub(self.acks as usize).max(1);
        needed.saturating_sub(self.count(recruits))
    }

    /// What is in force after a change from this config to `version` was given up: the same rule, which uses the number up,
    /// so that no other change can be taken for it. The bootstrap's config keeps its own number: under a later one clients
    /// may write, and the rule that was asked for does not hold yet.
    pub fn after_giving_up(&self, version: u64) -> ClusterConfig {
        let version = if self.version == BOOTSTRAP_VERSION { self.version } else { version };
        ClusterConfig { version, ..self.clone() }
    }

    fn count<'a>(&self, members: impl IntoIterator<Item = &'a Member>) -> usize {
        members.into_iter().filter(|member| self.cohort.contains(member)).collect::<BTreeSet<_>>().len()
    }
}

/// The config in force and, during a change, the one to come (rule 15).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ConfigPair {
    pub current: ClusterConfig,
    pub next: Option<ClusterConfig>,
}

impl ConfigPair {
    /// One config and no change under way.
    pub fn settled(current: ClusterConfig) -> ConfigPair {
        ConfigPair { current, next: None }
    }

    /// Both configs that stand, `current` first.
    pub fn standing(&self) -> impl Iterator<Item = &ClusterConfig> {
        std::iter::once(&self.current).chain(&self.next)
    }

    /// While both stand, a record is committed under *either* (rule 15).
    pub fn is_durable(&self, holders: &BTreeSet<Member>) -> bool {
        self.standing().any(|config| config.is_durable(holders))
    }

    /// A promotion needs *both* (rules 4 and 15).
    pub fn is_electable(&self, recruits: &BTreeSet<Member>, leader: Option<&Member>) -> bool {
        crate::if_planted!(NextDropped => { return self.current.is_electable(recruits, leader); });
        self.standing().all(|config| config.is_electable(recruits, leader))
    }

    /// Highest version that stands.
    pub fn version(&self) -> u64 {
        self.next.as_ref().map_or(self.current.version, |next| next.version.max(self.current.version))
    }

    /// Is this member's copy counted by any standing config?
    pub fn counts(&self, member: &Member) -> bool {
        self.standing().any(|config| config.cohort.contains(member))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{Incarnation, NodeName};

    fn member(n: u64) -> Member {
        Member { name: NodeName::new(format!("n-{n}")).unwrap(), incarnation: Incarnation(n) }
    }

    fn set(ns: &[u64]) -> BTreeSet<Member> {
        ns.iter().copied().map(member).collect()
    }

    fn config(k: &[u64], acks: u32) -> ClusterConfig {
        ClusterConfig { version: 1, cohort: set(k), acks }
    }

    #[test]
    fn every_durable_set_meets_every_electable_set() {
        // The one property that failover rests on, over all K of up to five members, all W and all subsets.
        for size in 1..=5u64 {
            let all: Vec<u64> = (0..size).collect();
            for acks in 0..size as u32 {
                let config = config(&all, acks);
                let subsets: Vec<BTreeSet<Member>> = (1..1u64 << size)
                    .map(|mask| set(&all.iter().copied().filter(|n| mask >> n & 1 == 1).collect::<Vec<_>>()))
                    .collect();
                for durable in subsets.iter().filter(|s| config.is_durable(*s)) {
                    for electable in subsets.iter().filter(|s| config.is_electable(s, None)) {
                        assert!(!durable.is_disjoint(electable), "K={size} W={acks}");
                    }
                }
            }
        }
    }

    #[test]
    fn held_by_enough_agrees_with_is_durable() {
        for acks in 0..4 {
            let config = config(&[0, 1, 2], acks);
            for values in 0..64u64 {
                let value = |n: &Member| values >> (2 * n.incarnation.0) & 3;
                let expected = (0..4).filter(|least| {
                    let holders: Vec<Member> = set(&[0, 1, 2]).into_iter().filter(|m| value(m) >= *least).collect();
                    config.is_durable(&holders)
                });
                assert_eq!(config.held_by_enough(value), expected.max().unwrap_or(0), "W={acks} {values:b}");
            }
        }
    }

    #[test]
    fn another_incarnation_does_not_count() {
        let config = config(&[0, 1, 2], 1);
        let mut wiped = member(1);
        wiped.incarnation = Incarnation(99);
        assert!(!config.is_durable(&BTreeSet::from([member(0), wiped])));
        assert!(config.is_durable(&set(&[0, 1])));
    }

    #[test]
    fn a_leader_outside_the_cohort_needs_one_copy_more() {
        let config = config(&[0, 1, 2], 1);
        assert!(!config.is_durable(&set(&[9, 0])));
        assert!(config.is_durable(&set(&[9, 0, 1])));
    }

    #[test]
    fn without_followers_copies_only_the_leader_or_all_may_elect() {
        let config = config(&[0, 1, 2], 0);
        assert!(!config.is_electable(&set(&[1, 2]), Some(&member(0))));
        assert!(config.is_electable(&set(&[0]), Some(&member(0))));
        assert!(config.is_electable(&set(&[0, 1, 2]), None));
    }

    #[test]
    fn two_configs_commit_under_either_and_elect_under_both() {
        let pair = ConfigPair { current: config(&[0, 1], 1), next: Some(config(&[0, 1, 2], 1)) };
        assert!(pair.is_durable(&set(&[0, 2])));
        assert!(!pair.is_electable(&set(&[2, 1]), None) || pair.current.is_electable(&set(&[1]), None));
        assert!(!pair.is_electable(&set(&[2]), None));
    }
}
