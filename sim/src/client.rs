//! Clients: each has one operation under way, repeats a keyed write until it knows how it ended, and remembers the newest
//! position that it was told (its session).

use rdb_protocol::{Epoch, Index};

use crate::event::{At, ClientEvent, Event, MS, NodeEvent, NodeId, SECOND};
use crate::net::Place;
use crate::record::{Change, Op};
use crate::world::World;

pub const REGISTERS: u64 = 3;
pub const LISTS: u64 = 2;
/// A client gives up waiting for an answer after this.
const PATIENCE: At = 2 * SECOND;
/// A keyed write is sent again at most so often.
const MAX_ATTEMPTS: u32 = 40;

/// Where a session stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Token {
    pub epoch: Epoch,
    pub index: Index,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    Register(u64),
    List(u64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    Linearizable,
    Session(Token),
    /// Not older than so many milliseconds.
    Bounded(u64),
}

#[derive(Clone, Debug)]
pub enum Ask {
    Write { op: Op, keyed: bool },
    Read { level: Level, key: Key },
}

#[derive(Clone, Debug)]
pub struct Request {
    /// Number of the attempt, unique in the world.
    pub attempt: u64,
    pub ask: Ask,
    pub deadline: At,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    Register(u64),
    List(Vec<u64>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    Written {
        outcome: u64,
        position: Token,
        replayed: bool,
    },
    /// `snapshot` is what the database showed; `position` is what the session may build on.
    Value {
        value: Value,
        position: Token,
        snapshot: Token,
    },
    /// Surely not run.
    Refused,
    /// The token's record is not part of this history any more.
    PositionLost,
    Unknown,
}

/// What a client is doing.
#[derive(Clone, Debug)]
pub struct UnderWay {
    pub ask: Ask,
    pub begun: At,
    pub attempt: u64,
    pub attempts: u32,
    /// What must be visible to it: taken when it began.
    pub floor: Token,
    /// An attempt may have taken effect.
    pub unsure: bool,
}

#[derive(Debug, Default)]
pub struct Client {
    pub session: Token,
    pub sequence: u64,
    pub under_way: Option<UnderWay>,
    believed: NodeId,
}

impl World {
    pub(crate) fn client_event(&mut self, client: usize, event: ClientEvent) {
        match event {
            ClientEvent::Next => self.begin(client),
            ClientEvent::Answer { attempt, reply } => self.answered(client, attempt, reply),
            ClientEvent::Timeout { attempt } if self.waits_for(client, attempt) => {
                self.answered(client, attempt, Reply::Unknown);
            }
            ClientEvent::Retry { attempt } if self.waits_for(client, attempt) => self.attempt(client),
            ClientEvent::Timeout { .. } | ClientEvent::Retry { .. } => {}
        }
    }

    fn waits_for(&self, client: usize, attempt: u64) -> bool {
        self.clients[client].under_way.as_ref().is_some_and(|under_way| under_way.attempt == attempt)
    }

    fn begin(&mut self, client: usize) {
        if self.clients[client].under_way.is_some() {
            return;
        }
        let register = self.rng.below(REGISTERS);
        let key = if self.rng.chance(500) { Key::Register(register) } else { Key::List(self.rng.below(LISTS)) };
        let ask = match self.rng.below(10) {
            0..=4 => {
                let me = &mut self.clients[client];
                me.sequence += 1;
                let value = (client as u64 + 1) << 32 | me.sequence;
                let change = match key {
                    Key::Register(register) => Change::Set { register, value },
                    Key::List(list) => Change::Append { list, value },
                };
                let op = Op { client: client as u64, sequence: me.sequence, change };
                Ask::Write { op, keyed: self.rng.chance(800) }
            }
            5..=7 => Ask::Read { level: Level::Linearizable, key },
            8 => Ask::Read { level: Level::Bounded(self.rng.between(100, 5000)), key },
            _ => Ask::Read { level: Level::Session(self.clients[client].session), key },
        };
        let floor = self.checks.floor();
        self.checks.invoked(client, self.now, &ask);
        self.clients[client].under_way =
            Some(UnderWay { ask, begun: self.now, attempt: 0, attempts: 0, floor, unsure: false });
        self.attempt(client);
    }

    fn attempt(&mut self, client: usize) {
        let attempt = self.fresh_id();
        let deadline = self.now + PATIENCE;
        let nodes: Vec<NodeId> = self.nodes.keys().copied().collect();
        let wander = self.rng.chance(250);
        let Some(any) = self.rng.pick(&nodes) else {
            // No instance exists: not even an attempt is made.
            self.schedule(50 * MS, Event::Client { client, event: ClientEvent::Timeout { attempt } });
            if let Some(under_way) = &mut self.clients[client].under_way {
                under_way.attempt = attempt;
            }
            return;
        };
        let me = &mut self.clients[client];
        let Some(under_way) = &mut me.under_way else { return };
        under_way.attempt = attempt;
        under_way.attempts += 1;
        let anywhere = matches!(under_way.ask, Ask::Read { level: Level::Session(_) | Level::Bounded(_), .. });
        let node = if wander || anywhere || !nodes.contains(&me.believed) { any } else { me.believed };
        if !anywhere {
            me.believed = node;
        }
        let request = Box::new(Request { attempt, ask: under_way.ask.clone(), deadline });
        if let Some(delay) = self.passes(Place::Clients, Place::Node(node)) {
            let event = NodeEvent::Request { client, request };
            self.schedule(delay, Event::Node { node, boot: 0, event });
        }
        self.schedule(PATIENCE, Event::Client { client, event: ClientEvent::Timeout { attempt } });
    }

    fn answered(&mut self, client: usize, attempt: u64, reply: Reply) {
        let Some(mut under_way) = self.clients[client].under_way.clone().filter(|u| u.attempt == attempt) else {
            return;
        };
        let repeats = match (&under_way.ask, &reply) {
            (Ask::Write { .. }, Reply::Refused) => true,
            (Ask::Write { keyed, .. }, Reply::Unknown) => {
                under_way.unsure = true;
                *keyed
            }
            (Ask::Read { level: Level::Linearizable, .. }, Reply::Refused | Reply::Unknown) => under_way.attempts < 3,
            _ => false,
        };
        if repeats && under_way.attempts < MAX_ATTEMPTS && !self.clients_end() {
            self.clients[client].under_way = Some(under_way);
            self.clients[client].believed = 0;
            // A pause before the next attempt, in which late answers to this one are not taken.
            let pause = self.rng.between(5 * MS, 200 * MS);
            let next = self.fresh_id();
            if let Some(under_way) = &mut self.clients[client].under_way {
                under_way.attempt = next;
            }
            let event = ClientEvent::Retry { attempt: next };
            self.schedule(pause, Event::Client { client, event });
            return;
        }
        self.clients[client].under_way = None;
        let session = self.clients[client].session;
        if let Some(token) = self.checks.completed(self.now, client, &under_way, session, &reply) {
            self.clients[client].session = token;
        }
        if !self.clients_end() {
            let pause = self.rng.between(self.profile.think.0, self.profile.think.1);
            self.schedule(pause, Event::Client { client, event: ClientEvent::Next });
        }
    }
}
