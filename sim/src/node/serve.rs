//! What clients and operators ask of a node.

use rdb_control::{AdminCall, CallOutcome};
use rdb_protocol::admin::{AdminRefusal, LeaseAnswer, Recruit};
use rdb_replication::{self as replication, AdminAnswer, Input, LogView, Replica, RoleView, Token as CallToken};

use super::worker::Job;
use crate::client::{Ask, Key, Level, Reply, Request, Token, Value};
use crate::disk::Data;
use crate::event::{ClientEvent, Event, MS, NodeEvent, NodeId, OperatorEvent};
use crate::net::Place;
use crate::world::World;

type Caller = (usize, u64, u64);

impl World {
    // --- clients ---

    pub(crate) fn reply(&mut self, node: NodeId, client: usize, attempt: u64, reply: Reply) {
        if let Some(delay) = self.passes(Place::Node(node), Place::Clients) {
            self.schedule(delay, Event::Client { client, event: ClientEvent::Answer { attempt, reply } });
        }
    }

    pub(crate) fn refuse_client(&mut self, client: usize, attempt: u64) {
        let delay = self.delay();
        let event = ClientEvent::Answer { attempt, reply: Reply::Refused };
        self.schedule(delay, Event::Client { client, event });
    }

    /// The database may be read at all.
    fn serving(&self, node: NodeId) -> bool {
        let Some(place) = self.nodes.get(&node) else { return false };
        let (Some(process), Some(volume)) = (&place.process, &place.volume) else { return false };
        let ready = volume.control.as_ref().is_some_and(|control| control.data == Data::Ready);
        let runs = process.core.as_ref().is_some_and(|core| core.role() != RoleView::Halted);
        ready && runs && !process.given_up && volume.db.is_some()
    }

    pub(crate) fn request(&mut self, node: NodeId, client: usize, request: Request) {
        match request.ask.clone() {
            Ask::Write { op, keyed } => {
                let (attempt, deadline) = (request.attempt, request.deadline);
                if deadline <= self.now || !self.process(node).is_some_and(|process| process.is_open()) {
                    return self.reply(node, client, attempt, Reply::Refused);
                }
                self.enqueue(node, Job { client, attempt, op, keyed, deadline });
            }
            Ask::Read { level, key } => self.read(node, client, request, level, key),
        }
    }

    fn read(&mut self, node: NodeId, client: usize, request: Request, level: Level, key: Key) {
        let attempt = request.attempt;
        if !self.serving(node) {
            return self.reply(node, client, attempt, Reply::Refused);
        }
        let reply = match level {
            Level::Linearizable => return self.begin_linearizable(node, client, request, key),
            Level::Session(token) => match self.session(node, token) {
                Some(Ok(())) => self.value(node, key, Some(token)),
                Some(Err(reply)) => reply,
                None if request.deadline > self.now => {
                    // Not applied here yet.
                    let event = NodeEvent::Request { client, request: Box::new(request) };
                    return self.node_later(node, 20 * MS, event);
                }
                None => Reply::Refused,
            },
            Level::Bounded(ms) => {
                let now = self.node_time(node);
                let age = self.process(node).and_then(|process| process.core.as_ref()?.staleness(now));
                let bound = std::time::Duration::from_millis(ms);
                if age.is_some_and(|age| age <= bound) {
                    self.hit("step: bounded read served");
                    self.value(node, key, None)
                } else {
                    Reply::Refused
                }
            }
        };
        if let Reply::Value { value, snapshot, .. } = &reply {
            let (value, snapshot) = (value.clone(), *snapshot);
            self.checks.read(self.now, level, key, &value, snapshot);
        }
        self.reply(node, client, attempt, reply);
    }

    /// The snapshot first, then the lease, then the answer.
    fn begin_linearizable(&mut self, node: NodeId, client: usize, request: Request, key: Key) {
        if !self.process(node).is_some_and(|process| process.is_open()) {
            return self.reply(node, client, request.attempt, Reply::Refused);
        }
        let epoch = self.process(node).and_then(|p| p.core.as_ref().map(Replica::epoch)).unwrap_or_default();
        let reply = match self.value(node, key, None) {
            Reply::Value { value, snapshot, .. } => {
                let position = Token { epoch, index: snapshot.index };
                Box::new(Reply::Value { value, position, snapshot })
            }
            other => Box::new(other),
        };
        let delay = self.rng.skewed(1, 5 * MS);
        self.node_later(node, delay, NodeEvent::Confirm { client, request: Box::new(request), reply });
    }

    /// Does this node still lead the epoch in which the snapshot was taken, and may it say so?
    pub(crate) fn confirm(&mut self, node: NodeId, client: usize, request: &Request, reply: Reply) {
        let now = self.node_time(node);
        let Reply::Value { value, position, snapshot } = reply else {
            return self.reply(node, client, request.attempt, Reply::Refused);
        };
        let Some(place) = self.nodes.get(&node) else { return };
        let (Some(process), Some(volume)) = (&place.process, &place.volume) else { return };
        let leads = |core: &&Replica| core.is_open() && core.epoch() == position.epoch && core.lease_valid(now);
        let Some(_) = process.core.as_ref().filter(leads) else {
            self.hit("step: linearizable read refused for want of a lease");
            return self.reply(node, client, request.attempt, Reply::Refused);
        };
        // A new leader's first record leaves no trace in the database; its position says in which epoch this was read.
        let ends = volume.log.epochs();
        let before = ends.iter().rev().find(|end| end.epoch < position.epoch).copied().unwrap_or(volume.log.base());
        let position = if snapshot.epoch >= position.epoch {
            snapshot
        } else {
            Token { epoch: position.epoch, index: before.index.next() }
        };
        self.hit("step: linearizable read served");
        if let Ask::Read { level, key } = request.ask {
            self.checks.read(self.now, level, key, &value, snapshot);
        }
        self.reply(node, client, request.attempt, Reply::Value { value, position, snapshot });
    }

    /// Is this position applied here, and is the record there the session's? `None`: not applied yet.
    fn session(&mut self, node: NodeId, token: Token) -> Option<Result<(), Reply>> {
        let place = self.nodes.get(&node)?;
        let (process, volume) = (place.process.as_ref()?, place.volume.as_ref()?);
        if process.applied < token.index {
            return None;
        }
        rdb_protocol::if_planted!(TokenByIndex => { return Some(Ok(())); });
        let base = volume.log.base();
        let found = match volume.log.position(token.index) {
            Some(at) if at.epoch == token.epoch => Ok(()),
            Some(_) => Err(Reply::PositionLost),
            None if token.index < base.index && token.epoch == base.epoch => Ok(()),
            None if token.index < base.index => Err(Reply::PositionLost),
            None => return None,
        };
        self.hit(if found.is_ok() { "step: session read served" } else { "step: session's position lost" });
        Some(found)
    }

    fn value(&mut self, node: NodeId, key: Key, session: Option<Token>) -> Reply {
        let db = self.nodes.get(&node).and_then(|place| place.volume.as_ref()?.db.as_ref());
        let Some(db) = db else { return Reply::Refused };
        let value = match key {
            Key::Register(register) => Value::Register(db.register(register)),
            Key::List(list) => Value::List(db.list(list).to_vec()),
        };
        let snapshot = Token { epoch: db.epoch, index: db.index };
        // Records without pages leave no trace in the database; the session has seen them all the same.
        let position = session.filter(|token| token.index > snapshot.index).unwrap_or(snapshot);
        Reply::Value { value, position, snapshot }
    }

    pub(crate) fn recheck_reads(&mut self, _node: NodeId) {}

    // --- operators ---

    pub(crate) fn call_failed(&mut self, operator: usize, life: u64, id: u64) {
        let delay = self.delay();
        let outcome = CallOutcome::Failed("connection ended".to_owned());
        let event = OperatorEvent::Answered { id, outcome, recruit: None };
        self.schedule(delay, Event::Operator { operator, life, event });
    }

    pub(crate) fn answer_call(&mut self, node: NodeId, caller: Caller, reply: Result<AdminAnswer, AdminRefusal>) {
        let (operator, life, id) = caller;
        let (outcome, recruit): (CallOutcome, Option<Recruit>) = match reply {
            Ok(AdminAnswer::Done) => (CallOutcome::Done, None),
            Ok(AdminAnswer::Recruit(recruit)) => (CallOutcome::Done, Some(recruit)),
            Err(refusal) => (CallOutcome::Refused(refusal), None),
        };
        if let Some(delay) = self.passes(Place::Node(node), Place::Operator(operator)) {
            let event = OperatorEvent::Answered { id, outcome, recruit: recruit.map(Box::new) };
            self.schedule(delay, Event::Operator { operator, life, event });
        }
    }

    pub(crate) fn admin(&mut self, node: NodeId, caller: Caller, call: AdminCall) {
        self.tell(|| format!("db-{node} is told to {}", describe(&call)));
        let call = match call {
            AdminCall::Init(init) => {
                let reply = self.init(node, &init).map(|()| AdminAnswer::Done);
                return self.answer_call(node, caller, reply);
            }
            AdminCall::Reseed(reseed) => {
                let reply = self.reseed(node, &reseed).map(|()| AdminAnswer::Done);
                return self.answer_call(node, caller, reply);
            }
            AdminCall::Fence(call) => replication::AdminCall::Fence(call),
            AdminCall::Promote(call) => replication::AdminCall::Promote(call),
            AdminCall::Follow(call) => replication::AdminCall::Follow(call),
            AdminCall::NextConfig(call) => replication::AdminCall::NextConfig(call),
            AdminCall::Settle(call) => replication::AdminCall::Settle(call),
            AdminCall::StopWrites(call) => replication::AdminCall::StopWrites(call),
            AdminCall::ResumeWrites(call) => replication::AdminCall::ResumeWrites(call),
        };
        let timestamp = self.timestamp(node);
        let usable = self.nodes.get(&node).is_some_and(|place| {
            let ready = |volume: &crate::disk::Volume| volume.control.as_ref().is_some_and(|c| c.data == Data::Ready);
            place.volume.as_ref().is_some_and(ready) && place.process.as_ref().is_some_and(|p| !p.given_up)
        });
        let Some(process) = self.process(node) else { return };
        let refuse = |reason: &str| Err(AdminRefusal::State { reason: reason.to_owned() });
        if process.core.is_none() {
            return self.answer_call(node, caller, refuse("this node belongs to no cluster yet"));
        }
        if matches!(call, replication::AdminCall::Promote(_)) && !usable {
            return self.answer_call(node, caller, refuse("this node has no usable data to lead with"));
        }
        process.next_token += 1;
        let token = CallToken(process.next_token);
        process.calls.insert(token, caller);
        let is_change = matches!(call, replication::AdminCall::NextConfig(_));
        self.step(node, Input::Admin { token, call, timestamp });
        self.redial(node);
        if is_change {
            self.told_of_change();
        }
    }

    pub(crate) fn lease_answer(&mut self, node: NodeId, answer: LeaseAnswer) {
        let timestamp = self.timestamp(node);
        let Some(process) = self.process(node).filter(|process| process.core.is_some()) else { return };
        process.next_token += 1;
        let token = CallToken(process.next_token);
        self.hit("step: lease answered by the operator");
        self.step(node, Input::Admin { token, call: replication::AdminCall::Lease(answer), timestamp });
    }
}

pub(crate) fn describe(call: &AdminCall) -> String {
    match call {
        AdminCall::Init(init) => format!("init, create: {}", init.create),
        AdminCall::Fence(fence) => format!("fence epoch {}", fence.epoch),
        AdminCall::Promote(promote) => {
            format!("lead epoch {} after {} ms{}", promote.epoch, promote.lease_wait_ms, lossy(promote.lossy))
        }
        AdminCall::Follow(follow) => {
            format!("follow {} in epoch {}{}", follow.leader.name, follow.epoch, lossy(follow.loss_permitted))
        }
        AdminCall::NextConfig(next) => format!("count config {} too", config(&next.next)),
        AdminCall::Settle(settle) => format!("count only config {}", config(&settle.keep)),
        AdminCall::StopWrites(_) => "stop writes".to_owned(),
        AdminCall::ResumeWrites(_) => "resume writes".to_owned(),
        AdminCall::Reseed(_) => "re-seed".to_owned(),
    }
}

fn lossy(yes: bool) -> &'static str {
    if yes { ", records may be lost" } else { "" }
}

pub(crate) fn config(config: &rdb_protocol::ClusterConfig) -> String {
    let names: Vec<String> =
        config.cohort.iter().map(|m| format!("{}@{:04x}", m.name, m.incarnation.0 >> 48)).collect();
    format!("{} (W={} of {})", config.version, config.acks, names.join(" "))
}

pub(crate) fn configs(pair: &rdb_protocol::ConfigPair) -> String {
    pair.standing().map(config).collect::<Vec<_>>().join(" → ")
}
