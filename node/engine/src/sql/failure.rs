//! SQLite's result codes as answers for clients.

use rdb_protocol::api::ErrorCode;
use rusqlite::ffi;

use crate::error::SqlFailure;
use crate::sql::statement::SqliteError;

/// What a result code means for what was being executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The statement's own fault.
    Statement,
    /// The progress handler stopped it: deadline or budget.
    Interrupted,
    /// The machine's: no space, no memory, failing or corrupt disk. Nothing else would fare better.
    Environment,
}

impl SqliteError {
    pub(crate) fn kind(&self) -> Kind {
        match self.primary() {
            ffi::SQLITE_INTERRUPT => Kind::Interrupted,
            ffi::SQLITE_FULL
            | ffi::SQLITE_IOERR
            | ffi::SQLITE_NOMEM
            | ffi::SQLITE_CORRUPT
            | ffi::SQLITE_NOTADB
            | ffi::SQLITE_CANTOPEN
            | ffi::SQLITE_BUSY
            | ffi::SQLITE_LOCKED
            | ffi::SQLITE_PROTOCOL => Kind::Environment,
            _ => Kind::Statement,
        }
    }

    pub(crate) fn is_full(&self) -> bool {
        let full = self.errno == libc::ENOSPC || self.errno == libc::EDQUOT;
        self.primary() == ffi::SQLITE_FULL || (self.primary() == ffi::SQLITE_IOERR && full)
    }
}

/// The answer to a client whose statement ended with `error`. `denied` is the authorizer's reason, if it refused.
pub(crate) fn failure(error: SqliteError, denied: Option<(ErrorCode, &'static str, String)>) -> SqlFailure {
    let sqlite_code = Some(error.code);
    if let Some((code, hint, message)) = denied {
        return SqlFailure { api: code.error(message, hint), sqlite_code };
    }
    let (code, hint) = match error.primary() {
        _ if error.is_full() => (ErrorCode::DiskFull, FULL_HINT),
        ffi::SQLITE_CONSTRAINT => (ErrorCode::Constraint, "change the values; the transaction was undone"),
        ffi::SQLITE_AUTH => (ErrorCode::Forbidden, "this is not allowed to clients"),
        ffi::SQLITE_READONLY => (ErrorCode::ReadOnly, "send writes to /v1/execute or /v1/batch"),
        ffi::SQLITE_INTERRUPT => (ErrorCode::Timeout, "give it a longer deadline_ms, or make it do less"),
        ffi::SQLITE_NOMEM => (ErrorCode::Overloaded, "the node is out of memory; try again"),
        ffi::SQLITE_IOERR | ffi::SQLITE_CANTOPEN | ffi::SQLITE_PROTOCOL => {
            (ErrorCode::Unavailable, "the node's disk fails; another node may serve this")
        }
        ffi::SQLITE_CORRUPT | ffi::SQLITE_NOTADB => {
            (ErrorCode::Unavailable, "the node's database is damaged; re-seed the node")
        }
        ffi::SQLITE_BUSY | ffi::SQLITE_LOCKED => (ErrorCode::Overloaded, "try again"),
        ffi::SQLITE_TOOBIG => (ErrorCode::SqlError, "a value or statement is larger than SQLite takes"),
        _ => (ErrorCode::SqlError, "correct the statement or its arguments"),
    };
    SqlFailure { api: code.error(error.message, hint), sqlite_code }
}

pub(crate) const FULL_HINT: &str = "free or add disk space on the node; reads go on meanwhile";
