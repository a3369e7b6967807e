//! Where each record is: the log's index in memory, shared by the log and its readers. Twelve bytes per record (chain and
//! offset); epochs are kept as ranges.

use std::collections::VecDeque;
use std::fs::File;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rdb_protocol::{Chain, Epoch, Index, Position};
use rdb_record::Entry;

use crate::error::LogError;

/// One segment file and its records.
#[derive(Debug)]
pub(crate) struct Segment {
    /// Position in front of its first record.
    pub(crate) base: Position,
    pub(crate) file: Arc<File>,
    pub(crate) path: Arc<PathBuf>,
    pub(crate) salt: u64,
    /// Length of the file.
    pub(crate) size: u64,
    /// End of its last frame.
    pub(crate) tail: u64,
    chains: Vec<u64>,
    /// Begin of each frame; segments are smaller than 4 GiB because records are (`MAX_RECORD_BYTES`).
    offsets: Vec<u32>,
    /// Of its newest record, milliseconds since 1970; may be too high after a cut, which only keeps it longer.
    newest_ms: u64,
}

/// A run of frames in one segment.
#[derive(Debug)]
pub(crate) struct Extent {
    pub(crate) file: Arc<File>,
    pub(crate) path: Arc<PathBuf>,
    pub(crate) start: u64,
    pub(crate) end: u64,
    pub(crate) generation: u64,
}

impl Segment {
    pub(crate) fn new(base: Position, file: File, path: PathBuf, salt: u64, size: u64) -> Segment {
        Segment {
            base,
            file: Arc::new(file),
            path: Arc::new(path),
            salt,
            size,
            tail: crate::segment::DATA,
            chains: Vec::new(),
            offsets: Vec::new(),
            newest_ms: 0,
        }
    }

    pub(crate) fn reserve(&mut self, records: usize) {
        self.chains.reserve(records);
        self.offsets.reserve(records);
    }

    /// Gives back memory that no further record will need.
    pub(crate) fn shrink(&mut self) {
        self.chains.shrink_to_fit();
        self.offsets.shrink_to_fit();
    }

    pub(crate) fn records(&self) -> usize {
        self.chains.len()
    }

    pub(crate) fn last_index(&self) -> Index {
        Index(self.base.index.0 + self.chains.len() as u64)
    }

    /// Place of a record in this segment's vectors.
    fn slot(&self, index: Index) -> Option<usize> {
        let slot = index.0.checked_sub(self.base.index.0)?.checked_sub(1)? as usize;
        (slot < self.chains.len()).then_some(slot)
    }

    /// Where the frame of record `index` begins; the tail for the next one.
    pub(crate) fn offset(&self, index: Index) -> u64 {
        self.slot(index).map_or(self.tail, |slot| u64::from(self.offsets[slot]))
    }

    fn push(&mut self, position: Position, frame: u64, timestamp: u64) {
        self.chains.push(position.chain.0);
        self.offsets.push(self.tail as u32);
        self.tail += frame;
        self.newest_ms = self.newest_ms.max(timestamp >> 16);
    }

    fn truncate_after(&mut self, index: Index) {
        self.tail = self.offset(index.next());
        let keep = (index.0.saturating_sub(self.base.index.0)) as usize;
        self.chains.truncate(keep);
        self.offsets.truncate(keep);
    }
}

#[derive(Debug)]
pub(crate) struct Map {
    /// Never empty; the last one is written to.
    pub(crate) segments: VecDeque<Segment>,
    /// Each epoch with the index of its first record in the log.
    starts: VecDeque<(Epoch, Index)>,
    pub(crate) last: Position,
    /// Everything up to here is on disk.
    pub(crate) flushed: Index,
    /// Grows with every cut: what was looked up before may be gone.
    pub(crate) generation: u64,
    cache: Cache,
}

/// Shared by the log, which alone changes it, and its readers.
#[derive(Clone, Debug)]
pub(crate) struct Shared(Arc<Mutex<Map>>);

impl Shared {
    pub(crate) fn new(map: Map) -> Shared {
        Shared(Arc::new(Mutex::new(map)))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Map> {
        // No change to the map can panic half-way, so a poisoned one is whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Map {
    pub(crate) fn new(first: Segment, cache_bytes: usize) -> Map {
        Map {
            last: first.base,
            flushed: first.base.index,
            segments: VecDeque::from([first]),
            starts: VecDeque::new(),
            generation: 0,
            cache: Cache { entries: VecDeque::new(), bytes: 0, capacity: cache_bytes },
        }
    }

    pub(crate) fn base(&self) -> Position {
        self.segments[0].base
    }

    /// The segment that is written to.
    pub(crate) fn active(&mut self) -> &mut Segment {
        let last = self.segments.len() - 1;
        &mut self.segments[last]
    }

    /// Notes a record that was written at the tail.
    pub(crate) fn push(&mut self, position: Position, frame: u64, timestamp: u64) {
        if self.starts.back().is_none_or(|(epoch, _)| *epoch != position.epoch) {
            self.starts.push_back((position.epoch, position.index));
        }
        self.active().push(position, frame, timestamp);
        self.last = position;
    }

    pub(crate) fn remember(&mut self, entry: &Entry) {
        self.cache.push(entry);
    }

    fn segment_of(&self, index: Index) -> Option<&Segment> {
        let after = self.segments.partition_point(|segment| segment.base.index < index);
        self.segments.get(after.checked_sub(1)?)
    }

    pub(crate) fn position(&self, index: Index) -> Option<Position> {
        let base = self.base();
        if index == base.index {
            return Some(base);
        }
        let segment = self.segment_of(index)?;
        let chain = Chain(segment.chains[segment.slot(index)?]);
        let after = self.starts.partition_point(|(_, first)| *first <= index);
        let (epoch, _) = *self.starts.get(after.checked_sub(1)?)?;
        Some(Position { epoch, index, chain })
    }

    /// Last position of each epoch, see [`crate::Log::epochs`].
    pub(crate) fn epochs(&self) -> Vec<Position> {
        let ends = self.starts.iter().skip(1).map(|(_, first)| first.previous());
        let ends = ends.chain(self.starts.back().map(|_| self.last.index));
        ends.filter_map(|index| self.position(index)).collect()
    }

    pub(crate) fn epoch_end(&self, epoch: Epoch) -> Option<Position> {
        let after = self.starts.partition_point(|(start, _)| *start <= epoch);
        match (after, self.starts.get(after)) {
            (0, _) => (self.base().epoch <= epoch).then(|| self.base()),
            (_, Some((_, next))) => self.position(next.previous()),
            (_, None) => Some(self.last),
        }
    }

    /// Forgets every record after `index` and returns the segments that go with them, newest first. The caller has
    /// checked that `index` is in the log.
    pub(crate) fn truncate_after(&mut self, index: Index, position: Position) -> Vec<Segment> {
        self.generation += 1;
        self.flushed = self.flushed.min(index);
        self.cache.truncate_after(index);
        let mut dropped = Vec::new();
        while self.segments.len() > 1 && self.active().base.index > index {
            dropped.extend(self.segments.pop_back());
        }
        self.active().truncate_after(index);
        while self.starts.back().is_some_and(|(_, first)| *first > index) {
            self.starts.pop_back();
        }
        self.last = position;
        dropped
    }

    /// Drops the oldest segment if another one remains, all of its records lie before `floor`, and the log is larger than
    /// `max_bytes` or the segment older than `oldest_ms`.
    pub(crate) fn drop_oldest(&mut self, floor: Index, max_bytes: u64, oldest_ms: u64) -> Option<Segment> {
        let oldest = &self.segments[0];
        let unneeded = oldest.last_index() < floor && self.segments.len() > 1;
        if !unneeded || (self.disk_bytes() <= max_bytes && oldest.newest_ms >= oldest_ms) {
            return None;
        }
        let dropped = self.segments.pop_front()?;
        let first = self.base().index.next();
        // The epoch that the new first record belongs to now begins there; epochs wholly before it are gone.
        while self.starts.get(1).is_some_and(|(_, start)| *start <= first) {
            self.starts.pop_front();
        }
        if let Some((_, start)) = self.starts.front_mut() {
            *start = (*start).max(first);
        }
        if self.last.index < first {
            self.starts.clear();
        }
        Some(dropped)
    }

    pub(crate) fn disk_bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.size).sum()
    }

    /// Checks that `from` is in the log or the next index.
    pub(crate) fn check(&self, from: Index) -> Result<(), LogError> {
        let (first, last) = (self.base().index.next(), self.last.index);
        if from < first {
            return Err(LogError::Gone(from));
        }
        if from > last.next() {
            return Err(LogError::OutOfRange { index: from, first, last });
        }
        Ok(())
    }

    /// Entries from the cache; `None` if it doesn't reach back to `from`.
    pub(crate) fn cached(&self, from: Index, max_bytes: usize) -> Option<Vec<Entry>> {
        self.cache.read(from, max_bytes)
    }

    /// Frames of one segment from record `from` on: at least one, and no more than fit `max_bytes`.
    pub(crate) fn extent(&self, from: Index, max_bytes: usize) -> Option<Extent> {
        let segment = self.segment_of(from)?;
        let slot = segment.slot(from)?;
        let start = u64::from(segment.offsets[slot]);
        let limit = start.saturating_add(max_bytes as u64);
        // `offsets[k]` is also the end of frame k-1.
        let fitting = segment.offsets[slot + 1..].partition_point(|end| u64::from(*end) <= limit);
        let end =
            if segment.tail <= limit { segment.tail } else { segment.offset(Index(from.0 + fitting.max(1) as u64)) };
        let (file, path) = (Arc::clone(&segment.file), Arc::clone(&segment.path));
        Some(Extent { file, path, start, end, generation: self.generation })
    }
}

/// The newest entries, contiguous, ending at the last record.
#[derive(Debug)]
struct Cache {
    entries: VecDeque<Entry>,
    bytes: usize,
    capacity: usize,
}

impl Cache {
    fn push(&mut self, entry: &Entry) {
        self.bytes += entry.bytes.len();
        self.entries.push_back(entry.clone());
        while self.bytes > self.capacity {
            let Some(oldest) = self.entries.pop_front() else { break };
            self.bytes -= oldest.bytes.len();
        }
    }

    fn truncate_after(&mut self, index: Index) {
        while let Some(newest) = self.entries.pop_back_if(|entry| entry.position.index > index) {
            self.bytes -= newest.bytes.len();
        }
    }

    fn read(&self, from: Index, max_bytes: usize) -> Option<Vec<Entry>> {
        let first = self.entries.front()?.position.index;
        let skip = from.0.checked_sub(first.0)? as usize;
        let mut left = max_bytes;
        let mut taken = Vec::new();
        for entry in self.entries.iter().skip(skip) {
            if entry.bytes.len() > left && !taken.is_empty() {
                break;
            }
            left = left.saturating_sub(entry.bytes.len());
            taken.push(entry.clone());
        }
        (!taken.is_empty()).then_some(taken)
    }
}
