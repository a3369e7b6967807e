//! Rows of a table as INSERT statements with bound values.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rdb_protocol::api::{Args, Statement};
use rusqlite::types::ValueRef;
use rusqlite::{Connection, Row};
use serde_json::{Value, json};

use super::{LoadError, Sink, Unit};
use crate::catalog::{Table, quoted};
use crate::dump::literal;

/// Passes on all rows of `table`, with these columns before its own; `done` is called once for each row.
pub fn each(
    db: &Connection,
    table: &Table,
    first: &[&str],
    done: &mut dyn FnMut() -> u64,
    sink: &mut Sink<'_>,
) -> Result<(), LoadError> {
    let own = table.columns.iter().map(|column| quoted(column));
    let columns: Vec<String> = first.iter().map(|column| (*column).to_owned()).chain(own).collect();
    let (list, name) = (columns.join(","), quoted(&table.name));
    let head = format!("INSERT INTO {name}({list}) VALUES");
    let marks = vec!["?"; columns.len()].join(",");
    let mut statement = db.prepare(&format!("SELECT {list} FROM main.{name}"))?;
    let mut rows = statement.query([])?;
    let mut number = 0u64;
    while let Some(row) = rows.next()? {
        number += 1;
        let statement = match bound(row, columns.len())? {
            Some(values) => Statement { sql: format!("{head}({marks})"), args: Args::Positional(values) },
            None => Statement { sql: format!("{head}({})", written(row, columns.len())?), args: Args::default() },
        };
        let origin = format!("row {number} of {}", table.name);
        sink(Unit { origin, statements: vec![statement], done: done() })?;
    }
    Ok(())
}

/// The row as JSON arguments; `None` if it has a value that JSON can't carry.
fn bound(row: &Row<'_>, columns: usize) -> rusqlite::Result<Option<Vec<Value>>> {
    (0..columns).map(|column| row.get_ref(column).map(json_value)).collect()
}

fn json_value(value: ValueRef<'_>) -> Option<Value> {
    match value {
        ValueRef::Null => Some(Value::Null),
        ValueRef::Integer(number) => Some(json!(number)),
        ValueRef::Real(number) => serde_json::Number::from_f64(number).map(Value::Number),
        ValueRef::Text(bytes) => std::str::from_utf8(bytes).ok().map(Value::from),
        ValueRef::Blob(bytes) => Some(json!({ "base64": STANDARD.encode(bytes) })),
    }
}

/// The row as SQL literals.
fn written(row: &Row<'_>, columns: usize) -> rusqlite::Result<String> {
    let literals = (0..columns).map(|column| row.get_ref(column).map(literal));
    Ok(literals.collect::<rusqlite::Result<Vec<String>>>()?.join(","))
}
