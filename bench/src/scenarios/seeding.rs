//! The leader's write rate while a follower receives a base copy of a large database, against that of the same run before.

use std::time::Duration;

use rdb_protocol::status::NodeState;
use serde_json::json;

use super::report::Line;
use super::throughput::{PREPARE, insert_body, plan, prepared};
use super::{ScenarioError, Settings};
use crate::client::Client;
use crate::clock::{now, pause, until};
use crate::cluster::Cluster;
use crate::load::Background;

const CLIENTS: usize = 16;

/// How long the rate is measured before the seeding begins.
const BEFORE: Duration = Duration::from_secs(10);

/// Until the follower streams again. A gigabyte at a tenth of what a slow disk writes.
const LIMIT: Duration = Duration::from_secs(300);

/// Rows of about a kibibyte that one statement makes.
const ROWS_PER_STEP: u64 = 8 << 10;

/// Measures one seeding.
pub async fn run(settings: &Settings) -> Result<Vec<Line>, ScenarioError> {
    let (mut cluster, leader) = prepared(settings).await?;
    grow(&cluster, leader, settings.seed_mib).await?;
    let follower = (leader + 1) % cluster.nodes.len();
    let load = Background::start(&plan(settings, &cluster, leader, CLIENTS, "/v1/execute"), insert_body);
    pause(settings.warm_up).await;

    let (start, done) = (now(), load.done());
    pause(BEFORE).await;
    let before = (load.done() - done) as f64 / (now() - start).as_secs_f64();

    let old = incarnation(&cluster, follower).await;
    cluster.command("reseed", &[&cluster.nodes[follower].name]).await?;
    let began =
        until(LIMIT, async || (state(&cluster, follower).await == Some(NodeState::Seeding)).then_some(())).await;
    let (start, done) = (now(), load.done());
    let ended = until(LIMIT, async || {
        let streams = state(&cluster, follower).await == Some(NodeState::Streaming);
        (streams && incarnation(&cluster, follower).await != old).then_some(())
    })
    .await;
    let took = now() - start;
    let during = (load.done() - done) as f64 / took.as_secs_f64();
    let outcome = load.stop().await;
    cluster.stop().await;
    if began.is_none() || ended.is_none() {
        return Err(ScenarioError::Failed("the follower was not seeded in time".into()));
    }
    let mut line = Line::new("insert-while-seeding", CLIENTS);
    line.rate = during;
    line.p50_us = super::report::micros(outcome.latencies.percentile(50.0));
    line.p99_us = super::report::micros(outcome.latencies.percentile(99.0));
    line.more = vec![
        ("before".into(), format!("{before:.0}")),
        ("kept_percent".into(), format!("{:.0}", during / before.max(1.0) * 100.0)),
        ("seed_mib".into(), settings.seed_mib.to_string()),
        ("seconds".into(), format!("{:.1}", took.as_secs_f64())),
    ];
    Ok(vec![line])
}

async fn state(cluster: &Cluster, node: usize) -> Option<NodeState> {
    cluster.statuses().await.into_iter().nth(node).flatten().map(|status| status.state)
}

async fn incarnation(cluster: &Cluster, node: usize) -> Option<rdb_protocol::Incarnation> {
    cluster.statuses().await.into_iter().nth(node).flatten().map(|status| status.incarnation)
}

/// Fills the database with random blobs, step by step, and lets the followers catch up.
async fn grow(cluster: &Cluster, leader: usize, mib: u64) -> Result<(), ScenarioError> {
    let mut client = Client::new(&cluster.nodes[leader].address, None);
    client.execute("CREATE TABLE bulk (id INTEGER PRIMARY KEY, data BLOB)", json!([]), None, PREPARE).await?;
    let sql = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?1) \
         INSERT INTO bulk (data) SELECT randomblob(1000) FROM n";
    for _ in 0..mib.div_ceil(ROWS_PER_STEP >> 10) {
        client.execute(sql, json!([ROWS_PER_STEP]), None, PREPARE).await?;
    }
    let quiet = cluster.await_quiet(LIMIT).await;
    quiet.map(|_| ()).ok_or_else(|| ScenarioError::Failed("followers did not catch up".into()))
}
