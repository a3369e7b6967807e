//! Damaged logs and databases.

use std::fs::File;
use std::path::{Path, PathBuf};

use rdb_protocol::Incarnation;
use rdb_protocol::admin::{AdminRefusal, Done, Reseed};
use rdb_protocol::api::ErrorCode;
use rdb_protocol::status::NodeState;
use serde_json::json;

use crate::support::disk::{end_of_records, flip, newest_segment, overwrite};
use crate::support::{Cluster, Ledger, wait_until};

/// Where a segment's records begin.
const FIRST_RECORD: u64 = 4096;

fn incarnation(cluster: &Cluster, i: usize) -> Incarnation {
    cluster.nodes[i].status().incarnation
}

#[test]
fn a_log_damaged_in_the_middle_is_never_served_and_ends_the_incarnation() {
    let mut cluster = Cluster::start(3);
    let mut ledger = Ledger::create(cluster.leader());
    ledger.write_all(cluster.leader(), 40, 2000);
    cluster.wait_caught_up(1);
    let before = incarnation(&cluster, 1);
    cluster.nodes[1].kill();
    let segment = newest_segment(&cluster.nodes[1].data);
    flip(&segment, (FIRST_RECORD + end_of_records(&segment)) / 2);

    // With a leader that does not answer, the node stays as it is.
    cluster.nodes[0].signal(libc::SIGSTOP);
    cluster.nodes[1].start();
    let status = cluster.nodes[1].status();
    assert_eq!((status.state, cluster.nodes[1].problems()), (NodeState::Seeding, vec!["LOG_CORRUPT".to_owned()]));
    assert_ne!(status.incarnation, before, "its acknowledgements count no more");
    let ready = cluster.nodes[1].get("/readyz");
    assert_eq!(ready.status, 503);
    assert!(ready.body.as_str().unwrap().contains("LOG_CORRUPT"));
    assert_eq!(cluster.nodes[1].get("/v1/snapshot").error(), ErrorCode::Unavailable);
    cluster.nodes[0].signal(libc::SIGCONT);

    cluster.follow(1);
    cluster.wait_caught_up(1);
    assert_eq!(cluster.nodes[1].status().seed.unwrap().method, "stream");
    assert!(cluster.nodes[1].problems().is_empty());
    ledger.write_all(cluster.leader(), 5, 100);
    cluster.reconfigure(&[0, 1, 2], 1);
    cluster.elect(1);
    ledger.check(cluster.leader());
    cluster.assert_equal_content();
}

/// Node 0 led and wrote one record that nobody else has and nobody was told of; all nodes are down.
fn with_lone_record() -> (Cluster, Ledger) {
    let mut cluster = Cluster::start(3);
    let mut ledger = Ledger::create(cluster.leader());
    ledger.write_all(cluster.leader(), 10, 500);
    cluster.kill_followers();
    assert_eq!(ledger.write_bytes(cluster.leader(), 500, 300), Some(ErrorCode::UnknownOutcome));
    cluster.nodes[0].kill();
    (cluster, ledger)
}

fn start_all(cluster: &mut Cluster) {
    cluster.nodes.iter_mut().for_each(|node| node.start());
}

#[test]
fn a_torn_record_at_the_end_is_cut_and_the_node_goes_on() {
    let (mut cluster, mut ledger) = with_lone_record();
    let segment = newest_segment(&cluster.nodes[0].data);
    overwrite(&segment, end_of_records(&segment) - 64, &[0; 64]);
    cluster.nodes[0].start();
    assert!(cluster.nodes[0].output().contains("torn record"), "{}", cluster.nodes[0].output());
    assert!(cluster.nodes[0].problems().is_empty());
    let before = incarnation(&cluster, 0);
    cluster.nodes[1].start();
    cluster.nodes[2].start();
    cluster.elect(0);
    assert_eq!(incarnation(&cluster, 0), before);
    ledger.write_all(cluster.leader(), 3, 500);
    ledger.check(cluster.leader());
    (1..3).for_each(|i| cluster.wait_caught_up(i));
    cluster.assert_equal_content();
}

#[test]
fn a_complete_last_record_that_is_damaged_ends_the_incarnation_first() {
    let (mut cluster, mut ledger) = with_lone_record();
    let segment = newest_segment(&cluster.nodes[0].data);
    flip(&segment, end_of_records(&segment) - 300);
    start_all(&mut cluster);
    let status = cluster.nodes[0].status();
    assert_eq!((status.state, cluster.nodes[0].problems()), (NodeState::Seeding, vec!["LOG_CORRUPT".to_owned()]));
    assert!(cluster.nodes[0].data.join("log.given-up").exists(), "the damaged log is kept for whoever looks into it");
    let before = status.incarnation;
    cluster.elect(1);
    ledger.check(cluster.leader());
    cluster.wait_caught_up(0);
    assert_eq!(incarnation(&cluster, 0), before);
    assert!(cluster.nodes[0].problems().is_empty());
    ledger.write_all(cluster.leader(), 3, 500);
    cluster.reconfigure(&[0, 1, 2], 1);
    ledger.check(cluster.leader());
    cluster.assert_equal_content();
}

#[test]
fn a_database_that_is_gone_is_fetched_anew_under_a_new_incarnation() {
    let mut cluster = Cluster::start(3);
    let mut ledger = Ledger::create(cluster.leader());
    ledger.write_all(cluster.leader(), 5, 100);
    let before = incarnation(&cluster, 2);
    cluster.nodes[2].kill();
    for name in ["db", "db-wal", "db-shm"] {
        let _ = std::fs::remove_file(cluster.nodes[2].data.join(name));
    }
    cluster.restart(2);
    cluster.wait_caught_up(2);
    assert_ne!(incarnation(&cluster, 2), before);
    cluster.assert_equal_content();
    ledger.check_here(&cluster.nodes[2]);
}

/// Writes rows and stops node `i` with all of them in its database file; returns that file.
fn stopped_with_rows(cluster: &mut Cluster, ledger: &mut Ledger, i: usize) -> PathBuf {
    ledger.write_all(cluster.leader(), 30, 3000);
    cluster.wait_caught_up(i);
    cluster.assert_equal_content();
    cluster.nodes[i].kill();
    let path = cluster.nodes[i].data.join("db");
    let connection = rusqlite::Connection::open(&path).unwrap();
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    path
}

/// Filler of a row that is not among the last: SQLite would not notice, and no later write replaces it.
fn flip_some_row(database: &Path) {
    let length = std::fs::metadata(database).unwrap().len();
    flip(database, length - 10 * 4096 - 1000);
}

#[test]
fn a_damaged_database_is_found_at_the_start_and_fetched_anew() {
    let mut cluster = Cluster::start(3);
    let mut ledger = Ledger::create(cluster.leader());
    let half = |path: &Path| {
        let file = File::options().write(true).open(path).unwrap();
        file.set_len(file.metadata().unwrap().len() / 8192 * 4096).unwrap();
    };
    for damage in [flip_some_row, half] {
        let before = incarnation(&cluster, 1);
        let database = stopped_with_rows(&mut cluster, &mut ledger, 1);
        damage(&database);
        cluster.nodes[0].signal(libc::SIGSTOP);
        cluster.nodes[1].start();
        let status = cluster.nodes[1].status();
        assert_eq!(cluster.nodes[1].problems(), ["DATABASE_CORRUPT"]);
        assert_eq!(status.state, NodeState::Seeding);
        assert_ne!(status.incarnation, before);
        cluster.nodes[0].signal(libc::SIGCONT);
        cluster.follow(1);
        cluster.wait_caught_up(1);
        cluster.reconfigure(&[0, 1, 2], 1);
        cluster.assert_equal_content();
    }
    cluster.elect(1);
    ledger.check(cluster.leader());
}

#[test]
fn a_damaged_database_never_becomes_the_leaders() {
    let mut cluster = Cluster::start(3);
    let mut ledger = Ledger::create(cluster.leader());
    let database = stopped_with_rows(&mut cluster, &mut ledger, 0);
    flip_some_row(&database);
    cluster.nodes[0].start();
    // It has as many records as the others, and would be as good a leader.
    cluster.fence(None);
    let refused = cluster.try_promote(0, 0);
    assert!(matches!(refused, Err(AdminRefusal::State { .. })), "{refused:?}");
    cluster.elect(1);
    cluster.wait_caught_up(0);
    ledger.write_all(cluster.leader(), 3, 100);
    ledger.check(cluster.leader());
    cluster.assert_equal_content();
}

#[test]
fn content_that_disagrees_with_the_leaders_is_not_served_but_fetched_anew() {
    let mut cluster = Cluster::start(3);
    let mut ledger = Ledger::create(cluster.leader());
    ledger.write_all(cluster.leader(), 30, 3000);
    // A fresh copy, so that no record in the log says what the content must be.
    let first = incarnation(&cluster, 1);
    cluster.nodes[1].admin::<Done>("reseed", &Reseed { epoch: cluster.epoch, incarnation: first }).unwrap();
    wait_until("it has begun anew", || incarnation(&cluster, 1) != first);
    cluster.wait_caught_up(1);
    let before = incarnation(&cluster, 1);
    cluster.nodes[1].kill();
    flip_some_row(&cluster.nodes[1].data.join("db"));

    cluster.restart(1);
    ledger.write_all(cluster.leader(), 1, 100);
    wait_until("it has begun anew", || incarnation(&cluster, 1) != before);
    assert!(cluster.nodes[1].output().contains("DIVERGED"));
    cluster.wait_caught_up(1);
    ledger.write_all(cluster.leader(), 3, 100);
    ledger.check(cluster.leader());
    cluster.assert_equal_content();
    assert_eq!(cluster.nodes[1].query_any("SELECT count(*) FROM ledger").value(), &json!(ledger.acknowledged()));
}

/// Larger than what is read before a node serves.
fn with_large_database() -> (Cluster, Ledger) {
    let cluster = Cluster::start(3);
    let mut ledger = Ledger::create(cluster.leader());
    ledger.write_all(cluster.leader(), 20, 4 << 20);
    (cluster, ledger)
}

#[test]
fn a_large_database_is_read_while_the_node_follows_already() {
    let (mut cluster, mut ledger) = with_large_database();
    cluster.elect(1);
    cluster.restart(0);
    cluster.wait_caught_up(0);
    wait_until("the database was read", || cluster.nodes[0].output().contains("the database is what the log says"));
    ledger.write_all(cluster.leader(), 3, 1000);
    cluster.assert_equal_content();
    // It is of use as a leader, right after another start.
    cluster.nodes[0].kill();
    cluster.nodes[0].start();
    cluster.follow(0);
    cluster.wait_caught_up(0);
    cluster.elect(0);
    ledger.check(cluster.leader());
}

#[test]
fn damage_of_a_large_database_is_found_before_anybody_reads_it() {
    let (mut cluster, mut ledger) = with_large_database();
    let before = incarnation(&cluster, 1);
    let database = stopped_with_rows(&mut cluster, &mut ledger, 1);
    flip_some_row(&database);
    cluster.nodes[1].spawn();
    assert_eq!(cluster.nodes[1].wait_exit().code(), Some(74), "{}", cluster.nodes[1].output());
    cluster.nodes[0].signal(libc::SIGSTOP);
    cluster.nodes[1].start();
    assert_eq!(cluster.nodes[1].problems(), ["DATABASE_CORRUPT"]);
    assert_ne!(incarnation(&cluster, 1), before);
    cluster.nodes[0].signal(libc::SIGCONT);
    cluster.follow(1);
    cluster.wait_caught_up(1);
    cluster.assert_equal_content();
}

/// Three nodes that check their databases all the time; `i` has all of its rows in its database file, and runs.
fn with_checked_rows(i: usize) -> (Cluster, Ledger, PathBuf) {
    let mut cluster = Cluster::prepare(3);
    for node in &mut cluster.nodes {
        node.set_environment("RDB_SCRUB_INTERVAL_MS", "50");
    }
    cluster.bootstrap(3);
    let mut ledger = Ledger::create(cluster.leader());
    let database = stopped_with_rows(&mut cluster, &mut ledger, i);
    cluster.nodes[i].start();
    if i == cluster.leader {
        cluster.elect(i);
    } else {
        cluster.follow(i);
        cluster.wait_caught_up(i);
        cluster.reconfigure(&[0, 1, 2], 1);
    }
    (cluster, ledger, database)
}

#[test]
fn damage_that_no_record_touches_is_found_by_the_background_check() {
    let (mut cluster, mut ledger, database) = with_checked_rows(1);
    let before = incarnation(&cluster, 1);
    // With a leader that does not answer, the node stays as it is.
    cluster.nodes[0].signal(libc::SIGSTOP);
    flip_some_row(&database);
    wait_until("it has found the damage", || cluster.nodes[1].problems() == ["DIVERGED"]);
    wait_until("its acknowledgements count no more", || incarnation(&cluster, 1) != before);
    assert!(cluster.nodes[1].output().contains("the background check found the database damaged"));
    let state = cluster.nodes[1].status().state;
    assert!(matches!(state, NodeState::Diverged | NodeState::Seeding), "{state:?}");
    assert_eq!(cluster.nodes[1].get("/v1/snapshot").error(), ErrorCode::Unavailable);
    let ready = cluster.nodes[1].get("/readyz");
    assert!(ready.status == 503 && ready.body.as_str().unwrap().contains("DIVERGED"));
    assert!(cluster.nodes[2].problems().is_empty(), "the others are well");

    cluster.nodes[0].signal(libc::SIGCONT);
    cluster.follow(1);
    cluster.wait_caught_up(1);
    assert_eq!(cluster.nodes[1].status().seed.unwrap().method, "stream");
    assert!(cluster.nodes[1].problems().is_empty());
    cluster.reconfigure(&[0, 1, 2], 1);
    ledger.write_all(cluster.leader(), 3, 100);
    cluster.assert_equal_content();
    cluster.elect(1);
    ledger.check(cluster.leader());
}

#[test]
fn a_leader_whose_database_is_found_damaged_gives_its_place_away() {
    let (mut cluster, mut ledger, database) = with_checked_rows(0);
    let before = incarnation(&cluster, 0);
    flip_some_row(&database);
    assert!(!cluster.nodes[0].wait_exit().success());
    assert!(cluster.nodes[0].output().contains("the background check found the database damaged"));
    cluster.elect_without(1, Some(0));
    ledger.write_all(cluster.leader(), 3, 100);
    cluster.nodes[0].start();
    assert_eq!(cluster.nodes[0].problems(), ["DATABASE_CORRUPT"]);
    assert_ne!(incarnation(&cluster, 0), before);
    cluster.follow(0);
    cluster.wait_caught_up(0);
    ledger.check(cluster.leader());
    cluster.assert_equal_content();
}
