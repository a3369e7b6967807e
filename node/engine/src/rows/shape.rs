//! Tables as row changes see them.

use std::collections::HashMap;
use std::rc::Rc;

use rdb_record::TableShape;

use super::quoted;
use crate::authorizer::INTERNAL_PREFIX;
use crate::sql::statement::{Handle, SqliteError, Stmt};
use crate::sql::text::starts_with_ignoring_case;
use crate::value::Value;

/// The node's own position: it says the same on every node without being carried.
pub(crate) const POSITION_TABLE: &str = "_rdb_position";

/// Names by which SQL may mean the rowid, unless a column has the name.
const ROWID_NAMES: [&str; 3] = ["rowid", "_rowid_", "oid"];

/// A table and what it takes to carry its rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    pub(crate) table: TableShape,
    /// Places of the stored columns among all columns.
    pub(crate) stored: Vec<usize>,
    /// How SQL names the rowid; `None`: all its names are columns' (or there is none).
    pub(crate) rowid: Option<String>,
}

impl Shape {
    /// Its rows can't be named, so its changes can't be carried.
    pub(crate) fn unnameable(&self) -> bool {
        !self.table.without_rowid && self.rowid.is_none()
    }

    /// All stored columns and the rowid, for a scan: rowid first if there is one.
    pub(crate) fn select(&self) -> String {
        let columns = self.table.columns.iter().map(|name| quoted(name));
        let all: Vec<String> = self.rowid.iter().map(|name| quoted(name)).chain(columns).collect();
        format!("SELECT {} FROM {}", all.join(", "), quoted(&self.table.name))
    }
}

/// The shapes of all tables that have rows of their own.
pub(crate) type Shapes = HashMap<Vec<u8>, Rc<Shape>>;

/// Reads them. The statement is the engine's own.
pub(crate) fn read(db: Handle) -> Result<Shapes, SqliteError> {
    let columns = Stmt::internal(
        db,
        "SELECT l.name, l.type, l.wr, x.cid, x.name, x.pk, x.hidden, x.type
         FROM pragma_table_list l, pragma_table_xinfo(l.name) x
         WHERE l.schema = 'main' AND l.type IN ('table', 'shadow') AND l.name <> 'sqlite_schema'
         ORDER BY l.name, x.cid",
    )?;
    let mut tables: Vec<Table> = Vec::new();
    while columns.step()? {
        let name = text(&columns, 0);
        if tables.last().is_none_or(|last| last.name != name) {
            let (shadow, without_rowid) = (text(&columns, 1) == "shadow", columns.integer(2) != 0);
            tables.push(Table { name, shadow, without_rowid, columns: Vec::new() });
        }
        let column = Column {
            name: text(&columns, 4),
            key: columns.integer(5).unsigned_abs() as usize,
            // 1: hidden column of a virtual table; 2 and 3: generated.
            stored: columns.integer(6) == 0,
            integer: text(&columns, 7).eq_ignore_ascii_case("INTEGER"),
        };
        tables.last_mut().map(|table| table.columns.push(column)).unwrap_or_default();
    }
    let mut shapes = Shapes::new();
    for table in tables {
        let own_rowid = !table.without_rowid && key_is_rowid(db, &table)?;
        shapes.insert(table.name.clone().into_bytes(), Rc::new(shape(table, own_rowid)));
    }
    Ok(shapes)
}

struct Table {
    name: String,
    shadow: bool,
    without_rowid: bool,
    columns: Vec<Column>,
}

struct Column {
    name: String,
    /// Place in the primary key from 1; 0: not in it.
    key: usize,
    stored: bool,
    integer: bool,
}

fn text(stmt: &Stmt, index: usize) -> String {
    match stmt.value(index) {
        Value::Text(text) => text,
        _ => String::new(),
    }
}

/// Is the primary key the rowid? Such a key has no index of its own; `INTEGER PRIMARY KEY DESC` has.
fn key_is_rowid(db: Handle, table: &Table) -> Result<bool, SqliteError> {
    let mut key = table.columns.iter().filter(|column| column.key > 0);
    if !matches!((key.next(), key.next()), (Some(column), None) if column.integer) {
        return Ok(false);
    }
    let index = Stmt::internal(db, "SELECT 1 FROM pragma_index_list(?1) WHERE origin = 'pk'")?;
    let name = Value::Text(table.name.clone());
    // SAFETY: `name` outlives the statement's use below.
    unsafe { index.bind(1, &name)? };
    let found = index.step();
    index.reset();
    index.clear();
    found.map(|found| !found)
}

fn shape(table: Table, own_rowid: bool) -> Shape {
    let Table { name, shadow, without_rowid, columns } = table;
    let is_column = |rowid: &&str| columns.iter().any(|column| column.name.eq_ignore_ascii_case(rowid));
    let mut rowid = ROWID_NAMES.iter().find(|name| !is_column(name)).map(|name| (*name).to_owned());
    let kept: Vec<(usize, &Column)> = columns.iter().enumerate().filter(|(_, column)| column.stored).collect();
    let mut key: Vec<(usize, usize)> = kept
        .iter()
        .enumerate()
        .filter(|(_, (_, column))| column.key > 0)
        .map(|(place, (_, column))| (column.key, place))
        .collect();
    key.sort_unstable();
    let mut key: Vec<usize> = key.into_iter().map(|(_, place)| place).collect();
    if without_rowid {
        rowid = None;
    } else if own_rowid {
        rowid = columns.iter().find(|column| column.key > 0).map(|column| column.name.clone());
    } else {
        key.clear();
    }
    let internal =
        shadow || starts_with_ignoring_case(&name, INTERNAL_PREFIX) || starts_with_ignoring_case(&name, "sqlite_");
    let stored = kept.iter().map(|(place, _)| *place).collect();
    let columns = kept.iter().map(|(_, column)| column.name.clone()).collect();
    Shape { table: TableShape { name, columns, key, without_rowid, internal }, stored, rowid }
}
