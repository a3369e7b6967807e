//! Every acknowledged write is there, exactly once.

use std::collections::BTreeMap;
use std::time::Duration;

use rdb_bench::checkers::At;
use rdb_bench::checkers::writes::{self, Ended, Rows, WriteId};
use rdb_bench::client::{CallError, Client};
use rdb_bench::clock::{now, pause};
use rdb_protocol::api::Consistency;
use serde::{Deserialize, Serialize};

use super::Shared;

/// Rows per read: far below `access.maxResultSize`.
const PAGE: u64 = 20_000;

/// For one read.
const DEADLINE: Duration = Duration::from_secs(10);

/// For the whole check; a cluster that has just lost a node may need a while before it serves linearizable reads.
const PATIENCE: Duration = Duration::from_secs(60);

/// Between two looks whether the writer rests, and two attempts to read.
const BETWEEN_LOOKS: Duration = Duration::from_millis(20);

/// Numbers that a verdict names.
const SHOWN: usize = 20;

const NUMBERS: &str =
    "SELECT number, count(*) FROM rdb_load WHERE run = ? AND number > ? GROUP BY number ORDER BY number LIMIT ?";

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    pub acknowledged: u64,
    pub rows: u64,
    pub lost: u64,
    pub duplicated: u64,
    /// Never acknowledged nor in flight.
    pub phantom: u64,
    /// The first numbers of each kind, for the person who looks into it.
    pub examples: Vec<u64>,
}

impl Verdict {
    pub fn is_clean(&self) -> bool {
        self.lost == 0 && self.duplicated == 0 && self.phantom == 0
    }
}

/// Pauses the writer, compares, lets it go on.
pub async fn verify(shared: &Shared) -> Result<Verdict, String> {
    shared.pause(true);
    let verdict = check(shared).await;
    shared.pause(false);
    verdict
}

async fn check(shared: &Shared) -> Result<Verdict, String> {
    let end = now() + PATIENCE;
    while !shared.is_idle() {
        if now() >= end {
            return Err("the last write is not acknowledged yet".to_owned());
        }
        pause(BETWEEN_LOOKS).await;
    }
    let rows = read_all(shared).await?;
    let mut ended = BTreeMap::new();
    for entry in shared.journal.acknowledged() {
        let at = At { epoch: entry.epoch, index: entry.index };
        ended.insert(WriteId { client: 0, number: entry.number }, Ended::Acknowledged(at));
    }
    let found = writes::check(&ended, &rows, &[]);
    let examples = found.lost.iter().chain(&found.duplicated).chain(&found.phantom);
    Ok(Verdict {
        acknowledged: found.acknowledged,
        rows: rows.values().sum(),
        lost: found.lost.len() as u64,
        duplicated: found.duplicated.len() as u64,
        phantom: found.phantom.len() as u64,
        examples: examples.map(|id| id.number).take(SHOWN).collect(),
    })
}

/// How often each number is in the table, by linearizable reads.
async fn read_all(shared: &Shared) -> Result<Rows, String> {
    let mut client = Client::new(&shared.target.to_string(), shared.token.as_deref());
    let end = now() + PATIENCE;
    let mut rows = Rows::new();
    let mut last = 0;
    loop {
        let args = serde_json::json!([shared.run, last, PAGE]);
        let page = match client.query(NUMBERS, args, Consistency::Linearizable, None, DEADLINE).await {
            Ok(answer) => answer,
            Err(CallError::Api(error)) if error.message.contains("no such table") => return Ok(rows),
            Err(error) if now() >= end => return Err(error.to_string()),
            Err(_) => {
                pause(BETWEEN_LOOKS).await;
                continue;
            }
        };
        for row in page.rows() {
            let (Some(number), Some(count)) = (number(&row[0]), number(&row[1])) else {
                return Err(format!("a row that is not two numbers: {row:?}"));
            };
            rows.insert(WriteId { client: 0, number }, count);
            last = number;
        }
        if (page.rows().len() as u64) < PAGE {
            return Ok(rows);
        }
    }
}

fn number(value: &serde_json::Value) -> Option<u64> {
    value.as_u64()
}
