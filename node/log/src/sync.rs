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
