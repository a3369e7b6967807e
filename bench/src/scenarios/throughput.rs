//! Closed-loop rates: inserts, transactions of a hundred rows, point reads.

use std::time::Duration;

use serde_json::json;

use super::report::Line;
use super::{ScenarioError, Settings, start};
use crate::client::Client;
use crate::cluster::Cluster;
use crate::load::{self, Bodies, Outcome, Plan};
use crate::random::Random;

/// Clients of the insert scenario.
const INSERT_CLIENTS: [usize; 4] = [1, 16, 64, 256];
const TRANSACTION_CLIENTS: usize = 16;
const ROWS_PER_TRANSACTION: usize = 100;
const READ_CLIENTS: usize = 64;

/// Rows that the point reads choose from.
const ROWS_TO_READ: u64 = 100_000;

/// Payload of a row, in bytes; the same for peers.
const PAYLOAD: usize = 100;

/// For statements that prepare a scenario.
pub(super) const PREPARE: Duration = Duration::from_secs(60);

pub(super) const TABLE: &str = "CREATE TABLE rows (id INTEGER PRIMARY KEY, client INTEGER, value TEXT)";

/// Bodies of single-row inserts.
pub(super) fn insert_body(client: usize) -> impl Bodies {
    let body = json!({
        "sql": "INSERT INTO rows (client, value) VALUES (?1, ?2)", "args": [client, "v".repeat(PAYLOAD)],
    });
    let body = body.to_string().into_bytes();
    move |buffer: &mut Vec<u8>| buffer.extend_from_slice(&body)
}

fn transaction_body(client: usize) -> impl Bodies {
    let values: Vec<String> = (2..2 + ROWS_PER_TRANSACTION).map(|n| format!("(?1, ?{n})")).collect();
    let mut args = vec![json!(client)];
    args.extend((0..ROWS_PER_TRANSACTION).map(|_| json!("v".repeat(PAYLOAD))));
    let sql = format!("INSERT INTO rows (client, value) VALUES {}", values.join(", "));
    let body = json!({"sql": sql, "args": args}).to_string().into_bytes();
    move |buffer: &mut Vec<u8>| buffer.extend_from_slice(&body)
}

fn read_body(consistency: &'static str, client: usize) -> impl Bodies {
    use std::io::Write as _;
    let mut random = Random::new(client as u64);
    move |buffer: &mut Vec<u8>| {
        let id = random.between(1, ROWS_TO_READ);
        // Writing to a Vec does not fail.
        let _ = write!(
            buffer,
            r#"{{"sql":"SELECT value FROM rows WHERE id = ?1","args":[{id}],"consistency":"{consistency}"}}"#
        );
    }
}

/// Single-row inserts, sent to the leader.
pub async fn inserts(settings: &Settings) -> Result<Vec<Line>, ScenarioError> {
    let (mut cluster, leader) = prepared(settings).await?;
    let mut lines = Vec::new();
    for clients in INSERT_CLIENTS {
        let plan = plan(settings, &cluster, leader, clients, "/v1/execute");
        lines.push(measure(settings, "insert", &plan, insert_body).await?);
    }
    cluster.stop().await;
    Ok(lines)
}

/// Transactions of a hundred rows, one statement each.
pub async fn transactions(settings: &Settings) -> Result<Vec<Line>, ScenarioError> {
    let (mut cluster, leader) = prepared(settings).await?;
    let plan = plan(settings, &cluster, leader, TRANSACTION_CLIENTS, "/v1/execute");
    let line = measure(settings, "transaction-100-rows", &plan, transaction_body).await?;
    cluster.stop().await;
    Ok(vec![line])
}

/// Point reads: linearizable at the leader, `any` at a follower.
pub async fn reads(settings: &Settings) -> Result<Vec<Line>, ScenarioError> {
    let (mut cluster, leader) = prepared(settings).await?;
    fill(&cluster, leader, ROWS_TO_READ).await?;
    let follower = (leader + 1) % cluster.nodes.len();
    let mut lines = Vec::new();
    for (name, node, consistency) in
        [("read-linearizable-leader", leader, "linearizable"), ("read-any-follower", follower, "any")]
    {
        let plan = plan(settings, &cluster, node, READ_CLIENTS, "/v1/query");
        lines.push(measure(settings, name, &plan, |client| read_body(consistency, client)).await?);
    }
    cluster.stop().await;
    Ok(lines)
}

/// A cluster with the table.
pub(super) async fn prepared(settings: &Settings) -> Result<(Cluster, usize), ScenarioError> {
    let (cluster, leader) = start(&settings.data).await?;
    let mut client = Client::new(&cluster.nodes[leader].address, None);
    client.execute(TABLE, json!([]), None, PREPARE).await?;
    Ok((cluster, leader))
}

async fn fill(cluster: &Cluster, leader: usize, rows: u64) -> Result<(), ScenarioError> {
    let sql = "WITH RECURSIVE n (id) AS (SELECT 1 UNION ALL SELECT id + 1 FROM n WHERE id < ?1) \
         INSERT INTO rows SELECT id, 0, ?2 FROM n";
    let mut client = Client::new(&cluster.nodes[leader].address, None);
    client.execute(sql, json!([rows, "v".repeat(PAYLOAD)]), None, PREPARE).await?;
    let quiet = cluster.await_quiet(PREPARE).await;
    quiet.map(|_| ()).ok_or_else(|| ScenarioError::Failed("followers did not catch up".into()))
}

pub(super) fn plan(settings: &Settings, cluster: &Cluster, node: usize, clients: usize, path: &str) -> Plan {
    Plan {
        clients,
        addresses: vec![cluster.nodes[node].address.clone()],
        path: path.to_owned(),
        token: None,
        warm_up: settings.warm_up,
        measure: settings.measure,
    }
}

async fn measure<B: Bodies>(
    settings: &Settings,
    name: &str,
    plan: &Plan,
    mut bodies: impl FnMut(usize) -> B,
) -> Result<Line, ScenarioError> {
    let mut runs: Vec<Outcome> = Vec::new();
    for _ in 0..settings.runs {
        let outcome = load::run(plan, &mut bodies).await;
        if outcome.latencies.count() == 0 {
            let why = outcome.first_failure.unwrap_or_else(|| "no answer".into());
            return Err(ScenarioError::Failed(format!("{name} with {} clients: {why}", plan.clients)));
        }
        runs.push(outcome);
    }
    if let Some(why) = runs.iter().find_map(|run| run.first_failure.as_ref()) {
        eprintln!("  {name}: some requests failed, the first with: {why}");
    }
    Ok(Line::of_runs(name, plan.clients, runs))
}
