//! Page-exact base copies of a database that is being written.
//!
//! A copy must have the very pages of its source, because page records are applied to it later. Hence neither
//! `VACUUM INTO` (packs the pages anew) nor the backup interface (counts up the schema cookie of its copy), but one read
//! transaction that reads `sqlite_dbpage`. The writer goes on meanwhile; only `-wal` cannot be reused while it lasts.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use rdb_protocol::{Chain, Epoch, Index};
use serde::{Deserialize, Serialize};

use crate::checksum::{PageTable, page_hash};
use crate::connection::{self, Plain, internal_error, io};
use crate::engine::{DbPosition, Shared, remove_side_files, sync_directory};
use crate::error::{EngineError, SeedError};
use crate::internal::PositionReader;
use crate::sql::statement::{SqliteError, Stmt};

/// Cache of a session's connection: pages are read once.
const CACHE: u64 = 256 << 10;

/// Pages read between two pauses of a check: 1 MiB of the usual size.
const PAUSE_PAGES: u32 = 256;

/// Snapshots taken until one meets the page table at its position. The table lags behind the visible state for
/// microseconds after each commit, so one or two are enough; after these the pages are read instead.
const TRIES: usize = 100;

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
        DbPosition { epoch: self.epoch, index: self.index, previous_chain: self.previous_chain }
    }
}

/// A snapshot held open by a read transaction. While it lives, `-wal` can't be reused: drop it when done.
pub struct SeedSession {
    // Statements before their connection.
    page: Stmt,
    _snapshot: PositionReader,
    _plain: Plain,
    info: SeedInfo,
}

// SAFETY: the raw handles belong to this connection alone, used by one thread at a time.
unsafe impl Send for SeedSession {}

impl SeedSession {
    pub(crate) fn open(shared: &Arc<Shared>) -> Result<SeedSession, EngineError> {
        let reading = |error: SqliteError| internal_error("taking a base copy", &error);
        let plain = connection::internal(&shared.options.path, CACHE)?;
        let snapshot = PositionReader::new(plain.db).map_err(reading)?;
        let page = Stmt::internal(plain.db, "SELECT data FROM sqlite_dbpage WHERE pgno = ?1").map_err(reading)?;
        let (mut position, mut content) = (snapshot.hold().map_err(reading)?, None);
        for _ in 0..TRIES {
            let table = shared.table.lock().as_ref().map(|table| (table.position(), table.content()));
            match table {
                Some((at, sum)) if at == position => content = Some(sum),
                Some(_) => {
                    snapshot.release();
                    std::thread::yield_now();
                    position = snapshot.hold().map_err(reading)?;
                    continue;
                }
                None => {}
            }
            break;
        }
        let page_count = plain
            .connection
            .pragma_query_value(None, "page_count", |row| row.get(0))
            .map_err(|error| connection::sqlite("taking a base copy", error))?;
        let content = match content {
            Some(content) => content,
            None => read_all(&page, page_count).map_err(reading)?,
        };
        let info = SeedInfo {
            epoch: position.epoch,
            index: position.index,
            previous_chain: position.previous_chain,
            page_size: shared.page_size,
            page_count,
            content: Chain(content),
        };
        Ok(SeedSession { page, _snapshot: snapshot, _plain: plain, info })
    }

    /// Reads every page and tells whether they are what was written, as far as the checksum knows. `pause` is called now and
    /// then: what is read here is in nobody's way for long.
    pub fn verify(&mut self, mut pause: impl FnMut()) -> Result<bool, EngineError> {
        let mut content = 0;
        for number in 1..=self.info.page_count {
            read_page(&self.page, number, |image| content ^= page_hash(number, image))
                .map_err(|error| internal_error("checking the database", &error))?;
            if number.is_multiple_of(PAUSE_PAGES) {
                pause();
            }
        }
        Ok(Chain(content) == self.info.content)
    }

    pub fn info(&self) -> SeedInfo {
        self.info
    }

    /// The images of up to `count` pages from `first` (1-based), one after the other. Empty past the end. Any range may be
    /// read again, so a broken stream can go on where it stopped.
    pub fn read_pages(&mut self, first: u32, count: u32) -> Result<Bytes, EngineError> {
        let end = first.saturating_add(count).min(self.info.page_count.saturating_add(1));
        let pages = end.saturating_sub(first.max(1)) as usize;
        let mut out = BytesMut::with_capacity(pages * self.info.page_size as usize);
        for number in first.max(1)..end {
            read_page(&self.page, number, |image| out.extend_from_slice(image))
                .map_err(|error| internal_error("reading a base copy", &error))?;
        }
        Ok(out.freeze())
    }
}

fn read_page(page: &Stmt, number: u32, mut take: impl FnMut(&[u8])) -> Result<(), SqliteError> {
    page.bind_integer(1, i64::from(number))?;
    let row = page.step();
    if let Ok(true) = row {
        take(page.blob(0));
    }
    page.reset();
    match row? {
        true => Ok(()),
        false => {
            let message = format!("page {number} is missing");
            Err(SqliteError { code: rusqlite::ffi::SQLITE_CORRUPT, message, errno: 0 })
        }
    }
}

fn read_all(page: &Stmt, page_count: u32) -> Result<u64, SqliteError> {
    let mut table = PageTable::new(DbPosition::default());
    for number in 1..=page_count {
        read_page(page, number, |image| table.push(image))?;
    }
    Ok(table.content())
}

/// Receives a base copy into a file beside the database and puts it in the database's place when it is whole.
#[derive(Debug)]
pub struct SeedWriter {
    file: File,
    path: PathBuf,
    info: SeedInfo,
    next: u32,
    content: u64,
}

impl SeedWriter {
    /// Starts a copy in `directory`, which is created if need be; the remains of an earlier copy there are dropped.
    pub fn create(directory: &Path, info: SeedInfo) -> Result<SeedWriter, SeedError> {
        if !info.page_size.is_power_of_two() || !(512..=65536).contains(&info.page_size) || info.page_count == 0 {
            let SeedInfo { page_size, page_count, .. } = info;
            return Err(SeedError::Malformed(format!("{page_count} pages of {page_size} bytes")));
        }
        std::fs::create_dir_all(directory).map_err(|error| writing(&error))?;
        let path = directory.join("base");
        let file = File::create(&path).map_err(|error| writing(&error))?;
        Ok(SeedWriter { file, path, info, next: 1, content: 0 })
    }

    pub fn info(&self) -> SeedInfo {
        self.info
    }

    /// Page that it wants next (1-based); `page_count + 1` when it has all.
    pub fn next_page(&self) -> u32 {
        self.next
    }

    /// Takes the images of whole pages that start at page `first`, which must be [`SeedWriter::next_page`].
    pub fn write(&mut self, first: u32, pages: &[u8]) -> Result<(), SeedError> {
        let size = self.info.page_size as usize;
        let count = u32::try_from(pages.len() / size).unwrap_or(u32::MAX);
        if first != self.next || !pages.len().is_multiple_of(size) {
            let what = format!("{} bytes for page {first}, page {} is next", pages.len(), self.next);
            return Err(SeedError::Malformed(what));
        }
        if count > self.info.page_count - (self.next - 1) {
            return Err(SeedError::Malformed(format!("more than {} pages", self.info.page_count)));
        }
        let offset = u64::from(first - 1) * size as u64;
        self.file.write_all_at(pages, offset).map_err(|error| writing(&error))?;
        for image in pages.chunks_exact(size) {
            self.content ^= page_hash(self.next, image);
            self.next += 1;
        }
        Ok(())
    }

    /// Verifies the checksum, makes the copy durable and renames it to `database`, removing `-wal` and `-shm` of what was
    /// there. No engine may be open on `database`, and the caller's control file must say that a seed is being installed:
    /// a crash in between leaves the old database without its `-wal`.
    pub fn install(self, database: &Path) -> Result<(), SeedError> {
        if self.next <= self.info.page_count {
            let what = format!("it ends before page {} of {}", self.next, self.info.page_count);
            return Err(SeedError::Malformed(what));
        }
        if self.content != self.info.content.0 {
            return Err(SeedError::Checksum { stated: self.info.content.0, ours: self.content });
        }
        self.file.sync_all().map_err(|error| writing(&error))?;
        replace(database, &self.path)
    }
}

/// Puts the installed copy at `copy` in the place of `database`, under the conditions of [`SeedWriter::install`]: for a copy
/// that was looked at before.
pub fn replace(database: &Path, copy: &Path) -> Result<(), SeedError> {
    remove_side_files(copy)?;
    remove_side_files(database)?;
    std::fs::rename(copy, database).map_err(|error| writing(&error))?;
    sync_directory(database)?;
    Ok(())
}

fn writing(error: &std::io::Error) -> SeedError {
    match io("writing a base copy", error) {
        EngineError::Full(why) => SeedError::Full(why),
        other => SeedError::Engine(other),
    }
}
