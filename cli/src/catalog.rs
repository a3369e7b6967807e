//! What is in a SQLite file: its tables in the order in which they were made, and how to read their rows.

use rusqlite::Connection;

/// Kinds of `PRAGMA table_list` that hold something of the user's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Table,
    /// Its rows live in shadow tables or elsewhere.
    Virtual,
    /// Storage of a virtual table.
    Shadow,
}

/// A table.
#[derive(Clone, Debug)]
pub struct Table {
    pub name: String,
    pub kind: Kind,
    /// The statement that made it.
    pub sql: String,
    /// Columns that hold a value of their own: without generated and hidden ones.
    pub columns: Vec<String>,
    /// A name for the rowid, if rows have one that no column is an alias of. It is then part of the data: other tables may
    /// refer to it (external content of a full-text index).
    pub rowid: Option<&'static str>,
}

/// Everything but the rows.
#[derive(Clone, Debug, Default)]
pub struct Catalog {
    pub tables: Vec<Table>,
    /// Indexes, views and triggers, in order: to be made when the rows are there.
    pub rest: Vec<String>,
    /// (table, counter) of `sqlite_sequence`.
    pub counters: Vec<(String, i64)>,
    pub user_version: i64,
    pub application_id: i64,
    /// It has statistics of ANALYZE.
    pub analyzed: bool,
}

/// A name as it can stand in any statement.
pub fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Tables that are SQLite's or ours.
pub fn is_internal(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    name.starts_with("sqlite_") || name.starts_with("_rdb_")
}

impl Catalog {
    pub fn read(db: &Connection) -> rusqlite::Result<Catalog> {
        let mut catalog = Catalog {
            user_version: db.query_row("PRAGMA user_version", [], |row| row.get(0))?,
            application_id: db.query_row("PRAGMA application_id", [], |row| row.get(0))?,
            ..Catalog::default()
        };
        let sql = "SELECT s.type, s.name, s.tbl_name, s.sql, l.type, l.wr FROM main.sqlite_schema AS s
                   LEFT JOIN pragma_table_list AS l ON l.schema = 'main' AND l.name = s.name AND s.type = 'table'
                   ORDER BY s.rowid";
        let mut statement = db.prepare(sql)?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let (kind, name, table): (String, String, String) = (row.get(0)?, row.get(1)?, row.get(2)?);
            let sql: Option<String> = row.get(3)?;
            catalog.analyzed |= name == "sqlite_stat1";
            // Without a text are indexes that a constraint makes; they come with their table.
            let Some(sql) = sql.filter(|_| !is_internal(&name) && !is_internal(&table)) else { continue };
            if kind != "table" {
                catalog.rest.push(sql);
                continue;
            }
            let kind = match row.get::<_, Option<String>>(4)?.as_deref() {
                Some("virtual") => Kind::Virtual,
                Some("shadow") => Kind::Shadow,
                _ => Kind::Table,
            };
            let without_rowid = row.get::<_, Option<bool>>(5)?.unwrap_or(false);
            catalog.tables.push(read_table(db, name, kind, sql, without_rowid)?);
        }
        if has_table(db, "sqlite_sequence")? {
            let mut statement = db.prepare("SELECT name, seq FROM sqlite_sequence")?;
            let counters = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
            catalog.counters = counters.collect::<rusqlite::Result<_>>()?;
            catalog.counters.retain(|(name, _)| !is_internal(name));
        }
        Ok(catalog)
    }
}

fn has_table(db: &Connection, name: &str) -> rusqlite::Result<bool> {
    db.query_row("SELECT count(*) FROM main.sqlite_schema WHERE name = ?", [name], |row| row.get(0))
}

fn read_table(db: &Connection, name: String, kind: Kind, sql: String, without_rowid: bool) -> rusqlite::Result<Table> {
    let mut statement = db.prepare("SELECT name, upper(type), pk, hidden FROM pragma_table_xinfo(?)")?;
    let mut rows = statement.query([&name])?;
    let (mut columns, mut all, mut keys, mut integer_key) = (Vec::new(), Vec::new(), 0, false);
    while let Some(row) = rows.next()? {
        let (column, declared, key, hidden): (String, String, i64, i64) =
            (row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?);
        all.push(column.to_ascii_lowercase());
        keys += i64::from(key > 0);
        integer_key |= key > 0 && declared == "INTEGER";
        if hidden == 0 {
            columns.push(column);
        }
    }
    // Exactly `INTEGER PRIMARY KEY` on one column is the rowid itself (but for its DESC form, where naming the rowid too
    // does no harm: it is then left out, and new rowids are given).
    let aliased = keys == 1 && integer_key;
    let free = ["rowid", "_rowid_", "oid"].into_iter().find(|name| !all.iter().any(|column| column == name));
    let rowid = free.filter(|_| kind == Kind::Table && !without_rowid && !aliased);
    Ok(Table { name, kind, sql, columns, rowid })
}
