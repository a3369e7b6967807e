//! The leader's role: groups of client transactions, one record each, one commit point.
//!
//! ```text
//! BEGIN IMMEDIATE → each client transaction → position row → COMMIT
//!                                                              └→ VFS shim: commit frame → record → `commit`
//! ```
//!
//! | module | holds |
//! | --- | --- |
//! | this one | the types, [`Writer::run_group`] |
//! | [`attempt`] | one attempt at a group |
//! | [`recording`] | what records carry |
//! | [`execute`] | one client transaction inside of the group |
//! | [`commit`] | the commit point: from captured pages to the record and the driver's verdict |
//! | [`replay`] | statement records of another leader, run again |
//! | [`conduct`] | what the connection enforces: clients' SQL, or a leader's changes |
//! | [`rows`], [`apply_rows`] | the group as row changes; row changes of another leader |
//! | [`vacuum`] | VACUUM, a group of its own |
//! | [`keys`] | outcomes kept under idempotency keys |
//! | [`plan`] | what the attempts at one group have shown |
//! | [`own_sql`], [`space`] | the engine's own statements; is there room on the disk |
//!
//! A client transaction that fails is undone alone: a single statement undoes itself, several have a savepoint. Some
//! failures take the whole SQLite transaction with them (`OR ROLLBACK`, `RAISE(ROLLBACK)`, an interrupted write), and
//! some leave the group in a state that cannot be undone alone. Then the group *breaks*: everything is rolled back,
//! that transaction's failure stands, and the others run again without it. Nothing had been logged or answered.

mod apply_rows;
mod attempt;
mod commit;
mod conduct;
mod execute;
pub(crate) mod keys;
mod own_sql;
mod plan;
mod recording;
mod replay;
mod rows;
mod space;
pub(crate) mod vacuum;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use rdb_protocol::api::{ErrorCode, Token};
use rdb_protocol::{Epoch, Position};
use rdb_record::{ClientTag, Record, StatementDraft, StatementLog};
use rusqlite::ffi;

use crate::capture::Capture;
use crate::chance;
use crate::connection::{self, Guarded, internal_error, sqlite};
use crate::engine::{DbPosition, WriteTurn};
use crate::error::{CommitError, EngineError, Fatal, SqlFailure};
use crate::internal::PositionReader;
use crate::rows::watch::Mode;
use crate::sql::cache::StatementCache;
use crate::sql::failure::FULL_HINT;
use crate::sql::statement::{SqliteError, Stmt};
use crate::value::{QueryResult, Transaction};
use crate::vfs;
use commit::CommitPoint;
use execute::Done;
use keys::Keys;
use own_sql::OwnSql;
use plan::{Attempt, Plan};
pub use recording::Recording;
use rows::Rows;

/// Where the group's record goes in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    pub epoch: Epoch,
    /// End of the log: the record gets `previous.index + 1`.
    pub previous: Position,
    /// Wall clock, for the expiry of kept results.
    pub unix_ms: u64,
    /// Hybrid timestamp of the record.
    pub timestamp: u64,
}

impl Slot {
    /// Position of the record that the group makes.
    fn position(&self) -> DbPosition {
        let index = self.previous.index.next();
        DbPosition { epoch: self.epoch, index, previous_chain: self.previous.chain }
    }
}

/// A transaction that took effect, or only read.
#[derive(Clone, Debug, PartialEq)]
pub struct TransactionResult {
    /// One per statement.
    pub results: Vec<QueryResult>,
    /// The record in which it took effect; for a transaction that only read, the state that it read.
    pub position: Token,
    /// It had run before under the same key; these are the results of then, without their values if those were too large
    /// to keep.
    pub replayed: bool,
}

/// What became of a group.
#[derive(Debug)]
pub struct GroupResult {
    /// One per transaction, in order.
    pub results: Vec<Result<TransactionResult, SqlFailure>>,
    /// The group's record; `None` when nothing changed, or `commit` was not called or refused. Without a record the
    /// driver must check its lease before it answers: nobody else has confirmed that this leader still leads.
    pub record: Option<DbPosition>,
}

/// What is kept under an idempotency key.
#[derive(Clone, Debug, PartialEq)]
pub struct KeptOutcome {
    pub position: Token,
    pub request_hash: u64,
    /// `None` when the result was too large to keep whole; the transaction did take effect.
    pub results: Option<Vec<QueryResult>>,
}

/// How long an outcome is kept under its key: much longer than clients go on retrying, and at 1,000 keyed writes a second
/// some 500 MB of rows.
pub const IDEMPOTENCY_TTL_MS: u64 = 3600 * 1000;

/// Times that one group is run again because a transaction broke it. Each costs the work of the transactions before it,
/// so this bounds what a few of them can cost the others; what has not run by then is answered "try again".
const MAX_BREAKS: u32 = 8;

/// The leader's connection. Use it from one thread at a time; it may be moved between groups.
pub struct Writer {
    // Statements before their connection, which otherwise stays open.
    sql: OwnSql,
    keys: Keys,
    cache: StatementCache,
    rows: Rows,
    session: Guarded,
    capture: Capture,
    /// Tells the commit hook that the present COMMIT is ours.
    ordered: Arc<AtomicBool>,
    position: DbPosition,
    recording: Recording,
    /// `PRAGMA secure_delete` is on.
    canonical: bool,
    statements: StatementLog,
    draft: StatementDraft,
    /// Place of the present transaction in its group.
    number: u32,
    /// The present transaction has changed the schema.
    schema_changed: bool,
    /// The present group has.
    group_changed_schema: bool,
    /// Every transaction needs a savepoint: the schema has clauses whose failures a statement does not undo by itself, or
    /// virtual tables, which write their buffers at savepoints. `None` = to be looked up.
    fragile: Option<bool>,
    /// There are virtual tables: when they write their buffers depends on what else is run, reading included.
    buffers: bool,
    /// See [`Writer::limit_vacuum`].
    vacuum_until: Option<Instant>,
    turn: WriteTurn,
}

// SAFETY: the raw handles belong to this connection alone, which is opened without a mutex for one thread at a time.
unsafe impl Send for Writer {}

impl Writer {
    pub(crate) fn open(turn: WriteTurn) -> Result<Writer, EngineError> {
        let preparing = |error| internal_error("opening the writer", &error);
        let options = &turn.0.options;
        let mut session = connection::writer(&options.path, options.writer_cache_bytes)?;
        let ordered = Arc::new(AtomicBool::new(false));
        let asked = Arc::clone(&ordered);
        // `true` vetoes: nothing commits on this connection but what the writer ordered.
        session
            .connection
            .commit_hook(Some(move || !asked.load(Ordering::Relaxed)))
            .map_err(|error| sqlite("opening the writer", error))?;
        session.authorizer.begin_internal();
        let sql = OwnSql::new(session.db).map_err(preparing)?;
        let keys = Keys::new(session.db).map_err(preparing)?;
        let position = PositionReader::new(session.db).and_then(|reader| reader.read()).map_err(preparing)?;
        session.authorizer.end_internal();
        chance::install(&session.connection).map_err(|error| sqlite("opening the writer", error))?;
        let capture = Capture::new(turn.0.page_size, options.max_record_bytes);
        let cache = StatementCache::default();
        Ok(Writer {
            sql,
            keys,
            cache,
            session,
            capture,
            ordered,
            position,
            recording: Recording::default(),
            canonical: false,
            statements: StatementLog::default(),
            draft: StatementDraft::default(),
            rows: Rows::default(),
            number: 0,
            schema_changed: false,
            group_changed_schema: false,
            fragile: None,
            buffers: false,
            vacuum_until: None,
            turn,
        })
    }

    /// Until when a VACUUM has to be ready for its record. All other writes wait for it, and a leader that holds them up for too
    /// long loses its place.
    pub fn limit_vacuum(&mut self, until: Option<Instant>) {
        self.vacuum_until = until;
    }

    /// What records carry from the next group on.
    pub fn record_as(&mut self, recording: Recording) -> Result<(), EngineError> {
        self.set_recording(recording).map_err(|error| internal_error("changing the log format", &error))
    }

    fn set_recording(&mut self, recording: Recording) -> Result<(), SqliteError> {
        if recording.canonical() != self.canonical {
            let sql = if recording.canonical() { "PRAGMA secure_delete = ON" } else { "PRAGMA secure_delete = OFF" };
            self.internal(|own| Stmt::internal(own.session.db, sql)?.execute())?;
            self.canonical = recording.canonical();
        }
        if recording.watched != self.rows.on {
            self.watch(recording.watched)?;
        }
        self.recording = recording;
        Ok(())
    }

    /// The schema is another one.
    fn forget_schema(&mut self) {
        self.fragile = None;
        self.cache.clear();
    }

    /// Has SQLite read the schema anew. Its list of tables is a hash table, whose order tells of what was made and dropped
    /// since the connection was opened, and the order in which ANALYZE and REINDEX go through it shows in the file. Virtual tables
    /// are connected anew with it.
    fn order_tables(&mut self) -> Result<(), SqliteError> {
        self.internal(|own| Stmt::internal(own.session.db, "PRAGMA writable_schema = RESET")?.execute())
    }

    /// Runs a group. `commit` is called at most once, inside of SQLite's COMMIT, when the group's pages are known and
    /// nothing is visible yet; the group becomes visible when it returns `Ok`. When it returns `Err`, the group is
    /// rolled back and every transaction gets that error, also those that had failed by themselves: what they failed
    /// on may never have happened. It is not called when nothing changed.
    ///
    /// A transaction that fails is undone alone. The writer is usable after every error except [`Fatal`].
    pub fn run_group(
        &mut self,
        slot: Slot,
        group: &[Transaction],
        commit: &mut dyn FnMut(Record) -> Result<(), CommitError>,
    ) -> Result<GroupResult, Fatal> {
        if slot.previous.index < self.position.index {
            let (slot, own) = (slot.previous.index, self.position.index);
            return Err(Fatal(format!("the log ends at {slot}, the database is at {own}")));
        }
        let shared = Arc::clone(&self.turn.0);
        let _gate = shared.gauge.gate.lock();
        let empty = Capture::new(shared.page_size, 0);
        let capture = std::mem::replace(&mut self.capture, empty);
        let point = CommitPoint::new(&shared, capture, commit, slot.timestamp);
        let mut plan = Plan { settled: vec![None; group.len()], force_record: false, breaks: 0 };
        chance::begin_group(slot.unix_ms, slot.position().index.0, 0);
        let result = vfs::with_sink(&point, || {
            loop {
                match self.attempt(slot, group, &mut plan, &point)? {
                    Attempt::Done(result) => return Ok(result),
                    Attempt::Again => {}
                }
            }
        });
        chance::end_group();
        self.capture = point.into_capture();
        self.session.progress.stop();
        result
    }

    /// The answers, now that their position is known.
    fn finished(&self, results: Vec<Result<Done, SqlFailure>>, record: Option<DbPosition>) -> GroupResult {
        let now = Token { epoch: self.position.epoch, index: self.position.index };
        let answer = |done: Done| TransactionResult {
            results: done.results,
            position: done.replayed.unwrap_or(now),
            replayed: done.replayed.is_some(),
        };
        GroupResult { results: results.into_iter().map(|result| result.map(answer)).collect(), record }
    }

    /// Ends the SQLite transaction, if it did not end itself.
    fn roll_back(&mut self) {
        self.session.progress.stop();
        self.rows.watch.mode.set(Mode::Off);
        // The schema may be an older one again.
        self.fragile = None;
        if std::mem::take(&mut self.group_changed_schema) {
            self.rows.stale = true;
            self.rows.sql.clear();
            self.cache.clear();
        }
        if !self.in_transaction() {
            return;
        }
        if let Err(error) = self.internal(|own| own.sql.rollback.execute()) {
            // ROLLBACK has no way to fail halfway; the next BEGIN would say if it did.
            tracing::error!(error = error.message, "ROLLBACK failed");
        }
    }

    fn in_transaction(&self) -> bool {
        // SAFETY: the connection is open.
        unsafe { ffi::sqlite3_get_autocommit(self.session.db) == 0 }
    }

    /// Runs the engine's own statements, which the authorizer lets pass.
    fn internal<T>(&mut self, body: impl FnOnce(&mut Writer) -> T) -> T {
        self.session.authorizer.begin_internal();
        let result = body(self);
        self.session.authorizer.end_internal();
        result
    }

    /// Another connection of the same turn has moved the database on.
    pub(crate) fn moved_to(&mut self, position: DbPosition) {
        self.position = position;
        self.fragile = None;
        self.rows.stale = true;
        self.rows.sql.clear();
    }

    /// Position of the last record in the database.
    pub fn position(&self) -> DbPosition {
        self.position
    }

    /// What is kept under a key, for `GET /v1/outcome/<key>`. Also on [`crate::Reader`].
    pub fn outcome(&mut self, tag: &ClientTag) -> Result<Option<KeptOutcome>, EngineError> {
        let found =
            self.internal(|own| own.keys.lookup(tag)).map_err(|error| internal_error("looking up a key", &error))?;
        Ok(found.map(KeptOutcome::from))
    }
}

pub(crate) fn full(message: String) -> SqlFailure {
    SqlFailure::new(ErrorCode::DiskFull, message, FULL_HINT)
}
