//! Linearizable reads and writes of registers, each operation with its start and end.

use std::sync::Arc;

use serde_json::json;

use super::{Request, Roaming, Shared};
use crate::checkers::registers::{Kind, Operation};
use crate::random::Random;

/// Percentage of operations that write.
const WRITES: u64 = 40;

/// Values of one client start here times its number, so that no value is written twice.
const VALUES_PER_CLIENT: u64 = 1 << 32;

/// Runs one client of one register until the run stops. `client` is unique over all registers and not 0.
pub async fn run(shared: Arc<Shared>, register: u64, client: u64, random: Random) {
    let mut roaming = Roaming::new(&shared, random);
    let mut written = 0;
    while !shared.stopped() {
        let start = shared.time();
        let value = roaming.random.chance(WRITES).then(|| {
            written += 1;
            client * VALUES_PER_CLIENT + written
        });
        let attempted = roaming.attempt(&shared, &request(register, client, value)).await;
        let kind = match (value, &attempted.answer) {
            (Some(value), _) => Kind::Write(value),
            (None, None) => continue, // a read without an answer says nothing
            (None, Some(answer)) => match answer.rows().first().and_then(|row| row.first()?.as_u64()) {
                Some(seen) => Kind::Read(seen),
                None => {
                    shared.note(|log| log.anomalies.push(format!("register {register} has no value: {answer:?}")));
                    continue;
                }
            },
        };
        let end = shared.time();
        // What surely did not happen is no part of the history.
        if attempted.answer.is_some() || attempted.may_have_run {
            let operation = Operation {
                kind,
                start,
                end: attempted.answer.as_ref().map(|_| end),
                epoch: attempted.answer.as_ref().map_or(0, |answer| answer.position.epoch.0),
                repeated: attempted.attempts > 1,
            };
            shared.note(|log| log.registers.entry(register).or_default().push(operation));
        }
        roaming.pace().await;
    }
}

fn request(register: u64, client: u64, value: Option<u64>) -> Request {
    match value {
        Some(value) => Request::Execute {
            sql: "UPDATE registers SET value = ?2 WHERE name = ?1",
            args: json!([register, value]),
            // With a key, so that repeating it cannot bring an old value back.
            key: Some(format!("register-{client}:{}", value % VALUES_PER_CLIENT)),
        },
        None => Request::Read { sql: "SELECT value FROM registers WHERE name = ?1", args: json!([register]) },
    }
}
