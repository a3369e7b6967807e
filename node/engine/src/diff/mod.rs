//! Row changes between two databases, for the archive of a divergent tail.
//!
//! Works whatever the log format was: the tail is applied to a copy, and the copies are compared table by table. Rows
//! are matched by primary key; those of tables without one (or with NULLs in it) as a multiset of whole rows. Values are
//! compared with their types and without collations, so that nothing that differs is taken for equal. Columns that only
//! one side has count as changed when they hold something.

mod exact;
mod order;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::Path;

use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags, Row};
use serde_json::{Map, Value as Json, json};

use self::order::{Part, parents_first, part_of};
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

/// Writes what must be done to `old` to make it `new`, as JSON lines in an order in which that can be done:
/// `{"table": …, "op": "insert"|"delete"|"update", "key": {…}, "old": {…}, "new": {…}}` and
/// `{"schema": name, "kind": …, "old": sql|null, "new": sql|null}`. Rows of tables without a key have no `key`. Values whose
/// JSON is ambiguous are repeated as SQL: `"exact": {"old": {column: sql}, "new": {…}}`. Neither file is changed.
pub fn diff(old: &Path, new: &Path, out: &mut dyn Write) -> Result<DiffSummary, EngineError> {
    let mut diff = Diff { connection: attach(old, new)?, out, summary: DiffSummary::default() };
    let (old, new) = (tables(&diff.connection, "old")?, tables(&diff.connection, "new")?);
    let schema = diff.schema_lines()?;
    let unique: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    let mut names = parents_first(&diff.connection, unique.into_iter())?;
    diff.schema(&schema, Part::Before)?;
    names.reverse();
    let mut unreadable = BTreeSet::new();
    for pass in [Pass::Gone, Pass::Made] {
        for name in &names {
            if !unreadable.contains(name) && !diff.table(name, old.get(*name), new.get(*name), pass)? {
                unreadable.insert(*name);
            }
        }
        names.reverse();
    }
    diff.schema(&schema, Part::After)?;
    Ok(diff.summary)
}

/// Rows that go are listed before rows that come or change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pass {
    Gone,
    Made,
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
    /// What differs in the schemas; not parts of virtual tables, which come and go with those.
    fn schema_lines(&self) -> Result<Vec<(Part, Json)>, EngineError> {
        let side = |from: &str, to: &str, of: &str, schema: &str| {
            format!(
                "SELECT {of}.type, {of}.name, o.sql, n.sql FROM {from} LEFT JOIN {to} USING (type, name)
                 WHERE {of}.name NOT LIKE 'sqlite^_%' ESCAPE '^' AND {of}.name NOT LIKE '^_rdb^_%' ESCAPE '^'
                 AND {of}.name NOT IN (SELECT name FROM pragma_table_list WHERE schema = '{schema}' AND type = 'shadow')"
            )
        };
        let (old, new) = ("old.sqlite_schema o", "new.sqlite_schema n");
        let sql = format!(
            "{} AND o.sql IS NOT n.sql UNION ALL {} AND o.name IS NULL ORDER BY 1, 2",
            side(old, new, "o", "old"),
            side(new, old, "n", "new")
        );
        let mut lines = Vec::new();
        let mut stmt = self.connection.prepare(&sql).map_err(comparing)?;
        let mut rows = stmt.query([]).map_err(comparing)?;
        while let Some(row) = rows.next().map_err(comparing)? {
            let text = |at| row.get::<_, Option<String>>(at).map_err(comparing);
            let (kind, old, new) = (text(0)?, text(2)?, text(3)?);
            let part = part_of(kind.as_deref().unwrap_or_default(), old.is_some(), new.is_some());
            lines.push((part, json!({ "schema": text(1)?, "kind": kind, "old": old, "new": new })));
        }
        Ok(lines)
    }

    fn schema(&mut self, lines: &[(Part, Json)], part: Part) -> Result<(), EngineError> {
        let mut lines: Vec<&Json> = lines.iter().filter(|(of, _)| *of == part).map(|(_, line)| line).collect();
        if part == Part::After {
            // Views before their triggers; what goes, goes the other way.
            lines.reverse();
        }
        for line in lines {
            self.summary.schema += 1;
            self.line(line)?;
        }
        Ok(())
    }

    /// False: the table can't be read as a whole, as some virtual ones; it must not hide the others.
    fn table(&mut self, name: &str, old: Option<&Table>, new: Option<&Table>, pass: Pass) -> Result<bool, EngineError> {
        let before = self.summary;
        let compared = match (old, new, pass) {
            (Some(old), Some(new), _) if !old.key.is_empty() && old.key == new.key => self.keyed(name, old, new, pass),
            (Some(old), Some(new), _) if old.columns == new.columns => self.multiset(name, old, pass),
            (Some(old), _, Pass::Gone) => self.whole(name, "old", "delete", old),
            (_, Some(new), Pass::Made) => self.whole(name, "new", "insert", new),
            _ => Ok(()),
        };
        if let Err(EngineError::Sqlite { why, .. }) = compared {
            self.summary = DiffSummary { unreadable: before.unreadable + 1, ..self.summary };
            self.line(&json!({ "table": name, "op": "unreadable", "why": why }))?;
            return Ok(false);
        }
        compared.map(|()| true)
    }

    fn whole(&mut self, name: &str, side: &str, op: &str, table: &Table) -> Result<(), EngineError> {
        let sql = format!("SELECT {} FROM {side}.{}", list(&table.columns, ""), quoted(name));
        self.rows(&sql, |row| Ok((op_line(name, op, &table.key, &object(row, &table.columns, 0)?), 1)))
    }

    fn keyed(&mut self, name: &str, old: &Table, new: &Table, pass: Pass) -> Result<(), EngineError> {
        let key: Vec<String> = old.key.iter().map(|key| quoted(key)).map(|key| format!("o.{key} = n.{key}")).collect();
        let (key, table) = (key.join(" AND "), quoted(name));
        let missing = |columns: &Table, of: &str, from: &str, other: &str| {
            let columns = list(&columns.columns, of);
            format!("SELECT {columns} FROM {from} WHERE NOT EXISTS (SELECT 1 FROM {other} WHERE {key})")
        };
        let (from_old, from_new) = (format!("old.{table} o"), format!("new.{table} n"));
        if pass == Pass::Gone {
            let sql = missing(old, "o.", &from_old, &from_new);
            return self.rows(&sql, |row| Ok((op_line(name, "delete", &old.key, &object(row, &old.columns, 0)?), 1)));
        }
        let sql = missing(new, "n.", &from_new, &from_old);
        self.rows(&sql, |row| Ok((op_line(name, "insert", &new.key, &object(row, &new.columns, 0)?), 1)))?;
        let changed = changed_condition(old, new);
        let sql = format!(
            "SELECT {}, {} FROM {from_old} JOIN {from_new} ON {key} WHERE {changed}",
            list(&old.columns, "o."),
            list(&new.columns, "n.")
        );
        self.rows(&sql, |row| {
            let before = object(row, &old.columns, 0)?;
            let after = object(row, &new.columns, old.columns.len())?;
            let mut line = json!({ "table": name, "op": "update", "key": key_of(&before.values, &old.key),
                                   "old": before.values, "new": after.values });
            let exact = [("old", before.exact), ("new", after.exact)];
            put_exact(&mut line, exact.into_iter().filter(|(_, exact)| !exact.is_empty()));
            Ok((line, 1))
        })
    }

    fn multiset(&mut self, name: &str, table: &Table, pass: Pass) -> Result<(), EngineError> {
        let (columns, quoted_name) = (list(&table.columns, ""), quoted(name));
        let exact: Vec<String> = table
            .columns
            .iter()
            .map(|column| quoted(column))
            .map(|column| format!("{column} COLLATE BINARY, typeof({column})"))
            .collect();
        let (op, wanted) = if pass == Pass::Gone { ("delete", "<") } else { ("insert", ">") };
        let sql = format!(
            "SELECT {columns}, sum(side) FROM (
                 SELECT {columns}, 1 AS side FROM new.{quoted_name}
                 UNION ALL SELECT {columns}, -1 FROM old.{quoted_name})
             GROUP BY {} HAVING sum(side) {wanted} 0",
            exact.join(", ")
        );
        self.rows(&sql, |row| {
            let surplus: i64 = row.get(table.columns.len())?;
            Ok((op_line(name, op, &[], &object(row, &table.columns, 0)?), surplus.unsigned_abs()))
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

/// A row's values, and those of them that JSON does not tell exactly.
struct Object {
    values: Map<String, Json>,
    exact: Map<String, Json>,
}

fn op_line(table: &str, op: &str, key: &[String], row: &Object) -> Json {
    let side = if op == "insert" { "new" } else { "old" };
    let mut line = json!({ "table": table, "op": op, side: row.values });
    if let (false, Some(line)) = (key.is_empty(), line.as_object_mut()) {
        line.insert("key".to_owned(), key_of(&row.values, key));
    }
    if !row.exact.is_empty() {
        put_exact(&mut line, [(side, row.exact.clone())]);
    }
    line
}

fn key_of(row: &Map<String, Json>, key: &[String]) -> Json {
    let values = row.iter().filter(|(column, _)| key.contains(column));
    Json::Object(values.map(|(column, value)| (column.clone(), value.clone())).collect())
}

fn put_exact<'a>(line: &mut Json, sides: impl IntoIterator<Item = (&'a str, Map<String, Json>)>) {
    let exact: Map<String, Json> =
        sides.into_iter().map(|(side, exact)| (side.to_owned(), Json::Object(exact))).collect();
    if let (false, Some(line)) = (exact.is_empty(), line.as_object_mut()) {
        line.insert("exact".to_owned(), Json::Object(exact));
    }
}

fn object(row: &Row<'_>, columns: &[String], from: usize) -> rusqlite::Result<Object> {
    let mut object = Object { values: Map::new(), exact: Map::new() };
    for (index, column) in columns.iter().enumerate() {
        let stored = row.get_ref(from + index)?;
        let value = match stored {
            ValueRef::Null => Value::Null,
            ValueRef::Integer(integer) => Value::Integer(integer),
            ValueRef::Real(real) => Value::Real(real),
            ValueRef::Text(text) => Value::Text(String::from_utf8_lossy(text).into_owned()),
            ValueRef::Blob(blob) => Value::Blob(blob.to_vec()),
        };
        if let Some(literal) = exact::literal(stored) {
            object.exact.insert(column.clone(), Json::String(literal));
        }
        object.values.insert(column.clone(), value_to_json(&value));
    }
    Ok(object)
}
