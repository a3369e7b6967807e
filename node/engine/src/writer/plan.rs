//! What the attempts at one group have shown so far, and how the last one ended.

use rdb_protocol::api::ErrorCode;

use crate::error::SqlFailure;
use crate::writer::GroupResult;

/// How an attempt at a group ended.
pub(super) enum Attempt {
    Done(GroupResult),
    Again,
}

/// What earlier attempts have shown.
pub(super) struct Plan {
    /// Failures that stand, by transaction.
    pub(super) settled: Vec<Option<SqlFailure>>,
    /// Pages changed although no row was counted: write the position row.
    pub(super) force_record: bool,
    pub(super) breaks: u32,
}

impl Plan {
    /// Transactions that still have to run.
    fn open(&self) -> usize {
        self.settled.iter().filter(|failure| failure.is_none()).count()
    }

    /// The failures of an attempt stand: the next one leaves these transactions out.
    pub(super) fn settle<T>(&mut self, results: &[Result<T, SqlFailure>]) {
        for (settled, result) in self.settled.iter_mut().zip(results) {
            *settled = result.as_ref().err().cloned();
        }
    }

    /// The record would be too large. Alone, that is the transaction's fault; otherwise the first one goes alone.
    pub(super) fn shrink(&mut self, limit: u64) {
        let first_only = self.open() > 1;
        let mut open = self.settled.iter_mut().filter(|failure| failure.is_none());
        let first = open.next();
        for other in open {
            *other = Some(not_run("the group's changes are larger than one record"));
        }
        if let (Some(first), false) = (first, first_only) {
            *first = Some(SqlFailure::new(
                ErrorCode::RequestTooLarge,
                format!("the transaction changes more than {limit} bytes"),
                "make several smaller transactions of it",
            ));
        }
    }
}

pub(super) fn not_run(why: &str) -> SqlFailure {
    SqlFailure::new(ErrorCode::Overloaded, format!("not run: {why}"), "send it again")
}

/// The group failed as a whole; failures that stand by themselves stay.
pub(super) fn all_failed(plan: &Plan, failure: &SqlFailure) -> GroupResult {
    let answer = |settled: &Option<SqlFailure>| Err(settled.clone().unwrap_or_else(|| failure.clone()));
    GroupResult { results: plan.settled.iter().map(answer).collect(), record: None }
}

pub(super) fn all_failed_anew(count: usize, failure: &SqlFailure) -> GroupResult {
    GroupResult { results: (0..count).map(|_| Err(failure.clone())).collect(), record: None }
}
