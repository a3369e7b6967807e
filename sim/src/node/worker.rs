//! The one hand that changes the database: as leader it runs groups of client transactions, as follower it applies committed
//! records.

use rdb_protocol::settings::LogFormat;
use rdb_protocol::status::RecordPlace;
use rdb_protocol::{BOOTSTRAP_VERSION, Epoch, Index};
use rdb_replication::{Input, Replica, RoleView, Slot};

use super::{Jobs, World};
use crate::client::{Reply, Token};
use crate::db::{Db, Outcome};
use crate::disk::Data;
use crate::event::{At, MS, NodeEvent, NodeId};
use crate::record::{self, Form, MAX_OPS, Op};

/// How long a writer that may not begin waits before it looks again.
const RECHECK: At = 50 * MS;
/// Records applied at once.
const BATCH: usize = 64;

#[derive(Debug, Default)]
pub struct Worker {
    pub(crate) queue: Jobs,
    group: Option<Group>,
    awake: bool,
    /// Since when all records that it proposed carry pages.
    pub(super) exact: RecordPlace,
}

/// A client's write on its way.
#[derive(Clone, Debug)]
pub struct Job {
    pub client: usize,
    pub attempt: u64,
    pub op: Op,
    pub keyed: bool,
    pub deadline: At,
}

/// A group that runs: on its slot, or waiting for its commit.
#[derive(Debug)]
struct Group {
    slot: Slot,
    since: u64,
    jobs: Vec<Job>,
    proposed: Option<Proposed>,
}

#[derive(Debug)]
struct Proposed {
    index: Index,
    after: Db,
    results: Vec<Result<(Outcome, bool), ()>>,
}

impl World {
    pub(crate) fn wake_worker(&mut self, node: NodeId) {
        if let Some(process) = self.process(node)
            && !process.worker.awake
        {
            process.worker.awake = true;
            let delay = self.rng.skewed(20, 2000);
            self.node_later(node, delay, NodeEvent::Work);
        }
    }

    pub(crate) fn enqueue(&mut self, node: NodeId, job: Job) {
        if let Some(process) = self.process(node) {
            process.worker.queue.push_back(job);
        }
        self.wake_worker(node);
    }

    pub(crate) fn work(&mut self, node: NodeId) {
        let Some(process) = self.process(node) else { return };
        process.worker.awake = false;
        let proposed = process.worker.group.as_ref().map(|group| group.proposed.is_some());
        if proposed == Some(false) {
            return self.propose(node);
        }
        if proposed == Some(true) && !self.settle_group(node) {
            return;
        }
        let Some(process) = self.process(node) else { return };
        match process.core.as_ref().map(Replica::role) {
            Some(RoleView::Open | RoleView::WritesStopped) => {
                self.settle_applied(node);
                self.begin_group(node);
            }
            Some(RoleView::Follower | RoleView::Opening) => {
                self.refuse_jobs(node);
                self.apply_backlog(node);
            }
            Some(RoleView::Halted) | None => self.refuse_jobs(node),
        }
    }

    fn refuse_jobs(&mut self, node: NodeId) {
        let jobs: Vec<Job> = self.process(node).map(|p| p.worker.queue.drain(..).collect()).unwrap_or_default();
        for job in jobs {
            self.reply(node, job.client, job.attempt, Reply::Refused);
        }
    }

    /// A leader between two groups: all that is committed is in the database or changes nothing in it.
    fn settle_applied(&mut self, node: NodeId) {
        let Some(process) = self.process(node) else { return };
        let index = process.core.as_ref().map_or(Index::ZERO, Replica::committed);
        if index > process.applied {
            process.applied = index;
            self.step(node, Input::Applied { index });
        }
    }

    // --- groups ---

    fn begin_group(&mut self, node: NodeId) {
        let now = self.now;
        let full = self.nodes.get(&node).is_some_and(|p| p.volume.as_ref().is_some_and(|v| v.full));
        let Some(process) = self.process(node) else { return };
        let late: Vec<Job> = process.worker.queue.iter().filter(|job| job.deadline <= now || full).cloned().collect();
        process.worker.queue.retain(|job| job.deadline > now && !full);
        let waits = !process.worker.queue.is_empty();
        for job in late {
            self.reply(node, job.client, job.attempt, Reply::Refused);
        }
        if !waits {
            return;
        }
        let now = self.node_time(node);
        let Some(process) = self.process(node) else { return };
        // Until the rule that was asked for holds, a write would be acknowledged by one copy alone.
        let asked = |core: &Replica| core.config().is_some_and(|config| config.current.version > BOOTSTRAP_VERSION);
        let slot = process.core.as_mut().filter(|core| asked(core)).and_then(|core| core.reserve_slot(now));
        let Some(slot) = slot else {
            self.hit("step: writer waits for the right to write");
            process_awake(self, node);
            return self.node_later(node, RECHECK, NodeEvent::Work);
        };
        let Some(process) = self.process(node) else { return };
        let count = process.worker.queue.len().min(MAX_OPS);
        let jobs = process.worker.queue.drain(..count).collect();
        process.worker.group = Some(Group { slot, since: now.0, jobs, proposed: None });
        if self.rng.chance(300) {
            // SQLite takes its time; much may happen before the commit point.
            let delay = self.rng.skewed(50, 300 * MS);
            process_awake(self, node);
            self.node_later(node, delay, NodeEvent::Work);
        } else {
            self.propose(node);
        }
    }

    /// The commit point.
    fn propose(&mut self, node: NodeId) {
        let timestamp = self.timestamp(node);
        let Some(place) = self.nodes.get_mut(&node) else { return };
        let (Some(process), Some(volume)) = (&mut place.process, &place.volume) else { return };
        let (Some(group), Some(db)) = (&mut process.worker.group, &volume.db) else { return };
        let mut after = db.clone();
        let (mut ops, mut results) = (Vec::new(), Vec::new());
        for job in &group.jobs {
            #[allow(unused_mut, reason = "changed by a planted bug")]
            let mut known = if job.keyed { after.outcome(job.op.client, job.op.sequence) } else { None };
            rdb_protocol::if_planted!(RepeatedWriteRuns => {
                if known.take().is_some() {
                    ops.push(job.op);
                    results.push(Ok((after.run(&job.op), false)));
                    continue;
                }
            });
            results.push(match known {
                Some(outcome) => Ok((outcome, true)),
                None if !after.is_new(&job.op) => Err(()),
                None => {
                    ops.push(job.op);
                    Ok((after.run(&job.op), false))
                }
            });
        }
        let slot = group.slot;
        if ops.is_empty() {
            self.hit("step: a group changed nothing");
            self.step(node, Input::ReleaseSlot);
            return self.answer_group(node, results, None);
        }
        let settings = process.core.as_ref().map(|core| core.settings().clone()).unwrap_or_default();
        let rows = settings.log_format == LogFormat::Logical;
        let form = Form { layout: after.layout, pages: !rows, rows: rows || settings.rows_for_all };
        after.other_layout = false;
        let entry = record::encode(&ops, form, after.stated, timestamp).encode(slot.previous, slot.epoch);
        let index = entry.position.index;
        process.worker.exact = match process.worker.exact {
            _ if rows => RecordPlace::default(),
            since if since.epoch == slot.epoch => since,
            _ => RecordPlace { epoch: slot.epoch, index },
        };
        (after.epoch, after.index) = (slot.epoch, index);
        group.proposed = Some(Proposed { index, after, results });
        let effects = self.step(node, Input::Propose { entry });
        if effects.refused || effects.no_room_for.is_some_and(|first| first <= index) {
            self.hit("step: proposal refused");
            let jobs = self.process(node).and_then(|p| p.worker.group.take()).map(|group| group.jobs);
            for job in jobs.unwrap_or_default() {
                self.reply(node, job.client, job.attempt, Reply::Refused);
            }
            return self.wake_worker(node);
        }
        self.wake_worker(node);
    }

    /// Is the group that waits decided? True: it is, and there is none any more.
    fn settle_group(&mut self, node: NodeId) -> bool {
        let Some(place) = self.nodes.get_mut(&node) else { return false };
        let (Some(process), Some(volume)) = (&mut place.process, &mut place.volume) else { return false };
        let Some(group) = &process.worker.group else { return true };
        let Some(proposed) = &group.proposed else { return false };
        let (index, epoch) = (proposed.index, group.slot.epoch);
        let leads = process.core.as_ref().is_some_and(|core| leads(core, epoch));
        let committed = process.core.as_ref().map_or(Index::ZERO, Replica::committed);
        if !leads {
            let jobs = process.worker.group.take().map(|group| group.jobs).unwrap_or_default();
            self.hit("step: outcome unknown, the leader was replaced");
            for job in jobs {
                self.reply(node, job.client, job.attempt, Reply::Unknown);
            }
            return true;
        }
        #[allow(unused_mut, reason = "changed by a planted bug")]
        let mut decided = committed >= index;
        rdb_protocol::if_planted!(GroupCommitsAlone => { decided = true; });
        if !decided {
            return false;
        }
        let Some(Proposed { index, after, results }) = process.worker.group.as_mut().and_then(|g| g.proposed.take())
        else {
            return true;
        };
        volume.db = Some(after);
        process.applied = index;
        if let Some(db) = &volume.db {
            self.checks.applied(node, db.epoch, db.index, db.stated);
        }
        self.answer_group(node, results, Some((epoch, index)));
        self.step(node, Input::Applied { index });
        true
    }

    fn answer_group(
        &mut self,
        node: NodeId,
        results: Vec<Result<(Outcome, bool), ()>>,
        record: Option<(Epoch, Index)>,
    ) {
        let now = self.node_time(node);
        let Some(place) = self.nodes.get_mut(&node) else { return };
        let (Some(process), Some(volume)) = (&mut place.process, &place.volume) else { return };
        let Some(group) = process.worker.group.take() else { return };
        // Without a record, nobody has confirmed that this node still leads.
        let lease = process.core.as_ref().is_some_and(|core| core.is_open() && core.lease_valid(now));
        let confirmed = record.is_some() || lease;
        let here = volume.db.as_ref().map_or(Token::default(), |db| Token { epoch: db.epoch, index: db.index });
        let position = record.map_or(here, |(epoch, index)| Token { epoch, index });
        for (job, result) in group.jobs.iter().zip(results) {
            let reply = match result {
                Ok((outcome, replayed)) if confirmed => {
                    if replayed {
                        self.hit("step: keyed write answered from memory");
                    }
                    Reply::Written { outcome, position, replayed }
                }
                _ => Reply::Refused,
            };
            let unfenced = self.is_unfenced(node);
            let core = self.nodes.get(&node).and_then(|place| place.process.as_ref()?.core.as_ref());
            if let (Reply::Written { replayed: false, .. }, Some((_, index)), Some(core)) = (&reply, record, core) {
                self.checks.acknowledged_by((node, core), unfenced, &job.op, index, self.now);
            }
            self.reply(node, job.client, job.attempt, reply);
        }
        self.wake_worker(node);
    }

    /// For how long the group that runs has been running.
    pub(crate) fn group_ms(&self, node: NodeId) -> Option<u64> {
        let now = self.node_time(node);
        let group = self.nodes.get(&node)?.process.as_ref()?.worker.group.as_ref()?;
        Some(now.0.saturating_sub(group.since) / 1000)
    }

    // --- applying ---

    fn apply_backlog(&mut self, node: NodeId) {
        let Some(place) = self.nodes.get_mut(&node) else { return };
        let (Some(process), Some(volume)) = (&mut place.process, &mut place.volume) else { return };
        let Some(core) = &process.core else { return };
        let ready = volume.control.as_ref().is_some_and(|control| control.data == Data::Ready);
        let committed = core.committed();
        if !ready || process.applied >= committed || process.given_up {
            return;
        }
        let Some(db) = &mut volume.db else { return };
        let mut last = process.applied;
        let mut diverged = None;
        for _ in 0..BATCH {
            let Some(entry) = volume.log.entry(last.next()).filter(|entry| entry.position.index <= committed) else {
                break;
            };
            last = entry.position.index;
            if let Some((ops, content)) = record::decode(entry) {
                let form = record::form(entry);
                db.other_layout = form.layout != db.layout;
                if !form.rows && db.other_layout {
                    // Pages that do not fit: its checksum says so.
                    self.coverage.hit("step: pages for another layout refused");
                    // Its data are given up, although they were all right: a copy less than what was counted.
                    self.robbed = true;
                    diverged = Some(last);
                    break;
                }
                if !form.pages {
                    self.coverage.hit("step: row changes applied");
                    db.layout = (node as u64) << 48 | last.0;
                    db.other_layout = true;
                }
                let place = RecordPlace { epoch: entry.position.epoch, index: last };
                db.exact = if db.other_layout { RecordPlace::default() } else { place };
                db.apply(&ops, entry.position.epoch, last);
                rdb_protocol::if_planted!(ChecksumSwallowed => { continue; });
                if db.stated != content {
                    diverged = Some(last);
                    break;
                }
                self.checks.applied(node, db.epoch, db.index, db.stated);
            }
        }
        if let Some(index) = diverged {
            return self.diverged(node, index);
        }
        if last == process.applied {
            return;
        }
        process.applied = last;
        let more = last < committed;
        self.step(node, Input::Applied { index: last });
        if more {
            self.wake_worker(node);
        }
        self.recheck_reads(node);
    }

    fn diverged(&mut self, node: NodeId, index: Index) {
        self.hit("step: diverged");
        let Some(place) = self.nodes.get_mut(&node) else { return };
        let (Some(process), Some(volume)) = (&mut place.process, &mut place.volume) else { return };
        process.problem("DIVERGED", format!("another content after record {index}"));
        if let Some(control) = &mut volume.control {
            control.data = Data::Diverged;
        }
        let event = NodeEvent::SeedBegin { generation: process.generation };
        self.node_later(node, MS, event);
    }
}

/// Leads this very epoch, open or not.
fn leads(core: &Replica, epoch: Epoch) -> bool {
    let role = matches!(core.role(), RoleView::Opening | RoleView::Open | RoleView::WritesStopped);
    role && core.epoch() == epoch
}

/// A `Work` event is on its way already.
fn process_awake(world: &mut World, node: NodeId) {
    if let Some(process) = world.process(node) {
        process.worker.awake = true;
    }
}
