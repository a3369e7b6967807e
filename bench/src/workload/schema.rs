//! The tables of the torture test.

use std::time::Duration;

use serde_json::json;

use crate::client::{CallError, Client};

/// Nothing here is unique but the row numbers: a constraint would hide a write that ran twice.
const STATEMENTS: [&str; 6] = [
    "CREATE TABLE ledger (seq INTEGER PRIMARY KEY AUTOINCREMENT, client INTEGER NOT NULL, number INTEGER NOT NULL, \
     payload TEXT NOT NULL)",
    "CREATE INDEX ledger_by_client ON ledger (client, number)",
    // How many batches each client had, counted in the database: batches are all or nothing.
    "CREATE TABLE counters (client INTEGER PRIMARY KEY, count INTEGER NOT NULL)",
    // The numbers of each client's batches in the order of their arrival, a hundred to a row.
    "CREATE TABLE lists (client INTEGER NOT NULL, part INTEGER NOT NULL, entries TEXT NOT NULL, \
     PRIMARY KEY (client, part)) WITHOUT ROWID",
    "CREATE TABLE registers (name INTEGER PRIMARY KEY, value INTEGER NOT NULL)",
    "CREATE TABLE marks (at INTEGER PRIMARY KEY, note TEXT)",
];

/// Makes the tables and the registers, all with value 0.
pub async fn create(address: &str, registers: u64) -> Result<(), CallError> {
    let mut client = Client::new(address, None);
    let deadline = Duration::from_secs(10);
    let mut statements: Vec<_> = STATEMENTS.iter().map(|sql| (*sql, json!([]))).collect();
    for name in 0..registers {
        statements.push(("INSERT INTO registers (name, value) VALUES (?1, 0)", json!([name])));
    }
    client.batch(&statements, Some("schema:1"), deadline).await.map(|_| ())
}
