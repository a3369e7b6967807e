//! What a local cluster does.

use std::time::{Duration, Instant};

use rdb_cli::local::control_socket::Report;
use rdb_control::Phase;
use rdb_protocol::status::{NodeState, NodeStatus};

use crate::cluster::{Cluster, runs};

type Scenario = (&'static str, fn());

pub(crate) const ALL: &[Scenario] = &[
    ("a_new_cluster_becomes_ready_with_its_rule", a_new_cluster_becomes_ready_with_its_rule),
    (
        "a_killed_leader_is_replaced_within_a_second_and_rejoins",
        a_killed_leader_is_replaced_within_a_second_and_rejoins,
    ),
    (
        "a_frozen_leader_is_replaced_after_the_detection_timeout",
        a_frozen_leader_is_replaced_after_the_detection_timeout,
    ),
    ("without_restart_a_dead_node_stays_dead_until_started", without_restart_a_dead_node_stays_dead_until_started),
    ("a_switchover_moves_the_leader_and_refuses_nonsense", a_switchover_moves_the_leader_and_refuses_nonsense),
    ("maintenance_holds_a_failover_back", maintenance_holds_a_failover_back),
    ("the_spec_changes_while_it_runs", the_spec_changes_while_it_runs),
    ("a_stopped_cluster_starts_again_with_its_data", a_stopped_cluster_starts_again_with_its_data),
    ("nodes_end_with_a_killed_supervisor", nodes_end_with_a_killed_supervisor),
    ("a_second_supervisor_is_refused", a_second_supervisor_is_refused),
];

/// Quick, so that silence is noticed within a test's time; and no pause between failovers.
const QUICK: &[&str] =
    &["--detection-timeout", "600ms", "--lease-duration", "400ms", "--heartbeat-interval", "100ms", "--cooldown", "0s"];

fn with(more: &[&'static str]) -> Vec<&'static str> {
    QUICK.iter().chain(more).copied().collect()
}

fn node<'a>(report: &'a Report, name: &str) -> Option<&'a NodeStatus> {
    report.instances.iter().find(|instance| instance.name.as_str() == name)?.report.as_ref()
}

/// All nodes stream from the leader of the latest epoch, and nothing is under way.
fn settled(report: &Report) -> bool {
    let fine = |status: &NodeStatus| match status.state {
        NodeState::Leading | NodeState::Streaming => status.promise.epoch == report.status.epoch,
        _ => false,
    };
    report.status.phase == Phase::Steady
        && report.status.condition("Ready").is_some_and(|ready| ready.status)
        && report.instances.iter().all(|i| i.connected && i.report.as_ref().is_some_and(fine))
}

fn a_new_cluster_becomes_ready_with_its_rule() {
    let cluster = Cluster::started(QUICK);
    let report = cluster.until("all stream", settled);
    let config = report.status.config.unwrap().current;
    assert_eq!((report.instances.len(), config.cohort.len(), config.acks), (3, 3, 1));
    let table = cluster.local_ok(&["status"]);
    assert!(table.contains("local-1") && table.contains("Streaming") && table.contains("Leading"), "{table}");
    let url = report.instances[1].url.clone();
    let output = cluster.command().args(["status", &url]).output().unwrap();
    let table = String::from_utf8(output.stdout).unwrap();
    assert!(["local-1", "local-2", "local-3"].iter().all(|name| table.contains(name)), "{table}");
}

fn a_killed_leader_is_replaced_within_a_second_and_rejoins() {
    let cluster = Cluster::started(QUICK);
    let before = cluster.until("all stream", settled).status;
    let old = before.leader.unwrap();
    let started = Instant::now();
    cluster.local_ok(&["kill", "leader"]);
    cluster.until("another leader is open", |report| {
        let leader = report.status.leader.as_ref().filter(|leader| **leader != old);
        leader.and_then(|leader| node(report, leader.name.as_str())).is_some_and(|status| status.opened)
    });
    let took = started.elapsed();
    assert!(took < Duration::from_secs(1), "{took:?}\n{}", cluster.history());
    let report = cluster.until("the old one follows", settled);
    let receipt = report.status.last_failover.unwrap();
    assert_eq!((receipt.from, receipt.records_at_risk), (Some(old.name), 0));
}

fn a_frozen_leader_is_replaced_after_the_detection_timeout() {
    let cluster = Cluster::started(QUICK);
    let old = cluster.until("all stream", settled).status.leader.unwrap();
    let started = Instant::now();
    cluster.local_ok(&["freeze", old.name.as_str()]);
    cluster.until("another leader is open", |report| {
        let leader = report.status.leader.as_ref().filter(|leader| **leader != old);
        leader.and_then(|leader| node(report, leader.name.as_str())).is_some_and(|status| status.opened)
    });
    let took = started.elapsed();
    assert!(Duration::from_millis(500) < took && took < Duration::from_millis(1600), "{took:?}\n{}", cluster.history());
    assert!(cluster.local_ok(&["status"]).contains("Frozen"));
    cluster.local_ok(&["thaw", old.name.as_str()]);
    cluster.until("the old one follows", settled);
}

fn without_restart_a_dead_node_stays_dead_until_started() {
    let cluster = Cluster::started(&with(&["--no-restart"]));
    let old = cluster.until("all stream", settled).status.leader.unwrap().name.to_string();
    cluster.local_ok(&["kill", "leader"]);
    let report = cluster.until("another leads", |report| {
        report.status.phase == Phase::Steady
            && report.status.leader.as_ref().is_some_and(|new| new.name.as_str() != old)
    });
    let dead = report.instances.iter().find(|instance| instance.name.as_str() == old).unwrap();
    assert_eq!(dead.pid, None);
    assert!(!cluster.local(&["kill", &old]).status.success());
    cluster.local_ok(&["start", &old]);
    cluster.until("all stream", settled);
}

fn a_switchover_moves_the_leader_and_refuses_nonsense() {
    let cluster = Cluster::started(QUICK);
    let report = cluster.until("all stream", settled);
    let old = report.status.leader.unwrap().name;
    let target = report.instances.iter().map(|instance| &instance.name).find(|name| **name != old).unwrap();
    cluster.local_ok(&["switchover", target.as_str()]);
    assert_eq!(cluster.leader(), target.as_str());
    cluster.until("all stream", settled);
    let refused = cluster.local(&["switchover", "local-9"]);
    assert!(!refused.status.success());
}

fn maintenance_holds_a_failover_back() {
    let cluster = Cluster::started(&with(&["--no-restart"]));
    let before = cluster.until("all stream", settled).status;
    cluster.local_ok(&["maintenance", "on"]);
    cluster.local_ok(&["kill", "leader"]);
    // The message says that it is seen and not acted upon.
    cluster.until("it says so", |report| report.status.message.to_lowercase().contains("maintenance"));
    assert_eq!(cluster.report().status.epoch, before.epoch);
    cluster.local_ok(&["maintenance", "off"]);
    cluster
        .until("another leads", |report| report.status.phase == Phase::Steady && report.status.leader != before.leader);
}

fn the_spec_changes_while_it_runs() {
    let cluster = Cluster::started(QUICK);
    cluster.local_ok(&["set", "mode", "sync"]);
    cluster.until("every follower counts", |report| {
        settled(report) && report.status.config.as_ref().is_some_and(|config| config.current.acks == 2)
    });
    cluster.local_ok(&["set", "instances", "5"]);
    cluster.until("five stream", |report| {
        let config = report.status.config.as_ref();
        settled(report) && config.is_some_and(|config| config.current.cohort.len() == 5 && config.current.acks == 4)
    });
    cluster.local_ok(&["set", "instances", "2"]);
    cluster.until("two are left", |report| settled(report) && report.instances.len() == 2);
    let wrong = cluster.local(&["set", "detectionTimeout", "1ms"]);
    assert!(!wrong.status.success() && String::from_utf8_lossy(&wrong.stderr).contains("detectionTimeout"));
}

fn a_stopped_cluster_starts_again_with_its_data() {
    let mut cluster = Cluster::started(QUICK);
    let before = cluster.until("all stream", settled);
    cluster.local_ok(&["down"]);
    assert!(cluster.ended());
    assert!(!cluster.local(&["status"]).status.success());
    cluster.up(&[]);
    cluster.wait_ready();
    let after = cluster.until("all stream", settled);
    assert!(after.status.epoch > before.status.epoch);
    assert_eq!(after.status.cluster, before.status.cluster);
    assert_eq!(after.spec, before.spec, "options of the first start are kept");
    let index =
        |report: &Report| report.instances.iter().filter_map(|i| i.report.as_ref()).map(|r| r.flushed.index).max();
    assert!(index(&after) > index(&before));
    cluster.interrupt();
    assert!(cluster.ended());
}

fn nodes_end_with_a_killed_supervisor() {
    let mut cluster = Cluster::started(QUICK);
    let pids = cluster.pids();
    assert!(pids.len() == 3 && pids.iter().all(|pid| runs(*pid)));
    cluster.kill_supervisor();
    let started = Instant::now();
    while pids.iter().any(|pid| runs(*pid)) {
        assert!(started.elapsed() < Duration::from_secs(5), "orphans");
        std::thread::park_timeout(Duration::from_millis(1));
    }
    cluster.up(&[]);
    cluster.wait_ready();
}

fn a_second_supervisor_is_refused() {
    let cluster = Cluster::started(QUICK);
    let second = cluster.local(&["up", "--node-binary", "/bin/true"]);
    assert!(!second.status.success() && String::from_utf8_lossy(&second.stderr).contains("already runs"));
    cluster.until("the first one goes on", settled);
}
