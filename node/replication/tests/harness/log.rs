//! A log in memory: what is appended, what of it is flushed, and where it begins.

use rdb_protocol::{Index, Position};
use rdb_record::Entry;
use rdb_replication::LogView;

#[derive(Clone, Debug, Default)]
pub struct MemLog {
    pub base: Position,
    pub entries: Vec<Entry>,
    /// Index of the last record that survives a crash.
    pub flushed: Index,
}

impl MemLog {
    pub fn append(&mut self, entry: Entry) {
        assert!(entry.follows(self.last()), "the log got a record that does not continue it");
        self.entries.push(entry);
    }

    pub fn truncate(&mut self, after: Index) {
        assert!(after >= self.base.index && after < self.last().index);
        self.entries.truncate((after.0 - self.base.index.0) as usize);
        self.flushed = self.flushed.min(after);
    }

    pub fn crash(&mut self) {
        self.entries.truncate((self.flushed.0.saturating_sub(self.base.index.0)) as usize);
    }

    pub fn retain_from(&mut self, index: Index) {
        let base = self.position(index.previous()).expect("in the log");
        self.entries.drain(..(base.index.0 - self.base.index.0) as usize);
        self.base = base;
    }

    /// Records after `prev`, one at least, about `max_bytes`. Nothing if they are gone.
    pub fn read(&self, prev: Position, max_bytes: u64) -> Vec<Entry> {
        if self.position(prev.index) != Some(prev) {
            return Vec::new();
        }
        let mut bytes = 0;
        let from = (prev.index.0 - self.base.index.0) as usize;
        let within = |entry: &&Entry| {
            let first = bytes == 0;
            bytes += entry.bytes.len() as u64;
            first || bytes <= max_bytes
        };
        self.entries[from..].iter().take_while(within).cloned().collect()
    }
}

impl LogView for MemLog {
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
        let mut ends: Vec<Position> = Vec::new();
        for entry in &self.entries {
            match ends.last_mut().filter(|end| end.epoch == entry.position.epoch) {
                Some(end) => *end = entry.position,
                None => ends.push(entry.position),
            }
        }
        ends
    }
}
