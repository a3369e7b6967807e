//! Row changes between two databases, for the archive of a divergent tail.
//!
//! Works whatever the log format was: the tail is applied to a copy, and the copies are compared table by table. Rows
//! are matched by primary key; those of tables without one (or with NULLs in it) as a multiset of whole rows. Values are
//! compared with their types and without collations, so that nothing that differs is taken for equal. Columns that only
//! one side has count as changed when they hold something.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::Path;

use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags, Row};
use serde_json::{Map, Value as Json, json};

use crate::authorizer::INTERNAL_PREFIX;
use crate::connection::{io, sqlite};
use crate::error::EngineError;
use crate::json::value_to_json;
use crate::sql::text::starts_with_ignoring_case;
use crate::value::Value;

/// What [`diff`] found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiffSummary {
    pub inserted: u64,
    pub deleted: u64,
    pub updated: u64,
    /// Tables, indexes, triggers and views that differ.
    pub schema: u64,
    /// Virtual tables whose rows could not be read; each has a line that says why.
    pub unreadable: u64,
}

/// Writes what must be done to `old` to make it `new`, as JSON lines, table by table:
/// `{"table": …, "op": "insert"|"delete"|"update", "key": {…}, "old": {…}, "new": {…}}` and
/// `{"schema": name, "kind": …, "old": sql|null, "new": sql|null}`. Neither file is changed.
pub fn diff(old: &Path, new: &Path, out: &mut dyn Write) -> Result<DiffSummary, EngineError> {
    let mut diff = Diff { connection: attach(old, new)?, out, summary: DiffSummary::default() };
    diff.schema()?;
    let (old, new) = (tables(&diff.connection, "old")?, tables(&diff.connection, "new")?);
    let names: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    for name in names {
        diff.table(name, old.get(name), new.get(name))?;
    }
    Ok(diff.summary)
}

fn comparing(error: rusqlite::Error) -> EngineError {
    sqlite("comparing databases", error)
}

fn attach(old: &Path, new: &Path) -> Result<Connection, EngineError> {
    use rusqlite::config::DbConfig;
    let connection = Connection::open_in_memory_with_flags(OpenFlags::default()).map_err(comparing)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).map_err(comparing)?;
    for (path, name) in [(old, "old"), (new, "new")] {
        if !path.exists() {
            return Err(EngineError::Missing(path.display().to_string()));
        }
        let path = path.to_string_lossy();
        connection.execute(&format!("ATTACH ?1 AS {name}"), [path]).map_err(comparing)?;
    }
    connection.pragma_update(None, "query_only", true).map_err(comparing)?;
    Ok(connection)
}

/// A table of one side.
struct Table {
    columns: Vec<String>,
    /// Columns of the primary key; empty when rows can't be told apart by it.
    key: Vec<String>,
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Clients' tables of a side: no internal ones, no parts of virtual tables.
fn tables(connection: &Connection, side: &str) -> Result<BTreeMap<String, Table>, EngineError> {
    let list = format!("SELECT name FROM pragma_table_list WHERE schema = '{side}' AND type IN ('table', 'virtual')");
    let mut list = connection.prepare(&list).map_err(comparing)?;
    let names = list.query_map([], |row| row.get::<_, String>(0)).map_err(comparing)?;
    let mut tables = BTreeMap::new();
    for name in names {
        let name = name.map_err(comparing)?;
        if !starts_with_ignoring_case(&name, INTERNAL_PREFIX) && !starts_with_ignoring_case(&name, "sqlite_") {
            let table = read_table(connection, side, &name)?;
            tables.insert(name, table);
        }
    }
    Ok(tables)
}

fn read_table(connection: &Connection, side: &str, name: &str) -> Result<Table, EngineError> {
    let sql = format!("PRAGMA {side}.table_info({})", quoted(name));
    let mut info = connection.prepare(&sql).map_err(comparing)?;
    let rows = info.query_map([], |row| Ok((row.get::<_, String>(1)?, row.get::<_, i64>(5)?)));
    let rows: Vec<(String, i64)> = rows.and_then(Iterator::collect).map_err(comparing)?;
    let mut key: Vec<(i64, String)> =
        rows.iter().filter(|(_, at)| *at > 0).map(|(column, at)| (*at, column.clone())).collect();
    key.sort();
    let mut key: Vec<String> = key.into_iter().map(|(_, column)| column).collect();
    if !key.is_empty() {
        let nulls: Vec<String> = key.iter().map(|column| format!("{} IS NULL", quoted(column))).collect();
        let sql = format!("SELECT EXISTS (SELECT 1 FROM {side}.{} WHERE {})", quoted(name), nulls.join(" OR "));
        if connection.query_row(&sql, [], |row| row.get(0)).map_err(comparing)? {
            key.clear();
        }
    }
    Ok(Table { columns: rows.into_iter().map(|(column, _)| column).collect(), key })
}

struct Diff<'a> {
    connection: Connection,
    out: &'a mut dyn Write,
    summary: DiffSummary,
}

impl Diff<'_> {
    fn schema(&mut self) -> Result<(), EngineError> {
        let side = |from: &str, to: &str, of: &str| {
            format!(
                "SELECT {of}.type, {of}.name, o.sql, n.sql FROM {from} LEFT JOIN {to} USING (type, name)
                 WHERE {of}.name NOT LIKE 'sqlite^_%' ESCAPE '^' AND {of}.name NOT LIKE '^_rdb^_%' ESCAPE '^'"
            )
        };
        let (old, new) = ("old.sqlite_schema o", "new.sqlite_schema n");
        let sql = format!(
            "{} AND o.sql IS NOT n.sql UNION ALL {} AND o.name IS NULL ORDER BY 1, 2",
            side(old, new, "o"),
            side(new, old, "n")
        );
        let mut lines = Vec::new();
        {
            let mut stmt = self.connection.prepare(&sql).map_err(comparing)?;
            let mut rows = stmt.query([]).map_err(comparing)?;
            while let Some(row) = rows.next().map_err(comparing)? {
                let text = |at| row.get::<_, Option<String>>(at).map_err(comparing);
                lines.push(json!({ "schema": text(1)?, "kind": text(0)?, "old": text(2)?, "new": text(3)? }));
            }
        }
        for line in lines {
            self.summary.schema += 1;
            self.line(&line)?;
        }
        Ok(())
    }

    fn table(&mut self, name: &str, old: Option<&Table>, new: Option<&Table>) -> Result<(), EngineError> {
        let before = self.summary;
        let compared = match (old, new) {
            (Some(old), Some(new)) if !old.key.is_empty() && old.key == new.key => self.keyed(name, old, new),
            (Some(old), Some(new)) if old.columns == new.columns => self.multiset(name, old),
            (old, new) => old
                .map_or(Ok(()), |old| self.whole(name, "old", "delete", old))
                .and_then(|()| new.map_or(Ok(()), |new| self.whole(name, "new", "insert", new))),
        };
        // Some virtual tables can't be read as a whole; they must not hide the others.
        if let Err(EngineError::Sqlite { why, .. }) = compared {
            self.summary = DiffSummary { unreadable: before.unreadable + 1, ..self.summary };
            return self.line(&json!({ "table": name, "op": "unreadable", "why": why }));
        }
        compared
    }

    fn whole(&mut self, name: &str, side: &str, op: &str, table: &Table) -> Result<(), EngineError> {
        let sql = format!("SELECT {} FROM {side}.{}", list(&table.columns, ""), quoted(name));
        self.rows(&sql, |row| Ok((op_line(name, op, &object(row, &table.columns, 0)?), 1)))
    }

    fn keyed(&mut self, name: &str, old: &Table, new: &Table) -> Result<(), EngineError> {
        let key: Vec<String> = old.key.iter().map(|key| quoted(key)).map(|key| format!("o.{key} = n.{key}")).collect();
        let (key, table) = (key.join(" AND "), quoted(name));
        let missing = |columns: &Table, of: &str, from: &str, other: &str| {
            let columns = list(&columns.columns, of);
            format!("SELECT {columns} FROM {from} WHERE NOT EXISTS (SELECT 1 FROM {other} WHERE {key})")
        };
        let (from_old, from_new) = (format!("old.{table} o"), format!("new.{table} n"));
        let sql = missing(old, "o.", &from_old, &from_new);
        self.rows(&sql, |row| Ok((op_line(name, "delete", &object(row, &old.columns, 0)?), 1)))?;
        let sql = missing(new, "n.", &from_new, &from_old);
        self.rows(&sql, |row| Ok((op_line(name, "insert", &object(row, &new.columns, 0)?), 1)))?;
        let changed = changed_condition(old, new);
        let sql = format!(
            "SELECT {}, {} FROM {from_old} JOIN {from_new} ON {key} WHERE {changed}",
            list(&old.columns, "o."),
            list(&new.columns, "n.")
        );
        self.rows(&sql, |row| {
            let before = object(row, &old.columns, 0)?;
            let after = object(row, &new.columns, old.columns.len())?;
            let of_key = |(column, _): &(&String, &Json)| old.key.contains(column);
            let key: Map<String, Json> =
                before.iter().filter(of_key).map(|(column, value)| (column.clone(), value.clone())).collect();
            Ok((json!({ "table": name, "op": "update", "key": key, "old": before, "new": after }), 1))
        })
    }

    fn multiset(&mut self, name: &str, table: &Table) -> Result<(), EngineError> {
        let (columns, quoted_name) = (list(&table.columns, ""), quoted(name));
        let exact: Vec<String> = table
            .columns
            .iter()
            .map(|column| quoted(column))
            .map(|column| format!("{column} COLLATE BINARY, typeof({column})"))
            .collect();
        let sql = format!(
            "SELECT {columns}, sum(side) FROM (
                 SELECT {columns}, 1 AS side FROM new.{quoted_name}
                 UNION ALL SELECT {columns}, -1 FROM old.{quoted_name})
             GROUP BY {} HAVING sum(side) <> 0",
            exact.join(", ")
        );
        self.rows(&sql, |row| {
            let surplus: i64 = row.get(table.columns.len())?;
            let op = if surplus > 0 { "insert" } else { "delete" };
            Ok((op_line(name, op, &object(row, &table.columns, 0)?), surplus.unsigned_abs()))
        })
    }

    /// Writes a line for each row of a query, as often as it says.
    fn rows(&mut self, sql: &str, line: impl Fn(&Row<'_>) -> rusqlite::Result<(Json, u64)>) -> Result<(), EngineError> {
        let mut stmt = self.connection.prepare(sql).map_err(comparing)?;
        let mut rows = stmt.query([]).map_err(comparing)?;
        while let Some(row) = rows.next().map_err(comparing)? {
            let (line, times) = line(row).map_err(comparing)?;
            match line.get("op").and_then(Json::as_str) {
                Some("insert") => self.summary.inserted += times,
                Some("delete") => self.summary.deleted += times,
                _ => self.summary.updated += times,
            }
            for _ in 0..times {
                write_line(self.out, &line)?;
            }
        }
        Ok(())
    }

    fn line(&mut self, line: &Json) -> Result<(), EngineError> {
        write_line(self.out, line)
    }
}

fn write_line(out: &mut dyn Write, line: &Json) -> Result<(), EngineError> {
    writeln!(out, "{line}").map_err(|error| io("writing the row changes", &error))
}

fn list(columns: &[String], of: &str) -> String {
    let columns: Vec<String> = columns.iter().map(|column| format!("{of}{}", quoted(column))).collect();
    columns.join(", ")
}

/// When is a row of both sides changed?
fn changed_condition(old: &Table, new: &Table) -> String {
    let mut conditions = Vec::new();
    for column in &old.columns {
        let name = quoted(column);
        conditions.push(if new.columns.contains(column) {
            format!("o.{name} IS NOT n.{name} COLLATE BINARY OR typeof(o.{name}) <> typeof(n.{name})")
        } else {
            format!("o.{name} IS NOT NULL")
        });
    }
    let added = new.columns.iter().filter(|column| !old.columns.contains(column));
    conditions.extend(added.map(|column| format!("n.{} IS NOT NULL", quoted(column))));
    conditions.join(" OR ")
}

fn op_line(table: &str, op: &str, row: &Map<String, Json>) -> Json {
    let side = if op == "insert" { "new" } else { "old" };
    json!({ "table": table, "op": op, side: row })
}

fn object(row: &Row<'_>, columns: &[String], from: usize) -> rusqlite::Result<Map<String, Json>> {
    let mut object = Map::new();
    for (index, column) in columns.iter().enumerate() {
        let value = match row.get_ref(from + index)? {
            ValueRef::Null => Value::Null,
            ValueRef::Integer(integer) => Value::Integer(integer),
            ValueRef::Real(real) => Value::Real(real),
            ValueRef::Text(text) => Value::Text(String::from_utf8_lossy(text).into_owned()),
            ValueRef::Blob(blob) => Value::Blob(blob.to_vec()),
        };
        object.insert(column.clone(), value_to_json(&value));
    }
    Ok(object)
}
