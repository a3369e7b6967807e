//! One write after the other.

use std::sync::Arc;
use std::time::Duration;

use rdb_bench::client::{Answer, CallError, Client};
use rdb_bench::clock::{now, pause};

use super::Shared;
use super::journal::Acknowledged;
use crate::clock::wall_ms;

/// The table has no unique key on purpose: a write that took effect twice must show.
pub const TABLE: &str =
    "CREATE TABLE IF NOT EXISTS rdb_load (run TEXT NOT NULL, number INTEGER NOT NULL, payload TEXT)";
const INSERT: &str = "INSERT INTO rdb_load (run, number, payload) VALUES (?, ?, ?)";

/// A row of ordinary size.
const PAYLOAD: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

/// Between two failed attempts; as often as the load writes, so that the first moment of success is found.
const AFTER_FAILURE: Duration = Duration::from_millis(2);

/// How often a paused writer looks whether it may go on.
const WHILE_PAUSED: Duration = Duration::from_millis(5);

/// Number of the write that makes the table; rows begin at 1.
const TABLE_NUMBER: u64 = 0;

/// Writes until the program ends.
pub async fn run(shared: Arc<Shared>) {
    let mut client = Client::new(&shared.target.to_string(), shared.token.as_deref());
    let mut number = TABLE_NUMBER;
    loop {
        while shared.is_paused() {
            shared.set_idle(true);
            pause(WHILE_PAUSED).await;
        }
        shared.set_idle(false);
        let start = now();
        let answer = until_acknowledged(&shared, &mut client, number).await;
        if number != TABLE_NUMBER {
            let (epoch, index) = (answer.position.epoch.0, answer.position.index.0);
            shared.journal.acknowledge(Acknowledged { number, at_ms: wall_ms(), epoch, index });
        }
        number += 1;
        let rest = shared.pace().interval.saturating_sub(now() - start);
        if !rest.is_zero() {
            pause(rest).await;
        }
    }
}

/// Sends one write, always with the same key, until it is acknowledged.
async fn until_acknowledged(shared: &Shared, client: &mut Client, number: u64) -> Answer {
    let key = format!("{}:{number}", shared.run);
    loop {
        let error = match attempt(shared, client, number, &key).await {
            Ok(answer) => return answer,
            Err(error) => error,
        };
        shared.journal.fail(number, error.to_string());
        pause(AFTER_FAILURE).await;
    }
}

async fn attempt(shared: &Shared, client: &mut Client, number: u64, key: &str) -> Result<Answer, CallError> {
    let limit = shared.pace().attempt;
    let (sql, args) = match number {
        TABLE_NUMBER => (TABLE, serde_json::json!([])),
        _ => (INSERT, serde_json::json!([shared.run, number, PAYLOAD])),
    };
    // The node answers at the deadline if it is alive at all; a connection that stays silent is given up a little later.
    let patience = limit + limit / 4;
    match tokio::time::timeout(patience, client.execute(sql, args, Some(key), limit)).await {
        Ok(result) => result,
        Err(_) => Err(CallError::Silent),
    }
}
