//! The leader's role: groups of client transactions, one record each, one commit point.
//!
//! ```text
//! BEGIN IMMEDIATE → each client transaction → position row → COMMIT
//!                                                              └→ VFS shim: commit frame → record → `commit`
//! ```
//!
//! | module | holds |
//! | --- | --- |
//! | this one | the types, [`Writer::run_group`] and its attempts |
//! | [`execute`] | one client transaction inside of the group |
//! | [`commit`] | the commit point: from captured pages to the record and the driver's verdict |
//! | [`replay`] | statement records of another leader, run again |
//! | [`rows`], [`apply_rows`] | the group as row changes; row changes of another leader |
//! | [`keys`] | outcomes kept under idempotency keys |
//! | [`plan`] | what the attempts at one group have shown |
//! | [`own_sql`], [`space`] | the engine's own statements; is there room on the disk |
//!
//! A client transaction that fails is undone alone: a single statement undoes itself, several have a savepoint. Some
//! failures take the whole SQLite transaction with them (`OR ROLLBACK`, `RAISE(ROLLBACK)`, an interrupted write), and
//! some leave the group in a state that cannot be undone alone. Then the group *breaks*: everything is rolled back,
//! that transaction's failure stands, and the others run again without it. Nothing had been logged or answered.

mod apply_rows;
mod commit;
mod execute;
pub(crate) mod keys;
mod own_sql;
mod plan;
mod replay;
mod rows;
mod space;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rdb_protocol::api::{ErrorCode, Token};
use rdb_protocol::settings::LogFormat;
use rdb_protocol::{Epoch, Position};
use rdb_record::{ClientTag, Record, StatementDraft, StatementGroup, StatementLog};
use rusqlite::ffi;

use crate::capture::Capture;
use crate::chance;
use crate::connection::{self, Guarded, internal_error, sqlite};
use crate::engine::{DbPosition, WriteTurn};
use crate::error::{CommitError, EngineError, Fatal, SqlFailure};
use crate::internal::PositionReader;
use crate::rows::watch::Mode;
use crate::sql::cache::StatementCache;
use crate::sql::failure::{FULL_HINT, failure};
use crate::sql::statement::{SqliteError, Stmt};
use crate::value::{QueryResult, Transaction};
use crate::vfs;
use commit::{CommitPoint, Decision, Statements};
use execute::{Done, Stop};
use keys::Keys;
use own_sql::OwnSql;
use plan::{Attempt, Plan, all_failed, all_failed_anew, not_run};
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

/// What the writer's records carry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recording {
    pub format: LogFormat,
    /// Rows are watched while they change.
    watched: bool,
    /// Rows stand beside every other payload.
    beside: bool,
    /// They carry old values, for consumers.
    old_values: bool,
    /// They carry the names of columns.
    names: bool,
    /// They are summed up, for followers that apply them.
    sums: bool,
    /// The group is another leader's.
    replay: bool,
}

impl Recording {
    pub fn new(format: LogFormat) -> Recording {
        let logical = format == LogFormat::Logical;
        Recording { format, watched: logical, sums: logical, names: logical, ..Recording::default() }
    }

    /// Row changes for consumers go with every record.
    #[must_use]
    pub fn with_changes(self, wanted: bool) -> Recording {
        let beside = self.beside || wanted && self.format != LogFormat::Logical;
        Recording { watched: self.watched || wanted, beside, old_values: wanted, names: self.names || wanted, ..self }
    }

    /// Row changes go with every record, so that followers can apply those whose pages are laid out otherwise.
    #[must_use]
    pub fn for_any_layout(self, wanted: bool) -> Recording {
        let beside = self.beside || wanted && self.format != LogFormat::Logical;
        Recording { watched: self.watched || wanted, sums: self.sums || wanted, beside, ..self }
    }

    fn replay() -> Recording {
        Recording { replay: true, ..Recording::default() }
    }

    /// Statements are written down.
    fn statements(self) -> bool {
        matches!(self.format, LogFormat::Statement | LogFormat::Mixed)
    }

    /// Pages must be what statements alone make of them: nothing of deleted content may stay behind, for whether it does
    /// depends on what the cache holds.
    fn canonical(self) -> bool {
        self.replay || self.statements()
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
    // Statements before their connection.
    sql: OwnSql,
    keys: Keys,
    cache: StatementCache,
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
    rows: Rows,
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
            turn,
        })
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
            self.rows.watch.install(self.session.db, recording.watched);
            self.rows.on = recording.watched;
            self.rows.stale = true;
            self.cache.clear();
            self.rows.sql.clear();
        }
        self.recording = recording;
        Ok(())
    }

    /// The schema is another one.
    fn forget_schema(&mut self) {
        self.fragile = None;
        self.cache.clear();
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

    fn attempt(
        &mut self,
        slot: Slot,
        group: &[Transaction],
        plan: &mut Plan,
        point: &CommitPoint<'_>,
    ) -> Result<Attempt, Fatal> {
        point.reset();
        self.session.progress.stop();
        if let Err(error) = self.internal(|own| own.sql.begin.execute()) {
            return Ok(Attempt::Done(all_failed(plan, &failure(error, None))));
        }
        self.group_changed_schema = false;
        if let Err(error) = self.begin_rows() {
            self.roll_back();
            return Ok(Attempt::Done(all_failed(plan, &failure(error, None))));
        }
        let mut results = Vec::with_capacity(group.len());
        let (mut wrote, mut changed, mut exact) = (false, plan.force_record, true);
        // Something that failed has left bytes behind.
        let mut soiled = false;
        self.statements.reset();
        for (index, transaction) in group.iter().enumerate() {
            if let Some(Some(settled)) = plan.settled.get(index) {
                results.push(Err(settled.clone()));
                continue;
            }
            chance::begin_transaction(index as u32);
            self.statements.begin(index as u32, &mut self.draft);
            self.watch_transaction(index as u32, transaction.key.as_ref().map(|_| point.clients()));
            match self.execute(transaction, &slot) {
                Ok(done) => {
                    wrote |= done.wrote;
                    changed |= done.changed;
                    exact &= !done.unrepeatable;
                    let key = transaction.key.as_ref().filter(|_| done.keyed);
                    let key = key.map(|key| (point.add_client(key.tag.clone()), key.request_hash));
                    if done.wrote {
                        self.statements.keep(&self.draft, key);
                    } else {
                        self.statements.take_back();
                    }
                    results.push(Ok(done));
                }
                Err(stop) => {
                    self.statements.take_back();
                    self.unwatch();
                    soiled |= self.may_soil();
                    match self.stopped(stop, index, plan, point) {
                        Some(attempt) => return Ok(attempt),
                        None => match plan.settled.get_mut(index).and_then(Option::take) {
                            Some(undone) => results.push(Err(undone)),
                            None => results.push(Err(not_run("its failure was lost"))),
                        },
                    }
                }
            }
        }
        self.session.progress.stop();
        if !wrote {
            self.roll_back();
            return Ok(Attempt::Done(self.finished(results, None)));
        }
        if soiled && self.recording.format == LogFormat::Statement {
            self.roll_back();
            plan.settle(&results);
            return Ok(Attempt::Again);
        }
        exact &= !soiled;
        if changed && let Err(error) = self.order_record(&slot, point) {
            self.roll_back();
            if point.too_large() {
                plan.shrink(self.turn.0.options.max_record_bytes);
                return Ok(Attempt::Again);
            }
            return Ok(Attempt::Done(all_failed(plan, &failure(error, None))));
        }
        if changed && let Err(full) = space::check(&self.turn.0.options) {
            self.roll_back();
            return Ok(Attempt::Done(all_failed(plan, &full)));
        }
        if changed {
            match self.finish_rows(&slot) {
                Ok(rows) => point.offer_rows(rows),
                Err(error) => {
                    self.roll_back();
                    return Ok(Attempt::Done(all_failed(plan, &failure(error, None))));
                }
            }
        }
        if changed && exact {
            point.offer(self.statement_group(&slot));
        }
        self.commit(&slot, results, plan, point)
    }

    /// May a transaction that was undone have left something in the file? SQLite does not restore the content of free pages
    /// that it had used and gave back, for nobody reads it; but followers, which never run what failed, would not have it.
    fn may_soil(&mut self) -> bool {
        self.recording.statements()
            && self.in_transaction()
            && self.internal(|own| {
                let found = own.sql.free_pages.step().map(|row| row && own.sql.free_pages.integer(0) > 0);
                own.sql.free_pages.reset();
                found.unwrap_or(true)
            })
    }

    /// The group as statements, if records may carry it so.
    fn statement_group(&self, slot: &Slot) -> Option<Statements> {
        let at_most = match self.recording.format {
            LogFormat::Statement => usize::MAX,
            LogFormat::Mixed => 0,
            LogFormat::Page | LogFormat::Logical => return None,
        };
        let group = StatementGroup {
            // SAFETY: a plain question to the library.
            sqlite: unsafe { ffi::sqlite3_libversion_number() } as u32,
            page_size: self.turn.0.page_size,
            previous_chain: slot.previous.chain,
            seed: chance::seed(),
            watched: self.recording.watched,
            body: self.statements.body(),
        };
        Some(Statements { group, at_most })
    }

    /// Deals with a transaction that did not end well. `None`: it was undone alone (its failure lies in the plan until
    /// the caller takes it), and the group goes on.
    fn stopped(&mut self, stop: Stop, index: usize, plan: &mut Plan, point: &CommitPoint<'_>) -> Option<Attempt> {
        let too_large = point.too_large();
        match stop {
            _ if too_large => {
                self.roll_back();
                plan.shrink(self.turn.0.options.max_record_bytes);
                Some(Attempt::Again)
            }
            Stop::Undone(failure) => {
                if let Some(settled) = plan.settled.get_mut(index) {
                    *settled = Some(failure);
                }
                None
            }
            Stop::Full(failure) => {
                self.roll_back();
                Some(Attempt::Done(all_failed(plan, &failure)))
            }
            Stop::Broken(failure) => {
                self.roll_back();
                if let Some(settled) = plan.settled.get_mut(index) {
                    *settled = Some(failure);
                }
                plan.breaks += 1;
                if plan.breaks >= MAX_BREAKS {
                    let rest = plan.settled.iter_mut().skip(index).filter(|settled| settled.is_none());
                    rest.for_each(|settled| {
                        *settled = Some(not_run("too many transactions of its group rolled everything back"));
                    });
                }
                Some(Attempt::Again)
            }
        }
    }

    /// Writes what belongs to the record besides the clients' changes.
    fn order_record(&mut self, slot: &Slot, point: &CommitPoint<'_>) -> Result<(), SqliteError> {
        self.internal(|own| {
            if point.has_clients() {
                own.keys.expire(slot.unix_ms)?;
            }
            Ok(())
        })?;
        self.write_position(slot, point)
    }

    fn write_position(&mut self, slot: &Slot, point: &CommitPoint<'_>) -> Result<(), SqliteError> {
        let position = slot.position();
        self.internal(|own| {
            own.sql.position.bind_integer(1, position.epoch.0 as i64)?;
            own.sql.position.bind_integer(2, position.index.0 as i64)?;
            own.sql.position.bind_integer(3, position.previous_chain.0 as i64)?;
            own.sql.position.execute()
        })?;
        point.arm();
        Ok(())
    }

    fn commit(
        &mut self,
        slot: &Slot,
        results: Vec<Result<Done, SqlFailure>>,
        plan: &mut Plan,
        point: &CommitPoint<'_>,
    ) -> Result<Attempt, Fatal> {
        self.ordered.store(true, Ordering::Relaxed);
        let committed = self.internal(|own| own.sql.commit.execute());
        self.ordered.store(false, Ordering::Relaxed);
        self.rows.watch.mode.set(Mode::Off);
        let decision = point.take_decision();
        let error = match (committed, decision) {
            (Ok(()), Decision::Committed(change)) => {
                let position = slot.position();
                let shared = Arc::clone(&self.turn.0);
                if let Some(table) = shared.table.lock().as_mut() {
                    table.install(&change, position);
                }
                shared.gauge.add(point.frames());
                self.position = position;
                self.rows_committed();
                return Ok(Attempt::Done(self.finished(results, Some(position))));
            }
            (Ok(()), Decision::None) if !point.armed() => {
                return Ok(Attempt::Done(self.finished(results, None)));
            }
            (Ok(()), _) => return Err(Fatal("COMMIT succeeded past its commit point".to_owned())),
            (Err(error), Decision::Committed(_)) => return Err(Fatal(error.message)),
            (Err(_), Decision::Called) => return Err(Fatal("the commit callback panicked".to_owned())),
            (Err(_), Decision::Refused(refused)) => {
                self.roll_back();
                let failure = SqlFailure { api: refused.0, sqlite_code: None };
                return Ok(Attempt::Done(all_failed_anew(plan.settled.len(), &failure)));
            }
            (Err(_), Decision::Unordered) => {
                self.roll_back();
                plan.force_record = true;
                return Ok(Attempt::Again);
            }
            (Err(_), Decision::TooLarge) => {
                self.roll_back();
                plan.shrink(self.turn.0.options.max_record_bytes);
                return Ok(Attempt::Again);
            }
            // Before the commit point SQLite only flushes the header of `-wal`, and a failed flush is not tried again.
            (Err(error), Decision::None) if error.primary() == ffi::SQLITE_IOERR && !error.is_full() => {
                return Err(Fatal(error.message));
            }
            (Err(error), Decision::None) => failure(error, None),
            (Err(_), Decision::Stray) => {
                SqlFailure::new(ErrorCode::Unavailable, "a write to -wal was not understood", "see the node's log")
            }
        };
        self.roll_back();
        Ok(Attempt::Done(all_failed(plan, &error)))
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
