//! Records that a deposed leader had and nobody else: cut, kept readable, and never served.

use rdb_protocol::api::ErrorCode;
use serde_json::{Value, json};

use crate::support::{Cluster, Ledger, wait_for, wait_until};

fn rows(path: &std::path::Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn the_tail_of_a_deposed_leader_is_archived_as_row_changes_and_cut() {
    let mut cluster = Cluster::start(3);
    let mut ledger = Ledger::create(cluster.leader());
    ledger.write_all(cluster.leader(), 5, 100);
    cluster
        .leader()
        .batch(&[
            "CREATE TABLE keyed (id INTEGER PRIMARY KEY, v TEXT)",
            "CREATE TABLE keyless (v TEXT)",
            "INSERT INTO keyed VALUES (1, 'one'), (2, 'two')",
            "INSERT INTO keyless VALUES ('twin'), ('twin'), ('single')",
        ])
        .ok();
    cluster.kill_followers();
    let doubtful = json!({"deadline_ms": 300, "statements": [
        {"sql": "INSERT INTO keyed VALUES (3, 'three')"},
        {"sql": "UPDATE keyed SET v = 'changed' WHERE id = 1"},
        {"sql": "DELETE FROM keyed WHERE id = 2"},
        {"sql": "INSERT INTO keyless VALUES ('single')"},
        {"sql": "DELETE FROM keyless WHERE rowid = 1"},
    ]});
    let old = &cluster.nodes[0];
    assert_eq!(old.post("/v1/batch", &doubtful).error(), ErrorCode::UnknownOutcome);
    let served =
        |node: &crate::support::Node| node.query_any("SELECT count(*) FROM keyed WHERE v IN ('three', 'changed')");
    assert_eq!(served(old).value(), 0, "not even the old leader shows it");
    let end = old.status().flushed;
    cluster.nodes[0].kill();

    cluster.nodes[1].start();
    cluster.nodes[2].start();
    cluster.elect(1);
    ledger.write_all(cluster.leader(), 5, 100);
    cluster.nodes[0].start();
    assert_eq!(served(&cluster.nodes[0]).value(), 0);
    cluster.follow(0);
    cluster.wait_caught_up(0);
    assert_eq!(served(&cluster.nodes[0]).value(), 0);

    let status = wait_for("the tail is readable", || {
        let status = cluster.nodes[0].status();
        status.divergences.iter().all(|report| report.complete).then_some(status)
    });
    let [report] = &status.divergences[..] else { panic!("{:?}", status.divergences) };
    assert!(report.to == end && report.from.index < end.index, "{report:?}");
    let archive = cluster.nodes[0].data.join("archive");
    assert!(archive.join(format!("{}.records", report.archive)).metadata().unwrap().len() > 100);
    wait_until("the working copies are gone", || !archive.join("work").exists());
    let mut found = rows(&archive.join(format!("{}.rows.jsonl", report.archive)));
    found.retain(|row| ["keyed", "keyless"].contains(&row["table"].as_str().unwrap_or_default()));
    let change = |table: &str, op: &str, from: &str, to: &str| {
        let same = |row: &&Value| {
            let text = |side: &str| row[side].to_string();
            row["table"] == table && row["op"] == op && text("old").contains(from) && text("new").contains(to)
        };
        assert!(found.iter().any(|row| same(&row)), "no {op} of {from} to {to} in {found:#?}");
    };
    change("keyed", "insert", "", "three");
    change("keyed", "update", "one", "changed");
    change("keyed", "delete", "two", "");
    change("keyless", "insert", "", "single");
    change("keyless", "delete", "twin", "");
    assert_eq!(found.len(), 5, "{found:#?}");

    ledger.check(cluster.leader());
    cluster.assert_equal_content();
    // The archive outlives a restart, and the node may lead again.
    cluster.restart(0);
    cluster.elect(0);
    assert_eq!(cluster.nodes[0].status().divergences, status.divergences);
    ledger.check(cluster.leader());
}

#[test]
fn a_record_that_only_its_leader_had_stays_when_that_leader_is_elected_again() {
    let mut cluster = Cluster::start(3);
    let mut ledger = Ledger::create(cluster.leader());
    cluster.kill_followers();
    assert_eq!(ledger.write_bytes(cluster.leader(), 100, 300), Some(ErrorCode::UnknownOutcome));
    cluster.nodes.iter_mut().for_each(|node| node.kill());
    cluster.nodes.iter_mut().for_each(|node| node.start());
    cluster.elect(0);
    ledger.write_all(cluster.leader(), 2, 100);
    ledger.check(cluster.leader());
    assert_eq!(cluster.leader().query("SELECT count(*) FROM ledger").value(), 3);
    (1..3).for_each(|i| cluster.wait_caught_up(i));
    cluster.assert_equal_content();
}
