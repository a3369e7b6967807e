//! A leader that opens when a later one has opened already: what the checker forgives it, and what it does not.

mod world;

use rdb_control::ClusterStatus;
use rdb_protocol::settings::Mode;
use rdb_protocol::{Epoch, Incarnation};
use world::checker::Checker;
use world::node::{Node, Record};
use world::{World, name};

/// Chosen for epoch 2 without any loss, and frozen before it opens; the next is chosen by permission and opens.
fn passed_over() -> (World, rdb_protocol::NodeName) {
    let mut world = World::steady(|spec| spec.replication.mode = Mode::Async);
    let frozen = world.followers()[0].clone();
    world.observed.requests.switchover = Some(frozen.clone());
    world.run_until("it is promoted", |w| w.nodes[&frozen].is_leader());
    assert!(!world.nodes[&frozen].opened && world.status().loss_epoch.is_none());
    world.node(&frozen).frozen = true;
    world.run_until("another one is open", |w| w.settled() && w.leader() != frozen);
    world.run_ms(1000);
    assert_eq!(world.status().loss_epoch, Some(world.status().epoch));
    (world, frozen)
}

#[test]
fn a_frozen_leader_that_was_passed_over_by_permission_may_open_late() {
    let (mut world, frozen) = passed_over();
    world.node(&frozen).frozen = false;
    world.step();
    assert!(world.nodes[&frozen].opened, "alone, without a lease");
    world.run_until("it follows", |w| w.settled() && !w.nodes[&frozen].is_leader());
    assert_eq!(world.checker.lost.len(), 0);
}

fn leader(led: u64, log: &[Record]) -> Node {
    let mut node = Node::empty(name("db-1"), Incarnation(1), Incarnation(2), 0);
    (node.led, node.log) = (Epoch(led), log.to_vec());
    node
}

const EARLIER: Record = (Epoch(1), 1);
const LATER: Record = (Epoch(3), 2);

fn checker(lossy: Option<u64>) -> Checker {
    let mut checker = Checker::default();
    let status = ClusterStatus { loss_epoch: lossy.map(Epoch), epoch: Epoch(3), ..ClusterStatus::default() };
    checker.swap(&status.clone(), &status);
    checker.acknowledged(&[EARLIER, LATER]);
    checker
}

#[test]
fn what_was_acknowledged_since_a_permitted_loss_is_not_asked_of_it() {
    checker(Some(3)).opened(&leader(2, &[EARLIER]), false);
}

#[test]
#[should_panic(expected = "opened epoch 2 without")]
fn without_a_permitted_loss_nobody_opens_late() {
    checker(None).opened(&leader(2, &[EARLIER]), false);
}

#[test]
#[should_panic(expected = "opened epoch 2 without")]
fn a_loss_before_its_own_epoch_excuses_nothing() {
    checker(Some(2)).opened(&leader(2, &[EARLIER]), false);
}

#[test]
#[should_panic(expected = "opened epoch 2 without")]
fn what_was_acknowledged_before_the_loss_is_asked_of_it() {
    checker(Some(3)).opened(&leader(2, &[]), false);
}

/// What it opened without stays due from those who lead by the rules.
#[test]
#[should_panic(expected = "opened epoch 4 without")]
fn later_leaders_are_asked_for_it_still() {
    let mut checker = checker(Some(3));
    checker.opened(&leader(2, &[EARLIER]), false);
    checker.opened(&leader(4, &[EARLIER]), false);
}
