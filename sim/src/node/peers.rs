//! Connections between nodes: the follower dials, and messages go both ways.

use rdb_protocol::Member;
use rdb_replication::{Input, PeerMessage, Side};

use crate::disk::Data;
use crate::event::{At, ConnId, Event, MS, NodeEvent, NodeId};
use crate::net::Place;
use crate::world::{World, node_id};

const MIN_PAUSE: At = 10 * MS;
const MAX_PAUSE: At = 500 * MS;

impl World {
    /// Keep a connection to this member from now on; `None`: to nobody.
    pub(crate) fn aim(&mut self, node: NodeId, leader: Option<Member>) {
        let Some(process) = self.process(node) else { return };
        process.dial_order += 1;
        let order = process.dial_order;
        let before = std::mem::replace(&mut process.dial, leader);
        // Closing is noticed later, by the thread that reads.
        if let Some(before) = before
            && let Some((Side::Dialled, conn)) = process.links.get(&before).copied()
        {
            self.node_later(node, 50, NodeEvent::Broken { conn });
        }
        self.node_later(node, 100, NodeEvent::Dial { order });
    }

    /// Something that dialling depends on may have changed.
    pub(crate) fn redial(&mut self, node: NodeId) {
        let Some(process) = self.process(node) else { return };
        let Some(leader) = &process.dial else { return };
        if !process.links.contains_key(leader) {
            process.dial_order += 1;
            let order = process.dial_order;
            self.node_later(node, 200, NodeEvent::Dial { order });
        }
    }

    pub(crate) fn dial(&mut self, node: NodeId, order: u64) {
        let Some(place) = self.nodes.get(&node) else { return };
        let (Some(process), Some(volume)) = (&place.process, &place.volume) else { return };
        let (Some(leader), Some(control)) = (process.dial.clone(), &volume.control) else { return };
        if process.dial_order != order || matches!(process.links.get(&leader), Some((Side::Dialled, _))) {
            return;
        }
        let known = control.core.peers.iter().any(|peer| peer.name == leader.name);
        let me = (node, process.boot.0, control.core.member.clone());
        let ready = control.data == Data::Ready;
        let pause = self.rng.between(MIN_PAUSE, MAX_PAUSE);
        self.node_later(node, pause, NodeEvent::Dial { order });
        let to = node_id(&leader.name);
        if !known || !ready {
            return;
        }
        let Some(there) = self.nodes.get(&to).and_then(|place| place.process.as_ref()).map(|p| p.boot.0) else {
            return;
        };
        let back = self.reaches(Place::Node(to), Place::Node(node));
        let Some(delay) = self.passes(Place::Node(node), Place::Node(to)).filter(|_| back) else { return };
        let conn = self.connect(me, (to, there, leader));
        self.schedule(delay, Event::Node { node: to, boot: there, event: NodeEvent::Accept { conn } });
    }

    /// A peer has dialled us.
    pub(crate) fn accept(&mut self, node: NodeId, conn: ConnId) {
        let Some(connection) = self.conns.get(&conn) else { return };
        let (dialler, boot) = (connection.ends[0].clone(), connection.ends[0].boot);
        self.take_link(node, dialler.member, Side::Accepted, conn);
        if let Some(delay) = self.passes(Place::Node(node), Place::Node(dialler.node)) {
            let event = NodeEvent::Connected { conn };
            self.schedule(delay, Event::Node { node: dialler.node, boot, event });
        }
    }

    /// The leader has taken our connection.
    pub(crate) fn connected(&mut self, node: NodeId, conn: ConnId) {
        let Some(connection) = self.conns.get(&conn) else { return };
        let (us, leader) = (connection.ends[0].member.clone(), connection.ends[1].member.clone());
        let Some(place) = self.nodes.get(&node) else { return };
        let (Some(process), Some(volume)) = (&place.process, &place.volume) else { return };
        let still = volume.control.as_ref().is_some_and(|control| control.core.member == us);
        let wanted = process.dial.as_ref() == Some(&leader);
        if !still || !wanted || !connection.ends[1].open {
            // The incarnation ended while we dialled, or somebody else is wanted by now.
            return self.close(conn, 0);
        }
        self.take_link(node, leader, Side::Dialled, conn);
    }

    fn take_link(&mut self, node: NodeId, member: Member, side: Side, conn: ConnId) {
        let old = self.process(node).and_then(|process| process.links.remove(&member));
        if let Some((old_side, old_conn)) = old {
            self.close(old_conn, usize::from(old_side == Side::Accepted));
            self.step(node, Input::PeerDown { member: member.clone(), side: old_side });
        }
        if let Some(connection) = self.conns.get_mut(&conn) {
            connection.ends[usize::from(side == Side::Accepted)].open = true;
        }
        if let Some(process) = self.process(node) {
            process.links.insert(member.clone(), (side, conn));
            process.report_due = true;
        }
        self.step(node, Input::PeerUp { member, side });
    }

    pub(crate) fn message(&mut self, node: NodeId, conn: ConnId, message: PeerMessage) {
        let from = self.process(node).and_then(|process| {
            process.links.iter().find(|(_, (_, held))| *held == conn).map(|(member, _)| member.clone())
        });
        if let Some(from) = from {
            self.step(node, Input::Peer { from, message });
        }
    }

    pub(crate) fn broken(&mut self, node: NodeId, conn: ConnId) {
        let link = self.process(node).and_then(|process| {
            process.links.iter().find(|(_, (_, held))| *held == conn).map(|(member, (side, _))| (member.clone(), *side))
        });
        if let Some((member, side)) = link {
            self.close_link(node, &member, side, conn);
            self.process_lost_link(node, member, side);
        }
    }

    fn process_lost_link(&mut self, node: NodeId, member: Member, side: Side) {
        self.step(node, Input::PeerDown { member, side });
        if let Some(process) = self.process(node) {
            process.report_due = true;
            let order = process.dial_order;
            if side == Side::Dialled {
                self.node_later(node, MIN_PAUSE, NodeEvent::Dial { order });
            }
        }
    }

    /// Takes the link out; the core hears of it from whoever reads the connection.
    pub(crate) fn close_link(&mut self, node: NodeId, member: &Member, side: Side, conn: ConnId) {
        self.close(conn, usize::from(side == Side::Accepted));
        if let Some(process) = self.process(node) {
            process.links.remove(member);
        }
    }
}
