//! Reads at each consistency level.
//!
//! A read first runs on the thread that serves the request, with an instruction budget: most are over in microseconds, and a
//! change of threads would cost more than they do. One that exceeds the budget is run again, from the start, where blocking is
//! allowed; reading twice is harmless.

use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use rdb_engine::{DbPosition, Engine, Limits, QueryError, Reader};
use rdb_protocol::Epoch;
use rdb_protocol::api::{ApiError, ErrorCode, Token};
use rdb_replication::{Replica, Time};

use super::worker::not_leader;
use super::{MAX_IDLE_READERS, Node};
use crate::clock;
use crate::http::backend::{Answer, Deadline, Level, ReadCall};

/// Virtual machine instructions that a read may run on an HTTP thread: some 200 microseconds.
const INLINE_BUDGET: u64 = 20_000;

impl Node {
    pub(super) async fn read_at(self: &Arc<Self>, call: ReadCall) -> Result<Answer, ApiError> {
        self.may_read(call.level)?;
        let generation = match call.level {
            Level::Session(token) => self.wait_for(token, call.deadline).await?,
            _ => 0,
        };
        match self.run_read(&call, generation, Some(INLINE_BUDGET)) {
            Err(QueryError::BudgetExceeded) => {}
            outcome => return outcome.map_err(flatten),
        }
        let node = self.clone();
        let run = tokio::task::spawn_blocking(move || node.run_read(&call, generation, None).map_err(flatten));
        run.await.unwrap_or_else(|error| Err(ErrorCode::Internal.error(error.to_string(), "see the node's log")))
    }

    /// Refuses at once what this node cannot answer.
    fn may_read(&self, level: Level) -> Result<(), ApiError> {
        if !self.view.serving() {
            return Err(unavailable());
        }
        match level {
            Level::Linearizable if !self.view.is_open() => Err(not_leader()),
            Level::Bounded(bound) => self.check_staleness(bound),
            Level::Linearizable | Level::Session(_) | Level::Any => Ok(()),
        }
    }

    fn check_staleness(&self, bound: Duration) -> Result<(), ApiError> {
        let core = self.lock();
        let now = Time(clock::boot_micros());
        match core.running.as_ref().and_then(|running| running.replica.staleness(now)) {
            Some(age) if age <= bound => Ok(()),
            Some(age) => Err(not_yet(format!("this node may be {} ms behind", age.as_millis()))),
            None => Err(not_yet("this node cannot tell how far it is behind".to_owned())),
        }
    }

    /// Waits until the token's position is applied here; gives the generation of the data that has it.
    async fn wait_for(&self, token: Token, deadline: Deadline) -> Result<u64, ApiError> {
        if !self.view.wait_applied(token.index, deadline.0.into()).await {
            return Err(not_applied(token));
        }
        self.check_session(token)
    }

    /// Do the data that are there now have the token's record? Gives their generation.
    fn check_session(&self, token: Token) -> Result<u64, ApiError> {
        let core = self.lock();
        let running = core.running.as_ref().filter(|_| self.view.serving()).ok_or_else(unavailable)?;
        match running.log.position(token.index) {
            Some(at) if at.epoch == token.epoch => Ok(core.generation),
            Some(at) => Err(ErrorCode::PositionLost.error(
                format!("position {}/{} is now {}/{}", token.epoch, token.index, at.epoch, at.index),
                "writes were lost by a failover; start a new session without a position",
            )),
            // Below the log's base, only a record of the base's own epoch is known to be an ancestor of it: an older epoch's
            // could have been lost by a failover, and another record stand in its place.
            None if token.index < running.log.base().index && token.epoch == running.log.base().epoch => {
                Ok(core.generation)
            }
            // The leader's log may go further back: it is asked in this node's place.
            None if token.index < running.log.base().index && !self.view.is_open() => Err(unavailable()),
            None if token.index < running.log.base().index => Err(ErrorCode::PositionLost.error(
                format!(
                    "whether position {}/{} is part of this history is not known any more",
                    token.epoch, token.index
                ),
                "start a new session without a position",
            )),
            // It was here when it was waited for, and has been cut since.
            None => Err(not_applied(token)),
        }
    }

    /// The position of a linearizable read, if this node still leads `epoch`, in which the snapshot was taken: a leader that
    /// was replaced and is back has a lease too, but others wrote meanwhile. A new leader's first record leaves no trace in the
    /// database; its position says in which epoch the read was answered, even before that epoch has written anything.
    fn confirm(&self, epoch: Epoch, snapshot: DbPosition) -> Result<Token, ApiError> {
        let core = self.lock();
        let now = Time(clock::boot_micros());
        let leads = |replica: &Replica| replica.is_open() && replica.epoch() == epoch && replica.lease_valid(now);
        let running = core.running.as_ref().filter(|running| leads(&running.replica)).ok_or_else(not_leader)?;
        if snapshot.epoch >= epoch {
            return Ok(Token { epoch: snapshot.epoch, index: snapshot.index });
        }
        let before = running.log.epoch_end(Epoch(epoch.0.saturating_sub(1))).unwrap_or(running.log.base());
        Ok(Token { epoch, index: before.index.next() })
    }

    fn run_read(&self, call: &ReadCall, generation: u64, budget: Option<u64>) -> Result<Answer, QueryError<ApiError>> {
        let limits = Limits { max_result_bytes: self.max_result_bytes() };
        // The epoch before the role: seen open after it, this node was open in this epoch before the snapshot.
        let epoch = self.view.epoch();
        if matches!(call.level, Level::Linearizable) && !self.view.is_open() {
            return Err(QueryError::Refused(not_leader()));
        }
        let read_at = Cell::new(None);
        let check = |snapshot: DbPosition| match call.level {
            // The snapshot is taken: only now the lease says that nobody else had committed before it.
            Level::Linearizable => self.confirm(epoch, snapshot).map(|position| read_at.set(Some(position))),
            Level::Bounded(bound) => self.check_staleness(bound),
            // The database may have been replaced since the position was found in it.
            Level::Session(token) if self.check_session(token)? != generation => Err(not_applied(token)),
            // Data that were given up meanwhile may hold what the cluster has not.
            Level::Any if !self.view.serving() => Err(unavailable()),
            Level::Session(_) | Level::Any => Ok(()),
        };
        let answer = self.with_reader(|reader| {
            reader.query_checked(&call.statement, &limits, budget, Some(call.deadline.0), check)
        })?;
        let snapshot = Token { epoch: answer.position.epoch, index: answer.position.index };
        let mut position = read_at.get().unwrap_or(snapshot);
        if let Level::Session(token) = call.level {
            // Records without pages leave no trace in the database; the session has seen them all the same.
            if token.index > position.index {
                position = token;
            }
        }
        Ok(Answer { results: vec![answer.result], position })
    }

    /// Lends a reader of the present database.
    pub(super) fn with_reader<T, E>(
        &self,
        run: impl FnOnce(&mut Reader) -> Result<T, QueryError<E>>,
    ) -> Result<T, QueryError<E>> {
        let engine = self.engine().ok_or_else(|| QueryError::Sql(sql_failure(unavailable())))?;
        let idle = self.readers.lock().pop();
        let mut reader = match idle {
            Some(reader) => reader,
            None => engine.reader().map_err(|error| {
                tracing::error!(%error, "cannot open a reader");
                QueryError::Sql(sql_failure(unavailable()))
            })?,
        };
        let outcome = run(&mut reader);
        self.give_back(&engine, reader);
        outcome
    }

    /// Keeps a reader for the next, unless the database was replaced meanwhile.
    fn give_back(&self, engine: &Arc<Engine>, reader: Reader) {
        let present = self.engine.read();
        if present.as_ref().is_some_and(|present| Arc::ptr_eq(present, engine)) {
            let mut readers = self.readers.lock();
            if readers.len() < MAX_IDLE_READERS {
                readers.push(reader);
            }
        }
    }

    pub(super) async fn kept_outcome(
        self: &Arc<Self>,
        tag: rdb_record::ClientTag,
    ) -> Result<Option<rdb_engine::KeptOutcome>, ApiError> {
        self.may_read(Level::Linearizable)?;
        let kept = self.with_reader(|reader| {
            reader.outcome(&tag).map_err(|error| {
                tracing::error!(%error, "cannot look up an outcome");
                QueryError::<ApiError>::Sql(sql_failure(unavailable()))
            })
        });
        let kept = kept.map_err(flatten)?;
        if self.lease_valid() { Ok(kept) } else { Err(not_leader()) }
    }

    pub(super) fn max_result_bytes(&self) -> u64 {
        self.result_limit.load(std::sync::atomic::Ordering::Relaxed)
    }
}

fn flatten(error: QueryError<ApiError>) -> ApiError {
    match error {
        QueryError::BudgetExceeded => ErrorCode::Timeout.error("the read took too long", "allow more time"),
        QueryError::Refused(error) => error,
        QueryError::Sql(failure) => failure.api,
    }
}

fn sql_failure(api: ApiError) -> rdb_engine::SqlFailure {
    rdb_engine::SqlFailure { api, sqlite_code: None }
}

pub(super) fn unavailable() -> ApiError {
    ErrorCode::Unavailable
        .error("this node serves nothing now: it has no usable data", "try another node; see its status")
}

fn not_applied(token: Token) -> ApiError {
    not_yet(format!("record {} is not applied here yet", token.index))
}

fn not_yet(message: String) -> ApiError {
    ErrorCode::NotYet.error(message, "try again, allow more time or staleness, or read at the leader")
}
