//! Peer connections: accepting followers, dialling the leader, and feeding what arrives to the core.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use rdb_log::DataState;
use rdb_protocol::Member;
use rdb_record::RecordError;
use rdb_replication::{Input, Side, wire};

use super::Node;
use crate::clock;
use crate::peer::{self, Connection, Link};

/// Pause after the first failed dial, doubled up to [`MAX_PAUSE`]: a leader that has just been promoted is reached in a few
/// milliseconds, and one that is gone costs two attempts a second.
const MIN_PAUSE: Duration = Duration::from_millis(10);
const MAX_PAUSE: Duration = Duration::from_millis(500);
/// A connection that lasted so long was a good one.
const SETTLED_MICROS: u64 = 1_000_000;

/// Whom this node wants to be connected to.
#[derive(Default)]
pub struct Dialer {
    state: Mutex<Aim>,
    changed: Condvar,
}

#[derive(Default)]
struct Aim {
    leader: Option<Member>,
    /// Grows with every order, so that a waiting dialler notices.
    order: u64,
    /// The connection that stands, to be closed when the aim changes.
    link: Option<(Member, Arc<Link>)>,
}

impl Dialer {
    /// Keep a connection to `leader` from now on; `None`: to nobody.
    pub fn aim(&self, leader: Option<Member>) {
        let mut state = self.state.lock();
        if let Some((member, link)) = &state.link
            && Some(member) != leader.as_ref()
        {
            link.close();
        }
        state.leader = leader;
        state.order += 1;
        self.changed.notify_all();
    }

    /// Something that dialling depends on has changed, such as an address.
    pub fn retry(&self) {
        self.state.lock().order += 1;
        self.changed.notify_all();
    }

    /// The leader to dial, waiting until there is one.
    fn next(&self) -> (Member, u64) {
        let mut state = self.state.lock();
        loop {
            if let Some(leader) = &state.leader {
                return (leader.clone(), state.order);
            }
            self.changed.wait(&mut state);
        }
    }

    /// Waits for `pause`, or until there is a newer order than `order`.
    fn pause(&self, order: u64, pause: Duration) {
        let mut state = self.state.lock();
        if state.order == order {
            self.changed.wait_for(&mut state, pause);
        }
    }

    /// Notes the connection that stands; false when the aim has changed meanwhile.
    fn hold(&self, leader: &Member, link: &Arc<Link>) -> bool {
        let mut state = self.state.lock();
        let wanted = state.leader.as_ref() == Some(leader);
        if wanted {
            state.link = Some((leader.clone(), link.clone()));
        }
        wanted
    }
}

/// The dialler's thread.
pub(super) fn dial_forever(node: &Arc<Node>) {
    let mut pause = MIN_PAUSE;
    loop {
        let (leader, order) = node.dialer.next();
        let Some(address) = dialable(node, &leader) else {
            node.dialer.pause(order, MAX_PAUSE);
            continue;
        };
        let me = node.lock().control.state().member();
        match dial(node, &address, &me) {
            Ok(connection) => {
                let begun = clock::boot_micros();
                if node.dialer.hold(&leader, &connection.link) {
                    serve(node, connection, &leader, Dialler::Us { as_member: me });
                }
                // Who takes a connection and drops it at once is not dialled at full speed.
                pause =
                    if clock::boot_micros() - begun >= SETTLED_MICROS { MIN_PAUSE } else { (pause * 2).min(MAX_PAUSE) };
                node.dialer.pause(order, pause);
            }
            Err(error) => {
                tracing::debug!(%error, "dialling the leader");
                node.dialer.pause(order, pause);
                pause = (pause * 2).min(MAX_PAUSE);
            }
        }
    }
}

/// Dials with the newest token, and with the one before while that is accepted: the leader may not have seen the change yet.
fn dial(node: &Node, address: &str, me: &Member) -> Result<Connection, peer::ConnectError> {
    let mut secrets = node.tokens.peer.secrets().into_iter().peekable();
    loop {
        let secret = secrets.next();
        let dialled = peer::dial(address, secret.as_ref().map_or("", |secret| secret.expose()), me);
        match dialled {
            Err(error @ peer::ConnectError::Handshake { .. }) if secrets.peek().is_some() => {
                tracing::debug!(%error, "dialling with the token before");
            }
            done => return done,
        }
    }
}

/// The leader's address, once this node has data to continue from.
fn dialable(node: &Node, leader: &Member) -> Option<String> {
    let core = node.lock();
    let state = core.control.state();
    if !matches!(state.data, DataState::Ready) {
        return None;
    }
    state.peers.iter().find(|peer| peer.name == leader.name).map(|peer| peer.address.clone())
}

/// Who opened a connection.
pub(super) enum Dialler {
    /// This node, which said that it is `as_member`.
    Us {
        as_member: Member,
    },
    Peer,
}

/// Runs one connection until it ends.
pub(super) fn serve(node: &Arc<Node>, mut connection: Connection, member: &Member, dialler: Dialler) {
    let link = connection.link.clone();
    let side = if matches!(dialler, Dialler::Peer) { Side::Accepted } else { Side::Dialled };
    let (generation, effects) = {
        let mut core = node.lock();
        if let Dialler::Us { as_member } = dialler
            && core.control.state().member() != as_member
        {
            // The incarnation ended while we dialled: what we acknowledge must not count for the old one (rule 18).
            return;
        }
        if let Some((old_side, old)) = core.links.remove(member) {
            old.close();
            let effects = node.step(&mut core, Input::PeerDown { member: member.clone(), side: old_side });
            node.defer(effects);
        }
        core.links.insert(member.clone(), (side, link.clone()));
        let effects = node.step(&mut core, Input::PeerUp { member: member.clone(), side });
        let generation = core.generation;
        node.unlock(core);
        (generation, effects)
    };
    node.finish(effects);
    node.view.status_changed();
    while let Some(frame) = connection.receive() {
        match wire::decode(frame) {
            Ok(message) => {
                // A connection of an incarnation that has ended is of no use to the next.
                if !node.drive_in(generation, Input::Peer { from: member.clone(), message }) {
                    break;
                }
            }
            Err(error) => {
                tracing::warn!(%member, %error, "unreadable message: closing the connection");
                if let wire::WireError::Record(RecordError::Version(_) | RecordError::Kind(_)) = error {
                    node.refuses(generation, super::INCOMPATIBLE, &error);
                }
                break;
            }
        }
    }
    drop(connection);
    let mut core = node.lock();
    // A newer connection to the same member may have taken the place.
    if core.links.get(member).is_some_and(|(_, current)| Arc::ptr_eq(current, &link)) {
        core.links.remove(member);
        let effects = node.step(&mut core, Input::PeerDown { member: member.clone(), side });
        node.unlock(core);
        node.finish(effects);
        node.view.status_changed();
    }
}
