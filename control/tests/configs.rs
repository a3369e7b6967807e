//! Config changes (rule 15): modes, members that come and go, degrading, the sync set of one.

mod world;

use rdb_control::{AdminCall, CallRecord, Phase};
use rdb_protocol::BOOTSTRAP_VERSION;
use rdb_protocol::settings::{Mode, SyncSet, WhenUnavailable};
use world::{World, name};

#[test]
fn one_instance_runs_alone_and_says_so() {
    let world = World::steady(|spec| spec.instances = 1);
    assert_eq!((world.cohort().len(), world.acks()), (1, 0));
    assert_eq!(world.status().config.as_ref().unwrap().current.version, 2);
    assert_eq!(world.status().condition("Degraded").unwrap().reason, "SingleInstance");
}

#[test]
fn each_mode_has_its_own_rule_and_can_be_changed_to_any_other() {
    let expected = |mode| match mode {
        Mode::Async => (3, 0),
        Mode::SemiSync => (3, 1),
        Mode::Sync => (3, 2),
    };
    for from in [Mode::Async, Mode::SemiSync, Mode::Sync] {
        for to in [Mode::Async, Mode::SemiSync, Mode::Sync] {
            let mut world = World::steady(|spec| spec.replication.mode = from);
            world.run_until("the rule holds", |w| w.settled() && (w.cohort().len(), w.acks()) == expected(from));
            world.change_spec(|spec| spec.replication.mode = to);
            world.run_until("changed", |w| w.settled() && (w.cohort().len(), w.acks()) == expected(to));
            assert_eq!(world.status().epoch.0, 1);
        }
    }
}

#[test]
fn more_copies_are_asked_for() {
    let mut world = World::steady(|_| {});
    world.change_spec(|spec| spec.replication.sync_followers = 2);
    world.run_until("changed", |w| w.settled() && w.acks() == 2);
}

#[test]
fn sync_blocks_without_a_follower_and_degrades_if_asked_to() {
    let mut world = World::steady(|spec| spec.replication.mode = Mode::Sync);
    let follower = world.followers()[0].clone();
    world.kill(&follower);
    world.run_ms(60_000);
    assert_eq!((world.cohort().len(), world.acks()), (3, 2), "block is the default");
    world.change_spec(|spec| spec.replication.when_unavailable = WhenUnavailable::Degrade);
    world.run_until("degraded", |w| w.settled() && (w.cohort().len(), w.acks()) == (2, 1));
    assert!(world.status().condition("Degraded").unwrap().status);
    world.kill(&world.followers().iter().find(|name| **name != follower).unwrap().clone());
    world.run_ms(60_000);
    assert_eq!(world.acks(), 1, "never below minSyncFollowers");
    for follower in world.followers() {
        world.revive(&follower);
    }
    world.run_until("all are back", |w| w.settled() && (w.cohort().len(), w.acks()) == (3, 2));
}

#[test]
fn degrading_waits_for_sync_timeout() {
    let mut world = World::steady(|spec| {
        spec.replication.mode = Mode::Sync;
        spec.replication.when_unavailable = WhenUnavailable::Degrade;
    });
    let (follower, start) = (world.followers()[0].clone(), world.now_ms);
    world.kill(&follower);
    world.run_until("degraded", |w| w.settled() && w.cohort().len() == 2);
    assert!((10_000..12_500).contains(&(world.now_ms - start)), "{} ms", world.now_ms - start);
}

#[test]
fn a_dead_leader_is_taken_out_of_a_degrading_sync_cluster_before_opening() {
    let mut world = World::steady(|spec| {
        spec.replication.mode = Mode::Sync;
        spec.replication.when_unavailable = WhenUnavailable::Degrade;
    });
    let old = world.leader();
    world.kill(&old);
    world.run_until("open", |w| w.settled() && w.leader() != old);
    assert_eq!((world.cohort().len(), world.acks()), (2, 1));
}

#[test]
fn a_dead_leader_blocks_a_sync_cluster_and_is_named() {
    let mut world = World::steady(|spec| spec.replication.mode = Mode::Sync);
    let old = world.leader();
    world.kill(&old);
    world.run_ms(60_000);
    assert_eq!(world.status().phase, Phase::Promoting);
    assert!(world.status().message.contains(old.as_str()), "{}", world.status().message);
    world.revive(&old);
    world.run_until("open", World::settled);
}

#[test]
fn a_sync_leader_whose_disk_is_gone_is_replaced_by_a_newly_seeded_one() {
    let mut world = World::steady(|spec| spec.replication.mode = Mode::Sync);
    let old = world.leader();
    world.kill(&old);
    world.run_ms(5000);
    world.wipe(&old);
    world.run_until("open", World::settled);
    assert_eq!((world.cohort().len(), world.acks()), (3, 2));
}

#[test]
fn a_slow_or_dead_named_follower_is_replaced_under_block_too() {
    let mut world = World::steady(|spec| spec.replication.sync_set = SyncSet::One);
    let named = world.followers().into_iter().find(|f| world.cohort().contains(&f.to_string())).unwrap();
    let start = world.now_ms;
    world.kill(&named);
    world.run_until("replaced", |w| w.settled() && !w.cohort().contains(&named.to_string()));
    assert!(world.now_ms - start >= 10_000);
    assert_eq!((world.cohort().len(), world.acks()), (2, 1));
    world.revive(&named);
    world.run_ms(30_000);
    assert!(!world.cohort().contains(&named.to_string()), "a working one is not exchanged again");
}

#[test]
fn a_wiped_follower_is_another_member_and_earns_its_place_again() {
    let mut world = World::steady(|_| {});
    let follower = world.followers()[0].clone();
    let old = world.nodes[&follower].member();
    world.wipe(&follower);
    world.node(&follower).starved = true;
    world.run_ms(30_000);
    assert!(world.status().config.as_ref().unwrap().counts(&old), "replaced before the new one was caught up");
    world.node(&follower).starved = false;
    let new = world.nodes[&follower].member();
    world.run_until("replaced", |w| w.settled() && w.status().config.as_ref().unwrap().counts(&new));
    assert!(!world.status().config.as_ref().unwrap().counts(&old));
}

#[test]
fn another_operator_or_leader_finishes_a_config_change() {
    for kill in [false, true] {
        let mut world = World::steady(|_| {});
        world.change_spec(|spec| spec.replication.sync_followers = 2);
        world.run_until("next stands", |w| w.status().config.as_ref().unwrap().next.is_some());
        let old = world.leader();
        if kill {
            world.kill(&old);
        }
        world.replace_operator();
        world.restart_after_ms = Some(5000);
        world.run_until("changed", |w| w.settled() && w.acks() == 2);
        assert_eq!(world.leader() == old, !kill);
    }
}

#[test]
fn a_change_that_cannot_be_met_any_more_is_given_up_and_its_version_is_not_used_again() {
    let mut world = World::steady(|_| {});
    world.change_spec(|spec| spec.replication.sync_followers = 2);
    world.run_until("next stands", |w| w.status().config.as_ref().unwrap().next.is_some());
    let version = world.status().config.as_ref().unwrap().version();
    let follower = world.followers()[0].clone();
    world.node(&follower).isolated = true;
    world.run_until("given up", |w| w.settled() && w.has_event("ConfigChangeGivenUp"));
    assert_eq!((world.acks(), world.status().config_version), (1, version));
    assert_eq!(world.status().config.as_ref().unwrap().current.version, version);
    world.node(&follower).isolated = false;
    world.run_until("changed after all", |w| w.settled() && w.acks() == 2);
    assert!(world.status().config_version > version);
}

#[test]
fn a_request_to_reseed_what_is_not_there_is_refused() {
    let mut world = World::steady(|_| {});
    world.observed.requests.reseed = Some(name("db-9"));
    world.run_until("refused", |w| w.has_event("ReseedRefused") && w.observed.requests.reseed.is_none());
}

#[test]
fn a_change_that_the_leader_refuses_is_given_up() {
    let mut world = World::steady(|_| {});
    let leader = world.leader();
    world.node(&leader).refuses_changes = true;
    world.change_spec(|spec| spec.instances = 4);
    world.run_until("given up", |w| w.settled() && w.has_event("ConfigChangeGivenUp"));
    world.run_ms(60_000);
    assert_eq!(world.cohort().len(), 3);
    assert!(world.status().config_version <= 9, "tried too often: {}", world.status().config_version);
    world.node(&leader).refuses_changes = false;
    world.run_until("added after all", |w| w.settled() && w.cohort().len() == 4);
}

#[test]
fn a_settled_config_whose_member_lost_its_disk_is_left_by_an_election_of_the_same_leader() {
    let mut world = World::steady(|spec| spec.replication.mode = Mode::Async);
    let leader = world.leader();
    world.change_spec(|spec| {
        spec.replication.mode = Mode::SemiSync;
        spec.replication.sync_set = SyncSet::One;
    });
    let is_on_its_way = |record: &CallRecord| {
        matches!(&record.call, AdminCall::Settle(settle) if settle.keep.acks == 1) && record.outcome.is_none()
    };
    world.run_until("the leader is told to settle", |w| w.observed.calls.values().any(is_on_its_way));
    let next = world.status().config.as_ref().unwrap().next.clone().unwrap();
    let follower = next.cohort.iter().find(|member| member.name != leader).unwrap().name.clone();
    world.wipe(&follower);
    world.run_until("the new rule holds", |w| w.settled() && (w.cohort().len(), w.acks()) == (2, 1));
    assert_eq!((world.leader(), world.status().epoch.0), (leader, 2));
}

#[test]
fn a_member_that_was_told_to_fetch_its_data_anew_is_not_counted_on() {
    let mut world = World::steady(|spec| spec.replication.mode = Mode::Async);
    let follower = world.followers()[0].clone();
    let told = world.nodes[&follower].member();
    world.observed.requests.reseed = Some(follower.clone());
    world.step();
    world.node(&follower).starved = true;
    world.change_spec(|spec| {
        spec.replication.mode = Mode::SemiSync;
        spec.replication.sync_set = SyncSet::One;
    });
    world.run_until("a change", |w| w.status().config.as_ref().unwrap().next.is_some());
    assert!(!world.status().config.as_ref().unwrap().next.as_ref().unwrap().cohort.contains(&told));
    world.run_until("the new rule holds", |w| w.settled() && w.acks() == 1);
    assert_eq!(world.status().epoch.0, 1);
}

/// What the leader said of it before is older than what it says itself.
#[test]
fn a_member_that_reports_other_data_by_now_is_not_counted_on() {
    let mut world = World::steady(|spec| spec.replication.sync_followers = 2);
    let (leader, followers) = (world.leader(), world.followers());
    let gone = world.nodes[&followers[0]].member();
    world.node(&leader).frozen = true;
    world.run_ms(500);
    world.wipe(&gone.name);
    world.run_ms(500);
    world.change_spec(|spec| {
        spec.instances = 2;
        spec.replication.sync_followers = 1;
    });
    world.run_ms(500);
    let next = world.status().config.as_ref().unwrap().next.as_ref();
    assert!(!next.is_some_and(|next| next.cohort.contains(&gone)), "{next:?}");
    world.node(&leader).frozen = false;
    world.run_until("the new rule holds", |w| w.settled() && (w.cohort().len(), w.acks()) == (2, 1));
    assert_eq!(world.checker.lost.len(), 0);
}

/// What stays in force lets nobody write, so nothing is acknowledged by one copy alone.
#[test]
fn a_new_cluster_is_not_opened_by_giving_up_the_change_to_the_asked_for_rule() {
    let mut world = World::new(|_| {});
    world.run_until("a change", |w| w.status().config.as_ref().is_some_and(|config| config.next.is_some()));
    let leader = world.leader();
    world.nodes.values_mut().filter(|node| node.name != leader).for_each(|node| node.isolated = true);
    world.run_ms(5000);
    assert!(world.status().config.as_ref().unwrap().next.is_some(), "not because of a member that blinks");
    world.run_until("given up", |w| w.has_event("ConfigChangeGivenUp"));
    world.run_ms(60_000);
    let config = world.status().config.as_ref().unwrap();
    assert_eq!((config.current.version, config.next.as_ref()), (BOOTSTRAP_VERSION, None));
    assert_eq!(world.status().phase, Phase::Bootstrapping, "{}", world.status().message);
    world.nodes.values_mut().for_each(|node| node.isolated = false);
    world.run_until("the asked-for rule holds", |w| w.settled() && w.acks() == 1);
}

/// Its copy is counted by the change, and it will never have it again.
#[test]
fn the_first_change_is_begun_anew_when_a_member_of_it_was_seeded_anew() {
    let mut world = World::new(|spec| spec.replication.sync_followers = 2);
    world.run_until("a change", |w| w.status().config.as_ref().is_some_and(|config| config.next.is_some()));
    let first = world.status().config.as_ref().unwrap().next.clone().unwrap();
    let gone = first.cohort.iter().find(|member| member.name != world.leader()).unwrap().clone();
    world.wipe(&gone.name);
    world.run_until("the asked-for rule holds", |w| w.settled() && w.acks() == 2);
    let config = &world.status().config.as_ref().unwrap().current;
    assert!(config.version > first.version && !config.cohort.contains(&gone), "{config:?}");
    assert_eq!(world.checker.lost.len(), 0);
}

#[test]
fn a_settled_config_is_taken_over_only_when_its_record_is_committed() {
    let mut world = World::steady(|_| {});
    let leader = world.leader();
    world.change_spec(|spec| spec.replication.sync_followers = 2);
    world.run_until("next stands", |w| w.status().config.as_ref().unwrap().next.is_some());
    let now = world.now_ms;
    world.node(&leader).stuck_since_ms = Some(now);
    world.run_ms(3000);
    let now = world.now_ms;
    assert!(world.nodes[&leader].report(now).settled.is_some_and(|settled| !settled.committed));
    assert!(world.status().config.as_ref().unwrap().next.is_some(), "it stands until the report");
    world.node(&leader).stuck_since_ms = None;
    world.run_until("changed", |w| w.settled() && w.acks() == 2);
}
