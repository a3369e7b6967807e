//! Disks that are full: writes are refused, reads go on, and free space heals it.

use std::sync::atomic::{AtomicU64, Ordering};

use rdb_protocol::Index;
use rdb_protocol::api::{ErrorCode, Retry};
use serde_json::json;

use crate::support::disk::SmallDisk;
use crate::support::{Cluster, Ledger, wait_until};

const MIB: u64 = 1 << 20;
/// Room for some segments of the log, the database and the thresholds of `driver::disk`.
const DISK_MIB: u64 = 192;

#[test]
fn a_full_disk_refuses_writes_and_serves_reads_until_there_is_space_again() {
    let mut cluster = Cluster::prepare(1);
    let Some(disk) = SmallDisk::mount(cluster.path("small"), DISK_MIB) else { return };
    cluster.nodes[0].data = disk.path.join("node");
    cluster.bootstrap(1);
    let node = cluster.leader();
    let boot = node.status().boot;
    let mut ledger = Ledger::create(node);
    ledger.write_all(node, 10, 1000);

    // First with room for what has begun; then with none at all, while writes come in.
    for leave in [40 * MIB, 0] {
        disk.fill(leave);
        for _ in 0..20 {
            ledger.write_bytes(node, 500_000, 5000);
        }
        wait_until("it says so", || node.is_full());
        assert_eq!(ledger.write(node), Some(ErrorCode::DiskFull));
        let refused = node.execute("DELETE FROM ledger", json!([]));
        assert_eq!((refused.error(), refused.status), (ErrorCode::DiskFull, 507));
        assert_eq!(refused.body["error"]["retry"], json!(Retry::Safe));
        ledger.check(node);
        assert!(node.get("/readyz").body.as_str().unwrap().contains("DISK_FULL"));

        disk.empty();
        wait_until("it has healed", || !node.is_full());
        ledger.write_all(node, 5, 1000);
        ledger.check(node);
    }
    assert_eq!(node.status().boot, boot, "without a restart");
    cluster.restart_alone(&ledger);
}

#[test]
fn a_follower_without_space_stops_counting_and_the_leader_goes_on_with_the_other() {
    let mut cluster = Cluster::prepare(3);
    let Some(disk) = SmallDisk::mount(cluster.path("small"), DISK_MIB) else { return };
    cluster.nodes[1].data = disk.path.join("node");
    cluster.bootstrap(3);
    let mut ledger = Ledger::create(cluster.leader());
    ledger.write_all(cluster.leader(), 5, 1000);
    cluster.wait_caught_up(1);
    let boot = cluster.nodes[1].status().boot;
    disk.fill(0);
    // More than what it has preallocated.
    ledger.write_all(cluster.leader(), 40, MIB as usize);
    wait_until("it says so", || cluster.nodes[1].is_full());
    let flushed = |i: usize| cluster.nodes[i].status().flushed.index;
    wait_until("the other follower has all", || flushed(2) >= flushed(0));
    assert!(flushed(1) < flushed(0), "it has what there was room for");
    let acknowledged = |i: usize| -> Index {
        let status = cluster.leader().status();
        let name = &cluster.nodes[i].name;
        status.followers.iter().find(|follower| follower.member.name == *name).unwrap().acknowledged
    };
    assert!(acknowledged(1) <= flushed(1));
    ledger.write_all(cluster.leader(), 5, 1000);
    cluster.nodes[1].query_any("SELECT count(*) FROM ledger").ok();

    disk.empty();
    wait_until("it has healed", || !cluster.nodes[1].is_full());
    wait_until("it counts again", || acknowledged(1) >= cluster.leader().status().committed);
    ledger.write_all(cluster.leader(), 3, 1000);
    assert_eq!(cluster.nodes[1].status().boot, boot, "without a restart");
    cluster.assert_equal_content();
    cluster.elect(1);
    ledger.check(cluster.leader());
    cluster.nodes[1].kill();
}

#[test]
fn a_disk_that_fills_up_under_load_again_and_again_loses_nothing() {
    let mut cluster = Cluster::prepare(1);
    let Some(disk) = SmallDisk::mount(cluster.path("small"), 3 * DISK_MIB) else { return };
    cluster.nodes[0].data = disk.path.join("node");
    cluster.bootstrap(1);
    let node = cluster.leader();
    let boot = node.status().boot;
    let mut ledger = Ledger::create(node);
    ledger.write_all(node, 3, 1000);
    node.execute("CREATE TABLE bulk (id INTEGER PRIMARY KEY, filler BLOB)", json!([])).ok();
    let refused = AtomicU64::new(0);
    for round in 0..6 {
        // Leaves room for the engine's reserve in some rounds, and for nothing in others.
        let leave = (round % 3) * 9 * MIB;
        std::thread::scope(|scope| {
            for client in 0..4 {
                let refused = &refused;
                scope.spawn(move || {
                    let sql = "INSERT OR REPLACE INTO bulk VALUES (?1, randomblob(1000000))";
                    for _ in 0..8 {
                        let reply = node.execute(sql, json!([client]));
                        if !reply.is_ok() {
                            assert_eq!(reply.error(), ErrorCode::DiskFull);
                            refused.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                });
            }
            disk.fill(leave);
            wait_until("it says so", || node.is_full());
        });
        disk.empty();
        wait_until("it has healed", || !node.is_full());
        ledger.write_all(node, 3, 1000);
        ledger.check(node);
    }
    assert!(refused.into_inner() > 0, "the load never met the full disk");
    assert_eq!(node.status().boot, boot, "without a restart");
    cluster.nodes[0].kill();
    cluster.nodes[0].start();
    cluster.elect(0);
    ledger.check(cluster.leader());
    cluster.nodes[0].kill();
}

#[test]
fn a_node_starts_promises_and_serves_reads_on_a_full_disk() {
    let mut cluster = Cluster::prepare(3);
    let Some(disk) = SmallDisk::mount(cluster.path("small"), DISK_MIB) else { return };
    cluster.nodes[1].data = disk.path.join("node");
    cluster.bootstrap(3);
    let mut ledger = Ledger::create(cluster.leader());
    ledger.write_all(cluster.leader(), 5, 1000);
    cluster.wait_caught_up(1);
    for kill in [true, false] {
        cluster.wait_applied(1);
        // SQLite's index of `-wal` is gone after an end in good order, and needs some pages.
        disk.fill(if kill { 0 } else { MIB });
        if kill {
            cluster.nodes[1].kill()
        } else {
            cluster.nodes[1].shut_down()
        }
        cluster.nodes[1].start();
        wait_until("it says so", || cluster.nodes[1].is_full());
        ledger.check_here(&cluster.nodes[1]);
        // Several elections in a row: each is a promise on disk.
        for leader in [2, 0, 2, 0] {
            cluster.elect(leader);
            assert_eq!(cluster.nodes[1].status().promise.epoch, cluster.epoch);
        }
        ledger.write_all(cluster.leader(), 3, 1000);
        disk.empty();
        wait_until("it has healed", || !cluster.nodes[1].is_full());
        cluster.wait_caught_up(1);
    }
    let said = cluster.nodes[1].output().matches("cannot apply records").count();
    assert!(said < 100, "it tries again now and then, not at once: {said} times");
    cluster.elect(1);
    ledger.check(cluster.leader());
    cluster.assert_equal_content();
    cluster.nodes[1].kill();
}

#[test]
fn a_base_copy_that_finds_no_space_waits_for_some() {
    let mut cluster = Cluster::prepare(3);
    let Some(disk) = SmallDisk::mount(cluster.path("small"), DISK_MIB) else { return };
    cluster.nodes[2].data = disk.path.join("node");
    cluster.bootstrap(2);
    let mut ledger = Ledger::create(cluster.leader());
    ledger.write_all(cluster.leader(), 30, MIB as usize);
    cluster.nodes[2].start();
    cluster.init(2, false);
    disk.fill(10 * MIB);
    cluster.follow(2);
    wait_until("it says so", || cluster.nodes[2].problems().contains(&"SEEDING_FAILED".to_owned()));
    assert_eq!(cluster.nodes[2].get("/v1/snapshot").error(), ErrorCode::Unavailable);
    disk.empty();
    cluster.wait_caught_up(2);
    cluster.reconfigure(&[0, 1, 2], 1);
    assert!(!cluster.nodes[2].problems().contains(&"SEEDING_FAILED".to_owned()));
    cluster.assert_equal_content();
    ledger.check_here(&cluster.nodes[2]);
    cluster.nodes[2].kill();
}
