//! The row changes between two databases, as the divergence archive has them.

mod common;

use common::*;
use rdb_engine::*;
use serde_json::{Value as Json, json};

fn lines(before: &[&str], after: &[&str]) -> (Vec<Json>, DiffSummary) {
    let mut leader = Leader::new();
    for sql in before {
        leader.sql(sql);
    }
    let old = leader.seed();
    for sql in after {
        leader.sql(sql);
    }
    let mut out = Vec::new();
    let (ours, theirs) = (leader.engine.scan_checksum().unwrap(), old.engine.scan_checksum().unwrap());
    let summary = diff(&old.path(), &leader.path(), &mut out).unwrap();
    assert_eq!((leader.engine.scan_checksum().unwrap(), old.engine.scan_checksum().unwrap()), (ours, theirs));
    let text = String::from_utf8(out).unwrap();
    (text.lines().map(|line| serde_json::from_str(line).unwrap()).collect(), summary)
}

#[test]
fn rows_are_matched_by_primary_key() {
    let (lines, summary) = lines(
        &[
            "CREATE TABLE t(a TEXT COLLATE NOCASE, b INTEGER, v, PRIMARY KEY (b, a))",
            "INSERT INTO t VALUES ('x', 1, 1), ('y', 2, 2), ('z', 3, 'q')",
        ],
        &[
            "DELETE FROM t WHERE b = 1",
            "UPDATE t SET v = x'00ff' WHERE b = 2",
            "UPDATE t SET a = 'Z' WHERE b = 3",
            "INSERT INTO t VALUES ('w', 9007199254740993, NULL)",
        ],
    );
    let expected = [
        json!({"table": "t", "op": "delete", "key": {"a": "x", "b": 1}, "old": {"a": "x", "b": 1, "v": 1}}),
        json!({"table": "t", "op": "insert", "key": {"a": "w", "b": "9007199254740993"},
               "new": {"a": "w", "b": "9007199254740993", "v": null}, "exact": {"new": {"b": "9007199254740993"}}}),
        json!({"table": "t", "op": "update", "key": {"a": "y", "b": 2}, "old": {"a": "y", "b": 2, "v": 2},
               "new": {"a": "y", "b": 2, "v": {"base64": "AP8="}}}),
        // Equal by the column's collation, and yet another value.
        json!({"table": "t", "op": "update", "key": {"a": "z", "b": 3}, "old": {"a": "z", "b": 3, "v": "q"},
               "new": {"a": "Z", "b": 3, "v": "q"}}),
    ];
    assert_eq!(lines, expected);
    assert_eq!(summary, DiffSummary { inserted: 1, deleted: 1, updated: 2, ..DiffSummary::default() });
}

#[test]
fn tables_without_a_key_are_compared_as_multisets() {
    let (lines, _) = lines(
        &[
            "CREATE TABLE t(a, b)",
            "INSERT INTO t VALUES (1, 'x'), (1, 'x'), (2, NULL), (3, 3)",
            "CREATE TABLE n(k PRIMARY KEY, v)",
            "INSERT INTO n VALUES (NULL, 1), (NULL, 1)",
        ],
        &[
            "DELETE FROM t WHERE rowid = 1",
            "INSERT INTO t VALUES (2, NULL), (2, NULL)",
            "UPDATE t SET b = 3.0 WHERE a = 3",
            "INSERT INTO n VALUES (NULL, 1)",
        ],
    );
    let mut lines: Vec<String> = lines.iter().map(Json::to_string).collect();
    lines.sort();
    let mut expected: Vec<String> = [
        json!({"table": "t", "op": "delete", "old": {"a": 1, "b": "x"}}),
        json!({"table": "t", "op": "insert", "new": {"a": 2, "b": null}}),
        json!({"table": "t", "op": "insert", "new": {"a": 2, "b": null}}),
        json!({"table": "t", "op": "delete", "old": {"a": 3, "b": 3}}),
        json!({"table": "t", "op": "insert", "new": {"a": 3, "b": 3.0}}),
        json!({"table": "n", "op": "insert", "new": {"k": null, "v": 1}}),
    ]
    .iter()
    .map(Json::to_string)
    .collect();
    expected.sort();
    assert_eq!(lines, expected);
}

#[test]
fn schema_changes_and_whole_tables_are_listed() {
    let (lines, summary) = lines(
        &[
            "CREATE TABLE gone(a)",
            "INSERT INTO gone VALUES (1)",
            "CREATE TABLE t(id INTEGER PRIMARY KEY)",
            "INSERT INTO t VALUES (1), (2)",
            "CREATE VIRTUAL TABLE f USING fts5(x)",
            "INSERT INTO f VALUES ('one')",
        ],
        &[
            "DROP TABLE gone",
            "CREATE TABLE \"new \"\"q\"(b)",
            "INSERT INTO \"new \"\"q\" VALUES (5)",
            "ALTER TABLE t ADD COLUMN w",
            "UPDATE t SET w = 7 WHERE id = 2",
            "INSERT INTO f VALUES ('two')",
        ],
    );
    assert_eq!(summary.schema, 3);
    let emptied = json!({"schema": "gone", "kind": "table", "old": "CREATE TABLE gone(a)", "new": null});
    assert_eq!(lines.last(), Some(&emptied), "after its rows");
    assert!(lines.contains(&json!({"table": "gone", "op": "delete", "old": {"a": 1}})));
    assert!(lines.contains(&json!({"table": "new \"q", "op": "insert", "new": {"b": 5}})));
    assert!(lines.contains(&json!({"table": "f", "op": "insert", "new": {"x": "two"}})));
    assert!(lines.contains(
        &json!({"table": "t", "op": "update", "key": {"id": 2}, "old": {"id": 2}, "new": {"id": 2, "w": 7}})
    ));
    assert_eq!(lines.len(), 3 + 4, "{lines:#?}");
}

#[test]
fn equal_databases_have_no_lines() {
    let (lines, summary) = lines(
        &["CREATE TABLE t(v)", "INSERT INTO t VALUES (1)"],
        &["INSERT INTO t VALUES (2)", "DELETE FROM t WHERE v = 2"],
    );
    assert_eq!((lines, summary), (vec![], DiffSummary::default()));
}
