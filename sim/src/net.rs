//! The network: delays, losses, cuts in one direction or both, and connections between nodes.
//!
//! A connection delivers in order unless the world is a rough one, in which messages are also lost, repeated and overtake
//! each other: the core says that each is safe to get at any time. What is lost ends the connection sooner or later, as with
//! TCP; what came before that has come without what was lost.

use std::collections::BTreeSet;

use rdb_protocol::Member;
use rdb_replication::PeerMessage;

use crate::event::{At, ConnId, Event, MS, NodeEvent, NodeId};
use crate::world::World;

/// Who can be cut off from whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    Node(NodeId),
    Operator(usize),
    Api,
    Clients,
}

/// What does not get through, from the first to the second.
pub type Blocked = BTreeSet<(Place, Place)>;

#[derive(Clone, Debug)]
pub struct End {
    pub node: NodeId,
    pub boot: u64,
    /// Who it says that it is (the dialler), or is meant to be (the acceptor).
    pub member: Member,
    /// It has not closed it, and has not heard that it ended.
    pub open: bool,
    /// When the last message on the way to it arrives.
    last: At,
}

/// A connection; the dialler first.
#[derive(Clone, Debug)]
pub struct Conn {
    pub ends: [End; 2],
    /// Something was lost on it: it will end.
    doomed: bool,
}

/// A connection on which something was lost ends within this at both ends: by a reset, or by the keep-alive.
const ENDS_WITHIN: At = 10_000 * MS;

impl World {
    /// The delay of a message, if it gets through.
    pub(crate) fn passes(&mut self, from: Place, to: Place) -> Option<At> {
        if !self.reaches(from, to) || self.rng.chance(self.calmly(self.profile.loss)) {
            return None;
        }
        Some(self.delay())
    }

    pub(crate) fn delay(&mut self) -> At {
        self.rng.skewed(self.profile.delay.0, self.profile.delay.1)
    }

    /// Noise ends with the faults.
    pub(crate) fn calmly(&self, per_mille: u64) -> u64 {
        if self.calm { 0 } else { per_mille }
    }

    pub(crate) fn reaches(&self, from: Place, to: Place) -> bool {
        let up = |place: Place| match place {
            Place::Node(node) => self.nodes.get(&node).is_some_and(|node| !node.host_down),
            Place::Operator(_) | Place::Api | Place::Clients => true,
        };
        up(from) && up(to) && !self.cuts.iter().any(|(_, blocked)| blocked.contains(&(from, to)))
    }

    /// A new connection, not open at either end yet.
    pub(crate) fn connect(&mut self, dialler: (NodeId, u64, Member), acceptor: (NodeId, u64, Member)) -> ConnId {
        let end = |(node, boot, member)| End { node, boot, member, open: false, last: 0 };
        self.next_conn += 1;
        self.conns.insert(self.next_conn, Conn { ends: [end(dialler), end(acceptor)], doomed: false });
        self.next_conn
    }

    /// Sends over a connection from its end `side`.
    pub(crate) fn send(&mut self, conn: ConnId, side: usize, message: PeerMessage) {
        let Some(connection) = self.conns.get(&conn) else { return };
        let (from, to) = (connection.ends[side].clone(), connection.ends[1 - side].clone());
        let Some(delay) = self.passes(Place::Node(from.node), Place::Node(to.node)) else {
            return self.doom(conn);
        };
        let there = self.nodes.get(&to.node).and_then(|node| node.process.as_ref());
        if !to.open && to.last > 0 || there.is_none_or(|process| process.boot.0 != to.boot) {
            // Nobody has this connection any more: the answer is a reset.
            let back = self.delay();
            self.schedule(delay + back, node_event(&from, NodeEvent::Broken { conn }));
            return;
        }
        let mut at = self.now + delay;
        if !self.rng.chance(self.calmly(self.profile.reorder)) {
            at = at.max(to.last + 1);
        }
        if self.rng.chance(self.calmly(self.profile.duplicates)) {
            let later = self.rng.skewed(0, 500 * MS);
            let event = NodeEvent::Message { conn, message: Box::new(message.clone()) };
            self.push(at + later, node_event(&to, event));
        }
        self.push(at, node_event(&to, NodeEvent::Message { conn, message: Box::new(message) }));
        if let Some(connection) = self.conns.get_mut(&conn) {
            let last = &mut connection.ends[1 - side].last;
            *last = (*last).max(at);
        }
    }

    /// Something was lost: until the connection ends, later messages may get through.
    fn doom(&mut self, conn: ConnId) {
        let Some(connection) = self.conns.get_mut(&conn).filter(|connection| !connection.doomed) else { return };
        connection.doomed = true;
        for end in connection.ends.clone() {
            let delay = self.rng.skewed(MS, ENDS_WITHIN);
            self.schedule(delay, node_event(&end, NodeEvent::Broken { conn }));
        }
    }

    /// One end closes it, or ends with its process; the other one hears of it if it can.
    pub(crate) fn close(&mut self, conn: ConnId, side: usize) {
        let Some(connection) = self.conns.get_mut(&conn) else { return };
        connection.ends[side].open = false;
        let (here, there) = (connection.ends[side].clone(), connection.ends[1 - side].clone());
        if !there.open {
            self.conns.remove(&conn);
            return;
        }
        if self.reaches(Place::Node(here.node), Place::Node(there.node)) {
            let delay = self.delay();
            let at = (self.now + delay).max(there.last + 1);
            self.push(at, node_event(&there, NodeEvent::Broken { conn }));
        }
    }
}

fn node_event(end: &End, event: NodeEvent) -> Event {
    Event::Node { node: end.node, boot: end.boot, event }
}
