//! Read-only queries.

use std::convert::Infallible;
use std::time::Instant;

use rdb_record::ClientTag;

use crate::engine::DbPosition;
use crate::error::{EngineError, QueryError};
use crate::value::{Limits, QueryResult, Statement};
use crate::writer::KeptOutcome;

/// A query's result and the state that it is from.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    pub result: QueryResult,
    pub position: DbPosition,
}

/// A read-only connection. Use it from one thread at a time.
pub struct Reader {
    _private: (),
}

impl Reader {
    /// Runs one query. `budget`: virtual machine instructions, counted in steps of [`Reader::BUDGET_STEP`]; `None` = no
    /// bound except the deadline.
    pub fn query(
        &mut self,
        statement: &Statement,
        limits: &Limits,
        budget: Option<u64>,
        deadline: Option<Instant>,
    ) -> Result<Answer, QueryError> {
        self.query_checked(statement, limits, budget, deadline, |_| {
            Ok::<(), Infallible>(())
        })
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
        let _ = (statement, limits, budget, deadline, after_snapshot);
        Err(QueryError::BudgetExceeded)
    }

    /// The position that a query would see now.
    pub fn position(&mut self) -> Result<DbPosition, EngineError> {
        Err(crate::engine::pending())
    }

    /// What is kept under an idempotency key.
    pub fn outcome(&mut self, tag: &ClientTag) -> Result<Option<KeptOutcome>, EngineError> {
        let _ = tag;
        Err(crate::engine::pending())
    }

    /// Instructions between two looks at budget and deadline.
    pub const BUDGET_STEP: u64 = 1000;
}
