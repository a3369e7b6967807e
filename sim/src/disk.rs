//! A volume: control file, log and database, with what is live (seen by the next process) kept apart from what is durable
//! (left after the machine lost power).

use rdb_protocol::status::{DivergenceReport, SeedReport};
use rdb_protocol::{Chain, ClusterId, Epoch, Index, Member, NodeName, Position};
use rdb_record::Entry;
use rdb_replication::{LogView, Persistent};

use crate::db::Db;
use crate::rng::Rng;

/// What log and database are good for, as in the control file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Data {
    Empty,
    Seeding,
    Ready,
    Diverged,
}

/// The control file. It is replaced as a whole and flushed at once, so that live and durable are the same.
#[derive(Clone, Debug)]
pub struct Control {
    /// The volume that it was written on: a copy of the file elsewhere belongs to another incarnation (rule 18).
    pub volume: u64,
    pub cluster: Option<ClusterId>,
    pub core: Persistent,
    pub data: Data,
    pub seed: Option<SeedReport>,
    pub divergences: Vec<DivergenceReport>,
}

impl Control {
    pub fn new(member: Member, volume: u64) -> Control {
        let core = Persistent {
            member,
            cluster: ClusterId(0),
            promise: Default::default(),
            led: Epoch::ZERO,
            opened: Epoch::ZERO,
            lossy: Epoch::ZERO,
            config: None,
            committed: Index::ZERO,
            acknowledged: Index::ZERO,
            loss_permitted: false,
            peers: Vec::new(),
            settings: Default::default(),
        };
        Control { volume, cluster: None, core, data: Data::Empty, seed: None, divergences: Vec::new() }
    }

    pub fn name(&self) -> &NodeName {
        &self.core.member.name
    }
}

/// What a volume snapshot promised when it was taken.
#[derive(Clone, Copy, Debug)]
pub struct SeedFrom {
    pub cluster: ClusterId,
    pub position: Position,
}

#[derive(Clone, Debug)]
pub struct Volume {
    /// The claim's UID.
    pub id: u64,
    pub control: Option<Control>,
    pub log: SimLog,
    pub db: Option<Db>,
    /// As of the last checkpoint.
    checkpointed: Option<Db>,
    /// Made from a snapshot: what its labels said.
    pub seed_from: Option<SeedFrom>,
    pub full: bool,
}

impl Volume {
    pub fn empty(id: u64) -> Volume {
        let log = SimLog::new(Position::ZERO);
        Volume { id, control: None, log, db: None, checkpointed: None, seed_from: None, full: false }
    }

    /// Are this member's data here, and whole?
    pub fn holds(&self, member: &Member) -> bool {
        let mine = self.control.as_ref().is_some_and(|c| c.core.member == *member && c.data == Data::Ready);
        let on_its_volume = self.control.as_ref().is_some_and(|control| control.volume == self.id);
        mine && on_its_volume && !self.log.damaged && self.db.as_ref().is_some_and(|db| db.computed() == db.stated)
    }

    /// Another database in the place of the present one, durably.
    pub fn install(&mut self, db: Option<Db>) {
        self.checkpointed.clone_from(&db);
        self.db = db;
    }

    pub fn checkpoint(&mut self) {
        self.checkpointed.clone_from(&self.db);
    }

    /// The machine lost power: of what was not flushed, any prefix of the log is left (a torn record is cut by recovery), and
    /// the database is as of its last checkpoint or later.
    pub fn power_loss(&mut self, rng: &mut Rng) {
        let kept = rng.between(self.log.flushed as u64, self.log.entries.len() as u64) as usize;
        self.log.cut_to(kept);
        if rng.chance(700) {
            self.db.clone_from(&self.checkpointed);
        }
    }

    /// A copy as the storage system takes it: what has reached the disk at this moment.
    pub fn snapshot(&self, id: u64, rng: &mut Rng) -> Volume {
        let mut copy = self.clone();
        copy.power_loss(rng);
        copy.id = id;
        copy.full = false;
        copy
    }
}

/// An append-only log in memory.
#[derive(Clone, Debug)]
pub struct SimLog {
    base: Position,
    pub entries: Vec<Entry>,
    /// How many of them are durable.
    pub flushed: usize,
    /// Ends of the epochs, oldest first.
    ends: Vec<Position>,
    /// A record that was flushed is damaged.
    pub damaged: bool,
}

impl SimLog {
    pub fn new(base: Position) -> SimLog {
        SimLog { base, entries: Vec::new(), flushed: 0, ends: Vec::new(), damaged: false }
    }

    pub fn append(&mut self, entry: Entry) {
        match self.ends.last_mut().filter(|end| end.epoch == entry.position.epoch) {
            Some(end) => *end = entry.position,
            None => self.ends.push(entry.position),
        }
        self.entries.push(entry);
    }

    /// The disk has everything up to `upto`, if that is still there.
    pub fn flush_to(&mut self, upto: Position) {
        if self.position(upto.index) == Some(upto) {
            self.flushed = self.flushed.max((upto.index.0 - self.base.index.0) as usize);
        }
    }

    pub fn truncate_after(&mut self, after: Index) {
        self.cut_to(after.0.saturating_sub(self.base.index.0) as usize);
    }

    fn cut_to(&mut self, kept: usize) {
        self.entries.truncate(kept);
        self.flushed = self.flushed.min(kept);
        self.ends.clear();
        for entry in &self.entries {
            match self.ends.last_mut().filter(|end| end.epoch == entry.position.epoch) {
                Some(end) => *end = entry.position,
                None => self.ends.push(entry.position),
            }
        }
    }

    /// Drops the records below `first`, keeping at least the flushed end.
    pub fn retain_from(&mut self, first: Index) {
        let wanted = first.0.saturating_sub(self.base.index.0 + 1) as usize;
        let count = wanted.min(self.flushed);
        if let Some(last) = count.checked_sub(1).and_then(|at| self.entries.get(at)) {
            self.base = last.position;
            self.entries.drain(..count);
            self.flushed -= count;
            let base = self.base.index;
            self.ends.retain(|end| end.index > base);
        }
    }

    pub fn entry(&self, index: Index) -> Option<&Entry> {
        self.entries.get(index.0.checked_sub(self.base.index.0 + 1)? as usize)
    }

    /// Records after `prev`, at least one and about `max_bytes`; none if `prev` is not here.
    pub fn read(&self, prev: Position, max_bytes: u64) -> Vec<Entry> {
        if self.position(prev.index) != Some(prev) {
            return Vec::new();
        }
        let from = (prev.index.0 - self.base.index.0) as usize;
        let mut bytes = 0;
        let fits = |entry: &&Entry| {
            let first = bytes == 0;
            bytes += entry.bytes.len() as u64;
            first || bytes <= max_bytes
        };
        self.entries[from..].iter().take_while(fits).cloned().collect()
    }

    pub fn first_index(&self) -> Index {
        self.base.index.next()
    }

    pub fn flushed_position(&self) -> Position {
        self.flushed.checked_sub(1).and_then(|at| self.entries.get(at)).map_or(self.base, |entry| entry.position)
    }
}

impl LogView for SimLog {
    fn last(&self) -> Position {
        self.entries.last().map_or(self.base, |entry| entry.position)
    }

    fn base(&self) -> Position {
        self.base
    }

    fn position(&self, index: Index) -> Option<Position> {
        match index.0.checked_sub(self.base.index.0)? {
            0 => Some(self.base),
            n => self.entries.get(n as usize - 1).map(|entry| entry.position),
        }
    }

    fn epochs(&self) -> Vec<Position> {
        self.ends.clone()
    }
}

/// A chain that no log has, for what must never match.
pub const NO_CHAIN: Chain = Chain(u64::MAX);
