//! The engine's own statements on the writer's connection.

use crate::internal::PositionWriter;
use crate::sql::statement::{Handle, SqliteError, Stmt};

pub(super) struct OwnSql {
    pub(super) begin: Stmt,
    pub(super) commit: Stmt,
    pub(super) rollback: Stmt,
    pub(super) savepoint: Stmt,
    pub(super) undo: Stmt,
    pub(super) release: Stmt,
    pub(super) undefer: Stmt,
    pub(super) position: PositionWriter,
    pub(super) fragile: Stmt,
    pub(super) free_pages: Stmt,
    pub(super) cookie: Stmt,
}

impl OwnSql {
    pub(super) fn new(db: Handle) -> Result<OwnSql, SqliteError> {
        let stmt = |sql| Stmt::internal(db, sql);
        Ok(OwnSql {
            begin: stmt("BEGIN IMMEDIATE")?,
            commit: stmt("COMMIT")?,
            rollback: stmt("ROLLBACK")?,
            savepoint: stmt("SAVEPOINT _rdb_transaction")?,
            undo: stmt("ROLLBACK TO _rdb_transaction")?,
            release: stmt("RELEASE _rdb_transaction")?,
            undefer: stmt("PRAGMA defer_foreign_keys = OFF")?,
            position: PositionWriter::new(db)?,
            cookie: stmt("PRAGMA schema_version")?,
            free_pages: stmt("PRAGMA freelist_count")?,
            // ON CONFLICT FAIL and RAISE(FAIL) keep the rows changed before the failure; deferred keys are found
            // broken only at the end. A false alarm costs a savepoint per transaction.
            fragile: stmt(
                "SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE sql LIKE '%fail%' OR sql LIKE '%deferr%'),
                        EXISTS (SELECT 1 FROM sqlite_schema WHERE sql LIKE 'create virtual%')",
            )?,
        })
    }
}
