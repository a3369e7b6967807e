//! Acknowledged records that may be lost: who permits it, who is waited for, and what the receipt says.

mod world;

use rdb_control::Phase;
use rdb_control::spec::DataLoss;
use rdb_protocol::settings::Mode;
use rdb_protocol::status::DivergenceReport;
use rdb_protocol::{Index, NodeName};
use world::World;

/// An async cluster whose leader has acknowledged records that nobody else has, and its name.
fn async_leader_ahead() -> (World, NodeName) {
    let mut world = World::steady(|spec| spec.replication.mode = Mode::Async);
    for follower in world.followers() {
        world.node(&follower).starved = true;
    }
    world.run_ms(1000);
    let leader = world.leader();
    (world, leader)
}

/// The followers lost their data while a config change was under way.
fn two_configs_without_their_members() -> World {
    let mut world = World::steady(|_| {});
    world.change_spec(|spec| spec.replication.sync_followers = 2);
    world.run_until("next stands", |w| w.status().config.as_ref().unwrap().next.is_some());
    for follower in world.followers() {
        world.wipe(&follower);
    }
    world
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

/// The old leader's log begins behind the place where it and the promoted one part: it can't know where that was.
#[test]
fn a_receipt_is_exact_though_the_old_leader_dropped_the_place_where_the_logs_part() {
    let (mut world, old) = async_leader_ahead();
    world.kill(&old);
    let length = world.node(&old).log.len();
    world.node(&old).dropped = length - 2;
    world.nodes.values_mut().for_each(|node| node.starved = false);
    world.run_until("another leader is open", |w| w.settled() && w.leader() != old);
    world.revive(&old);
    world.run_until("exact", |w| w.status().last_failover.as_ref().unwrap().exact);
    let exact = world.status().last_failover.clone().unwrap();
    assert_eq!(exact.records_at_risk, world.checker.lost.len() as u64, "{exact:?}");
}

#[test]
fn async_loses_only_with_a_receipt_that_becomes_exact_when_the_old_leader_is_back() {
    let (mut world, old) = async_leader_ahead();
    world.kill(&old);
    world.nodes.values_mut().for_each(|node| node.starved = false);
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

/// It was chosen once more and died before it opened, so its log ends in a later epoch than the one that it led.
#[test]
fn a_receipt_counts_what_a_leader_lost_that_was_chosen_again_in_between() {
    let (mut world, old) = async_leader_ahead();
    world.kill(&old);
    world.revive(&old);
    world.run_until("it leads again", |w| w.nodes[&old].is_leader());
    assert!(world.status().opened.unwrap().epoch < world.status().epoch);
    world.kill(&old);
    world.nodes.values_mut().for_each(|node| node.starved = false);
    world.run_until("another leader is open", |w| w.settled() && w.leader() != old);
    world.revive(&old);
    world.run_until("exact", |w| w.status().last_failover.as_ref().unwrap().exact);
    let exact = world.status().last_failover.clone().unwrap();
    assert!(exact.lossy && exact.records_at_risk >= world.checker.lost.len() as u64, "{exact:?}");
    assert_ne!(world.checker.lost.len(), 0);
}

/// It was cut once by a leader that was lost as well, and then by the one that stayed.
#[test]
fn a_receipt_counts_a_tail_that_was_cut_in_two_steps() {
    let (mut world, old) = async_leader_ahead();
    world.kill(&old);
    world.nodes.values_mut().for_each(|node| node.starved = false);
    world.run_until("another leader is open", |w| w.settled() && w.leader() != old);
    let now = world.now_ms;
    let node = world.node(&old);
    let to = node.report(now).flushed;
    node.log.pop();
    let first = DivergenceReport {
        archive: "first".to_owned(),
        incarnation: node.incarnation,
        acknowledged: Index(node.acknowledged as u64),
        from: node.report(now).flushed,
        to,
        complete: true,
    };
    assert_eq!(node.acknowledged as u64, to.index.0, "it acknowledged all of it");
    node.divergences.push(first);
    node.acknowledged -= 1;
    node.committed = node.committed.min(node.log.len());
    world.revive(&old);
    world.run_until("exact", |w| w.status().last_failover.as_ref().unwrap().exact);
    let exact = world.status().last_failover.clone().unwrap();
    assert_eq!(world.nodes[&old].divergences.len(), 2);
    assert_eq!(exact.records_at_risk, world.checker.lost.len() as u64, "{exact:?}");
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

/// Scaled down to the leader and one follower, which is away: those that are to go cannot end the leader's lease, which that
/// follower may renew.
#[test]
fn a_leader_whose_lease_no_recruit_can_end_is_not_replaced_without_a_persons_word() {
    let mut world = World::steady(|spec| {
        spec.instances = 5;
        spec.replication.mode = Mode::Async;
    });
    let leader = world.leader();
    world.change_spec(|spec| spec.instances = 2);
    let next = |w: &World| w.status().config.as_ref().and_then(|pair| pair.next.clone());
    world.run_until("a change", |w| next(w).is_some());
    let stays = next(&world).unwrap().cohort.into_iter().map(|m| m.name).find(|name| *name != leader).unwrap();
    world.node(&leader).hidden = true;
    world.node(&leader).isolated = true;
    world.kill(&stays);
    world.run_ms(60_000);
    assert_eq!((world.leader(), world.status().epoch.0), (leader.clone(), 1));
    assert!(world.status().message.contains("accept the data loss"), "{}", world.status().message);
    world.revive(&stays);
    world.run_until("its answer is enough", |w| w.leader() != leader && w.nodes[&w.leader()].opened);
}

#[test]
fn a_loss_is_not_forgotten_when_the_leader_that_it_made_dies_before_opening() {
    let (mut world, old) = async_leader_ahead();
    world.exit_proof = false;
    world.kill(&old);
    world.run_until("chosen and promoted", |w| w.leader() != old && w.nodes[&w.leader()].is_leader());
    let chosen = world.leader();
    world.kill(&chosen);
    world.revive(&chosen);
    world.nodes.values_mut().for_each(|node| node.starved = false);
    world.run_until("open by the leader shortcut", |w| w.settled() && w.status().epoch.0 >= 3);
    let receipt = world.status().last_failover.clone().unwrap();
    assert!(receipt.lossy && receipt.records_at_risk >= world.checker.lost.len() as u64, "{receipt:?}");
    assert_eq!(world.status().loss_epoch, Some(world.status().epoch));
}

#[test]
fn two_configs_that_lost_their_members_are_left_only_by_a_persons_word() {
    let mut world = two_configs_without_their_members();
    let leader = world.leader();
    world.kill(&leader);
    world.revive(&leader);
    goes_on_by_a_persons_word(world, Phase::Promoting, 2);
}

/// It waits in this phase until a person accepts the loss for this epoch.
fn goes_on_by_a_persons_word(mut world: World, phase: Phase, epoch: u64) {
    world.run_ms(60_000);
    assert_eq!(world.status().phase, phase);
    let asks = format!("accept the data loss for epoch {epoch}");
    assert!(world.status().message.contains(&asks), "{}", world.status().message);
    world.observed.requests.accept_data_loss = Some(rdb_protocol::Epoch(epoch));
    world.run_until("open", |w| w.settled() && w.acks() == 2);
    assert!(world.status().last_failover.as_ref().unwrap().lossy);
}

/// As above, with a leader that is open all the time: without its members it can't commit, and nobody else would do better.
#[test]
fn an_open_leader_between_two_configs_that_lost_their_members_waits_for_a_persons_word() {
    goes_on_by_a_persons_word(two_configs_without_their_members(), Phase::Reconfiguring, 1);
}

/// Where losses are permitted, nobody is asked about copies that are gone.
#[test]
fn two_configs_that_lost_their_members_are_left_by_the_specs_permission() {
    let mut world = two_configs_without_their_members();
    world.change_spec(|spec| spec.failover.data_loss = Some(DataLoss::Allow));
    world.run_until("open", |w| w.settled() && w.acks() == 2);
    assert!(world.status().last_failover.as_ref().unwrap().lossy);
}
