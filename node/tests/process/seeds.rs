//! Base copies: new followers, broken streams, and followers that the log left behind.

use std::sync::atomic::{AtomicBool, Ordering};

use rdb_protocol::Epoch;
use rdb_protocol::admin::{Done, Follow, PeerAddress, Reseed};
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

#[test]
fn the_log_is_kept_from_a_volume_snapshot_on() {
    let mut cluster = Cluster::prepare(2);
    // Everything is too old at once.
    cluster.settings.log_retention_age_ms = 1;
    cluster.bootstrap(2);
    let mut ledger = Ledger::create(cluster.leader());
    let snapshot = cluster.leader().status().flushed.index;
    // Only the follower is told of the snapshot.
    cluster.settings.retain_from = Some(snapshot);
    cluster.follow(1);
    for _ in 0..2 {
        let before = cluster.leader().status().flushed.index;
        ledger.write_all(cluster.leader(), 48, 1 << 20);
        cluster.wait_applied(1);
        wait_until("the leader has dropped some of it", || cluster.leader().status().first_retained > before);
    }
    // Meanwhile the follower has looked at its log at least once.
    let kept = cluster.nodes[1].status().first_retained;
    assert!(kept <= snapshot, "{kept:?} {snapshot:?}");
    cluster.settings.retain_from = None;
    cluster.follow(1);
    wait_until("the follower has dropped it", || cluster.nodes[1].status().first_retained > snapshot);
    ledger.check(cluster.leader());
}

#[test]
fn nodes_of_two_clusters_take_nothing_from_each_other() {
    let (mut ours, theirs) = (Cluster::start(2), Cluster::start(1));
    let (mut our_ledger, mut their_ledger) = (Ledger::create(ours.leader()), Ledger::create(theirs.leader()));
    our_ledger.write_all(ours.leader(), 5, 100);
    their_ledger.write_all(theirs.leader(), 50, 100);
    ours.wait_caught_up(1);
    ours.wait_applied(1);
    let before = ours.nodes[1].status();
    // A mistaken operator names the other cluster's leader, under a higher epoch.
    let follow = Follow {
        epoch: Epoch(7),
        leader: theirs.leader().member(),
        peers: vec![PeerAddress { name: theirs.leader().name.clone(), address: theirs.leader().address.to_string() }],
        settings: theirs.settings.clone(),
        loss_permitted: false,
    };
    // The name is that of a member here too: only the cluster's identity tells them apart.
    ours.nodes[1].admin::<Done>("follow", &follow).unwrap();
    let before_dialling = theirs.leader().connections();
    let mut looks = 0;
    wait_until("it was turned away some times", || {
        looks += 1;
        theirs.leader().connections() > before_dialling + looks + 3
    });
    assert!(theirs.leader().status().followers.is_empty());
    our_ledger.check_here(&ours.nodes[1]);
    assert_eq!(ours.nodes[1].status().incarnation, before.incarnation);
    ours.epoch = Epoch(7);
    ours.elect(0);
    ours.wait_caught_up(1);
    our_ledger.write_all(ours.leader(), 3, 100);
    our_ledger.check(ours.leader());
    ours.assert_equal_content();
    their_ledger.check(theirs.leader());
}

/// The new core must notice a connection that comes the moment it is there. Every `follow` wakes the dialler, so that it tries
/// at each step of the replacement.
#[test]
fn a_follower_that_is_reseeded_again_and_again_always_comes_back() {
    let cluster = Cluster::start(3);
    let mut ledger = Ledger::create(cluster.leader());
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let caller = || {
            while !done.load(Ordering::Relaxed) {
                // Refused while the node begins anew, which is expected.
                let _ = cluster.try_follow(2);
            }
        };
        scope.spawn(caller);
        scope.spawn(caller);
        let reseeds = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for _ in 0..12 {
                let before = cluster.nodes[2].member().incarnation;
                let call = Reseed { epoch: cluster.epoch, incarnation: before };
                cluster.nodes[2].admin::<Done>("reseed", &call).unwrap();
                wait_until("another incarnation", || cluster.nodes[2].member().incarnation != before);
                ledger.write_all(cluster.leader(), 2, 1000);
                cluster.wait_caught_up(2);
            }
        }));
        done.store(true, Ordering::Relaxed);
        reseeds.unwrap();
    });
    cluster.wait_same_log(2);
    ledger.check(cluster.leader());
}
