//! AUTOINCREMENT counters: the rows of `sqlite_sequence`. SQLite calls no hook when it counts on, so the table is read
//! before and after a group and the difference logged as row changes.

use std::collections::BTreeMap;

use rdb_record::{Cell, RowLog};

use super::shape::Shape;
use super::sums::row_hash;
use crate::sql::statement::{Handle, SqliteError, Stmt};

pub(crate) const TABLE: &str = "sqlite_sequence";

/// Its rows by rowid: name and counter.
pub(crate) type Counters = BTreeMap<i64, [Cell; 2]>;

pub(crate) fn read(db: Handle) -> Result<Counters, SqliteError> {
    let rows = Stmt::internal(db, "SELECT rowid, name, seq FROM sqlite_sequence")?;
    let mut counters = Counters::new();
    while rows.step()? {
        counters.insert(rows.integer(0), [rows.cell(1).to_cell(), rows.cell(2).to_cell()]);
    }
    Ok(counters)
}

/// Logs what makes `after` of `before`.
pub(crate) fn log(log: &mut RowLog, shape: &Shape, before: &Counters, after: &Counters) {
    for (rowid, row) in before {
        if !after.contains_key(rowid) {
            log.delete(&shape.table, *rowid, &[row[0].as_ref(), row[1].as_ref()]);
        }
    }
    for (rowid, row) in after {
        let new = [row[0].as_ref(), row[1].as_ref()];
        match before.get(rowid) {
            None => log.insert(&shape.table, *rowid, &new),
            Some(old) if old != row => {
                log.update(&shape.table, (*rowid, *rowid), &[old[0].as_ref(), old[1].as_ref()], &new);
            }
            Some(_) => {}
        }
    }
}

/// The table's part of the sums.
pub(crate) fn sum(counters: &Counters) -> u64 {
    counters.iter().fold(0, |sum, (rowid, row)| sum ^ row_hash(TABLE, Some(*rowid), row.iter().map(Cell::as_ref)))
}

/// Makes the table hold exactly `wanted`.
pub(crate) fn store(db: Handle, wanted: &Counters) -> Result<(), SqliteError> {
    let present = read(db)?;
    let delete = Stmt::internal(db, "DELETE FROM sqlite_sequence WHERE rowid = ?1")?;
    for rowid in present.keys().filter(|rowid| !wanted.contains_key(rowid)) {
        delete.bind_integer(1, *rowid)?;
        delete.execute()?;
    }
    let insert = Stmt::internal(db, "INSERT OR REPLACE INTO sqlite_sequence(rowid, name, seq) VALUES (?1, ?2, ?3)")?;
    for (rowid, row) in wanted.iter().filter(|(rowid, row)| present.get(rowid) != Some(row)) {
        insert.bind_integer(1, *rowid)?;
        // SAFETY: both values live until the bindings are cleared.
        let bound = unsafe { insert.bind_cell(2, row[0].as_ref()).and_then(|()| insert.bind_cell(3, row[1].as_ref())) };
        let done = bound.and_then(|()| insert.execute());
        insert.clear();
        done?;
    }
    Ok(())
}
