//! Reading a request: its headers, its body within limits, and the call in it.

use std::str::FromStr;

use bytes::{Buf, Bytes, BytesMut};
use futures_util::{Stream, StreamExt};
use rdb_engine::{Args, RequestKey, Statement, Value};
use rdb_protocol::api::{ApiError, Consistency, ErrorCode, Token};
use rdb_record::ClientTag;
use serde::Deserialize;
use std::time::{Duration, Instant};
use xxhash_rust::xxh3::Xxh3;

use super::auth::Caller;
use super::backend::{Deadline, Level, Limits};
use super::errors;
use super::values;

/// Longest deadline that a request may ask for: whoever waits longer than ten minutes has lost the connection by then.
const MAX_DEADLINE: Duration = Duration::from_secs(600);

/// Longest client id of an idempotency key: a UUID and a host name fit, and the internal table stays small.
const MAX_CLIENT_BYTES: usize = 64;

/// How much of an oversized body is read and dropped, as a multiple of the limit, so that a client that is still sending
/// gets to read our answer instead of a reset connection.
const DRAIN_FACTOR: u64 = 4;

/// `Idempotency-Key: <client>:<sequence>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KeyHeader(pub ClientTag);

#[derive(Debug, thiserror::Error)]
#[error("not <client>:<sequence>")]
pub(crate) struct KeyHeaderError;

impl FromStr for KeyHeader {
    type Err = KeyHeaderError;

    fn from_str(text: &str) -> Result<KeyHeader, KeyHeaderError> {
        // The last colon, so that a client id may hold some.
        let (client, sequence) = text.rsplit_once(':').ok_or(KeyHeaderError)?;
        let printable = client.bytes().all(|b| b.is_ascii_graphic());
        let digits = !sequence.is_empty() && sequence.bytes().all(|b| b.is_ascii_digit());
        if client.is_empty() || client.len() > MAX_CLIENT_BYTES || !printable || !digits {
            return Err(KeyHeaderError);
        }
        let sequence = sequence.parse().map_err(|_| KeyHeaderError)?;
        Ok(KeyHeader(ClientTag { client: client.to_owned(), sequence }))
    }
}

/// What the headers of a client's request say.
#[derive(Clone, Debug)]
pub(crate) struct Head {
    pub(crate) caller: Caller,
    pub(crate) key: Option<ClientTag>,
    /// Set by a node that forwarded the request: what is left of the deadline.
    pub(crate) deadline_ms: Option<u64>,
    /// Forwarded once already: not again, or two nodes that take each other for the leader would play ping-pong.
    pub(crate) forwarded: bool,
    /// Set by a node that forwarded the request: the only epoch in which it may run.
    pub(crate) epoch: Option<u64>,
}

/// The POST calls of clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    Execute,
    Query,
    Batch,
}

impl Call {
    pub(crate) fn of_path(path: &str) -> Option<Call> {
        match path {
            "/v1/execute" => Some(Call::Execute),
            "/v1/query" => Some(Call::Query),
            "/v1/batch" => Some(Call::Batch),
            _ => None,
        }
    }

    pub(crate) fn path(self) -> &'static str {
        match self {
            Call::Execute => "/v1/execute",
            Call::Query => "/v1/query",
            Call::Batch => "/v1/batch",
        }
    }
}

/// A parsed body.
pub(crate) struct Parsed {
    pub(crate) work: Work,
    pub(crate) deadline_ms: Option<u64>,
}

pub(crate) enum Work {
    Write(Vec<Statement>),
    Read(Statement, Level),
}

/// [`rdb_protocol::api::ExecuteRequest`] with values parsed in place; the other two likewise.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ExecuteBody {
    sql: String,
    #[serde(default, deserialize_with = "values::args")]
    args: Args,
    #[serde(default)]
    deadline_ms: Option<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct QueryBody {
    sql: String,
    #[serde(default, deserialize_with = "values::args")]
    args: Args,
    #[serde(default)]
    consistency: Consistency,
    #[serde(default)]
    position: Option<Token>,
    #[serde(default)]
    max_staleness_ms: Option<u64>,
    #[serde(default)]
    deadline_ms: Option<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StatementBody {
    sql: String,
    #[serde(default, deserialize_with = "values::args")]
    args: Args,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BatchBody {
    statements: Vec<StatementBody>,
    #[serde(default)]
    deadline_ms: Option<u64>,
}

pub(crate) fn parse(call: Call, body: &[u8]) -> Result<Parsed, ApiError> {
    let bad = |error| errors::bad_json(error, call.path());
    match call {
        Call::Execute => {
            let ExecuteBody { sql, args, deadline_ms } = serde_json::from_slice(body).map_err(bad)?;
            let work = Work::Write(vec![Statement { sql, args }]);
            Ok(Parsed { work, deadline_ms })
        }
        Call::Batch => {
            let BatchBody { statements, deadline_ms } = serde_json::from_slice(body).map_err(bad)?;
            let statement = |StatementBody { sql, args }| Statement { sql, args };
            let work = Work::Write(statements.into_iter().map(statement).collect());
            Ok(Parsed { work, deadline_ms })
        }
        Call::Query => {
            let body: QueryBody = serde_json::from_slice(body).map_err(bad)?;
            let level = level(&body)?;
            let statement = Statement { sql: body.sql, args: body.args };
            Ok(Parsed { work: Work::Read(statement, level), deadline_ms: body.deadline_ms })
        }
    }
}

fn level(body: &QueryBody) -> Result<Level, ApiError> {
    let missing = |field: &str, level: &str| {
        ErrorCode::BadRequest
            .error(format!("`consistency: {level}` needs `{field}`"), "See `/v1/query` in /v1/openapi.json.")
    };
    match body.consistency {
        Consistency::Linearizable => Ok(Level::Linearizable),
        Consistency::Any => Ok(Level::Any),
        Consistency::Session => body.position.map(Level::Session).ok_or_else(|| missing("position", "session")),
        Consistency::Bounded => body
            .max_staleness_ms
            .map(|ms| Level::Bounded(Duration::from_millis(ms)))
            .ok_or_else(|| missing("max_staleness_ms", "bounded")),
    }
}

/// The deadline of a request: what a forwarding node handed on, or what the body asks for, or the default.
pub(crate) fn deadline(head: &Head, asked_ms: Option<u64>, limits: &Limits, arrived: Instant) -> Deadline {
    let wait = head.deadline_ms.or(asked_ms).map_or(limits.transaction_timeout, Duration::from_millis);
    Deadline(arrived + wait.min(MAX_DEADLINE))
}

/// The key with a hash of what was asked, so that another request under the same key is noticed.
pub(crate) fn key(tag: Option<&ClientTag>, statements: &[Statement]) -> Option<RequestKey> {
    tag.map(|tag| RequestKey { tag: tag.clone(), request_hash: fingerprint(statements) })
}

fn fingerprint(statements: &[Statement]) -> u64 {
    let mut hash = Xxh3::new();
    let mut text = |kind: u8, bytes: &[u8]| {
        // Length first, so that two texts never run into each other.
        hash.update(&[kind]);
        hash.update(&(bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
    };
    for statement in statements {
        text(b'S', statement.sql.as_bytes());
        match &statement.args {
            Args::Positional(values) => values.iter().for_each(|value| add(&mut text, value)),
            Args::Named(values) => {
                for (name, value) in values {
                    text(b'n', name.as_bytes());
                    add(&mut text, value);
                }
            }
        }
    }
    hash.digest()
}

fn add(text: &mut impl FnMut(u8, &[u8]), value: &Value) {
    match value {
        Value::Null => text(b'0', b""),
        Value::Integer(value) => text(b'i', &value.to_le_bytes()),
        Value::Real(value) => text(b'r', &value.to_bits().to_le_bytes()),
        Value::Text(value) => text(b't', value.as_bytes()),
        Value::Blob(value) => text(b'b', value),
    }
}

/// Reads a body of at most `limit` bytes. `declared`: its `Content-Length`.
pub(crate) async fn body<C: Buf>(
    stream: impl Stream<Item = Result<C, warp::Error>>,
    declared: Option<u64>,
    limits: &Limits,
    arrived: Instant,
) -> Result<Bytes, ApiError> {
    let limit = limits.max_request_bytes;
    if declared.is_some_and(|length| length > limit.saturating_mul(DRAIN_FACTOR)) {
        return Err(errors::too_large(limit));
    }
    let until = arrived + limits.transaction_timeout;
    match tokio::time::timeout_at(until.into(), collect(stream, limit)).await {
        Ok(result) => result,
        Err(_) => Err(ErrorCode::Timeout
            .error("the body did not arrive in time", "Send the request at once, or in smaller parts.")),
    }
}

async fn collect<C: Buf>(stream: impl Stream<Item = Result<C, warp::Error>>, limit: u64) -> Result<Bytes, ApiError> {
    let mut stream = std::pin::pin!(stream);
    let mut whole = Bytes::new();
    let mut parts = BytesMut::new();
    let mut seen: u64 = 0;
    while let Some(chunk) = stream.next().await {
        let mut chunk = chunk.map_err(|error| {
            ErrorCode::BadRequest
                .error(format!("the body broke off: {error}"), "Send it as long as `Content-Length` says.")
        })?;
        seen += chunk.remaining() as u64;
        if seen > limit.saturating_mul(DRAIN_FACTOR) {
            break;
        }
        if seen > limit {
            continue;
        }
        let chunk = chunk.copy_to_bytes(chunk.remaining());
        // One chunk is the rule, and costs no copy.
        if whole.is_empty() && parts.is_empty() {
            whole = chunk;
        } else {
            parts.extend_from_slice(&whole);
            whole = Bytes::new();
            parts.extend_from_slice(&chunk);
        }
    }
    if seen > limit {
        return Err(errors::too_large(limit));
    }
    Ok(if parts.is_empty() { whole } else { parts.freeze() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idempotency_keys_are_client_and_sequence() {
        let key = |text: &str| text.parse::<KeyHeader>().ok().map(|KeyHeader(tag)| tag);
        let tag = key("a:b:7").unwrap();
        assert_eq!((tag.client.as_str(), tag.sequence), ("a:b", 7));
        assert!(key(&format!("{}:1", "x".repeat(64))).is_some());
        for bad in ["", "a", ":1", "a:", "a:-1", "a:+1", "a:1x", "a b:1", "a:99999999999999999999"] {
            assert!(key(bad).is_none(), "{bad}");
        }
        assert!(key(&format!("{}:1", "x".repeat(65))).is_none());
    }

    #[test]
    fn fingerprints_tell_requests_apart() {
        let of = |body: &str| match parse(Call::Batch, body.as_bytes()).unwrap().work {
            Work::Write(statements) => fingerprint(&statements),
            Work::Read(..) => unreachable!(),
        };
        let one = of(r#"{"statements":[{"sql":"a","args":["b",1]}]}"#);
        assert_eq!(one, of(r#"{"deadline_ms":9,"statements":[{"args":["b", 1],"sql":"a"}]}"#));
        for other in [
            r#"{"statements":[{"sql":"a","args":["b",1.0]}]}"#,
            r#"{"statements":[{"sql":"a","args":["b1"]}]}"#,
            r#"{"statements":[{"sql":"a","args":["b"]},{"sql":"","args":[1]}]}"#,
            r#"{"statements":[{"sql":"a","args":{"b":1}}]}"#,
        ] {
            assert_ne!(one, of(other), "{other}");
        }
    }
}
