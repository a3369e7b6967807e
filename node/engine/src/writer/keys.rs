//! Outcomes kept under idempotency keys: `_rdb_clients`, read and written in the transaction of the request itself, so
//! that a request and its outcome are logged together or not at all.

use rdb_protocol::api::Token;
use rdb_protocol::{Epoch, Index};
use rdb_record::ClientTag;

use crate::engine::DbPosition;
use crate::kept::{self, Kept};
use crate::sql::statement::{Handle, SqliteError, Stmt};
use crate::value::{QueryResult, RequestKey, Value};
use crate::writer::{IDEMPOTENCY_TTL_MS, KeptOutcome};

/// Expired rows dropped per record: more than a record usually adds, so that the table shrinks back after a burst, and
/// few enough not to be felt.
const EXPIRE_AT_ONCE: i64 = 512;

pub(crate) const LOOKUP: &str =
    "SELECT request, epoch, idx, result FROM _rdb_clients WHERE client = ?1 AND sequence = ?2";

/// A row of `_rdb_clients`.
pub(crate) struct Found {
    pub(super) position: Token,
    pub(super) request_hash: u64,
    /// `None`: too large, or of another version.
    pub(super) kept: Option<Kept>,
}

impl From<Found> for KeptOutcome {
    fn from(found: Found) -> KeptOutcome {
        let results = found.kept.filter(|kept| kept.whole).map(|kept| kept.results);
        KeptOutcome { position: found.position, request_hash: found.request_hash, results }
    }
}

/// Reads `_rdb_clients`.
pub(crate) struct KeyReader(Stmt);

impl KeyReader {
    pub(crate) fn new(db: Handle) -> Result<KeyReader, SqliteError> {
        Ok(KeyReader(Stmt::internal(db, LOOKUP)?))
    }

    pub(crate) fn lookup(&self, tag: &ClientTag) -> Result<Option<Found>, SqliteError> {
        let client = Value::Text(tag.client.clone());
        // SAFETY: `client` lives until the bindings are cleared below.
        let row = unsafe { self.0.bind(1, &client) }
            .and_then(|()| self.0.bind_integer(2, tag.sequence as i64))
            .and_then(|()| self.0.step());
        let found = row.map(|row| row.then(|| self.found()));
        self.0.reset();
        self.0.clear();
        found
    }

    fn found(&self) -> Found {
        let epoch = Epoch(self.0.integer(1) as u64);
        let index = Index(self.0.integer(2) as u64);
        Found {
            position: Token { epoch, index },
            request_hash: self.0.integer(0) as u64,
            kept: kept::decode(self.0.blob(3)),
        }
    }
}

pub(super) struct Keys {
    reader: KeyReader,
    insert: Stmt,
    expire: Stmt,
}

impl Keys {
    pub(super) fn new(db: Handle) -> Result<Keys, SqliteError> {
        let stmt = |sql| Stmt::internal(db, sql);
        Ok(Keys {
            reader: KeyReader::new(db)?,
            insert: stmt(
                "INSERT INTO _rdb_clients(client, sequence, request, expires_ms, epoch, idx, result)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
            )?,
            // Rows lie in the order in which they were kept, so looking at the oldest few is enough.
            expire: stmt(
                "DELETE FROM _rdb_clients WHERE id IN (
                     SELECT id FROM (SELECT id, expires_ms FROM _rdb_clients ORDER BY id LIMIT ?2)
                     WHERE expires_ms <= ?1)",
            )?,
        })
    }

    pub(super) fn lookup(&self, tag: &ClientTag) -> Result<Option<Found>, SqliteError> {
        self.reader.lookup(tag)
    }

    /// Keeps a request's outcome.
    pub(super) fn keep(
        &self,
        key: &RequestKey,
        position: &DbPosition,
        unix_ms: u64,
        results: &[QueryResult],
    ) -> Result<(), SqliteError> {
        let client = Value::Text(key.tag.client.clone());
        let result = kept::encode(results).map_or(Value::Null, Value::Blob);
        let integers = [
            (2, key.tag.sequence),
            (3, key.request_hash),
            (4, unix_ms.saturating_add(IDEMPOTENCY_TTL_MS)),
            (5, position.epoch.0),
            (6, position.index.0),
        ];
        // SAFETY: both values live until the bindings are cleared below.
        let bound = unsafe { self.insert.bind(1, &client).and_then(|()| self.insert.bind(7, &result)) };
        let kept = bound
            .and_then(|()| integers.iter().try_for_each(|(at, value)| self.insert.bind_integer(*at, *value as i64)))
            .and_then(|()| self.insert.execute());
        self.insert.reset();
        self.insert.clear();
        kept
    }

    /// Drops some of the rows whose time is over.
    pub(super) fn expire(&self, unix_ms: u64) -> Result<(), SqliteError> {
        self.expire.bind_integer(1, i64::try_from(unix_ms).unwrap_or(i64::MAX))?;
        self.expire.bind_integer(2, EXPIRE_AT_ONCE)?;
        self.expire.execute()
    }
}
