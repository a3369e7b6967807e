//! Tables as row changes see them.

use std::collections::HashMap;
use std::rc::Rc;

use rdb_record::TableShape;

use super::missing::{Affinity, Defaults, Missing};
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
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Shape {
    pub(crate) table: TableShape,
    /// Places of the stored columns among all columns.
    pub(crate) stored: Vec<usize>,
    /// How SQL names the rowid; `None`: all its names are columns' (or there is none).
    pub(crate) rowid: Option<String>,
    /// Of a table without rowid: what its key compares, place among the key's columns and collation. A column may be declared
    /// with another one, or be there twice with two.
    pub(crate) compared: Vec<(usize, String)>,
    /// What rows have in the stored columns that they were written without.
    pub(crate) missing: Vec<Missing>,
}

/// SQLite's own limit on the columns that a SELECT gives.
const MOST_COLUMNS: usize = 2000;

/// As many comparisons one behind the other are no problem for SQLite's parser.
const MOST_COMPARED: usize = 400;

impl Shape {
    /// Why its changes can't be carried, if they can't.
    pub(crate) fn refusal(&self) -> Option<String> {
        let why = if !self.table.without_rowid && self.rowid.is_none() {
            "can't be named: it has columns called rowid, _rowid_ and oid"
        } else if self.rowid.is_some() && self.table.columns.len() >= MOST_COLUMNS {
            "are too wide: it has 2000 columns beside its rowid"
        } else if self.compared.len() > MOST_COMPARED {
            "can't be named: its key has more than 400 columns"
        } else {
            return None;
        };
        Some(format!("rows of {} {why}", self.table.name))
    }

    pub(crate) fn lower_name(&self) -> String {
        self.table.name.to_ascii_lowercase()
    }

    /// All stored columns and the rowid, for a scan: rowid first if there is one.
    pub(crate) fn select(&self) -> String {
        let columns = self.table.columns.iter().map(|name| quoted(name));
        let all: Vec<String> = self.rowid.iter().map(|name| quoted(name)).chain(columns).collect();
        format!("SELECT {} FROM {}", all.join(", "), quoted(&self.table.name))
    }

    /// The same of one row, whose rowid is the parameter.
    pub(crate) fn select_one(&self) -> String {
        format!("{} WHERE {} = ?1", self.select(), quoted(self.rowid.as_deref().unwrap_or("rowid")))
    }
}

/// The shapes of all tables that have rows of their own.
pub(crate) type Shapes = HashMap<Vec<u8>, Rc<Shape>>;

/// Reads them. The statement is the engine's own.
pub(crate) fn read(db: Handle) -> Result<Shapes, SqliteError> {
    let columns = Stmt::internal(
        db,
        "SELECT l.name, l.type, l.wr, x.cid, x.name, x.pk, x.hidden, x.type, x.dflt_value, l.strict
         FROM pragma_table_list l, pragma_table_xinfo(l.name) x
         WHERE l.schema = 'main' AND l.type IN ('table', 'shadow') AND l.name <> 'sqlite_schema'
         ORDER BY l.name, x.cid",
    )?;
    let (mut tables, mut defaults) = (Vec::<Table>::new(), Defaults::default());
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
            missing: match columns.value(8) {
                Value::Text(sql) => defaults.value(&sql, Affinity::of(&text(&columns, 7), columns.integer(9) != 0)),
                _ => Missing::Null,
            },
        };
        tables.last_mut().map(|table| table.columns.push(column)).unwrap_or_default();
    }
    let mut shapes = Shapes::new();
    for table in tables {
        let own_rowid = !table.without_rowid && key_is_rowid(db, &table)?;
        let collations = if table.without_rowid { key_collations(db, &table)? } else { Vec::new() };
        shapes.insert(table.name.clone().into_bytes(), Rc::new(shape(table, own_rowid, &collations)));
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
    missing: Missing,
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
    let name = Value::Text(table.name.clone());
    let index = Stmt::internal(db, "SELECT 1 FROM pragma_index_list(?1) WHERE origin = 'pk'")?;
    // SAFETY: `name` outlives the statement, which is dropped first.
    unsafe { index.bind(1, &name)? };
    index.step().map(|found| !found)
}

/// The columns of the primary key with the collations by which it compares them.
fn key_collations(db: Handle, table: &Table) -> Result<Vec<(String, String)>, SqliteError> {
    let name = Value::Text(table.name.clone());
    let index = Stmt::internal(
        db,
        "SELECT x.name, x.coll FROM pragma_index_list(?1) l, pragma_index_xinfo(l.name) x
         WHERE l.origin = 'pk' AND x.key = 1 ORDER BY x.seqno",
    )?;
    // SAFETY: as above.
    unsafe { index.bind(1, &name)? };
    let mut found = Vec::new();
    while index.step()? {
        found.push((text(&index, 0), text(&index, 1)));
    }
    Ok(found)
}

fn shape(table: Table, own_rowid: bool, collations: &[(String, String)]) -> Shape {
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
    let missing = kept.iter().map(|(_, column)| column.missing.clone()).collect();
    let columns: Vec<String> = kept.iter().map(|(_, column)| column.name.clone()).collect();
    let place = |name: &String| key.iter().position(|place| columns.get(*place) == Some(name));
    let compared = collations.iter().filter_map(|(name, by)| place(name).map(|place| (place, by.clone()))).collect();
    let table = TableShape { name, columns, key, without_rowid, internal };
    Shape { table, stored, rowid, compared, missing }
}
