//! Config changes, degrading, the sync set of one, scaling, re-seeding, switchover, lost status.

mod world;

use rdb_control::status::Reason;
use rdb_control::{AdminCall, CallRecord, Phase};
use rdb_protocol::BOOTSTRAP_VERSION;
use rdb_protocol::settings::{Mode, SyncSet, WhenUnavailable};
use rdb_protocol::status::NodeState;
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
fn scaling_up_adds_members_one_by_one_and_down_removes_their_data_last() {
    let mut world = World::steady(|_| {});
    world.change_spec(|spec| spec.instances = 5);
    world.run_until("five", |w| w.settled() && w.cohort().len() == 5);
    world.change_spec(|spec| spec.instances = 2);
    world.run_until("two", |w| w.settled() && w.nodes.len() == 2);
    assert_eq!(world.cohort(), ["db-1", "db-2"]);
}

#[test]
fn scaling_down_never_takes_the_leader() {
    let mut world = World::steady(|_| {});
    world.observed.requests.switchover = Some(name("db-3"));
    world.run_until("db-3 leads", |w| w.settled() && w.leader() == name("db-3"));
    world.change_spec(|spec| spec.instances = 1);
    world.run_until("one", |w| w.settled() && w.nodes.len() == 1);
    assert_eq!((world.leader(), world.status().epoch.0), (name("db-3"), 2));
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
fn switchover_moves_the_leader_and_loses_nothing() {
    for mode in [Mode::Async, Mode::SemiSync, Mode::Sync] {
        let mut world = World::steady(|spec| spec.replication.mode = mode);
        let (target, start) = (world.followers()[1].clone(), world.now_ms);
        world.observed.requests.switchover = Some(target.clone());
        world.run_until("it leads", |w| w.settled() && w.leader() == target);
        assert!(world.now_ms - start < 1000, "{mode:?}: {} ms", world.now_ms - start);
        assert_eq!(world.observed.requests.switchover, None);
        assert!(world.status().last_failover.is_none(), "a planned change is no failover");
        assert!(world.checker.lost.is_empty());
    }
}

#[test]
fn a_switchover_to_an_unfit_target_is_refused_with_the_reason() {
    type Spoil = fn(&mut World, &rdb_protocol::NodeName);
    let cases: [(Spoil, &str); 3] = [
        (|world, target| world.kill(target), "can't be reached"),
        (|world, target| world.node(target).isolated = true, "not caught up"),
        (|world, _| world.observed.requests.switchover = Some(name("db-9")), "no such instance"),
    ];
    for (spoil, reason) in cases {
        let mut world = World::steady(|_| {});
        let target = world.followers()[0].clone();
        world.observed.requests.switchover = Some(target.clone());
        spoil(&mut world, &target);
        world.run_until("refused", |w| w.has_event("SwitchoverRefused"));
        let event = world.events.iter().find(|event| event.reason == "SwitchoverRefused").unwrap();
        assert!(event.message.contains(reason), "{}", event.message);
        assert_eq!((world.status().epoch.0, &world.observed.requests.switchover), (1, &None));
    }
}

#[test]
fn a_switchover_whose_target_dies_is_called_off_and_writes_resume() {
    let mut world = World::steady(|_| {});
    let (old, target) = (world.leader(), world.followers()[0].clone());
    world.observed.requests.switchover = Some(target.clone());
    world.run_until("writes are being stopped", |w| w.status().phase == Phase::SwitchingOver);
    world.kill(&target);
    world.run_until("called off", |w| w.has_event("SwitchoverCalledOff"));
    world.run_until("steady", World::settled);
    world.run_ms(500);
    let now = world.now_ms;
    assert_eq!((world.leader(), world.status().epoch.0), (old.clone(), 1));
    assert_eq!(world.nodes[&old].report(now).state, NodeState::Leading);
}

#[test]
fn a_leader_that_dies_in_the_middle_of_a_switchover_is_replaced() {
    let mut world = World::steady(|_| {});
    let (old, target) = (world.leader(), world.followers()[1].clone());
    world.observed.requests.switchover = Some(target.clone());
    world.run_until("writes are being stopped", |w| w.status().phase == Phase::SwitchingOver);
    world.kill(&old);
    world.run_until("another leads", |w| w.settled() && w.leader() == target);
}

#[test]
fn a_follower_is_reseeded_on_request_and_the_leader_is_not() {
    let mut world = World::steady(|_| {});
    let (leader, follower) = (world.leader(), world.followers()[0].clone());
    world.observed.requests.reseed = Some(leader);
    world.run_until("refused", |w| w.has_event("ReseedRefused"));
    let old = world.nodes[&follower].member();
    world.observed.requests.reseed = Some(follower.clone());
    world.run_until("reseeded", |w| w.settled() && !w.status().config.as_ref().unwrap().counts(&old));
    assert_eq!((&world.observed.requests.reseed, world.cohort().len()), (&None, 3));
}

#[test]
fn a_request_to_reseed_what_is_not_there_is_refused() {
    let mut world = World::steady(|_| {});
    world.observed.requests.reseed = Some(name("db-9"));
    world.run_until("refused", |w| w.has_event("ReseedRefused") && w.observed.requests.reseed.is_none());
}

#[test]
fn a_diverged_follower_is_reseeded_unless_writes_would_stop() {
    let mut world = World::steady(|_| {});
    let followers = world.followers();
    world.kill(&followers[1]);
    let old = world.nodes[&followers[0]].member();
    world.node(&followers[0]).state_override = Some(NodeState::Diverged);
    world.run_ms(5000);
    assert_eq!(world.nodes[&followers[0]].member(), old, "its copy is the only other one");
    world.revive(&followers[1]);
    world.run_until("reseeded", |w| w.nodes[&followers[0]].member() != old && w.settled());
}

#[test]
fn a_fenced_instance_is_kept_stopped_while_asked_for() {
    let mut world = World::steady(|_| {});
    let old = world.leader();
    world.restart_after_ms = Some(1000);
    world.observed.requests.fence.insert(old.clone());
    world.run_until("another leads", |w| w.settled() && w.leader() != old);
    world.run_ms(10_000);
    assert!(!world.nodes[&old].alive);
    world.observed.requests.fence.clear();
    world.run_until("all are ready", |w| w.settled() && w.status().ready_instances == 3);
}

#[test]
fn a_hibernated_cluster_wakes_up_with_an_election() {
    let mut world = World::steady(|spec| spec.replication.mode = Mode::Async);
    world.change_spec(|spec| spec.hibernated = true);
    world.run_until("asleep", |w| w.status().phase == Phase::Hibernated);
    assert!(world.nodes.values().all(|node| !node.alive));
    world.run_ms(600_000);
    world.change_spec(|spec| spec.hibernated = false);
    world.run_until("awake", |w| w.settled() && w.status().epoch.0 == 2);
    assert!(world.checker.lost.is_empty());
}

#[test]
fn a_lost_status_is_rebuilt_from_all_members() {
    let mut world = World::steady(|_| {});
    let cluster = world.status().cluster;
    world.observed.status = Default::default();
    world.run_until("open", World::settled);
    assert_eq!(world.status().cluster, cluster);
    assert!(world.status().epoch.0 > 1000);
    assert_eq!(world.status().last_failover.as_ref().unwrap().reason, Reason::StatusRebuilt);
}

#[test]
fn a_status_older_than_the_nodes_is_not_acted_on() {
    let mut world = World::steady(|_| {});
    let old = world.status().clone();
    let leader = world.leader();
    world.kill(&leader);
    world.run_until("epoch 2", |w| w.settled() && w.status().epoch.0 == 2);
    world.observed.status = old;
    world.run_ms(5000);
    assert_eq!(world.status().phase, Phase::Stalled);
    assert_eq!(world.status().condition("Stalled").unwrap().reason, "StatusLost");
    assert!(world.status().message.contains(leader.as_str()), "{}", world.status().message);
    world.revive(&leader);
    world.run_until("rebuilt", |w| w.settled() && w.status().epoch.0 > 1000);
}

/// The choice of the leader was swapped in, and the backup is of just before it.
#[test]
fn a_status_that_forgot_the_choice_chooses_nobody_again() {
    let mut world = World::steady(|_| {});
    let leader = world.leader();
    world.kill(&leader);
    world.run_until("rule 7", |w| w.status().epoch.0 == 2 && !w.status().has_leader());
    let old = world.status().clone();
    world.run_until("epoch 2", |w| w.settled() && w.status().epoch.0 == 2);
    world.revive(&leader);
    world.run_until("all are ready", |w| w.settled() && w.status().ready_instances == 3);
    world.observed.status = old;
    world.run_until("rebuilt", |w| w.settled() && w.status().epoch.0 > 1000);
}

#[test]
fn a_status_that_forgot_a_loss_is_told_of_it() {
    let mut world = World::steady(|spec| spec.replication.mode = Mode::Async);
    let old = world.status().clone();
    let leader = world.leader();
    world.kill(&leader);
    world.run_until("epoch 2", |w| w.settled() && w.status().epoch.0 == 2);
    let loss = world.status().loss_epoch;
    assert!(loss.is_some());
    world.observed.status = old;
    world.revive(&leader);
    world.run_until("rebuilt", |w| w.settled() && w.status().epoch.0 > 1000);
    assert_eq!(world.status().loss_epoch, loss);
}

/// Scaled down while the cluster slept, in the middle of a change that needs everybody.
#[test]
fn an_instance_that_counts_is_started_although_it_is_not_wanted() {
    let mut world = World::steady(|spec| spec.replication.mode = Mode::Sync);
    let leader = world.leader();
    world.change_spec(|spec| spec.hibernated = true);
    world.run_until("asleep", |w| w.status().phase == Phase::Hibernated);
    world.change_spec(|spec| {
        spec.hibernated = false;
        spec.instances = 2;
    });
    world.run_until("awake", |w| w.settled() && w.status().ready_instances == 2);
    assert_eq!(world.status().instances.len(), 2, "after {leader} led three");
}

#[test]
fn a_lost_status_starts_the_instances_whose_word_it_needs() {
    let mut world = World::steady(|_| {});
    let old = world.status().clone();
    let leader = world.leader();
    world.kill(&leader);
    world.run_until("epoch 2", |w| w.settled() && w.status().epoch.0 == 2);
    world.observed.status = old;
    for name in world.nodes.keys().cloned().collect::<Vec<_>>() {
        world.kill(&name);
        world.node(&name).stopped = true;
    }
    world.run_until("rebuilt", |w| w.settled() && w.status().epoch.0 > 1000);
}

#[test]
fn a_lost_status_with_a_member_missing_needs_a_persons_word() {
    let mut world = World::steady(|_| {});
    let gone = world.followers()[0].clone();
    world.kill(&gone);
    world.observed.status = Default::default();
    world.run_ms(60_000);
    assert_eq!(world.status().phase, Phase::Stalled, "{:#?}", world.status());
    assert!(world.status().message.contains("accept the data loss for epoch 1"), "{}", world.status().message);
    world.observed.requests.accept_data_loss = Some(rdb_protocol::Epoch(1));
    world.run_until("open", |w| w.settled() && w.status().epoch.0 > 1000);
}

#[test]
fn a_steady_cluster_is_left_alone() {
    let mut world = World::steady(|_| {});
    world.run_ms(20_000);
    let (calls, swaps) = (world.calls_sent, world.swaps);
    world.run_ms(600_000);
    assert_eq!(world.calls_sent, calls, "nothing has changed, so nothing is said again");
    assert!(world.swaps - swaps <= 61, "{} writes in ten minutes", world.swaps - swaps);
}

#[test]
fn an_unreachable_node_is_not_flooded_with_calls() {
    let mut world = World::steady(|_| {});
    let (leader, follower) = (world.leader(), world.followers()[0].clone());
    world.kill(&leader);
    world.run_until("rule 7", |w| w.status().epoch.0 == 2);
    world.kill(&follower);
    let calls = world.calls_sent;
    world.run_ms(60_000);
    assert_eq!(world.status().phase, Phase::FailingOver);
    let calls = world.calls_sent - calls;
    assert!((60..200).contains(&calls), "{calls} calls to two nodes in a minute");
}

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

#[test]
fn settings_reach_the_leader_and_the_followers() {
    let mut world = World::steady(|_| {});
    let calls = world.calls_sent;
    world.change_spec(|spec| spec.access.transaction_timeout = rdb_control::spec::Span::from_secs(9));
    world.run_ms(1000);
    assert_eq!(world.calls_sent - calls, 3);
}

#[test]
fn two_configs_that_lost_their_members_are_left_only_by_a_persons_word() {
    let mut world = World::steady(|_| {});
    world.change_spec(|spec| spec.replication.sync_followers = 2);
    world.run_until("next stands", |w| w.status().config.as_ref().unwrap().next.is_some());
    for follower in world.followers() {
        world.wipe(&follower);
    }
    let leader = world.leader();
    world.kill(&leader);
    world.revive(&leader);
    world.run_ms(60_000);
    assert_eq!(world.status().phase, Phase::Promoting);
    assert!(world.status().message.contains("accept the data loss for epoch 2"), "{}", world.status().message);
    world.observed.requests.accept_data_loss = Some(rdb_protocol::Epoch(2));
    world.run_until("open", |w| w.settled() && w.acks() == 2);
    assert!(world.status().last_failover.as_ref().unwrap().lossy);
}

/// As above, with a leader that is open all the time: without its members it can't commit, and nobody else would do better.
#[test]
fn an_open_leader_between_two_configs_that_lost_their_members_waits_for_a_persons_word() {
    let mut world = World::steady(|_| {});
    world.change_spec(|spec| spec.replication.sync_followers = 2);
    world.run_until("next stands", |w| w.status().config.as_ref().unwrap().next.is_some());
    for follower in world.followers() {
        world.wipe(&follower);
    }
    world.run_ms(60_000);
    assert_eq!(world.status().phase, Phase::Reconfiguring);
    assert!(world.status().message.contains("accept the data loss for epoch 1"), "{}", world.status().message);
    world.observed.requests.accept_data_loss = Some(rdb_protocol::Epoch(1));
    world.run_until("open", |w| w.settled() && w.acks() == 2);
    assert!(world.status().last_failover.as_ref().unwrap().lossy);
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

#[test]
fn a_new_cluster_is_not_opened_by_giving_up_the_change_to_the_asked_for_rule() {
    let mut world = World::new(|_| {});
    world.run_until("a change", |w| w.status().config.as_ref().is_some_and(|config| config.next.is_some()));
    let leader = world.leader();
    world.nodes.values_mut().filter(|node| node.name != leader).for_each(|node| node.isolated = true);
    world.run_ms(60_000);
    assert_eq!(world.status().config.as_ref().unwrap().current.version, BOOTSTRAP_VERSION);
    assert!(world.status().message.contains("accept the data loss"), "{}", world.status().message);
    world.nodes.values_mut().for_each(|node| node.isolated = false);
    world.run_until("the asked-for rule holds", |w| w.settled() && w.acks() == 1);
    assert!(!world.has_event("ConfigChangeGivenUp"));
}

#[test]
fn a_leader_that_never_needed_a_lease_is_not_replaced_without_a_persons_word() {
    let mut world = World::steady(|spec| {
        spec.instances = 1;
        spec.replication.mode = Mode::Async;
    });
    let leader = world.leader();
    world.change_spec(|spec| spec.instances = 3);
    world.run_until("a change", |w| w.status().config.as_ref().unwrap().next.is_some());
    world.node(&leader).hidden = true;
    world.node(&leader).isolated = true;
    world.run_ms(60_000);
    assert_eq!((world.leader(), world.status().epoch.0), (leader.clone(), 1));
    assert!(world.status().message.contains("accept the data loss"), "{}", world.status().message);
    world.node(&leader).hidden = false;
    world.node(&leader).isolated = false;
    world.run_until("all are in", |w| w.settled() && w.cohort().len() == 3);
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
