//! What the leader writes is, byte for byte, what the follower has.

mod common;

use common::*;
use proptest::prelude::*;
use rdb_engine::*;

/// Applies what the leader has logged, several records at a time.
fn replicate(leader: &mut Leader, follower: &mut Follower, at_once: usize) {
    for records in leader.take().chunks(at_once) {
        follower.applier.apply(records).unwrap();
    }
}

#[test]
fn everything_that_sql_can_do_arrives() {
    let mut leader = Leader::with(|options| options.incremental_vacuum = true);
    let mut follower = leader.seed();
    let rows =
        |count: u32| format!("WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c WHERE x < {count})");
    let statements = [
        "CREATE TABLE t(id INTEGER PRIMARY KEY, v TEXT, b BLOB)".to_owned(),
        format!("{} INSERT INTO t SELECT x, hex(randomblob(20)), randomblob(x % 50) FROM c", rows(5000)),
        "INSERT INTO t VALUES (NULL, 'large', randomblob(300000))".to_owned(),
        "CREATE INDEX tv ON t(v)".to_owned(),
        "CREATE TABLE log(at INTEGER, what TEXT)".to_owned(),
        "CREATE TRIGGER tr AFTER UPDATE ON t BEGIN INSERT INTO log VALUES (new.id, old.v); END".to_owned(),
        "UPDATE t SET v = 'x' || v WHERE id % 7 = 0".to_owned(),
        "ALTER TABLE t ADD COLUMN w DEFAULT 5".to_owned(),
        "ALTER TABLE t RENAME COLUMN w TO z".to_owned(),
        "UPDATE t SET z = random() WHERE id % 3 = 0".to_owned(),
        "CREATE VIRTUAL TABLE docs USING fts5(body)".to_owned(),
        "INSERT INTO docs SELECT v || ' some words' FROM t".to_owned(),
        "INSERT INTO docs(docs) VALUES ('optimize')".to_owned(),
        "CREATE VIRTUAL TABLE boxes USING rtree(id, x0, x1)".to_owned(),
        format!("{} INSERT INTO boxes SELECT x, x, x + 1 FROM c", rows(500)),
        "CREATE TABLE w(a TEXT, b TEXT, PRIMARY KEY (a, b)) WITHOUT ROWID, STRICT".to_owned(),
        format!("{} INSERT INTO w SELECT x % 10, x FROM c", rows(300)),
        "CREATE VIEW vt AS SELECT id, json_object('v', v) AS j FROM t".to_owned(),
        "PRAGMA user_version = 42".to_owned(),
        "PRAGMA application_id = 7".to_owned(),
        "DELETE FROM t WHERE id > 1000".to_owned(),
        "PRAGMA incremental_vacuum(100)".to_owned(),
        "PRAGMA incremental_vacuum".to_owned(),
        "ANALYZE".to_owned(),
        "DROP TABLE docs".to_owned(),
        "DROP TABLE log".to_owned(),
        "INSERT INTO w VALUES ('after', 'all')".to_owned(),
    ];
    for (index, sql) in statements.iter().enumerate() {
        // The trigger's table goes away before the last statements.
        if sql == "DROP TABLE log" {
            leader.sql("DROP TRIGGER tr");
        }
        leader.sql(sql);
        if index % 3 == 0 {
            replicate(&mut leader, &mut follower, 2);
        }
    }
    replicate(&mut leader, &mut follower, 3);
    assert_equal(&leader, &follower);
    assert_eq!(integer(&follower.query("SELECT count(*) FROM vt")), 1000);
    assert_eq!(integer(&follower.query("PRAGMA user_version")), 42);
    assert_eq!(integer(&follower.query("SELECT count(*) FROM boxes WHERE x0 < 10.5")), 10);
}

#[test]
fn a_shrunk_and_regrown_database_stays_equal() {
    let mut leader = Leader::with(|options| options.incremental_vacuum = true);
    let mut follower = leader.seed();
    leader.sql("CREATE TABLE t(v)");
    for round in 0..6 {
        leader.sql("INSERT INTO t SELECT randomblob(5000) FROM pragma_function_list LIMIT 100");
        leader.sql("DELETE FROM t");
        leader.sql("PRAGMA incremental_vacuum");
        leader.sql(&format!("CREATE TABLE t{round}(a, b)"));
        leader.sql("INSERT INTO t VALUES (randomblob(20000))");
        // All of it at once, and record by record.
        replicate(&mut leader, &mut follower, if round % 2 == 0 { 100 } else { 1 });
        assert_equal(&leader, &follower);
    }
}

#[test]
fn a_record_that_cuts_the_file_and_changes_the_schema_arrives() {
    let mut leader = Leader::with(|options| options.incremental_vacuum = true);
    let mut follower = leader.seed();
    let many: Vec<String> =
        (0..40).map(|n| format!("CREATE TABLE many{n}(a, b, c CHECK (c <> 'some text'))")).collect();
    for round in 0..5 {
        leader.run(tx(&many.iter().map(String::as_str).collect::<Vec<_>>())).unwrap();
        leader.sql("CREATE TABLE big(v)");
        leader.sql("INSERT INTO big SELECT randomblob(3000) FROM pragma_function_list");
        replicate(&mut leader, &mut follower, 1);
        let mut end = vec!["DROP TABLE big".to_owned(), "CREATE VIEW IF NOT EXISTS v AS SELECT 1".to_owned()];
        end.extend((0..40).map(|n| format!("DROP TABLE many{n}")));
        end.push(format!("CREATE TABLE kept{round}(a)"));
        end.push("PRAGMA incremental_vacuum".to_owned());
        leader.run(tx(&end.iter().map(String::as_str).collect::<Vec<_>>())).unwrap();
        leader.sql("INSERT INTO kept0 VALUES (1)");
        replicate(&mut leader, &mut follower, 1);
        assert_equal(&leader, &follower);
    }
}

#[test]
fn a_transaction_that_spills_the_cache_arrives() {
    let mut leader = Leader::with(|options| options.writer_cache_bytes = 40 << 10);
    let mut follower = leader.seed();
    leader.sql("CREATE TABLE t(id INTEGER PRIMARY KEY, k, v)");
    leader.sql("CREATE INDEX tk ON t(k)");
    let fill = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c WHERE x < 20000)
                INSERT INTO t SELECT x, (x * 7919) % 20011, randomblob(50) FROM c";
    leader.sql(fill);
    // A failing transaction of the same group spills too and is undone alone.
    let results = leader.group(&[
        tx(&["UPDATE t SET k = -k WHERE id % 5 = 0", "UPDATE t SET v = randomblob(60) WHERE id % 3 = 0"]),
        tx(&["UPDATE t SET k = k + 1", "DELETE FROM t WHERE id % 2 = 0", "INSERT INTO t(id) VALUES (1)"]),
        tx(&["UPDATE t SET v = 'end' WHERE id % 11 = 0"]),
    ]);
    assert!(results[0].is_ok() && results[1].is_err() && results[2].is_ok());
    replicate(&mut leader, &mut follower, 1);
    assert_equal(&leader, &follower);
    assert_eq!(integer(&follower.query("SELECT count(*) FROM t")), 20000);
}

#[test]
fn a_checkpoint_in_the_middle_changes_nothing() {
    let mut leader = Leader::with(|options| options.checkpoint_bytes = 64 << 10);
    let mut follower = leader.seed();
    leader.sql("CREATE TABLE t(id INTEGER PRIMARY KEY, v)");
    for _ in 0..400 {
        leader.sql("INSERT INTO t(v) VALUES (randomblob(2000))");
    }
    replicate(&mut leader, &mut follower, 10);
    assert_equal(&leader, &follower);
    assert!(leader.engine.stats().checkpoints > 1);
    // The same bytes also after a restart, from the file and its -wal.
    let Leader { dir, engine, writer, .. } = leader;
    let content = engine.stats().content;
    drop((writer, engine));
    let engine = Engine::open(options(dir.path())).unwrap();
    assert_eq!(engine.scan_checksum().unwrap(), content);
}

#[test]
fn readers_keep_their_snapshot_while_records_are_applied() {
    let mut leader = Leader::new();
    leader.sql("CREATE TABLE t(v)");
    leader.sql("INSERT INTO t VALUES (1)");
    let mut follower = leader.seed();
    let mut reader = follower.engine.reader().unwrap();
    let count = Statement::new("SELECT count(*) FROM t");
    leader.sql("INSERT INTO t VALUES (2)");
    leader.sql("ALTER TABLE t ADD COLUMN w");
    let answer = reader
        .query_checked(&count, &Limits::default(), None, None, |position| {
            follower.applier.apply(&leader.take()).unwrap();
            assert!(position.index < follower.applier.position().index);
            Ok::<(), ()>(())
        })
        .unwrap();
    assert_eq!(integer(&answer.result), 1);
    let answer = reader.query(&count, &Limits::default(), None, None).unwrap();
    assert_eq!((integer(&answer.result), answer.position), (2, follower.applier.position()));
}

fn statement() -> impl Strategy<Value = String> {
    let table = 0..3_u8;
    prop_oneof![
        2 => table.clone().prop_map(|t| format!("CREATE TABLE IF NOT EXISTS t{t}(id INTEGER PRIMARY KEY, a, b UNIQUE)")),
        1 => table.clone().prop_map(|t| format!("DROP TABLE IF EXISTS t{t}")),
        1 => table.clone().prop_map(|t| format!("CREATE INDEX IF NOT EXISTS i{t} ON t{t}(a)")),
        6 => (table.clone(), 0..40_000_u32, 0..30).prop_map(|(t, size, b)|
            format!("INSERT INTO t{t}(a, b) VALUES (randomblob({size}), {b})")),
        2 => (table.clone(), 0..300_u32).prop_map(|(t, rows)| format!(
            "INSERT INTO t{t}(a) WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c WHERE x < {rows})
             SELECT randomblob(200) FROM c")),
        2 => (table.clone(), 0..30, 0..30).prop_map(|(t, b, c)| format!("UPDATE t{t} SET b = {b} WHERE b = {c}")),
        1 => (table.clone(), 0..30, 0..30).prop_map(|(t, b, c)| format!("UPDATE OR ROLLBACK t{t} SET b = {b} WHERE b < {c}")),
        1 => (table.clone(), 0..30).prop_map(|(t, b)| format!("UPDATE OR FAIL t{t} SET b = {b} WHERE id > 3")),
        2 => (table.clone(), 1..9).prop_map(|(t, n)| format!("DELETE FROM t{t} WHERE id % {n} = 0")),
        1 => Just("PRAGMA incremental_vacuum(20)".to_owned()),
        1 => Just("SELECT count(*) FROM t1".to_owned()),
        1 => Just("ANALYZE".to_owned()),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn random_groups_leave_equal_bytes(
        groups in prop::collection::vec(prop::collection::vec(prop::collection::vec(statement(), 1..4), 1..6), 1..12),
        cache in prop_oneof![Just(20_u64 << 10), Just(4 << 20)],
        at_once in 1..5_usize,
        restart in 0..12_usize,
    ) {
        let mut leader = Leader::with(|options| {
            options.incremental_vacuum = true;
            options.writer_cache_bytes = cache;
            options.checkpoint_bytes = 200 << 10;
        });
        let mut follower = leader.seed();
        leader.sql("PRAGMA user_version = 1");
        for (index, group) in groups.iter().enumerate() {
            let group: Vec<Transaction> = group.iter().map(|statements| {
                tx(&statements.iter().map(String::as_str).collect::<Vec<_>>())
            }).collect();
            leader.group(&group);
            if index == restart {
                replicate(&mut leader, &mut follower, at_once);
                let Follower { dir, engine, applier } = follower;
                drop((applier, engine));
                follower = Follower::open(dir);
            }
        }
        replicate(&mut leader, &mut follower, at_once);
        assert_equal(&leader, &follower);
    }
}
