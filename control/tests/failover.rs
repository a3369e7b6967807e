//! Failovers, from the evidence to the open leader.

mod world;

use rdb_control::Phase;
use rdb_control::spec::Span;
use rdb_control::status::Reason;
use rdb_protocol::settings::{Mode, SyncSet, WhenUnavailable};
use world::{World, name};

#[test]
fn the_forecast_names_the_successor_and_who_cannot_be_one() {
    let mut world = World::steady(|_| {});
    let followers = world.followers();
    world.run_ms(2000);
    assert!(world.status().forecast.as_ref().unwrap().vetoes.is_empty());
    world.kill(&followers[1]);
    world.run_ms(10_000);
    let forecast = world.status().forecast.clone().unwrap();
    assert_eq!(forecast.successor, None, "one of three is not enough");
    assert_eq!(forecast.vetoes[0].instance, followers[1]);
}

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

/// Its disk goes on for a moment, so it answers, and it has the greatest position: an operator that begins the election anew
/// must not choose it again.
#[test]
fn a_stuck_leader_is_not_chosen_again_by_the_next_operator() {
    let mut world = World::steady(|_| {});
    let old = world.leader();
    let now = world.now_ms;
    world.node(&old).stuck_since_ms = Some(now);
    world.run_until("rule 7", |w| w.status().epoch.0 == 2 && !w.status().has_leader());
    world.node(&old).stuck_since_ms = None;
    world.replace_operator();
    world.run_until("a leader is chosen", |w| w.status().has_leader());
    assert_eq!(world.status().epoch.0, 3, "by the next operator");
    assert_ne!(world.leader(), old);
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
