//! `rdb divergence list|show|export URL|DIR`: records that a node had and the cluster has not, as its archive keeps them.
//!
//! They can be looked at as row changes, and exported as SQL that does to the present database what those records did to
//! theirs: to be read before it is run, for others may have changed the same rows since.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde_json::{Map, Value};

use crate::Failure;
use crate::args::{DivergenceCommand, DivergenceTarget, ExportFormat};
use crate::client::Client;
use crate::text::JsonLines;

pub fn run(command: &DivergenceCommand) -> Result<ExitCode, Failure> {
    let mut out = std::io::stdout().lock();
    match command {
        DivergenceCommand::List { target } => list(target, &mut out)?,
        DivergenceCommand::Show { target, archive } => {
            let rows = rows(target, archive)?;
            let mut lines = JsonLines::new(out);
            lines.write_all(&rows).and_then(|()| lines.flush()).map_err(Failure::io("writing"))?;
        }
        DivergenceCommand::Export { target, archive, format } => {
            let rows = rows(target, archive)?;
            match format {
                ExportFormat::Jsonl => out.write_all(&rows).map_err(Failure::io("writing"))?,
                ExportFormat::Sql => export(&rows, &mut out)?,
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn list(target: &DivergenceTarget, out: &mut impl Write) -> Result<(), Failure> {
    if let Some(archive) = directory(target) {
        let mut names: Vec<String> = std::fs::read_dir(&archive)
            .map_err(Failure::io(archive.display().to_string()))?
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.strip_suffix(".records").map(str::to_owned))
            .collect();
        names.sort();
        for name in names {
            let readable =
                if archive.join(format!("{name}.rows.jsonl")).exists() { "row changes" } else { "records only" };
            writeln!(out, "{name}  {readable}").map_err(Failure::io("writing"))?;
        }
        return Ok(());
    }
    let client = Client::new(&target.target.url, target.target.token_file.as_deref())?;
    for url in client.endpoints() {
        let status = client.status_of(url)?;
        for report in &status.divergences {
            let readable = if report.complete { "row changes" } else { "records only" };
            writeln!(out, "{}  {}  {} to {}  {readable}", report.archive, status.name, report.from, report.to)
                .map_err(Failure::io("writing"))?;
        }
    }
    Ok(())
}

/// The archive of a node's data directory, if it is one that was named.
fn directory(target: &DivergenceTarget) -> Option<PathBuf> {
    let path = Path::new(&target.target.url);
    let inner = path.join("archive");
    match (inner.is_dir(), path.is_dir()) {
        (true, _) => Some(inner),
        (false, true) => Some(path.to_owned()),
        (false, false) => None,
    }
}

/// The row changes as lines of JSON.
fn rows(target: &DivergenceTarget, archive: &str) -> Result<Vec<u8>, Failure> {
    match directory(target) {
        Some(directory) => {
            let path = directory.join(format!("{archive}.rows.jsonl"));
            std::fs::read(&path).map_err(Failure::io(path.display().to_string()))
        }
        None => {
            let client = Client::new(&target.target.url, target.target.token_file.as_deref())?;
            let mut bytes = Vec::new();
            client.download(&format!("/v1/divergence/{archive}"), &mut bytes)?;
            Ok(bytes)
        }
    }
}

fn export(rows: &[u8], out: &mut impl Write) -> Result<(), Failure> {
    for line in BufReader::new(rows).lines() {
        let line = line.map_err(Failure::io("reading"))?;
        let change: Value = serde_json::from_str(&line).map_err(|error| Failure::Other(error.to_string()))?;
        writeln!(out, "{}", sql_of(&change)).map_err(Failure::io("writing"))?;
    }
    Ok(())
}

/// A change as a statement; what has no statement is a comment. JSON is on one line, whatever names and values hold.
fn sql_of(change: &Value) -> String {
    statement_of(change).unwrap_or_else(|| format!("-- {change}"))
}

fn statement_of(change: &Value) -> Option<String> {
    let text = |name: &str| change.get(name).and_then(Value::as_str);
    if let Some(name) = text("schema") {
        return match (text("old"), text("new")) {
            (None, Some(new)) => Some(format!("{new};")),
            (Some(_), None) => Some(format!("DROP {} {};", text("kind")?.to_uppercase(), quoted(name))),
            _ => None,
        };
    }
    let table = quoted(text("table")?);
    match (text("op")?, Row::of(change, "old"), Row::of(change, "new")) {
        ("insert", _, Some(new)) => {
            let columns: Vec<String> = new.values.keys().map(|name| quoted(name)).collect();
            let values: Vec<String> = new.values.keys().map(|name| new.literal(name)).collect();
            Some(format!("INSERT INTO {table}({}) VALUES ({});", columns.join(", "), values.join(", ")))
        }
        ("delete", Some(old), _) => {
            let row = old.condition(old.values.keys());
            if change.get("key").is_some() {
                return Some(format!("DELETE FROM {table} WHERE {row};"));
            }
            // One of several rows that may be alike. Tables without a rowid have a key.
            let is_column = |name: &&str| old.values.keys().any(|column| column.eq_ignore_ascii_case(name));
            let rowid = ["rowid", "_rowid_", "oid"].into_iter().find(|name| !is_column(name))?;
            Some(format!("DELETE FROM {table} WHERE {rowid} = (SELECT {rowid} FROM {table} WHERE {row} LIMIT 1);"))
        }
        ("update", Some(old), Some(new)) => {
            let is_changed = |name: &&String| !old.values.contains_key(*name) || old.literal(name) != new.literal(name);
            let sets: Vec<String> = new
                .values
                .keys()
                .filter(is_changed)
                .map(|name| format!("{} = {}", quoted(name), new.literal(name)))
                .collect();
            let key = change.get("key")?.as_object()?;
            let row = old.condition(key.keys());
            (!sets.is_empty()).then(|| format!("UPDATE {table} SET {} WHERE {row};", sets.join(", ")))
        }
        _ => None,
    }
}

/// One side of a change: values as the API writes them, and as SQL those that are ambiguous there.
struct Row<'a> {
    values: &'a Map<String, Value>,
    exact: Option<&'a Map<String, Value>>,
}

impl<'a> Row<'a> {
    fn of(change: &'a Value, side: &str) -> Option<Row<'a>> {
        let exact = change.get("exact").and_then(|exact| exact.get(side)?.as_object());
        Some(Row { values: change.get(side)?.as_object()?, exact })
    }

    fn literal(&self, name: &str) -> String {
        let exact = self.exact.and_then(|exact| exact.get(name)?.as_str());
        exact.map_or_else(|| literal(self.values.get(name).unwrap_or(&Value::Null)), str::to_owned)
    }

    /// Exactly this row: by the column's own collation, others could be equal to it.
    fn condition<'n>(&self, names: impl Iterator<Item = &'n String>) -> String {
        let part = |name: &String| {
            let collation = if self.values.get(name).is_some_and(Value::is_string) { " COLLATE BINARY" } else { "" };
            format!("{} IS {}{collation}", quoted(name), self.literal(name))
        };
        let parts: Vec<String> = names.map(part).collect();
        parts.join(" AND ")
    }
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A value as the API writes it, as an SQL literal.
fn literal(value: &Value) -> String {
    use base64::Engine as _;
    let hex = |bytes: &[u8]| format!("x'{}'", bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>());
    match value {
        Value::Null => "NULL".to_owned(),
        Value::Bool(value) => u8::from(*value).to_string(),
        Value::Number(number) => number.to_string(),
        // SQL ends at a zero byte, and a terminal obeys others.
        Value::String(text) if text.chars().any(|c| c.is_control() && !matches!(c, '\n' | '\t')) => {
            format!("CAST({} AS TEXT)", hex(text.as_bytes()))
        }
        Value::String(text) => format!("'{}'", text.replace('\'', "''")),
        Value::Object(object) => {
            let text = object.get("base64").and_then(Value::as_str).unwrap_or_default();
            hex(&base64::engine::general_purpose::STANDARD.decode(text).unwrap_or_default())
        }
        Value::Array(_) => format!("'{}'", value.to_string().replace('\'', "''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn changes_become_statements() {
        let key = json!({ "id": 1 });
        for (change, sql) in [
            (
                json!({ "table": "a\"b", "op": "insert", "new": { "id": 1, "v": "it's", "w": null } }),
                r#"INSERT INTO "a""b"("id", "v", "w") VALUES (1, 'it''s', NULL);"#,
            ),
            (
                json!({ "table": "t", "op": "update", "key": key, "old": { "id": 1, "v": 2 }, "new": { "id": 1, "v": 2.5 } }),
                r#"UPDATE "t" SET "v" = 2.5 WHERE "id" IS 1;"#,
            ),
            (
                json!({ "table": "t", "op": "delete", "key": { "v": { "base64": "/w==" } }, "old": { "v": { "base64": "/w==" } } }),
                r#"DELETE FROM "t" WHERE "v" IS x'ff';"#,
            ),
            (
                json!({ "table": "t", "op": "delete", "old": { "ROWID": 1 } }),
                r#"DELETE FROM "t" WHERE _rowid_ = (SELECT _rowid_ FROM "t" WHERE "ROWID" IS 1 LIMIT 1);"#,
            ),
            (
                json!({ "table": "t", "op": "insert", "new": { "v": "\u{1b}[2J" } }),
                r#"INSERT INTO "t"("v") VALUES (CAST(x'1b5b324a' AS TEXT));"#,
            ),
            (json!({ "schema": "i", "kind": "index", "old": "CREATE …", "new": null }), r#"DROP INDEX "i";"#),
            (json!({ "schema": "t", "kind": "table", "old": null, "new": "CREATE TABLE t(a)" }), "CREATE TABLE t(a);"),
        ] {
            assert_eq!(sql_of(&change), sql);
        }
        let nothing_to_set =
            json!({ "table": "t", "op": "update", "key": key, "old": { "id": 1, "v": 2 }, "new": { "id": 1 } });
        let altered = json!({ "schema": "x\nDROP TABLE y;", "kind": "table", "old": "CREATE …", "new": "CREATE …" });
        for comment in [json!({ "table": "v", "op": "unreadable", "why": "no" }), nothing_to_set, altered, json!(1)] {
            let sql = sql_of(&comment);
            assert!(sql.starts_with("-- ") && !sql.contains('\n'), "{sql}");
        }
    }

    /// Runs what is exported for the difference of two databases; returns it.
    fn assert_exported(before: &str, tail: &str) -> String {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let run = |name: &str, sql: &str| {
            let connection = rusqlite::Connection::open(path(name)).unwrap();
            connection.execute_batch(&format!("PRAGMA foreign_keys = ON; {sql}"))
        };
        run("old", before).unwrap();
        std::fs::copy(path("old"), path("new")).unwrap();
        run("new", tail).unwrap();
        let mut lines = Vec::new();
        rdb_engine::diff(&path("old"), &path("new"), &mut lines).unwrap();
        let mut sql = Vec::new();
        export(&lines, &mut sql).unwrap();
        let sql = String::from_utf8(sql).unwrap();
        run("old", &sql).unwrap_or_else(|error| panic!("{error}:\n{sql}"));
        let mut left = Vec::new();
        let found = rdb_engine::diff(&path("old"), &path("new"), &mut left).unwrap();
        let left = String::from_utf8_lossy(&left);
        assert_eq!(found, rdb_engine::DiffSummary::default(), "{sql}\nleaves\n{left}");
        sql
    }

    #[test]
    fn an_export_gives_every_value_back_as_it_was() {
        let values = [
            "9007199254740993",
            "-9223372036854775808",
            "9223372036854775807",
            "9e999",
            "-9e999",
            "1e300",
            "0.1",
            "2.0",
            "NULL",
            "'9007199254740993'",
            "'Infinity'",
            "''",
            "'it''s \"q\"; --'",
            "'a\nb'",
            "CAST(x'ff41' AS TEXT)",
            "CAST(x'610062' AS TEXT)",
            "CAST(x'1b5b324a' AS TEXT)",
            "x''",
            "x'00ff'",
            "'{\"base64\": \"AA==\"}'",
        ];
        let list = |form: &dyn Fn(usize, &str) -> String| {
            values.iter().enumerate().map(|(i, value)| form(i, value)).collect::<String>()
        };
        let tables = "CREATE TABLE keyed(id INTEGER PRIMARY KEY, v, r REAL); CREATE TABLE keyless(v, n);
                      CREATE TABLE w(k ANY, j TEXT, v, PRIMARY KEY (j, k)) WITHOUT ROWID;";
        let rows = list(&|i, value| {
            format!(
                "INSERT INTO keyed VALUES ({i}, {value}, {value}); INSERT INTO keyless VALUES ({value}, {i}), ({value}, {i});
                 INSERT INTO w VALUES (ifnull({value}, 0), {i}, {value});"
            )
        });
        assert_exported(tables, &rows);
        assert_exported(
            &format!("{tables}{rows}"),
            "DELETE FROM keyed; DELETE FROM keyless WHERE rowid % 2; DELETE FROM w;",
        );
        // Every value by every other, also by one that has the same JSON.
        let change = list(&|i, value| format!("UPDATE keyed SET v = {value} WHERE id = ({i} + 9) % 20;"));
        assert_exported(&format!("{tables}{rows}"), &change);
        assert_exported(&format!("{tables}{rows}"), "UPDATE keyed SET v = CAST(v AS TEXT); UPDATE w SET v = hex(v);");
    }

    #[test]
    fn an_export_takes_one_of_several_equal_rows() {
        let rows = "CREATE TABLE t(a TEXT COLLATE NOCASE); INSERT INTO t VALUES ('x'), ('x'), ('x'), ('X');";
        assert_exported(rows, "DELETE FROM t WHERE rowid IN (1, 4);");
        assert_exported(rows, "UPDATE t SET a = 'X' WHERE rowid = 2;");
        assert_exported(
            "CREATE TABLE t(rowid, oid); INSERT INTO t VALUES (1, 1), (1, 1);",
            "DELETE FROM t WHERE _rowid_ = 1;",
        );
    }

    #[test]
    fn an_export_is_in_an_order_that_can_be_run() {
        let family =
            "CREATE TABLE a(id INTEGER PRIMARY KEY, b REFERENCES b(id)); CREATE TABLE b(id INTEGER PRIMARY KEY);
                      INSERT INTO b VALUES (1), (2); INSERT INTO a VALUES (1, 1);";
        assert_exported(family, "INSERT INTO b VALUES (3); INSERT INTO a VALUES (3, 3);");
        assert_exported(family, "DELETE FROM a; DELETE FROM b;");
        assert_exported(
            family,
            "DELETE FROM a; DELETE FROM b WHERE id = 1; DROP TABLE a; CREATE TABLE c(x REFERENCES b(id), g AS (x + 1));
                                 INSERT INTO c VALUES (2); CREATE INDEX aa ON c(x); CREATE VIEW v AS SELECT * FROM c;
                                 CREATE TRIGGER i INSTEAD OF INSERT ON v BEGIN SELECT 1; END;
                                 CREATE TRIGGER t AFTER INSERT ON c BEGIN INSERT INTO b VALUES (new.x + 9); END;",
        );
        assert_exported(
            "CREATE TABLE t(a UNIQUE); CREATE INDEX i ON t(a); CREATE VIEW v AS SELECT 1 x;
             CREATE TRIGGER w INSTEAD OF DELETE ON v BEGIN SELECT 1; END; INSERT INTO t VALUES (1);",
            "DROP VIEW v; DROP INDEX i; ALTER TABLE t RENAME TO \"u\"\"\"; INSERT INTO \"u\"\"\" VALUES (2);",
        );
    }

    #[test]
    fn an_export_makes_virtual_tables_with_their_rows() {
        let sql = assert_exported(
            "CREATE VIRTUAL TABLE gone USING fts5(x); INSERT INTO gone VALUES ('one'); CREATE VIRTUAL TABLE kept USING fts5(x);
             INSERT INTO kept VALUES ('a'), ('a');",
            "DROP TABLE gone; CREATE VIRTUAL TABLE f USING fts5(x, y); INSERT INTO f VALUES ('a', 'b');
             CREATE VIRTUAL TABLE r USING rtree(id, low, high); INSERT INTO r VALUES (7, 1, 2); DELETE FROM kept WHERE rowid = 1;",
        );
        assert!(!sql.contains("_content"), "{sql}");
    }
}
