//! A simulated node: the real replication core over a simulated disk and database, driven as the driver of `rdb-node` does
//! it, in the same order.
//!
//! | module | the driver's |
//! | --- | --- |
//! | [`step`] | `core`, `outputs`: steps, and carrying out what the core orders |
//! | [`boot`] | `boot`: what the disk is good for; new incarnations |
//! | [`worker`] | `worker`, `group`: groups as leader, committed records as follower |
//! | [`serve`] | `reads`, `service`: requests of clients and operators |
//! | [`seeding`] | `seeding`, `seed_server`: base copies |
//! | [`peers`] | `peers`: connections |
//! | [`status`] | `report`, `tasks`: status lines, ticks, housekeeping |

pub mod boot;
pub mod peers;
pub mod seeding;
pub mod serve;
pub mod status;
pub mod step;
pub mod worker;

use std::collections::{BTreeMap, VecDeque};

use rdb_protocol::status::Problem;
use rdb_protocol::{Incarnation, Index, Member};
use rdb_replication::{Replica, Side, Time, Token};

use crate::event::{At, ConnId, Event, NodeEvent, NodeId};
use crate::world::World;

/// A node's process; gone when it ends.
#[derive(Debug)]
pub struct Process {
    pub boot: Incarnation,
    pub version: u64,
    /// `None`: no cluster yet.
    pub core: Option<Replica>,
    /// Grows whenever `core` is replaced.
    pub generation: u64,
    links: BTreeMap<Member, (Side, ConnId)>,
    calls: BTreeMap<Token, (usize, u64, u64)>,
    next_token: u64,
    problems: BTreeMap<&'static str, Problem>,
    given_up: bool,
    /// Visible in the database, or without effect on it.
    pub applied: Index,
    pub paused: bool,
    /// What came in while it was paused.
    backlog: Vec<NodeEvent>,
    dial: Option<Member>,
    dial_order: u64,
    worker: worker::Worker,
    seeding: seeding::Seeding,
    /// By operator: its life and the number of its stream.
    watchers: BTreeMap<usize, (u64, u64)>,
    report_due: bool,
    hybrid: u64,
    /// When the log last grew.
    growth: (Index, u64),
    reported_at: At,
    /// It is killed after so many more outputs.
    pub dies_after: Option<u64>,
    pub fails_flush: bool,
    was_open: bool,
}

impl World {
    /// CLOCK_BOOTTIME of this node's machine.
    pub(crate) fn node_time(&self, node: NodeId) -> Time {
        let rate = self.nodes.get(&node).map_or(1_000_000, |node| node.rate);
        Time(crate::event::SECOND * 1000 + (u128::from(self.now) * u128::from(rate) / 1_000_000) as u64)
    }

    pub(crate) fn process(&mut self, node: NodeId) -> Option<&mut Process> {
        self.nodes.get_mut(&node)?.process.as_mut()
    }

    pub(crate) fn node_later(&mut self, node: NodeId, delay: At, event: NodeEvent) {
        let Some(boot) = self.process(node).map(|process| process.boot.0) else { return };
        self.schedule(delay, Event::Node { node, boot, event });
    }

    pub(crate) fn node_event(&mut self, node: NodeId, boot: u64, event: NodeEvent) {
        let Some(process) = self.process(node) else { return self.nobody_there(event) };
        if boot != 0 && process.boot.0 != boot {
            return;
        }
        if process.paused {
            process.backlog.push(event);
            return;
        }
        self.trace.fold(node as u64);
        match event {
            NodeEvent::Tick => self.tick(node),
            NodeEvent::Housekeeping => self.housekeeping(node),
            NodeEvent::Flushed { generation, upto } => self.flushed(node, generation, upto),
            NodeEvent::Fetch { generation, to, prev, max_bytes } => {
                self.fetch(node, generation, to, prev, max_bytes);
            }
            NodeEvent::Work => self.work(node),
            NodeEvent::Dial { order } => self.dial(node, order),
            NodeEvent::Accept { conn } => self.accept(node, conn),
            NodeEvent::Connected { conn } => self.connected(node, conn),
            NodeEvent::Message { conn, message } => self.message(node, conn, *message),
            NodeEvent::Broken { conn } => self.broken(node, conn),
            NodeEvent::Admin { operator, life, id, call } => self.admin(node, (operator, life, id), *call),
            NodeEvent::LeaseAnswer(answer) => self.lease_answer(node, answer),
            NodeEvent::Request { client, request } => self.request(node, client, *request),
            NodeEvent::Confirm { client, request, reply } => self.confirm(node, client, &request, *reply),
            NodeEvent::SeedBegin { generation } => self.seed_begin(node, generation),
            NodeEvent::SeedFetch => self.seed_fetch(node),
            NodeEvent::SeedServe { from, from_boot, attempt } => self.seed_serve(node, from, from_boot, attempt),
            NodeEvent::SeedCopied { attempt, copy } => self.seed_copied(node, attempt, *copy),
            NodeEvent::Report => self.report(node),
            NodeEvent::Watch { operator, life, stream } => self.watch(node, operator, life, stream),
        }
    }

    /// Connections are refused at once; the machine says so.
    fn nobody_there(&mut self, event: NodeEvent) {
        match event {
            NodeEvent::Admin { operator, life, id, .. } => self.call_failed(operator, life, id),
            NodeEvent::Request { client, request } => self.refuse_client(client, request.attempt),
            _ => {}
        }
    }

    pub(crate) fn resume(&mut self, node: NodeId) {
        let Some(process) = self.process(node).filter(|process| process.paused) else { return };
        process.paused = false;
        let boot = process.boot.0;
        for event in std::mem::take(&mut process.backlog) {
            self.schedule(0, Event::Node { node, boot, event });
        }
    }
}

impl Process {
    pub(crate) fn problem(&mut self, code: &'static str, message: String) {
        self.problems.insert(code, Problem { code: code.to_owned(), message });
        self.report_due = true;
    }

    pub(crate) fn forget_watcher(&mut self, operator: usize) {
        self.watchers.remove(&operator);
    }

    pub fn is_open(&self) -> bool {
        self.core.as_ref().is_some_and(Replica::is_open)
    }
}

/// A queue of clients' writes.
pub(crate) type Jobs = VecDeque<worker::Job>;
