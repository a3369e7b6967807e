//! A process begins: what the disk holds, and what of it can be used.

use rdb_protocol::admin::{AdminRefusal, Init};
use rdb_protocol::status::SeedReport;
use rdb_protocol::{Incarnation, Index, Member, Position};
use rdb_replication::{Input, LogView, Replica};

use super::{Process, seeding, worker};
use crate::db::Db;
use crate::disk::{Control, Data, SimLog};
use crate::event::{MS, NodeEvent, NodeId};
use crate::record;
use crate::world::World;

impl World {
    pub(crate) fn start_process(&mut self, node: NodeId, version: u64) {
        let boot = Incarnation(self.fresh_id() << 8 | 1);
        let now = self.now;
        let Some(place) = self.nodes.get_mut(&node) else { return };
        if place.process.is_some() || place.volume.is_none() || place.host_down {
            return;
        }
        place.started = now;
        place.process = Some(Process::new(boot, version));
        self.hit("step: process started");
        self.tell(|| format!("db-{node} starts as process {boot}"));
        self.open_control(node);
        self.boot(node);
        self.step(node, Input::Start);
        let applied = self.process(node).map_or(Index::ZERO, |process| process.applied);
        if applied > Index::ZERO {
            self.step(node, Input::Applied { index: applied });
        }
        for event in [NodeEvent::Tick, NodeEvent::Work, NodeEvent::Housekeeping, NodeEvent::SeedFetch] {
            self.node_later(node, MS, event);
        }
    }

    /// The control file; a new one in an empty directory. One of another volume ends the incarnation (rule 18).
    fn open_control(&mut self, node: NodeId) {
        let fresh = Incarnation(self.rng.word());
        let Some(place) = self.nodes.get_mut(&node) else { return };
        let Some(volume) = &mut place.volume else { return };
        #[allow(unused_mut, reason = "changed by a planted bug")]
        let mut member = Member { name: place.name.clone(), incarnation: fresh };
        rdb_protocol::if_planted!(WipedKeepsName => { member.incarnation = Incarnation(place.id as u64); });
        let Some(control) = &mut volume.control else {
            volume.control = Some(Control::new(member, volume.id));
            return;
        };
        if control.volume == volume.id {
            return;
        }
        control.volume = volume.id;
        rdb_protocol::if_planted!(CloneKeepsName => { member.incarnation = control.core.member.incarnation; });
        control.core.member = member;
        control.core.acknowledged = Index::ZERO;
        control.core.peers.clear();
        let position = volume.log.last();
        let promised = volume.seed_from.take();
        let fits = promised.is_none_or(|seed| {
            control.cluster == Some(seed.cluster) && volume.log.position(seed.position.index) == Some(seed.position)
        });
        if control.cluster.is_some() && control.data == Data::Ready && fits {
            control.seed = Some(SeedReport { method: "snapshot".to_owned(), position });
            self.hit("step: started from a volume snapshot");
        } else if control.cluster.is_some() {
            control.data = Data::Seeding;
            control.core.committed = Index::ZERO;
            self.hit("step: volume snapshot refused");
        }
    }

    /// Brings up whatever the directory holds.
    fn boot(&mut self, node: NodeId) {
        let Some(control) = self.control(node) else { return };
        if control.cluster.is_none() {
            return;
        }
        match control.data {
            Data::Ready => match self.open_data(node) {
                Ok(()) => {}
                Err((code, reason)) => self.give_up(node, code, reason),
            },
            Data::Diverged => self.give_up(node, "DIVERGED", "the content disagreed with the leader's".to_owned()),
            Data::Empty | Data::Seeding => self.start_empty(node),
        }
    }

    fn control(&mut self, node: NodeId) -> Option<&mut Control> {
        self.nodes.get_mut(&node)?.volume.as_mut()?.control.as_mut()
    }

    /// Checks log and database against each other and the control file.
    fn open_data(&mut self, node: NodeId) -> Result<(), (&'static str, String)> {
        let now = self.node_time(node);
        let Some(place) = self.nodes.get_mut(&node) else { return Ok(()) };
        let (Some(process), Some(volume)) = (&mut place.process, &mut place.volume) else { return Ok(()) };
        rdb_protocol::if_planted!(DamagedLogIsCut => {
            if volume.log.damaged {
                let kept = volume.db.as_ref().map_or(Index::ZERO, |db| db.index).min(volume.log.last().index.previous());
                volume.log.truncate_after(kept);
                volume.log.damaged = false;
                if let Some(control) = &mut volume.control {
                    control.core.committed = control.core.committed.min(kept);
                    control.core.acknowledged = control.core.acknowledged.min(kept);
                }
            }
        });
        if volume.log.damaged {
            return Err(("LOG_CORRUPT", "a record that was flushed is damaged".to_owned()));
        }
        let Some(db) = &volume.db else { return Err(("DATABASE_MISSING", "no database".to_owned())) };
        #[allow(unused_mut, reason = "changed by a planted bug")]
        let mut content = db.computed();
        rdb_protocol::if_planted!(ChecksumSwallowed => { content = db.stated; });
        if volume.log.position(db.index).is_none_or(|at| at.epoch != db.epoch) {
            let reason = format!("the database is at {}, the log ends at {}", db.index, volume.log.last());
            return Err(("LOG_BEHIND", reason));
        }
        let stated = volume.log.entry(db.index).and_then(record::decode).map(|(_, content)| content);
        if stated.is_some_and(|stated| stated != content) || content != db.stated {
            return Err(("DATABASE_CORRUPT", format!("content {content:x}, the record states {stated:x?}")));
        }
        let index = db.index;
        if let Some(last) = volume.log.entries.last() {
            process.hybrid = process.hybrid.max(last.timestamp());
        }
        let Some(control) = &volume.control else { return Ok(()) };
        let mut persistent = control.core.clone();
        persistent.committed = persistent.committed.max(index);
        match Replica::new(persistent, &volume.log, now) {
            Ok(core) => process.core = Some(core),
            Err(error) => return Err(("LOG_BEHIND", error.to_string())),
        }
        process.applied = index;
        Ok(())
    }

    /// The data are of no use: another incarnation, visibly.
    fn give_up(&mut self, node: NodeId, code: &'static str, reason: String) {
        let fresh = Incarnation(self.rng.word());
        self.hit(match code {
            "LOG_CORRUPT" => "step: damaged log given up",
            "DATABASE_CORRUPT" => "step: damaged database given up",
            "DIVERGED" => "step: diverged data given up",
            _ => "step: log behind, data given up",
        });
        self.tell(|| format!("db-{node} gives its data up: {code}: {reason}"));
        if let Some(process) = self.process(node) {
            process.problem(code, reason);
        }
        if let Some(control) = self.control(node) {
            control.core.member.incarnation = fresh;
            control.data = Data::Seeding;
            control.core.committed = Index::ZERO;
            control.core.acknowledged = Index::ZERO;
        }
        self.start_empty(node);
    }

    /// An empty log: promises can be given, nothing can be followed or led.
    pub(crate) fn start_empty(&mut self, node: NodeId) {
        let now = self.node_time(node);
        let Some(place) = self.nodes.get_mut(&node) else { return };
        let (Some(process), Some(volume)) = (&mut place.process, &mut place.volume) else { return };
        process.core = None;
        process.generation += 1;
        process.given_up = false;
        process.applied = Index::ZERO;
        process.worker = worker::Worker::default();
        volume.log = SimLog::new(Position::ZERO);
        if let Some(control) = volume.control.as_ref().filter(|control| control.cluster.is_some()) {
            process.core = Replica::new(control.core.clone(), &volume.log, now).ok();
        }
    }

    /// First step of a core that was just put in its place.
    pub(crate) fn start_core(&mut self, node: NodeId) {
        self.step(node, Input::Start);
        if let Some(process) = self.process(node) {
            process.report_due = true;
        }
        self.wake_worker(node);
    }

    /// `init`: gives an empty node its cluster.
    pub(crate) fn init(&mut self, node: NodeId, init: &Init) -> Result<(), AdminRefusal> {
        let refuse = |reason: &str| Err(AdminRefusal::State { reason: reason.to_owned() });
        let Some(volume) = self.nodes.get_mut(&node).and_then(|place| place.volume.as_mut()) else {
            return refuse("no volume");
        };
        let Some(control) = &mut volume.control else { return refuse("no control file") };
        if control.core.member.incarnation != init.incarnation {
            return refuse("another incarnation");
        }
        match control.cluster {
            Some(cluster) if cluster == init.cluster => return Ok(()),
            Some(_) => return refuse("another cluster"),
            None => {}
        }
        control.cluster = Some(init.cluster);
        control.core.cluster = init.cluster;
        if init.create {
            control.data = Data::Ready;
            control.seed = Some(SeedReport { method: "empty".to_owned(), position: Position::ZERO });
            volume.install(Some(Db::default()));
        } else {
            control.data = Data::Seeding;
        }
        self.start_empty(node);
        self.start_core(node);
        self.hit("step: node initialised");
        Ok(())
    }

    /// The process is gone, whatever ended it.
    pub(crate) fn end_process(&mut self, node: NodeId, how: &str) {
        let Some(place) = self.nodes.get_mut(&node) else { return };
        let Some(process) = place.process.take() else { return };
        self.tell(|| format!("db-{node} {how}"));
        for (side, conn) in process.links.values() {
            self.close(*conn, usize::from(*side == rdb_replication::Side::Accepted));
        }
        for (operator, (life, stream)) in &process.watchers {
            self.stream_ended(node, *operator, *life, *stream);
        }
        for (operator, life, id) in process.calls.values() {
            self.call_failed(*operator, *life, *id);
        }
        self.container_ended(node, process.boot.0);
    }
}

impl Process {
    fn new(boot: Incarnation, version: u64) -> Process {
        Process {
            boot,
            version,
            core: None,
            generation: 0,
            links: Default::default(),
            calls: Default::default(),
            next_token: 0,
            problems: Default::default(),
            given_up: false,
            applied: Index::ZERO,
            paused: false,
            backlog: Vec::new(),
            dial: None,
            dial_order: 0,
            worker: worker::Worker::default(),
            seeding: seeding::Seeding::default(),
            watchers: Default::default(),
            report_due: false,
            hybrid: 0,
            growth: (Index::ZERO, 0),
            reported_at: 0,
            dies_after: None,
            fails_flush: false,
            was_open: false,
        }
    }
}
