//! A small history for a linearizability checker outside: one operation per line.

use serde::Serialize;

use super::Checks;
use super::reads::MAX_OPERATIONS;
use crate::client::{Ask, Key, Reply, Value};
use crate::record::Change;

/// Unknown ends are after everything.
const NEVER: u64 = u64::MAX >> 12;

#[derive(Serialize)]
struct Line {
    client: usize,
    begun: u64,
    ended: u64,
    /// `set`, `append` or `read`.
    kind: &'static str,
    key: String,
    /// What is written; of a read, what was seen.
    value: Vec<u64>,
    /// The answer is known.
    known: bool,
}

impl Checks {
    /// `None`: a loss was permitted, so that this history need not be linearizable; or nothing happened.
    pub fn export(&self) -> Option<String> {
        let fits = (1..=MAX_OPERATIONS).contains(&self.operations.len());
        if !self.lossy.is_empty() || !fits {
            return None;
        }
        let mut text = String::new();
        for operation in &self.operations {
            let (kind, key, value) = match (&operation.ask, &operation.reply) {
                (Ask::Write { op, .. }, _) => match op.change {
                    Change::Set { register, value } => ("set", format!("r{register}"), vec![value]),
                    Change::Append { list, value } => ("append", format!("l{list}"), vec![value]),
                },
                (Ask::Read { key, .. }, Some(Reply::Value { value, .. })) => {
                    let name = match key {
                        Key::Register(register) => format!("r{register}"),
                        Key::List(list) => format!("l{list}"),
                    };
                    let seen = match value {
                        Value::Register(value) => vec![*value],
                        Value::List(items) => items.clone(),
                    };
                    ("read", name, seen)
                }
                (Ask::Read { .. }, _) => continue,
            };
            let ended = operation.ended.unwrap_or(NEVER);
            let known = operation.ended.is_some();
            let line = Line { client: operation.client, begun: operation.begun, ended, kind, key, value, known };
            text.push_str(&serde_json::to_string(&line).ok()?);
            text.push('\n');
        }
        Some(text)
    }
}
