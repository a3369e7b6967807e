//! Nodes, network and clock. Carries out outputs in their order, as a driver must.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use rdb_protocol::admin::AdminRefusal;
use rdb_protocol::settings::NodeSettings;
use rdb_protocol::status::Promise;
use rdb_protocol::{ClusterId, Epoch, Incarnation, Index, Member, NodeName, Position};
use rdb_record::{Entry, PageGroup, Payload, Record};
use rdb_replication::{
    AdminAnswer, AdminCall, Input, LogView, Output, PeerMessage, Persistent, Replica, RoleChange, Side, Time, Token,
};

use super::checker::Checker;
use super::log::MemLog;
use super::show;

pub const CLUSTER: ClusterId = ClusterId(7);

pub fn member(name: &str) -> Member {
    Member { name: NodeName::new(name).expect("a node name"), incarnation: Incarnation(1) }
}

/// One process with its disk. The replica is gone while it is down.
pub struct Node {
    pub replica: Option<Replica>,
    pub control: Persistent,
    pub log: MemLog,
    pub dialled: Option<Member>,
    /// Flushes finish at once; else when the test says so.
    pub auto_flush: bool,
    /// The flush under way: where the log ended when it began.
    pub flushing: Option<Position>,
    pub auto_apply: bool,
    pub full: bool,
    /// Positions after which tails were archived.
    pub archived: Vec<Position>,
    pub seed_needed: bool,
}

pub struct Cluster {
    pub nodes: BTreeMap<Member, Node>,
    /// Messages on the way, oldest first.
    pub network: VecDeque<(Member, Member, PeerMessage)>,
    /// Connections (dialler, leader).
    pub links: BTreeSet<(Member, Member)>,
    /// Pairs that cannot talk.
    pub cut: BTreeSet<(Member, Member)>,
    pub now: Time,
    pub checker: Checker,
    /// What happened, for scripts.
    pub events: Vec<String>,
    pub replies: Vec<(Member, Token, Result<AdminAnswer, AdminRefusal>)>,
    next_token: u64,
    next_write: u64,
}

impl Cluster {
    pub fn new(names: &[&str]) -> Cluster {
        let mut cluster = Cluster {
            nodes: BTreeMap::new(),
            network: VecDeque::new(),
            links: BTreeSet::new(),
            cut: BTreeSet::new(),
            now: Time(10_000_000),
            checker: Checker::default(),
            events: Vec::new(),
            replies: Vec::new(),
            next_token: 0,
            next_write: 0,
        };
        for name in names {
            cluster.add(&member(name), MemLog::default());
        }
        cluster
    }

    pub fn add(&mut self, member: &Member, log: MemLog) {
        let control = Persistent {
            member: member.clone(),
            cluster: CLUSTER,
            promise: Promise::default(),
            led: Epoch::ZERO,
            opened: Epoch::ZERO,
            lossy: Epoch::ZERO,
            config: None,
            committed: log.base.index,
            acknowledged: Index::ZERO,
            loss_permitted: false,
            peers: Vec::new(),
            settings: NodeSettings::default(),
        };
        let node = Node {
            replica: None,
            control,
            log,
            dialled: None,
            auto_flush: true,
            flushing: None,
            auto_apply: true,
            full: false,
            archived: Vec::new(),
            seed_needed: false,
        };
        self.nodes.insert(member.clone(), node);
        self.start(member);
    }

    pub fn node(&mut self, member: &Member) -> &mut Node {
        self.nodes.get_mut(member).expect("a known node")
    }

    pub fn replica(&self, member: &Member) -> Option<&Replica> {
        self.nodes.get(member)?.replica.as_ref()
    }

    pub fn start(&mut self, member: &Member) {
        let now = self.now;
        let node = self.node(member);
        match Replica::new(node.control.clone(), &node.log, now) {
            Ok(replica) => node.replica = Some(replica),
            Err(error) => return self.events.push(format!("{}: cannot start: {error}", show::name(member))),
        }
        self.step(member, Input::Start);
    }

    /// The process ends; what is not flushed is lost, and so are its connections.
    pub fn crash(&mut self, member: &Member) {
        let node = self.node(member);
        node.replica = None;
        node.flushing = None;
        node.dialled = None;
        node.log.crash();
        for link in self.links.clone() {
            if link.0 == *member || link.1 == *member {
                self.unlink(&link);
            }
        }
    }

    // --- the driver ---

    pub fn step(&mut self, member: &Member, input: Input) {
        let mut inputs = VecDeque::from([input]);
        while let Some(input) = inputs.pop_front() {
            let now = self.now;
            let node = self.node(member);
            let Some(replica) = node.replica.as_mut() else { return };
            let outputs = replica.step(now, input, &node.log);
            for output in outputs {
                self.events.push(format!("{}: {}", show::name(member), show::output(&output)));
                if !self.carry_out(member, output, &mut inputs) {
                    break;
                }
            }
        }
        self.checker.check(self.now, self.nodes.values().filter_map(|node| node.replica.as_ref()));
    }

    /// False: the rest of the step's outputs is dropped.
    fn carry_out(&mut self, member: &Member, output: Output, inputs: &mut VecDeque<Input>) -> bool {
        let now = self.now;
        let node = self.nodes.get_mut(member).expect("a known node");
        match output {
            Output::PersistControl(persistent) => node.control = *persistent,
            Output::Append(_) if node.full => {
                inputs.push_back(Input::AppendRefused);
                return false;
            }
            Output::Append(entry) => node.log.append(entry),
            Output::ArchiveTail { from } => node.archived.push(from),
            Output::Truncate { after } => node.log.truncate(after),
            Output::Sync => {
                node.flushing = Some(node.log.last());
                if node.auto_flush {
                    inputs.extend(flush(node));
                }
            }
            Output::Send { to, message } => self.post(member, &to, message),
            Output::Fetch { to, prev, max_bytes } => {
                let entries = node.log.read(prev, max_bytes);
                inputs.push_back(Input::Fetched { to, prev, entries });
            }
            Output::Committed { index } => {
                let replica = node.replica.as_ref().expect("it spoke");
                self.checker.committed(replica, &node.log, index, now);
                if node.auto_apply {
                    inputs.push_back(Input::Applied { index });
                }
            }
            Output::AdminReply { token, reply } => self.replies.push((member.clone(), token, reply)),
            Output::Became(RoleChange::Opened { .. }) => {
                self.checker.opened(node.replica.as_ref().expect("it spoke"), &node.log);
            }
            Output::Became(_) | Output::ProposalRefused { .. } | Output::Halt { .. } => {}
            Output::Dial { leader } => self.hang_up(member, Some(leader)),
            Output::Hangup => self.hang_up(member, None),
            Output::Disconnect { member: dialler } => self.unlink(&(dialler, member.clone())),
            Output::SeedNeeded { .. } => node.seed_needed = true,
        }
        true
    }

    /// Only over a connection; else it is lost.
    fn post(&mut self, from: &Member, to: &Member, message: PeerMessage) {
        let connected =
            self.links.contains(&(from.clone(), to.clone())) || self.links.contains(&(to.clone(), from.clone()));
        if connected {
            self.network.push_back((from.clone(), to.clone(), message));
        }
    }

    fn hang_up(&mut self, member: &Member, next: Option<Member>) {
        let previous = std::mem::replace(&mut self.node(member).dialled, next);
        if let Some(leader) = previous {
            self.unlink(&(member.clone(), leader));
        }
    }

    // --- the network ---

    /// Ends a connection: what is on it is lost, both ends hear of it.
    pub fn unlink(&mut self, link: &(Member, Member)) {
        if !self.links.remove(link) {
            return;
        }
        let (dialler, leader) = link;
        if !self.links.contains(&(leader.clone(), dialler.clone())) {
            let is_theirs =
                |from: &Member, to: &Member| (from == dialler && to == leader) || (from == leader && to == dialler);
            self.network.retain(|(from, to, _)| !is_theirs(from, to));
        }
        self.step(dialler, Input::PeerDown { member: leader.clone(), side: Side::Dialled });
        self.step(leader, Input::PeerDown { member: dialler.clone(), side: Side::Accepted });
    }

    /// Whoever was told to dial gets through, if both are up and not cut off.
    pub fn connect(&mut self) {
        let wanted: Vec<(Member, Member)> = self
            .nodes
            .iter()
            .filter(|(_, node)| node.replica.is_some())
            .filter_map(|(member, node)| Some((member.clone(), node.dialled.clone()?)))
            .filter(|link| !self.links.contains(link) && !self.is_cut(link))
            .filter(|(_, leader)| self.replica(leader).is_some())
            .collect();
        for (dialler, leader) in wanted {
            self.links.insert((dialler.clone(), leader.clone()));
            self.step(&leader, Input::PeerUp { member: dialler.clone(), side: Side::Accepted });
            self.step(&dialler, Input::PeerUp { member: leader, side: Side::Dialled });
        }
    }

    pub fn is_cut(&self, link: &(Member, Member)) -> bool {
        self.cut.contains(link) || self.cut.contains(&(link.1.clone(), link.0.clone()))
    }

    pub fn partition(&mut self, a: &Member, b: &Member) {
        self.cut.insert((a.clone(), b.clone()));
        self.unlink(&(a.clone(), b.clone()));
        self.unlink(&(b.clone(), a.clone()));
    }

    /// Delivers the message at `at`.
    pub fn deliver_at(&mut self, at: usize) {
        let Some((from, to, message)) = self.network.remove(at) else { return };
        // Every message goes over the wire.
        let message =
            rdb_replication::wire::decode(rdb_replication::wire::encode(&message).into()).expect("our own frame");
        self.step(&to, Input::Peer { from, message });
    }

    /// Delivers until nothing is on the way; bounded, so that a loop of messages fails the test.
    pub fn deliver_all(&mut self) {
        for _ in 0..10_000 {
            if self.network.is_empty() {
                return;
            }
            self.deliver_at(0);
        }
        panic!("messages never end");
    }

    // --- time, disk, calls ---

    pub fn tick(&mut self, member: &Member) {
        let timestamp = self.now.0 << 4;
        self.step(member, Input::Tick { timestamp });
    }

    pub fn finish_flush(&mut self, member: &Member) {
        let input = flush(self.node(member));
        if let Some(input) = input {
            self.step(member, input);
        }
    }

    pub fn call(&mut self, member: &Member, call: AdminCall) -> Token {
        self.next_token += 1;
        let token = Token(self.next_token);
        self.step(member, Input::Admin { token, call, timestamp: self.now.0 << 4 });
        token
    }

    /// The writer runs a group and proposes it.
    pub fn write(&mut self, member: &Member) -> bool {
        let now = self.now;
        self.next_write += 1;
        let content = self.next_write;
        let Some(slot) = self.node(member).replica.as_mut().and_then(|replica| replica.reserve_slot(now)) else {
            return false;
        };
        self.step(member, Input::Propose { entry: write(content, slot.previous, slot.epoch) });
        true
    }
}

fn flush(node: &mut Node) -> Option<Input> {
    let upto = node.flushing.take()?;
    // What replaced a cut tail after the flush began may still be lost.
    if node.log.position(upto.index) == Some(upto) {
        node.log.flushed = node.log.flushed.max(upto.index);
    }
    Some(Input::Persisted { upto })
}

/// A transaction's record; `content` makes it different from every other.
pub fn write(content: u64, previous: Position, epoch: Epoch) -> Entry {
    let pages = PageGroup { page_size: 512, database_pages: 1, pages: Vec::new() };
    Record { timestamp: 1, content, clients: Vec::new(), payload: Payload::Pages(pages) }.encode(previous, epoch)
}
