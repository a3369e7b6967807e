//! Flushing outside of the lock.
//!
//! A handle knows the files that hold unflushed records: nearly always one. After a rotation between append and flush
//! they are several, and the directory, which has a new entry. What one handle has flushed, later handles skip.

use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rdb_protocol::Position;

use crate::error::LogError;
use crate::map::Shared;

/// A file that will not be written to again before it is flushed: a full segment, or the directory after a new entry.
#[derive(Debug)]
pub(crate) struct Pending {
    file: Arc<File>,
    path: Arc<PathBuf>,
    flushed: AtomicBool,
}

impl Pending {
    pub(crate) fn new(file: Arc<File>, path: Arc<PathBuf>) -> Arc<Pending> {
        Arc::new(Pending { file, path, flushed: AtomicBool::new(false) })
    }

    pub(crate) fn is_flushed(&self) -> bool {
        self.flushed.load(Ordering::Acquire)
    }

    pub(crate) fn flush(&self) -> Result<(), LogError> {
        if !self.is_flushed() {
            flush(&self.file, &self.path)?;
            self.flushed.store(true, Ordering::Release);
        }
        Ok(())
    }
}

fn flush(file: &File, path: &Arc<PathBuf>) -> Result<(), LogError> {
    // "No space" is not harmless here: file systems that allocate late report it by losing what was written.
    file.sync_data().map_err(|source| LogError::Io { action: "flush", path: path.to_path_buf(), source })
}

/// Flushes everything that was appended before the handle was taken.
#[derive(Clone, Debug)]
pub struct SyncHandle {
    pub(crate) shared: Shared,
    pub(crate) generation: u64,
    pub(crate) upto: Position,
    /// In the order in which they were filled.
    pub(crate) pending: Vec<Arc<Pending>>,
    pub(crate) active: Arc<File>,
    pub(crate) path: Arc<PathBuf>,
}

impl SyncHandle {
    /// End of the log when the handle was taken: durable once [`SyncHandle::sync`] has returned, unless it was cut
    /// meanwhile.
    pub fn upto(&self) -> Position {
        self.upto
    }

    /// Waits for the disk. An error is final: stop the process, do not call again.
    pub fn sync(&self) -> Result<(), LogError> {
        for file in &self.pending {
            file.flush()?;
        }
        flush(&self.active, &self.path)?;
        let mut map = self.shared.lock();
        // After a cut the same index may name another, unflushed record.
        if map.generation == self.generation {
            map.flushed = map.flushed.max(self.upto.index);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use rdb_protocol::{Epoch, Position};
    use rdb_record::{Payload, Record};

    use crate::{Log, LogOptions};

    #[test]
    fn full_segments_and_new_directory_entries_are_flushed_once() {
        let dir = tempfile::tempdir().unwrap();
        let options = LogOptions { segment_bytes: 8192, ..LogOptions::default() };
        let mut log = Log::create(&dir.path().join("log"), Position::ZERO, options).unwrap();
        let noop = Record { timestamp: 0, content: 0, clients: Vec::new(), payload: Payload::Noop };
        let before = log.sync_handle();
        for _ in 0..60 {
            log.append(&noop.encode(log.last(), Epoch(1))).unwrap();
        }
        let after = log.sync_handle();
        assert!(before.pending.is_empty());
        assert_eq!(after.pending.len(), 2, "the full segment and the directory");
        before.sync().unwrap();
        assert!(after.pending.iter().all(|file| !file.is_flushed()));
        after.sync().unwrap();
        assert!(after.pending.iter().all(|file| file.is_flushed()));
        assert!(log.sync_handle().pending.is_empty());
    }
}
