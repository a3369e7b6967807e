//! A node as the operator sees it: it keeps the rules, and its log is a list of (epoch, record number).

mod calls;
mod replicate;

use std::collections::BTreeMap;

use rdb_protocol::settings::{LogFormat, NodeSettings};
use rdb_protocol::status::{
    DivergenceReport, FollowerProgress, NodeState, NodeStatus, Problem, Promise, RecordPlace, Role, SettleReport,
};
use rdb_protocol::{Chain, ClusterId, ConfigPair, Epoch, Incarnation, Index, Member, NodeName, Position};

pub use replicate::replicate;

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
    /// As a leader it cannot apply its log: its version of SQLite does otherwise.
    pub incompatible: bool,
    /// As a follower it refuses what another version of SQLite logs; as a leader it runs it.
    pub refuses_statements: bool,
    /// Receives nothing from the leader, so it never catches up.
    pub starved: bool,
    /// What the driver says of its pod.
    pub outdated: Option<String>,
    pub draining: bool,
    pub stuck: Option<String>,
    /// Told to end, and serving until then.
    pub ends_at_ms: Option<u64>,
    pub recreated_at_ms: Option<u64>,
    pub state_override: Option<NodeState>,
    pub problems: Vec<Problem>,
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
    pub divergences: Vec<DivergenceReport>,
    waits_lease: bool,
    pub lease_until_ms: u64,
    pub created: bool,
    /// Length of the part of its log that was dropped, whose records it can't compare any more.
    pub dropped: usize,
    /// Refuses `config`, as a leader does when a member is not caught up after all.
    pub refuses_changes: bool,
    /// What it was told to run with.
    pub settings: NodeSettings,
    /// How rows lie on its pages; 0 = a leader's base copy is still to come.
    pub layout: u64,
    /// The pages of the last record that it applied do not fit.
    pub other_layout: bool,
    pub exact: RecordPlace,
    /// Length of its log up to the last record of row changes alone.
    rows_until: usize,
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
            incompatible: false,
            refuses_statements: false,
            starved: false,
            outdated: None,
            draining: false,
            stuck: None,
            ends_at_ms: None,
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
            layout: 0,
            other_layout: false,
            exact: RecordPlace::default(),
            rows_until: 0,
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
        self.ends_at_ms = None;
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
            exact: self.exact,
            divergences: self.divergences.clone(),
            problems: self.problems.iter().cloned().chain(self.refusal()).collect(),
        }
    }

    /// What it says of records that it does not apply.
    fn refusal(&self) -> Option<Problem> {
        let refuses = self.incompatible || self.refuses_statements && self.role == Role::Follower;
        let message = "record 7: 3.53 said otherwise".to_owned();
        (refuses && self.role != Role::Empty).then(|| Problem { code: "INCOMPATIBLE".to_owned(), message })
    }
}

fn position_at(log: &[Record], length: usize) -> Position {
    match length.checked_sub(1).and_then(|last| log.get(last)) {
        None => Position::ZERO,
        Some((epoch, _)) => Position { epoch: *epoch, index: Index(length as u64), chain: Chain(0) },
    }
}
