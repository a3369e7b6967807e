//! An example of a consumer: a cache of one table, filled once and then kept by the change stream. It survives failovers by
//! asking any node to go on from its last position, and starts anew when it is told that positions vanished.
//!
//! It checks what it is told: each change must find the row as it says it was, so that a gap or a repeat is noticed.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rdb_protocol::api::{Consistency, ErrorCode, Token};
use serde_json::{Map, Value, json};

use crate::client::Client;
use crate::clock::pause;

/// A row by the names of its columns.
pub(super) type Row = Map<String, Value>;

/// Between two tries to connect.
const RETRY: Duration = Duration::from_millis(100);
const READ_LIMIT: Duration = Duration::from_secs(10);

#[derive(Debug, Default)]
struct State {
    position: Option<Token>,
    rows: BTreeMap<String, Row>,
    /// The first contradiction.
    wrong: Option<String>,
    /// Times that it had to begin anew because of a loss.
    losses: u64,
}

/// The cache, kept by a task of its own until it is dropped.
#[derive(Debug)]
pub(super) struct Cache {
    state: Arc<Mutex<State>>,
    task: tokio::task::JoinHandle<()>,
    key: &'static str,
}

impl Drop for Cache {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Cache {
    pub(super) fn start(addresses: Vec<String>, table: &'static str, key: &'static str) -> Cache {
        let state = Arc::new(Mutex::new(State::default()));
        let keeper = Keeper { state: state.clone(), table, key };
        let task = tokio::spawn(async move {
            for address in addresses.iter().cycle() {
                keeper.keep(address).await;
                pause(RETRY).await;
            }
        });
        Cache { state, task, key }
    }

    /// Does the cache hold `rows`? `None` while it has not reached `position`.
    pub(super) fn agrees(&self, position: Token, rows: &[Row]) -> Option<Result<(), String>> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(wrong) = &state.wrong {
            return Some(Err(wrong.clone()));
        }
        if state.position.is_none_or(|at| at.index < position.index) {
            return None;
        }
        let expected: BTreeMap<String, Row> = rows.iter().map(|row| (key_of(row, self.key), row.clone())).collect();
        let same = expected == state.rows;
        Some(if same { Ok(()) } else { Err(format!("it holds {:?}, the table {expected:?}", state.rows)) })
    }

    pub(super) fn state(&self) -> String {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        format!("it is at {:?}, after {} losses", state.position, state.losses)
    }
}

struct Keeper {
    state: Arc<Mutex<State>>,
    table: &'static str,
    key: &'static str,
}

impl Keeper {
    /// Follows one node as long as it serves.
    async fn keep(&self, address: &str) {
        let mut client = Client::new(address, None);
        let known = self.state.lock().unwrap_or_else(PoisonError::into_inner).position;
        let Some(position) = (match known {
            Some(position) => Some(position),
            None => self.fill(&mut client).await,
        }) else {
            return;
        };
        let path = format!("/v1/changes?from={}/{}", position.epoch, position.index);
        let mut line = Vec::new();
        // A stream ends with its node, or when we are told to start anew; either way the next call goes on.
        let ended = client
            .download(&path, |part| {
                for byte in part {
                    if *byte == b'\n' {
                        self.line(&line);
                        line.clear();
                    } else {
                        line.push(*byte);
                    }
                }
            })
            .await;
        // What is missing between the position and the log's beginning is not known: begin anew, too.
        if matches!(ended, Ok(status) if status == ErrorCode::PositionLost.http_status()) {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            state.position = None;
            state.losses += 1;
        }
    }

    /// Reads the table, and the position of that read.
    async fn fill(&self, client: &mut Client) -> Option<Token> {
        let sql = format!("SELECT * FROM {}", self.table);
        let answer = client.query(&sql, json!([]), Consistency::Linearizable, None, READ_LIMIT).await.ok()?;
        let columns: Vec<String> =
            answer.results.iter().flat_map(|result| &result.columns).map(|column| column.name.clone()).collect();
        let row = |values: &Vec<Value>| -> Row { columns.iter().cloned().zip(values.iter().cloned()).collect() };
        let rows = answer.rows().iter().map(row).map(|row| (key_of(&row, self.key), row)).collect();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.rows = rows;
        state.position = Some(answer.position);
        Some(answer.position)
    }

    fn line(&self, line: &[u8]) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let Ok(record) = serde_json::from_slice::<Value>(line) else { return };
        let Ok(position) = serde_json::from_value::<Token>(record["position"].clone()) else { return };
        // Told to begin anew: what comes until the stream is opened again is not looked at.
        let Some(at) = state.position else { return };
        if record.get("lost").is_some_and(|lost| lost["through"].is_u64() || at.index > position.index) {
            state.position = None;
            state.losses += 1;
            return;
        }
        if record.get("gap").is_some() {
            state.wrong.get_or_insert(format!("a gap at {position:?}"));
        }
        for transaction in record["transactions"].as_array().into_iter().flatten() {
            for change in transaction["changes"].as_array().into_iter().flatten() {
                if change["table"] == self.table
                    && let Err(why) = self.change(&mut state, change)
                {
                    state.wrong.get_or_insert(format!("{why} at {position:?}: {change}"));
                }
            }
        }
        state.position = Some(position);
    }

    fn change(&self, state: &mut State, change: &Value) -> Result<(), String> {
        let (old, new) = (change["old"].as_object(), change["new"].as_object());
        if let Some(old) = old {
            let held = state.rows.remove(&key_of(old, self.key));
            if held.as_ref() != Some(old) {
                return Err(format!("a change of a row that the cache holds as {held:?}"));
            }
        }
        if let Some(new) = new
            && state.rows.insert(key_of(new, self.key), new.clone()).is_some()
        {
            return Err("a row comes that the cache has".to_owned());
        }
        Ok(())
    }
}

fn key_of(row: &Row, key: &str) -> String {
    row.get(key).map(Value::to_string).unwrap_or_default()
}
