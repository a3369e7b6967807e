//! Transactions of one group must not harm each other.

use std::collections::BTreeSet;
use std::sync::Barrier;

use rdb_protocol::admin::{Done, ResumeWrites, StopWrites};
use rdb_protocol::api::{ErrorCode, Outcome};
use serde_json::{Value, json};

use crate::support::{Cluster, Reply, wait_until};

/// Runs all batches in as few groups as possible: they are sent while writes are stopped, so that they wait together.
fn together(cluster: &Cluster, batches: &[Vec<String>]) -> Vec<Reply> {
    let node = cluster.leader();
    let stop = StopWrites { epoch: cluster.epoch, deadline_ms: 30_000 };
    node.admin::<Done>("stop-writes", &stop).unwrap();
    let before = node.connections();
    let ready = Barrier::new(batches.len());
    std::thread::scope(|scope| {
        let send = |batch: &Vec<String>| {
            let statements: Vec<Value> = batch.iter().map(|sql| json!({"sql": sql})).collect();
            let ready = &ready;
            scope.spawn(move || {
                ready.wait();
                node.post("/v1/batch", &json!({"statements": statements, "deadline_ms": 20_000}))
            })
        };
        let clients: Vec<_> = batches.iter().map(send).collect();
        // Each client has a connection of its own, and looking takes some too.
        let mut looks = 0;
        wait_until("all clients are connected", || {
            looks += 1;
            node.connections() >= before + looks + batches.len() as u64
        });
        node.query_any("SELECT 1").ok();
        node.admin::<Done>("resume-writes", &ResumeWrites { epoch: cluster.epoch }).unwrap();
        clients.into_iter().map(|client| client.join().unwrap()).collect()
    })
}

fn batch(statements: &[&str]) -> Vec<String> {
    statements.iter().map(|sql| (*sql).to_owned()).collect()
}

#[test]
fn a_transaction_that_ends_the_group_for_itself_takes_no_other_with_it() {
    let cluster = Cluster::start(3);
    let node = cluster.leader();
    node.batch(&[
        "CREATE TABLE parent (id INTEGER PRIMARY KEY)",
        "CREATE TABLE child (id INTEGER PRIMARY KEY, parent INTEGER REFERENCES parent DEFERRABLE INITIALLY DEFERRED)",
        "CREATE TABLE good (n INTEGER PRIMARY KEY)",
        "CREATE TRIGGER no_thirteen BEFORE INSERT ON parent WHEN new.id = 13 BEGIN SELECT RAISE(ROLLBACK, 'unlucky'); END",
        "INSERT INTO parent VALUES (1)",
    ])
    .ok();
    let bad = [
        // A deferred violation, which SQLite would report at the group's COMMIT only.
        batch(&["INSERT INTO child VALUES (1, 999)"]),
        batch(&["INSERT INTO good VALUES (-1)", "INSERT INTO child VALUES (2, 998)"]),
        // These end the transaction that the whole group is in.
        batch(&["INSERT OR ROLLBACK INTO parent VALUES (1)"]),
        batch(&["INSERT INTO good VALUES (-2)", "INSERT OR ROLLBACK INTO parent VALUES (1)"]),
        batch(&["INSERT INTO good VALUES (-3)", "INSERT INTO parent VALUES (13)"]),
        batch(&["INSERT INTO good VALUES (-4)", "ROLLBACK"]),
        batch(&["INSERT INTO good VALUES (-5)", "COMMIT", "INSERT INTO good VALUES (-6)"]),
        batch(&["BEGIN", "INSERT INTO good VALUES (-7)"]),
    ];
    let expected: Vec<u64> = (0..24).collect();
    let mut batches = Vec::new();
    for n in &expected {
        // The child comes before its parent, which is allowed when the parent has come at the end.
        let (good, id) = (format!("INSERT INTO good VALUES ({n})"), 100 + n);
        let (child, parent) =
            (format!("INSERT INTO child VALUES ({id}, {id})"), format!("INSERT INTO parent VALUES ({id})"));
        batches.push(vec![good, child, parent]);
        batches.extend(bad.get(*n as usize).cloned());
    }
    let replies = together(&cluster, &batches);

    let mut positions = BTreeSet::new();
    for (batch, reply) in batches.iter().zip(&replies) {
        if bad.contains(batch) {
            let code = reply.error();
            let expected = [ErrorCode::Constraint, ErrorCode::Forbidden, ErrorCode::SqlError];
            assert!(expected.contains(&code), "{batch:?}: {code}");
            assert_eq!(reply.body["error"]["outcome"], json!(Outcome::None));
        } else {
            positions.insert(reply.index());
        }
    }
    assert!(positions.len() <= expected.len() / 3, "they were meant to share groups: {positions:?}");
    let there = node.query("SELECT json_group_array(n) FROM (SELECT n FROM good ORDER BY n)");
    assert_eq!(there.value(), &json!(serde_json::to_string(&expected).unwrap()));
    assert_eq!(node.query("SELECT count(*) FROM pragma_foreign_key_check").value(), 0);
    assert_eq!(node.query("SELECT count(*), (SELECT count(*) FROM child) FROM parent").ok()["rows"], json!([[25, 24]]));
    cluster.assert_equal_content();
}

#[test]
fn vacuum_among_waiting_writes_runs_alone_and_reaches_all_nodes() {
    let mut cluster = Cluster::start(3);
    let fill = "WITH RECURSIVE c(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM c WHERE i < 200)
                INSERT INTO t(b) SELECT zeroblob(3000) FROM c";
    cluster.leader().batch(&["CREATE TABLE t (id INTEGER PRIMARY KEY, b)", fill, "DELETE FROM t"]).ok();
    let insert = |n: u64| vec![format!("INSERT INTO t VALUES ({n}, 'new')")];
    let mut batches: Vec<Vec<String>> = (0..12).map(insert).collect();
    batches.insert(4, batch(&["VACUUM"]));
    batches.insert(9, batch(&["VACUUM"]));
    batches.push(batch(&["INSERT INTO t VALUES (99, 'not alone')", "VACUUM"]));
    let mut replies = together(&cluster, &batches);
    assert_eq!(replies.pop().unwrap().error(), ErrorCode::Forbidden);
    assert!(replies.iter().all(Reply::is_ok), "{replies:?}");
    assert_eq!(cluster.leader().query("SELECT count(*) FROM t").value(), &json!(12));
    assert_eq!(cluster.leader().query("PRAGMA freelist_count").value(), &json!(0));
    cluster.assert_equal_content();

    cluster.leader().execute("DELETE FROM t WHERE id % 2", json!([])).ok();
    let first = cluster.nodes[1].keyed("shop:1", "VACUUM", json!([]));
    assert_eq!(cluster.leader().keyed("shop:1", "VACUUM", json!([])).index(), first.index());
    cluster.assert_equal_content();
    cluster.restart(2);
    cluster.elect(2);
    cluster.leader().execute("INSERT INTO t VALUES (50, 'later')", json!([])).ok();
    assert_eq!(cluster.leader().keyed("shop:1", "VACUUM", json!([])).index(), first.index());
    assert_eq!(cluster.leader().query("SELECT count(*) FROM t").value(), &json!(7));
    cluster.assert_equal_content();
}
