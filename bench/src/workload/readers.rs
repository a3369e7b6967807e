//! Readers that ask one node for whatever it has. What they see must still be there at the end.

use std::sync::Arc;
use std::time::Duration;

use rdb_protocol::api::Consistency;
use serde_json::json;

use super::Shared;
use crate::checkers::At;
use crate::checkers::writes::WriteId;
use crate::client::Client;
use crate::clock::pause;

/// The newest rows: more than a node applies between two looks at the pace of the load.
const NEWEST: &str = "SELECT client, number FROM ledger ORDER BY seq DESC LIMIT 100";

/// Between two looks.
const INTERVAL: Duration = Duration::from_millis(20);

/// Runs one reader until the run stops.
pub async fn run(shared: Arc<Shared>, address: String) {
    let mut node = Client::new(&address, None);
    while !shared.stopped() {
        let answer = node.query(NEWEST, json!([]), Consistency::Any, None, Duration::from_millis(500)).await;
        match answer {
            Ok(answer) => {
                let at = At { epoch: answer.position.epoch.0, index: answer.position.index.0 };
                shared.note(|log| {
                    for row in answer.rows() {
                        match row.as_slice() {
                            [client, number] if client.is_u64() && number.is_u64() => {
                                let number = number.as_u64().unwrap_or(0);
                                log.sightings.record(WriteId { client: client.as_u64().unwrap_or(0), number }, at);
                            }
                            other => log.anomalies.push(format!("{address}: a row {other:?} that nobody wrote")),
                        }
                    }
                });
            }
            // A node that is down, seeding or without its table yet answers with an error; only a final one that no fault
            // explains would be wrong, and the checks of the ledger find that better.
            Err(_) => pause(INTERVAL).await,
        }
        pause(INTERVAL).await;
    }
}
