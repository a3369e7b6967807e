//! The follower's role: makes a leader's records visible. Statement records are run again ([`Writer::rerun`], through a
//! writer that shares this role's turn); page records are written here.
//!
//! Pages go in by [`PageWriter`], in one SQLite transaction for several records: of each page the last image. Readers
//! have their snapshots and never see half of it.
//!
//! The content checksum is computed from the images and the page table *before* anything is written: a record that
//! would lead elsewhere than the leader's is never applied.
//!
//! The connection writes beneath its own caches, so it must not be asked anything: the position is read back through a
//! second one, and after a change of the schema the caches are dropped.

use std::collections::BTreeMap;

use bytes::Bytes;
use rdb_protocol::Position;
use rdb_record::{PageGroup, Payload, Record, RowGroup};
use rusqlite::ffi;

use crate::connection::{self, Plain, internal_error};
use crate::engine::{DbPosition, Layout, WriteTurn};
use crate::error::{ApplyError, EngineError};
use crate::internal::PositionReader;
use crate::page_writer::{PageWriter, lock_page};
use crate::sql::statement::SqliteError;
use crate::writer::Writer;

/// Cache of the applying connection. It only has to hold one transaction's pages; more are spilled.
const CACHE: u64 = 16 << 20;

/// One committed record to apply.
#[derive(Clone, Debug)]
pub struct ApplyGroup {
    pub position: Position,
    pub record: Record,
}

/// A page record among those to apply.
#[derive(Clone, Copy)]
struct PageRecord<'a> {
    position: Position,
    pages: &'a PageGroup,
    /// Content checksum that the leader stated.
    content: u64,
}

/// The follower's connection. Use it from one thread at a time.
pub struct Applier {
    // Statements before their connections.
    pages: PageWriter,
    reader: PositionReader,
    plain: Plain,
    reader_connection: Plain,
    position: DbPosition,
    /// Schema cookie of the present page 1.
    cookie: u32,
    /// Runs statement records, once there was one.
    replay: Option<Box<Writer>>,
    /// See [`Applier::try_any_sqlite`].
    any_sqlite: bool,
    turn: WriteTurn,
}

// SAFETY: the raw handles belong to these connections alone, used by one thread at a time.
unsafe impl Send for Applier {}

impl Applier {
    pub(crate) fn open(turn: WriteTurn) -> Result<Applier, EngineError> {
        let preparing = |error| internal_error("opening the applier", &error);
        let path = &turn.0.options.path;
        let plain = connection::internal(path, CACHE)?;
        let pages = PageWriter::new(plain.db).map_err(preparing)?;
        let other = connection::internal(path, 0)?;
        let reader = PositionReader::new(other.db).map_err(preparing)?;
        let position = reader.read().map_err(preparing)?;
        let cookie = read_cookie(&other).map_err(|error| connection::sqlite("opening the applier", error))?;
        let (reader_connection, replay, any_sqlite) = (other, None, false);
        Ok(Applier { pages, reader, plain, reader_connection, position, cookie, replay, any_sqlite, turn })
    }

    /// Whether statements of another version of SQLite are run too, and their checksum says whether that went well; where it
    /// did not, they are refused as they are without this. For a node that is to lead: a follower had better not begin.
    pub fn try_any_sqlite(&mut self, wanted: bool) {
        self.any_sqlite = wanted;
    }

    /// Applies records; consecutive page records in one SQLite transaction, of which readers see all or none. Records up to
    /// the present position are skipped, and those that change nothing here are left out; indexes must rise.
    pub fn apply(&mut self, records: &[ApplyGroup]) -> Result<(), ApplyError> {
        let skip = records.iter().take_while(|record| record.position.index <= self.position.index).count();
        let mut pages: Vec<PageRecord<'_>> = Vec::new();
        for group in records.get(skip..).unwrap_or_default() {
            let (position, content) = (group.position, group.record.content);
            match &group.record.payload {
                Payload::Pages(group) => pages.push(PageRecord { position, pages: group, content }),
                Payload::Statements(_) | Payload::Rows(_) | Payload::WithRows(..) => {
                    self.apply_pages(&std::mem::take(&mut pages))?;
                    self.apply_one(position, &group.record)?;
                }
                _ => {}
            }
        }
        self.apply_pages(&pages)
    }

    fn apply_one(&mut self, position: Position, record: &Record) -> Result<(), ApplyError> {
        let rows =
            record.payload.rows().filter(|rows| rows.content.is_some() || matches!(record.payload, Payload::Rows(_)));
        let rows_only = matches!(record.payload, Payload::Rows(_)) || self.turn.0.layout() == Layout::Other;
        if let Some(rows) = rows.filter(|_| rows_only) {
            return self.apply_rows(position, record, rows);
        }
        let exact = match record.payload.main() {
            Payload::Pages(pages) => self.apply_pages(&[PageRecord { position, pages, content: record.content }]),
            Payload::Statements(statements) => {
                let any = self.any_sqlite;
                let ran = self.with_writer(position, |writer| writer.rerun(position, record, statements, any));
                if ran.is_ok() {
                    self.turn.0.set_layout(Layout::Same { epoch: position.epoch, index: position.index });
                }
                ran
            }
            _ => Ok(()),
        };
        match (exact, rows) {
            // The pages here are laid out otherwise than the leader's, or this SQLite is another.
            (
                Err(
                    ApplyError::Diverged { .. }
                    | ApplyError::PageSize { .. }
                    | ApplyError::Incompatible(_)
                    | ApplyError::OtherLayout { .. },
                ),
                Some(rows),
            ) => self.apply_rows(position, record, rows),
            // Its rows were shown to be the leader's; run on other pages, statements leave other pages.
            (Err(ApplyError::Diverged { index, .. }), None) if self.turn.0.layout() == Layout::Other => {
                Err(ApplyError::OtherLayout { index })
            }
            (exact, _) => exact,
        }
    }

    fn apply_rows(&mut self, position: Position, record: &Record, rows: &RowGroup) -> Result<(), ApplyError> {
        self.with_writer(position, |writer| writer.apply_rows(position, record, rows))?;
        self.turn.0.set_layout(Layout::Other);
        Ok(())
    }

    /// Applies the record at `position` by a writer.
    fn with_writer(
        &mut self,
        position: Position,
        apply: impl FnOnce(&mut Writer) -> Result<(), ApplyError>,
    ) -> Result<(), ApplyError> {
        if position.index <= self.position.index {
            return Err(ApplyError::Order { applied: self.position.index, index: position.index });
        }
        let writer = match &mut self.replay {
            Some(writer) => writer,
            none => {
                let writer = Writer::open(self.turn.clone()).map_err(|error| ApplyError::Io(error.to_string()))?;
                none.insert(Box::new(writer))
            }
        };
        apply(writer)?;
        self.position = writer.position();
        self.cookie = read_cookie(&self.reader_connection).map_err(|error| ApplyError::Io(error.to_string()))?;
        Ok(())
    }

    fn apply_pages(&mut self, records: &[PageRecord<'_>]) -> Result<(), ApplyError> {
        let shared = std::sync::Arc::clone(&self.turn.0);
        let Some(last) = records.last() else {
            return Ok(());
        };
        self.check(records)?;
        let _gate = shared.gauge.gate.lock();
        let mut table = shared.table.lock();
        let Some(table) = table.as_mut() else {
            return Err(ApplyError::Io("the page table is missing".to_owned()));
        };
        let merged = merge(records, table.pages());
        let change = table.preview(&merged);
        if change.content != last.content {
            let (epoch, index) = (last.position.epoch, last.position.index);
            if shared.layout() == Layout::Other {
                return Err(ApplyError::OtherLayout { index });
            }
            return Err(ApplyError::Diverged { epoch, index, leaders: last.content, ours: change.content });
        }
        if let Err(error) = self.write(&merged, table.pages()) {
            // When the transaction ended itself this fails, and nothing is lost by it.
            let _ = self.pages.rollback.execute();
            return Err(if error.is_full() {
                ApplyError::Full(error.message)
            } else {
                ApplyError::Io(format!("{} (code {})", error.message, error.code))
            });
        }
        let position = self.reader.read().map_err(|error| ApplyError::Io(error.message))?;
        table.install(&change, position);
        *shared.rows.lock() = None;
        shared.set_layout(Layout::Same { epoch: position.epoch, index: position.index });
        if let Some(writer) = &mut self.replay {
            writer.moved_to(position);
        }
        shared.gauge.add(merged.pages.len() as u64);
        self.position = position;
        if (position.epoch, position.index) != (last.position.epoch, last.position.index) {
            let what = format!("its position row says {}/{}", position.epoch, position.index);
            return Err(ApplyError::Malformed { index: last.position.index, what });
        }
        Ok(())
    }

    /// Position of the last record in the database.
    pub fn position(&self) -> DbPosition {
        self.position
    }

    fn check(&self, records: &[PageRecord<'_>]) -> Result<(), ApplyError> {
        let mut before = self.position.index;
        let database = self.turn.0.page_size;
        for PageRecord { position, pages: group, .. } in records {
            let index = position.index;
            if index <= before {
                return Err(ApplyError::Order { applied: before, index });
            }
            before = index;
            if group.page_size != database {
                return Err(ApplyError::PageSize { record: group.page_size, database });
            }
            let malformed = |what| Err(ApplyError::Malformed { index, what });
            if group.database_pages == 0 {
                return malformed("a database of no pages".to_owned());
            }
            for (page, image) in &group.pages {
                if *page == 0 || *page > group.database_pages {
                    return malformed(format!("page {page} of {}", group.database_pages));
                }
                if image.len() != database as usize {
                    return malformed(format!("page {page} has {} bytes", image.len()));
                }
                if *page == 1 {
                    check_file_format(image)?;
                }
            }
        }
        Ok(())
    }

    fn write(&mut self, group: &PageGroup, pages_before: u32) -> Result<(), SqliteError> {
        self.pages.begin.execute()?;
        for (page, image) in group.pages.iter().filter(|(page, _)| *page != 1) {
            self.pages.insert(*page, image)?;
        }
        let first = group.pages.iter().find(|(page, _)| *page == 1).map(|(_, image)| image.as_ref());
        let cut = (group.database_pages < pages_before).then_some(group.database_pages);
        let cookie = self.pages.finish(first, cut, self.cookie)?;
        self.pages.commit.execute()?;
        if cookie != self.cookie {
            self.cookie = cookie;
            // The next statement reads the new schema, and must not find the old pages parsed in the cache.
            // SAFETY: the connection is open and idle.
            unsafe { ffi::sqlite3_db_release_memory(self.plain.db) };
        }
        Ok(())
    }
}

/// Page 1 says which file format the leader's SQLite writes. A newer one would make the database unreadable here.
fn check_file_format(first: &[u8]) -> Result<(), ApplyError> {
    /// Of the file: for writers and for readers.
    const VERSIONS: std::ops::Range<usize> = 18..20;
    const NEWEST_VERSION: u8 = 2;
    /// Of what `sqlite_schema` holds.
    const SCHEMA: std::ops::Range<usize> = 44..48;
    const NEWEST_SCHEMA: u32 = 4;
    let version = first.get(VERSIONS).and_then(|bytes| bytes.iter().max()).copied().unwrap_or_default();
    let schema = first.get(SCHEMA).and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_be_bytes);
    if version <= NEWEST_VERSION && schema <= NEWEST_SCHEMA {
        return Ok(());
    }
    Err(ApplyError::Incompatible(format!(
        "the leader's database has file format {version} and schema format {schema}, this node's SQLite reads up to \
         {NEWEST_VERSION} and {NEWEST_SCHEMA}: start this node with the leader's version"
    )))
}

fn read_cookie(plain: &Plain) -> rusqlite::Result<u32> {
    plain.connection.pragma_query_value(None, "schema_version", |row| row.get::<_, i64>(0)).map(|cookie| cookie as u32)
}

/// One group that does what all of them do. Pages that the database has afterwards, had not before (or lost in between),
/// and that no record carries, are pages of zeros: nobody ever wrote them.
fn merge(records: &[PageRecord<'_>], pages_before: u32) -> PageGroup {
    let mut pages: BTreeMap<u32, Bytes> = BTreeMap::new();
    let (mut smallest, mut database_pages, mut page_size) = (pages_before, pages_before, 0);
    for PageRecord { pages: group, .. } in records {
        (page_size, database_pages) = (group.page_size, group.database_pages);
        smallest = smallest.min(database_pages);
        pages.extend(group.pages.iter().map(|(page, image)| (*page, image.clone())));
        // What is cut off here and grown again later starts from nothing.
        pages.split_off(&(database_pages + 1));
    }
    let lock_page = lock_page(page_size);
    let mut zeros = Bytes::new();
    for page in (smallest + 1..=database_pages).filter(|page| *page != lock_page) {
        pages.entry(page).or_insert_with(|| {
            if zeros.is_empty() {
                zeros = Bytes::from(vec![0; page_size as usize]);
            }
            zeros.clone()
        });
    }
    PageGroup { page_size, database_pages, pages: pages.into_iter().collect() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rdb_protocol::{Chain, Epoch, Index};

    fn group(database_pages: u32, pages: &[(u32, u8)]) -> PageGroup {
        let pages = pages.iter().map(|(page, fill)| (*page, Bytes::from(vec![*fill; 512]))).collect();
        PageGroup { page_size: 512, database_pages, pages }
    }

    fn merged(groups: &[PageGroup], pages_before: u32) -> PageGroup {
        let record = |(index, pages)| PageRecord {
            position: Position { epoch: Epoch(1), index: Index(index as u64), chain: Chain(0) },
            pages,
            content: 0,
        };
        merge(&groups.iter().enumerate().map(record).collect::<Vec<_>>(), pages_before)
    }

    fn fills(group: &PageGroup) -> Vec<(u32, u8)> {
        group.pages.iter().map(|(page, image)| (*page, image[0])).collect()
    }

    #[test]
    fn the_last_image_of_a_page_counts() {
        let merged = merged(&[group(3, &[(2, 1), (1, 1)]), group(3, &[(2, 9)])], 3);
        assert_eq!(fills(&merged), [(1, 1), (2, 9)]);
    }

    #[test]
    fn pages_cut_off_and_grown_again_are_empty() {
        let merged = merged(&[group(5, &[(5, 1)]), group(2, &[(1, 2)]), group(5, &[(4, 3)])], 4);
        assert_eq!(fills(&merged), [(1, 2), (3, 0), (4, 3), (5, 0)]);
        assert_eq!(merged.database_pages, 5);
    }
}
