//! Planned changes of the leader.

mod world;

use rdb_control::Phase;
use rdb_protocol::settings::Mode;
use rdb_protocol::status::NodeState;
use world::{World, name};

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
