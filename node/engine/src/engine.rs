//! The database of a node and the roles that are handed out for it.

use std::path::PathBuf;

use rdb_protocol::{Chain, Epoch, Index};

use crate::applier::Applier;
use crate::error::EngineError;
use crate::reader::Reader;
use crate::seed::SeedSession;
use crate::writer::Writer;

/// How a database is opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineOptions {
    /// The database file; `-wal` and `-shm` lie beside it.
    pub path: PathBuf,
    /// Bytes per page of a database that is created; an existing one keeps its own.
    pub page_size: u32,
    /// Create with `auto_vacuum = INCREMENTAL`: `PRAGMA incremental_vacuum` can then shrink the file.
    pub incremental_vacuum: bool,
    /// Page cache of the writing connection, in bytes.
    pub writer_cache_bytes: u64,
    /// Page cache of one reader, in bytes.
    pub reader_cache_bytes: u64,
    /// Size of `-wal` that wakes the checkpoint thread.
    pub checkpoint_bytes: u64,
    /// Largest record that a group may make; a larger transaction is refused.
    pub max_record_bytes: u64,
}

impl EngineOptions {
    pub fn new(path: impl Into<PathBuf>) -> EngineOptions {
        EngineOptions {
            path: path.into(),
            page_size: 4096,
            incremental_vacuum: false,
            writer_cache_bytes: 64 << 20,
            reader_cache_bytes: 8 << 20,
            checkpoint_bytes: 16 << 20,
            max_record_bytes: 256 << 20,
        }
    }
}

/// What the internal position row says: the last page record whose changes the database holds. Records without pages
/// (`Noop`, `EpochStart`, `Config`) leave no trace in the database, so the log may be ahead of this by some of those.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DbPosition {
    pub epoch: Epoch,
    pub index: Index,
    /// Chain *before* the record at `index`: a record cannot contain its own hash.
    pub previous_chain: Chain,
}

/// Figures for status and metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EngineStats {
    pub page_size: u32,
    pub database_pages: u32,
    /// Content checksum at the last write (0 until a writer or applier was opened).
    pub content: u64,
    /// Frames in `-wal` after the last write or checkpoint.
    pub wal_frames: u64,
    pub checkpoints: u64,
}

/// A node's database. Hands out the roles; all of them may outlive it.
pub struct Engine {
    options: EngineOptions,
}

impl Engine {
    /// Opens an existing database and checks that this build and the file are ours.
    pub fn open(options: EngineOptions) -> Result<Engine, EngineError> {
        Ok(Engine { options })
    }

    /// Creates an empty database with the internal tables at position 0, durably, and opens it. Only for the first
    /// node of a cluster: all others are seeded from it, because page records need equal pages to start from.
    pub fn create(options: EngineOptions) -> Result<Engine, EngineError> {
        Engine::open(options)
    }

    pub fn position(&self) -> Result<DbPosition, EngineError> {
        Err(pending())
    }

    /// The leader's role. `Busy` while another writer or applier lives.
    pub fn writer(&self) -> Result<Writer, EngineError> {
        Err(pending())
    }

    /// The follower's role. `Busy` while another writer or applier lives.
    pub fn applier(&self) -> Result<Applier, EngineError> {
        Err(pending())
    }

    /// A read-only connection; cheap enough to hold one per thread.
    pub fn reader(&self) -> Result<Reader, EngineError> {
        Err(pending())
    }

    /// Starts a base copy of the present content. Never waits for the writer.
    pub fn seed_session(&self) -> Result<SeedSession, EngineError> {
        Err(pending())
    }

    /// Reads every page and returns the content checksum; a scrub, and a proof for tests.
    pub fn scan_checksum(&self) -> Result<u64, EngineError> {
        Err(pending())
    }

    pub fn stats(&self) -> EngineStats {
        EngineStats::default()
    }

    pub fn options(&self) -> &EngineOptions {
        &self.options
    }
}

// Only while the parts are being written.
pub(crate) fn pending() -> EngineError {
    EngineError::Build("this part of the engine".to_owned())
}
