//! The border between HTTP and the node's driver: what a request needs from the node, without sockets, headers or JSON
//! framing. The driver implements it; the tests of this module have a small one of their own.
//!
//! Who decides what: HTTP reads [`Backend::lead`] and sends writes and linearizable reads to the leader (here or over the
//! network), holds and retries them; the backend decides whether *this* node may answer at the asked-for consistency and
//! says [`ErrorCode::NotLeader`](rdb_protocol::api::ErrorCode) and the like when it may not. Such an answer must only be
//! given for what surely did not run.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use prometheus_client::registry::Registry;
use rdb_engine::{KeptOutcome, QueryResult, RequestKey, Statement};
use rdb_protocol::admin::{
    AdminRefusal, Fence, Follow, Init, LeaseAnswer, NextConfig, Probe, Promote, Recruit, Reseed, ResumeWrites, Settle,
    Shutdown, StopWrites,
};
use rdb_protocol::api::{ApiError, Consistency, Token};
use rdb_protocol::status::NodeStatus;
use rdb_protocol::{Epoch, NodeName};
use rdb_record::ClientTag;
use tokio::sync::{mpsc, watch};

/// When a request must have been answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline(pub Instant);

impl Deadline {
    pub fn after(wait: Duration) -> Deadline {
        Deadline(now() + wait)
    }

    /// For tokio's timers.
    pub(super) fn plus(self, grace: Duration) -> tokio::time::Instant {
        (self.0 + grace).into()
    }

    /// Zero when it has passed.
    pub fn remaining(self) -> Duration {
        self.0.saturating_duration_since(now())
    }

    pub fn passed(self) -> bool {
        self.remaining().is_zero()
    }
}

/// The clock of deadlines.
pub(super) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// `execute` (one statement) and `batch` (all or none), at the leader.
#[derive(Debug)]
pub struct WriteCall {
    pub statements: Vec<Statement>,
    /// Of the header `Idempotency-Key`.
    pub key: Option<RequestKey>,
    /// The write may only run in this epoch, and is refused with `NOT_LEADER` in another: who sent it here has perhaps given up
    /// on it by the time it is run, and then relies on its never taking effect in a later epoch.
    pub epoch: Epoch,
    /// What still waits in a queue then is dropped with `TIMEOUT`; what was ordered but is not committed is answered
    /// `UNKNOWN_OUTCOME` by HTTP.
    pub deadline: Deadline,
}

/// `query`, for this node.
#[derive(Debug)]
pub struct ReadCall {
    pub statement: Statement,
    pub level: Level,
    pub deadline: Deadline,
}

/// What a read may see, with what the level needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Refused with `NOT_LEADER` by a node that does not lead or has no valid lease after the snapshot was taken.
    Linearizable,
    /// Waits until `position` is applied; `NOT_YET` at the deadline, `POSITION_LOST` when it never will be.
    Session(Token),
    /// `NOT_YET` when this node cannot prove that it is fresh enough.
    Bounded(Duration),
    Any,
}

impl Level {
    pub fn consistency(self) -> Consistency {
        match self {
            Level::Linearizable => Consistency::Linearizable,
            Level::Session(_) => Consistency::Session,
            Level::Bounded(_) => Consistency::Bounded,
            Level::Any => Consistency::Any,
        }
    }
}

/// A finished read or write.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// One per statement.
    pub results: Vec<QueryResult>,
    /// Where the read looked, or the position of the write.
    pub position: Token,
}

/// Who leads, as this node knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lead {
    pub epoch: Epoch,
    pub place: Place,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Place {
    /// Nobody known, or this node leads and is not open yet: clients wait.
    #[default]
    Unknown,
    /// This node leads and is open for clients.
    Here,
    /// `host:port` of the leader's HTTP.
    There(Arc<str>),
}

/// Limits that settings may change at run time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    pub max_request_bytes: u64,
    /// Deadline of requests that name none.
    pub transaction_timeout: Duration,
    /// A status stream says something at least so often.
    pub heartbeat_interval: Duration,
}

impl Limits {
    pub fn of(settings: &rdb_protocol::settings::NodeSettings) -> Limits {
        Limits {
            max_request_bytes: settings.max_request_bytes,
            transaction_timeout: Duration::from_millis(settings.transaction_timeout_ms),
            heartbeat_interval: settings.heartbeat_interval(),
        }
    }
}

/// The operator's calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AdminCall {
    Init(Init),
    Fence(Fence),
    Promote(Promote),
    Follow(Follow),
    NextConfig(NextConfig),
    Settle(Settle),
    StopWrites(StopWrites),
    ResumeWrites(ResumeWrites),
    LeaseAnswer(LeaseAnswer),
    Reseed(Reseed),
    Probe(Probe),
    Shutdown(Shutdown),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AdminAnswer {
    Done,
    Recruit(Recruit),
}

/// A copy of the database file while the node goes on.
pub struct Snapshot {
    pub position: Token,
    /// When it is known before the first byte.
    pub length: Option<u64>,
    /// An `Err` breaks the connection off, so that nobody takes half a file for a whole one.
    pub chunks: mpsc::Receiver<std::io::Result<Bytes>>,
}

/// What a consumer of changes asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ChangesCall {
    /// It has everything up to here. `None`: it wants what comes from now on.
    pub from: Option<Token>,
    /// Whole records, for people, whatever their kind; the epoch of `from` does not matter.
    pub records: bool,
    /// The stream ends with what is there now.
    pub end: bool,
}

/// One line of `/readyz`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    pub name: &'static str,
    /// Why it does not hold.
    pub result: Result<(), String>,
}

/// What HTTP needs from a node. Every method returns at once or is a future that waits without blocking its thread.
pub trait Backend: Send + Sync + 'static {
    fn node(&self) -> &NodeName;

    /// Epoch and applied index, for the headers of answers that name no other position. On every request: cheap.
    fn here(&self) -> Token;

    /// On every request: cheap.
    fn limits(&self) -> Limits;

    /// Who leads. Asked for once; HTTP keeps the receiver.
    fn lead(&self) -> watch::Receiver<Lead>;

    /// Runs a transaction on this node, which leads as far as HTTP knows.
    fn write(&self, call: WriteCall) -> impl Future<Output = Result<Answer, ApiError>> + Send;

    /// Runs a read on this node.
    fn read(&self, call: ReadCall) -> impl Future<Output = Result<Answer, ApiError>> + Send;

    /// The kept result of the request with this key, as committed; this node leads as far as HTTP knows. `None`: there is
    /// none, by a linearizable read.
    fn outcome(
        &self,
        tag: ClientTag,
        deadline: Deadline,
    ) -> impl Future<Output = Result<Option<KeptOutcome>, ApiError>> + Send;

    fn status(&self) -> NodeStatus;

    /// Marked as changed with every change of [`Backend::status`] that somebody should hear of at once.
    fn status_changed(&self) -> watch::Receiver<()>;

    fn admin(&self, call: AdminCall) -> impl Future<Output = Result<AdminAnswer, AdminRefusal>> + Send;

    fn snapshot(&self) -> impl Future<Output = Result<Snapshot, ApiError>> + Send;

    /// Row changes of a divergent tail, from the archive.
    fn archived(
        &self,
        archive: String,
    ) -> impl Future<Output = Result<mpsc::Receiver<std::io::Result<Bytes>>, ApiError>> + Send;

    /// Lines of JSON, one per record, as long as somebody reads them.
    fn changes(
        &self,
        call: ChangesCall,
    ) -> impl Future<Output = Result<mpsc::Receiver<std::io::Result<Bytes>>, ApiError>> + Send;

    /// The node can serve clients when all hold.
    fn readiness(&self) -> Vec<Check>;

    /// The process can go on; a failed check gets it restarted.
    fn liveness(&self) -> Vec<Check>;

    /// Registers the node's metrics; called once.
    fn register_metrics(&self, registry: &mut Registry);
}
