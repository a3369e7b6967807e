//! The follower's way through the leader's door: a statement record is run again, with the clock and the random numbers of
//! then, and made visible only if the database then has the leader's content, byte for byte.

use rdb_protocol::{Index, Position};
use rdb_record::{CellRef, ClientTag, Record, StatementGroup, StatementTransaction};
use rusqlite::ffi;

use super::commit::{CommitPoint, Decision};
use super::conduct::Conduct;
use super::execute::Stop;
use super::{Recording, Slot, Writer};
use crate::capture::Capture;
use crate::chance;
use crate::error::{ApplyError, CommitError};
use crate::sql::failure::failure;
use crate::sql::statement::SqliteError;
use crate::value::{Args, Limits, RequestKey, Statement, Transaction, Value};
use crate::vfs;

impl Writer {
    /// Runs the statements of the record at `position`. Nothing of it is visible after an error.
    pub(crate) fn rerun(
        &mut self,
        position: Position,
        record: &Record,
        group: &StatementGroup,
        any_sqlite: bool,
    ) -> Result<(), ApplyError> {
        self.check_replay(group, any_sqlite)?;
        self.run_again(position, record, group).map_err(|error| match error {
            // Rather SQLite's other version than the data, with which the leader's can go on.
            ApplyError::Diverged { .. } | ApplyError::Failed { .. } if group.sqlite != sqlite_version() => {
                came_out_otherwise(group.sqlite, &error)
            }
            error => error,
        })
    }

    fn run_again(&mut self, position: Position, record: &Record, group: &StatementGroup) -> Result<(), ApplyError> {
        let index = position.index;
        let transactions = transactions(index, record, group)?;
        let shared = std::sync::Arc::clone(&self.turn.0);
        let _gate = shared.gauge.gate.lock();
        let previous = Position { epoch: position.epoch, index: Index(index.0 - 1), chain: group.previous_chain };
        let timestamp = record.timestamp;
        let slot = Slot { epoch: position.epoch, previous, unix_ms: timestamp >> 16, timestamp };
        let mut ours = record.content;
        let mut verify = |made: Record| {
            ours = made.content;
            // The refusal is for nobody: the caller sees `ours`.
            if made.content == record.content { Ok(()) } else { Err(diverged()) }
        };
        self.set_recording(Recording { watched: group.watched, ..Recording::replay() }).map_err(environment)?;
        self.conduct_as(Conduct::Client).map_err(environment)?;
        let empty = Capture::new(shared.page_size, 0);
        let capture = std::mem::replace(&mut self.capture, empty);
        let point = CommitPoint::new(&shared, capture, &mut verify, timestamp);
        chance::begin_group(slot.unix_ms, index.0, group.seed);
        let ran = vfs::with_sink(&point, || self.replay_all(&slot, &transactions, &point));
        chance::end_group();
        let (decision, frames) = (point.take_decision(), point.frames());
        self.capture = point.into_capture();
        match (ran, decision) {
            (Ok(()), Decision::Committed(change)) => {
                let position = slot.position();
                if let Some(table) = shared.table.lock().as_mut() {
                    table.install(&change, position);
                }
                shared.gauge.add(frames);
                self.position = position;
                self.rows_committed();
                self.rows.stale = true;
                Ok(())
            }
            (ran, decision) => {
                self.roll_back();
                Err(match (ran, decision) {
                    (_, Decision::Refused(_)) => {
                        ApplyError::Diverged { epoch: position.epoch, index, leaders: record.content, ours }
                    }
                    (Err(error), _) => error,
                    (Ok(()), _) => ApplyError::Failed { index, what: "it changes nothing here".to_owned() },
                })
            }
        }
    }

    /// Replaying is sure to be exact only with the leader's SQLite and page size.
    fn check_replay(&self, group: &StatementGroup, any_sqlite: bool) -> Result<(), ApplyError> {
        let ours = sqlite_version();
        let database = self.turn.0.page_size;
        if group.page_size != database {
            return Err(ApplyError::PageSize { record: group.page_size, database });
        }
        if group.sqlite != ours && !any_sqlite {
            return Err(ApplyError::Incompatible(format!(
                "the leader logs statements of SQLite {}, and this node has {}, which may run them otherwise: start it with \
                 the leader's version; or set replication.logFormat to page or logical, then re-seed this node (rdb local \
                 reseed, or the annotation replicateddb.io/reseed)",
                dotted(group.sqlite),
                dotted(ours),
            )));
        }
        Ok(())
    }

    fn replay_all(
        &mut self,
        slot: &Slot,
        transactions: &[(u32, Transaction)],
        point: &CommitPoint<'_>,
    ) -> Result<(), ApplyError> {
        let index = slot.position().index;
        point.reset();
        self.session.progress.stop();
        self.internal(|own| own.sql.begin.execute()).map_err(environment)?;
        for (number, transaction) in transactions {
            chance::begin_transaction(*number);
            match self.execute(transaction, slot) {
                Ok(done) => {
                    if let (true, Some(key)) = (done.keyed, &transaction.key) {
                        point.add_client(key.tag.clone());
                    }
                }
                Err(Stop::Full(failure)) => return Err(ApplyError::Full(failure.api.message)),
                Err(Stop::Undone(failure) | Stop::Broken(failure)) => {
                    let what = format!("a statement that succeeded on the leader fails here: {}", failure.api.message);
                    return Err(ApplyError::Failed { index, what });
                }
            }
        }
        self.order_record(slot, point).map_err(environment)?;
        self.ordered.store(true, std::sync::atomic::Ordering::Relaxed);
        let committed = self.internal(|own| own.sql.commit.execute());
        self.ordered.store(false, std::sync::atomic::Ordering::Relaxed);
        committed.map_err(environment)
    }
}

fn sqlite_version() -> u32 {
    // SAFETY: a plain question to the library.
    unsafe { ffi::sqlite3_libversion_number() as u32 }
}

fn came_out_otherwise(theirs: u32, error: &ApplyError) -> ApplyError {
    ApplyError::Incompatible(format!(
        "a record of statements was logged by SQLite {}, and comes out otherwise with this node's {}, so it was undone: start it \
         with the leader's version, which can go on with its data ({error})",
        dotted(theirs),
        dotted(sqlite_version()),
    ))
}

/// SQLite's version number as people write it.
fn dotted(version: u32) -> String {
    format!("{}.{}.{}", version / 1_000_000, version / 1000 % 1000, version % 1000)
}

pub(super) fn environment(error: SqliteError) -> ApplyError {
    if error.is_full() { ApplyError::Full(error.message) } else { ApplyError::Io(failure(error, None).api.message) }
}

fn diverged() -> CommitError {
    CommitError(rdb_protocol::api::ErrorCode::Unavailable.error("the content is not the leader's", ""))
}

fn transactions(index: Index, record: &Record, group: &StatementGroup) -> Result<Vec<(u32, Transaction)>, ApplyError> {
    let malformed = |what: String| ApplyError::Malformed { index, what };
    let logged = group.transactions().map_err(|error| malformed(error.to_string()))?;
    let whole = |transaction: &StatementTransaction<'_>| {
        let key = match transaction.key {
            None => None,
            Some((tag, request_hash)) => {
                let tag = record.clients.get(tag).ok_or_else(|| malformed("a client tag is missing".to_owned()))?;
                Some(RequestKey { tag: ClientTag::clone(tag), request_hash })
            }
        };
        let statements = transaction
            .statements
            .iter()
            .map(|logged| Statement { sql: logged.sql.to_owned(), args: args(logged.named, &logged.args) });
        let limits = Limits { max_result_bytes: u64::MAX };
        Ok((transaction.number, Transaction { statements: statements.collect(), key, limits, deadline: None }))
    };
    logged.iter().map(whole).collect()
}

/// Logged arguments as a client gives them.
pub(super) fn args(named: bool, args: &[(&str, CellRef<'_>)]) -> Args {
    if named {
        Args::Named(args.iter().map(|(name, cell)| ((*name).to_owned(), Value::from_cell(*cell))).collect())
    } else {
        Args::Positional(args.iter().map(|(_, cell)| Value::from_cell(*cell)).collect())
    }
}
