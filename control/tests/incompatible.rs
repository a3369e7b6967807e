//! A chosen leader whose SQLite does otherwise what its log says: it never opens by itself.

mod world;

use rdb_control::Phase;
use rdb_protocol::NodeName;
use rdb_protocol::settings::{LogFormat, Mode};
use world::World;

/// The default of `failover.progressTimeout` and `failover.cooldown`.
const PATIENCE_MS: u64 = 10_000;

fn statements(instances: u32) -> World {
    World::steady(|spec| {
        spec.instances = instances;
        spec.replication.log_format = LogFormat::Statement;
    })
}

/// The follower that is elected when the leader dies.
fn successor(world: &mut World) -> NodeName {
    world.run_until("a forecast", |w| w.status().forecast.as_ref().is_some_and(|f| f.successor.is_some()));
    world.status().forecast.as_ref().unwrap().successor.clone().unwrap()
}

/// When each epoch was begun, while the world runs for so long.
fn epochs(world: &mut World, ms: u64) -> Vec<u64> {
    let mut begun = Vec::new();
    let (end, mut epoch) = (world.now_ms + ms, world.status().epoch);
    while world.now_ms < end {
        world.step();
        if world.status().epoch != epoch {
            epoch = world.status().epoch;
            begun.push(world.now_ms);
        }
    }
    begun
}

#[test]
fn a_chosen_leader_whose_sqlite_does_otherwise_is_replaced_by_one_that_has_all_records_too() {
    for spare in [false, true] {
        let mut world = statements(3);
        let (old, next) = (world.leader(), successor(&mut world));
        world.node(&next).incompatible = true;
        world.kill(&old);
        world.run_until("it is chosen", |w| w.status().phase == Phase::Promoting && w.leader() == next);
        if spare {
            // The others are enough without it.
            world.revive(&old);
        }
        world.run_ms(PATIENCE_MS - 1000);
        assert_eq!((world.leader(), world.status().epoch.0), (next.clone(), 2), "it may still be running statements");
        assert!(world.status().message.contains("3.53 said otherwise"), "{}", world.status().message);
        world.run_until("another one leads", |w| w.settled() && w.leader() != next);
        assert_eq!(world.status().epoch.0, 3);
        let receipt = world.status().last_failover.clone().unwrap();
        assert_eq!((receipt.from, receipt.records_at_risk, receipt.lossy), (Some(old.clone()), 0, false));
        world.revive(&old);
        world.run_ms(10 * PATIENCE_MS);
        assert_eq!(world.status().epoch.0, 3);
        assert!(world.cohort().contains(&next.to_string()), "it follows, and counts");
    }
}

#[test]
fn one_that_refuses_as_a_follower_is_taken_only_after_one_that_does_not() {
    let mut world = statements(5);
    let (old, next) = (world.leader(), successor(&mut world));
    let refusing = world.followers().into_iter().filter(|name| *name != next).take(2).collect::<Vec<_>>();
    for name in refusing.iter().chain([&next]) {
        world.node(name).incompatible = true;
    }
    world.kill(&old);
    world.run_until("another one leads", |w| w.settled() && w.leader() != old && w.leader() != next);
    assert!(!refusing.contains(&world.leader()));
    assert_eq!(world.status().epoch.0, 3);
}

/// Two refuse, the old leader is back, and of the others that are enough one of the two comes first by its name.
#[test]
fn of_five_instances_one_that_refuses_nothing_is_next() {
    let mut world = statements(5);
    let last = world.followers().pop().unwrap();
    world.observed.requests.switchover = Some(last.clone());
    world.run_until("it leads", |w| w.settled() && w.leader() == last && w.status().ready_instances == 5);
    let (old, next, epoch) = (world.leader(), successor(&mut world), world.status().epoch.0);
    let second = world.followers().into_iter().find(|name| *name != next).unwrap();
    world.node(&next).incompatible = true;
    world.node(&second).incompatible = true;
    world.kill(&old);
    world.run_until("it is chosen", |w| w.status().phase == Phase::Promoting && w.leader() == next);
    world.revive(&old);
    world.run_until("another one leads", |w| w.settled() && w.leader() != next);
    assert_eq!(world.status().epoch.0, epoch + 2, "{}", world.leader());
}

#[test]
fn the_switch_to_another_version_ends_at_a_leader_that_can_go_on() {
    let mut world = statements(3);
    let next = world.followers()[0].clone();
    world.node(&next).incompatible = true;
    world.observed.requests.switchover = Some(next.clone());
    world.run_until("it is chosen", |w| w.status().phase == Phase::Promoting && w.leader() == next);
    let begun = world.now_ms;
    world.run_until("another one leads", |w| w.settled() && w.leader() != next);
    assert!((PATIENCE_MS..PATIENCE_MS + 2000).contains(&(world.now_ms - begun)), "{} ms", world.now_ms - begun);
    assert_eq!(world.status().epoch.0, 3);
}

#[test]
fn a_leader_that_only_had_refused_statements_as_a_follower_opens() {
    let mut world = statements(3);
    let (old, next) = (world.leader(), successor(&mut world));
    world.node(&next).refuses_statements = true;
    world.kill(&old);
    world.run_until("it is open", |w| w.settled() && w.leader() == next);
    assert_eq!(world.status().epoch.0, 2);
}

#[test]
fn where_it_alone_has_all_records_it_stays_and_says_what_to_do() {
    let mut world = World::steady(|spec| {
        spec.replication.mode = Mode::Async;
        spec.failover.data_loss = Some(rdb_control::spec::DataLoss::Refuse);
        spec.replication.log_format = LogFormat::Statement;
    });
    let next = world.followers()[0].clone();
    world.node(&next).incompatible = true;
    world.observed.requests.switchover = Some(next.clone());
    world.run_until("it is chosen", |w| w.status().phase == Phase::Promoting && w.leader() == next);
    let epoch = world.status().epoch;
    let others = world.nodes.keys().filter(|name| **name != next).cloned().collect::<Vec<_>>();
    others.iter().for_each(|name| world.node(name).frozen = true);
    world.run_ms(10 * PATIENCE_MS);
    assert_eq!((world.leader(), world.status().epoch), (next.clone(), epoch), "{:#?}", world.status());
    let message = world.status().message.clone();
    assert!(message.contains(next.as_str()) && message.contains("bring another instance back"), "{message}");
    assert!(message.contains("3.53 said otherwise"), "the node's own words: {message}");
    world.node(&next).incompatible = false;
    world.run_until("it was started with the leader's version", |w| {
        w.status().opened.is_some_and(|opened| opened.epoch == epoch)
    });
}

#[test]
fn leaders_that_all_do_otherwise_take_turns_no_faster_than_the_cooldown_and_ever_more_slowly() {
    for cooldown_ms in [0, 60_000] {
        let mut world = statements(3);
        world.change_spec(|spec| spec.failover.cooldown = rdb_control::spec::Span::from_secs(cooldown_ms / 1000));
        let nodes: Vec<NodeName> = world.nodes.keys().cloned().collect();
        nodes.iter().for_each(|name| world.node(name).incompatible = true);
        let old = world.leader();
        world.kill(&old);
        world.revive(&old);
        let begun = epochs(&mut world, 3_600_000);
        let pauses: Vec<u64> = begun.windows(2).map(|two| two[1] - two[0]).collect();
        assert!(pauses.len() > 3, "{pauses:?}");
        assert!((PATIENCE_MS..PATIENCE_MS + 3000).contains(&pauses[0]), "{pauses:?}");
        for (turn, pause) in pauses.iter().enumerate() {
            let doubled = PATIENCE_MS << turn.min(6);
            assert!(*pause >= doubled && (turn == 0 || *pause >= cooldown_ms), "{pauses:?}");
        }
    }
}
