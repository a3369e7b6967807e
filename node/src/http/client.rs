//! The calls of clients: `execute`, `query`, `batch` and `outcome`.

use bytes::{Buf, Bytes};
use futures_util::Stream;
use rdb_protocol::api::{ApiError, ErrorCode};
use warp::reply::Response;

use super::app::App;
use super::backend::{self, Backend, Deadline, Level};
use super::errors;
use super::forward::{self, Job, What};
use super::request::{self, Call, Head, KeyHeader, Parsed, Work};

/// A POST call. The order matters: who may not call learns nothing about the body, and a bad body never reaches the engine.
pub(crate) async fn call<B: Backend, C: Buf>(
    app: &App<B>,
    call: Call,
    head: Head,
    length: Option<u64>,
    body: impl Stream<Item = Result<C, warp::Error>>,
) -> Response {
    match try_call(app, call, head, length, body).await {
        Ok(response) => response,
        Err(error) => errors::error(error),
    }
}

async fn try_call<B: Backend, C: Buf>(
    app: &App<B>,
    call: Call,
    head: Head,
    length: Option<u64>,
    body: impl Stream<Item = Result<C, warp::Error>>,
) -> Result<Response, ApiError> {
    app.tokens.client(&head.caller)?;
    let (limits, arrived) = (app.backend.limits(), backend::now());
    let body = request::body(body, length, &limits, arrived).await?;
    let Parsed { work, deadline_ms } = request::parse(call, &body)?;
    let deadline = request::deadline(&head, deadline_ms, &limits, arrived);
    match work {
        Work::Read(statement, level) if level != Level::Linearizable => {
            match forward::read(app, statement, level, deadline).await {
                // This node has nothing to show (it is being seeded, say); the leader can serve every level.
                Err(error) if error.code == ErrorCode::Unavailable && !head.forwarded => {
                    Box::pin(at_leader(app, call, body, None, head, deadline)).await
                }
                done => done,
            }
        }
        work => at_leader(app, call, body, Some(work), head, deadline).await,
    }
}

async fn at_leader<B: Backend>(
    app: &App<B>,
    call: Call,
    body: Bytes,
    work: Option<Work>,
    head: Head,
    deadline: Deadline,
) -> Result<Response, ApiError> {
    let what = What::Call { call, body, work };
    let job = Job { what, head, deadline };
    forward::at_leader(app, job).await
}

/// `GET /v1/outcome/<key>`.
pub(crate) async fn outcome<B: Backend>(app: &App<B>, key: &str, head: Head) -> Response {
    match try_outcome(app, key, head).await {
        Ok(response) => response,
        Err(error) => errors::error(error),
    }
}

async fn try_outcome<B: Backend>(app: &App<B>, key: &str, head: Head) -> Result<Response, ApiError> {
    app.tokens.client(&head.caller)?;
    let key = decode(key).and_then(|key| key.parse::<KeyHeader>().ok());
    let Some(KeyHeader(tag)) = key else {
        return Err(ErrorCode::BadRequest
            .error("the path does not end in an idempotency key", "It is `/v1/outcome/<client>:<sequence>`."));
    };
    let deadline = request::deadline(&head, None, &app.backend.limits(), backend::now());
    let job = Job { what: What::Outcome(tag), head, deadline };
    forward::at_leader(app, job).await
}

/// Undoes %XX; `None` when that is not text.
fn decode(path: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let (digits, tail) = rest.split_at_checked(2)?;
        let digits = std::str::from_utf8(digits).ok()?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        rest = tail;
    }
    String::from_utf8(bytes).ok()
}
