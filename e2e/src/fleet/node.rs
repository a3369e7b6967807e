//! A fake node: promises, elections and config changes as the protocol has them, over a log that is a number. All nodes of a
//! database are in one place, so that replication is a look at the leader's number.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rdb_bench::clock::now;
use rdb_protocol::admin::{AdminRefusal, Fence, Follow, Init, NextConfig, Promote, Recruit, Settle};
use rdb_protocol::status::{FollowerProgress, NodeState, NodeStatus, Promise, Role, SettleReport};
use rdb_protocol::{Chain, ClusterId, ConfigPair, Epoch, Incarnation, Index, Member, NodeName, Position};
use tokio::sync::watch;

/// A follower of a live leader heard it so long ago: half a heartbeat.
const HEARD_MS: u64 = 125;

/// The nodes of one database.
pub struct Database {
    nodes: Mutex<BTreeMap<NodeName, Node>>,
    /// Counts changes; every status stream of the database writes a line for each.
    pub changes: watch::Sender<u64>,
}

impl Default for Database {
    fn default() -> Database {
        Database { nodes: Mutex::default(), changes: watch::Sender::new(0) }
    }
}

/// One node. It outlives its pod, as a volume would.
pub struct Node {
    name: NodeName,
    incarnation: Incarnation,
    boot: Incarnation,
    alive: bool,
    died: Instant,
    cluster: Option<ClusterId>,
    role: Role,
    promise: Promise,
    led: Epoch,
    opens: Option<Instant>,
    end: Position,
    config: Option<ConfigPair>,
    settled: Option<SettleReport>,
    peers: Vec<rdb_protocol::admin::PeerAddress>,
}

/// What a call came to: the JSON of the answer.
pub type Answer = Result<serde_json::Value, AdminRefusal>;

fn refuse<T>(reason: &str) -> Result<T, AdminRefusal> {
    Err(AdminRefusal::State { reason: reason.to_owned() })
}

impl Database {
    pub fn lock(&self) -> MutexGuard<'_, BTreeMap<NodeName, Node>> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn changed(&self) {
        self.changes.send_modify(|count| *count += 1);
    }

    /// Starts a node's process; its data is made if there is none. `id` is a number that is used once.
    pub fn start(&self, name: &NodeName, id: u64) {
        let mut nodes = self.lock();
        let node = nodes.entry(name.clone()).or_insert_with(|| Node::empty(name, Incarnation(id)));
        node.boot = Incarnation(id);
        node.alive = true;
        node.step_down();
        drop(nodes);
        self.changed();
    }

    /// Ends a node's process; gives the boot id that it had.
    pub fn kill(&self, name: &NodeName) -> Option<Incarnation> {
        let mut nodes = self.lock();
        let node = nodes.get_mut(name)?;
        node.alive = false;
        node.died = now();
        let boot = node.boot;
        drop(nodes);
        self.changed();
        Some(boot)
    }

    /// The process that leads and is open.
    pub fn leader(&self) -> Option<NodeName> {
        let nodes = self.lock();
        let mut open = nodes.values().filter(|node| node.alive && node.is_open());
        open.find(|node| nodes.values().all(|other| other.led <= node.led)).map(|node| node.name.clone())
    }

    pub fn report(&self, name: &NodeName) -> Option<NodeStatus> {
        let nodes = self.lock();
        let node = nodes.get(name).filter(|node| node.alive)?;
        Some(node.report(&nodes))
    }

    /// An admin call. The second value: when the node will open by itself.
    pub fn call(&self, name: &NodeName, path: &str, body: &[u8]) -> (Answer, Option<Instant>) {
        let mut nodes = self.lock();
        let end = nodes.values().map(|node| node.end).max_by_key(Position::rank).unwrap_or(Position::ZERO);
        let Some(node) = nodes.get_mut(name).filter(|node| node.alive) else { return (refuse("it is down"), None) };
        let answer = node.obey(path, body, end);
        let opens = node.opens.filter(|opens| *opens > now());
        drop(nodes);
        self.changed();
        (answer, opens)
    }

    pub fn announce(&self) {
        self.changed();
    }
}

impl Node {
    fn empty(name: &NodeName, incarnation: Incarnation) -> Node {
        Node {
            name: name.clone(),
            incarnation,
            boot: incarnation,
            alive: false,
            died: now(),
            cluster: None,
            role: Role::Empty,
            promise: Promise::default(),
            led: Epoch::ZERO,
            opens: None,
            end: Position::ZERO,
            config: None,
            settled: None,
            peers: Vec::new(),
        }
    }

    fn member(&self) -> Member {
        Member { name: self.name.clone(), incarnation: self.incarnation }
    }

    fn is_open(&self) -> bool {
        self.role == Role::Leader && self.opens.is_some_and(|opens| opens <= now())
    }

    fn step_down(&mut self) {
        if self.role == Role::Leader {
            self.role = Role::Follower;
        }
        self.opens = None;
        self.settled = None;
    }

    fn obey(&mut self, path: &str, body: &[u8], end: Position) -> Answer {
        fn read<T: serde::de::DeserializeOwned>(body: &[u8]) -> Result<T, AdminRefusal> {
            serde_json::from_slice(body).map_err(|error| AdminRefusal::State { reason: error.to_string() })
        }
        match path {
            "init" => self.init(&read::<Init>(body)?),
            "fence" => return self.fence(&read::<Fence>(body)?),
            "promote" => self.promote(&read::<Promote>(body)?, end),
            "follow" => self.follow(read::<Follow>(body)?, end),
            "config" => self.change(&read::<NextConfig>(body)?),
            "settle" => self.settle(&read::<Settle>(body)?),
            "stop-writes" | "resume-writes" | "lease" | "probe" => Ok(()),
            _ => refuse("fake nodes do not know this call"),
        }?;
        Ok(serde_json::json!({}))
    }

    fn heed(&self, epoch: Epoch) -> Result<(), AdminRefusal> {
        if epoch < self.promise.epoch { Err(AdminRefusal::Fenced { promise: self.promise.clone() }) } else { Ok(()) }
    }

    fn init(&mut self, init: &Init) -> Result<(), AdminRefusal> {
        if self.role != Role::Empty || init.incarnation != self.incarnation {
            return refuse("it is not empty");
        }
        self.cluster = Some(init.cluster);
        self.role = Role::Follower;
        Ok(())
    }

    fn fence(&mut self, fence: &Fence) -> Answer {
        self.heed(fence.epoch)?;
        let had_opened = self.is_open();
        if fence.epoch > self.promise.epoch {
            self.promise = Promise { epoch: fence.epoch, leader: None };
            self.step_down();
        }
        let recruit = Recruit {
            epoch: fence.epoch,
            member: self.member(),
            position: self.end,
            committed: self.end.index,
            answered_ms_ago: HEARD_MS,
            had_opened,
            acknowledged: self.end.index,
            config: self.config.clone(),
        };
        serde_json::to_value(recruit).or_else(|error| refuse(&error.to_string()))
    }

    fn promote(&mut self, promote: &Promote, end: Position) -> Result<(), AdminRefusal> {
        self.heed(promote.epoch)?;
        self.peers.clone_from(&promote.peers);
        if self.role == Role::Leader && self.led == promote.epoch {
            return Ok(());
        }
        if self.promise.epoch != promote.epoch || self.led >= promote.epoch {
            return refuse("it has led this epoch");
        }
        self.promise.leader = Some(self.member());
        self.role = Role::Leader;
        self.led = promote.epoch;
        self.config = Some(promote.config.clone());
        self.end = Position { epoch: promote.epoch, index: end.index.next(), chain: Chain(promote.epoch.0) };
        self.opens = Some(now() + Duration::from_millis(promote.lease_wait_ms));
        Ok(())
    }

    fn follow(&mut self, follow: Follow, end: Position) -> Result<(), AdminRefusal> {
        self.heed(follow.epoch)?;
        if self.role == Role::Leader && self.led == follow.epoch {
            return refuse("it leads this epoch");
        }
        self.step_down();
        self.promise = Promise { epoch: follow.epoch, leader: Some(follow.leader) };
        self.end = end;
        self.peers = follow.peers;
        Ok(())
    }

    fn change(&mut self, change: &NextConfig) -> Result<(), AdminRefusal> {
        self.heed(change.epoch)?;
        match self.config.as_mut().filter(|_| self.role == Role::Leader) {
            Some(pair) => pair.next = Some(change.next.clone()),
            None => return refuse("it does not lead"),
        }
        Ok(())
    }

    fn settle(&mut self, settle: &Settle) -> Result<(), AdminRefusal> {
        self.heed(settle.epoch)?;
        if self.role != Role::Leader {
            return refuse("it does not lead");
        }
        self.config = Some(ConfigPair::settled(settle.keep.clone()));
        let (epoch, version, keep) = (settle.epoch, settle.version, settle.keep.clone());
        self.settled = Some(SettleReport { epoch, version, keep, committed: true });
        Ok(())
    }

    fn follows(&self, leader: &Node) -> bool {
        self.role == Role::Follower
            && self.promise.epoch == leader.led
            && self.promise.leader.as_ref() == Some(&leader.member())
    }

    fn report(&self, nodes: &BTreeMap<NodeName, Node>) -> NodeStatus {
        let leader = nodes.values().find(|node| node.role == Role::Leader && self.follows(node));
        let heard = leader.map(|leader| match leader.alive {
            true => HEARD_MS,
            false => millis(leader.died) + HEARD_MS,
        });
        let opened = self.is_open();
        let state = match self.role {
            Role::Empty => NodeState::Empty,
            Role::Leader if opened => NodeState::Leading,
            Role::Leader => NodeState::Opening,
            Role::Follower if leader.is_some_and(|leader| leader.alive) => NodeState::Streaming,
            Role::Follower => NodeState::Searching,
        };
        // What followers have is what the leader has.
        let end = leader.filter(|leader| leader.alive).map_or(self.end, |leader| leader.end);
        let followers = nodes.values().filter(|node| self.role == Role::Leader && node.follows(self));
        let config = leader.map_or(&self.config, |leader| &leader.config).clone();
        NodeStatus {
            name: self.name.clone(),
            incarnation: self.incarnation,
            cluster: self.cluster,
            boot: self.boot,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            role: self.role,
            state,
            promise: self.promise.clone(),
            led: self.led,
            lossy: Epoch::ZERO,
            flushed: end,
            committed: end.index,
            applied: end.index,
            first_retained: Index(1),
            config,
            peers: self.peers.clone(),
            opened,
            settled: self.settled.clone(),
            followers: followers.map(|node| node.progress(end.index)).collect(),
            leader_heard_ms_ago: heard,
            lease_valid: opened,
            lease_request: None,
            uncommitted_ms: None,
            acknowledged: end.index,
            seed: None,
            other_layout: false,
            exact: Default::default(),
            divergences: Vec::new(),
            problems: Vec::new(),
        }
    }

    fn progress(&self, acknowledged: Index) -> FollowerProgress {
        FollowerProgress {
            member: self.member(),
            connected: self.alive,
            acknowledged,
            answered_ms_ago: Some(if self.alive { HEARD_MS } else { millis(self.died) }),
            caught_up: true,
        }
    }
}

fn millis(since: Instant) -> u64 {
    u64::try_from((now() - since).as_millis()).unwrap_or(u64::MAX)
}
