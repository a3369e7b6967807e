//! Queries: budgets, limits, deadlines, snapshots.

#![allow(clippy::disallowed_methods, reason = "deadlines are instants")]

mod common;

use std::time::{Duration, Instant};

use common::*;
use rdb_engine::*;
use rdb_protocol::api::ErrorCode;

fn filled() -> Leader {
    let mut leader = Leader::new();
    leader.sql("CREATE TABLE t(id INTEGER PRIMARY KEY, v TEXT)");
    leader.sql(
        "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c WHERE x < 5000)
         INSERT INTO t SELECT x, hex(randomblob(10)) FROM c",
    );
    leader
}

#[test]
fn a_budget_lets_point_reads_through_and_stops_scans() {
    let leader = filled();
    let mut reader = leader.engine.reader().unwrap();
    let point = Statement::with("SELECT v FROM t WHERE id = ?", vec![77.into()]);
    let scan = Statement::new("SELECT count(*) FROM t WHERE v LIKE '%ABC%'");
    let limits = Limits::default();
    for _ in 0..3 {
        let answer = reader.query(&point, &limits, Some(1000), None).unwrap();
        assert_eq!((answer.result.rows().len(), answer.position.index), (1, leader.end.index));
        assert_eq!(reader.query(&scan, &limits, Some(10_000), None), Err(QueryError::BudgetExceeded));
        // With more, and with none.
        assert!(reader.query(&scan, &limits, Some(10_000_000), None).is_ok());
        assert!(reader.query(&scan, &limits, None, None).is_ok());
    }
}

#[test]
fn a_deadline_and_a_result_limit_stop_a_query() {
    let leader = filled();
    let mut reader = leader.engine.reader().unwrap();
    let endless =
        Statement::new("WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT max(x) FROM c");
    let code = |answer: Result<Answer, QueryError>| match answer {
        Err(QueryError::Sql(failure)) => failure.code(),
        other => panic!("{other:?}"),
    };
    let soon = Some(Instant::now() + Duration::from_millis(20));
    assert_eq!(code(reader.query(&endless, &Limits::default(), None, soon)), ErrorCode::Timeout);
    assert_eq!(code(reader.query(&endless, &Limits::default(), None, soon)), ErrorCode::Timeout);
    let all = Statement::new("SELECT * FROM t");
    let small = Limits { max_result_bytes: 10_000 };
    assert_eq!(code(reader.query(&all, &small, None, None)), ErrorCode::ResultTooLarge);
    assert_eq!(reader.query(&all, &Limits::default(), None, None).unwrap().result.rows().len(), 5000);
}

#[test]
fn the_check_after_the_snapshot_decides_about_that_snapshot() {
    let mut leader = filled();
    let mut reader = leader.engine.reader().unwrap();
    let count = Statement::new("SELECT count(*) FROM t");
    let before = leader.engine.position().unwrap();
    let answer = reader
        .query_checked(&count, &Limits::default(), None, None, |position| {
            assert_eq!(position, before);
            // A write after the snapshot is not seen, even before the query itself has begun.
            leader.sql("DELETE FROM t WHERE id = 1");
            Ok::<(), ()>(())
        })
        .unwrap();
    assert_eq!((integer(&answer.result), answer.position), (5000, before));
    assert_eq!(reader.position().unwrap(), leader.writer.position());
    let refused = reader.query_checked(&count, &Limits::default(), None, None, |_| Err("no lease"));
    assert_eq!(refused, Err(QueryError::Refused("no lease")));
    // The snapshot was let go: everything can be copied from -wal.
    leader.engine.checkpoint().unwrap();
    assert_eq!(leader.engine.stats().wal_frames, 0);
}

#[test]
fn cached_statements_follow_the_schema() {
    let mut leader = filled();
    let mut reader = leader.engine.reader().unwrap();
    let all = Statement::new("SELECT * FROM t LIMIT 1");
    let mut width = || reader.query(&all, &Limits::default(), None, None).unwrap().result.columns.len();
    assert_eq!(width(), 2);
    leader.sql("ALTER TABLE t ADD COLUMN w");
    assert_eq!(width(), 3);
    leader.sql("ALTER TABLE t DROP COLUMN v");
    assert_eq!(width(), 2);
}

#[test]
fn many_different_statements_do_not_grow_the_cache_without_bound() {
    let leader = filled();
    let mut reader = leader.engine.reader().unwrap();
    for n in 0..1000 {
        let sql = format!("SELECT {n}");
        assert_eq!(integer(&reader.query(&Statement::new(sql), &Limits::default(), None, None).unwrap().result), n);
    }
    let long = format!("SELECT {} 5", " ".repeat(20_000));
    assert_eq!(integer(&reader.query(&Statement::new(long), &Limits::default(), None, None).unwrap().result), 5);
}

/// FTS5 keeps an index's outline in the connection, and SQLite's check of the whole database does not look whether it is still
/// the present one.
#[test]
fn a_check_of_the_database_does_not_take_an_old_outline_of_an_index_for_damage() {
    let mut leader = Leader::new();
    leader.sql("CREATE VIRTUAL TABLE docs USING fts5(body)");
    let mut reader = leader.engine.reader().unwrap();
    let mut check = |sql: &str| {
        let answer = reader.query(&Statement::new(sql), &Limits::default(), None, None).unwrap();
        assert_eq!(answer.result.values, [Value::from("ok")], "{sql}");
    };
    for i in 0..20 {
        leader.sql(&format!("INSERT INTO docs VALUES ('word{i}')"));
        check("PRAGMA integrity_check");
        leader.sql("INSERT INTO docs(docs) VALUES ('optimize')");
        check("pragma quick_check");
        leader.sql("UPDATE docs SET body = body || ' more'");
        check("SELECT * FROM pragma_Integrity_Check");
    }
}
