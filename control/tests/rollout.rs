//! Rolling updates and drained machines.

mod world;

use rdb_control::Phase;
use rdb_protocol::NodeName;
use rdb_protocol::settings::{Mode, SyncSet, WhenUnavailable};
use world::{World, name};

fn outdate_all(world: &mut World, why: &str) {
    for node in world.nodes.values_mut() {
        node.outdated = Some(why.to_owned());
    }
}

fn up_to_date(world: &World) -> bool {
    let renewed = world.nodes.values().all(|node| node.alive && node.outdated.is_none());
    renewed && world.settled() && world.status().rollout.is_none()
}

/// In which order the instances were renewed.
fn order(world: &World) -> Vec<NodeName> {
    let mut order = world.recreations.clone();
    order.dedup();
    order
}

fn all_ready(world: &World) -> bool {
    world.settled() && world.status().ready_instances == world.cluster.instances()
}

/// Runs to the end of the update and checks on the way that no two instances are down at a time.
fn run_one_at_a_time(world: &mut World) {
    for _ in 0..6000 {
        if up_to_date(world) {
            return;
        }
        world.step();
        let down = world.nodes.values().filter(|node| !node.alive || node.ends_at_ms.is_some()).count();
        assert!(down <= 1, "{down} are down or ending: {:#?}", world.events);
    }
    panic!("no end: {:#?}\n{:#?}", world.status(), world.events);
}

#[test]
fn followers_are_renewed_one_by_one_and_the_leader_last_by_switchover() {
    let mut world = World::steady(|_| {});
    let (old, followers) = (world.leader(), world.followers());
    outdate_all(&mut world, "image");
    run_one_at_a_time(&mut world);
    assert_eq!(order(&world), [followers[0].clone(), followers[1].clone(), old.clone()]);
    assert_eq!(world.status().epoch.0, 2, "one switchover");
    assert_ne!(world.leader(), old);
    assert!(world.status().last_failover.is_none(), "no failover");
    world.run_until("all are ready", all_ready);
    assert_eq!(world.cohort().len(), 3);
}

#[test]
fn every_mode_and_size_is_renewed_to_the_end() {
    for mode in [Mode::Async, Mode::SemiSync, Mode::Sync] {
        for instances in 1..=5 {
            for when in [WhenUnavailable::Block, WhenUnavailable::Degrade] {
                let mut world = World::steady(|spec| {
                    spec.instances = instances;
                    spec.replication.mode = mode;
                    spec.replication.when_unavailable = when;
                });
                outdate_all(&mut world, "image");
                run_one_at_a_time(&mut world);
                world.run_until("all are ready", all_ready);
                assert_eq!(world.cohort().len(), instances as usize, "{mode:?} {instances} {when:?}");
            }
        }
    }
}

#[test]
fn the_next_follower_waits_until_the_one_before_streams_again() {
    // Of five with one copy asked for, two could be done without.
    let mut world = World::steady(|spec| spec.instances = 5);
    let first = world.followers()[0].clone();
    outdate_all(&mut world, "image");
    world.run_until("it is being renewed", |w| !w.nodes[&first].alive);
    world.node(&first).starved = true;
    world.run_ms(60_000);
    assert_eq!(order(&world), std::slice::from_ref(&first));
    assert!(world.status().message.contains(first.as_str()), "{}", world.status().message);
    assert!(world.status().condition("Reconciling").unwrap().status);
    assert_eq!(world.status().condition("Reconciling").unwrap().reason, "RollingUpdate");
    world.node(&first).starved = false;
    run_one_at_a_time(&mut world);
}

/// Somebody deletes a follower's pod, and an update begins while its process still serves.
#[test]
fn an_instance_that_is_ending_counts_as_one_that_is_down() {
    for mode in [Mode::Async, Mode::SemiSync, Mode::Sync] {
        let mut world = World::steady(|spec| spec.replication.mode = mode);
        let followers = world.followers();
        world.end(&followers[1]);
        let leader = world.leader();
        world.node(&followers[0]).outdated = Some("image".to_owned());
        world.node(&leader).outdated = Some("image".to_owned());
        run_one_at_a_time(&mut world);
        assert_eq!(order(&world), [followers[0].clone(), leader]);
    }
}

/// A driver may have nothing to say of the old process once it was told to end.
#[test]
fn an_instance_is_renewed_when_its_next_process_has_caught_up() {
    let mut world = World::steady(|_| {});
    world.ending_is_up_to_date = true;
    let (old, followers) = (world.leader(), world.followers());
    outdate_all(&mut world, "image");
    run_one_at_a_time(&mut world);
    assert_eq!(order(&world), [followers[0].clone(), followers[1].clone(), old]);
}

#[test]
fn an_update_whose_follower_does_not_catch_up_stops_and_says_so() {
    let mut world = World::steady(|spec| spec.seeding.catch_up_timeout = rdb_control::spec::Span::from_secs(60));
    let first = world.followers()[0].clone();
    outdate_all(&mut world, "image");
    world.run_until("it is being renewed", |w| !w.nodes[&first].alive);
    world.node(&first).starved = true;
    world.run_until("stopped", |w| w.has_event("RolloutStopped"));
    world.run_ms(300_000);
    assert_eq!(order(&world), std::slice::from_ref(&first), "nothing else was touched");
    assert_eq!(world.events.iter().filter(|event| event.reason == "RolloutStopped").count(), 1);
    let stalled = world.status().condition("Stalled").unwrap();
    assert!(stalled.status && stalled.reason == "RolloutStopped");
    assert!(stalled.message.contains(first.as_str()) && stalled.message.contains("catchUpTimeout"));
    assert!(!world.status().condition("Reconciling").unwrap().status);
    assert_eq!(world.status().phase, Phase::Steady, "it serves");
    // The spec is put right: the follower is outdated once more, and the update begins again with it.
    world.node(&first).starved = false;
    world.node(&first).outdated = Some("image again".to_owned());
    run_one_at_a_time(&mut world);
    assert!(!world.status().condition("Stalled").unwrap().status);
}

/// Its process was told to end, and does not: a volume that can't be let go of, a machine that is gone.
#[test]
fn an_update_whose_follower_does_not_end_stops_and_says_so() {
    let mut world = World::steady(|spec| spec.seeding.catch_up_timeout = rdb_control::spec::Span::from_secs(60));
    let followers = world.followers();
    outdate_all(&mut world, "image");
    world.run_until("it was told to end", |w| w.nodes[&followers[0]].ends_at_ms.is_some());
    world.node(&followers[0]).ends_at_ms = Some(u64::MAX);
    world.node(&followers[0]).recreated_at_ms = Some(u64::MAX);
    world.kill(&followers[1]);
    world.run_ms(30_000);
    assert!(!world.has_event("InstanceRenewalCalledOff"), "it is under way: {:#?}", world.events);
    world.run_until("stopped", |w| w.has_event("RolloutStopped"));
    world.run_ms(60_000);
    assert_eq!(order(&world), std::slice::from_ref(&followers[0]), "nothing else was touched");
    let stalled = world.status().condition("Stalled").unwrap();
    assert!(stalled.status && stalled.reason == "RolloutStopped" && stalled.message.contains(followers[0].as_str()));
    // It ends at last.
    let now = world.now_ms;
    world.node(&followers[0]).ends_at_ms = Some(now);
    world.node(&followers[0]).recreated_at_ms = Some(now + 1000);
    world.run_until("up to date", up_to_date);
}

#[test]
fn a_follower_that_is_down_is_renewed_first_and_holds_up_the_others() {
    let mut world = World::steady(|_| {});
    let followers = world.followers();
    world.kill(&followers[1]);
    outdate_all(&mut world, "image");
    run_one_at_a_time(&mut world);
    assert_eq!(order(&world)[0], followers[1]);

    // One that is up to date but away holds the update up, even if writes could go on without the next one too.
    let mut world = World::steady(|spec| spec.instances = 5);
    let followers = world.followers();
    world.kill(&followers[1]);
    let leader = world.leader();
    world.node(&followers[0]).outdated = Some("image".to_owned());
    world.node(&leader).outdated = Some("image".to_owned());
    world.run_ms(60_000);
    assert!(world.recreations.is_empty());
    assert!(world.status().message.contains(followers[1].as_str()), "{}", world.status().message);
    world.revive(&followers[1]);
    run_one_at_a_time(&mut world);
}

#[test]
fn degrading_lets_go_of_a_copy_before_its_instance_is_ended() {
    let mut world = World::steady(|spec| {
        spec.replication.mode = Mode::Sync;
        spec.replication.when_unavailable = WhenUnavailable::Degrade;
    });
    let first = world.followers()[0].clone();
    outdate_all(&mut world, "image");
    world.run_until("it is being renewed", |w| !w.nodes[&first].alive);
    assert!(!world.cohort().contains(&first.to_string()), "writes went on without its copy");
    run_one_at_a_time(&mut world);
    world.run_until("all copies count again", |w| w.settled() && (w.cohort().len(), w.acks()) == (3, 2));
}

#[test]
fn a_named_follower_is_replaced_before_it_is_ended() {
    let mut world = World::steady(|spec| spec.replication.sync_set = SyncSet::One);
    let named = world.followers().into_iter().find(|f| world.cohort().contains(&f.to_string())).unwrap();
    world.node(&named).outdated = Some("image".to_owned());
    world.run_until("it is being renewed", |w| !w.nodes[&named].alive);
    assert!(!world.cohort().contains(&named.to_string()));
    run_one_at_a_time(&mut world);
}

#[test]
fn an_instance_that_cannot_start_is_renewed_at_once_even_without_a_leader() {
    let mut world = World::new(|_| {});
    world.run_ms(100);
    for name in ["db-1", "db-2", "db-3"].map(name) {
        world.kill(&name);
        world.node(&name).stuck = Some("ErrImagePull: no such image".to_owned());
        world.observed.instances.get_mut(&name).unwrap().report = None;
    }
    world.run_ms(10_000);
    assert!(world.recreations.is_empty(), "nothing has changed, so nothing would be better");
    assert!(world.status().leader.is_none());
    for node in world.nodes.values_mut() {
        node.outdated = Some("image".to_owned());
    }
    world.run_ms(50);
    for node in world.nodes.values_mut() {
        node.stuck = None;
    }
    world.run_until("bootstrapped", all_ready);
}

#[test]
fn what_keeps_an_instance_from_starting_is_told() {
    let mut world = World::steady(|_| {});
    let follower = world.followers()[0].clone();
    world.kill(&follower);
    world.node(&follower).stuck = Some("ImagePullBackOff".to_owned());
    world.run_ms(10_000);
    let degraded = world.status().condition("Degraded").unwrap();
    assert!(degraded.message.contains("ImagePullBackOff"), "{}", degraded.message);
}

#[test]
fn a_leader_whose_machine_is_drained_is_switched_over_with_the_reason() {
    let mut world = World::steady(|_| {});
    let (old, followers) = (world.leader(), world.followers());
    world.node(&old).draining = true;
    world.node(&followers[0]).draining = true;
    world.run_until("another leads", |w| w.settled() && w.leader() != old);
    assert_eq!(world.leader(), followers[1], "one that stays");
    let event = world.events.iter().find(|event| event.reason == "SwitchoverStarted").unwrap();
    assert!(event.evidence.contains(old.as_str()), "{}", event.evidence);
    world.run_ms(30_000);
    assert_eq!(world.status().epoch.0, 2);
    assert!(world.recreations.is_empty(), "who evicts them ends them");
}

#[test]
fn a_drained_leader_without_a_successor_stays_and_says_so() {
    let mut world = World::steady(|_| {});
    let (old, followers) = (world.leader(), world.followers());
    for follower in &followers {
        world.kill(follower);
    }
    world.node(&old).draining = true;
    world.run_ms(10_000);
    assert_eq!(world.status().epoch.0, 1);
    assert!(world.status().message.contains("no follower can take over"), "{}", world.status().message);
    world.revive(&followers[1]);
    world.run_until("it leads", |w| w.settled() && w.leader() == followers[1]);
}

#[test]
fn a_switchover_that_was_called_off_is_not_tried_again_at_once() {
    let mut world = World::steady(|_| {});
    let (old, followers) = (world.leader(), world.followers());
    world.node(&followers[0]).draining = true;
    world.node(&old).draining = true;
    world.run_until("writes are being stopped", |w| w.status().phase == Phase::SwitchingOver);
    world.kill(&followers[1]);
    world.run_until("called off", |w| w.has_event("SwitchoverCalledOff"));
    let at = world.now_ms;
    world.revive(&followers[1]);
    world.run_until("it leads", |w| w.settled() && w.leader() == followers[1]);
    assert!(world.now_ms - at >= 30_000, "{} ms", world.now_ms - at);
}

#[test]
fn another_operator_goes_on_with_the_same_instance() {
    let mut world = World::steady(|_| {});
    let first = world.followers()[0].clone();
    outdate_all(&mut world, "image");
    world.run_until("it is being renewed", |w| !w.nodes[&first].alive);
    world.replace_operator();
    run_one_at_a_time(&mut world);
    assert_eq!(world.status().epoch.0, 2);
}

#[test]
fn a_leader_that_dies_in_the_middle_of_an_update_is_replaced_and_the_update_ends() {
    for mode in [Mode::SemiSync, Mode::Sync] {
        let mut world = World::steady(|spec| spec.replication.mode = mode);
        world.restart_after_ms = Some(1000);
        outdate_all(&mut world, "image");
        world.run_until("a step is under way", |w| w.status().rollout.is_some());
        let leader = world.leader();
        world.kill(&leader);
        world.run_until("the update ends", |w| up_to_date(w) && all_ready(w));
    }
}

#[test]
fn nothing_is_renewed_while_paused() {
    let mut world = World::steady(|_| {});
    world.change_spec(|spec| spec.paused = true);
    outdate_all(&mut world, "image");
    world.run_ms(60_000);
    assert!(world.recreations.is_empty());
    world.change_spec(|spec| spec.paused = false);
    run_one_at_a_time(&mut world);
}

#[test]
fn snapshots_are_told_and_hold_the_log() {
    let mut world = World::steady(|_| {});
    assert!(world.status().condition("SnapshotsHealthy").is_none(), "none are asked for");
    world.observed.snapshots = Some(rdb_control::SnapshotsObservation {
        healthy: false,
        reason: "ClassMissing".to_owned(),
        message: "there is no such class".to_owned(),
        retain_from: Some(rdb_protocol::Index(17)),
    });
    let calls = world.calls_sent;
    world.run_ms(2000);
    let condition = world.status().condition("SnapshotsHealthy").unwrap();
    assert_eq!((condition.status, condition.reason.as_str()), (false, "ClassMissing"));
    assert_eq!(world.calls_sent - calls, 3, "every node hears from where to keep the log");
}
