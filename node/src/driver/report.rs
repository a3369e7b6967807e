//! What a node says about itself: status, readiness, metrics.

use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::gauge::ConstGauge;
use rdb_log::DataState;
use rdb_protocol::status::{NodeState, NodeStatus, Role};
use rdb_replication::{RoleView, Time};

use super::Node;
use super::core::Core;
use crate::clock;
use crate::http::backend::Check;

/// Everything that an operator may know.
pub fn status(node: &Node) -> NodeStatus {
    let core = node.lock();
    let now = Time(clock::boot_micros());
    let state = core.control.state();
    let replica = core.running.as_ref().map(|running| &running.replica);
    let leads =
        replica.is_some_and(|replica| replica.role() != RoleView::Follower && replica.role() != RoleView::Halted);
    NodeStatus {
        name: state.name.clone(),
        incarnation: state.incarnation,
        cluster: state.cluster,
        boot: node.boot,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        role: match (state.cluster, leads) {
            (None, _) => Role::Empty,
            (Some(_), true) => Role::Leader,
            (Some(_), false) => Role::Follower,
        },
        state: node_state(&core),
        promise: replica.map_or_else(|| state.promise.clone(), |replica| replica.promise().clone()),
        led: replica.map_or(state.led, |replica| replica.led()),
        lossy: replica.map_or(state.lossy, |replica| replica.lossy()),
        flushed: replica.map(|replica| replica.flushed()).unwrap_or_default(),
        committed: replica.map(|replica| replica.committed()).unwrap_or_default(),
        applied: node.view.applied(),
        first_retained: core.running.as_ref().map(|running| running.log.first_index()).unwrap_or_default(),
        config: replica.and_then(|replica| replica.config().cloned()),
        opened: replica.is_some_and(|replica| replica.is_open()),
        settled: replica.and_then(|replica| replica.settled()),
        followers: replica.map(|replica| replica.followers(now)).unwrap_or_default(),
        leader_heard_ms_ago: replica.and_then(|replica| replica.leader_heard_ms_ago(now)),
        lease_valid: replica.is_some_and(|replica| replica.is_open() && replica.lease_valid(now)),
        lease_request: replica.and_then(|replica| replica.lease_request()),
        uncommitted_ms: replica.and_then(|replica| replica.uncommitted_ms(now)).max(group_ms(node, now)),
        acknowledged: replica.map_or(state.acknowledged, |replica| replica.acknowledged()),
        seed: state.seed.clone(),
        other_layout: node.other_layout(leads),
        exact: node.exact(leads),
        divergences: state.divergences.clone(),
        peers: state.peers.clone(),
        problems: core.problems.values().cloned().collect(),
    }
}

/// How long the group that is running has taken so far: a writer that hangs before its commit point makes no progress.
fn group_ms(node: &Node, now: Time) -> Option<u64> {
    let since = node.group_since.load(std::sync::atomic::Ordering::Acquire);
    (since > 0).then(|| now.millis_since(Time(since)))
}

fn node_state(core: &Core) -> NodeState {
    let Some(running) = &core.running else { return NodeState::Empty };
    match (&core.control.state().data, running.replica.role()) {
        (_, RoleView::Halted) | (DataState::Corrupt { .. } | DataState::DatabaseCorrupt { .. }, _) => NodeState::Halted,
        (DataState::Empty, _) => NodeState::Empty,
        (DataState::Seeding, _) => NodeState::Seeding,
        (DataState::Diverged { .. }, _) => NodeState::Diverged,
        (DataState::Ready, RoleView::Opening) => NodeState::Opening,
        (DataState::Ready, RoleView::Open) => NodeState::Leading,
        (DataState::Ready, RoleView::WritesStopped) => NodeState::WritesStopped,
        (DataState::Ready, RoleView::Follower) if core.links.is_empty() => NodeState::Searching,
        (DataState::Ready, RoleView::Follower) if core.is_refusing() => NodeState::CatchingUp,
        (DataState::Ready, RoleView::Follower) if running.replica.is_streaming() => NodeState::Streaming,
        (DataState::Ready, RoleView::Follower) => NodeState::CatchingUp,
    }
}

/// A line per thing that must hold before clients are sent here.
pub fn readiness(node: &Node) -> Vec<Check> {
    let core = node.lock();
    let state = node_state(&core);
    let serving = match (node.view.serving(), core.unverified) {
        (true, _) => Ok(()),
        (false, Some(_)) => Err("the database is being read to verify it".to_owned()),
        (false, None) => Err(format!("state is {state:?}")),
    };
    let known =
        core.running.as_ref().is_some_and(|running| running.replica.is_open() || running.replica.leader().is_some());
    let leader = if known { Ok(()) } else { Err("no leader is known".to_owned()) };
    let problems = core.problems.values().map(|problem| problem.code.as_str()).collect::<Vec<_>>();
    let healthy = if problems.is_empty() { Ok(()) } else { Err(problems.join(", ")) };
    vec![
        Check { name: "data", result: serving },
        Check { name: "leader", result: leader },
        Check { name: "problems", result: healthy },
    ]
}

/// Gauges read when asked for.
#[derive(Debug)]
pub struct Metrics(pub Arc<Node>);

impl Collector for Metrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let status = status(&self.0);
        let stats = self.0.engine().map(|engine| engine.stats()).unwrap_or_default();
        let flag = |set: bool| i64::from(set);
        let gauges: [(&str, &str, i64); 12] = [
            ("epoch", "Highest epoch promised", status.promise.epoch.0 as i64),
            ("leader", "1 when this node leads, open for clients", flag(status.opened)),
            ("flushed_index", "Last record on this node's disk", status.flushed.index.0 as i64),
            ("committed_index", "Last record known to be committed", status.committed.0 as i64),
            ("applied_index", "Last record visible in this node's database", status.applied.0 as i64),
            ("first_retained_index", "Oldest record in this node's log", status.first_retained.0 as i64),
            ("lease_valid", "1 when this leader holds its lease", flag(status.lease_valid)),
            ("connected_followers", "Followers connected to this leader", connected(&status)),
            ("problems", "Problems that the status names", status.problems.len() as i64),
            ("database_pages", "Pages of the database", i64::from(stats.database_pages)),
            ("wal_frames", "Frames in SQLite's write-ahead log", stats.wal_frames as i64),
            ("checkpoints", "Checkpoints since the start", stats.checkpoints as i64),
        ];
        for (name, help, value) in gauges {
            let gauge = ConstGauge::new(value);
            let metric = encoder.encode_descriptor(name, help, None, gauge.metric_type())?;
            gauge.encode(metric)?;
        }
        Ok(())
    }
}

fn connected(status: &NodeStatus) -> i64 {
    status.followers.iter().filter(|follower| follower.connected).count() as i64
}
