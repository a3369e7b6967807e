//! Instances: scaling, re-seeding, stopping and waking them, their settings; and what is left alone.

mod world;

use rdb_control::{AdminCall, CallOutcome, Phase};
use rdb_protocol::admin::Reseed;
use rdb_protocol::settings::{LogFormat, Mode};
use rdb_protocol::status::NodeState;
use world::{World, name};

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

/// The resource was put back to when it was of one instance. Whoever looks then sees neither the leader nor what the surplus
/// instance knows: it may have the only copy.
#[test]
fn a_surplus_instance_stays_until_a_leader_is_seen_that_can_do_without_it() {
    let mut world = World::steady(|spec| spec.instances = 1);
    let old = world.status().clone();
    world.change_spec(|spec| spec.instances = 2);
    world.run_until("two", |w| w.settled() && w.cohort().len() == 2);
    world.change_spec(|spec| spec.instances = 1);
    world.observed.status = old;
    let leader = world.leader();
    world.nodes.values_mut().for_each(|node| node.hidden = true);
    world.replace_operator();
    world.run_ms(60_000);
    assert_eq!(world.nodes.len(), 2, "{:#?}", world.events);
    world.wipe(&leader);
    world.nodes.values_mut().for_each(|node| node.hidden = false);
    world.run_ms(60_000);
    assert_eq!(world.nodes.len(), 2, "{:#?}", world.events);
}

/// It said that it would, and was killed before it began.
#[test]
fn a_follower_that_never_began_the_reseed_that_it_was_told_counts_again() {
    let mut world = World::steady(|_| {});
    let follower = world.followers()[0].clone();
    let call =
        AdminCall::Reseed(Reseed { epoch: world.status().epoch, incarnation: world.nodes[&follower].incarnation });
    let (boot, now) = (world.nodes[&follower].boot, world.now());
    let sent = world.observed.note_call(follower.clone(), call, Some(boot), now);
    world.observed.note_outcome(&sent, CallOutcome::Done, now);
    world.run_ms(10_000);
    assert_eq!(world.status().ready_instances, 2, "it is about to");
    world.kill(&follower);
    world.revive(&follower);
    world.run_until("all are ready", |w| w.status().ready_instances == 3);
}

/// A call of an operator that is gone was under way for long.
#[test]
fn settings_that_a_late_call_put_back_are_said_again() {
    let mut world = World::steady(|_| {});
    let leader = world.leader();
    let old = world.node(&leader).settings.clone();
    world.change_spec(|spec| spec.replication.log_format = LogFormat::Mixed);
    let told = |w: &World| w.nodes[&leader].settings.log_format == LogFormat::Mixed;
    world.run_until("it is told", told);
    world.run_ms(1000);
    world.node(&leader).settings = old;
    world.run_until("it is told again", told);
}

/// Put to sleep before it had a first node, and scaled down in its sleep: what nobody has looked into may hold data.
#[test]
fn a_new_cluster_that_was_scaled_down_in_its_sleep_finds_its_first_node() {
    let mut world = World::new(|spec| spec.instances = 5);
    world.run_until("five instances", |w| w.nodes.len() == 5);
    let all: Vec<_> = world.nodes.keys().cloned().collect();
    all.iter().for_each(|name| world.kill(name));
    world.change_spec(|spec| spec.hibernated = true);
    world.run_until("asleep", |w| w.status().phase == Phase::Hibernated);
    assert!(world.status().config.is_none(), "it slept before it had a first node");
    world.change_spec(|spec| {
        spec.hibernated = false;
        spec.instances = 3;
    });
    world.run_until("awake", |w| w.settled() && w.status().ready_instances == 3 && w.status().instances.len() == 3);
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
fn settings_reach_the_leader_and_the_followers() {
    let mut world = World::steady(|_| {});
    let calls = world.calls_sent;
    world.change_spec(|spec| spec.access.transaction_timeout = rdb_control::spec::Span::from_secs(9));
    world.run_ms(1000);
    assert_eq!(world.calls_sent - calls, 3);
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
fn a_steady_cluster_is_left_alone() {
    let mut world = World::steady(|_| {});
    world.run_ms(20_000);
    let (calls, swaps) = (world.calls_sent, world.swaps);
    world.run_ms(600_000);
    let calls = world.calls_sent - calls;
    assert!(calls <= 3 * 600 / 30, "{calls} calls to three instances in ten minutes, though nothing has changed");
    assert!(world.swaps - swaps <= 61, "{} writes in ten minutes", world.swaps - swaps);
}
