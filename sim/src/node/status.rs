//! What a node says about itself, and what it does by the clock.

use rdb_protocol::Index;
use rdb_protocol::admin::PeerAddress;
use rdb_protocol::settings::LogFormat;
use rdb_protocol::status::{NodeState, NodeStatus, Role};
use rdb_replication::{Input, LogView, Replica, RoleView, Time};

use crate::disk::Data;
use crate::event::{At, Event, MS, NodeEvent, NodeId, OperatorEvent, SECOND};
use crate::net::Place;
use crate::world::World;

/// The ticker wakes at least so often.
const TICK: At = 50 * MS;
const HOUSEKEEPING: At = 2 * SECOND;
/// An idle leader probes after this part of `progressTimeout`.
const PROBES_PER_TIMEOUT: u64 = 4;

impl World {
    pub(crate) fn tick(&mut self, node: NodeId) {
        let timestamp = self.timestamp(node);
        self.step(node, Input::Tick { timestamp });
        self.probe(node);
        let now = self.node_time(node);
        let Some(process) = self.process(node) else { return };
        let wake = process.core.as_ref().map_or(Time::NEVER, |core| core.wake_at(now));
        let wait = (wake.since(now).as_micros() as u64).clamp(200, TICK);
        self.node_later(node, wait, NodeEvent::Tick);
    }

    /// An idle leader proves that it can still commit.
    fn probe(&mut self, node: NodeId) {
        let now = self.node_time(node);
        let Some(place) = self.nodes.get_mut(&node) else { return };
        let (Some(process), Some(volume)) = (&mut place.process, &place.volume) else { return };
        let Some(core) = &process.core else { return };
        let last = volume.log.last().index;
        if last != process.growth.0 {
            process.growth = (last, now.0);
        }
        let pause = core.settings().progress_timeout_ms * 1000 / PROBES_PER_TIMEOUT;
        let idle = now.0 - process.growth.1;
        if core.is_open() && idle >= pause && core.uncommitted_ms(now).is_none() {
            self.step(node, Input::Noop);
        }
    }

    pub(crate) fn housekeeping(&mut self, node: NodeId) {
        self.node_later(node, HOUSEKEEPING, NodeEvent::Housekeeping);
        let (now, retention) = (self.now, self.profile.retention);
        let Some(place) = self.nodes.get_mut(&node) else { return };
        let (Some(process), Some(volume)) = (&mut place.process, &mut place.volume) else { return };
        let (Some(core), Some(control)) = (&process.core, &mut volume.control) else { return };
        // The hints go to the disk.
        let persistent = core.persistent();
        control.core.committed = persistent.committed;
        control.core.acknowledged = persistent.acknowledged;
        if control.data != Data::Ready {
            return;
        }
        volume.checkpoint();
        let count = volume.log.entries.len();
        let applied = volume.db.as_ref().map_or(Index::ZERO, |db| db.index).min(process.applied).next();
        let needed = core.needed_from();
        // A follower is waited for only within the limits: size decides for it, not the floor.
        let within = count <= retention;
        let mut floor = if within && needed.0 > 0 { applied.min(needed) } else { applied };
        process.seeding.held.retain(|(until, _)| *until > now);
        for (_, held) in &process.seeding.held {
            floor = floor.min(held.next());
        }
        if count > retention {
            let wanted = Index(volume.log.last().index.0 - retention as u64);
            let first = volume.log.first_index();
            volume.log.retain_from(wanted.min(floor));
            if volume.log.first_index() > first {
                self.hit("step: old records dropped");
            }
        }
    }

    // --- status ---

    /// An operator's stream begins.
    pub(crate) fn watch(&mut self, node: NodeId, operator: usize, life: u64, stream: u64) {
        let Some(process) = self.process(node) else { return };
        process.watchers.insert(operator, (life, stream));
        self.report(node);
        let heartbeat = self.heartbeat(node);
        self.node_later(node, heartbeat, NodeEvent::Report);
    }

    fn heartbeat(&self, node: NodeId) -> At {
        let core = self.nodes.get(&node).and_then(|place| place.process.as_ref()?.core.as_ref());
        core.map_or(250 * MS, |core| core.settings().heartbeat_interval_ms * MS)
    }

    /// A line to everybody who watches; the next one at the latest after a heartbeat.
    pub(crate) fn report(&mut self, node: NodeId) {
        let heartbeat = self.heartbeat(node);
        let now = self.now;
        let Some(process) = self.process(node) else { return };
        process.report_due = false;
        let due = now >= process.reported_at + heartbeat;
        let watchers: Vec<(usize, (u64, u64))> = process.watchers.iter().map(|(o, w)| (*o, *w)).collect();
        if watchers.is_empty() {
            return;
        }
        if due {
            process.reported_at = now;
            self.node_later(node, heartbeat, NodeEvent::Report);
        }
        let Some(status) = self.status_of(node) else { return };
        for (operator, (life, stream)) in watchers {
            if let Some(delay) = self.passes(Place::Node(node), Place::Operator(operator)) {
                let event = OperatorEvent::Line { node, stream, status: Box::new(status.clone()) };
                self.schedule(delay, Event::Operator { operator, life, event });
            }
        }
    }

    pub(crate) fn stream_ended(&mut self, node: NodeId, operator: usize, life: u64, stream: u64) {
        if self.reaches(Place::Node(node), Place::Operator(operator)) {
            let delay = self.delay();
            let event = OperatorEvent::Disconnected { node, stream, refused: false };
            self.schedule(delay, Event::Operator { operator, life, event });
        }
    }

    pub fn status_of(&self, node: NodeId) -> Option<NodeStatus> {
        let now = self.node_time(node);
        let place = self.nodes.get(&node)?;
        let (process, volume) = (place.process.as_ref()?, place.volume.as_ref()?);
        let control = volume.control.as_ref()?;
        let core = process.core.as_ref();
        let role = core.map(Replica::role);
        let leads = matches!(role, Some(RoleView::Opening | RoleView::Open | RoleView::WritesStopped));
        let peers: Vec<PeerAddress> = control.core.peers.clone();
        Some(NodeStatus {
            name: control.core.member.name.clone(),
            incarnation: control.core.member.incarnation,
            cluster: control.cluster,
            boot: process.boot,
            version: process.version.to_string(),
            role: match (control.cluster, leads) {
                (None, _) => Role::Empty,
                (Some(_), true) => Role::Leader,
                (Some(_), false) => Role::Follower,
            },
            state: state(control.data.clone(), core, process.links.is_empty()),
            promise: core.map_or_else(|| control.core.promise.clone(), |core| core.promise().clone()),
            led: core.map_or(control.core.led, Replica::led),
            lossy: core.map_or(control.core.lossy, Replica::lossy),
            flushed: core.map(Replica::flushed).unwrap_or_default(),
            committed: core.map(Replica::committed).unwrap_or_default(),
            applied: process.applied,
            first_retained: volume.log.first_index(),
            config: core.and_then(|core| core.config().cloned()),
            peers,
            opened: core.is_some_and(Replica::is_open),
            settled: core.and_then(Replica::settled),
            followers: core.map(|core| core.followers(now)).unwrap_or_default(),
            leader_heard_ms_ago: core.and_then(|core| core.leader_heard_ms_ago(now)),
            lease_valid: core.is_some_and(|core| core.is_open() && core.lease_valid(now)),
            lease_request: core.and_then(Replica::lease_request),
            uncommitted_ms: core.and_then(|core| core.uncommitted_ms(now)).max(self.group_ms(node)),
            acknowledged: core.map_or(control.core.acknowledged, Replica::acknowledged),
            seed: control.seed.clone(),
            divergences: control.divergences.clone(),
            other_layout: if leads {
                core.is_some_and(|core| core.settings().log_format == LogFormat::Logical)
            } else {
                volume.db.as_ref().is_some_and(|db| db.other_layout)
            },
            exact: if leads { process.worker.exact } else { volume.db.as_ref().map(|db| db.exact).unwrap_or_default() },
            problems: process.problems.values().cloned().collect(),
        })
    }
}

fn state(data: Data, core: Option<&Replica>, alone: bool) -> NodeState {
    let Some(core) = core else { return NodeState::Empty };
    match (data, core.role()) {
        (_, RoleView::Halted) => NodeState::Halted,
        (Data::Empty, _) => NodeState::Empty,
        (Data::Seeding, _) => NodeState::Seeding,
        (Data::Diverged, _) => NodeState::Diverged,
        (Data::Ready, RoleView::Opening) => NodeState::Opening,
        (Data::Ready, RoleView::Open) => NodeState::Leading,
        (Data::Ready, RoleView::WritesStopped) => NodeState::WritesStopped,
        (Data::Ready, RoleView::Follower) if alone => NodeState::Searching,
        (Data::Ready, RoleView::Follower) if core.is_streaming() => NodeState::Streaming,
        (Data::Ready, RoleView::Follower) => NodeState::CatchingUp,
    }
}
