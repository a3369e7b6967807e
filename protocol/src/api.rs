//! The JSON of the client API `/v1` (`docs/http-api.md`). Values travel as [`serde_json::Value`]: integers beyond 2^53 as
//! strings, blobs as `{"base64": "…"}`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::ids::{Epoch, Index};

/// Arguments of a statement: by position, or by name without the leading `:`, `@` or `$`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Args {
    Positional(Vec<Value>),
    Named(BTreeMap<String, Value>),
}

impl Default for Args {
    fn default() -> Args {
        Args::Positional(Vec::new())
    }
}

/// One SQL statement with its arguments.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Statement {
    pub sql: String,
    #[serde(default)]
    pub args: Args,
}

/// `POST /v1/execute`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExecuteRequest {
    pub sql: String,
    #[serde(default)]
    pub args: Args,
    /// Milliseconds from the arrival of the request; the default is `access.transactionTimeout`.
    #[serde(default)]
    pub deadline_ms: Option<u64>,
}

/// What a read may see.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Consistency {
    /// The leader's, within its lease. The default: nobody is surprised.
    #[default]
    Linearizable,
    /// Any node that has applied `position`.
    Session,
    /// Any node whose staleness is below `max_staleness_ms`.
    Bounded,
    /// Any node.
    Any,
}

/// A session's token: the last position that the client has seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    pub epoch: Epoch,
    pub index: Index,
}

/// `POST /v1/query`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QueryRequest {
    pub sql: String,
    #[serde(default)]
    pub args: Args,
    #[serde(default)]
    pub consistency: Consistency,
    /// With `session`.
    #[serde(default)]
    pub position: Option<Token>,
    /// With `bounded`.
    #[serde(default)]
    pub max_staleness_ms: Option<u64>,
    #[serde(default)]
    pub deadline_ms: Option<u64>,
}

/// `POST /v1/batch`: the statements run in one transaction, all or none.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BatchRequest {
    pub statements: Vec<Statement>,
    #[serde(default)]
    pub deadline_ms: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Column {
    pub name: String,
    /// The declared type, or `null` for an expression.
    #[serde(rename = "type")]
    pub declared: Option<String>,
}

/// Result of one statement.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StatementResult {
    pub columns: Vec<Column>,
    pub rows: Vec<Vec<Value>>,
    pub rows_affected: u64,
    /// As text when beyond 2^53.
    pub last_insert_rowid: Value,
}

/// Answer to `execute` and `query`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ExecuteResponse {
    #[serde(flatten)]
    pub result: StatementResult,
    pub position: Token,
}

/// Answer to `batch`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BatchResponse {
    pub results: Vec<StatementResult>,
    pub position: Token,
}

/// May the client send the same request again?
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Retry {
    /// It surely did not run.
    Safe,
    /// Only with the same `Idempotency-Key`; without one it might run twice.
    WithKey,
    /// It would fail again.
    Never,
}

/// Is it known whether the request took effect?
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// It did not.
    None,
    /// It may have, or may yet.
    Unknown,
}

/// Every answer that is not a success: `{"error": {…}}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorResponse {
    pub error: ApiError,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{code}: {message}")]
pub struct ApiError {
    pub code: ErrorCode,
    pub message: String,
    /// What to do about it.
    pub hint: String,
    pub retry: Retry,
    pub outcome: Outcome,
}

impl std::fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

macro_rules! error_codes {
    ($($(#[$doc:meta])* $variant:ident = $text:literal, $http:literal, $retry:ident, $outcome:ident;)*) => {
        /// The stable codes, each with its HTTP status and what a client may conclude from it.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
        pub enum ErrorCode {
            $($(#[$doc])* #[serde(rename = $text)] $variant,)*
        }

        impl ErrorCode {
            pub const ALL: &'static [ErrorCode] = &[$(ErrorCode::$variant),*];

            pub fn as_str(self) -> &'static str {
                match self { $(ErrorCode::$variant => $text),* }
            }

            pub fn http_status(self) -> u16 {
                match self { $(ErrorCode::$variant => $http),* }
            }

            /// An error of this code with its usual retry and outcome.
            pub fn error(self, message: impl Into<String>, hint: impl Into<String>) -> ApiError {
                let (retry, outcome) = match self {
                    $(ErrorCode::$variant => (Retry::$retry, Outcome::$outcome)),*
                };
                ApiError { code: self, message: message.into(), hint: hint.into(), retry, outcome }
            }
        }
    };
}

error_codes! {
    /// The body is not the JSON that this call takes.
    BadRequest = "BAD_REQUEST", 400, Never, None;
    /// No such path, or the wrong method.
    NotFound = "NOT_FOUND", 404, Never, None;
    /// Missing or wrong bearer token.
    Unauthorized = "UNAUTHORIZED", 401, Never, None;
    /// The request is larger than `access.maxRequestSize`.
    RequestTooLarge = "REQUEST_TOO_LARGE", 413, Never, None;
    /// The result is larger than `access.maxResultSize`; the transaction was undone.
    ResultTooLarge = "RESULT_TOO_LARGE", 422, Never, None;
    /// SQLite refused the statement: syntax, missing table, wrong type.
    SqlError = "SQL_ERROR", 400, Never, None;
    /// A constraint failed; the transaction was undone.
    Constraint = "CONSTRAINT", 409, Never, None;
    /// The statement touches what clients may not touch (internal tables, ATTACH, some pragmas).
    Forbidden = "FORBIDDEN", 403, Never, None;
    /// A write was sent to `query`.
    ReadOnly = "READ_ONLY", 400, Never, None;
    /// Ran longer than its deadline and was undone.
    Timeout = "TIMEOUT", 408, Safe, None;
    /// No leader was known until the deadline.
    NoLeader = "NO_LEADER", 503, Safe, None;
    /// The node that got a request that only the leader may serve is not the leader (sent between nodes).
    NotLeader = "NOT_LEADER", 503, Safe, None;
    /// It is not known whether the write took effect: the deadline passed, or the leader was fenced, while it waited.
    UnknownOutcome = "UNKNOWN_OUTCOME", 504, WithKey, Unknown;
    /// The node has not applied the asked-for position by the deadline.
    NotYet = "NOT_YET", 503, Safe, None;
    /// The position was lost by a failover with loss.
    PositionLost = "POSITION_LOST", 409, Never, None;
    /// This node serves nothing now (seeding, diverged, halted); another does.
    Unavailable = "UNAVAILABLE", 503, Safe, None;
    /// The queue of waiting requests is full.
    Overloaded = "OVERLOADED", 503, Safe, None;
    /// Too little disk space to accept writes; reads go on.
    DiskFull = "DISK_FULL", 507, Safe, None;
    /// The idempotency key was used for another request.
    KeyReused = "KEY_REUSED", 409, Never, None;
    /// No outcome is recorded under this key.
    OutcomeUnknownKey = "NO_SUCH_KEY", 404, Safe, None;
    /// A defect of ours; the log has more.
    Internal = "INTERNAL", 500, WithKey, Unknown;
}
