//! The operator of the random walks: one status, changed only by rules 1, 4, 7, 8, 14 and 15; calls that travel slowly.

use std::collections::{BTreeMap, BTreeSet};

use rdb_protocol::admin::{AdminRefusal, Fence, Follow, LeaseAnswer, NextConfig, Promote, Recruit, Settle, StopWrites};
use rdb_protocol::settings::NodeSettings;
use rdb_protocol::status::SettleReport;
use rdb_protocol::{BOOTSTRAP_VERSION, ClusterConfig, ConfigPair, Epoch, Member};
use rdb_replication::{AdminAnswer, AdminCall, Replica, Time};

use crate::Random;
use crate::harness::cluster::Cluster;

/// 1.1 D in microseconds.
const LEASE_WAIT: u64 = 1_100_000;
/// Calls on the way; of more, some old ones are lost.
const MAX_CALLS: usize = 16;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Steady,
    FailingOver,
    Chosen,
}

#[derive(Debug)]
pub struct Operator {
    members: Vec<Member>,
    epoch: Epoch,
    leader: Option<Member>,
    leader_epoch: Epoch,
    phase: Phase,
    config: ConfigPair,
    /// The highest that was ever used.
    config_version: u64,
    /// Answers to fence(epoch), with the time at which each was answered to an older leader at the latest.
    recruits: BTreeMap<Member, (Recruit, Time)>,
    /// Sent and not yet there.
    calls: Vec<(Member, AdminCall)>,
    /// What leaders reported, perhaps long ago.
    reports: Vec<SettleReport>,
    open_not_before: Time,
    last_lease_answer: Option<Time>,
    pub changes: u64,
}

impl Operator {
    pub fn new(members: &[Member], random: &mut Random) -> Operator {
        let cohort = members.iter().cloned().collect();
        let acks = random.below(members.len() as u64) as u32;
        // Changes of the bootstrap's config end in another way if they are given up.
        let version = BOOTSTRAP_VERSION + random.below(2);
        Operator {
            members: members.to_vec(),
            epoch: Epoch::ZERO,
            leader: None,
            leader_epoch: Epoch::ZERO,
            phase: Phase::Steady,
            config: ConfigPair::settled(ClusterConfig { version, cohort, acks }),
            config_version: version,
            recruits: BTreeMap::new(),
            calls: Vec::new(),
            reports: Vec::new(),
            open_not_before: Time(0),
            last_lease_answer: None,
            changes: 0,
        }
    }

    /// One thing, at random.
    pub fn step(&mut self, cluster: &mut Cluster, random: &mut Random) {
        self.hear(cluster);
        while self.calls.len() > MAX_CALLS {
            self.calls.remove(random.below(MAX_CALLS as u64 / 2) as usize);
        }
        match random.below(10) {
            0..=4 => self.deliver_call(cluster, random),
            5 if self.leader.is_none() || random.chance(12) => self.start_election(cluster),
            6 => self.begin_change(cluster, random),
            7 => self.end_change(random),
            _ => self.continue_phase(cluster, random),
        }
    }

    fn deliver_call(&mut self, cluster: &mut Cluster, random: &mut Random) {
        if self.calls.is_empty() {
            return;
        }
        let at = random.below(self.calls.len() as u64) as usize;
        // Some calls arrive twice.
        let (to, call) = if random.chance(10) { self.calls[at].clone() } else { self.calls.swap_remove(at) };
        if random.chance(95) && cluster.replica(&to).is_some() {
            cluster.call(&to, call);
        }
        self.hear(cluster);
    }

    /// Faults have ended: do whatever leads to an open leader, at once.
    pub fn push_on(&mut self, cluster: &mut Cluster, random: &mut Random) {
        self.hear(cluster);
        let leads = self.chosen(cluster).is_some();
        let promotable =
            self.leader.as_ref().is_some_and(|leader| cluster.replica(leader).is_some_and(|r| r.led() < self.epoch));
        match self.phase {
            Phase::Steady if !leads => self.start_election(cluster),
            Phase::Chosen if !leads && !promotable => self.start_election(cluster),
            _ => self.continue_phase(cluster, random),
        }
        if self.config.next.is_some() {
            self.tell_change(random);
        }
        self.reports.extend(self.chosen(cluster).and_then(Replica::settled));
        self.end_change(random);
        for (to, call) in std::mem::take(&mut self.calls) {
            cluster.call(&to, call);
        }
        self.hear(cluster);
    }

    fn hear(&mut self, cluster: &mut Cluster) {
        for (from, _, reply) in std::mem::take(&mut cluster.replies) {
            match reply {
                Ok(AdminAnswer::Recruit(recruit)) if recruit.epoch == self.epoch => {
                    let answered = Time(cluster.now.0.saturating_sub(recruit.answered_ms_ago * 1000));
                    self.recruits.insert(from, (recruit, answered));
                }
                Err(AdminRefusal::Fenced { promise }) if promise.epoch > self.epoch => self.start_election(cluster),
                Ok(_) | Err(_) => {}
            }
        }
        self.reports.extend(self.chosen(cluster).and_then(Replica::settled));
    }

    /// The node that leads the present epoch, if it does.
    fn chosen<'c>(&self, cluster: &'c Cluster) -> Option<&'c Replica> {
        let replica = cluster.replica(self.leader.as_ref()?)?;
        (self.leader_epoch == self.epoch && replica.epoch() == self.epoch && replica.leader() == self.leader.as_ref())
            .then_some(replica)
    }

    /// Rule 7.
    fn start_election(&mut self, cluster: &Cluster) {
        let reported = self.members.iter().filter_map(|member| cluster.replica(member)).map(Replica::epoch).max();
        self.epoch = self.epoch.max(reported.unwrap_or_default()).next();
        self.phase = Phase::FailingOver;
        self.recruits.clear();
        self.fence_all();
    }

    fn fence_all(&mut self) {
        let fence = AdminCall::Fence(Fence { epoch: self.epoch });
        self.calls.extend(self.members.iter().map(|member| (member.clone(), fence.clone())));
    }

    fn continue_phase(&mut self, cluster: &mut Cluster, random: &mut Random) {
        match self.phase {
            Phase::FailingOver => {
                if !self.choose(cluster, random) {
                    self.fence_all();
                }
            }
            Phase::Chosen | Phase::Steady => {
                self.tell_roles(cluster);
                self.answer_lease(cluster);
                // Rule 14.
                if self.chosen(cluster).is_some_and(Replica::is_open) {
                    self.phase = Phase::Steady;
                }
                if random.chance(5)
                    && let Some(leader) = self.leader.clone()
                {
                    let call = StopWrites { epoch: self.epoch, deadline_ms: random.below(500) };
                    self.calls.push((leader, AdminCall::StopWrites(call)));
                }
            }
        }
    }

    /// Rules 4 and 8, and the waits of rules 16 and 17.
    fn choose(&mut self, cluster: &Cluster, random: &mut Random) -> bool {
        let recruits: BTreeSet<Member> = self.recruits.keys().cloned().collect();
        if !self.config.is_electable(&recruits, self.leader.as_ref()) {
            return false;
        }
        let rank = |member: &Member| self.recruits[member].0.position.rank();
        let Some(best) = recruits.iter().map(rank).max() else { return false };
        let candidates: Vec<&Member> = recruits.iter().filter(|member| rank(member) == best).collect();
        let Some(candidate) = random.pick(&candidates).map(|member| (*member).clone()) else { return false };
        let now = cluster.now;
        let by_shortcut = !self.config.is_electable(&recruits, None);
        let opened =
            self.leader.as_ref().and_then(|leader| self.recruits.get(leader)).is_some_and(|(r, _)| r.had_opened);
        let wait_until = if by_shortcut {
            if opened { now.0 } else { now.0 + LEASE_WAIT }
        } else {
            let counted = self.recruits.iter().filter(|(member, _)| self.config.counts(member));
            let youngest = counted.map(|(_, (_, answered))| answered.0).max().unwrap_or(now.0);
            youngest + LEASE_WAIT
        };
        let operator = self.last_lease_answer.filter(|_| !by_shortcut).map_or(0, |at| at.0 + LEASE_WAIT);
        self.open_not_before = Time(wait_until.max(operator));
        self.leader = Some(candidate);
        self.leader_epoch = self.epoch;
        self.phase = Phase::Chosen;
        self.tell_roles(cluster);
        true
    }

    fn tell_roles(&mut self, cluster: &Cluster) {
        let Some(leader) = self.leader.clone().filter(|_| self.leader_epoch == self.epoch) else { return };
        let wait = self.open_not_before.0.saturating_sub(cluster.now.0).div_ceil(1000);
        for member in &self.members {
            let call = if *member == leader {
                AdminCall::Promote(Promote {
                    epoch: self.epoch,
                    leader: leader.clone(),
                    config: self.config.clone(),
                    lease_wait_ms: wait,
                    lossy: false,
                    peers: Vec::new(),
                    settings: NodeSettings::default(),
                })
            } else {
                AdminCall::Follow(Follow {
                    epoch: self.epoch,
                    leader: leader.clone(),
                    peers: Vec::new(),
                    settings: NodeSettings::default(),
                    loss_permitted: false,
                })
            };
            self.calls.push((member.clone(), call));
        }
    }

    /// Rule 17.
    fn answer_lease(&mut self, cluster: &Cluster) {
        if let Some(request) = self.chosen(cluster).and_then(Replica::lease_request)
            && let Some(leader) = self.leader.clone()
        {
            self.calls.push((leader, AdminCall::Lease(LeaseAnswer { epoch: self.epoch, request })));
            self.last_lease_answer = Some(cluster.now);
        }
    }

    // --- rule 15 ---

    fn begin_change(&mut self, cluster: &Cluster, random: &mut Random) {
        if self.leader_epoch != self.epoch || self.phase == Phase::FailingOver {
            return;
        }
        if self.config.next.is_some() {
            return self.tell_change(random);
        }
        let Some(leader) = self.chosen(cluster) else { return };
        let caught_up: BTreeSet<Member> =
            leader.followers(cluster.now).into_iter().filter(|f| f.caught_up).map(|f| f.member).collect();
        let current = &self.config.current;
        let may_join = |member: &&Member| {
            current.cohort.contains(member) || caught_up.contains(member) || Some(*member) == self.leader.as_ref()
        };
        let cohort: BTreeSet<Member> =
            self.members.iter().filter(may_join).filter(|_| random.chance(75)).cloned().collect();
        if cohort.is_empty() {
            return;
        }
        let acks = random.below(cohort.len() as u64) as u32;
        self.config_version += 1;
        self.config.next = Some(ClusterConfig { version: self.config_version, cohort, acks });
        self.tell_change(random);
    }

    /// `config`, and perhaps both ways to end it: the leader obeys the first that arrives.
    fn tell_change(&mut self, random: &mut Random) {
        let (Some(next), Some(leader)) = (self.config.next.clone(), self.leader.clone()) else { return };
        let epoch = self.epoch;
        let version = next.version;
        self.calls.push((leader.clone(), AdminCall::NextConfig(NextConfig { epoch, next: next.clone() })));
        let keep = if random.chance(80) { next } else { self.config.current.after_giving_up(version) };
        if random.chance(60) {
            self.calls.push((leader, AdminCall::Settle(Settle { epoch, version, keep })));
        }
    }

    /// `current := keep`, only on a committed report of the present epoch and change.
    fn end_change(&mut self, random: &mut Random) {
        let Some(report) = random.pick(&self.reports).cloned() else { return };
        let is_of_now = report.epoch == self.epoch && self.epoch == self.leader_epoch && report.committed;
        if is_of_now && self.config.next.as_ref().is_some_and(|next| next.version == report.version) {
            self.config = ConfigPair::settled(report.keep);
            self.changes += 1;
            self.reports.clear();
        }
    }
}
