//! Requests with an idempotency key take effect once, whoever leads.

mod common;

use common::*;
use rdb_engine::*;
use rdb_protocol::api::ErrorCode;
use rdb_record::ClientTag;

fn keyed(client: &str, sequence: u64, request_hash: u64, sql: &[&str]) -> Transaction {
    let tag = ClientTag { client: client.to_owned(), sequence };
    Transaction { key: Some(RequestKey { tag, request_hash }), ..tx(sql) }
}

fn count(engine: &Engine) -> i64 {
    integer(&query(engine, "SELECT count(*) FROM t"))
}

#[test]
fn a_repeated_request_gets_its_first_answer() {
    let mut leader = Leader::new();
    leader.sql("CREATE TABLE t(id INTEGER PRIMARY KEY, v)");
    let request = || {
        keyed("c", u64::MAX, u64::MAX - 1, &["INSERT INTO t(v) VALUES ('x') RETURNING id, v", "SELECT count(*) FROM t"])
    };
    let first = leader.run(request()).unwrap();
    assert_eq!(leader.last.as_ref().unwrap().clients, [ClientTag { client: "c".to_owned(), sequence: u64::MAX }]);
    leader.sql("INSERT INTO t VALUES (9, 'y')");
    let end = leader.end;
    let again = leader.run(request()).unwrap();
    assert_eq!((&again.results, again.position), (&first.results, first.position));
    assert!(again.replayed && !first.replayed);
    assert_eq!((leader.end, count(&leader.engine)), (end, 2));
    // In the same group, too.
    let other = || keyed("c", 2, 5, &["INSERT INTO t(v) VALUES ('z')"]);
    let results = leader.group(&[other(), other()]);
    assert_eq!(count(&leader.engine), 3);
    assert_eq!(results.iter().map(|result| result.as_ref().unwrap().replayed).collect::<Vec<_>>(), [false, true]);
    // Keys are told apart by both of their parts.
    for transaction in
        [keyed("d", 2, 5, &["INSERT INTO t(v) VALUES ('z')"]), keyed("c", 3, 5, &["INSERT INTO t(v) VALUES ('z')"])]
    {
        assert!(!leader.run(transaction).unwrap().replayed);
    }
    assert_eq!(count(&leader.engine), 5);
}

#[test]
fn a_key_with_another_request_is_refused() {
    let mut leader = Leader::new();
    leader.sql("CREATE TABLE t(v)");
    leader.run(keyed("c", 1, 1, &["INSERT INTO t VALUES (1)"])).unwrap();
    let failure = leader.run(keyed("c", 1, 2, &["INSERT INTO t VALUES (2)"])).unwrap_err();
    assert_eq!((failure.code(), count(&leader.engine)), (ErrorCode::KeyReused, 1));
}

#[test]
fn only_what_took_effect_is_kept() {
    let mut leader = Leader::new();
    leader.sql("CREATE TABLE t(v UNIQUE)");
    leader.sql("INSERT INTO t VALUES (1)");
    assert!(leader.run(keyed("c", 1, 1, &["INSERT INTO t VALUES (1)"])).is_err());
    leader.sql("DELETE FROM t");
    assert!(!leader.run(keyed("c", 1, 1, &["INSERT INTO t VALUES (1)"])).unwrap().replayed);
    // A write that changed no row took effect as well: repeated later, it must not.
    leader.run(keyed("c", 2, 1, &["UPDATE t SET v = 5 WHERE v = 4"])).unwrap();
    leader.sql("INSERT INTO t VALUES (4)");
    assert!(leader.run(keyed("c", 2, 1, &["UPDATE t SET v = 5 WHERE v = 4"])).unwrap().replayed);
    // A refused commit keeps nothing.
    let slot = leader.slot();
    let refused = ErrorCode::UnknownOutcome.error("fenced", "");
    let group = [keyed("c", 3, 1, &["INSERT INTO t VALUES (7)"])];
    let result = leader.writer.run_group(slot, &group, &mut |_| Err(CommitError(refused.clone()))).unwrap();
    assert!(result.results[0].is_err());
    assert!(!leader.run(keyed("c", 3, 1, &["INSERT INTO t VALUES (7)"])).unwrap().replayed);
}

#[test]
fn a_follower_that_takes_over_knows_the_outcomes() {
    let mut leader = Leader::new();
    leader.sql("CREATE TABLE t(v)");
    let mut follower = leader.seed();
    let first = leader.run(keyed("c", 1, 1, &["INSERT INTO t VALUES (1) RETURNING v"])).unwrap();
    leader.run(keyed("c", 2, 1, &["INSERT INTO t VALUES (randomblob(400000)) RETURNING v"])).unwrap();
    follower.applier.apply(&leader.take()).unwrap();
    let Follower { dir, engine, applier } = follower;
    assert!(matches!(engine.writer(), Err(EngineError::Busy)));
    drop(applier);
    let tag = |sequence| ClientTag { client: "c".to_owned(), sequence };
    let mut reader = engine.reader().unwrap();
    let kept = reader.outcome(&tag(1)).unwrap().unwrap();
    assert_eq!((kept.position, kept.results.as_ref()), (first.position, Some(&first.results)));
    assert_eq!(reader.outcome(&tag(2)).unwrap().unwrap().results, None);
    assert_eq!(reader.outcome(&tag(3)).unwrap(), None);
    let mut writer = engine.writer().unwrap();
    let slot = Slot { epoch: rdb_protocol::Epoch(2), ..leader.slot() };
    let group = [
        keyed("c", 1, 1, &["INSERT INTO t VALUES (1) RETURNING v"]),
        keyed("c", 2, 1, &["INSERT INTO t VALUES (randomblob(400000)) RETURNING v"]),
    ];
    let result = writer.run_group(slot, &group, &mut |_| panic!("nothing changes")).unwrap();
    assert_eq!(result.results[0].as_ref().unwrap().results, first.results);
    assert!(result.results[1].as_ref().unwrap().replayed);
    drop((writer, reader, engine, dir));
}

/// The request took effect, so the answer must not be one after which a client writes again.
#[test]
fn a_repeated_request_whose_rows_were_not_kept_is_answered_without_them() {
    let mut leader = Leader::new();
    leader.sql("CREATE TABLE t(id INTEGER PRIMARY KEY, v)");
    let request = |hash| {
        let insert = "INSERT INTO t(v) VALUES (randomblob(200000)), (randomblob(200000)) RETURNING v";
        keyed("c", 1, hash, &[insert, "UPDATE t SET v = 0 WHERE id = 1", "SELECT 1"])
    };
    let first = leader.run(request(1)).unwrap();
    let again = leader.run(request(1)).unwrap();
    assert_eq!((again.replayed, again.position), (true, first.position));
    let counts = |results: &[QueryResult]| -> Vec<_> {
        results.iter().map(|result| (result.rows_affected, result.last_insert_rowid)).collect()
    };
    assert_eq!(counts(&again.results), counts(&first.results));
    assert!(again.results.iter().all(|result| result.values.is_empty()));
    assert_eq!(count(&leader.engine), 2);
    // That there were rows can be told: what is kept is not shown as the result.
    let tag = ClientTag { client: "c".to_owned(), sequence: 1 };
    assert_eq!(leader.writer.outcome(&tag).unwrap().unwrap().results, None);
    assert_eq!(leader.run(request(2)).unwrap_err().code(), ErrorCode::KeyReused);

    // Nothing is known of the result: as if a newer version had kept it.
    let Leader { dir, engine, writer, end, .. } = leader;
    drop((writer, engine));
    let connection = rusqlite::Connection::open(dir.path().join("db")).unwrap();
    assert_eq!(connection.execute("UPDATE _rdb_clients SET result = x'63'", []), Ok(1));
    drop(connection);
    let engine = Engine::open(options(dir.path())).unwrap();
    let mut writer = engine.writer().unwrap();
    let slot = Slot { epoch: rdb_protocol::Epoch(1), previous: end, unix_ms: 0, timestamp: 0 };
    let result = writer.run_group(slot, &[request(1)], &mut |_| panic!("nothing changes")).unwrap();
    let again = result.results[0].as_ref().unwrap();
    assert_eq!((again.replayed, again.position), (true, first.position));
    assert_eq!(again.results, vec![QueryResult::default(); 3]);
}

#[test]
fn outcomes_are_dropped_when_their_time_is_over() {
    let mut leader = Leader::new();
    leader.sql("CREATE TABLE t(v)");
    let group: Vec<Transaction> = (0..300).map(|n| keyed("c", n, 1, &["INSERT INTO t VALUES (1)"])).collect();
    leader.group(&group);
    let kept = |leader: &mut Leader, n| {
        leader.writer.outcome(&ClientTag { client: "c".to_owned(), sequence: n }).unwrap().is_some()
    };
    let start = leader.slot();
    let later = |leader: &Leader, ms| Slot { unix_ms: start.unix_ms + ms, ..leader.slot() };
    let slot = later(&leader, IDEMPOTENCY_TTL_MS - 1);
    leader.group_at(slot, &[keyed("c", 1000, 1, &["INSERT INTO t VALUES (1)"])]);
    assert!(kept(&mut leader, 0) && kept(&mut leader, 299));
    let slot = later(&leader, IDEMPOTENCY_TTL_MS);
    leader.group_at(slot, &[keyed("c", 1001, 1, &["INSERT INTO t VALUES (1)"])]);
    assert!(!kept(&mut leader, 0) && !kept(&mut leader, 299));
    assert!(kept(&mut leader, 1000) && kept(&mut leader, 1001));
}
