//! Writes that must be there exactly once.
//!
//! Of four clients one sends single statements without keys (an unknown outcome stays unknown), one single statements
//! with keys, and two batches with keys, which also count themselves and append to a list.

use std::sync::Arc;
use std::time::Duration;

use rdb_protocol::api::{Consistency, Token};
use serde_json::json;

use super::{Request, Roaming, Shared};
use crate::checkers::At;
use crate::checkers::writes::{Ended, WriteId};
use crate::random::Random;

/// Numbers in one row of `lists`: keeps the rewritten row below a page.
const LIST_PART: u64 = 100;

/// Percentage of acknowledged writes that are looked up at once, at another node, with the session's token.
const LOOK_UP: u64 = 5;

const INSERT: &str = "INSERT INTO ledger (client, number, payload) VALUES (?1, ?2, ?3)";
const COUNT: &str =
    "INSERT INTO counters (client, count) VALUES (?1, 1) ON CONFLICT (client) DO UPDATE SET count = count + 1";
const APPEND: &str = "INSERT INTO lists (client, part, entries) VALUES (?1, ?2, ?3 || ',') \
     ON CONFLICT (client, part) DO UPDATE SET entries = entries || excluded.entries";

/// What a client sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Style {
    Bare,
    Keyed,
    Batch,
}

impl Style {
    fn of(client: u64) -> Style {
        match client % 4 {
            0 => Style::Bare,
            1 => Style::Keyed,
            _ => Style::Batch,
        }
    }
}

/// Do this client's writes count themselves and append to lists?
pub fn sends_batches(client: u64) -> bool {
    Style::of(client) == Style::Batch
}

/// Runs one client until the run stops.
pub async fn run(shared: Arc<Shared>, client: u64, random: Random) {
    let mut roaming = Roaming::new(&shared, random);
    let style = Style::of(client);
    let mut number = 0;
    while !shared.stopped() {
        number += 1;
        let id = WriteId { client, number };
        let payload = "x".repeat(roaming.random.between(20, 180) as usize);
        let attempted = roaming.attempt(&shared, &request(style, id, &payload)).await;
        let ended = match &attempted.answer {
            Some(answer) => Ended::Acknowledged(at(answer.position)),
            None if attempted.may_have_run => Ended::Unknown,
            None => Ended::Failed,
        };
        shared.note(|log| {
            log.writes.insert(id, ended);
        });
        if let Some(answer) = attempted.answer
            && roaming.random.chance(LOOK_UP)
        {
            look_up(&shared, &mut roaming, id, answer.position).await;
        }
        roaming.pace().await;
    }
}

fn at(position: Token) -> At {
    At { epoch: position.epoch.0, index: position.index.0 }
}

fn request(style: Style, id: WriteId, payload: &str) -> Request {
    let WriteId { client, number } = id;
    let key = format!("ledger-{client}:{number}");
    let insert = json!([client, number, payload]);
    match style {
        Style::Bare => Request::Execute { sql: INSERT, args: insert, key: None },
        Style::Keyed => Request::Execute { sql: INSERT, args: insert, key: Some(key) },
        Style::Batch => {
            let append = json!([client, number / LIST_PART, number]);
            Request::Batch { statements: vec![(INSERT, insert), (COUNT, json!([client])), (APPEND, append)], key }
        }
    }
}

/// A session reads its own writes: a node that has the session's position has the row, or says that it has not got there.
async fn look_up(shared: &Shared, roaming: &mut Roaming, id: WriteId, position: Token) {
    let WriteId { client, number } = id;
    let other = roaming.random.below(roaming.clients.len() as u64) as usize;
    let node = &mut roaming.clients[other];
    let sql = "SELECT count(*) FROM ledger WHERE client = ?1 AND number = ?2";
    let args = json!([client, number]);
    let deadline = Duration::from_secs(1);
    let Ok(answer) = node.query(sql, args, Consistency::Session, Some(position), deadline).await else { return };
    if answer.rows() == [vec![json!(0)]] {
        let address = node.address().to_owned();
        shared.note(|log| {
            log.anomalies.push(format!("{address}: a session at {position:?} does not see its own write {id:?}"));
        });
    }
}
