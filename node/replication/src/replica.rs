//! [`Replica`]: the entrance `step`, the admission of messages (rule 5), and changes of role.

use rdb_protocol::status::Promise;
use rdb_protocol::{Epoch, Index, Member, Position};

use crate::admin::admin;
use crate::follower::{Append, Follower};
use crate::io::{Input, LogView, Output, Persistent, ProposalRefusal, RoleChange, Side, StartError, Time};
use crate::leader::Leader;
use crate::message::PeerMessage;
use crate::shared::Shared;
use crate::step::Step;

/// Where the writer's next record goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    pub epoch: Epoch,
    /// The record before it.
    pub previous: Position,
}

/// The replication state machine of one node.
#[derive(Debug)]
pub struct Replica {
    pub(crate) shared: Shared,
    pub(crate) role: Role,
}

#[derive(Debug)]
pub(crate) enum Role {
    Follower(Follower),
    Leader(Box<Leader>),
}

impl Replica {
    /// From the control file and the recovered log. `boot` is the start of this process: rule 16 counts it as an answer
    /// to the old leader. The first input must be [`Input::Start`]. A node never leads from disk.
    pub fn new(persistent: Persistent, log: &dyn LogView, boot: Time) -> Result<Replica, StartError> {
        let known = persistent.committed.max(persistent.acknowledged);
        if log.last().index < known {
            return Err(StartError::LogBehind { last: log.last(), known });
        }
        let shared = Shared::new(persistent, log, boot);
        Ok(Replica { shared, role: Role::Follower(Follower::default()) })
    }

    /// The only way in. `now` never steps back.
    pub fn step(&mut self, now: Time, input: Input, log: &dyn LogView) -> Vec<Output> {
        let mut out = Vec::new();
        self.step_into(now, input, log, &mut out);
        out
    }

    /// As [`Replica::step`], appending to a vector that the caller keeps.
    pub fn step_into(&mut self, now: Time, input: Input, log: &dyn LogView, out: &mut Vec<Output>) {
        #[cfg(feature = "planted")]
        {
            self.shared.now = now;
        }
        let mut step = Step { shared: &mut self.shared, now, log, out };
        let role = &mut self.role;
        match input {
            Input::Start => start(role, &mut step),
            Input::Tick { timestamp } => tick(role, &mut step, timestamp),
            Input::PeerUp { member, side } => peer_up(role, &mut step, &member, side),
            Input::PeerDown { member, side } => peer_down(role, &mut step, &member, side),
            Input::Peer { from, message } => peer(role, &mut step, &from, message),
            Input::Persisted { upto } => persisted(role, &mut step, upto),
            Input::Applied { index } => applied(role, &mut step, index),
            Input::Propose { entry } => match role {
                Role::Leader(leader) => leader.propose(&mut step, entry),
                Role::Follower(_) => {
                    let (position, reason) = (entry.position, ProposalRefusal::NotOpen);
                    step.out.push(Output::ProposalRefused { position, reason });
                }
            },
            Input::Fetched { to, prev, entries } => {
                if let Role::Leader(leader) = role {
                    leader.fetched(&mut step, &to, prev, entries);
                }
            }
            Input::ReleaseSlot => {
                if let Role::Leader(leader) = role {
                    leader.reserved = false;
                    leader.append_own(&mut step);
                }
            }
            Input::Noop => {
                if let Role::Leader(leader) = role {
                    leader.noop(&mut step);
                }
            }
            Input::AppendRefused => {
                step.shared.append_refused(log);
                match role {
                    Role::Leader(leader) => leader.append_refused(log.last()),
                    Role::Follower(follower) => follower.append_refused(log.last()),
                }
                // What was appended before is flushed all the same; its order may be among the outputs that were dropped.
                if step.shared.flushed.index < step.shared.last.index {
                    step.out.push(Output::Sync);
                }
            }
            Input::Admin { token, call, timestamp } => {
                step.shared.timestamp = step.shared.timestamp.max(timestamp);
                admin(role, &mut step, token, call);
            }
        }
        step.shared.answer_fences(now, step.out);
    }

    /// Takes the next place in the log for the writer: the core appends no record of its own until it is proposed to or
    /// released. `None`: not an open leader, writes stopped, no lease in async mode, or already reserved.
    pub fn reserve_slot(&mut self, now: Time) -> Option<Slot> {
        let slot = self.next_slot(now)?;
        match &mut self.role {
            Role::Leader(leader) if !leader.reserved => leader.reserved = true,
            Role::Leader(_) | Role::Follower(_) => return None,
        }
        Some(slot)
    }

    /// The next place in the log, if this node would take a write now. Does not reserve it.
    pub fn next_slot(&self, now: Time) -> Option<Slot> {
        let leader = self.as_leader()?;
        leader.accepts(now, &self.shared).ok()?;
        Some(Slot { epoch: leader.epoch, previous: self.shared.last })
    }

    /// When the next `Tick` is due at the latest.
    pub fn wake_at(&self, now: Time) -> Time {
        match &self.role {
            Role::Leader(leader) => leader.wake_at(now),
            Role::Follower(follower) if self.shared.link_up => {
                follower.hello_due(self.shared.durable.settings.heartbeat_interval()).unwrap_or(Time::NEVER)
            }
            Role::Follower(_) => Time::NEVER,
        }
    }

    pub(crate) fn as_leader(&self) -> Option<&Leader> {
        match &self.role {
            Role::Leader(leader) => Some(leader),
            Role::Follower(_) => None,
        }
    }
}

// --- inputs that every role gets ---

fn start(role: &mut Role, step: &mut Step<'_>) {
    let index = step.shared.durable.committed;
    if index > Index::ZERO {
        step.out.push(Output::Committed { index });
    }
    if step.shared.last.index > step.shared.flushed.index {
        step.out.push(Output::Sync);
    }
    become_follower(role, step);
}

fn tick(role: &mut Role, step: &mut Step<'_>, timestamp: u64) {
    step.shared.timestamp = step.shared.timestamp.max(timestamp);
    match role {
        Role::Leader(leader) => leader.tick(step),
        Role::Follower(follower) => {
            let heartbeat = step.shared.durable.settings.heartbeat_interval();
            let due = follower.hello_due(heartbeat).is_some_and(|due| step.now >= due);
            if let Some(leader) = step.shared.dialled.clone().filter(|_| step.shared.link_up && due) {
                follower.hello(step, &leader);
            }
        }
    }
}

fn peer_up(role: &mut Role, step: &mut Step<'_>, member: &Member, side: Side) {
    // Who dials us is known by its `Hello`.
    if side == Side::Dialled && step.shared.dialled.as_ref() == Some(member) {
        step.shared.link_up = true;
        if let Role::Follower(follower) = role {
            follower.hello(step, member);
        }
    }
}

fn peer_down(role: &mut Role, step: &mut Step<'_>, member: &Member, side: Side) {
    match (side, role) {
        (Side::Accepted, Role::Leader(leader)) => leader.peer_down(member),
        (Side::Dialled, _) if step.shared.dialled.as_ref() == Some(member) => step.shared.link_up = false,
        (Side::Accepted, Role::Follower(_)) | (Side::Dialled, _) => {}
    }
}

fn persisted(role: &mut Role, step: &mut Step<'_>, upto: Position) {
    if step.shared.flush_done(upto, step.log) {
        #[cfg(feature = "planted")]
        if let Some((epoch, leader, verified)) = step.shared.late.take() {
            let position = step.at(verified.min(step.shared.flushed.index)).unwrap_or(Position::ZERO);
            step.send(&leader, PeerMessage::Ack { epoch, position, round: 0, probe: 0 });
        }
        match role {
            Role::Leader(leader) => leader.advance(step),
            Role::Follower(follower) => follower.persisted(step),
        }
    }
}

fn applied(role: &mut Role, step: &mut Step<'_>, index: Index) {
    step.shared.applied = step.shared.applied.max(index);
    match role {
        Role::Leader(leader) => leader.advance(step),
        Role::Follower(follower) => follower.applied(step.shared.applied),
    }
}

/// Follows whom the promise names, from the beginning of an epoch. The promise is on disk already.
pub(crate) fn become_follower(role: &mut Role, step: &mut Step<'_>) {
    let leader = step.shared.durable.promise.leader.clone().filter(|leader| !step.shared.is_self(leader));
    let mut follower = Follower::default();
    step.out.push(Output::Became(RoleChange::Follower { leader: leader.clone() }));
    step.dial(leader.filter(|_| !step.shared.halted));
    // The same node as in the last epoch: its connection stands, but its new reign knows nobody yet.
    if let Some(leader) = step.shared.dialled.clone().filter(|_| step.shared.link_up) {
        follower.hello(step, &leader);
    }
    *role = Role::Follower(follower);
}

// --- messages (rule 5 first) ---

fn peer(role: &mut Role, step: &mut Step<'_>, from: &Member, message: PeerMessage) {
    if step.shared.halted {
        return;
    }
    match message {
        PeerMessage::Hello { to, cluster, promise, base, boundaries } => {
            if cluster != step.shared.durable.cluster || !step.shared.is_self(&to) {
                return step.out.push(Output::Disconnect { member: from.clone() });
            }
            raise_to(role, step, promise);
            match role {
                Role::Leader(leader) => leader.hello(step, from, base, &boundaries),
                Role::Follower(_) => refuse(step, from),
            }
        }
        PeerMessage::Refused { promise } => raise_to(role, step, promise),
        PeerMessage::Append { epoch, prev, entries, committed, round, answered_probe } => {
            if let Some(follower) = admit_leader(role, step, from, epoch) {
                follower.append(step, from, epoch, Append { prev, entries, committed, round, answered_probe });
            }
        }
        PeerMessage::SeedRequired { epoch, first_retained } => {
            if let Some(follower) = admit_leader(role, step, from, epoch) {
                follower.seed_required(step, from, first_retained);
            }
        }
        PeerMessage::Config { epoch, config } => {
            if let Some(follower) = admit_leader(role, step, from, epoch) {
                follower.config(step, config);
            }
        }
        PeerMessage::Ack { epoch, position, round, probe } => {
            if let Some(leader) = admit_follower(role, step, from, epoch) {
                leader.ack(step, from, position, round, probe);
            }
        }
        PeerMessage::Mismatch { epoch, base, boundaries } => {
            if let Some(leader) = admit_follower(role, step, from, epoch) {
                leader.mismatch(step, from, base, &boundaries);
            }
        }
    }
}

fn refuse(step: &mut Step<'_>, to: &Member) {
    let promise = step.shared.durable.promise.clone();
    step.send(to, PeerMessage::Refused { promise });
}

/// A higher epoch, whoever speaks of it, is promised on disk first; a leader below it has ended.
fn raise_to(role: &mut Role, step: &mut Step<'_>, promise: Promise) {
    if promise.epoch > step.shared.promised() {
        step.shared.raise(promise, false, step.out);
        become_follower(role, step);
    }
}

/// A message that only the leader of `epoch` sends: may this node follow it?
fn admit_leader<'r>(role: &'r mut Role, step: &mut Step<'_>, from: &Member, epoch: Epoch) -> Option<&'r mut Follower> {
    if epoch < step.shared.promised() {
        refuse(step, from);
        return None;
    }
    rdb_protocol::if_planted!(AppendDoesNotRaise => {
        // It follows, and forgets to note it.
        if epoch > step.shared.promised() {
            step.shared.durable.promise = Promise { epoch, leader: Some(from.clone()) };
            become_follower(role, step);
        }
    });
    raise_to(role, step, Promise { epoch, leader: Some(from.clone()) });
    if step.shared.durable.promise.leader.is_none() {
        step.shared.name_leader(from, step.out);
        become_follower(role, step);
    }
    // An epoch has one leader: whoever else claims it is not heard.
    match role {
        Role::Follower(follower) if step.shared.durable.promise.leader.as_ref() == Some(from) => Some(follower),
        Role::Follower(_) | Role::Leader(_) => None,
    }
}

/// A message that a follower of `epoch` sends to its leader: is that this node?
fn admit_follower<'r>(role: &'r mut Role, step: &mut Step<'_>, from: &Member, epoch: Epoch) -> Option<&'r mut Leader> {
    if epoch < step.shared.promised() {
        refuse(step, from);
        return None;
    }
    raise_to(role, step, Promise { epoch, leader: None });
    match role {
        Role::Leader(leader) if leader.epoch == epoch => Some(leader),
        Role::Leader(_) | Role::Follower(_) => None,
    }
}
