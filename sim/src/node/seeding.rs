//! Base copies: ending the incarnation, fetching from the leader, installing, and giving one.

use rdb_protocol::admin::{AdminRefusal, Reseed};
use rdb_protocol::status::{RecordPlace, SeedReport};
use rdb_protocol::{ClusterId, Incarnation, Index, Position};
use rdb_replication::{Input, LogView, Replica, RoleView, Side};

use crate::db::Db;
use crate::disk::{Data, SimLog};
use crate::event::{At, Event, MS, NodeEvent, NodeId, SECOND};
use crate::net::Place;
use crate::world::{World, node_id};

/// Pause between two attempts.
const RETRY: At = 500 * MS;
/// A copy that does not come within this is asked for again.
const GIVE_UP: At = 10 * SECOND;

/// What a leader sends: its database at a position of its log.
#[derive(Clone, Debug)]
pub struct BaseCopy {
    pub cluster: ClusterId,
    pub position: Position,
    pub db: Db,
}

#[derive(Debug, Default)]
pub struct Seeding {
    /// Number of the attempt under way, and when it began.
    attempt: Option<(u64, At)>,
    /// Copies that are being sent: the log is needed from after these on.
    pub(crate) held: Vec<(At, Index)>,
}

impl World {
    /// `reseed`: the operator's order.
    pub(crate) fn reseed(&mut self, node: NodeId, reseed: &Reseed) -> Result<(), AdminRefusal> {
        let refuse = |reason: &str| Err(AdminRefusal::State { reason: reason.to_owned() });
        let Some(place) = self.nodes.get_mut(&node) else { return refuse("gone") };
        let (Some(process), Some(volume)) = (&mut place.process, &place.volume) else { return refuse("gone") };
        let Some(control) = &volume.control else { return refuse("empty") };
        if control.core.promise.epoch > reseed.epoch {
            return Err(AdminRefusal::Fenced { promise: control.core.promise.clone() });
        }
        if control.core.member.incarnation != reseed.incarnation {
            return refuse("this is another incarnation already");
        }
        if process.is_open() {
            return refuse("this node leads; switch over first");
        }
        let event = NodeEvent::SeedBegin { generation: process.generation };
        self.node_later(node, 100, event);
        Ok(())
    }

    /// Ends the incarnation, then forgets the old data.
    pub(crate) fn seed_begin(&mut self, node: NodeId, generation: u64) {
        let fresh = Incarnation(self.rng.word());
        let Some(place) = self.nodes.get_mut(&node) else { return };
        let (Some(process), Some(volume)) = (&mut place.process, &mut place.volume) else { return };
        let leads =
            process.core.as_ref().is_some_and(|core| !matches!(core.role(), RoleView::Follower | RoleView::Halted));
        if process.generation != generation || leads {
            return;
        }
        let Some(control) = &mut volume.control else { return };
        self.given_up.insert(control.core.member.clone(), volume.log.clone());
        control.core.member.incarnation = fresh;
        control.data = Data::Seeding;
        control.core.committed = Index::ZERO;
        control.core.acknowledged = Index::ZERO;
        control.core.loss_permitted = false;
        control.seed = None;
        let callers: Vec<_> = std::mem::take(&mut process.calls).into_values().collect();
        self.hit("step: incarnation ended for a base copy");
        self.tell(|| format!("db-{node} ends its incarnation and waits for a base copy"));
        for (operator, life, id) in callers {
            self.call_failed(operator, life, id);
        }
        self.disconnect(node);
        self.start_empty(node);
        self.start_core(node);
    }

    /// Ends every connection: they were made by another incarnation, or for other data.
    fn disconnect(&mut self, node: NodeId) {
        let links = self.process(node).map(|process| std::mem::take(&mut process.links)).unwrap_or_default();
        for (side, conn) in links.into_values() {
            self.close(conn, usize::from(side == Side::Accepted));
        }
    }

    pub(crate) fn seed_fetch(&mut self, node: NodeId) {
        let (now, attempt) = (self.now, self.fresh_id());
        self.node_later(node, RETRY, NodeEvent::SeedFetch);
        let wanted = |control: &crate::disk::Control| control.data == Data::Seeding && control.cluster.is_some();
        let volume = self.nodes.get(&node).and_then(|place| place.volume.as_ref());
        if !volume.and_then(|volume| volume.control.as_ref()).is_some_and(wanted) {
            return;
        }
        let Some(place) = self.nodes.get_mut(&node) else { return };
        let (Some(process), Some(volume)) = (&mut place.process, &place.volume) else { return };
        let Some(control) = &volume.control else { return };
        if process.seeding.attempt.is_some_and(|(_, begun)| now < begun + GIVE_UP) {
            return;
        }
        let name = control.name().clone();
        let leader = control.core.promise.leader.as_ref().filter(|leader| leader.name != name);
        let known = leader.filter(|leader| control.core.peers.iter().any(|peer| peer.name == leader.name));
        let Some(leader) = known.map(|leader| node_id(&leader.name)) else { return };
        let boot = process.boot.0;
        process.seeding.attempt = Some((attempt, now));
        if let Some(delay) = self.passes(Place::Node(node), Place::Node(leader)) {
            let event = NodeEvent::SeedServe { from: node, from_boot: boot, attempt };
            self.schedule(delay, Event::Node { node: leader, boot: 0, event });
        }
    }

    /// Gives a copy of what the database shows now.
    pub(crate) fn seed_serve(&mut self, node: NodeId, to: NodeId, to_boot: u64, attempt: u64) {
        let now = self.now;
        let took = self.rng.skewed(5 * MS, 5 * SECOND);
        let Some(place) = self.nodes.get_mut(&node) else { return };
        let (Some(process), Some(volume)) = (&mut place.process, &place.volume) else { return };
        let (Some(control), Some(db)) = (&volume.control, &volume.db) else { return };
        let serving = control.data == Data::Ready
            && !process.given_up
            && process.core.as_ref().is_some_and(|core| core.role() != RoleView::Halted);
        let (Some(cluster), true) = (control.cluster, serving) else { return };
        #[allow(unused_mut, reason = "changed by a planted bug")]
        let Some(mut position) = volume.log.position(db.index) else { return };
        rdb_protocol::if_planted!(SeedStalePosition => { position = volume.log.last(); });
        process.seeding.held.retain(|(until, _)| *until > now);
        process.seeding.held.push((now + took + SECOND, position.index));
        // A copy has the leader's pages, whatever its own leader's were.
        let mut db = db.clone();
        db.other_layout = false;
        db.exact = RecordPlace::default();
        let copy = Box::new(BaseCopy { cluster, position, db });
        if let Some(delay) = self.passes(Place::Node(node), Place::Node(to)) {
            let event = NodeEvent::SeedCopied { attempt, copy };
            self.schedule(took + delay, Event::Node { node: to, boot: to_boot, event });
        }
    }

    /// Log and control file for the database that was just installed.
    pub(crate) fn seed_copied(&mut self, node: NodeId, attempt: u64, copy: BaseCopy) {
        let now = self.node_time(node);
        let BaseCopy { cluster, position, db } = copy;
        let Some(place) = self.nodes.get_mut(&node) else { return };
        let (Some(process), Some(volume)) = (&mut place.process, &mut place.volume) else { return };
        let Some(control) = &mut volume.control else { return };
        let current = process.seeding.attempt.is_some_and(|(held, _)| held == attempt);
        if control.data != Data::Seeding || control.cluster != Some(cluster) || !current {
            return;
        }
        process.seeding.attempt = None;
        control.data = Data::Ready;
        control.core.committed = position.index;
        control.seed = Some(SeedReport { method: "stream".to_owned(), position });
        let core = control.core.clone();
        volume.install(Some(db));
        volume.log = SimLog::new(position);
        process.problems.clear();
        process.generation += 1;
        self.disconnect(node);
        let Some(place) = self.nodes.get_mut(&node) else { return };
        let (Some(process), Some(volume)) = (&mut place.process, &place.volume) else { return };
        process.core = Replica::new(core, &volume.log, now).ok();
        process.applied = position.index;
        process.worker = super::worker::Worker::default();
        self.hit("step: seeded by a base copy");
        self.tell(|| format!("db-{node} has its base copy at {position}"));
        self.checks.seeded(node, position);
        self.start_core(node);
        self.step(node, Input::Applied { index: position.index });
    }
}
