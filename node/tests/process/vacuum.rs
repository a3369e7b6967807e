//! VACUUM by whole nodes: a leader that is replaced, time that runs out, disks that fill up, each in the middle of it.

use std::path::PathBuf;
use std::thread::JoinHandle;

use rdb_protocol::api::ErrorCode;
use serde_json::json;

use crate::support::disk::{self, SmallDisk};
use crate::support::{Cluster, Ledger, Node, Reply, wait_until};

const MIB: u64 = 1 << 20;
/// Content of the databases: enough that VACUUM can be stopped half way through.
const ROWS: usize = 64;
/// Room for the content, the records of some attempts, and what VACUUM needs beside them.
const DISK_MIB: u64 = 1024;

fn copy(node: &Node) -> PathBuf {
    node.data.join("db.vacuum")
}

fn length(file: PathBuf) -> u64 {
    std::fs::metadata(file).map_or(0, |file| file.len())
}

/// Of the content, as VACUUM writes it.
fn size(cluster: &Cluster) -> u64 {
    cluster.leader().query("PRAGMA page_count").value().as_u64().unwrap() * 4096
}

/// A database of which VACUUM has to write every page anew, after [`shift`]: what lies behind the table `first` moves.
fn fill(cluster: &Cluster) -> Ledger {
    cluster.leader().execute("CREATE TABLE first (b)", json!([])).ok();
    let mut ledger = Ledger::create(cluster.leader());
    ledger.write_all(cluster.leader(), ROWS, MIB as usize);
    ledger
}

fn shift(cluster: &Cluster) {
    cluster.leader().execute("INSERT INTO first VALUES (zeroblob(10000))", json!([])).ok();
}

/// With more time than other writes get.
fn vacuum(node: &Node, key: &str) -> Reply {
    node.begin(key, "VACUUM").join().unwrap().expect("an answer")
}

/// Begins VACUUM and freezes the leader while its copy is being made; gives the key, too.
fn freeze_in_vacuum(cluster: &Cluster, client: &str) -> (String, JoinHandle<Option<Reply>>) {
    let node = cluster.leader();
    let frozen = (1..).find_map(|attempt| {
        shift(cluster);
        let key = format!("{client}:{attempt}");
        let answer = node.begin(&key, "VACUUM");
        wait_until("the copy is being made", || answer.is_finished() || copy(node).exists());
        node.signal(libc::SIGSTOP);
        wait_until("it is frozen", || node.is_stopped());
        if !answer.is_finished() && copy(node).exists() && length(copy(node)) < ROWS as u64 * MIB / 2 {
            return Some((key, answer));
        }
        // This machine was too slow, or too quick.
        node.signal(libc::SIGCONT);
        answer.join().unwrap().expect("an answer").ok();
        None
    });
    frozen.expect("one of many attempts")
}

#[test]
fn vacuum_that_would_cost_the_leader_its_place_is_undone() {
    let mut cluster = Cluster::prepare(3);
    cluster.settings.progress_timeout_ms = 30;
    cluster.bootstrap(3);
    let mut ledger = fill(&cluster);
    let before = cluster.leader().status();
    let refused = vacuum(cluster.leader(), "v:1");
    assert_eq!(refused.error(), ErrorCode::RequestTooLarge);
    assert_eq!(refused.body["error"]["outcome"], "none");
    assert!(refused.body["error"]["hint"].as_str().unwrap().contains("failover.progressTimeout"));
    assert!(!copy(cluster.leader()).exists());
    assert_eq!(cluster.leader().status().promise, before.promise);
    ledger.write_all(cluster.leader(), 1, 1000);

    cluster.settings.progress_timeout_ms = 30_000;
    cluster.elect(0);
    vacuum(cluster.leader(), "v:1").ok();
    ledger.check(cluster.leader());
    cluster.assert_equal_content();
}

#[test]
fn a_leader_that_is_replaced_in_the_middle_of_vacuum_leaves_nothing_of_it() {
    let mut cluster = Cluster::start(3);
    let mut ledger = fill(&cluster);
    cluster.wait_same_log(1);
    cluster.wait_same_log(2);
    let (key, answer) = freeze_in_vacuum(&cluster, "v");
    // The frozen leader would not answer.
    cluster.fence(Some(0));
    cluster.promote(1, Some(0), 0);
    ledger.write_all(cluster.leader(), 3, 1000);
    let settled = cluster.leader().status().committed;
    cluster.nodes[0].signal(libc::SIGCONT);
    cluster.follow(0);
    cluster.wait_caught_up(0);
    cluster.wait_applied(0);

    // Either nobody knows, or it was sent on to the new leader; another try with the key says which.
    let answer = answer.join().unwrap().expect("an answer");
    assert!(answer.is_ok() || answer.error() == ErrorCode::UnknownOutcome, "{answer:?}");
    let again = vacuum(cluster.leader(), &key);
    assert!(again.index() > settled.0, "what the old leader did was undone");
    assert!(!answer.is_ok() || answer.index() == again.index(), "it ran twice");
    ledger.check(cluster.leader());
    cluster.assert_equal_content();
    assert!(cluster.nodes.iter().all(|node| !copy(node).exists()));
}

/// `-wal` keeps its size and is used again, so each case has nodes of its own, whose `-wal` is smaller than their content.
#[test]
fn a_disk_that_fills_up_in_the_middle_of_vacuum_leaves_everything_as_it_was() {
    for what in ["the copy", "SQLite's -wal"] {
        let mut cluster = Cluster::prepare(1);
        let Some(disk) = SmallDisk::mount(cluster.path("small"), DISK_MIB) else { return };
        cluster.nodes[0].data = disk.path.join("node");
        cluster.bootstrap(1);
        let mut ledger = fill(&cluster);
        let (boot, size) = (cluster.leader().status().boot, size(&cluster));
        let (key, answer) = freeze_in_vacuum(&cluster, "v");
        let node = cluster.leader();
        let copy_grows = size - length(copy(node));
        let wal_grows = size.saturating_sub(length(node.data.join("db-wal")));
        assert!(wal_grows > 16 * MIB, "-wal is too large for this test: {wal_grows}");
        disk.fill(if what == "the copy" { copy_grows / 2 } else { copy_grows + wal_grows / 2 });
        node.signal(libc::SIGCONT);
        let answer = answer.join().unwrap().expect("an answer");
        assert_eq!((answer.error(), answer.status), (ErrorCode::DiskFull, 507), "{what}");
        assert_eq!(answer.body["error"]["outcome"], "none", "{what}");
        assert!(!copy(node).exists(), "{what}");
        ledger.check(node);
        assert_eq!(node.query("PRAGMA integrity_check").value(), "ok", "{what}");

        disk.empty();
        wait_until("it has healed", || !node.is_full());
        ledger.write_all(node, 3, 1000);
        vacuum(node, &key).ok();
        ledger.check(node);
        assert_eq!(node.status().boot, boot, "without a restart");
        cluster.restart_alone(&ledger);
    }
}

/// Free space with which a node says that its disk is not full, as long as it has room for what it has to write.
const ENOUGH: u64 = 80 * MIB;

#[test]
fn a_follower_whose_disk_fills_up_by_vacuum_applies_it_when_there_is_space() {
    for has_record in [false, true] {
        let mut cluster = Cluster::prepare(3);
        let Some(disk) = SmallDisk::mount(cluster.path("small"), DISK_MIB) else { return };
        cluster.nodes[1].data = disk.path.join("node");
        cluster.settings.progress_timeout_ms = 60_000;
        cluster.bootstrap(3);
        let mut ledger = fill(&cluster);
        ledger.write_all(cluster.leader(), ROWS, MIB as usize);
        shift(&cluster);
        cluster.wait_applied(1);
        let before = cluster.nodes[1].status();
        let size = size(&cluster);
        let wal = length(cluster.nodes[1].data.join("db-wal"));
        assert!(size - wal > 28 * MIB && size > ENOUGH + 32 * MIB, "not for this test: {size} {wal}");
        // Room for the record and half a segment, which is too little for the pages as well; or for much, but not for the record.
        disk.fill(if has_record { size + 24 * MIB } else { ENOUGH });
        assert!(!cluster.nodes[1].is_full());
        vacuum(cluster.leader(), "v:1").ok();
        let follower = &cluster.nodes[1];
        let end = cluster.leader().status().committed;
        if has_record {
            wait_until("it has the record", || follower.status().flushed.index >= end);
            wait_until("it has tried to apply it", || follower.output().contains("no space to apply records"));
        }
        wait_until("it says so", || follower.is_full());
        assert!(has_record || disk.free() > ENOUGH - 16 * MIB, "no more was taken than the log's next segment");
        ledger.write_all(cluster.leader(), 3, 1000);
        let status = follower.status();
        assert_eq!((status.flushed.index >= end, status.applied < end), (has_record, true), "{before:?} {status:?}");
        assert_eq!(follower.query_any("SELECT count(*) FROM first").value(), 1);
        assert!(follower.is_full(), "it goes on to say so");

        disk.empty();
        wait_until("it has healed", || !cluster.nodes[1].is_full());
        cluster.wait_caught_up(1);
        cluster.assert_equal_content();
        ledger.check_here(&cluster.nodes[1]);
        let after = cluster.nodes[1].status();
        assert_eq!(
            (after.boot, after.incarnation),
            (before.boot, before.incarnation),
            "without a restart or a base copy"
        );
        cluster.elect(1);
        ledger.check(cluster.leader());
        cluster.nodes[1].kill();
    }
}

/// The copy and SQLite's `-wal` have room on a disk of their own, so that it is the log's that fills up, by the record itself.
#[test]
fn a_disk_that_is_filled_up_by_the_record_of_vacuum_leaves_everything_as_it_was() {
    let mut cluster = Cluster::start(1);
    let mut ledger = fill(&cluster);
    shift(&cluster);
    cluster.nodes[0].kill();
    let (log, aside) = (cluster.nodes[0].data.join("log"), cluster.path("log-aside"));
    std::fs::rename(&log, &aside).unwrap();
    let Some(disk) = SmallDisk::mount(log.clone(), DISK_MIB) else { return };
    disk::copy(&aside, &log);
    cluster.nodes[0].start();
    cluster.elect(0);
    let (boot, size) = (cluster.leader().status().boot, size(&cluster));
    let node = cluster.leader();
    ledger.write_all(node, 1, 1000);
    disk.fill(size / 2);
    let before = node.status().flushed;
    let refused = vacuum(node, "v:1");
    assert_eq!((refused.error(), refused.status), (ErrorCode::DiskFull, 507));
    assert_eq!(refused.body["error"]["outcome"], "none");
    assert_eq!(node.status().flushed, before, "nothing of it is in the log");
    assert!(!copy(node).exists());
    ledger.check(node);
    assert_eq!(node.query("PRAGMA integrity_check").value(), "ok");

    // What is smaller has room, and the leader does not stop for what was refused.
    wait_until("it takes writes", || ledger.write_bytes(node, 1000, 10_000).is_none());
    ledger.write_all(node, 3, 1000);
    disk.empty();
    vacuum(node, "v:1").ok();
    ledger.check(node);
    assert_eq!(node.status().boot, boot, "without a restart");
    cluster.restart_alone(&ledger);
}
