//! VACUUM: what it changes, what it leaves alone, and what is left when it fails. `formats` runs it among random work.

#![allow(clippy::disallowed_methods, reason = "deadlines are instants")]

mod common;

use std::time::Instant;

use common::*;
use rdb_engine::*;
use rdb_protocol::api::ErrorCode;
use rdb_protocol::settings::LogFormat;
use rdb_record::{ClientTag, Payload};

const MANY_ROWS: &str = "WITH RECURSIVE c(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM c WHERE i < 300)
                         INSERT INTO t SELECT i, zeroblob(3000) FROM c";

/// A database most of which is free pages, and hidden rowids with gaps.
fn sparse(change: impl FnOnce(&mut EngineOptions)) -> Leader {
    let mut leader = Leader::with(change);
    for sql in [
        "CREATE TABLE t(v, b)",
        "CREATE TABLE auto(id INTEGER PRIMARY KEY AUTOINCREMENT)",
        "INSERT INTO auto VALUES (90)",
        "DELETE FROM auto",
        MANY_ROWS,
        "DELETE FROM t WHERE rowid % 10 <> 7",
    ] {
        leader.sql(sql);
    }
    leader
}

fn keyed(sequence: u64, sql: &str) -> Transaction {
    let tag = ClientTag { client: "shop".to_owned(), sequence };
    Transaction { key: Some(RequestKey { tag, request_hash: sequence }), ..tx(&[sql]) }
}

/// Nothing lies beside the database but its own files.
fn assert_tidy(leader: &Leader) {
    for entry in std::fs::read_dir(leader.dir.path()).unwrap() {
        let name = entry.unwrap().file_name();
        assert!(["db", "db-wal", "db-shm"].iter().any(|known| name == **known), "{name:?}");
    }
}

#[test]
fn gives_back_free_pages_and_keeps_rows_rowids_and_counters() {
    let mut leader = sparse(|_| {});
    let mut follower = leader.seed();
    let old = "SELECT rowid, v, length(b) FROM t";
    let (rows, pages) = (query(&leader.engine, old), leader.engine.stats().database_pages);
    let result = leader.sql("VACUUM");
    assert_eq!(result, QueryResult::default());
    assert!(leader.engine.stats().database_pages * 5 < pages);
    assert_eq!(query(&leader.engine, old), rows);
    follower.applier.apply(&leader.take()).unwrap();
    assert_equal(&leader, &follower);
    for sql in ["INSERT INTO auto DEFAULT VALUES", "INSERT INTO t VALUES (1, 2)", "CREATE INDEX i ON t(v)", "VACUUM"] {
        leader.sql(sql);
    }
    assert_eq!(integer(&query(&leader.engine, "SELECT id FROM auto")), 91);
    follower.applier.apply(&leader.take()).unwrap();
    assert_equal(&leader, &follower);
    assert_tidy(&leader);
}

#[test]
fn several_records_with_it_in_between_are_applied_at_once() {
    let mut leader = sparse(|_| {});
    let mut follower = leader.seed();
    let mut end = leader.end.index;
    for sql in ["UPDATE t SET v = 0", "VACUUM", "INSERT INTO t SELECT v, b FROM t", "DELETE FROM t", "VACUUM"] {
        leader.sql(sql);
        assert!(leader.end.index > end);
        end = leader.end.index;
    }
    follower.applier.apply(&leader.take()).unwrap();
    assert_equal(&leader, &follower);
}

#[test]
fn open_snapshots_stay_as_they_are() {
    let mut leader = sparse(|_| {});
    let mut snapshot = leader.engine.seed_session().unwrap();
    leader.sql("VACUUM");
    leader.engine.checkpoint().unwrap();
    assert!(snapshot.verify(|| {}).unwrap());
    assert!(leader.engine.seed_session().unwrap().verify(|| {}).unwrap());
}

#[test]
fn its_outcome_is_kept_with_all_others() {
    let mut leader = sparse(|_| {});
    let mut follower = leader.seed();
    let first = leader.run(keyed(1, "INSERT INTO t VALUES (5, 5)")).unwrap();
    let vacuum = leader.run(keyed(2, "VACUUM")).unwrap();
    assert_eq!(vacuum.position.index, leader.end.index);
    assert_eq!(leader.last.as_ref().unwrap().clients.len(), 1);
    follower.applier.apply(&leader.take()).unwrap();
    for (sequence, sql, then) in [(1, "INSERT INTO t VALUES (5, 5)", first), (2, "VACUUM", vacuum)] {
        let again = leader.run(keyed(sequence, sql)).unwrap();
        assert_eq!(again, TransactionResult { replayed: true, ..then });
    }
    assert!(leader.take().is_empty());
    assert_equal(&leader, &follower);
}

#[test]
fn consumers_of_changes_see_a_record_without_changes() {
    let mut leader = sparse(|_| {});
    for format in [LogFormat::Page, LogFormat::Mixed] {
        leader.writer.record_as(Recording::new(format).with_changes(true)).unwrap();
        leader.run(keyed(format as u64, "VACUUM")).unwrap();
        let record = leader.last.clone().unwrap();
        assert!(matches!(record.payload.main(), Payload::Pages(_)));
        assert_eq!(changes_of(&record, Shown { internal: true }).unwrap(), Some(NO_CHANGES.to_owned()));
        leader.sql("INSERT INTO t VALUES (1, 2)");
        let changes = changes_of(leader.last.as_ref().unwrap(), Shown::default()).unwrap().unwrap();
        assert_ne!(changes, NO_CHANGES);
    }
}

#[test]
fn where_the_log_cannot_carry_it_the_answer_names_the_way_out() {
    let mut leader = sparse(|_| {});
    for (recording, way_out) in [
        (Recording::new(LogFormat::Statement), "page or mixed"),
        (Recording::new(LogFormat::Logical), "page or mixed"),
        (Recording::new(LogFormat::Page).for_any_layout(true), "other_layout"),
    ] {
        leader.writer.record_as(recording).unwrap();
        let refused = leader.try_sql("VACUUM").unwrap_err().api;
        assert!(refused.code == ErrorCode::Forbidden && refused.hint.contains(way_out), "{refused:?}");
    }
}

#[test]
fn alone_and_plain_or_not_at_all() {
    let mut leader = sparse(|_| {});
    leader.log.clear();
    let with_args = Statement::with("VACUUM", vec![Value::Integer(1)]);
    let with_args = Transaction { statements: vec![with_args], ..Transaction::default() };
    for transaction in [tx(&["VACUUM", "SELECT 1"]), tx(&["DELETE FROM t", "VACUUM"]), tx(&["VACUUM main"]), with_args]
    {
        let refused = leader.run(transaction).unwrap_err().api;
        assert!(refused.code == ErrorCode::Forbidden && refused.hint.contains("write of its own"), "{refused:?}");
    }
    let mut results = leader.group(&[tx(&["VACUUM"]), tx(&["DELETE FROM t"])]);
    assert!(results.pop().unwrap().is_ok() && results.pop().unwrap().is_err());
    assert_eq!(leader.log.len(), 1);
}

#[test]
fn what_fails_leaves_everything_as_it_was() {
    let mut leader = sparse(|options| options.max_record_bytes = 1_500_000);
    for _ in 0..2 {
        leader.sql(MANY_ROWS);
    }
    leader.log.clear();
    let too_large = leader.try_sql("VACUUM").unwrap_err().api;
    assert_eq!(too_large.code, ErrorCode::RequestTooLarge);
    assert!(too_large.message.contains("1500000") && too_large.hint.contains("rdb load"), "{too_large:?}");
    assert!(leader.log.is_empty());
    leader.sql("DELETE FROM t WHERE v > 100");
    let content = leader.engine.stats().content;

    let late = Transaction { deadline: Some(Instant::now()), ..tx(&["VACUUM"]) };
    assert_eq!(leader.run(late).unwrap_err().code(), ErrorCode::Timeout);

    leader.writer.limit_vacuum(Some(Instant::now()));
    let slow = leader.try_sql("VACUUM").unwrap_err().api;
    assert!(slow.code == ErrorCode::RequestTooLarge && slow.hint.contains("progressTimeout"), "{slow:?}");
    leader.writer.limit_vacuum(None);

    let slot = leader.slot();
    let refused = CommitError(ErrorCode::NotLeader.error("fenced", ""));
    let result = leader.writer.run_group(slot, &[keyed(1, "VACUUM")], &mut |_| Err(refused.clone())).unwrap();
    assert_eq!(result.results[0].as_ref().unwrap_err().api, refused.0);
    assert_eq!(leader.engine.scan_checksum().unwrap(), content);
    assert_eq!(leader.engine.stats().content, content);
    assert_eq!(leader.log.len(), 1);
    assert_tidy(&leader);

    let mut follower = leader.seed();
    leader.sql("VACUUM");
    leader.sql("INSERT INTO t VALUES (1, 2)");
    follower.applier.apply(&leader.take()).unwrap();
    assert_equal(&leader, &follower);
}

/// Many rows on fewer pages than are written between two looks at the clock: only making the copy takes time.
#[test]
fn time_is_up_while_the_copy_is_made() {
    let mut leader = Leader::with(|_| {});
    leader.sql("CREATE TABLE t(b)");
    leader.sql("WITH RECURSIVE c(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM c WHERE i < 5000) INSERT INTO t SELECT 1 FROM c");
    assert!(leader.engine.stats().database_pages <= 16, "too many pages for this test");
    let content = leader.engine.stats().content;
    leader.writer.limit_vacuum(Some(Instant::now()));
    assert_eq!(leader.code("VACUUM"), ErrorCode::RequestTooLarge);
    leader.writer.limit_vacuum(None);
    let late = Transaction { deadline: Some(Instant::now()), ..tx(&["VACUUM"]) };
    assert_eq!(leader.run(late).unwrap_err().code(), ErrorCode::Timeout);
    assert_eq!(leader.engine.scan_checksum().unwrap(), content);
    assert_tidy(&leader);
    leader.sql("VACUUM");
}

/// Making the copy of a small database is over before the clock is looked at.
#[test]
fn time_is_up_while_pages_are_written_too() {
    let mut leader = Leader::with(|_| {});
    leader.sql("CREATE TABLE t(b)");
    leader.sql("INSERT INTO t VALUES (zeroblob(300000))");
    let content = leader.engine.stats().content;
    leader.writer.limit_vacuum(Some(Instant::now()));
    assert_eq!(leader.code("VACUUM"), ErrorCode::RequestTooLarge);
    assert_eq!(leader.engine.scan_checksum().unwrap(), content);
    assert_tidy(&leader);
    leader.writer.limit_vacuum(None);
    let mut follower = leader.seed();
    leader.sql("VACUUM");
    follower.applier.apply(&leader.take()).unwrap();
    assert_equal(&leader, &follower);
}

#[test]
fn a_disk_without_room_for_the_copy_is_said_before_it_is_made() {
    let mut leader = sparse(|options| options.reserve_bytes = 1);
    leader.sql("VACUUM");
    let mut leader = sparse(|_| {});
    let Leader { dir, engine, writer, .. } = leader;
    drop((engine, writer));
    let options = EngineOptions { reserve_bytes: u64::MAX, ..options(dir.path()) };
    let engine = Engine::open(options).unwrap();
    let writer = engine.writer().unwrap();
    let end = rdb_protocol::Position { index: engine.position().unwrap().index, ..rdb_protocol::Position::ZERO };
    leader = Leader { dir, engine, writer, end, log: Vec::new(), last: None };
    let full = leader.try_sql("VACUUM").unwrap_err().api;
    assert!(full.code == ErrorCode::DiskFull && full.message.contains("this needs"), "{full:?}");
    assert_tidy(&leader);
}

#[test]
fn a_copy_left_by_a_crash_is_removed_at_the_next_start() {
    let leader = sparse(|_| {});
    let Leader { dir, engine, writer, .. } = leader;
    drop((engine, writer));
    for name in ["db.vacuum", "db.vacuum-journal"] {
        std::fs::write(dir.path().join(name), "half a copy").unwrap();
    }
    drop(Engine::open(options(dir.path())).unwrap());
    assert!(!dir.path().join("db.vacuum").exists() && !dir.path().join("db.vacuum-journal").exists());
}
