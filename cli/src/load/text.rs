//! Units from SQL text, such as SQLite's own dumps: what a cluster does by itself is left out, and what it refuses for good
//! reasons is said in another way.
//!
//! | in the text | becomes |
//! | --- | --- |
//! | BEGIN, COMMIT, END, SAVEPOINT, RELEASE | nothing: every batch is a transaction |
//! | ROLLBACK | an error: the dump was ended by one |
//! | pragmas | nothing, but for `user_version` and `application_id` |
//! | VACUUM, ANALYZE of the schema, rows of `sqlite_stat…` | nothing; one ANALYZE at the end |
//! | a schema row of a virtual table | its CREATE VIRTUAL TABLE |
//! | its shadow tables and their rows | nothing at first: they are put together in a temporary database, and the rows of the virtual table are read from there at the end ([`super::virtual_table`]) |
//! | DELETE FROM sqlite_sequence | nothing: other tables may have counters too |
//! | rows of sqlite_sequence | the same after a DELETE of just that counter |
//! | anything about `_rdb_…` | nothing: it is the old cluster's |

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use rdb_protocol::api::Statement;
use rusqlite::Connection;

use super::{LoadError, Sink, Source, Unit, plain, virtual_table};
use crate::catalog::{Catalog, Kind, is_internal};
use crate::script::{Located, Script, unquote, words};

/// A file with SQL text.
pub struct SqlText {
    path: PathBuf,
    bytes: u64,
    /// It says that foreign keys are off and has some: tables come first then.
    tables_first: bool,
    notes: Vec<String>,
}

impl SqlText {
    /// Reads through the file once, so that text that can't be read is found before anything is loaded.
    pub fn open(path: &Path) -> Result<SqlText, LoadError> {
        let mut text = SqlText { path: path.to_owned(), bytes: 0, tables_first: false, notes: Vec::new() };
        let (mut keys_off, mut references) = (false, false);
        for statement in text.read()? {
            let statement = statement?;
            text.bytes = statement.end;
            let head: Vec<String> = words(&statement.sql).take(5).map(str::to_ascii_uppercase).collect();
            let head: Vec<&str> = head.iter().map(String::as_str).collect();
            keys_off |= matches!(head.as_slice(), ["PRAGMA", "FOREIGN_KEYS", "=", "OFF" | "0", ..]);
            references |= is_plain_table(&statement.sql)
                && words(&statement.sql).any(|word| word.eq_ignore_ascii_case("REFERENCES"));
        }
        text.tables_first = keys_off && references;
        Ok(text)
    }

    fn read(&self) -> Result<Script<BufReader<File>>, LoadError> {
        let io = |source| LoadError::Io { path: self.path.display().to_string(), source };
        Ok(Script::new(BufReader::with_capacity(1 << 16, File::open(&self.path).map_err(io)?)))
    }
}

impl Source for SqlText {
    fn total(&self) -> u64 {
        self.bytes
    }

    fn each(&mut self, sink: &mut Sink<'_>) -> Result<(), LoadError> {
        let mut translation = Translation::default();
        if self.tables_first {
            for statement in self.read()? {
                let statement = statement?;
                if is_plain_table(&statement.sql) {
                    translation.pass_on(&statement, 0, sink)?;
                }
            }
        }
        for statement in self.read()? {
            let statement = statement?;
            if !(self.tables_first && is_plain_table(&statement.sql)) {
                translation.pass_on(&statement, statement.end, sink)?;
            }
        }
        if let Some(rebuilt) = &translation.rebuilt {
            let catalog = Catalog::read(rebuilt)?;
            for table in catalog.tables.iter().filter(|table| table.kind == Kind::Virtual) {
                self.notes.extend(virtual_table::each_row(rebuilt, table, &mut || self.bytes, sink)?);
            }
        }
        if translation.analyze {
            sink(Unit::one("statistics".to_owned(), "ANALYZE".to_owned(), self.bytes))?;
        }
        Ok(())
    }

    fn notes(&self) -> &[String] {
        &self.notes
    }
}

/// `CREATE TABLE name (…`, whose place in the order does not matter.
fn is_plain_table(sql: &str) -> bool {
    let head: Vec<String> = words(sql).take(4).map(str::to_ascii_uppercase).collect();
    matches!(head.as_slice(), [create, table, _, open] if create == "CREATE" && table == "TABLE" && open == "(")
}

/// What has been seen so far that later statements depend on.
#[derive(Default)]
pub struct Translation {
    /// Virtual tables that were made from schema rows.
    virtual_tables: Vec<String>,
    /// They and their shadow tables.
    rebuilt: Option<Connection>,
    analyze: bool,
}

impl Translation {
    fn pass_on(&mut self, statement: &Located, done: u64, sink: &mut Sink<'_>) -> Result<(), LoadError> {
        let origin = format!("line {}", statement.line);
        let translated = self.translate(&statement.sql);
        let statements = translated.map_err(|message| LoadError::Source { origin: origin.clone(), message })?;
        if statements.is_empty() {
            return Ok(());
        }
        sink(Unit { origin, statements, done })
    }

    /// The table at the head of this module.
    pub fn translate(&mut self, sql: &str) -> Result<Vec<Statement>, String> {
        let head: Vec<&str> = words(sql).take(12).collect();
        let upper: Vec<String> = head.iter().map(|word| word.to_ascii_uppercase()).collect();
        let upper: Vec<&str> = upper.iter().map(String::as_str).collect();
        match upper.as_slice() {
            ["BEGIN" | "COMMIT" | "END" | "SAVEPOINT" | "RELEASE" | "VACUUM", ..] => Ok(Vec::new()),
            ["ROLLBACK", ..] => Err("the file ends with ROLLBACK: the dump was made with errors".to_owned()),
            [".", ..] => Err("this is a command of SQLite's shell, not SQL".to_owned()),
            ["PRAGMA", "USER_VERSION" | "APPLICATION_ID", "=", ..] => Ok(vec![plain(sql)]),
            ["PRAGMA", ..] => Ok(Vec::new()),
            ["ANALYZE", "SQLITE_SCHEMA" | "SQLITE_MASTER", ..] => {
                self.analyze = true;
                Ok(Vec::new())
            }
            ["DELETE", "FROM", "SQLITE_SEQUENCE"] | ["DELETE", "FROM", "SQLITE_SEQUENCE", ";"] => Ok(Vec::new()),
            _ => self.translate_table(sql, &head, &upper),
        }
    }

    fn translate_table(&mut self, sql: &str, head: &[&str], upper: &[&str]) -> Result<Vec<Statement>, String> {
        let table = target(head, upper);
        let Some(table) = table else { return Ok(vec![plain(sql)]) };
        let inserts = matches!(upper.first(), Some(&("INSERT" | "REPLACE")));
        let lower = table.to_ascii_lowercase();
        match lower.as_str() {
            "sqlite_schema" | "sqlite_master" if inserts => return self.schema_row(sql),
            "sqlite_sequence" if inserts => {
                let values = after_values(sql).ok_or("expected VALUES")?;
                let forget =
                    format!("DELETE FROM sqlite_sequence WHERE name IN (SELECT column1 FROM (VALUES{values}))");
                return Ok(vec![plain(&forget), plain(sql)]);
            }
            _ => {}
        }
        if is_internal(&table) {
            self.analyze |= lower.starts_with("sqlite_stat");
            return Ok(Vec::new());
        }
        if self.is_shadow(&lower) {
            // Its table, and some of its rows, come with the virtual one.
            let rows = sql.trim_start();
            if inserts && upper.get(1) == Some(&"INTO") {
                self.rebuild(&format!("INSERT OR REPLACE{}", rows.get(6..).unwrap_or_default()))?;
            }
            return Ok(Vec::new());
        }
        Ok(vec![plain(sql)])
    }

    /// In a temporary database on disk, for an index may be large; it goes with its connection.
    fn rebuild(&mut self, sql: &str) -> Result<(), String> {
        let failed = |error: rusqlite::Error| format!("the virtual table can't be put together: {error}");
        if self.rebuilt.is_none() {
            let db = Connection::open("").map_err(failed)?;
            // Nothing of it is to survive a crash, and one transaction is much faster than one for each row.
            db.execute_batch("PRAGMA synchronous=OFF; BEGIN").map_err(failed)?;
            self.rebuilt = Some(db);
        }
        self.rebuilt.iter().try_for_each(|db| db.execute_batch(sql)).map_err(failed)
    }

    fn is_shadow(&self, table: &str) -> bool {
        let owner = |name: &String| table.strip_prefix(name.as_str()).is_some_and(|rest| rest.starts_with('_'));
        self.virtual_tables.iter().any(owner)
    }

    /// `INSERT INTO sqlite_schema(…) VALUES('table', 'name', 'name', 0, 'CREATE VIRTUAL TABLE …')`.
    fn schema_row(&mut self, sql: &str) -> Result<Vec<Statement>, String> {
        let values = after_values(sql).ok_or("expected VALUES")?;
        let texts: Vec<String> = words(values).filter(|word| word.starts_with('\'')).map(unquote).collect();
        let create = texts.last().filter(|text| {
            let mut words = words(text).map(str::to_ascii_uppercase);
            words.next().as_deref() == Some("CREATE") && words.next().as_deref() == Some("VIRTUAL")
        });
        match (texts.get(1), create) {
            (Some(name), Some(create)) => {
                self.virtual_tables.push(name.to_ascii_lowercase());
                self.rebuild(create)?;
                Ok(vec![plain(create)])
            }
            _ => Err("writes to the schema table are refused; only those that make a virtual table are understood"
                .to_owned()),
        }
    }
}

/// The table that a CREATE TABLE, INSERT or REPLACE is about.
fn target(head: &[&str], upper: &[&str]) -> Option<String> {
    let at = match upper {
        ["CREATE", "TABLE", "IF", "NOT", "EXISTS", ..] => 5,
        ["CREATE", "TABLE", ..] | ["INSERT" | "REPLACE", "INTO", ..] => 2,
        ["INSERT", "OR", _, "INTO", ..] => 4,
        ["CREATE", "UNIQUE", "INDEX", ..] | ["CREATE", "INDEX" | "TRIGGER" | "VIEW", ..] => return None,
        _ => return None,
    };
    let name = match head.get(at + 1) {
        Some(&".") => head.get(at + 2),
        _ => head.get(at),
    };
    name.map(|name| unquote(name))
}

/// What follows the first VALUES, without the semicolon.
fn after_values(sql: &str) -> Option<&str> {
    let values = words(sql).find(|word| word.eq_ignore_ascii_case("VALUES"))?;
    // The words are parts of the text itself.
    let end = values.as_ptr() as usize - sql.as_ptr() as usize + values.len();
    sql.get(end..).map(|rest| rest.trim_end().trim_end_matches(';'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn translated(statements: &[&str]) -> Vec<String> {
        let mut translation = Translation::default();
        let all = statements.iter().flat_map(|sql| translation.translate(sql).unwrap());
        all.map(|statement| statement.sql).collect()
    }

    #[test]
    fn what_every_dump_begins_and_ends_with_is_left_out() {
        let dump = [
            "PRAGMA foreign_keys=OFF;",
            "BEGIN TRANSACTION;",
            "PRAGMA user_version=3;",
            "DELETE FROM sqlite_sequence;",
            "COMMIT;",
        ];
        assert_eq!(translated(&dump), ["PRAGMA user_version=3;"]);
        assert!(Translation::default().translate("ROLLBACK; -- due to errors").is_err());
    }

    #[test]
    fn a_counter_replaces_only_its_own() {
        assert_eq!(
            translated(&["INSERT INTO sqlite_sequence VALUES('t;',5);"]),
            [
                "DELETE FROM sqlite_sequence WHERE name IN (SELECT column1 FROM (VALUES('t;',5)))",
                "INSERT INTO sqlite_sequence VALUES('t;',5);"
            ]
        );
    }

    #[test]
    fn internal_tables_are_left_out() {
        let dump = [
            "CREATE TABLE _rdb_position(x);",
            "INSERT INTO \"_rdb_position\" VALUES(1);",
            "INSERT INTO sqlite_stat1 VALUES(1);",
            "INSERT INTO t VALUES('_rdb_x');",
        ];
        assert_eq!(translated(&dump), ["INSERT INTO t VALUES('_rdb_x');"]);
    }

    /// Full-text tables dumped, translated and loaded into another database find the same.
    #[test]
    fn virtual_tables_survive() {
        let old = rusqlite::Connection::open_in_memory().unwrap();
        old.execute_batch(
            "CREATE VIRTUAL TABLE f USING fts5(a); INSERT INTO f VALUES('one two'),('two three');
             CREATE TABLE docs(id INTEGER PRIMARY KEY, t); INSERT INTO docs VALUES(7, 'red apple');
             CREATE VIRTUAL TABLE x USING fts5(t, content='docs', content_rowid='id');
             INSERT INTO x(x) VALUES('rebuild');
             CREATE VIRTUAL TABLE area USING rtree(id, x0, x1); INSERT INTO area VALUES(5, 1.0, 2.0);",
        )
        .unwrap();
        let mut dump = Vec::new();
        crate::dump::write(&old, None, &mut dump).unwrap();
        let new = rusqlite::Connection::open_in_memory().unwrap();
        new.set_db_config(rusqlite::config::DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true).unwrap();
        each_unit(std::str::from_utf8(&dump).unwrap(), |unit| {
            for statement in unit.statements {
                let rdb_protocol::api::Args::Positional(args) = statement.args else { panic!() };
                let value = |value: serde_json::Value| match value {
                    serde_json::Value::String(text) => rusqlite::types::Value::Text(text),
                    number => number.as_i64().map_or_else(|| number.as_f64().unwrap().into(), Into::into),
                };
                new.execute(&statement.sql, rusqlite::params_from_iter(args.into_iter().map(value))).unwrap();
            }
        });
        let found = |sql: &str| -> i64 { new.query_row(sql, [], |row| row.get(0)).unwrap() };
        assert_eq!(found("SELECT count(*) FROM f WHERE f MATCH 'two'"), 2);
        assert_eq!(found("SELECT rowid FROM x WHERE x MATCH 'apple'"), 7);
        assert_eq!(found("SELECT id FROM area WHERE x0 < 1.5"), 5);
        new.execute_batch("INSERT INTO f VALUES('two four'); INSERT INTO f(f) VALUES('integrity-check');").unwrap();
    }

    fn each_unit(text: &str, mut take: impl FnMut(Unit)) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("dump.sql");
        std::fs::write(&path, text).unwrap();
        let mut source = SqlText::open(&path).unwrap();
        source
            .each(&mut |unit| {
                take(unit);
                Ok(())
            })
            .unwrap();
    }

    fn units(text: &str) -> Vec<String> {
        let mut all = Vec::new();
        each_unit(text, |unit| {
            all.extend(unit.statements.into_iter().map(|statement| format!("{}: {}", unit.origin, statement.sql)));
        });
        all
    }

    #[test]
    fn tables_come_first_where_the_dump_says_that_keys_are_off() {
        let body = "CREATE TABLE child(x REFERENCES parent);\nINSERT INTO child VALUES(1);\nCREATE TABLE parent(id);\n";
        let moved = units(&format!("PRAGMA foreign_keys=OFF;\n{body}"));
        assert_eq!(
            moved,
            [
                "line 2: CREATE TABLE child(x REFERENCES parent);",
                "line 4: CREATE TABLE parent(id);",
                "line 3: INSERT INTO child VALUES(1);"
            ]
        );
        assert_eq!(units(body).last().unwrap(), "line 3: CREATE TABLE parent(id);");
    }
}
