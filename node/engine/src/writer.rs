//! The leader's role: groups of client transactions, one record each, one commit point.

use rdb_protocol::{Epoch, Position};
use rdb_record::{ClientTag, Record};

use crate::engine::DbPosition;
use crate::error::{CommitError, EngineError, Fatal, SqlFailure};
use crate::value::{QueryResult, Transaction};

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

/// A transaction that took effect, or only read.
#[derive(Clone, Debug, PartialEq)]
pub struct TransactionResult {
    /// One per statement.
    pub results: Vec<QueryResult>,
    /// The record in which it took effect; for a transaction that only read, the state that it read.
    pub position: DbPosition,
    /// It had run before under the same key; these are the results of then.
    pub replayed: bool,
}

/// What became of a group.
#[derive(Debug)]
pub struct GroupResult {
    /// One per transaction, in order.
    pub results: Vec<Result<TransactionResult, SqlFailure>>,
    /// The group's record; `None` when nothing changed, `commit` was not called or refused. Without a record the
    /// driver must check its lease before it answers: nobody else has confirmed that this leader still leads.
    pub record: Option<DbPosition>,
}

/// What is kept under an idempotency key.
#[derive(Clone, Debug, PartialEq)]
pub struct KeptOutcome {
    pub position: DbPosition,
    pub request_hash: u64,
    /// `None` when the result was too large to keep; the transaction did take effect.
    pub results: Option<Vec<QueryResult>>,
}

/// The leader's connection. Use it from one thread at a time; it may be moved between groups.
pub struct Writer {
    _private: (),
}

impl Writer {
    /// Runs a group. `commit` is called at most once, inside of SQLite's COMMIT, when the group's pages are known and
    /// nothing is visible yet; the group becomes visible when it returns `Ok`. When it returns `Err`, the group is
    /// rolled back and every transaction gets that error. It is not called when nothing changed.
    ///
    /// A transaction that fails is undone alone. The writer is usable after every error except [`Fatal`].
    pub fn run_group(
        &mut self,
        slot: Slot,
        group: &[Transaction],
        commit: &mut dyn FnMut(Record) -> Result<(), CommitError>,
    ) -> Result<GroupResult, Fatal> {
        let _ = (slot, group, commit);
        Err(Fatal(crate::engine::pending().to_string()))
    }

    /// Position of the last record in the database.
    pub fn position(&self) -> DbPosition {
        DbPosition::default()
    }

    /// What is kept under a key, for `GET /v1/outcome/<key>`. Also on [`crate::Reader`].
    pub fn outcome(&mut self, tag: &ClientTag) -> Result<Option<KeptOutcome>, EngineError> {
        let _ = tag;
        Err(crate::engine::pending())
    }
}
