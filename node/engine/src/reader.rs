//! Read-only queries, each from one snapshot that states its position.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Instant;

use rdb_protocol::api::ErrorCode;
use rdb_record::ClientTag;

use crate::connection::{self, Guarded, internal_error};
use crate::engine::{DbPosition, Shared};
use crate::error::{EngineError, QueryError, SqlFailure};
use crate::internal::PositionReader;
use crate::progress::{STEP, Tripped};
use crate::sql::cache::{StatementCache, explain};
use crate::sql::run::{RunError, run, too_large};
use crate::value::{Limits, QueryResult, Statement};
use crate::writer::KeptOutcome;
use crate::writer::keys::KeyReader;

/// A query's result and the state that it is from.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    pub result: QueryResult,
    pub position: DbPosition,
}

/// A read-only connection. Use it from one thread at a time.
pub struct Reader {
    // Statements before their connection.
    position: PositionReader,
    keys: KeyReader,
    cache: StatementCache,
    session: Guarded,
    shared: Arc<Shared>,
}

// SAFETY: the raw handles belong to this connection alone, used by one thread at a time.
unsafe impl Send for Reader {}

impl Reader {
    /// Instructions between two looks at budget and deadline.
    pub const BUDGET_STEP: u64 = STEP;

    pub(crate) fn open(shared: &Arc<Shared>) -> Result<Reader, EngineError> {
        let preparing = |error| internal_error("opening a reader", &error);
        let session = connection::reader(&shared.options.path, shared.options.reader_cache_bytes)?;
        session.authorizer.begin_internal();
        let position = PositionReader::new(session.db).map_err(preparing)?;
        let keys = KeyReader::new(session.db).map_err(preparing)?;
        session.authorizer.end_internal();
        Ok(Reader { position, keys, cache: StatementCache::default(), session, shared: Arc::clone(shared) })
    }

    /// Runs one query. `budget`: virtual machine instructions, counted in steps of [`Reader::BUDGET_STEP`]; `None` = no
    /// bound except the deadline.
    pub fn query(
        &mut self,
        statement: &Statement,
        limits: &Limits,
        budget: Option<u64>,
        deadline: Option<Instant>,
    ) -> Result<Answer, QueryError> {
        self.query_checked(statement, limits, budget, deadline, |_| Ok::<(), Infallible>(()))
    }

    /// As [`Reader::query`], with a check between taking the snapshot and running the query: for linearizable reads the
    /// driver checks its lease there, for session reads the position.
    pub fn query_checked<E>(
        &mut self,
        statement: &Statement,
        limits: &Limits,
        budget: Option<u64>,
        deadline: Option<Instant>,
        after_snapshot: impl FnOnce(DbPosition) -> Result<(), E>,
    ) -> Result<Answer, QueryError<E>> {
        self.session.progress.start(deadline, budget);
        if self.session.progress.late() {
            let failure = SqlFailure::new(ErrorCode::Timeout, "its deadline passed while it waited", "");
            return Err(failure.into());
        }
        if checks_the_database(&statement.sql) {
            self.renew()?;
            self.session.progress.start(deadline, budget);
        }
        let position = self.hold()?;
        let answer = match after_snapshot(position) {
            Ok(()) => self.run(statement, limits).map(|result| Answer { result, position }),
            Err(refused) => Err(QueryError::Refused(refused)),
        };
        self.position.release();
        self.session.progress.stop();
        answer
    }

    fn run<E>(&mut self, statement: &Statement, limits: &Limits) -> Result<QueryResult, QueryError<E>> {
        let session = &self.session;
        let compiled = match self.cache.get(session.db, &session.authorizer, &statement.sql) {
            Ok(compiled) => compiled,
            Err(_) if over_budget(session) => return Err(QueryError::BudgetExceeded),
            Err(failure) => return Err(failure.into()),
        };
        if !compiled.readonly {
            let hint = "send writes to /v1/execute or /v1/batch";
            let failure = SqlFailure::new(ErrorCode::ReadOnly, "the statement writes", hint);
            return Err(failure.into());
        }
        session.authorizer.forget();
        let mut room = limits.max_result_bytes;
        match run(compiled, &statement.args, &mut room) {
            Ok(result) => Ok(result),
            Err(RunError::TooLarge) => Err(too_large(limits.max_result_bytes).into()),
            Err(RunError::Refused(failure) | RunError::Late(failure)) => Err(failure.into()),
            Err(RunError::Sqlite(_)) if over_budget(session) => Err(QueryError::BudgetExceeded),
            Err(RunError::Sqlite(error)) => Err(explain(&session.authorizer, error).into()),
        }
    }

    /// A connection that knows nothing. What FTS5 remembers of an index holds until the next query of that index, and SQLite's
    /// check of the database is none: it would find damage where another connection has written.
    fn renew(&mut self) -> Result<(), SqlFailure> {
        *self = Reader::open(&self.shared).map_err(|error| {
            SqlFailure::new(ErrorCode::Unavailable, error.to_string(), "try again, or another node")
        })?;
        Ok(())
    }

    /// Takes a snapshot, held until the position is released.
    fn hold(&mut self) -> Result<DbPosition, SqlFailure> {
        self.session.authorizer.begin_internal();
        let position = self.position.hold();
        self.session.authorizer.end_internal();
        position.map_err(|error| explain(&self.session.authorizer, error))
    }

    /// The position that a query would see now.
    pub fn position(&mut self) -> Result<DbPosition, EngineError> {
        self.session.authorizer.begin_internal();
        let position = self.position.read();
        self.session.authorizer.end_internal();
        position.map_err(|error| internal_error("reading the position", &error))
    }

    /// What is kept under an idempotency key.
    pub fn outcome(&mut self, tag: &ClientTag) -> Result<Option<KeptOutcome>, EngineError> {
        self.session.authorizer.begin_internal();
        let found = self.keys.lookup(tag);
        self.session.authorizer.end_internal();
        let found = found.map_err(|error| internal_error("looking up a key", &error))?;
        Ok(found.map(KeptOutcome::from))
    }
}

/// As a pragma or as its table. One that only speaks of it costs a connection, no more.
fn checks_the_database(sql: &str) -> bool {
    let underscores = sql.match_indices('_').map(|(at, _)| sql.as_bytes().split_at(at));
    let is = |part: Option<&[u8]>, wanted: &[u8]| part.is_some_and(|part| part.eq_ignore_ascii_case(wanted));
    let before = |text: &[u8], wanted: &[u8]| is(text.len().checked_sub(wanted.len()).map(|at| &text[at..]), wanted);
    underscores
        .filter(|(_, after)| is(after.get(.."_check".len()), b"_check"))
        .any(|(text, _)| before(text, b"integrity") || before(text, b"quick"))
}

fn over_budget(session: &Guarded) -> bool {
    session.progress.tripped() == Some(Tripped::Budget)
}
