//! The internal tables: what every database of ours holds besides the clients' tables.
//!
//! `_rdb_position` has one row: the last record applied, with the chain before it. `_rdb_clients` keeps the outcomes of
//! requests that carried an idempotency key, oldest first. Both are ordinary tables, so page records carry them.

use rdb_protocol::{Chain, Epoch, Index};
use rusqlite::Connection;

use crate::engine::DbPosition;
use crate::sql::statement::{Handle, SqliteError, Stmt};

/// Version of these tables, in `_rdb_position.format`.
pub(crate) const FORMAT: i64 = 1;

pub(crate) const CREATE: &str = "
    CREATE TABLE _rdb_position(
        id INTEGER PRIMARY KEY CHECK (id = 1),
        format INTEGER NOT NULL,
        epoch INTEGER NOT NULL,
        idx INTEGER NOT NULL,
        previous_chain INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE _rdb_clients(
        id INTEGER PRIMARY KEY,
        client TEXT NOT NULL,
        sequence INTEGER NOT NULL,
        request INTEGER NOT NULL,
        expires_ms INTEGER NOT NULL,
        epoch INTEGER NOT NULL,
        idx INTEGER NOT NULL,
        result BLOB
    ) STRICT;
    CREATE UNIQUE INDEX _rdb_clients_key ON _rdb_clients(client, sequence);
    INSERT INTO _rdb_position VALUES (1, 1, 0, 0, 0);
";

const READ_POSITION: &str = "SELECT epoch, idx, previous_chain FROM _rdb_position WHERE id = 1";

/// Reads the position row. While its row is stepped on, it holds a read transaction.
pub(crate) struct PositionReader(Stmt);

impl PositionReader {
    pub(crate) fn new(db: Handle) -> Result<PositionReader, SqliteError> {
        Ok(PositionReader(Stmt::internal(db, READ_POSITION)?))
    }

    /// Reads the row and stays on it, so that the snapshot is held until [`PositionReader::release`].
    pub(crate) fn hold(&self) -> Result<DbPosition, SqliteError> {
        match self.0.step() {
            Ok(true) => Ok(DbPosition {
                epoch: Epoch(self.0.integer(0) as u64),
                index: Index(self.0.integer(1) as u64),
                previous_chain: Chain(self.0.integer(2) as u64),
            }),
            Ok(false) => {
                self.0.reset();
                let message = "the position row is missing".to_owned();
                Err(SqliteError { code: rusqlite::ffi::SQLITE_CORRUPT, message, errno: 0 })
            }
            Err(error) => {
                self.0.reset();
                Err(error)
            }
        }
    }

    pub(crate) fn release(&self) {
        self.0.reset();
    }

    pub(crate) fn read(&self) -> Result<DbPosition, SqliteError> {
        let position = self.hold();
        self.release();
        position
    }
}

/// Writes the position row.
pub(crate) struct PositionWriter(Stmt);

impl PositionWriter {
    pub(crate) fn new(db: Handle) -> Result<PositionWriter, SqliteError> {
        let sql = "UPDATE _rdb_position SET epoch = ?1, idx = ?2, previous_chain = ?3 WHERE id = 1";
        Ok(PositionWriter(Stmt::internal(db, sql)?))
    }

    pub(crate) fn write(&self, position: &DbPosition) -> Result<(), SqliteError> {
        self.0.bind_integer(1, position.epoch.0 as i64)?;
        self.0.bind_integer(2, position.index.0 as i64)?;
        self.0.bind_integer(3, position.previous_chain.0 as i64)?;
        self.0.execute()
    }
}

/// Format of the internal tables; `None` when there are none.
pub(crate) fn format(connection: &Connection) -> rusqlite::Result<Option<i64>> {
    let present: bool = connection.query_row(
        "SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = '_rdb_position')",
        [],
        |row| row.get(0),
    )?;
    if !present {
        return Ok(None);
    }
    connection.query_row("SELECT format FROM _rdb_position WHERE id = 1", [], |row| row.get(0)).map(Some)
}
