//! What can go wrong, classified by what the caller must do.
//!
//! | type | the caller |
//! | --- | --- |
//! | [`SqlFailure`] | answers the client; the transaction had no effect (or, after a [`CommitError`], says what is known) |
//! | [`QueryError`] | moves the query elsewhere ([`QueryError::BudgetExceeded`]) or answers the client |
//! | [`CommitError`] | made by the driver: why a group may not become visible |
//! | [`ApplyError`] | re-seeds (`Diverged`), waits for space (`Full`), upgrades (`PageSize`) |
//! | [`Fatal`] | ends the process: a committed group could not be made visible |

use rdb_protocol::api::{ApiError, ErrorCode};
use rdb_protocol::{Epoch, Index};

/// Why a client's transaction or query failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{api}")]
pub struct SqlFailure {
    pub api: ApiError,
    /// SQLite's extended result code, where it was SQLite that refused.
    pub sqlite_code: Option<i32>,
}

impl SqlFailure {
    pub fn new(code: ErrorCode, message: impl Into<String>, hint: impl Into<String>) -> SqlFailure {
        SqlFailure { api: code.error(message, hint), sqlite_code: None }
    }

    pub fn code(&self) -> ErrorCode {
        self.api.code
    }
}

impl From<SqlFailure> for ApiError {
    fn from(failure: SqlFailure) -> ApiError {
        failure.api
    }
}

/// Why the driver did not let a group become visible. Every transaction of the group gets it as its answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct CommitError(pub ApiError);

/// A group was committed (logged, acknowledged by followers), but SQLite could not make it visible. The only way on is to
/// end the process: the restart rolls forward from the log, and the clients get *unknown outcome*.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a committed group could not be made visible: {0}")]
pub struct Fatal(pub String);

/// Why a read could not be answered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QueryError<E = std::convert::Infallible> {
    /// The instruction budget is used up; run the query again elsewhere, with a larger one or none.
    #[error("the query needs more than its instruction budget")]
    BudgetExceeded,
    /// The `after_snapshot` check of [`crate::Reader::query_checked`] said no.
    #[error("refused after the snapshot was taken")]
    Refused(E),
    #[error("{0}")]
    Sql(#[from] SqlFailure),
}

/// Why records could not be applied. Nothing of the call is visible then.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    /// Our content would not be the leader's: stop serving, report, re-seed.
    #[error("content after record {epoch}/{index} would be {ours:016x}, the leader's is {leaders:016x}")]
    Diverged { epoch: Epoch, index: Index, leaders: u64, ours: u64 },
    /// Not the record that follows what the database holds: a defect of the caller.
    #[error("record {index} does not follow the database's position {applied}")]
    Order { applied: Index, index: Index },
    #[error("the record's pages are {record} bytes, the database's {database}: re-seed")]
    PageSize { record: u32, database: u32 },
    /// The record contradicts itself (a page beyond the database, an image of a wrong size).
    #[error("record {index} is malformed: {what}")]
    Malformed { index: Index, what: String },
    /// A statement or row change that succeeded on the leader did not here: the databases differ.
    #[error("record {index} cannot be applied: {what}")]
    Failed { index: Index, what: String },
    /// This node's software cannot apply such records: nothing is wrong with the data.
    #[error("{0}")]
    Incompatible(String),
    /// It holds pages alone, and the pages here are this database's own: nothing is wrong with its rows.
    #[error(
        "record {index} holds pages, and the pages of this node are its own since it applied row changes: it keeps its data and \
         needs a new base copy, which the operator orders when its copy can be spared (or rdb local reseed, or the annotation \
         replicateddb.io/reseed)"
    )]
    OtherLayout { index: Index },
    /// No space; try again when there is some.
    #[error("no space to apply records: {0}")]
    Full(String),
    #[error("applying records: {0}")]
    Io(String),
}

/// Why the engine could not be opened or could not do something for the node itself.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EngineError {
    /// The binary was built without what the engine needs (`.cargo/config.toml` was not read).
    #[error("this build of SQLite lacks {0}")]
    Build(String),
    /// There is no database at the path.
    #[error("{0} does not exist")]
    Missing(String),
    /// The file exists but is not a database of ours, or is of a newer version.
    #[error("{path} is not a ReplicatedDB database: {why}")]
    Foreign { path: String, why: String },
    #[error("the database is already being written by another role of this process")]
    Busy,
    #[error("no space: {0}")]
    Full(String),
    /// The file is ours, but SQLite cannot make sense of it.
    #[error("{doing}: the database is damaged: {why}")]
    Corrupt { doing: &'static str, why: String },
    #[error("{doing}: {why}")]
    Sqlite { doing: &'static str, why: String },
    #[error("{doing}: {why}")]
    Io { doing: &'static str, why: String },
}

/// Why a base copy could not be read or installed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SeedError {
    #[error("the base copy's checksum is {ours:016x}, stated was {stated:016x}")]
    Checksum { stated: u64, ours: u64 },
    #[error("the base copy is not a sequence of whole pages in order: {0}")]
    Malformed(String),
    #[error("no space for the base copy: {0}")]
    Full(String),
    #[error(transparent)]
    Engine(#[from] EngineError),
}
