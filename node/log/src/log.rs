//! The replicated log.

use std::path::Path;

use rdb_protocol::{Epoch, Index, Position};
use rdb_record::Entry;

use crate::error::LogError;
use crate::options::{LogOptions, Recovery, Retention};
use crate::reader::LogReader;
use crate::sync::SyncHandle;

/// The log of one data directory.
#[derive(Debug)]
pub struct Log {}

impl Log {
    /// Opens the log in `dir` and cuts a torn tail.
    pub fn open(dir: &Path, options: LogOptions) -> Result<(Log, Recovery), LogError> {
        let _ = options;
        Err(LogError::Missing(dir.to_owned()))
    }

    /// Makes an empty log in `dir`, whose first record will follow `base`. Durable on return.
    pub fn create(dir: &Path, base: Position, options: LogOptions) -> Result<Log, LogError> {
        let _ = (base, options);
        Err(LogError::Exists(dir.to_owned()))
    }

    /// Deletes the log in `dir`, if there is one; for re-seeding. Durable on return.
    pub fn remove(dir: &Path) -> Result<(), LogError> {
        Err(LogError::Missing(dir.to_owned()))
    }

    /// Writes the entry behind the last one; not durable until a [`SyncHandle`] taken afterwards has synced.
    pub fn append(&mut self, entry: &Entry) -> Result<(), LogError> {
        Err(LogError::Gone(entry.position.index))
    }

    /// For flushing what has been appended so far.
    pub fn sync_handle(&mut self) -> SyncHandle {
        unreachable!()
    }

    /// Position of the last record, or the base.
    pub fn last(&self) -> Position {
        Position::ZERO
    }

    /// Position in front of the first record.
    pub fn base(&self) -> Position {
        Position::ZERO
    }

    /// Index of the first record, which may not exist yet.
    pub fn first_index(&self) -> Index {
        self.base().index.next()
    }

    /// Position at `index`, from the base to the last record.
    pub fn position(&self, _index: Index) -> Option<Position> {
        None
    }

    /// Last position of the greatest epoch that is not above `epoch`; `None` if all are above.
    pub fn epoch_end(&self, _epoch: Epoch) -> Option<Position> {
        None
    }

    /// Last position of each epoch in the log, newest last. The base is the first of them if no record has its epoch,
    /// except in a log that begins at 0.
    pub fn epochs(&self) -> Vec<Position> {
        Vec::new()
    }

    /// As [`LogReader::read`].
    pub fn read(&self, from: Index, max_bytes: usize) -> Result<Vec<Entry>, LogError> {
        self.reader().read(from, max_bytes)
    }

    pub fn reader(&self) -> LogReader {
        LogReader {}
    }

    /// Cuts every record after `index` (rule 10). Durable on return.
    pub fn truncate_after(&mut self, index: Index) -> Result<(), LogError> {
        Err(LogError::Gone(index))
    }

    /// Drops segments from the front, see [`Retention`]; the number of segments dropped.
    pub fn retain(&mut self, _policy: Retention) -> Result<usize, LogError> {
        Ok(0)
    }

    /// Bytes of disk that the segments take.
    pub fn disk_bytes(&self) -> u64 {
        0
    }
}
