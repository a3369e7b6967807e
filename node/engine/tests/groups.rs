//! Each client transaction of a group is undone alone, and a group becomes visible only when its commit point says so.

#![allow(clippy::disallowed_methods, reason = "deadlines are instants")]

mod common;

use std::time::{Duration, Instant};

use common::*;
use rdb_engine::*;
use rdb_protocol::api::ErrorCode;

fn count(leader: &Leader, table: &str) -> i64 {
    integer(&query(&leader.engine, &format!("SELECT count(*) FROM {table}")))
}

fn codes(results: &[Result<TransactionResult, SqlFailure>]) -> Vec<Option<ErrorCode>> {
    results.iter().map(|result| result.as_ref().err().map(SqlFailure::code)).collect()
}

#[test]
fn a_failing_transaction_is_undone_alone() {
    let mut leader = Leader::new();
    let mut follower = leader.seed();
    leader.sql("CREATE TABLE t(id INTEGER PRIMARY KEY, v UNIQUE)");
    let results = leader.group(&[
        tx(&["INSERT INTO t VALUES (1, 'a')"]),
        tx(&["INSERT INTO t VALUES (2, 'b')", "INSERT INTO t VALUES (3, 'c')", "INSERT INTO t VALUES (4, 'a')"]),
        tx(&["INSERT INTO t VALUES (2, 'a')"]),
        tx(&["INSERT INTO t VALUES (5, 'x'), (6, 'y'), (7, 'a')"]),
        tx(&["INSERT INTO nowhere VALUES (1)"]),
        tx(&["INSERT INTO t VALUES (2, 'last')"]),
    ]);
    let (ok, constraint) = (None, Some(ErrorCode::Constraint));
    assert_eq!(codes(&results), [ok, constraint, constraint, constraint, Some(ErrorCode::SqlError), ok]);
    assert_eq!(query(&leader.engine, "SELECT group_concat(v ORDER BY id) FROM t").values, [Value::from("a,last")]);
    follower.applier.apply(&leader.take()).unwrap();
    assert_equal(&leader, &follower);
}

#[test]
fn a_transaction_that_rolls_everything_back_does_not_take_the_group_along() {
    let mut leader = Leader::new();
    let mut follower = leader.seed();
    leader.sql("CREATE TABLE t(id INTEGER PRIMARY KEY)");
    leader.sql("CREATE TABLE other(id INTEGER PRIMARY KEY ON CONFLICT ROLLBACK)");
    leader
        .sql("CREATE TRIGGER tr BEFORE INSERT ON other WHEN new.id = 13 BEGIN SELECT RAISE(ROLLBACK, 'unlucky'); END");
    let results = leader.group(&[
        tx(&["INSERT INTO t VALUES (1)"]),
        tx(&["INSERT INTO t VALUES (2)", "INSERT OR ROLLBACK INTO t VALUES (1)"]),
        tx(&["INSERT INTO t VALUES (2)"]),
        tx(&["INSERT INTO other VALUES (13)"]),
        tx(&["INSERT INTO other VALUES (1), (1)"]),
        tx(&["INSERT OR ROLLBACK INTO t VALUES (3)"]),
    ]);
    let (ok, constraint) = (None, Some(ErrorCode::Constraint));
    assert_eq!(codes(&results), [ok, constraint, ok, constraint, constraint, ok]);
    assert!(results[3].as_ref().unwrap_err().api.message.contains("unlucky"));
    assert_eq!((count(&leader, "t"), count(&leader, "other")), (3, 0));
    follower.applier.apply(&leader.take()).unwrap();
    assert_equal(&leader, &follower);
}

#[test]
fn many_that_roll_everything_back_are_bounded() {
    let mut leader = Leader::new();
    leader.sql("CREATE TABLE t(id INTEGER PRIMARY KEY)");
    let mut group = vec![tx(&["INSERT INTO t VALUES (1)"])];
    group.extend((0..20).map(|_| tx(&["INSERT OR ROLLBACK INTO t VALUES (1)"])));
    let codes = codes(&leader.group(&group));
    assert_eq!(codes[0], None);
    assert_eq!(codes.iter().filter(|code| **code == Some(ErrorCode::Constraint)).count(), 8);
    assert_eq!(codes.iter().filter(|code| **code == Some(ErrorCode::Overloaded)).count(), 12);
    assert_eq!(count(&leader, "t"), 1);
}

#[test]
fn rows_changed_before_a_failure_are_undone_whatever_the_conflict_clause() {
    let mut leader = Leader::new();
    leader.sql("CREATE TABLE t(id INTEGER PRIMARY KEY)");
    leader.sql("CREATE TABLE other(v)");
    // Beside a transaction that commits, so that a rollback of everything cannot hide what was left behind.
    let fail = |leader: &mut Leader, sql: &str| {
        let results = leader.group(&[tx(&["INSERT INTO other VALUES (1)"]), tx(&[sql])]);
        assert_eq!(codes(&results), [None, Some(ErrorCode::Constraint)], "{sql}");
        assert_eq!(count(leader, "t"), 0, "{sql}");
    };
    fail(&mut leader, "INSERT OR FAIL INTO t VALUES (1), (2), (1)");
    leader.sql("CREATE TRIGGER tr BEFORE INSERT ON t WHEN new.id = 5 BEGIN SELECT RAISE(FAIL, 'five'); END");
    fail(&mut leader, "INSERT INTO t VALUES (3), (4), (5)");
    leader.sql("DROP TABLE t");
    leader.sql("CREATE TABLE t(id INTEGER PRIMARY KEY ON CONFLICT FAIL)");
    fail(&mut leader, "INSERT INTO t VALUES (1), (2), (1)");
}

#[test]
fn a_deferred_foreign_key_is_checked_at_the_end_of_its_transaction() {
    let mut leader = Leader::new();
    leader.sql("CREATE TABLE p(id INTEGER PRIMARY KEY)");
    leader.sql("CREATE TABLE c(p REFERENCES p DEFERRABLE INITIALLY DEFERRED)");
    leader.sql("CREATE TABLE i(p REFERENCES p)");
    let results = leader.group(&[
        tx(&["INSERT INTO p VALUES (1)"]),
        tx(&["INSERT INTO c VALUES (7)"]),
        tx(&["INSERT INTO c VALUES (8)", "INSERT INTO p VALUES (9)"]),
        tx(&["INSERT INTO c VALUES (2)", "INSERT INTO p VALUES (2)"]),
        tx(&["PRAGMA defer_foreign_keys = ON", "INSERT INTO i VALUES (3)", "INSERT INTO p VALUES (3)"]),
        tx(&["INSERT INTO i VALUES (4)", "INSERT INTO p VALUES (4)"]),
        tx(&["PRAGMA defer_foreign_keys = ON", "INSERT INTO i VALUES (5)"]),
        tx(&["INSERT INTO c VALUES (1)"]),
    ]);
    let (ok, constraint) = (None, Some(ErrorCode::Constraint));
    assert_eq!(codes(&results), [ok, constraint, constraint, ok, ok, constraint, constraint, ok]);
    assert_eq!((count(&leader, "p"), count(&leader, "c"), count(&leader, "i")), (3, 2, 1));
    assert!(query(&leader.engine, "PRAGMA foreign_key_check").values.is_empty());
}

#[test]
fn a_refused_commit_leaves_nothing_and_the_writer_usable() {
    let mut leader = Leader::new();
    leader.sql("CREATE TABLE t(v)");
    let (content, position) = (leader.engine.stats().content, leader.engine.position().unwrap());
    let refusal = ErrorCode::UnknownOutcome.error("fenced", "retry with the key");
    let mut calls = 0;
    let slot = leader.slot();
    let group = [tx(&["INSERT INTO t VALUES (1)"]), tx(&["SELECT count(*) FROM t"]), tx(&["SELECT nothing"])];
    let result = leader
        .writer
        .run_group(slot, &group, &mut |_| {
            calls += 1;
            // Nobody sees it before the commit point has decided.
            assert_eq!(integer(&query(&leader.engine, "SELECT count(*) FROM t")), 0);
            Err(CommitError(refusal.clone()))
        })
        .unwrap();
    assert_eq!((calls, result.record), (1, None));
    for result in &result.results {
        assert_eq!(result.as_ref().unwrap_err().api, refusal);
    }
    assert_eq!(count(&leader, "t"), 0);
    assert_eq!((leader.engine.stats().content, leader.engine.position().unwrap()), (content, position));
    assert_eq!(leader.engine.scan_checksum().unwrap(), content);
    let mut follower = leader.seed();
    leader.sql("INSERT INTO t VALUES (2)");
    follower.applier.apply(&leader.take()).unwrap();
    assert_equal(&leader, &follower);
}

#[test]
fn a_panic_at_the_commit_point_is_fatal_and_does_not_unwind_into_sqlite() {
    let mut leader = Leader::new();
    leader.sql("CREATE TABLE t(v)");
    let slot = leader.slot();
    let result = leader.writer.run_group(slot, &[tx(&["INSERT INTO t VALUES (1)"])], &mut |_| panic!("on purpose"));
    assert!(result.unwrap_err().0.contains("panicked"));
    assert_eq!(count(&leader, "t"), 0);
}

#[test]
fn what_changes_nothing_makes_no_record() {
    let mut leader = Leader::new();
    leader.sql("CREATE TABLE t(id INTEGER PRIMARY KEY, v)");
    leader.sql("INSERT INTO t VALUES (1, 'a')");
    let end = leader.end;
    for sql in ["SELECT * FROM t", "UPDATE t SET v = 1 WHERE id = 99", "DELETE FROM t WHERE 0", "PRAGMA user_version"] {
        leader.sql(sql);
    }
    assert_eq!(leader.code("INSERT INTO t VALUES (1, 'b')"), ErrorCode::Constraint);
    assert_eq!(leader.code("INSERT INTO t VALUES (2, 'b'), (1, 'b')"), ErrorCode::Constraint);
    assert_eq!(leader.end, end);
    // A failed and an empty write beside each other.
    leader.group(&[tx(&["INSERT INTO t VALUES (2, 2), (1, 1)"]), tx(&["DELETE FROM t WHERE id = 99"])]);
    leader.sql("UPDATE t SET v = 'a'");
    assert_eq!(integer(&query(&leader.engine, "SELECT count(*) FROM t")), 1);
}

#[test]
fn an_interrupted_write_is_undone_and_the_others_go_on() {
    let mut leader = Leader::new();
    leader.sql("CREATE TABLE t(v)");
    let endless = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c)";
    let soon = || Some(Instant::now() + Duration::from_millis(30));
    let write = Transaction { deadline: soon(), ..tx(&[&format!("{endless} INSERT INTO t SELECT x FROM c")]) };
    let read = Transaction { deadline: soon(), ..tx(&[&format!("{endless} SELECT count(*) FROM c")]) };
    let late = Transaction { deadline: Some(Instant::now()), ..tx(&["INSERT INTO t VALUES (0)"]) };
    let results =
        leader.group(&[tx(&["INSERT INTO t VALUES (1)"]), write, read, late, tx(&["INSERT INTO t VALUES (2)"])]);
    let timeout = Some(ErrorCode::Timeout);
    assert_eq!(codes(&results), [None, timeout, timeout, timeout, None]);
    assert_eq!(count(&leader, "t"), 2);
}

#[test]
fn a_result_that_is_too_large_undoes_the_transaction() {
    let mut leader = Leader::new();
    leader.sql("CREATE TABLE t(v)");
    let limits = Limits { max_result_bytes: 1000 };
    let small = |sql| Transaction { limits, ..tx(&[sql]) };
    let results = leader.group(&[
        small("INSERT INTO t SELECT hex(randomblob(100)) FROM pragma_function_list RETURNING v"),
        small("SELECT hex(randomblob(2000))"),
        small("INSERT INTO t VALUES ('short') RETURNING v"),
    ]);
    let too_large = Some(ErrorCode::ResultTooLarge);
    assert_eq!(codes(&results), [too_large, too_large, None]);
    assert_eq!(count(&leader, "t"), 1);
}

#[test]
fn a_transaction_larger_than_a_record_is_refused_and_smaller_ones_are_not() {
    let mut leader = Leader::with(|options| options.max_record_bytes = 1 << 20);
    leader.sql("CREATE TABLE t(v)");
    let large = "INSERT INTO t VALUES (randomblob(2000000))";
    assert_eq!(leader.code(large), ErrorCode::RequestTooLarge);
    let half = "INSERT INTO t VALUES (randomblob(600000))";
    let results = leader.group(&[tx(&[half]), tx(&[half]), tx(&[half])]);
    assert_eq!(codes(&results), [None, Some(ErrorCode::Overloaded), Some(ErrorCode::Overloaded)]);
    leader.sql(half);
    assert_eq!(count(&leader, "t"), 2);
    // Also when the cache spills in the middle of a statement.
    let mut leader = Leader::with(|options| {
        options.max_record_bytes = 1 << 20;
        options.writer_cache_bytes = 40 << 10;
    });
    leader.sql("CREATE TABLE t(v)");
    assert_eq!(leader.code(large), ErrorCode::RequestTooLarge);
    leader.sql(half);
    assert_eq!(count(&leader, "t"), 1);
}

#[test]
fn results_have_columns_counts_and_rowids() {
    let mut leader = Leader::new();
    leader.sql("CREATE TABLE t(id INTEGER PRIMARY KEY, v TEXT COLLATE NOCASE)");
    let result = leader.sql("INSERT INTO t(v) VALUES ('a'), ('b')");
    assert_eq!((result.rows_affected, result.last_insert_rowid), (2, 2));
    // Nothing of the transaction before shows.
    let result = leader.sql("UPDATE t SET v = 'c'");
    assert_eq!((result.rows_affected, result.last_insert_rowid), (2, 0));
    let result = leader.sql("SELECT id, v, 1 + 1 AS two, last_insert_rowid() FROM t ORDER BY id DESC");
    let column = |name: &str, declared: Option<&str>| Column { name: name.into(), declared: declared.map(Into::into) };
    let columns = [
        column("id", Some("INTEGER")),
        column("v", Some("TEXT")),
        column("two", None),
        column("last_insert_rowid()", None),
    ];
    assert_eq!(*result.columns, columns);
    assert_eq!(result.rows().next().unwrap(), [2.into(), "c".into(), 2.into(), 0.into()]);
    assert_eq!(result.rows_affected, 0);
    let result = leader.sql("DELETE FROM t RETURNING v");
    assert_eq!((result.rows().len(), result.rows_affected), (2, 2));
    // A cached statement follows the schema.
    leader.sql("INSERT INTO t VALUES (1, 'x')");
    assert_eq!(leader.sql("SELECT * FROM t").columns.len(), 2);
    leader.sql("ALTER TABLE t ADD COLUMN w DEFAULT 5");
    let result = leader.sql("SELECT * FROM t");
    assert_eq!((result.columns.len(), result.rows().next().unwrap()[2].clone()), (3, 5.into()));
}

#[test]
fn arguments_are_bound_by_position_or_name() {
    let mut leader = Leader::new();
    let mut run = |sql: &str, args: Args| {
        let statements = vec![Statement { sql: sql.to_owned(), args }];
        let result = leader.run(Transaction { statements, ..Transaction::default() });
        result.map(|result| result.results[0].values.clone()).map_err(|error| error.code())
    };
    let named = |args: &[(&str, i64)]| {
        Args::Named(args.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect())
    };
    let three = || vec![Value::Blob(vec![]), "x".into(), Value::Null];
    let typed = run("SELECT typeof(?), typeof(?), typeof(?)", Args::Positional(three())).unwrap();
    assert_eq!(typed, ["blob".into(), "text".into(), "null".into()]);
    assert_eq!(run("SELECT :a + @b * $c + :a", named(&[("a", 1), ("@b", 2), ("c", 3)])), Ok(vec![8.into()]));
    for (sql, args) in [
        ("SELECT ?, ?", Args::Positional(vec![1.into()])),
        ("SELECT 1", Args::Positional(vec![1.into()])),
        ("SELECT :a", named(&[])),
        ("SELECT :a", named(&[("a", 1), ("b", 2)])),
        ("SELECT ?", named(&[("a", 1)])),
    ] {
        assert_eq!(run(sql, args), Err(ErrorCode::SqlError), "{sql}");
    }
}
