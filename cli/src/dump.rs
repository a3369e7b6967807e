//! A SQLite database as SQL text that SQLite's own shell and `rdb load` understand.
//!
//! Virtual tables are written as SQLite's shell does it: an entry of the schema table, and their shadow tables as they are.

use std::io::Write;
use std::path::Path;

use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags};

use crate::catalog::{Catalog, Kind, Table, quoted};

#[derive(Debug, thiserror::Error)]
pub enum DumpError {
    #[error(transparent)]
    Sqlite(#[from] rusqlite::Error),
    #[error(transparent)]
    Io(#[from] std::io::Error),
    #[error("there is no table {0:?}")]
    NoTable(String),
}

/// Writes the database in a file, or one of its tables.
pub fn write_file(path: &Path, only: Option<&str>, out: &mut dyn Write) -> Result<(), DumpError> {
    let db = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    write(&db, only, out)
}

/// Writes everything in one read transaction.
pub fn write(db: &Connection, only: Option<&str>, out: &mut dyn Write) -> Result<(), DumpError> {
    let transaction = db.unchecked_transaction()?;
    let catalog = Catalog::read(&transaction)?;
    let wanted: Vec<&Table> =
        catalog.tables.iter().filter(|table| only.is_none_or(|only| only.eq_ignore_ascii_case(&table.name))).collect();
    if let (Some(only), true) = (only, wanted.is_empty()) {
        return Err(DumpError::NoTable(only.to_owned()));
    }
    writeln!(out, "PRAGMA foreign_keys=OFF;\nBEGIN TRANSACTION;")?;
    if only.is_none() && (catalog.user_version, catalog.application_id) != (0, 0) {
        writeln!(out, "PRAGMA user_version={};", catalog.user_version)?;
        writeln!(out, "PRAGMA application_id={};", catalog.application_id)?;
    }
    for table in &wanted {
        write_table(&transaction, table, out)?;
    }
    if !catalog.counters.is_empty() && only.is_none() {
        writeln!(out, "DELETE FROM sqlite_sequence;")?;
        for (table, counter) in &catalog.counters {
            writeln!(out, "INSERT INTO sqlite_sequence VALUES({},{counter});", text(table.as_bytes()))?;
        }
    }
    for sql in catalog.rest.iter().filter(|_| only.is_none()) {
        writeln!(out, "{sql};")?;
    }
    writeln!(out, "COMMIT;")?;
    Ok(())
}

fn write_table(db: &Connection, table: &Table, out: &mut dyn Write) -> Result<(), DumpError> {
    match table.kind {
        Kind::Virtual => {
            let (name, sql) = (text(table.name.as_bytes()), text(table.sql.as_bytes()));
            writeln!(out, "PRAGMA writable_schema=ON;")?;
            writeln!(
                out,
                "INSERT INTO sqlite_schema(type,name,tbl_name,rootpage,sql)VALUES('table',{name},{name},0,{sql});"
            )?;
            writeln!(out, "PRAGMA writable_schema=OFF;")?;
            return Ok(());
        }
        Kind::Shadow => {
            let rest = table.sql.strip_prefix("CREATE TABLE ").unwrap_or(&table.sql);
            writeln!(out, "CREATE TABLE IF NOT EXISTS {rest};")?;
        }
        Kind::Table => writeln!(out, "{};", table.sql)?,
    }
    let targets = table.columns.iter().map(|column| quoted(column)).collect::<Vec<_>>().join(",");
    let mut statement = db.prepare(&format!("SELECT {targets} FROM main.{}", quoted(&table.name)))?;
    let mut rows = statement.query([])?;
    // Generated columns can't be inserted into, so then the columns have to be named.
    let named = table.sql.to_ascii_uppercase().contains(" AS ");
    let columns = if named { format!("({targets})") } else { String::new() };
    while let Some(row) = rows.next()? {
        write!(out, "INSERT INTO {}{columns} VALUES(", quoted(&table.name))?;
        for column in 0..table.columns.len() {
            write!(out, "{}{}", if column > 0 { "," } else { "" }, literal(row.get_ref(column)?))?;
        }
        writeln!(out, ");")?;
    }
    Ok(())
}

/// A value as a SQL literal that gives exactly this value back.
pub fn literal(value: ValueRef<'_>) -> String {
    match value {
        ValueRef::Null => "NULL".to_owned(),
        ValueRef::Integer(number) => number.to_string(),
        ValueRef::Real(number) if number == f64::INFINITY => "9.0e+999".to_owned(),
        ValueRef::Real(number) if number == f64::NEG_INFINITY => "-9.0e+999".to_owned(),
        // The shortest text that is read back as the same number; always with a point or exponent.
        ValueRef::Real(number) => format!("{number:?}"),
        ValueRef::Text(bytes) => text(bytes),
        ValueRef::Blob(bytes) => format!("X'{}'", hex(bytes)),
    }
}

/// Text with a NUL, or that is not UTF-8, can't stand in a statement as it is.
fn text(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.contains('\0') => format!("'{}'", text.replace('\'', "''")),
        _ => format!("CAST(X'{}' AS TEXT)", hex(bytes)),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02X}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A database with most of what makes dumping hard.
    const HARD: &str = r#"
        PRAGMA user_version=7;
        CREATE TABLE "odd ""name"(a, b AS (a * 2), "c d" TEXT);
        INSERT INTO "odd ""name"(a, "c d") VALUES(1.0,'it''s; -- x'),(9e999,X'00ff'),(-9223372036854775808,'a' || char(0) || 'b'),(0.1,NULL);
        CREATE TABLE counted(id INTEGER PRIMARY KEY AUTOINCREMENT, x);
        INSERT INTO counted(x) VALUES(1),(2),(3);
        DELETE FROM counted WHERE id = 3;
        CREATE TABLE keyed(k TEXT PRIMARY KEY, v) WITHOUT ROWID;
        INSERT INTO keyed VALUES('k', 5);
        CREATE INDEX by_x ON counted(x);
        CREATE VIEW seen AS SELECT x FROM counted;
        CREATE TRIGGER fires AFTER INSERT ON counted BEGIN INSERT INTO keyed VALUES(new.id, ';'); END;
    "#;

    fn dumped(db: &Connection) -> String {
        let mut out = Vec::new();
        write(db, None, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_dump_restores_an_equal_database() {
        let db = Connection::open_in_memory().unwrap();
        db.execute_batch(HARD).unwrap();
        let text = dumped(&db);
        let copy = Connection::open_in_memory().unwrap();
        copy.execute_batch(&text).unwrap();
        assert_eq!(dumped(&copy), text);
        let types: String = copy
            .query_row("SELECT group_concat(typeof(a) || typeof(\"c d\")) FROM \"odd \"\"name\"", [], |row| row.get(0))
            .unwrap();
        assert_eq!(types, "realtext,realblob,integertext,realnull");
    }

    #[test]
    fn internal_tables_are_left_out_and_unknown_ones_refused() {
        let db = Connection::open_in_memory().unwrap();
        db.execute_batch("CREATE TABLE _rdb_position(x); CREATE TABLE t(x); ANALYZE;").unwrap();
        let text = dumped(&db);
        assert!(!text.contains("_rdb_") && !text.contains("sqlite_stat"), "{text}");
        assert!(matches!(write(&db, Some("nope"), &mut Vec::new()), Err(DumpError::NoTable(_))));
    }
}
