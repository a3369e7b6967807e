//! Page-exact base copies of a database that is being written.

use std::path::Path;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use rdb_protocol::{Chain, Epoch, Index};

use crate::engine::DbPosition;
use crate::error::{EngineError, SeedError};

/// What a base copy is: sent ahead of its pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeedInfo {
    pub epoch: Epoch,
    pub index: Index,
    pub previous_chain: Chain,
    pub page_size: u32,
    pub page_count: u32,
    /// Content checksum, as hexadecimal text in JSON.
    pub content: Chain,
}

impl SeedInfo {
    pub fn position(&self) -> DbPosition {
        DbPosition {
            epoch: self.epoch,
            index: self.index,
            previous_chain: self.previous_chain,
        }
    }
}

/// A snapshot held open by a read transaction. While it lives, `-wal` can't be reused: drop it when done.
pub struct SeedSession {
    _private: (),
}

impl SeedSession {
    pub fn info(&self) -> SeedInfo {
        unreachable!("no session exists yet")
    }

    /// The images of up to `count` pages from `first` (1-based), one after the other. Empty past the end. Any range may be
    /// read again, so a broken stream can go on where it stopped.
    pub fn read_pages(&mut self, first: u32, count: u32) -> Result<Bytes, EngineError> {
        let _ = (first, count);
        Err(crate::engine::pending())
    }
}

/// Receives a base copy into a file beside the database and puts it in the database's place when it is whole.
pub struct SeedWriter {
    _private: (),
}

impl SeedWriter {
    /// Starts a copy in `directory` (emptied first).
    pub fn create(directory: &Path, info: SeedInfo) -> Result<SeedWriter, SeedError> {
        let _ = (directory, info);
        Err(crate::engine::pending().into())
    }

    /// Page that it wants next (1-based); `page_count + 1` when it has all.
    pub fn next_page(&self) -> u32 {
        1
    }

    /// Takes the images of whole pages that start at page `first`, which must be [`SeedWriter::next_page`].
    pub fn write(&mut self, first: u32, pages: &[u8]) -> Result<(), SeedError> {
        let _ = (first, pages);
        Err(crate::engine::pending().into())
    }

    /// Verifies the checksum, makes the copy durable and renames it to `database`, removing `-wal` and `-shm` of what was
    /// there. No engine may be open on `database`.
    pub fn install(self, database: &Path) -> Result<(), SeedError> {
        let _ = database;
        Err(crate::engine::pending().into())
    }
}
