//! Base copies: new followers, broken streams, and followers that the log left behind.

use std::sync::atomic::{AtomicBool, Ordering};

use rdb_protocol::status::NodeState;

use crate::support::proxy::Proxy;
use crate::support::{Cluster, Ledger, wait_until};

#[test]
fn a_new_follower_is_seeded_while_writes_go_on() {
    let mut cluster = Cluster::prepare(3);
    cluster.bootstrap(2);
    let mut ledger = Ledger::create(cluster.leader());
    ledger.write_all(cluster.leader(), 40, 1 << 20);
    cluster.nodes[2].start();
    cluster.init(2, false);

    let seeded = AtomicBool::new(false);
    let before = ledger.acknowledged();
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            while !seeded.load(Ordering::Relaxed) {
                ledger.write_all(cluster.leader(), 1, 2000);
            }
        });
        cluster.follow(2);
        cluster.wait_caught_up(2);
        seeded.store(true, Ordering::Relaxed);
        writer.join().unwrap();
    });
    assert!(ledger.acknowledged() > before, "nobody wrote meanwhile");
    cluster.reconfigure(&[0, 1, 2], 1);
    cluster.assert_equal_content();
    // It can take over.
    cluster.elect(2);
    ledger.write_all(cluster.leader(), 3, 1000);
    ledger.check(cluster.leader());
    cluster.assert_equal_content();
}

#[test]
fn a_base_copy_that_breaks_off_goes_on_where_it_stopped() {
    let mut cluster = Cluster::prepare(3);
    cluster.bootstrap(2);
    let mut ledger = Ledger::create(cluster.leader());
    ledger.write_all(cluster.leader(), 24, 1 << 20);
    let proxy = Proxy::start(cluster.nodes[0].address, 6 << 20);
    cluster.detours.insert((2, 0), proxy.address.to_string());
    cluster.nodes[2].start();
    cluster.init(2, false);
    cluster.follow(2);
    cluster.wait_caught_up(2);
    let seen = proxy.seen();
    assert_eq!(seen.len(), 2, "{seen:?}");
    assert!(seen[0].request.contains("session=0&from=1 "), "{seen:?}");
    assert!(!seen[1].request.contains("session=0&"), "{seen:?}");
    assert!(!seen[1].request.contains("&from=1 "), "{seen:?}");
    assert!(seen[1].bytes < 22 << 20, "the second stream was all of it: {seen:?}");
    ledger.write_all(cluster.leader(), 3, 1000);
    ledger.check_here(&cluster.nodes[0]);
    cluster.reconfigure(&[0, 1, 2], 2);
    ledger.write_all(cluster.leader(), 1, 1000);
    cluster.assert_equal_content();
    ledger.check_here(&cluster.nodes[2]);
}

#[test]
fn a_follower_that_the_log_left_behind_gets_a_new_base_copy() {
    let mut cluster = Cluster::prepare(3);
    cluster.settings.log_retention_bytes = 16 << 20;
    cluster.bootstrap(3);
    let mut ledger = Ledger::create(cluster.leader());
    ledger.write_all(cluster.leader(), 3, 1000);
    let behind = cluster.nodes[2].status();
    cluster.nodes[2].kill();
    ledger.write_all(cluster.leader(), 64, 1 << 20);
    let retained = || cluster.leader().status().first_retained;
    wait_until("the leader has dropped what it lacks", || retained() > behind.flushed.index.next());

    cluster.restart(2);
    cluster.wait_caught_up(2);
    let status = cluster.nodes[2].status();
    assert_ne!(status.incarnation, behind.incarnation, "the old one's copies are gone");
    assert!(status.seed.unwrap().position.index > behind.flushed.index);
    assert_eq!(status.state, NodeState::Streaming);
    cluster.reconfigure(&[0, 1, 2], 1);
    cluster.assert_equal_content();
    cluster.elect(2);
    ledger.check(cluster.leader());
}
