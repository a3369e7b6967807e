//! What consumers of changes are told: whoever keeps a table by it has the table's rows, whatever the statements were.

mod common;

use std::collections::BTreeMap;

use common::*;
use rdb_engine::*;
use rdb_protocol::settings::LogFormat;
use serde_json::{Value as Json, json};

/// Rows by table and key, kept by changes alone.
type Kept = BTreeMap<(String, String), Json>;

fn changes(leader: &Leader) -> Vec<Json> {
    let text = changes_of(leader.last.as_ref().unwrap(), Shown::default()).unwrap().expect("row changes");
    let transactions: Vec<Json> = serde_json::from_str(&text).unwrap();
    transactions.iter().flat_map(|transaction| transaction["changes"].as_array().unwrap()).cloned().collect()
}

/// Does to the kept rows what a change says, if they are as it says.
fn keep(kept: &mut Kept, change: &Json) {
    let table = change["table"].as_str().unwrap_or_else(|| panic!("{change}")).to_owned();
    let (old, new) = (change.get("old"), change.get("new"));
    assert_eq!(
        (old.is_some(), new.is_some()),
        match change["op"].as_str() {
            Some("insert") => (false, true),
            Some("update") => (true, true),
            _ => (true, false),
        }
    );
    if let Some(old) = old {
        assert_eq!(kept.remove(&(table.clone(), change["key"].to_string())).as_ref(), Some(old), "{change}");
    }
    if let Some(new) = new {
        let moved = |column: &String| change.get("new_key").and_then(|key| key.get(column)).or(new.get(column));
        let mut key = change["key"].clone();
        for (column, value) in key.as_object_mut().unwrap() {
            *value = moved(column).unwrap_or(value).clone();
        }
        assert_eq!(kept.insert((table, key.to_string()), new.clone()), None, "{change}");
    }
}

fn rows(leader: &Leader, table: &str) -> Vec<String> {
    let found = query(&leader.engine, &format!("SELECT * FROM \"{table}\""));
    let row = |values: &[Value]| {
        let named = found.columns.iter().zip(values).map(|(column, value)| (column.name.clone(), value_to_json(value)));
        Json::Object(named.filter(|(name, _)| !name.starts_with("computed")).collect()).to_string()
    };
    let mut rows: Vec<String> = found.rows().map(row).collect();
    rows.sort();
    rows
}

const TABLES: &[&str] = &[
    "CREATE TABLE plain(id INTEGER PRIMARY KEY, a UNIQUE, b)",
    "CREATE TABLE keyless(a, b TEXT)",
    "CREATE TABLE \"odd \"\"name\"(rowid TEXT, \"a b\")",
    "CREATE TABLE w(v, k2 TEXT COLLATE NOCASE, k1, PRIMARY KEY (k1, k2)) WITHOUT ROWID",
    "CREATE TABLE g(computed1 AS (a || 'x'), a, computed2 AS (a || 'y') STORED, b)",
    "CREATE TABLE child(id INTEGER PRIMARY KEY, p REFERENCES plain(id) ON DELETE CASCADE ON UPDATE CASCADE)",
    "CREATE TABLE noted(what, n)",
    "CREATE TRIGGER t AFTER UPDATE ON plain BEGIN INSERT INTO noted VALUES (old.b, new.b); END",
];

const TRANSACTIONS: &[&[&str]] = &[
    &[
        "INSERT INTO plain VALUES (1, 'a', 1), (2, 'b', 2), (3, 'c', 3), (9223372036854775807, NULL, 9223372036854775807)",
    ],
    &["INSERT INTO child VALUES (1, 1), (2, 1), (3, 2)", "INSERT INTO keyless VALUES (1, 'x'), (1, 'x'), (NULL, NULL)"],
    &[
        "INSERT INTO w VALUES (1, 'A', 1), (x'00ff', 'b', 1.5), ('c', 'c', 'c')",
        "INSERT INTO g(a, b) VALUES (1, 2), (3, 4)",
    ],
    &[
        "INSERT INTO \"odd \"\"name\" VALUES ('r', 1), ('s', 9e999)",
        "INSERT INTO keyless VALUES (-0.0, 'a' || char(0) || 'b')",
    ],
    &[
        "UPDATE plain SET id = id + 10 WHERE id < 3",
        "UPDATE plain SET b = b + 1 WHERE id = 11",
        "UPDATE plain SET b = b",
    ],
    &[
        "REPLACE INTO plain VALUES (3, 'a', 'both 3 and 11 go')",
        "INSERT INTO plain VALUES (4, 'b', 0) ON CONFLICT DO UPDATE SET b = 'up'",
    ],
    &["UPDATE w SET k2 = 'a', v = 2 WHERE k1 = 1", "UPDATE w SET k1 = k1 || 'x'", "DELETE FROM w WHERE k2 = 'B'"],
    &[
        "UPDATE g SET a = b, b = a",
        "UPDATE keyless SET rowid = rowid + 100",
        "UPDATE \"odd \"\"name\" SET rowid = 'q' WHERE _rowid_ = 1",
    ],
    &[
        "DELETE FROM keyless WHERE rowid = 101",
        "INSERT INTO keyless VALUES (1, 'again')",
        "DELETE FROM keyless WHERE b = 'again'",
    ],
    &["DELETE FROM g", "DELETE FROM w", "DELETE FROM child", "INSERT INTO g(a) VALUES (5)"],
    &["DELETE FROM plain WHERE id = 12"],
];

#[test]
fn whoever_keeps_tables_by_changes_has_their_rows_in_every_format() {
    for format in [LogFormat::Page, LogFormat::Statement, LogFormat::Mixed, LogFormat::Logical] {
        let (mut leader, mut kept) = (Leader::new(), Kept::new());
        leader.writer.record_as(Recording::new(format).with_changes(true)).unwrap();
        for sql in TABLES {
            leader.sql(sql);
            assert_eq!(changes(&leader), [json!({"op": "statement", "sql": sql})]);
        }
        let tables = ["plain", "keyless", "odd \"name", "w", "g", "child", "noted"];
        for statements in TRANSACTIONS {
            leader.run(tx(statements)).unwrap_or_else(|error| panic!("{statements:?}: {error}"));
            changes(&leader).iter().for_each(|change| keep(&mut kept, change));
            for table in tables {
                let of_table = kept.iter().filter(|((of, _), _)| of == table);
                let mut ours: Vec<String> = of_table.map(|(_, row)| row.to_string()).collect();
                ours.sort();
                assert_eq!(
                    ours,
                    rows(&leader, table.replace('"', "\"\"").as_str()),
                    "{table} {format:?} {statements:?}"
                );
            }
        }
    }
}

#[test]
fn columns_have_the_names_that_they_had_when_the_row_changed() {
    for format in [LogFormat::Page, LogFormat::Statement, LogFormat::Mixed, LogFormat::Logical] {
        let mut leader = Leader::new();
        leader.writer.record_as(Recording::new(format).with_changes(true)).unwrap();
        leader.sql("CREATE TABLE t(id INTEGER PRIMARY KEY, a, b)");
        leader.sql("INSERT INTO t VALUES (1, 2, 3)");
        let batch = [
            "UPDATE t SET a = 5",
            "ALTER TABLE t RENAME COLUMN a TO c",
            "UPDATE t SET c = 6",
            "ALTER TABLE t RENAME TO u",
            "ALTER TABLE u ADD COLUMN d DEFAULT 7",
            "UPDATE u SET b = 4",
            "ALTER TABLE u DROP COLUMN b",
            "INSERT INTO u VALUES (2, 2, 2)",
            "CREATE TABLE t(id INTEGER PRIMARY KEY, z)",
            "INSERT INTO t VALUES (1, 'new')",
        ];
        leader.run(tx(&batch)).unwrap();
        let found: Vec<Json> = changes(&leader).into_iter().filter(|change| change["op"] != "statement").collect();
        let change = |table: &str, old: Json, new: Json| json!({"table": table, "op": "update", "key": {"id": 1}, "old": old, "new": new});
        let wanted = [
            change("t", json!({"id": 1, "a": 2, "b": 3}), json!({"id": 1, "a": 5, "b": 3})),
            change("t", json!({"id": 1, "c": 5, "b": 3}), json!({"id": 1, "c": 6, "b": 3})),
            change("u", json!({"id": 1, "c": 6, "b": 3, "d": 7}), json!({"id": 1, "c": 6, "b": 4, "d": 7})),
            json!({"table": "u", "op": "insert", "key": {"id": 2}, "new": {"id": 2, "c": 2, "d": 2}}),
            json!({"table": "t", "op": "insert", "key": {"id": 1}, "new": {"id": 1, "z": "new"}}),
        ];
        assert_eq!(found, wanted, "{format:?}");
    }
}
