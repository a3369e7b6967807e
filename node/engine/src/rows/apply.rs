//! The statements by which a follower makes a leader's row changes: one row each, named by its key.

use std::collections::HashMap;

use rdb_record::{CellRef, ChangeKind, RowKey, TableShape};
use rusqlite::ffi;

use super::quoted;
use super::shape::Shape;
use crate::sql::statement::{Handle, SqliteError, Stmt};

/// Why a change could not be made.
pub(crate) enum RowError {
    Sqlite(SqliteError),
    /// The database is not as the leader's was.
    Differs(String),
}

impl From<SqliteError> for RowError {
    fn from(error: SqliteError) -> RowError {
        RowError::Sqlite(error)
    }
}

/// The statements for one table.
#[derive(Default)]
struct TableSql {
    insert: Option<Stmt>,
    delete: Option<Stmt>,
    /// By which columns they set; the last place stands for the rowid.
    updates: HashMap<Vec<bool>, Stmt>,
}

/// Compiled statements, by table; thrown away when the schema changes.
#[derive(Default)]
pub(crate) struct RowSql {
    tables: HashMap<String, TableSql>,
}

impl RowSql {
    pub(crate) fn clear(&mut self) {
        self.tables.clear();
    }

    /// Makes a change. `ours` is the table as it is here, `theirs` as it was on the leader.
    pub(crate) fn apply(
        &mut self,
        db: Handle,
        ours: &Shape,
        theirs: &TableShape,
        change: &ChangeKind<'_>,
    ) -> Result<(), RowError> {
        let own = &ours.table;
        let alike = own.columns.len() == theirs.columns.len()
            && (own.without_rowid, &own.key) == (theirs.without_rowid, &theirs.key);
        if !alike || ours.refusal().is_some() {
            return Err(RowError::Differs(format!("table {} has other columns or another key here", own.name)));
        }
        let table = self.tables.entry(own.name.clone()).or_default();
        match change {
            ChangeKind::Insert { rowid, new } => table.insert(db, ours, *rowid, new)?,
            ChangeKind::Update { key, rowid, new, .. } => table.update(db, ours, key, *rowid, new)?,
            ChangeKind::Delete { key, .. } => table.delete(db, ours, key)?,
        }
        // SAFETY: a plain question to an open connection.
        match unsafe { ffi::sqlite3_changes64(db) } {
            1 => Ok(()),
            rows => Err(RowError::Differs(format!("a change of one row of {} meets {rows} rows here", own.name))),
        }
    }
}

impl TableSql {
    fn insert(
        &mut self,
        db: Handle,
        shape: &Shape,
        rowid: Option<i64>,
        new: &[CellRef<'_>],
    ) -> Result<(), SqliteError> {
        let stmt = match &mut self.insert {
            Some(stmt) => stmt,
            none => none.insert(Stmt::internal(db, &insert_sql(shape, rowid.is_some()))?),
        };
        let values = rowid.map(CellRef::Integer).into_iter().chain(new.iter().copied());
        execute(stmt, values)
    }

    fn update(
        &mut self,
        db: Handle,
        shape: &Shape,
        key: &RowKey<'_>,
        rowid: Option<i64>,
        new: &[Option<CellRef<'_>>],
    ) -> Result<(), SqliteError> {
        let moved = rowid.filter(|rowid| !matches!(key, RowKey::Rowid(before) if before == rowid));
        let mut set: Vec<bool> = new.iter().map(Option::is_some).collect();
        set.push(moved.is_some());
        let stmt = match self.updates.entry(set) {
            std::collections::hash_map::Entry::Occupied(found) => found.into_mut(),
            std::collections::hash_map::Entry::Vacant(place) => {
                let sql = update_sql(shape, place.key());
                place.insert(Stmt::internal(db, &sql)?)
            }
        };
        let values = new.iter().flatten().copied().chain(moved.map(CellRef::Integer)).chain(key_cells(key));
        execute(stmt, values)
    }

    fn delete(&mut self, db: Handle, shape: &Shape, key: &RowKey<'_>) -> Result<(), SqliteError> {
        let stmt = match &mut self.delete {
            Some(stmt) => stmt,
            none => {
                let sql = format!("DELETE FROM {} WHERE {}", quoted(&shape.table.name), condition(shape, 0));
                none.insert(Stmt::internal(db, &sql)?)
            }
        };
        execute(stmt, key_cells(key))
    }
}

fn execute<'a>(stmt: &Stmt, values: impl IntoIterator<Item = CellRef<'a>>) -> Result<(), SqliteError> {
    let bound = values.into_iter().enumerate().try_for_each(|(at, value)| {
        // SAFETY: the values are the record's, which outlives this call, and are cleared at its end.
        unsafe { stmt.bind_cell(at + 1, value) }
    });
    let done = bound.and_then(|()| stmt.execute());
    stmt.clear();
    done
}

fn key_cells<'a>(key: &RowKey<'a>) -> Vec<CellRef<'a>> {
    match key {
        RowKey::Rowid(rowid) => vec![CellRef::Integer(*rowid)],
        RowKey::Columns(cells) => cells.clone(),
    }
}

/// Names a row by its key, whose values are the parameters after the first `bound`. By the collations of the key, so that its
/// index is used, and byte for byte, so that it is the very row.
fn condition(shape: &Shape, bound: usize) -> String {
    if let Some(rowid) = &shape.rowid {
        return format!("{} = ?{}", quoted(rowid), bound + 1);
    }
    let compare = |(place, by): &(usize, String)| {
        let name = shape.table.key.get(*place).and_then(|column| shape.table.columns.get(*column));
        let name = quoted(name.map_or("", String::as_str));
        let at = bound + place + 1;
        match by.eq_ignore_ascii_case("BINARY") {
            true => format!("{name} = ?{at} COLLATE BINARY"),
            false => format!("{name} = ?{at} COLLATE {} AND {name} = ?{at} COLLATE BINARY", quoted(by)),
        }
    };
    shape.compared.iter().map(compare).collect::<Vec<_>>().join(" AND ")
}

fn insert_sql(shape: &Shape, hidden_rowid: bool) -> String {
    let rowid = shape.rowid.iter().filter(|_| hidden_rowid).map(|name| quoted(name));
    let columns: Vec<String> = rowid.chain(shape.table.columns.iter().map(|name| quoted(name))).collect();
    let marks = vec!["?"; columns.len()].join(", ");
    format!("INSERT INTO {}({}) VALUES ({marks})", quoted(&shape.table.name), columns.join(", "))
}

fn update_sql(shape: &Shape, set: &[bool]) -> String {
    let (columns, rowid) = set.split_at(shape.table.columns.len());
    let names = shape.table.columns.iter().zip(columns).filter(|(_, set)| **set).map(|(name, _)| name);
    let rowid = shape.rowid.iter().filter(|_| rowid == [true]);
    // A row may have been written as it was: it must be there all the same.
    let mut sets: Vec<String> = names.chain(rowid).map(|name| format!("{} = ?", quoted(name))).collect();
    let bound = sets.len();
    if sets.is_empty() {
        let first = shape.table.columns.first().map(|name| quoted(name)).unwrap_or_default();
        sets.push(format!("{first} = {first}"));
    }
    format!("UPDATE {} SET {} WHERE {}", quoted(&shape.table.name), sets.join(", "), condition(shape, bound))
}
