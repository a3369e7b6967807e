//! VACUUM: the database without its free pages and gaps, as one page record.
//!
//! SQLite's own VACUUM commits by itself, with nothing about the position. So `VACUUM INTO` makes a copy beside the database
//! (it keeps hidden rowids, too: no row changes), the copy gets the position row and the outcome of the client's key, and its
//! pages are written over the database's as a follower writes them. A connection of its own does that, for it writes beneath
//! its caches; the writer's connection then finds the database changed by another one, which it knows how to deal with.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use rdb_protocol::api::ErrorCode;
use rdb_protocol::settings::LogFormat;

use super::commit::CommitPoint;
use super::execute::{Done, Stop};
use super::keys::Keys;
use super::plan::{Attempt, Plan, all_failed};
use super::{Slot, Writer, full, space};
use crate::authorizer::check_text;
use crate::connection::{self, Plain};
use crate::engine::{EngineOptions, remove_database};
use crate::error::{EngineError, Fatal, SqlFailure};
use crate::internal::PositionWriter;
use crate::page_writer::{PageWriter, cookie_of, lock_page};
use crate::progress::{Progress, passed};
use crate::sql::cache::refused;
use crate::sql::failure::failure;
use crate::sql::statement::{SqliteError, Stmt};
use crate::sql::text::skip_blank;
use crate::value::{Args, QueryResult, Transaction, Value};

/// Cache of the connections that make and write the copy: each page is needed once.
const CACHE: u64 = 8 << 20;

/// The database's content is written so often: into the copy, `-wal` and the log.
const WRITTEN: u64 = 3;

/// Pages written between two looks at the clock: about a tenth of a millisecond.
const LOOK_EVERY: u32 = 16;

/// Where page 1 says that the database is in WAL mode, which a copy is not.
const MODE: std::ops::Range<usize> = 18..20;
const WAL_MODE: [u8; 2] = [2, 2];

/// Where the copy lies while it is needed.
pub(crate) fn copy_path(database: &Path) -> PathBuf {
    database.with_extension("vacuum")
}

/// The written pages, until they are committed or given up.
struct Rewritten {
    // Statements before their connection.
    pages: PageWriter,
    _plain: Plain,
}

impl Writer {
    /// Runs VACUUM as the only transaction of its group.
    pub(super) fn vacuum(
        &mut self,
        slot: &Slot,
        transaction: &Transaction,
        plan: &mut Plan,
        point: &CommitPoint<'_>,
    ) -> Result<Attempt, Fatal> {
        if let Some(Some(settled)) = plan.settled.first() {
            return Ok(Attempt::Done(all_failed(plan, settled)));
        }
        let rewritten = match self.rewrite(slot, transaction, point) {
            Ok(Ok(rewritten)) => rewritten,
            Ok(Err(replayed)) => return Ok(Attempt::Done(self.finished(vec![Ok(replayed)], None))),
            Err(failure) => return Ok(Attempt::Done(all_failed(plan, &failure))),
        };
        let done = Done {
            results: vec![QueryResult::default()],
            wrote: true,
            changed: true,
            keyed: transaction.key.is_some(),
            unrepeatable: true,
            replayed: None,
        };
        let committed = rewritten.pages.commit.execute();
        let attempt = self.settle(committed, slot, vec![Ok(done)], plan, point)?;
        self.moved_to(self.position);
        Ok(attempt)
    }

    /// Everything up to COMMIT. `Ok(Err(…))`: it had run before, under the same key.
    fn rewrite(
        &mut self,
        slot: &Slot,
        transaction: &Transaction,
        point: &CommitPoint<'_>,
    ) -> Result<Result<Rewritten, Done>, SqlFailure> {
        self.check_vacuum(transaction)?;
        if let Some(key) = &transaction.key {
            match self.replay(key, transaction.statements.len()) {
                Ok(None) => drop(point.add_client(key.tag.clone())),
                Ok(Some(replayed)) => return Ok(Err(replayed)),
                Err(Stop::Undone(failure) | Stop::Broken(failure) | Stop::Full(failure)) => return Err(failure),
            }
        }
        let shared = Arc::clone(&self.turn.0);
        let until = self.vacuum_until;
        let copy = Copy::make(&shared.options, transaction.deadline, until)?;
        copy.note(slot, transaction).map_err(environment)?;
        let before = self.read_cookie().map_err(sqlite)?;
        let pages_before = shared.table.lock().as_ref().map_or(0, |table| table.pages());
        let pages = CopiedPages::open(&copy, shared.page_size)?;
        check_size(u64::from(pages.count) * u64::from(shared.page_size), shared.options.max_record_bytes)?;
        let rows = self.no_rows(slot, cookie_of(&pages.first)).map_err(sqlite)?;
        point.offer_rows(rows);
        let plain = connection::recorded(&shared.options.path, CACHE).map_err(environment)?;
        let writer = PageWriter::new(plain.db).map_err(sqlite)?;
        writer.begin.execute().map_err(sqlite)?;
        pages.write(&writer, pages_before, before, until)?;
        space::check(&shared.options, 0)?;
        point.arm();
        Ok(Ok(Rewritten { pages: writer, _plain: plain }))
    }

    /// May it run, as it is written and with what records carry now?
    fn check_vacuum(&self, transaction: &Transaction) -> Result<(), SqlFailure> {
        for statement in &transaction.statements {
            let sql = skip_blank(&statement.sql);
            let plain = skip_blank(sql.get("VACUUM".len()..).unwrap_or("")).is_empty();
            if !plain || statement.args != Args::default() {
                check_text("VACUUM", sql).map_err(refused)?;
            }
        }
        let carries = match self.recording.format {
            LogFormat::Statement => "statements",
            LogFormat::Logical => "row changes",
            LogFormat::Page | LogFormat::Mixed if self.recording.sums => {
                let why = "VACUUM has to wait until all followers are known to have the leader's pages";
                let hint = "it takes new base copies where other_layout shows in rdb status -o json, and a write; then try again";
                return Err(SqlFailure::new(ErrorCode::Forbidden, why, hint));
            }
            LogFormat::Page | LogFormat::Mixed => return Ok(()),
        };
        let message = format!("VACUUM changes pages alone, and the log carries {carries}");
        Err(SqlFailure::new(ErrorCode::Forbidden, message, "set replication.logFormat to page or mixed"))
    }
}

/// The copy's file; removed when dropped.
struct Copy(PathBuf);

impl Drop for Copy {
    fn drop(&mut self) {
        if let Err(error) = remove_database(&self.0) {
            tracing::warn!(%error, "the copy that VACUUM made is still there; the next start removes it");
        }
    }
}

impl Copy {
    /// `deadline` is the request's.
    fn make(options: &EngineOptions, deadline: Option<Instant>, until: Option<Instant>) -> Result<Copy, SqlFailure> {
        let source = connection::internal(&options.path, CACHE).map_err(environment)?;
        let number = |pragma| {
            let number = source.connection.pragma_query_value(None, pragma, |row| row.get::<_, u32>(0));
            number.map(u64::from).map_err(|error| environment(connection::sqlite("VACUUM", error)))
        };
        let used = number("page_count")?.saturating_sub(number("freelist_count")?) * number("page_size")?;
        check_size(used, options.max_record_bytes)?;
        space::check(options, used.saturating_mul(WRITTEN))?;
        let copy = Copy(copy_path(&options.path));
        remove_database(&copy.0).map_err(environment)?;
        let Some(path) = copy.0.to_str() else {
            return Err(environment(EngineError::Foreign {
                path: copy.0.display().to_string(),
                why: "its path is not UTF-8".to_owned(),
            }));
        };
        // What it writes need not survive a crash, and its flushes would hold up those of the log.
        source
            .connection
            .pragma_update(None, "synchronous", "OFF")
            .map_err(|error| environment(connection::sqlite("VACUUM", error)))?;
        let progress = Progress::install(source.db);
        let first = [deadline, until].into_iter().flatten().min();
        progress.start(first, None);
        let made = vacuum_into(&source, path);
        let tripped = progress.tripped().is_some();
        // Before what it calls.
        drop(source);
        match made {
            Ok(()) => Ok(copy),
            Err(_) if tripped && first == until => Err(too_slow()),
            Err(error) => {
                let mut failure = sqlite(error);
                if tripped {
                    failure.api.message = "ran longer than its deadline and was undone".to_owned();
                }
                Err(failure)
            }
        }
    }

    /// Writes into the copy what a group writes into the database.
    fn note(&self, slot: &Slot, transaction: &Transaction) -> Result<(), EngineError> {
        let failed = |error| connection::internal_error("VACUUM", &error);
        let position = slot.position();
        let plain = connection::internal(&self.0, CACHE)?;
        plain
            .connection
            .execute_batch("PRAGMA synchronous = OFF; PRAGMA journal_mode = MEMORY; BEGIN")
            .map_err(|error| connection::sqlite("VACUUM", error))?;
        if let Some(key) = &transaction.key {
            let keys = Keys::new(plain.db).map_err(failed)?;
            keys.keep(key, &position, slot.unix_ms, &[QueryResult::default()]).map_err(failed)?;
            keys.expire(slot.unix_ms).map_err(failed)?;
        }
        PositionWriter::new(plain.db).and_then(|row| row.write(&position)).map_err(failed)?;
        plain.connection.execute_batch("COMMIT").map_err(|error| connection::sqlite("VACUUM", error))
    }
}

fn vacuum_into(source: &Plain, path: &str) -> Result<(), SqliteError> {
    let into = Stmt::internal(source.db, "VACUUM INTO ?1")?;
    let path = Value::Text(path.to_owned());
    // SAFETY: `path` lives until the statement is done with it, here.
    unsafe { into.bind(1, &path) }.and_then(|()| into.execute())
}

/// The pages of a copy whose connections are closed.
struct CopiedPages {
    file: File,
    /// Page 1, as it will be.
    first: Vec<u8>,
    page_size: u32,
    count: u32,
}

impl CopiedPages {
    fn open(copy: &Copy, page_size: u32) -> Result<CopiedPages, SqlFailure> {
        let file = File::open(&copy.0).map_err(reading)?;
        let bytes = file.metadata().map_err(reading)?.len();
        let count = u32::try_from(bytes / u64::from(page_size)).unwrap_or(u32::MAX);
        let mut pages = CopiedPages { file, first: Vec::new(), page_size, count };
        let mut first = vec![0; page_size as usize];
        pages.read(1, &mut first)?;
        if let Some(mode) = first.get_mut(MODE) {
            mode.copy_from_slice(&WAL_MODE);
        }
        pages.first = first;
        Ok(pages)
    }

    fn read(&self, page: u32, image: &mut [u8]) -> Result<(), SqlFailure> {
        let offset = u64::from(page - 1) * u64::from(self.page_size);
        self.file.read_exact_at(image, offset).map_err(reading)
    }

    /// Writes all of them over a database of `pages_before`, whose schema cookie is `cookie`.
    fn write(
        &self,
        writer: &PageWriter,
        pages_before: u32,
        cookie: u32,
        until: Option<Instant>,
    ) -> Result<(), SqlFailure> {
        let mut image = vec![0; self.page_size as usize];
        let lock_page = lock_page(self.page_size);
        for page in (2..=self.count).filter(|page| *page != lock_page) {
            if page.is_multiple_of(LOOK_EVERY) && until.is_some_and(passed) {
                return Err(too_slow());
            }
            self.read(page, &mut image)?;
            writer.insert(page, &image).map_err(sqlite)?;
        }
        let cut = (self.count < pages_before).then_some(self.count);
        writer.finish(Some(&self.first), cut, cookie).map_err(sqlite)?;
        Ok(())
    }
}

/// All of the database goes into one record.
fn check_size(used: u64, limit: u64) -> Result<(), SqlFailure> {
    if used <= limit {
        return Ok(());
    }
    Err(SqlFailure::new(
        ErrorCode::RequestTooLarge,
        format!(
            "VACUUM writes the database anew in one record of the log: it holds {used} bytes, a record at most {limit}"
        ),
        "free pages are used again without it; to give back their space, load a copy into a new cluster (rdb load)",
    ))
}

fn too_slow() -> SqlFailure {
    SqlFailure::new(
        ErrorCode::RequestTooLarge,
        "VACUUM was undone: it would hold up other writes for so long that another leader would be elected",
        "raise failover.progressTimeout while it runs (a third of it is for making the copy), or load a copy into a new cluster \
         (rdb load)",
    )
}

fn reading(error: std::io::Error) -> SqlFailure {
    environment(connection::io("reading the copy that VACUUM made", &error))
}

fn sqlite(error: SqliteError) -> SqlFailure {
    failure(error, None)
}

fn environment(error: EngineError) -> SqlFailure {
    match error {
        EngineError::Full(why) => full(why),
        other => SqlFailure::new(ErrorCode::Unavailable, other.to_string(), "see the node's log"),
    }
}
