//! Units in batches, one transaction each, in order, each exactly once.
//!
//! A batch that is refused for good is halved until the unit that is to blame stands alone; all before it are loaded then. A
//! batch that breaks a foreign key is doubled instead: what it refers to may come later in the file. Every attempt with other
//! content has a key of its own, and a repeated attempt the same key.

use std::collections::VecDeque;
use std::time::Duration;

use rdb_protocol::api::{Args, BatchRequest, BatchResponse, ErrorCode, Statement};

use super::{LoadError, Resume, Source, Unit};
use crate::client::{Client, ClientError, MARGIN, Patience};

/// Units in a batch, and their bytes: large enough that the round trips and flushes of a batch are a small part of its cost,
/// small enough that one takes some ten milliseconds and other writers get their turn.
const BATCH_UNITS: usize = 1000;
const BATCH_BYTES: usize = 1 << 20;

/// A batch that was joined with the following ones because of foreign keys may grow to this: three quarters of the largest
/// default request, since JSON adds to what is counted here.
const JOINED_BYTES: usize = 12 << 20;

/// Longest that one batch may run in the node: far more than it takes, and not so long that a load hangs on a node that does
/// not answer. A joined batch is up to twelve times larger.
const BATCH_DEADLINE: Duration = Duration::from_secs(10);
const JOINED_DEADLINE: Duration = Duration::from_secs(60);

pub struct Sender<'a> {
    client: &'a Client,
    patience: Duration,
    id: String,
    sequence: u64,
    /// Number of the first unit in `pending`, and of the first that is sent at all.
    next: u64,
    pending: VecDeque<Unit>,
    pending_bytes: usize,
    /// Units in the next batch.
    target: usize,
    /// The next batch holds exactly `target` units: it may be there already, under its key.
    exact: bool,
    statements: u64,
}

impl<'a> Sender<'a> {
    /// Sends from unit `first` on.
    pub fn new(client: &'a Client, patience: Duration, id: String, first: u64) -> Sender<'a> {
        Sender {
            client,
            patience,
            id,
            sequence: 1,
            next: first,
            pending: VecDeque::new(),
            pending_bytes: 0,
            target: BATCH_UNITS,
            exact: false,
            statements: 0,
        }
    }

    /// Sends the batch again that was under way, then the rest.
    pub fn resumed(client: &'a Client, patience: Duration, resume: Resume) -> Sender<'a> {
        let sender = Sender::new(client, patience, resume.client, resume.first);
        Sender { sequence: resume.sequence, target: resume.units, exact: true, ..sender }
    }

    /// Sends everything; returns how many statements that were.
    pub fn load(&mut self, source: &mut dyn Source, progress: &dyn Fn(u64)) -> Result<u64, LoadError> {
        let first = self.next;
        let mut number = 0;
        source.each(&mut |unit| {
            number += 1;
            if number < first {
                return Ok(());
            }
            self.pending_bytes += bytes(&unit);
            self.pending.push_back(unit);
            while self.is_full() {
                self.send(progress, false)?;
            }
            Ok(())
        })?;
        while !self.pending.is_empty() {
            self.send(progress, true)?;
        }
        Ok(self.statements)
    }

    fn is_full(&self) -> bool {
        let joined = self.target > BATCH_UNITS;
        let limit = if joined { JOINED_BYTES } else { BATCH_BYTES };
        self.pending.len() >= self.target || (!self.exact && self.pending_bytes >= limit)
    }

    /// Sends one batch from the front. `last`: nothing will follow what is pending.
    fn send(&mut self, progress: &dyn Fn(u64), last: bool) -> Result<(), LoadError> {
        let units = self.target.min(self.pending.len());
        let batch: Vec<&Unit> = self.pending.iter().take(units).collect();
        let defer = Statement { sql: "PRAGMA defer_foreign_keys=ON".to_owned(), args: Args::default() };
        let statements = batch.iter().flat_map(|unit| &unit.statements).cloned();
        let statements: Vec<Statement> = std::iter::once(defer).chain(statements).collect();
        let sent = (statements.len() - 1) as u64;
        let deadline = if units > BATCH_UNITS { JOINED_DEADLINE } else { BATCH_DEADLINE };
        let request = BatchRequest { statements, deadline_ms: Some(deadline.as_millis() as u64) };
        let patience = Patience { total: self.patience, answer: deadline + MARGIN, unreachable: true };
        let key = format!("{}:{}", self.id, self.sequence);
        match self.client.post_once::<_, BatchResponse>("/v1/batch", &request, &key, patience) {
            Ok(_) => {
                progress(batch.last().map_or(0, |unit| unit.done));
                self.sent(units, sent);
                Ok(())
            }
            Err(error) => self.adjust(units, error, last),
        }
    }

    fn sent(&mut self, units: usize, statements: u64) {
        for unit in self.pending.drain(..units) {
            self.pending_bytes -= bytes(&unit);
        }
        self.statements += statements;
        self.next += units as u64;
        self.sequence += 1;
        // After a joined batch back to the usual size, after a halved one slowly up again.
        self.target = if self.exact { BATCH_UNITS } else { (self.target * 2).min(BATCH_UNITS) };
        self.exact = false;
    }

    /// Chooses another size for the next attempt, or gives up.
    fn adjust(&mut self, units: usize, error: ClientError, last: bool) -> Result<(), LoadError> {
        let origin = self.pending.front().map_or(String::new(), |unit| unit.origin.clone());
        let ClientError::Api(refusal) = &error else {
            return Err(self.interrupted(origin, units, error));
        };
        let can_grow = units < self.pending.len() || (!last && self.pending_bytes < JOINED_BYTES);
        let by_size =
            matches!(refusal.code, ErrorCode::Timeout | ErrorCode::RequestTooLarge | ErrorCode::ResultTooLarge);
        let by_content = refusal.retry == rdb_protocol::api::Retry::Never;
        if refusal.code == ErrorCode::Constraint && refusal.message.contains("FOREIGN KEY") {
            if can_grow {
                self.target = (units * 2).max(BATCH_UNITS + 1);
            } else {
                let end = self.pending.get(units - 1).map_or(String::new(), |unit| unit.origin.clone());
                return Err(LoadError::Refused { origin: format!("{origin} to {end}"), number: self.next, error });
            }
        } else if units > 1 && (by_size || by_content) {
            self.target = units / 2;
        } else if by_size || by_content {
            return Err(LoadError::Refused { origin, number: self.next, error });
        } else {
            return Err(self.interrupted(origin, units, error));
        }
        // Other content, so another key.
        self.sequence += 1;
        self.exact = false;
        Ok(())
    }

    fn interrupted(&self, origin: String, units: usize, error: ClientError) -> LoadError {
        let resume = Resume { client: self.id.clone(), sequence: self.sequence, first: self.next, units };
        LoadError::Interrupted { origin, error, resume: Box::new(resume) }
    }
}

fn bytes(unit: &Unit) -> usize {
    let of = |statement: &Statement| {
        let args = match &statement.args {
            Args::Positional(values) => values.iter().map(value_bytes).sum(),
            Args::Named(values) => values.iter().map(|(name, value)| name.len() + value_bytes(value)).sum::<usize>(),
        };
        statement.sql.len() + args
    };
    unit.statements.iter().map(of).sum()
}

/// About what it takes as JSON.
fn value_bytes(value: &serde_json::Value) -> usize {
    match value {
        serde_json::Value::String(text) => text.len() + 3,
        serde_json::Value::Object(fields) => fields.values().map(|value| value_bytes(value) + 12).sum(),
        _ => 8,
    }
}
