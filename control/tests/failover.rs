//! Failovers, from the evidence to the open leader and its receipt.

mod world;

use rdb_control::Phase;
use rdb_control::spec::{DataLoss, Span};
use rdb_control::status::Reason;
use rdb_protocol::settings::{Mode, SyncSet, WhenUnavailable};
use world::{World, name};

/// The rule and the phase that everything else starts from.
#[test]
fn a_new_cluster_opens_to_clients_when_the_asked_for_rule_holds() {
    let mut world = World::new(|_| {});
    world.run_until("the first leader is open", |w| w.nodes.values().any(|node| node.opened));
    assert_eq!(world.status().config.as_ref().unwrap().current.version, 1);
    assert!(!world.status().condition("Ready").unwrap().status);
    assert_eq!(world.nodes.values().filter(|node| node.created).count(), 1, "one empty database, not three");
    assert!(world.nodes[&world.leader()].created);
    world.run_until("all are in", |w| w.settled() && w.cohort().len() == 3);
    assert_eq!((world.acks(), world.status().epoch.0), (1, 1));
    world.run_ms(2000);
    assert!(world.status().condition("Ready").unwrap().status, "{:#?}", world.status());
    assert_eq!(world.status().message, "Cluster in healthy state");
}

#[test]
fn a_process_that_ended_is_replaced_at_once_and_without_a_lease_wait() {
    let mut world = World::steady(|_| {});
    let (old, start) = (world.leader(), world.now_ms);
    world.kill(&old);
    world.run_until("another leader is open", |w| w.settled() && w.leader() != old);
    assert!(world.now_ms - start <= 500, "{} ms", world.now_ms - start);
    let receipt = world.status().last_failover.clone().unwrap();
    assert_eq!((receipt.reason, receipt.records_at_risk, receipt.exact), (Reason::ProcessExited, 0, true));
    assert_eq!(receipt.from, Some(old));
}

#[test]
fn a_refused_connection_without_proof_waits_for_the_lease() {
    let mut world = World::steady(|_| {});
    world.exit_proof = false;
    let (old, start) = (world.leader(), world.now_ms);
    world.kill(&old);
    world.run_until("another leader is open", |w| w.settled() && w.leader() != old);
    let outage = world.now_ms - start;
    assert!((1000..1600).contains(&outage), "{outage} ms");
    assert_eq!(world.status().last_failover.as_ref().unwrap().reason, Reason::ConnectionRefused);
}

#[test]
fn a_frozen_leader_is_replaced_after_the_detection_timeout() {
    let mut world = World::steady(|_| {});
    let (old, start) = (world.leader(), world.now_ms);
    world.node(&old).frozen = true;
    world.run_until("another leader is open", |w| w.settled() && w.leader() != old);
    let outage = world.now_ms - start;
    assert!((3000..4000).contains(&outage), "{outage} ms");
    assert_eq!(world.status().last_failover.as_ref().unwrap().reason, Reason::Silent);
    world.node(&old).frozen = false;
    world.run_ms(2000);
    assert!(!world.nodes[&old].is_leader(), "it follows when it wakes up");
    assert_eq!(world.status().ready_instances, 3);
}

#[test]
fn a_leader_that_only_the_operator_cannot_hear_stays() {
    let mut world = World::steady(|_| {});
    let old = world.leader();
    world.node(&old).hidden = true;
    world.run_ms(60_000);
    assert_eq!((world.leader(), world.status().epoch.0), (old, 1));
}

#[test]
fn a_leader_that_only_the_followers_cannot_hear_is_replaced_when_writes_stop_for_long() {
    let mut world = World::steady(|_| {});
    let old = world.leader();
    world.node(&old).isolated = true;
    world.run_ms(9000);
    assert_eq!(world.leader(), old);
    world.run_until("another leader is open", |w| w.settled() && w.leader() != old);
    assert_eq!(world.status().last_failover.as_ref().unwrap().reason, Reason::NoProgress);
}

#[test]
fn a_stuck_disk_is_replaced_after_the_progress_timeout() {
    let mut world = World::steady(|_| {});
    let old = world.leader();
    let now = world.now_ms;
    world.node(&old).stuck_since_ms = Some(now);
    world.run_ms(9000);
    assert_eq!(world.leader(), old);
    world.run_until("another leader is open", |w| w.settled() && w.leader() != old);
    assert_eq!(world.status().last_failover.as_ref().unwrap().reason, Reason::NoProgress);
    assert_eq!(world.status().epoch.0, 2);
}

#[test]
fn a_leader_that_waits_for_missing_followers_is_not_called_stuck() {
    let mut world = World::steady(|_| {});
    let old = world.leader();
    for follower in world.followers() {
        world.kill(&follower);
    }
    world.run_ms(120_000);
    assert_eq!((world.leader(), world.status().epoch.0), (old, 1));
}

#[test]
fn a_restarted_leader_gets_a_new_epoch_at_once() {
    let mut world = World::steady(|_| {});
    world.exit_proof = false;
    let (old, start) = (world.leader(), world.now_ms);
    world.kill(&old);
    world.revive(&old);
    world.run_until("a leader is open again", |w| w.settled() && w.status().epoch.0 == 2);
    assert!(world.now_ms - start < 1000, "{} ms", world.now_ms - start);
    assert_eq!(world.status().last_failover.as_ref().unwrap().reason, Reason::Restarted);
}

#[test]
fn a_chosen_leader_that_dies_before_opening_costs_an_epoch_and_no_record() {
    let mut world = World::steady(|spec| {
        spec.instances = 5;
        spec.replication.sync_followers = 2;
    });
    let old = world.leader();
    world.kill(&old);
    world.run_until("another one is chosen", |w| w.status().phase == Phase::Promoting);
    let chosen = world.leader();
    world.kill(&chosen);
    world.run_until("a third one is open", |w| w.settled() && w.leader() != old && w.leader() != chosen);
    assert_eq!(world.status().epoch.0, 3);
    assert_eq!(world.status().last_failover.as_ref().unwrap().from, Some(old));
}

#[test]
fn too_few_members_block_the_failover_and_are_named() {
    let mut world = World::steady(|_| {});
    let old = world.leader();
    let followers = world.followers();
    world.kill(&followers[0]);
    world.kill(&old);
    world.run_ms(60_000);
    let status = world.status();
    assert_eq!((status.phase, status.epoch.0), (Phase::Stalled, 1));
    assert!(
        status.message.contains(old.as_str()) && status.message.contains(followers[0].as_str()),
        "{}",
        status.message
    );
    assert!(status.condition("Stalled").unwrap().status);
    assert_eq!(world.events.iter().filter(|event| event.reason == "NoLeader").count(), 1, "{:#?}", world.events);
    world.revive(&followers[0]);
    world.run_until("two are enough", |w| w.settled() && w.status().epoch.0 == 2);
}

#[test]
fn a_person_may_accept_the_loss_for_the_stated_epoch() {
    let mut world = World::steady(|_| {});
    let old = world.leader();
    let followers = world.followers();
    world.kill(&followers[0]);
    world.kill(&old);
    world.run_ms(5000);
    assert!(world.status().message.contains("accept the data loss for epoch 1"), "{}", world.status().message);
    world.observed.requests.accept_data_loss = Some(rdb_protocol::Epoch(0));
    world.run_ms(2000);
    assert_eq!(world.status().epoch.0, 1, "a permission for another epoch is none");
    world.observed.requests.accept_data_loss = Some(rdb_protocol::Epoch(1));
    world.run_until("the last one is chosen", |w| w.status().leader_epoch.0 == 2);
    assert_eq!(world.leader(), followers[1]);
    assert_eq!(world.observed.requests.accept_data_loss, None);
    assert_eq!(world.status().loss_epoch.unwrap().0, 2);
}

#[test]
fn a_permission_given_while_the_leader_is_well_does_not_wait_for_a_later_failover() {
    let mut world = World::steady(|_| {});
    world.observed.requests.accept_data_loss = Some(world.status().epoch);
    world.run_until("it is told to be needless", |w| w.observed.requests.accept_data_loss.is_none());
    assert_eq!(world.status().epoch.0, 1);
}

#[test]
fn maintenance_pause_and_the_switch_hold_failovers_back_and_say_so() {
    type Change = fn(&mut rdb_control::ClusterSpec);
    let cases: [(Change, &str); 3] = [
        (|spec| spec.maintenance.active = true, "maintenance is active"),
        (|spec| spec.paused = true, "the resource is paused"),
        (|spec| spec.failover.enabled = false, "failover.enabled is false"),
    ];
    for (change, sentence) in cases {
        let mut world = World::steady(|_| {});
        world.change_spec(change);
        let old = world.leader();
        world.kill(&old);
        world.run_ms(30_000);
        assert_eq!(world.status().epoch.0, 1, "{sentence}");
        assert!(world.status().message.contains(sentence), "{}", world.status().message);
        world.change_spec(|spec| *spec = rdb_control::ClusterSpec::default());
        world.run_until("it goes on afterwards", |w| w.settled() && w.status().epoch.0 == 2);
    }
}

#[test]
fn maintenance_ends_by_itself() {
    let mut world = World::steady(|_| {});
    // unix_ms 1 700 000 000 000 is 2023-11-14T22:13:20Z.
    world.change_spec(|spec| {
        spec.maintenance.active = true;
        spec.maintenance.until = Some("2023-11-14T22:14:20Z".to_owned());
    });
    let old = world.leader();
    world.kill(&old);
    world.run_until("maintenance is over", |w| w.settled() && w.leader() != old);
    assert!(world.observed.unix_ms >= 1_700_000_060_000);
}

#[test]
fn an_election_once_started_is_not_stopped_by_pause_or_maintenance() {
    let mut world = World::steady(|_| {});
    let old = world.leader();
    world.kill(&old);
    world.run_until("rule 7", |w| w.status().epoch.0 == 2);
    world.change_spec(|spec| {
        spec.paused = true;
        spec.maintenance.active = true;
    });
    world.run_until("a leader", |w| w.status().opened.is_some_and(|opened| opened.epoch.0 == 2));
}

#[test]
fn cooldown_doubles_while_leaders_keep_dying() {
    let mut world = World::steady(|_| {});
    world.restart_after_ms = Some(1000);
    let mut outages = Vec::new();
    for epoch in 2..=5 {
        let (leader, start) = (world.leader(), world.now_ms);
        world.kill(&leader);
        world.run_until("open", |w| w.status().opened.is_some_and(|opened| opened.epoch.0 == epoch));
        outages.push(world.now_ms - start);
        world.run_until("settled", World::settled);
    }
    assert!(outages[0] < 1000, "{outages:?}");
    for (outage, cooldown) in outages[1..].iter().zip([10_000, 20_000, 40_000]) {
        assert!((cooldown - 2000..cooldown + 2000).contains(outage), "{outages:?}");
    }
    world.run_ms(200_000);
    let (leader, start) = (world.leader(), world.now_ms);
    world.kill(&leader);
    world.run_until("open", |w| w.status().epoch.0 == 6 && w.settled());
    assert!(world.now_ms - start < 1000, "a leader that lived long ends the row");
}

/// The old leader's log begins behind the place where it and the promoted one part: it can't know where that was.
#[test]
fn a_receipt_is_exact_though_the_old_leader_dropped_the_place_where_the_logs_part() {
    let mut world = World::steady(|spec| spec.replication.mode = Mode::Async);
    let old = world.leader();
    let followers = world.followers();
    for follower in &followers {
        world.node(follower).starved = true;
    }
    world.run_ms(1000);
    world.kill(&old);
    let length = world.node(&old).log.len();
    world.node(&old).dropped = length - 2;
    for follower in &followers {
        world.node(follower).starved = false;
    }
    world.run_until("another leader is open", |w| w.settled() && w.leader() != old);
    world.revive(&old);
    world.run_until("exact", |w| w.status().last_failover.as_ref().unwrap().exact);
    let exact = world.status().last_failover.clone().unwrap();
    assert_eq!(exact.records_at_risk, world.checker.lost.len() as u64, "{exact:?}");
}

#[test]
fn async_loses_only_with_a_receipt_that_becomes_exact_when_the_old_leader_is_back() {
    let mut world = World::steady(|spec| spec.replication.mode = Mode::Async);
    let old = world.leader();
    let followers = world.followers();
    for follower in &followers {
        world.node(follower).starved = true;
    }
    world.run_ms(1000);
    world.kill(&old);
    for follower in &followers {
        world.node(follower).starved = false;
    }
    world.run_until("another leader is open", |w| w.settled() && w.leader() != old);
    let receipt = world.status().last_failover.clone().unwrap();
    assert!(receipt.lossy && !receipt.exact && receipt.records_at_risk > 0, "{receipt:?}");
    world.revive(&old);
    world.run_until("exact", |w| w.status().last_failover.as_ref().unwrap().exact);
    let exact = world.status().last_failover.clone().unwrap();
    assert_eq!(exact.records_at_risk, world.checker.lost.len() as u64, "{exact:?}");
    assert_eq!(exact.acknowledged.0, exact.promoted.0 + exact.records_at_risk, "{exact:?}");
    assert!(world.status().condition("Divergence").unwrap().status);
}

#[test]
fn a_receipt_stays_incomplete_when_the_old_leaders_disk_is_gone() {
    let mut world = World::steady(|spec| spec.replication.mode = Mode::Async);
    let old = world.leader();
    world.kill(&old);
    world.run_until("another leader is open", |w| w.settled() && w.leader() != old);
    world.wipe(&old);
    world.run_until("known", |w| w.status().last_failover.as_ref().unwrap().incomplete);
    assert!(!world.status().last_failover.as_ref().unwrap().exact);
}

#[test]
fn async_with_loss_refused_waits_for_the_old_leader() {
    let mut world = World::steady(|spec| {
        spec.replication.mode = Mode::Async;
        spec.failover.data_loss = Some(DataLoss::Refuse);
    });
    let old = world.leader();
    world.kill(&old);
    world.run_ms(30_000);
    assert_eq!(world.status().phase, Phase::Stalled);
    world.revive(&old);
    world.run_until("it leads again", |w| w.settled() && w.status().epoch.0 == 2);
    assert_eq!(world.leader(), old);
}

/// A cluster that wakes up from hibernation, with a first follower that is there a second before the others.
#[test]
fn a_port_that_is_still_closed_is_no_reason_to_lose_records_at_a_cold_start() {
    let mut world = World::steady(|spec| spec.failover.data_loss = Some(DataLoss::Allow));
    let (old, followers) = (world.leader(), world.followers());
    world.exit_proof = false;
    world.nodes.keys().cloned().collect::<Vec<_>>().iter().for_each(|name| world.kill(name));
    world.replace_operator();
    world.revive(&followers[0]);
    world.run_ms(5000);
    assert!(world.nodes.values().all(|node| !(node.alive && node.is_leader())), "{:#?}", world.status());
    world.revive(&old);
    world.revive(&followers[1]);
    world.run_until("a leader is open", World::settled);
    assert!(!world.status().last_failover.as_ref().unwrap().lossy);
}

#[test]
fn an_async_cold_start_waits_for_the_slower_old_leader() {
    let mut world = World::steady(|spec| spec.replication.mode = Mode::Async);
    let old = world.leader();
    for node in world.nodes.keys().cloned().collect::<Vec<_>>() {
        world.kill(&node);
    }
    for follower in world.followers() {
        world.revive(&follower);
    }
    world.run_ms(30_000);
    assert!(world.status().leader_epoch.0 < 2, "nothing is given up while it may only be slow");
    world.revive(&old);
    world.run_until("open", |w| w.settled() && w.status().epoch.0 >= 2);
    assert!(!world.status().last_failover.as_ref().unwrap().lossy);
    assert_eq!(world.checker.lost.len(), 0);
}

#[test]
fn all_nodes_restarted_means_an_election() {
    let mut world = World::steady(|_| {});
    for node in world.nodes.keys().cloned().collect::<Vec<_>>() {
        world.kill(&node);
    }
    world.run_ms(5000);
    for node in world.nodes.keys().cloned().collect::<Vec<_>>() {
        world.revive(&node);
    }
    world.run_until("open", |w| w.settled() && w.status().epoch.0 == 2);
    assert_eq!(world.status().last_failover.as_ref().unwrap().reason, Reason::ColdStart);
}

#[test]
fn two_instances_wait_for_the_missing_copy_and_name_it() {
    let mut world = World::steady(|spec| spec.instances = 2);
    let old = world.leader();
    world.kill(&old);
    world.run_ms(30_000);
    let status = world.status();
    assert_ne!(status.leader.as_ref().unwrap().name, old);
    assert!(status.message.contains(old.as_str()), "{}", status.message);
    assert!(!status.condition("Ready").unwrap().status);
    world.revive(&old);
    world.run_until("both are back", World::settled);
}

#[test]
fn two_instances_go_on_alone_when_the_user_allows_it() {
    let mut world = World::steady(|spec| {
        spec.instances = 2;
        spec.replication.when_unavailable = WhenUnavailable::Degrade;
        spec.replication.min_sync_followers = 0;
    });
    let old = world.leader();
    world.kill(&old);
    world.run_until("alone", |w| w.settled() && w.leader() != old);
    assert_eq!(world.acks(), 0);
    assert!(world.status().condition("Degraded").unwrap().status);
    world.revive(&old);
    world.run_until("both copies count again", |w| w.settled() && w.acks() == 1);
}

#[test]
fn a_dead_leader_in_a_sync_set_of_one_is_replaced_before_opening() {
    let mut world = World::steady(|spec| spec.replication.sync_set = SyncSet::One);
    assert_eq!(world.cohort().len(), 2);
    let old = world.leader();
    world.kill(&old);
    world.run_until("open", |w| w.settled() && w.leader() != old);
    assert!(!world.cohort().contains(&old.to_string()), "{:?}", world.cohort());
    assert_eq!((world.cohort().len(), world.acks()), (2, 1));
}

#[test]
fn a_tie_goes_to_the_zone_of_the_old_leader() {
    let mut world = World::steady(|spec| spec.instances = 5);
    let old = world.leader();
    for (instance, zone) in [("db-1", "a"), ("db-2", "b"), ("db-3", "b"), ("db-4", "a"), ("db-5", "b")] {
        world.observed.instances.get_mut(&name(instance)).unwrap().zone = Some(zone.to_owned());
    }
    assert_eq!(old, name("db-1"));
    world.run_ms(100);
    world.kill(&old);
    world.run_until("open", |w| w.settled() && w.leader() != old);
    assert_eq!(world.leader(), name("db-4"));
}

#[test]
fn another_operator_finishes_the_election() {
    for phase in [Phase::FailingOver, Phase::Promoting] {
        let mut world = World::steady(|_| {});
        let old = world.leader();
        world.kill(&old);
        world.run_until("half way", |w| w.status().phase == phase);
        world.replace_operator();
        world.run_until("open", |w| w.settled() && w.leader() != old);
    }
}

#[test]
fn a_new_operator_answers_no_async_lease_at_first_and_none_during_an_election() {
    let mut world = World::steady(|spec| spec.replication.mode = Mode::Async);
    world.run_ms(3000);
    world.replace_operator();
    let start = world.now();
    world.run_until("answered again", |w| w.observed.lease_answered.is_some());
    assert!(world.observed.lease_answered.unwrap().at.since(start) >= world.lease_wait());
    let old = world.leader();
    world.node(&old).frozen = true;
    world.run_until("rule 7", |w| w.status().epoch.0 == 2);
    let last = world.observed.lease_answered;
    world.run_until("chosen", |w| w.status().leader_epoch.0 == 2);
    assert_eq!(world.observed.lease_answered, last);
}

#[test]
fn detection_is_as_cautious_as_asked_for() {
    let mut world = World::steady(|spec| spec.failover.detection_timeout = Span::from_secs(30));
    let old = world.leader();
    world.node(&old).frozen = true;
    world.run_ms(29_000);
    assert_eq!(world.status().epoch.0, 1);
    world.run_until("open", |w| w.settled() && w.leader() != old);
}

#[test]
fn a_loss_is_not_forgotten_when_the_leader_that_it_made_dies_before_opening() {
    let mut world = World::steady(|spec| spec.replication.mode = Mode::Async);
    let old = world.leader();
    for follower in world.followers() {
        world.node(&follower).starved = true;
    }
    world.run_ms(1000);
    world.exit_proof = false;
    world.kill(&old);
    world.run_until("chosen and promoted", |w| w.leader() != old && w.nodes[&w.leader()].is_leader());
    let chosen = world.leader();
    world.kill(&chosen);
    world.revive(&chosen);
    for follower in world.followers() {
        world.node(&follower).starved = false;
    }
    world.run_until("open by the leader shortcut", |w| w.settled() && w.status().epoch.0 >= 3);
    let receipt = world.status().last_failover.clone().unwrap();
    assert!(receipt.lossy && receipt.records_at_risk >= world.checker.lost.len() as u64, "{receipt:?}");
    assert_eq!(world.status().loss_epoch, Some(world.status().epoch));
}
