//! The database of a node and the roles that are handed out for it.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use rdb_protocol::{Chain, Epoch, Index};
use rusqlite::ffi;

use crate::applier::Applier;
use crate::checkpoint::{CheckpointThread, WalGauge};
use crate::checksum::PageTable;
use crate::connection::{self, Plain, internal_error, io, sqlite};
use crate::error::EngineError;
use crate::internal::{self, PositionReader};
use crate::reader::Reader;
use crate::rows::sums::RowSums;
use crate::seed::SeedSession;
use crate::sql::statement::Stmt;
use crate::vfs;
use crate::writer::{Writer, vacuum};

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
    /// Writes are refused while less than this is free on the disk; 0 = never.
    pub reserve_bytes: u64,
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
            reserve_bytes: 16 << 20,
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

/// Oldest SQLite that the engine trusts: older ones could corrupt a database in WAL mode.
const OLDEST_SQLITE: i32 = 3_051_003;

/// Compile options that the engine needs.
const COMPILE_OPTIONS: [&str; 4] = ["ENABLE_DBPAGE_VTAB", "ENABLE_FTS5", "ENABLE_RTREE", "ENABLE_SESSION"];

/// Cache of the engine's own small connections.
const SMALL_CACHE: u64 = 1 << 20;

/// What the roles of one database share.
pub(crate) struct Shared {
    pub(crate) options: EngineOptions,
    pub(crate) page_size: u32,
    /// A writer or applier lives.
    writing: AtomicBool,
    /// Page hashes as of the last write; `None` until the first writer or applier scanned the database, and after one
    /// that does not know what it left behind.
    pub(crate) table: Mutex<Option<PageTable>>,
    layout: Mutex<Layout>,
    /// Row sums as of the last write; `None` when nobody keeps them.
    pub(crate) rows: Mutex<Option<RowSums>>,
    pub(crate) gauge: WalGauge,
}

impl Shared {
    pub(crate) fn layout(&self) -> Layout {
        *self.layout.lock()
    }

    pub(crate) fn set_layout(&self, layout: Layout) {
        *self.layout.lock() = layout;
    }
}

/// Are the pages of a database its leader's, byte for byte?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// No record was applied since the database was opened.
    Unknown,
    /// The pages of this record fitted.
    Same { epoch: Epoch, index: Index },
    /// Row changes were applied. Only another base copy helps.
    Other,
}

/// The right to write, given back when dropped.
#[derive(Clone)]
pub(crate) struct WriteTurn(
    pub(crate) Arc<Shared>,
    #[expect(dead_code, reason = "held for what its drop does")] Arc<TurnEnd>,
);

/// The last of those who share a turn ends it.
pub(crate) struct TurnEnd(Arc<Shared>);

impl WriteTurn {
    fn take(shared: &Arc<Shared>) -> Result<WriteTurn, EngineError> {
        if shared.writing.swap(true, Ordering::AcqRel) {
            return Err(EngineError::Busy);
        }
        Ok(WriteTurn(Arc::clone(shared), Arc::new(TurnEnd(Arc::clone(shared)))))
    }
}

impl Drop for TurnEnd {
    fn drop(&mut self) {
        self.0.writing.store(false, Ordering::Release);
    }
}

struct PositionSource {
    position: PositionReader,
    _plain: Plain,
}

// SAFETY: the connection is used by whoever holds the mutex around it.
unsafe impl Send for PositionSource {}

/// A node's database. Hands out the roles; all of them may outlive it.
pub struct Engine {
    shared: Arc<Shared>,
    position: Mutex<PositionSource>,
    _checkpoints: CheckpointThread,
}

impl Engine {
    /// Opens an existing database and checks that this build and the file are ours. Starts the checkpoint thread.
    pub fn open(options: EngineOptions) -> Result<Engine, EngineError> {
        check_build()?;
        if !options.path.exists() {
            return Err(EngineError::Missing(options.path.display().to_string()));
        }
        check_header(&options.path)?;
        remove_database(&vacuum::copy_path(&options.path))?;
        let plain = connection::internal(&options.path, SMALL_CACHE)?;
        let page_size = check_file(&plain, &options.path)?;
        let position = PositionReader::new(plain.db).map_err(|error| internal_error("reading the position", &error))?;
        let shared = Arc::new(Shared {
            gauge: WalGauge::new(options.checkpoint_bytes, page_size),
            options,
            page_size,
            writing: AtomicBool::new(false),
            table: Mutex::new(None),
            rows: Mutex::new(None),
            layout: Mutex::new(Layout::Unknown),
        });
        let checkpoints = CheckpointThread::start(&shared)?;
        let position = Mutex::new(PositionSource { position, _plain: plain });
        Ok(Engine { shared, position, _checkpoints: checkpoints })
    }

    /// Creates an empty database with the internal tables at position 0, durably, and opens it. Only for the first
    /// node of a cluster: all others are seeded from it, because page records need equal pages to start from.
    pub fn create(options: EngineOptions) -> Result<Engine, EngineError> {
        check_build()?;
        if options.path.exists() {
            let path = options.path.display().to_string();
            return Err(EngineError::Foreign { path, why: "it exists already".to_owned() });
        }
        // Made beside its place, so that a crash leaves a whole database or none.
        let made = options.path.with_extension("new");
        remove_database(&made)?;
        create_file(&made, &options)?;
        std::fs::rename(&made, &options.path).map_err(|error| io("creating the database", &error))?;
        sync_directory(&options.path)?;
        Engine::open(options)
    }

    /// Position of the last record in the database.
    pub fn position(&self) -> Result<DbPosition, EngineError> {
        self.position.lock().position.read().map_err(|error| internal_error("reading the position", &error))
    }

    /// The leader's role. `Busy` while another writer or applier lives.
    pub fn writer(&self) -> Result<Writer, EngineError> {
        let turn = WriteTurn::take(&self.shared)?;
        ensure_table(&self.shared)?;
        Writer::open(turn)
    }

    /// The follower's role. `Busy` while another writer or applier lives.
    pub fn applier(&self) -> Result<Applier, EngineError> {
        let turn = WriteTurn::take(&self.shared)?;
        ensure_table(&self.shared)?;
        Applier::open(turn)
    }

    /// A read-only connection; cheap enough to hold one per thread.
    pub fn reader(&self) -> Result<Reader, EngineError> {
        Reader::open(&self.shared)
    }

    /// Starts a base copy of the present content. Never waits for the writer.
    pub fn seed_session(&self) -> Result<SeedSession, EngineError> {
        SeedSession::open(&self.shared)
    }

    /// Reads every page and returns the content checksum; a scrub, and a proof for tests.
    pub fn scan_checksum(&self) -> Result<u64, EngineError> {
        Ok(scan(&self.shared)?.content())
    }

    /// Reads every page, unless that was done before, and returns the content checksum with the position that it
    /// belongs to: what the record there must state. Writer and applier then need not read again. `Busy` as for them.
    pub fn verify(&self) -> Result<(DbPosition, u64), EngineError> {
        let _turn = WriteTurn::take(&self.shared)?;
        ensure_table(&self.shared)?;
        let table = self.shared.table.lock();
        Ok(table.as_ref().map_or((DbPosition::default(), 0), |table| (table.position(), table.content())))
    }

    /// Why the disk cannot be trusted any more: a checkpoint could not write or flush. Set once; the process must end,
    /// because a flush that failed cannot be made good by another one.
    pub fn failure(&self) -> Option<&str> {
        self.shared.gauge.failure()
    }

    /// The content checksum as the last write left it, and the position that it belongs to. `None` until a writer or
    /// applier was opened.
    pub fn content(&self) -> Option<(DbPosition, u64)> {
        self.shared.table.lock().as_ref().map(|table| (table.position(), table.content()))
    }

    /// Copies what `-wal` holds into the database file, as far as readers allow; the checkpoint thread does this by
    /// itself.
    pub fn checkpoint(&self) -> Result<(), EngineError> {
        crate::checkpoint::run_once(&self.shared)
    }

    pub fn stats(&self) -> EngineStats {
        let table = self.shared.table.lock();
        let (database_pages, content) = table.as_ref().map_or((0, 0), |table| (table.pages(), table.content()));
        EngineStats {
            page_size: self.shared.page_size,
            database_pages,
            content,
            wal_frames: self.shared.gauge.frames(),
            checkpoints: self.shared.gauge.checkpoints(),
        }
    }

    /// Whose pages those of this database are, as far as the records show that were applied.
    pub fn layout(&self) -> Layout {
        self.shared.layout()
    }

    /// It is known from the records before this start that the pages are not the leader's.
    pub fn set_other_layout(&self) {
        self.shared.set_layout(Layout::Other);
    }

    /// Reads every row and returns the checksum over all of them, with the position that it belongs to: what a record of row
    /// changes there must state. `Busy` while a writer or applier lives.
    pub fn verify_rows(&self) -> Result<(DbPosition, u64), EngineError> {
        let _turn = WriteTurn::take(&self.shared)?;
        let reading = |error| internal_error("reading all rows", &error);
        let plain = connection::internal(&self.shared.options.path, SMALL_CACHE)?;
        let position = PositionReader::new(plain.db).map_err(reading)?;
        let at = position.hold().map_err(reading)?;
        let shapes = crate::rows::shape::read(plain.db).map_err(reading)?;
        let sums = RowSums::scan(plain.db, &shapes).map_err(reading)?;
        let content = sums.content();
        *self.shared.rows.lock() = Some(sums);
        Ok((at, content))
    }

    pub fn options(&self) -> &EngineOptions {
        &self.shared.options
    }
}

/// The bundled SQLite is compiled with flags from a configuration file that is easily missed.
fn check_build() -> Result<(), EngineError> {
    // SAFETY: plain questions to the library.
    let version = unsafe { ffi::sqlite3_libversion_number() };
    if version < OLDEST_SQLITE {
        return Err(EngineError::Build(format!("version {OLDEST_SQLITE} or newer (it is {version})")));
    }
    for option in COMPILE_OPTIONS {
        let name = std::ffi::CString::new(option).unwrap_or_default();
        // SAFETY: `name` is a C string during the call.
        if unsafe { ffi::sqlite3_compileoption_used(name.as_ptr()) } == 0 {
            return Err(EngineError::Build(option.to_owned()));
        }
    }
    if !vfs::register() {
        return Err(EngineError::Build("a default VFS".to_owned()));
    }
    Ok(())
}

/// A file that SQLite would not take, said before it tries.
fn check_header(path: &Path) -> Result<(), EngineError> {
    let mut header = [0; 16];
    let read = File::open(path).and_then(|mut file| file.read_exact(&mut header));
    match read {
        Err(error) if error.kind() != std::io::ErrorKind::UnexpectedEof => {
            return Err(io("reading the database", &error));
        }
        Ok(()) if header == *b"SQLite format 3\0" => return Ok(()),
        _ => {}
    }
    Err(EngineError::Foreign { path: path.display().to_string(), why: "it is not a SQLite database".to_owned() })
}

/// Checks that the file is a database of ours and gives its page size.
fn check_file(plain: &Plain, path: &Path) -> Result<u32, EngineError> {
    let foreign = |why: String| EngineError::Foreign { path: path.display().to_string(), why };
    let reading = |error| sqlite("reading the database", error);
    match internal::format(&plain.connection).map_err(reading)? {
        Some(internal::FORMAT) => {}
        Some(newer) => return Err(foreign(format!("its internal tables have version {newer}: upgrade this node"))),
        None => return Err(foreign("it has no internal tables".to_owned())),
    }
    let text = |pragma| plain.connection.pragma_query_value(None, pragma, |row| row.get::<_, String>(0));
    let mode = text("journal_mode").map_err(reading)?;
    if mode != "wal" {
        return Err(foreign(format!("its journal mode is {mode}, not wal")));
    }
    plain.connection.pragma_query_value(None, "page_size", |row| row.get(0)).map_err(reading)
}

fn create_file(path: &Path, options: &EngineOptions) -> Result<(), EngineError> {
    let creating = |error| sqlite("creating the database", error);
    let plain = connection::create(path)?;
    let vacuum = if options.incremental_vacuum { "INCREMENTAL" } else { "NONE" };
    let settings = format!(
        "PRAGMA page_size = {}; PRAGMA auto_vacuum = {vacuum}; PRAGMA journal_mode = WAL; BEGIN; {} COMMIT;
         PRAGMA wal_checkpoint(TRUNCATE);",
        options.page_size,
        internal::CREATE
    );
    plain.connection.execute_batch(&settings).map_err(creating)?;
    drop(plain);
    let file = File::open(path).map_err(|error| io("creating the database", &error))?;
    file.sync_all().map_err(|error| io("creating the database", &error))?;
    // The checkpoint has moved everything into the file itself.
    remove_side_files(path)
}

/// Removes a database and what lies beside it.
pub(crate) fn remove_database(path: &Path) -> Result<(), EngineError> {
    remove_side_files(path)?;
    remove_file(path)
}

pub(crate) fn remove_side_files(path: &Path) -> Result<(), EngineError> {
    for suffix in ["-wal", "-shm", "-journal"] {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        remove_file(Path::new(&name))?;
    }
    Ok(())
}

fn remove_file(path: &Path) -> Result<(), EngineError> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(io("removing a file", &error)),
        _ => Ok(()),
    }
}

/// Makes the entry of a file in its directory durable.
pub(crate) fn sync_directory(path: &Path) -> Result<(), EngineError> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let directory = File::open(parent.unwrap_or(Path::new(".")));
    directory.and_then(|directory| directory.sync_all()).map_err(|error| io("syncing the directory", &error))
}

/// Scans the database if nobody knows its page hashes. The caller has the turn to write, so nothing changes meanwhile.
fn ensure_table(shared: &Arc<Shared>) -> Result<(), EngineError> {
    if shared.table.lock().is_some() {
        return Ok(());
    }
    let table = scan(shared)?;
    *shared.table.lock() = Some(table);
    Ok(())
}

/// Hashes every page in one read transaction; what is still in `-wal` is seen like the rest.
pub(crate) fn scan(shared: &Shared) -> Result<PageTable, EngineError> {
    let reading = |error| internal_error("scanning the database", &error);
    let plain = connection::internal(&shared.options.path, SMALL_CACHE)?;
    let position = PositionReader::new(plain.db).map_err(reading)?;
    let pages = Stmt::internal(plain.db, "SELECT data FROM sqlite_dbpage ORDER BY pgno").map_err(reading)?;
    let mut table = PageTable::new(position.hold().map_err(reading)?);
    while pages.step().map_err(reading)? {
        table.push(pages.blob(0));
    }
    Ok(table)
}
