//! What a leader writes first after a failover with loss: which positions vanished, for consumers of changes, and a gap in the
//! AUTOINCREMENT counters, for keys that the lost leader may have given out.
//!
//! It is written as soon as the leader is open, not with its first write: another leader may come before that, and it would know
//! nothing of the loss.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use rdb_engine::{Limits, QueryError, Slot, SqlFailure, Statement, Transaction, Value, Writer};
use rdb_protocol::Epoch;
use rdb_protocol::api::{ApiError, ErrorCode, Retry};
use rdb_record::{LossMark, Payload, Record};
use rdb_replication::Input;
use tokio::sync::oneshot;

use super::Node;
use super::group::{commit, reserve, run_group};
use super::worker::WriteJob;
use crate::clock;

/// A statement or two per AUTOINCREMENT table, each over a row.
const DEADLINE: std::time::Duration = std::time::Duration::from_secs(5);

/// By how much AUTOINCREMENT counters advance: 40,000 rows a second (the fastest benchmark) for 25 seconds, several times the
/// lag at which an asynchronous follower is still a candidate.
const LOST_KEYS: i64 = 1_000_000;

/// Tables that look like AUTOINCREMENT, with the column of their key. One that only mentions the word gets a counter that SQLite
/// never looks at.
const COUNTED: &str = "SELECT m.name, i.name FROM sqlite_schema AS m, pragma_table_info(m.name) AS i
    WHERE m.type = 'table' AND m.sql LIKE '%AUTOINCREMENT%' AND m.name NOT LIKE '^_rdb^_%' ESCAPE '^' AND i.pk > 0
    GROUP BY m.name HAVING count(*) = 1 AND upper(i.type) = 'INTEGER'";

type Answer = oneshot::Receiver<Result<rdb_engine::TransactionResult, ApiError>>;

/// Does this leader still have to say that its epoch began with a loss?
pub(super) fn is_owed(node: &Node) -> bool {
    let lossy = node.lossy_epoch.load(Ordering::Acquire);
    lossy != 0 && lossy == node.view.epoch().0
}

/// Says it. False when that could not be done now: a write before it could give out a key twice.
pub(super) fn settle(node: &Arc<Node>, writer: &mut Writer) -> bool {
    let lossy = node.lossy_epoch.load(Ordering::Acquire);
    if node.held_epoch.swap(lossy, Ordering::AcqRel) != lossy {
        node.hold_for_lost();
    }
    if node.marked_epoch.load(Ordering::Acquire) != lossy {
        if !mark(node, Epoch(lossy)) {
            return false;
        }
        // Not again when only the keys have to be tried again.
        node.marked_epoch.store(lossy, Ordering::Release);
    }
    if !advance_keys(node, writer, Epoch(lossy)) {
        return false;
    }
    // Unless the next epoch has begun with a loss meanwhile: that one is still to be said.
    let _ = node.lossy_epoch.compare_exchange(lossy, 0, Ordering::AcqRel, Ordering::Acquire);
    true
}

/// A record that tells consumers of changes which positions vanished.
fn mark(node: &Arc<Node>, epoch: Epoch) -> bool {
    // The job only lends its deadline.
    let (job, _) = job(epoch, Vec::new());
    let Some((slot, _)) = reserve(node, vec![job]) else { return false };
    if slot.epoch != epoch {
        node.drive(Input::ReleaseSlot);
        return false;
    }
    let kept = {
        let core = node.lock();
        let log = core.running.as_ref().map(|running| &running.log);
        log.and_then(|log| log.epoch_end(Epoch(epoch.0.saturating_sub(1)))).unwrap_or_default()
    };
    let timestamp = node.timestamp();
    let mark = LossMark { epoch: kept.epoch, after: kept.index };
    let record = Record { timestamp, content: 0, clients: Vec::new(), payload: Payload::Loss(mark) };
    let slot = Slot { epoch, previous: slot.previous, unix_ms: timestamp >> 16, timestamp };
    let index = slot.previous.index.next();
    node.group_since.store(clock::boot_micros(), Ordering::Release);
    let done = commit(node, slot, record).is_ok();
    node.group_since.store(0, Ordering::Release);
    if done {
        node.view.set_applied(index);
        node.drive(Input::Applied { index });
    }
    done
}

fn advance_keys(node: &Arc<Node>, writer: &mut Writer, epoch: Epoch) -> bool {
    let tables = match counted(node) {
        Ok(tables) => tables,
        Err(failure) => {
            tracing::error!(error = %failure.api.message, "cannot read which tables count their keys");
            return false;
        }
    };
    if tables.is_empty() {
        return true;
    }
    let (job, mut answer) = job(epoch, statements(&tables));
    if !run_group(node, writer, vec![job]) {
        return false;
    }
    match answer.try_recv() {
        // It may go well later: the disk is full, or there was no time.
        Ok(Err(error)) if error.retry != Retry::Never => {
            tracing::warn!(error = %error.message, "AUTOINCREMENT counters could not be advanced yet");
            false
        }
        // A table that only mentions the word has no counters either.
        Ok(Err(error)) => {
            tracing::warn!(error = %error.message, "AUTOINCREMENT counters stay as they are");
            true
        }
        _ => true,
    }
}

fn counted(node: &Node) -> Result<Vec<(String, String)>, SqlFailure> {
    let (statement, limits) = (Statement::new(COUNTED), Limits::default());
    let answer =
        node.with_reader::<_, std::convert::Infallible>(|reader| reader.query(&statement, &limits, None, None));
    let answer = answer.map_err(|error| match error {
        QueryError::Sql(failure) => failure,
        QueryError::Refused(never) => match never {},
        QueryError::BudgetExceeded => {
            SqlFailure { api: ErrorCode::Timeout.error("the schema took too long", "try again"), sqlite_code: None }
        }
    })?;
    let text = |value: &Value| if let Value::Text(text) = value { Some(text.clone()) } else { None };
    Ok(answer.result.rows().filter_map(|row| Some((text(row.first()?)?, text(row.get(1)?)?))).collect())
}

/// A table without rows has no counter yet, and one that was set back goes by its greatest key. Counters end at the greatest
/// key that there is.
fn statements(tables: &[(String, String)]) -> Vec<Statement> {
    let quoted = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
    let mut statements = Vec::new();
    for (table, key) in tables {
        let name = vec![Value::Text(table.clone())];
        let (from, key) = (quoted(table), quoted(key));
        statements.push(Statement::with(
            "INSERT INTO sqlite_sequence(name, seq) SELECT ?1, 0
             WHERE NOT EXISTS (SELECT 1 FROM sqlite_sequence WHERE name = ?1)",
            name.clone(),
        ));
        statements.push(Statement::with(
            format!(
                "UPDATE sqlite_sequence SET seq = {LOST_KEYS} + min({}, max(ifnull(CAST(seq AS INTEGER), 0),
                 ifnull((SELECT max({key}) FROM {from}), 0))) WHERE name = ?1",
                i64::MAX - LOST_KEYS
            ),
            name,
        ));
    }
    statements
}

fn job(epoch: Epoch, statements: Vec<Statement>) -> (WriteJob, Answer) {
    let (reply, answer) = oneshot::channel();
    let transaction = Transaction { statements, ..Transaction::default() };
    (WriteJob { transaction, epoch, deadline: clock::instant() + DEADLINE, reply }, answer)
}
