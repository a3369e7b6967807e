//! From row changes back to pages: new base copies, one at a time, while everybody can go on.

mod world;

use std::collections::BTreeSet;

use rdb_control::{Action, Lifecycle, decide};
use rdb_protocol::settings::LogFormat;
use rdb_protocol::status::{NodeState, Problem};
use world::World;

/// A cluster that logs row changes, so that its followers' pages are their own.
fn logical(instances: u32) -> World {
    let mut world = World::steady(|spec| {
        spec.instances = instances;
        spec.replication.log_format = LogFormat::Logical;
    });
    world.run_ms(5000);
    assert_eq!(differing(&world), world.nodes.len() - 1);
    world
}

fn differing(world: &World) -> usize {
    world.nodes.values().filter(|node| node.other_layout).count()
}

#[test]
fn while_row_changes_are_logged_nobody_is_reseeded() {
    let mut world = logical(3);
    let before: Vec<_> = world.nodes.values().map(|node| node.incarnation).collect();
    world.run_ms(60_000);
    assert_eq!(world.nodes.values().map(|node| node.incarnation).collect::<Vec<_>>(), before);
    let leader = world.leader();
    assert!(!world.node(&leader).settings.rows_for_all);
}

#[test]
fn when_pages_come_back_followers_are_reseeded_one_at_a_time() {
    let mut world = logical(3);
    world.change_spec(|spec| spec.replication.log_format = LogFormat::Page);
    let leader = world.leader();
    let mut seen = BTreeSet::new();
    for _ in 0..4000 {
        let left = differing(&world);
        if seen.insert(left) && left == 1 {
            // The second one is asked only when the first is a counted member again.
            let fresh = world.followers().into_iter().find(|name| !world.nodes[name].other_layout).unwrap();
            world.run_until("it follows again", |w| w.settled() && w.cohort().contains(&fresh.to_string()));
        }
        if left > 0 && !world.node(&leader).settings.rows_for_all {
            // Told within a few steps of the change.
            assert_eq!(left, 2, "pages alone, though {left} followers cannot apply them");
        }
        if left == 0 {
            break;
        }
        world.step();
    }
    assert_eq!(seen, BTreeSet::from([0, 1, 2]), "both at once");
    world.run_until("pages alone again", |w| w.settled() && !w.nodes[&leader].settings.rows_for_all);
    assert_eq!((world.cohort().len(), world.status().epoch.0), (3, 1));
    assert_eq!(world.events.iter().filter(|event| event.reason == "Reseeding").count(), 2);
}

#[test]
fn no_follower_is_reseeded_while_another_is_away() {
    let mut world = logical(3);
    let away = world.followers()[0].clone();
    world.kill(&away);
    world.run_ms(1000);
    world.change_spec(|spec| spec.replication.log_format = LogFormat::Page);
    world.run_ms(60_000);
    assert_eq!(differing(&world), 2);
    world.revive(&away);
    world.run_until("both have new copies", |w| w.settled() && differing(w) == 0);
}

#[test]
fn the_pages_of_what_is_being_deleted_do_not_matter() {
    let mut world = logical(4);
    let before = world.observed.instances.clone();
    world.change_spec(|spec| {
        spec.instances = 3;
        spec.replication.log_format = LogFormat::Page;
    });
    world.run_until("pages alone", |w| w.settled() && w.nodes.len() == 3 && !w.status().layouts_differ);
    // Its pod is still there, and reports itself.
    let (gone, mut observed) = before.into_iter().find(|(name, _)| !world.nodes.contains_key(name)).unwrap();
    assert!(observed.status().unwrap().other_layout);
    observed.lifecycle = Lifecycle::Deleting;
    observed.report.as_mut().unwrap().received_at = world.now();
    world.observed.instances.insert(gone, observed);
    let mut swaps = 0;
    for _ in 0..40 {
        for action in decide(&world.cluster, &world.observed, world.now()).actions {
            if let Action::SwapStatus(status) = action {
                assert!(!status.layouts_differ);
                world.observed.status = *status;
                swaps += 1;
            }
        }
    }
    assert!(swaps < 3, "{swaps} swaps");
}

// From here on, the nodes themselves fail when they are given pages that do not fit.

#[test]
fn followers_that_an_operator_knows_nothing_of_are_sent_rows() {
    let mut world = logical(3);
    for follower in world.followers() {
        world.node(&follower).hidden = true;
    }
    world.change_spec(|spec| spec.replication.log_format = LogFormat::Page);
    world.replace_operator();
    world.run_ms(10_000);
    for follower in world.followers() {
        world.node(&follower).hidden = false;
    }
    world.run_until("all have new copies", |w| w.settled() && differing(w) == 0);
}

#[test]
fn an_old_leader_that_returns_is_sent_rows() {
    let mut world = logical(2);
    let old = world.leader();
    world.change_spec(|spec| spec.replication.log_format = LogFormat::Page);
    world.run_ms(1000);
    world.kill(&old);
    world.run_until("another is chosen", |w| w.leader() != old);
    world.run_ms(5000);
    world.revive(&old);
    world.run_until("it follows", |w| w.settled() && w.nodes[&old].other_layout);
}

#[test]
fn a_follower_that_lags_behind_the_row_changes_is_waited_for() {
    let mut world = World::steady(|spec| spec.instances = 4);
    let late = world.followers()[0].clone();
    world.node(&late).starved = true;
    world.run_ms(1000);
    world.change_spec(|spec| spec.replication.log_format = LogFormat::Logical);
    world.run_ms(5000);
    world.change_spec(|spec| spec.replication.log_format = LogFormat::Page);
    world.run_ms(1000);
    for other in world.followers().into_iter().filter(|name| *name != late) {
        world.observed.requests.reseed = Some(other);
        world.run_ms(10_000);
    }
    assert_eq!(differing(&world), 0);
    let leader = world.leader();
    assert!(world.node(&leader).settings.rows_for_all, "nobody knows the pages of {late}");
    world.node(&late).starved = false;
    world.run_until("pages alone again", |w| w.settled() && !w.nodes[&leader].settings.rows_for_all);
    assert_eq!(differing(&world), 0);
}

/// As new instances do whose volumes were made from a snapshot of the time of row changes, long after all others had new copies.
#[test]
fn followers_that_refuse_pages_are_reseeded_though_they_do_not_stream() {
    let mut world = World::steady(|spec| spec.instances = 5);
    let refusing: Vec<_> = world.followers()[..2].to_vec();
    let before: Vec<_> = refusing.iter().map(|name| world.nodes[name].incarnation).collect();
    for name in &refusing {
        let node = world.node(name);
        (node.starved, node.other_layout) = (true, true);
        node.state_override = Some(NodeState::CatchingUp);
        node.problems = vec![Problem { code: "OTHER_LAYOUT".to_owned(), message: "record 7".to_owned() }];
    }
    for left in [1, 0] {
        world.run_until("the next has begun anew", |w| differing(w) == left);
        let fresh =
            refusing.iter().find(|name| !world.nodes[*name].other_layout && world.nodes[*name].starved).unwrap();
        world.run_ms(10_000);
        assert_eq!(differing(&world), left, "one at a time");
        let node = world.node(fresh);
        node.starved = false;
        node.problems.clear();
        let fresh = fresh.to_string();
        world.run_until("it follows again", |w| w.settled() && w.cohort().contains(&fresh));
    }
    world.run_until("pages alone", |w| w.settled() && !w.status().layouts_differ);
    assert!(refusing.iter().zip(before).all(|(name, before)| world.nodes[name].incarnation != before));
    assert_eq!((world.cohort().len(), world.status().epoch.0), (5, 1));
}

#[test]
fn where_only_pages_were_logged_nobody_needs_rows() {
    let mut world = World::steady(|_| {});
    let away = world.followers()[0].clone();
    world.kill(&away);
    world.replace_operator();
    let leader = world.leader();
    for _ in 0..1000 {
        world.step();
        assert!(!world.node(&leader).settings.rows_for_all);
    }
    world.kill(&leader);
    world.revive(&away);
    world.run_until("another leads", |w| w.settled() && w.leader() != leader);
    let next = world.leader();
    assert!(!world.node(&next).settings.rows_for_all);
}
