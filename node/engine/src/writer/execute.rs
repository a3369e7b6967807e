//! One client transaction inside of a group.

use rdb_protocol::api::{ErrorCode, Token};
use rdb_protocol::settings::LogFormat;
use rdb_record::{StatementDraft, StatementLog};
use rusqlite::ffi;

use crate::authorizer::Effects;
use crate::error::SqlFailure;
use crate::progress::Tripped;
use crate::sql::cache::explain;
use crate::sql::failure::Kind;
use crate::sql::run::{RunError, run, too_large};
use crate::sql::statement::SqliteError;
use crate::sql::text::contains_word_part;
use crate::value::{Args, QueryResult, RequestKey, Statement, Transaction};
use crate::writer::{Slot, Writer};

/// A transaction that ended well (until its group commits).
pub(super) struct Done {
    pub(super) results: Vec<QueryResult>,
    /// It ran statements that write.
    pub(super) wrote: bool,
    /// It changed something for sure.
    pub(super) changed: bool,
    /// Its outcome is kept under its key.
    pub(super) keyed: bool,
    /// It did what another node could not repeat from its text.
    pub(super) unrepeatable: bool,
    /// It had run before, in this record.
    pub(super) replayed: Option<Token>,
}

/// A transaction that did not.
pub(super) enum Stop {
    /// Undone alone; the group is as before it.
    Undone(SqlFailure),
    /// The group's work is gone, or cannot be kept: run the others again without this one.
    Broken(SqlFailure),
    /// No space: nobody would fare better.
    Full(SqlFailure),
}

/// What the statements of a transaction did.
#[derive(Default)]
struct Ran {
    results: Vec<QueryResult>,
    wrote: bool,
    changed: bool,
    defers: bool,
    unrepeatable: bool,
}

/// A statement's failure.
struct Failed {
    failure: SqlFailure,
    kind: Kind,
}

impl Writer {
    /// Runs a transaction. Afterwards the group's SQLite transaction holds all of its changes, or none, or is broken.
    pub(super) fn execute(&mut self, transaction: &Transaction, slot: &Slot) -> Result<Done, Stop> {
        self.session.progress.start(transaction.deadline, None);
        if self.session.progress.late() {
            let hint = "give it a longer deadline_ms";
            return Err(Stop::Undone(SqlFailure::new(ErrorCode::Timeout, "its deadline passed while it waited", hint)));
        }
        if let Some(key) = &transaction.key
            && let Some(done) = self.replay(key, transaction.statements.len())?
        {
            return Ok(done);
        }
        let fragile = self.fragile()?;
        // SAFETY: the connection is open. Without this, a client would see the rowid of another one's insert.
        unsafe { ffi::sqlite3_set_last_insert_rowid(self.session.db, 0) };
        let savepoint = match transaction.statements.as_slice() {
            [single] => self.needs_savepoint(single, fragile).map_err(Stop::Undone)?,
            _ => true,
        };
        if savepoint {
            self.internal(|own| own.sql.savepoint.execute()).map_err(|error| self.broken(error))?;
        }
        self.take_mark();
        let ran = self.run_statements(transaction);
        if std::mem::take(&mut self.schema_changed) {
            self.forget_schema();
        }
        let ran = match ran {
            Ok(ran) => ran,
            Err(failed) => return Err(self.undo(savepoint, failed)),
        };
        let keyed = self.conclude(transaction, slot, &ran, savepoint)?;
        let (wrote, unrepeatable) = (ran.wrote, ran.unrepeatable);
        Ok(Done { wrote, unrepeatable, changed: ran.changed || keyed, results: ran.results, keyed, replayed: None })
    }

    fn run_statements(&mut self, transaction: &Transaction) -> Result<Ran, Failed> {
        let mut ran = Ran::default();
        let mut room = transaction.limits.max_result_bytes;
        for statement in &transaction.statements {
            match self.run_statement(statement, transaction.key.is_some(), &mut ran, &mut room) {
                Ok(result) => ran.results.push(result),
                Err(RunError::TooLarge) => {
                    let failure = too_large(transaction.limits.max_result_bytes);
                    return Err(Failed { failure, kind: Kind::Statement });
                }
                Err(RunError::Late(failure)) => return Err(Failed { failure, kind: Kind::Environment }),
                Err(RunError::Refused(failure)) => return Err(Failed { failure, kind: Kind::Statement }),
                Err(RunError::Sqlite(error)) => return Err(self.failed(error)),
            }
        }
        Ok(ran)
    }

    /// `keyed`: its result is kept, and so belongs to what followers must repeat.
    fn run_statement(
        &mut self,
        statement: &Statement,
        keyed: bool,
        ran: &mut Ran,
        room: &mut u64,
    ) -> Result<QueryResult, RunError> {
        let session = &self.session;
        let compiled = self.cache.get(session.db, &session.authorizer, &statement.sql).map_err(RunError::Refused)?;
        let (effects, readonly): (Effects, bool) = (compiled.effects, compiled.readonly);
        if let Some(what) = compiled.unrepeatable.as_ref().filter(|_| keyed || !readonly) {
            // What a query puts into a new table travels as rows.
            let travels = self.recording.sums && effects.changes_for_sure() && !effects.fills_table();
            if self.recording.format == LogFormat::Statement || travels {
                return Err(RunError::Refused(unrepeatable(what)));
            }
            ran.unrepeatable = true;
        }
        let touched = compiled.touched.clone();
        self.before_statement(effects, &touched, statement)?;
        let session = &self.session;
        let compiled = self.cache.get(session.db, &session.authorizer, &statement.sql).map_err(RunError::Refused)?;
        session.authorizer.forget();
        // SAFETY: plain questions to an open connection.
        let total = || unsafe { ffi::sqlite3_total_changes64(session.db) };
        let before = total();
        let mut result = run(compiled, &statement.args, room)?;
        // Virtual tables make tables of their own while they are written to.
        let inside = !effects.schema() && session.authorizer.effects().schema();
        if !readonly {
            let changed = total() != before;
            if effects.schema() || inside {
                self.schema_changed = true;
                self.group_changed_schema = true;
                // It may have made the first virtual table, to which the next statement of the batch may write.
                self.buffers |= contains_word_part(&statement.sql, "virtual");
            }
            ran.wrote = true;
            ran.changed |= changed || effects.changes_for_sure();
            ran.defers |= effects.defers();
            if changed {
                // SAFETY: as above. Only a statement that changed rows sets the count.
                let rows = unsafe { ffi::sqlite3_changes64(session.db) };
                result.rows_affected = u64::try_from(rows).unwrap_or(0);
            }
        }
        if self.recording.statements() && (keyed || !readonly || self.buffers) {
            log_statement(&mut self.statements, &mut self.draft, statement);
        }
        // SAFETY: as above.
        result.last_insert_rowid = unsafe { ffi::sqlite3_last_insert_rowid(session.db) };
        if !readonly {
            self.after_statement(effects, inside, statement, touched).map_err(RunError::Late)?;
        }
        Ok(result)
    }

    /// What has to hold when the statements are through: foreign keys, and the key's outcome.
    fn conclude(&mut self, transaction: &Transaction, slot: &Slot, ran: &Ran, savepoint: bool) -> Result<bool, Stop> {
        self.session.progress.stop();
        if !self.in_transaction() {
            let failure = SqlFailure::new(ErrorCode::SqlError, "the transaction was rolled back", "");
            return Err(Stop::Broken(failure));
        }
        if ran.wrote && self.unresolved_keys() {
            let hint = "insert what is referred to in the same batch; the transaction was undone";
            let mut failure = SqlFailure::new(ErrorCode::Constraint, "FOREIGN KEY constraint failed", hint);
            failure.sqlite_code = Some(ffi::SQLITE_CONSTRAINT_FOREIGNKEY);
            let stop = self.undo(savepoint, Failed { failure, kind: Kind::Statement });
            // Without a savepoint nothing has undone the statement.
            return Err(if savepoint { stop } else { into_broken(stop) });
        }
        if ran.defers {
            self.internal(|own| own.sql.undefer.execute()).map_err(|error| self.broken(error))?;
        }
        let keyed = match &transaction.key {
            Some(key) if ran.wrote => {
                let position = slot.position();
                let kept = self.internal(|own| own.keys.keep(key, &position, slot.unix_ms, &ran.results));
                kept.map_err(|error| self.broken(error))?;
                true
            }
            _ => false,
        };
        if savepoint {
            self.internal(|own| own.sql.release.execute()).map_err(|error| self.broken(error))?;
        }
        Ok(keyed)
    }

    /// The outcome of then, if the key was used before. A success also when the result was not kept, or not its rows: after
    /// an error the client might write again.
    pub(super) fn replay(&mut self, key: &RequestKey, statements: usize) -> Result<Option<Done>, Stop> {
        let found = self.internal(|own| own.keys.lookup(&key.tag)).map_err(|error| self.broken(error))?;
        let Some(found) = found else {
            return Ok(None);
        };
        if found.request_hash != key.request_hash {
            let Token { epoch, index } = found.position;
            let message = format!("the idempotency key was used for another request, at {epoch}/{index}");
            let hint = "give every new request a new sequence";
            return Err(Stop::Undone(SqlFailure::new(ErrorCode::KeyReused, message, hint)));
        }
        let results = found.kept.map_or_else(|| vec![QueryResult::default(); statements], |kept| kept.results);
        let replayed = Some(found.position);
        Ok(Some(Done { results, wrote: false, changed: false, keyed: false, unrepeatable: false, replayed }))
    }

    /// Does a single statement need a savepoint to be undone? Most undo themselves when they fail.
    fn needs_savepoint(&mut self, statement: &Statement, fragile: bool) -> Result<bool, SqlFailure> {
        let session = &self.session;
        let compiled = self.cache.get(session.db, &session.authorizer, &statement.sql)?;
        // RETURNING: all rows are changed before the first one comes back, and the result may be too large then.
        let returns = compiled.stmt.column_count() > 0;
        Ok(!compiled.readonly && (fragile || returns || compiled.may_fail_halfway))
    }

    fn fragile(&mut self) -> Result<bool, Stop> {
        if let Some(fragile) = self.fragile {
            return Ok(fragile);
        }
        let looked = self.internal(|own| {
            let fragile = &own.sql.fragile;
            let found = fragile.step().map(|row| (row && fragile.integer(0) != 0, row && fragile.integer(1) != 0));
            fragile.reset();
            found
        });
        let (clauses, buffers) = looked.map_err(|error| self.broken(error))?;
        self.buffers = buffers;
        self.fragile = Some(clauses || buffers);
        Ok(clauses || buffers)
    }

    /// Deferred foreign keys that nothing has satisfied yet.
    fn unresolved_keys(&self) -> bool {
        let (mut current, mut highest) = (0, 0);
        let (db, what) = (self.session.db, ffi::SQLITE_DBSTATUS_DEFERRED_FKS);
        // SAFETY: the connection is open, and the two integers are written.
        let code = unsafe { ffi::sqlite3_db_status(db, what, &mut current, &mut highest, 0) };
        code != ffi::SQLITE_OK || current != 0
    }

    fn failed(&self, error: SqliteError) -> Failed {
        let kind = error.kind();
        let mut failure = explain(&self.session.authorizer, error);
        if self.session.progress.tripped() == Some(Tripped::Deadline) {
            failure.api.message = "ran longer than its deadline and was undone".to_owned();
        }
        Failed { failure, kind }
    }

    /// Undoes a failed transaction, alone if that is possible.
    fn undo(&mut self, savepoint: bool, failed: Failed) -> Stop {
        self.session.progress.stop();
        if failed.failure.code() == ErrorCode::DiskFull {
            return Stop::Full(failed.failure);
        }
        if !self.in_transaction() || failed.kind == Kind::Environment {
            return Stop::Broken(failed.failure);
        }
        if savepoint {
            let undone = self.internal(|own| own.sql.undo.execute().and_then(|()| own.sql.release.execute()));
            if self.group_changed_schema {
                self.forget_schema();
            }
            self.fragile = None;
            if undone.is_err() {
                return Stop::Broken(failed.failure);
            }
        }
        Stop::Undone(failed.failure)
    }

    /// One of the engine's own statements failed in the middle of the transaction.
    fn broken(&mut self, error: SqliteError) -> Stop {
        let failed = self.failed(error);
        into_broken(if failed.failure.code() == ErrorCode::DiskFull {
            Stop::Full(failed.failure)
        } else {
            Stop::Broken(failed.failure)
        })
    }
}

fn log_statement(log: &mut StatementLog, draft: &mut StatementDraft, statement: &Statement) {
    match &statement.args {
        Args::Positional(values) => {
            log.statement(draft, &statement.sql, false, values.len());
            values.iter().for_each(|value| draft.arg(None, value.as_cell()));
        }
        Args::Named(values) => {
            log.statement(draft, &statement.sql, true, values.len());
            values.iter().for_each(|(name, value)| draft.arg(Some(name), value.as_cell()));
        }
    }
}

/// The refusal of what another node could not repeat.
fn unrepeatable(what: &str) -> SqlFailure {
    SqlFailure::new(
        ErrorCode::Forbidden,
        format!("{what} depends on the state of one connection, and the log carries statements"),
        "leave it out, or set replication.logFormat to mixed or page",
    )
}

fn into_broken(stop: Stop) -> Stop {
    match stop {
        Stop::Undone(failure) | Stop::Broken(failure) => Stop::Broken(failure),
        Stop::Full(failure) => Stop::Full(failure),
    }
}
