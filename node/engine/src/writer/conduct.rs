//! What the writer's connection is set up for.

use super::Writer;
use crate::sql::statement::{SqliteError, Stmt};

/// What a connection enforces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Conduct {
    /// All that clients' SQL has to obey.
    Client,
    /// As `Client` without foreign keys, for statements among row changes: what the keys did on the leader is among these.
    Schema,
    /// Rows are applied as they are: no triggers, no checks.
    Rows,
}

impl Writer {
    pub(super) fn conduct_as(&mut self, conduct: Conduct) -> Result<(), SqliteError> {
        use rusqlite::config::DbConfig as D;
        if self.rows.conduct == conduct {
            return Ok(());
        }
        let rows = conduct == Conduct::Rows;
        for (option, on) in [
            (D::SQLITE_DBCONFIG_DEFENSIVE, !rows),
            (D::SQLITE_DBCONFIG_ENABLE_FKEY, conduct == Conduct::Client),
            (D::SQLITE_DBCONFIG_ENABLE_TRIGGER, !rows),
        ] {
            self.session.connection.set_db_config(option, on).map_err(misuse)?;
        }
        let checks =
            if rows { "PRAGMA ignore_check_constraints = ON" } else { "PRAGMA ignore_check_constraints = OFF" };
        self.internal(|own| Stmt::internal(own.session.db, checks)?.execute())?;
        self.rows.conduct = conduct;
        Ok(())
    }

    /// Watches from here on, or no longer.
    pub(super) fn watch(&mut self, on: bool) -> Result<(), SqliteError> {
        use rusqlite::config::DbConfig as D;
        self.rows.watch.install(self.session.db, on);
        self.rows.on = on;
        self.rows.stale = true;
        self.cache.clear();
        self.rows.sql.clear();
        // Virtual tables keep statements of their own: SQLite compiles all anew when an option has changed.
        for on in [true, false] {
            self.session.connection.set_db_config(D::SQLITE_DBCONFIG_ENABLE_QPSG, on).map_err(misuse)?;
        }
        Ok(())
    }
}

fn misuse(error: rusqlite::Error) -> SqliteError {
    SqliteError { code: rusqlite::ffi::SQLITE_MISUSE, message: error.to_string(), errno: 0 }
}
