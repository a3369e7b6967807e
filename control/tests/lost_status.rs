//! A stored status that is lost, or older than the nodes.

mod world;

use rdb_control::Phase;
use rdb_control::status::Reason;
use rdb_protocol::NodeName;
use rdb_protocol::settings::Mode;
use world::World;

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

/// The old leader is dead; the status does not know the new one.
fn with_a_status_from_before_a_failover() -> (World, NodeName) {
    let mut world = World::steady(|_| {});
    let old = world.status().clone();
    let leader = world.leader();
    world.kill(&leader);
    world.run_until("epoch 2", |w| w.settled() && w.status().epoch.0 == 2);
    world.observed.status = old;
    (world, leader)
}

#[test]
fn a_status_older_than_the_nodes_is_not_acted_on() {
    let (mut world, leader) = with_a_status_from_before_a_failover();
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

/// The same, and the leader that was chosen can't be asked: whoever is left chooses another one, but for an epoch of its own.
fn chosen_in_an_election_that_the_status_went_back_to(operator: impl FnOnce(&mut World)) {
    let mut world = World::steady(|spec| spec.replication.mode = Mode::Async);
    let old_leader = world.leader();
    world.kill(&old_leader);
    world.run_until("rule 7", |w| w.status().epoch.0 == 2 && !w.status().has_leader());
    let old = world.status().clone();
    world.run_until("epoch 2", |w| w.settled() && w.status().epoch.0 == 2);
    let chosen = world.leader();
    world.revive(&old_leader);
    world.nodes.values_mut().filter(|node| node.name != old_leader).for_each(|node| node.frozen = true);
    world.observed.status = old;
    for name in world.followers() {
        world.observed.instances.get_mut(&name).unwrap().report = None;
    }
    operator(&mut world);
    world.run_until("another leader", |w| w.status().has_leader() && w.leader() != chosen);
    assert!(world.status().epoch.0 > 2, "{:?}", world.status());
}

#[test]
fn an_election_that_has_chosen_and_forgot_it_is_begun_anew() {
    chosen_in_an_election_that_the_status_went_back_to(|_| {});
}

#[test]
fn an_operator_begins_the_election_of_another_one_anew() {
    chosen_in_an_election_that_the_status_went_back_to(World::replace_operator);
}

/// A leader may have settled a config and acknowledged by the one before: it alone can be the one that knows.
#[test]
fn a_rebuilt_status_needs_the_word_of_every_member_until_a_leader_is_open() {
    let mut world = World::steady(|_| {});
    let leader = world.leader();
    world.observed.status = Default::default();
    world.run_until("it is rebuilt", |w| w.status().epoch.0 > 1000 && !w.status().has_leader());
    world.node(&leader).frozen = true;
    world.run_ms(60_000);
    assert!(!world.status().has_leader(), "{:?}", world.status().leader);
    assert!(world.status().message.contains(&format!("1 more of {leader} must")), "{}", world.status().message);
    world.node(&leader).frozen = false;
    world.run_until("it is chosen", |w| w.status().has_leader());
    assert_eq!(world.leader(), leader);
    // It dies with what it alone has.
    let epoch = world.status().epoch;
    world.kill(&leader);
    world.run_ms(60_000);
    assert_eq!((world.leader(), world.status().epoch), (leader.clone(), epoch), "{:#?}", world.events);
    world.revive(&leader);
    world.run_until("a leader is open", World::settled);
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

#[test]
fn a_lost_status_starts_the_instances_whose_word_it_needs() {
    let (mut world, _) = with_a_status_from_before_a_failover();
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
