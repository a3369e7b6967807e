//! A node as the operator sees it: it keeps the rules, and its log is a list of (epoch, record number).

use std::collections::{BTreeMap, BTreeSet};

use rdb_control::AdminCall;
use rdb_protocol::admin::{AdminRefusal, Recruit};
use rdb_protocol::settings::{LogFormat, NodeSettings};
use rdb_protocol::status::{DivergenceReport, FollowerProgress, NodeState, NodeStatus, Promise, Role, SettleReport};
use rdb_protocol::{
    Chain, ClusterConfig, ClusterId, ConfigPair, Epoch, Incarnation, Index, Member, NodeName, Position,
};

use super::checker::Checker;

/// D of rule 16, the default.
pub const LEASE_MS: u64 = 1000;

pub type Record = (Epoch, u64);

#[derive(Clone)]
pub struct Node {
    pub name: NodeName,
    pub incarnation: Incarnation,
    pub boot: Incarnation,
    pub alive: bool,
    /// Stopped by order.
    pub stopped: bool,
    pub died_ms: u64,
    /// SIGSTOP: does nothing, connections stand.
    pub frozen: bool,
    /// The operator can't reach it; its peers can.
    pub hidden: bool,
    /// Its peers can't reach it; the operator can.
    pub isolated: bool,
    /// Its disk does not finish writes.
    pub stuck_since_ms: Option<u64>,
    /// Receives nothing from the leader, so it never catches up.
    pub starved: bool,
    /// What the driver says of its pod.
    pub outdated: Option<String>,
    pub draining: bool,
    pub stuck: Option<String>,
    pub recreated_at_ms: Option<u64>,
    pub state_override: Option<NodeState>,
    pub problems: Vec<rdb_protocol::status::Problem>,
    cluster: Option<ClusterId>,
    role: Role,
    pub promise: Promise,
    pub led: Epoch,
    pub config: Option<ConfigPair>,
    pub log: Vec<Record>,
    pub committed: usize,
    pub acknowledged: usize,
    opened_epoch: Epoch,
    pub opened: bool,
    open_at_ms: u64,
    lossy: bool,
    lossy_epoch: Epoch,
    stopped_writes_until_ms: u64,
    settled: Option<SettleReport>,
    settle_index: usize,
    followers: BTreeMap<Member, (bool, u64, usize)>,
    heard_ms: Option<u64>,
    answered_ms: u64,
    pub lease_request: u64,
    waiting_since_ms: Option<u64>,
    divergences: Vec<DivergenceReport>,
    waits_lease: bool,
    pub lease_until_ms: u64,
    pub created: bool,
    /// Length of the part of its log that was dropped, whose records it can't compare any more.
    pub dropped: usize,
    /// Refuses `config`, as a leader does when a member is not caught up after all.
    pub refuses_changes: bool,
    /// What it was told to run with.
    pub settings: NodeSettings,
    /// It applied row changes.
    pub other_layout: bool,
}

impl Node {
    pub fn empty(name: NodeName, incarnation: Incarnation, boot: Incarnation, now: u64) -> Node {
        Node {
            name,
            incarnation,
            boot,
            alive: true,
            stopped: false,
            died_ms: 0,
            frozen: false,
            hidden: false,
            isolated: false,
            stuck_since_ms: None,
            starved: false,
            outdated: None,
            draining: false,
            stuck: None,
            recreated_at_ms: None,
            state_override: None,
            problems: Vec::new(),
            cluster: None,
            role: Role::Empty,
            promise: Promise::default(),
            led: Epoch::ZERO,
            config: None,
            log: Vec::new(),
            committed: 0,
            acknowledged: 0,
            opened_epoch: Epoch::ZERO,
            opened: false,
            open_at_ms: 0,
            lossy: false,
            lossy_epoch: Epoch::ZERO,
            stopped_writes_until_ms: 0,
            settled: None,
            settle_index: 0,
            followers: BTreeMap::new(),
            heard_ms: None,
            answered_ms: now,
            lease_request: 1,
            waiting_since_ms: None,
            divergences: Vec::new(),
            waits_lease: false,
            lease_until_ms: 0,
            created: false,
            refuses_changes: false,
            dropped: 0,
            settings: NodeSettings::default(),
            other_layout: false,
        }
    }

    pub fn member(&self) -> Member {
        Member { name: self.name.clone(), incarnation: self.incarnation }
    }

    /// The connection of a follower ended.
    pub fn disconnected(&mut self, follower: &Member) {
        if let Some(progress) = self.followers.get_mut(follower) {
            progress.0 = false;
        }
    }

    pub fn is_leader(&self) -> bool {
        self.role == Role::Leader
    }

    pub fn die(&mut self, now: u64) {
        self.alive = false;
        self.frozen = false;
        self.died_ms = now;
    }

    pub fn start(&mut self, boot: Incarnation, now: u64) {
        self.alive = true;
        self.boot = boot;
        self.answered_ms = now;
        self.heard_ms = None;
        self.stuck_since_ms = None;
        self.step_down();
    }

    fn step_down(&mut self) {
        if self.role == Role::Leader {
            self.role = Role::Follower;
        }
        self.opened = false;
        self.lease_until_ms = 0;
        self.settled = None;
        self.followers.clear();
        self.waiting_since_ms = None;
        self.stopped_writes_until_ms = 0;
    }

    fn position(&self) -> Position {
        position_at(&self.log, self.log.len())
    }

    fn refuse<T>(reason: &str) -> Result<T, AdminRefusal> {
        Err(AdminRefusal::State { reason: reason.to_owned() })
    }

    fn heed(&mut self, epoch: Epoch) -> Result<(), AdminRefusal> {
        if epoch < self.promise.epoch {
            return Err(AdminRefusal::Fenced { promise: self.promise.clone() });
        }
        Ok(())
    }

    pub fn call(&mut self, call: &AdminCall, now: u64, seed: Incarnation) -> Result<Option<Recruit>, AdminRefusal> {
        if self.role == Role::Empty && !matches!(call, AdminCall::Init(_)) {
            return Node::refuse("empty");
        }
        match call {
            AdminCall::Init(init) => {
                if self.role != Role::Empty || init.incarnation != self.incarnation {
                    return Node::refuse("not empty");
                }
                self.cluster = Some(init.cluster);
                self.created = init.create;
                self.role = Role::Follower;
            }
            AdminCall::Fence(fence) => {
                self.heed(fence.epoch)?;
                if self.stuck_since_ms.is_some() {
                    return Node::refuse("the disk does not finish");
                }
                let had_opened =
                    self.led == self.promise.epoch && self.opened_epoch == self.led && self.led > Epoch::ZERO;
                if self.promise.epoch < fence.epoch {
                    self.promise = Promise { epoch: fence.epoch, leader: None };
                    self.step_down();
                }
                return Ok(Some(Recruit {
                    epoch: fence.epoch,
                    member: self.member(),
                    position: self.position(),
                    committed: Index(self.committed as u64),
                    answered_ms_ago: now - self.answered_ms,
                    had_opened,
                    acknowledged: Index(self.acknowledged as u64),
                    config: self.config.clone(),
                }));
            }
            AdminCall::Promote(promote) => {
                self.heed(promote.epoch)?;
                self.settings = promote.settings.clone();
                if self.role == Role::Leader && self.led == promote.epoch {
                    return Ok(None);
                }
                if self.promise.epoch != promote.epoch || self.led >= promote.epoch {
                    return Node::refuse("has led this epoch");
                }
                self.promise.leader = Some(self.member());
                self.role = Role::Leader;
                self.led = promote.epoch;
                self.config = Some(promote.config.clone());
                self.log.push((promote.epoch, 0));
                self.open_at_ms = now + promote.lease_wait_ms;
                self.lossy = promote.lossy;
                if promote.lossy {
                    self.lossy_epoch = promote.epoch;
                }
                self.waiting_since_ms = Some(now);
            }
            AdminCall::Follow(follow) => {
                self.heed(follow.epoch)?;
                if self.role == Role::Leader && self.led == follow.epoch {
                    return Node::refuse("leads this epoch");
                }
                self.step_down();
                self.promise = Promise { epoch: follow.epoch, leader: Some(follow.leader.clone()) };
            }
            AdminCall::NextConfig(next) => {
                self.heed(next.epoch)?;
                if self.refuses_changes {
                    return Node::refuse("not caught up");
                }
                let pair = self.config.as_mut().filter(|_| self.role == Role::Leader);
                match pair {
                    Some(pair) if pair.next.is_none() && next.next.version > pair.current.version => {
                        pair.next = Some(next.next.clone());
                    }
                    _ => return Node::refuse("no change fits"),
                }
            }
            AdminCall::Settle(settle) => {
                self.heed(settle.epoch)?;
                let Some(pair) = self.config.as_ref().filter(|_| self.role == Role::Leader) else {
                    return Node::refuse("not the leader");
                };
                if self.settled.as_ref().is_some_and(|settled| settled.version >= settle.version) {
                    return Node::refuse("settled before");
                }
                let same =
                    |config: &ClusterConfig| (&config.cohort, config.acks) == (&settle.keep.cohort, settle.keep.acks);
                let fits = match &pair.next {
                    Some(next) => next.version == settle.version && (same(next) || same(&pair.current)),
                    None => settle.version > pair.current.version && same(&pair.current),
                };
                if !fits || settle.keep.version != settle.version {
                    return Node::refuse("no such change stands");
                }
                self.config = Some(ConfigPair::settled(settle.keep.clone()));
                self.log.push((self.led, 0));
                self.settle_index = self.log.len();
                let (epoch, version, keep) = (settle.epoch, settle.version, settle.keep.clone());
                self.settled = Some(SettleReport { epoch, version, keep, committed: false });
            }
            AdminCall::StopWrites(stop) => {
                self.heed(stop.epoch)?;
                self.stopped_writes_until_ms = now + stop.deadline_ms;
            }
            AdminCall::ResumeWrites(resume) => {
                self.heed(resume.epoch)?;
                self.stopped_writes_until_ms = 0;
            }
            AdminCall::Reseed(reseed) => {
                if reseed.incarnation != self.incarnation || self.role == Role::Leader {
                    return Node::refuse("another incarnation");
                }
                self.incarnation = seed;
                self.log.clear();
                self.committed = 0;
                self.acknowledged = 0;
                self.state_override = None;
                self.other_layout = false;
            }
        }
        Ok(None)
    }

    pub fn report(&self, now: u64) -> NodeStatus {
        let stopped = now < self.stopped_writes_until_ms;
        let state = self.state_override.unwrap_or(match (self.role, self.opened) {
            (Role::Empty, _) => NodeState::Empty,
            (Role::Leader, true) if stopped => NodeState::WritesStopped,
            (Role::Leader, true) => NodeState::Leading,
            (Role::Leader, false) => NodeState::Opening,
            (Role::Follower, _) if self.heard_ms.is_some_and(|at| now - at < 300) => NodeState::Streaming,
            (Role::Follower, _) => NodeState::Searching,
        });
        let progress = |(member, (connected, at, index)): (&Member, &(bool, u64, usize))| FollowerProgress {
            member: member.clone(),
            connected: *connected,
            acknowledged: Index(*index as u64),
            answered_ms_ago: Some(now - at),
            caught_up: *index > 0,
        };
        NodeStatus {
            name: self.name.clone(),
            incarnation: self.incarnation,
            cluster: self.cluster,
            boot: self.boot,
            version: "test".to_owned(),
            role: self.role,
            state,
            promise: self.promise.clone(),
            led: self.led,
            lossy: self.lossy_epoch,
            flushed: self.position(),
            committed: Index(self.committed as u64),
            applied: Index(self.committed as u64),
            first_retained: Index(1),
            config: self.config.clone(),
            opened: self.opened,
            settled: self.settled.clone(),
            followers: self.followers.iter().map(progress).collect(),
            peers: Vec::new(),
            leader_heard_ms_ago: self.heard_ms.map(|at| now - at),
            lease_valid: self.opened,
            lease_request: self.waits_lease.then_some(self.lease_request),
            uncommitted_ms: self.waiting_since_ms.map(|at| now - at),
            acknowledged: Index(self.acknowledged as u64),
            seed: None,
            other_layout: match self.role {
                Role::Leader => self.settings.log_format == LogFormat::Logical,
                _ => self.other_layout,
            },
            divergences: self.divergences.clone(),
            problems: self.problems.clone(),
        }
    }
}

fn position_at(log: &[Record], length: usize) -> Position {
    match length.checked_sub(1).and_then(|last| log.get(last)) {
        None => Position::ZERO,
        Some((epoch, _)) => Position { epoch: *epoch, index: Index(length as u64), chain: Chain(0) },
    }
}

/// One step of replication, writes and opening.
pub fn replicate(nodes: &mut BTreeMap<NodeName, Node>, now: u64, checker: &mut Checker) {
    let works = |node: &Node| node.alive && !node.frozen;
    let leaders: Vec<NodeName> =
        nodes.values().filter(|n| works(n) && n.role == Role::Leader).map(|n| n.name.clone()).collect();
    for leader_name in leaders {
        let mut leader = nodes[&leader_name].clone();
        if leader.stuck_since_ms.is_none() && now >= leader.stopped_writes_until_ms && leader.opened {
            let id = checker.next_record();
            leader.log.push((leader.led, id));
        }
        let mut holders = BTreeSet::new();
        if leader.stuck_since_ms.is_none() {
            holders.insert(leader.member());
        }
        for follower in nodes.values_mut().filter(|node| node.name != leader_name) {
            let follows = follower.promise.epoch == leader.led && follower.promise.leader == Some(leader.member());
            let reached = works(follower) && follows && !follower.isolated && !leader.isolated && !follower.starved;
            if !reached || follower.role != Role::Follower {
                if let Some(progress) = leader.followers.get_mut(&follower.member()) {
                    progress.0 = false;
                }
                continue;
            }
            catch_up(follower, &leader, now);
            leader.followers.insert(follower.member(), (true, now, follower.log.len()));
            holders.insert(follower.member());
        }
        let was_open = leader.opened;
        commit(&mut leader, &holders, now, checker);
        if leader.opened && !was_open {
            // With W = 0 leases are safe even then; with more, accepting a loss accepts stale reads of the old side too.
            let copies = leader.config.as_ref().is_some_and(|config| config.standing().any(|c| c.acks > 0));
            let checked = !(leader.lossy && copies);
            for old in nodes.values().filter(|old| checked && old.alive && old.is_leader() && old.led < leader.led) {
                let (name, epoch) = (&leader.name, leader.led);
                assert!(old.lease_until_ms <= now, "{name} opened epoch {epoch} within the lease of {}", old.name);
            }
        }
        nodes.insert(leader_name, leader);
    }
}

/// What a re-seed does to an incarnation here.
const RESEEDED: u64 = 1 << 40;

fn catch_up(follower: &mut Node, leader: &Node, now: u64) {
    let common = follower.log.iter().zip(&leader.log).take_while(|(a, b)| a == b).count();
    if common < follower.log.len() {
        follower.divergences.push(DivergenceReport {
            archive: format!("tail-{common}"),
            incarnation: follower.incarnation,
            acknowledged: Index(follower.acknowledged as u64),
            from: position_at(&follower.log, common.max(follower.dropped)),
            to: follower.position(),
            complete: true,
        });
        if common < follower.committed {
            // Its database shows what is cut: it is given up, and with it the incarnation (rule 18).
            follower.incarnation = Incarnation(follower.incarnation.0 ^ RESEEDED);
        }
    }
    follower.log = leader.log.clone();
    follower.committed = leader.committed;
    follower.config = leader.config.clone();
    follower.heard_ms = Some(now);
    follower.answered_ms = now;
}

fn commit(leader: &mut Node, holders: &BTreeSet<Member>, now: u64, checker: &mut Checker) {
    let Some(config) = leader.config.clone() else { return };
    leader.waits_lease = config.standing().all(|config| config.acks == 0 && config.cohort.len() > 1);
    // Rule 3: flushed by the leader, and by W+1 of K.
    if !holders.contains(&leader.member()) || !config.is_durable(holders) {
        leader.waiting_since_ms.get_or_insert(now);
        return;
    }
    leader.waiting_since_ms = None;
    leader.committed = leader.log.len();
    if let Some(settled) = &mut leader.settled {
        settled.committed |= leader.committed >= leader.settle_index;
    }
    if !leader.opened && now >= leader.open_at_ms {
        leader.opened = true;
        leader.opened_epoch = leader.led;
        checker.opened(leader, leader.lossy);
    }
    let everybody = config.standing().all(|config| config.cohort.iter().all(|member| holders.contains(member)));
    if !leader.waits_lease || everybody {
        leader.lease_until_ms = now + LEASE_MS;
    }
    if leader.opened && (!leader.waits_lease || now < leader.lease_until_ms) {
        let fresh = leader.log[leader.acknowledged.min(leader.log.len())..].to_vec();
        leader.acknowledged = leader.committed;
        checker.acknowledged(&fresh);
    }
}
