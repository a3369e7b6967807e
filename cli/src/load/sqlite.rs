//! Units from a SQLite file: tables first, then their rows with bound values, then indexes, views and triggers.
//!
//! The file is read in one transaction, so another program may go on using it. Tables that others refer to by foreign keys
//! come before those.

use std::path::Path;

use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags};

use super::{LoadError, Sink, Source, Unit, plain, rows, virtual_table};
use crate::catalog::{Catalog, Kind, Table, quoted};
use crate::dump::literal;

pub struct SqliteFile {
    db: Connection,
    catalog: Catalog,
    rows: u64,
    notes: Vec<String>,
}

impl SqliteFile {
    pub fn open(path: &Path) -> Result<SqliteFile, LoadError> {
        let db = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
        // Never committed: it ends with the connection.
        db.execute_batch("BEGIN")?;
        let mut catalog = Catalog::read(&db)?;
        catalog.tables = parents_first(&db, catalog.tables)?;
        let mut rows = 0;
        for table in stored(&catalog) {
            let count: i64 =
                db.query_row(&format!("SELECT count(*) FROM main.{}", quoted(&table.name)), [], |row| row.get(0))?;
            rows += count.unsigned_abs();
        }
        Ok(SqliteFile { db, catalog, rows, notes: Vec::new() })
    }
}

/// Tables whose rows are copied as they are.
fn stored(catalog: &Catalog) -> impl Iterator<Item = &Table> {
    catalog.tables.iter().filter(|table| table.kind == Kind::Table)
}

/// Depth first over foreign keys; a ring is broken where it is entered, and the deferred keys do the rest.
fn parents_first(db: &Connection, tables: Vec<Table>) -> rusqlite::Result<Vec<Table>> {
    fn visit(index: usize, parents: &[Vec<usize>], seen: &mut [bool], order: &mut Vec<usize>) {
        if std::mem::replace(&mut seen[index], true) {
            return;
        }
        for parent in &parents[index] {
            visit(*parent, parents, seen, order);
        }
        order.push(index);
    }
    let mut parents = Vec::new();
    for table in &tables {
        let mut statement = db.prepare("SELECT DISTINCT lower(\"table\") FROM pragma_foreign_key_list(?)")?;
        let names = statement.query_map([&table.name], |row| row.get::<_, String>(0))?;
        let names = names.collect::<rusqlite::Result<Vec<String>>>()?;
        let index = |name: &String| tables.iter().position(|table| table.name.to_ascii_lowercase() == *name);
        parents.push(names.iter().filter_map(index).collect::<Vec<usize>>());
    }
    let (mut seen, mut order) = (vec![false; tables.len()], Vec::new());
    for index in 0..tables.len() {
        visit(index, &parents, &mut seen, &mut order);
    }
    let mut tables: Vec<Option<Table>> = tables.into_iter().map(Some).collect();
    Ok(order.into_iter().filter_map(|index| tables[index].take()).collect())
}

impl Source for SqliteFile {
    fn total(&self) -> u64 {
        self.rows
    }

    fn each(&mut self, sink: &mut Sink<'_>) -> Result<(), LoadError> {
        let catalog = &self.catalog;
        for (pragma, value) in [("user_version", catalog.user_version), ("application_id", catalog.application_id)] {
            if value != 0 {
                sink(Unit::one(pragma.to_owned(), format!("PRAGMA {pragma}={value}"), 0))?;
            }
        }
        for table in catalog.tables.iter().filter(|table| table.kind != Kind::Shadow) {
            sink(Unit::one(format!("table {}", table.name), table.sql.clone(), 0))?;
        }
        let mut done = 0;
        for table in stored(catalog) {
            let rowid: Vec<&str> = table.rowid.into_iter().collect();
            let mut count = || {
                done += 1;
                done
            };
            rows::each(&self.db, table, &rowid, &mut count, sink)?;
        }
        for table in catalog.tables.iter().filter(|table| table.kind == Kind::Virtual) {
            self.notes.extend(virtual_table::each_row(&self.db, table, &mut || done, sink)?);
        }
        for (table, counter) in &catalog.counters {
            let name = literal(ValueRef::Text(table.as_bytes()));
            let forget = format!("DELETE FROM sqlite_sequence WHERE name = {name}");
            let mut unit = Unit::one(format!("counter of {table}"), forget, done);
            unit.statements.push(plain(&format!("INSERT INTO sqlite_sequence VALUES({name}, {counter})")));
            sink(unit)?;
        }
        let analyze = catalog.analyzed.then(|| "ANALYZE".to_owned());
        for sql in catalog.rest.iter().cloned().chain(analyze) {
            let origin: String = sql.chars().take(60).collect();
            sink(Unit::one(origin, sql, done))?;
        }
        Ok(())
    }

    fn notes(&self) -> &[String] {
        &self.notes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    use rdb_protocol::api::{Args, Statement};
    use serde_json::Value;

    const FILE: &str = "
        CREATE TABLE child(id INTEGER PRIMARY KEY AUTOINCREMENT, p REFERENCES parent(k));
        CREATE TABLE parent(k TEXT PRIMARY KEY) WITHOUT ROWID;
        CREATE TABLE odd(a);
        INSERT INTO parent VALUES('x');
        INSERT INTO child(p) VALUES('x'), (NULL);
        INSERT INTO odd(rowid, a) VALUES(42, 9e999), (43, 1.0), (44, 9007199254740993), (45, X'00ff');
        CREATE INDEX by_p ON child(p);
        PRAGMA user_version = 9;
    ";

    fn sent(path: &Path) -> Vec<Statement> {
        let mut all = Vec::new();
        let mut file = SqliteFile::open(path).unwrap();
        file.each(&mut |unit| {
            all.extend(unit.statements);
            Ok(())
        })
        .unwrap();
        all
    }

    #[test]
    fn rows_come_after_their_parents_with_exact_values_and_rowids() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("db");
        Connection::open(&path).unwrap().execute_batch(FILE).unwrap();
        let copy = Connection::open_in_memory().unwrap();
        copy.execute_batch("PRAGMA foreign_keys=ON").unwrap();
        for statement in sent(&path) {
            let Args::Positional(values) = &statement.args else { panic!() };
            let values: Vec<rusqlite::types::Value> = values
                .iter()
                .map(|value| match value {
                    Value::Null => rusqlite::types::Value::Null,
                    Value::Number(n) if n.is_i64() => n.as_i64().unwrap().into(),
                    Value::Number(n) => n.as_f64().unwrap().into(),
                    Value::String(text) => text.clone().into(),
                    other => STANDARD.decode(other["base64"].as_str().unwrap()).unwrap().into(),
                })
                .collect();
            copy.execute(&statement.sql, rusqlite::params_from_iter(values)).unwrap();
        }
        let dump = |db: &Connection| {
            let mut out = Vec::new();
            crate::dump::write(db, None, &mut out).unwrap();
            let mut lines: Vec<String> = String::from_utf8(out).unwrap().lines().map(str::to_owned).collect();
            lines.sort();
            lines
        };
        assert_eq!(dump(&copy), dump(&Connection::open(&path).unwrap()));
        let rowids: String = copy.query_row("SELECT group_concat(rowid) FROM odd", [], |row| row.get(0)).unwrap();
        assert_eq!(rowids, "42,43,44,45");
    }
}
