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

pub fn run(command: &DivergenceCommand) -> Result<ExitCode, Failure> {
    let mut out = std::io::stdout().lock();
    match command {
        DivergenceCommand::List { target } => list(target, &mut out)?,
        DivergenceCommand::Show { target, archive } => {
            let rows = rows(target, archive)?;
            out.write_all(&rows).map_err(Failure::io("writing"))?;
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

/// A change as a statement; what has no statement is a comment.
fn sql_of(change: &Value) -> String {
    let object = |name: &str| change.get(name).and_then(Value::as_object);
    if let Some(name) = change.get("schema").and_then(Value::as_str) {
        let kind = change.get("kind").and_then(Value::as_str).unwrap_or("table");
        return match (change.get("old").and_then(Value::as_str), change.get("new").and_then(Value::as_str)) {
            (None, Some(new)) => format!("{new};"),
            (Some(_), None) => format!("DROP {} {};", kind.to_uppercase(), quoted(name)),
            _ => format!("-- {kind} {name} has another definition: {change}"),
        };
    }
    let Some(table) = change.get("table").and_then(Value::as_str).map(quoted) else {
        return format!("-- {change}");
    };
    let op = change.get("op").and_then(Value::as_str).unwrap_or_default();
    match (op, object("old"), object("new")) {
        ("insert", _, Some(new)) => {
            let columns: Vec<String> = new.keys().map(|name| quoted(name)).collect();
            let values: Vec<String> = new.values().map(literal).collect();
            format!("INSERT INTO {table}({}) VALUES ({});", columns.join(", "), values.join(", "))
        }
        ("delete", Some(old), _) => format!("DELETE FROM {table} WHERE {};", condition(object("key").unwrap_or(old))),
        ("update", Some(old), Some(new)) => {
            let changed = new.iter().filter(|(name, value)| old.get(*name) != Some(*value));
            let sets: Vec<String> =
                changed.map(|(name, value)| format!("{} = {}", quoted(name), literal(value))).collect();
            format!("UPDATE {table} SET {} WHERE {};", sets.join(", "), condition(object("key").unwrap_or(old)))
        }
        _ => format!("-- {change}"),
    }
}

fn condition(row: &Map<String, Value>) -> String {
    let parts: Vec<String> =
        row.iter().map(|(name, value)| format!("{} IS {}", quoted(name), literal(value))).collect();
    parts.join(" AND ")
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A value as the API writes it, as an SQL literal.
fn literal(value: &Value) -> String {
    use base64::Engine as _;
    match value {
        Value::Null => "NULL".to_owned(),
        Value::Bool(value) => u8::from(*value).to_string(),
        Value::Number(number) => number.to_string(),
        Value::String(text) => format!("'{}'", text.replace('\'', "''")),
        Value::Object(object) => {
            let text = object.get("base64").and_then(Value::as_str).unwrap_or_default();
            let bytes = base64::engine::general_purpose::STANDARD.decode(text).unwrap_or_default();
            format!("x'{}'", bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>())
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
                json!({ "table": "t", "op": "delete", "old": { "v": { "base64": "/w==" } } }),
                r#"DELETE FROM "t" WHERE "v" IS x'ff';"#,
            ),
            (json!({ "schema": "i", "kind": "index", "old": "CREATE …", "new": null }), r#"DROP INDEX "i";"#),
            (json!({ "schema": "t", "kind": "table", "old": null, "new": "CREATE TABLE t(a)" }), "CREATE TABLE t(a);"),
        ] {
            assert_eq!(sql_of(&change), sql);
        }
        assert!(sql_of(&json!({ "table": "v", "op": "unreadable", "why": "no" })).starts_with("-- "));
    }
}
