//! Bringing a request to the leader, wherever it is: run here, or forwarded over a kept connection; held while nobody
//! leads; tried again only when the earlier attempt surely did not run, or when trying twice is harmless (reads, and writes
//! with an idempotency key).
//!
//! An attempt ends in one of four ways:
//!
//! | the attempt | a read, or a write with a key | a write without a key |
//! | --- | --- | --- |
//! | answered: success, or an error of the request itself | passed on | passed on |
//! | surely did not run: connection refused, `NOT_LEADER`, `NO_LEADER` | again | again |
//! | broke off after it was sent, or `UNKNOWN_OUTCOME` | again | `UNKNOWN_OUTCOME` |
//! | deadline | `TIMEOUT`; `UNKNOWN_OUTCOME` if an attempt is in doubt | the same |
//!
//! An attempt that broke off may still lie unread at the leader, and be run after a later one: an error of the later one would
//! then be followed by a success that nobody expects. So every attempt is bound to the epoch that it was meant for, and an error
//! counts only when it comes from a later epoch than all attempts in doubt: by then, what was committed of them is known there.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::Request;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderName, HeaderValue};
use hyper::http::Method;
use rdb_engine::Statement;
use rdb_protocol::Epoch;
use rdb_protocol::api::{ApiError, ErrorCode, ErrorResponse, Outcome, Token};
use rdb_record::ClientTag;
use tokio::sync::watch;
use tokio::time::{timeout, timeout_at};
use warp::reply::Response;

use super::app::App;
use super::backend::{Backend, Deadline, Lead, Level, Place, ReadCall, WriteCall};
use super::pool::{Broken, Reply};
use super::request::{self, Call, Head, Work};
use super::token::Secret;
use super::{errors, values};

pub(crate) const DEADLINE: HeaderName = HeaderName::from_static("rdb-deadline-ms");
pub(crate) const FORWARDED: HeaderName = HeaderName::from_static("rdb-forwarded");
pub(crate) const KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// What a deadline here leaves to the backend or the leader to answer by itself: its answer says more than ours.
const GRACE: Duration = Duration::from_millis(50);

/// How long a replaced leader may still answer what it was sent: several round trips, and not much of an outage.
const LINGER: Duration = Duration::from_millis(100);

/// Waits between attempts while the lead does not change (a leader that refuses connections or has lost its lease): from
/// one that a client hardly notices to one that costs little with hundreds of held requests.
const FIRST_WAIT: Duration = Duration::from_millis(4);
const LONGEST_WAIT: Duration = Duration::from_millis(64);

/// A request that the leader must answer.
pub(crate) struct Job {
    pub(crate) what: What,
    pub(crate) head: Head,
    pub(crate) deadline: Deadline,
}

pub(crate) enum What {
    /// `execute`, `query` and `batch`; the body as it came, for the leader. `work` is taken by the first attempt here.
    Call { call: Call, body: Bytes, work: Option<Work> },
    /// `GET /v1/outcome/<key>`.
    Outcome(ClientTag),
}

impl Job {
    /// Is it harmless to run it twice?
    fn is_repeatable(&self) -> bool {
        match &self.what {
            What::Call { call, .. } => *call == Call::Query || self.head.key.is_some(),
            What::Outcome(_) => true,
        }
    }

    fn is_write(&self) -> bool {
        matches!(&self.what, What::Call { call, .. } if *call != Call::Query)
    }

    fn in_doubt(&self, reason: &str) -> ApiError {
        if self.is_write() { errors::unknown_outcome(reason) } else { errors::timeout() }
    }
}

pub(crate) async fn at_leader<B: Backend>(app: &App<B>, mut job: Job) -> Result<Response, ApiError> {
    // The usual case, without cloning a receiver.
    let (epoch, here) = {
        let lead = app.lead.borrow();
        (lead.epoch, lead.place == Place::Here)
    };
    if here {
        match here_now(app, &mut job, epoch).await {
            Err(error) if job.head.forwarded => Err(error),
            Err(error) if may_repeat(&job, &error) && !job.deadline.passed() => {
                // Boxed, so that the usual case does not carry the space for it around.
                Box::pin(hold(app, job, epoch, error)).await
            }
            Err(error) => Err(for_client(error)),
            done => done,
        }
    } else {
        let nothing_yet = errors::no_leader();
        Box::pin(hold(app, job, epoch, nothing_yet)).await
    }
}

/// Tries until the deadline; `last` is how the latest attempt ended, in epoch `before`.
async fn hold<B: Backend>(app: &App<B>, mut job: Job, before: Epoch, mut last: ApiError) -> Result<Response, ApiError> {
    let mut lead = app.lead.clone();
    let mut wait = FIRST_WAIT;
    // The latest epoch in which an earlier attempt may have taken effect, or may yet.
    let mut doubt = (last.outcome == Outcome::Unknown).then_some(before);
    loop {
        let Lead { epoch, place } = lead.borrow_and_update().clone();
        let attempt = match place {
            Place::Here => here_now(app, &mut job, epoch).await,
            Place::There(_) | Place::Unknown if job.head.forwarded => {
                return Err(errors::not_leader());
            }
            Place::There(address) => there(app, &job, epoch, &address).await,
            Place::Unknown => {
                wait = job.deadline.remaining();
                Err(if doubt.is_some() { last } else { errors::no_leader() })
            }
        };
        match attempt {
            Err(error) if may_repeat(&job, &error) && !job.head.forwarded => {
                if error.outcome == Outcome::Unknown {
                    doubt = doubt.max(Some(epoch));
                }
                last = error;
            }
            Err(error) if doubt.is_some_and(|doubtful| epoch <= doubtful || !settles(&error)) => {
                return Err(still_unknown());
            }
            done => return done,
        }
        let pause = wait.min(job.deadline.remaining());
        if pause.is_zero() {
            return Err(given_up(doubt.is_some(), last));
        }
        // The lead changing is what is waited for; the pause passing is a reason to look again all the same.
        let changed = tokio::select! {
            changed = timeout(pause, lead.changed()) => changed,
            // Another node may hold it on.
            () = app.left() => return Err(given_up(doubt.is_some(), last)),
        };
        wait = match changed {
            Ok(Ok(())) => FIRST_WAIT,
            Ok(Err(_)) => return Err(given_up(doubt.is_some(), last)),
            Err(_) if job.deadline.passed() => return Err(given_up(doubt.is_some(), last)),
            Err(_) => (wait * 2).min(LONGEST_WAIT),
        };
    }
}

fn may_repeat(job: &Job, error: &ApiError) -> bool {
    errors::is_passing(error) || (error.outcome == Outcome::Unknown && job.is_repeatable())
}

/// Does this error, given to a repeated request with a key in a later epoch, say that no earlier attempt took effect? It does when
/// the leader came as far as looking the key up and running the statements, in the order of the log.
fn settles(error: &ApiError) -> bool {
    matches!(
        error.code,
        ErrorCode::SqlError
            | ErrorCode::Constraint
            | ErrorCode::Forbidden
            | ErrorCode::ResultTooLarge
            | ErrorCode::KeyReused
    )
}

fn still_unknown() -> ApiError {
    errors::unknown_outcome("an attempt broke off, and no later one could settle it")
}

fn given_up(doubt: bool, last: ApiError) -> ApiError {
    if doubt { still_unknown() } else { for_client(last) }
}

/// `NOT_LEADER` is for nodes: a client need not know that one node was asked and another was meant.
fn for_client(error: ApiError) -> ApiError {
    if error.code == ErrorCode::NotLeader { errors::no_leader() } else { error }
}

/// One attempt on this node.
async fn here_now<B: Backend>(app: &App<B>, job: &mut Job, epoch: Epoch) -> Result<Response, ApiError> {
    let epoch = job.head.epoch.filter(|_| job.head.forwarded).map_or(epoch, Epoch);
    let deadline = job.deadline;
    let until = deadline.plus(GRACE);
    let (call, work) = match &mut job.what {
        What::Outcome(tag) => {
            let kept = timeout_at(until, app.backend.outcome(tag.clone(), deadline)).await;
            let kept = kept.map_err(|_| errors::timeout())??;
            let kept = kept.ok_or_else(no_such_key)?;
            let position = Token { epoch: kept.position.epoch, index: kept.position.index };
            let body = values::several(kept.results.as_deref(), position);
            return Ok(app.answer(body, position));
        }
        What::Call { call, body, work } => match work.take() {
            Some(work) => (*call, work),
            None => (*call, request::parse(*call, body)?.work),
        },
    };
    match work {
        Work::Write(statements) => {
            let key = request::key(job.head.key.as_ref(), &statements);
            write(app, call, WriteCall { statements, key, epoch, deadline }).await
        }
        Work::Read(statement, level) => read(app, statement, level, deadline).await,
    }
}

async fn write<B: Backend>(app: &App<B>, call: Call, write: WriteCall) -> Result<Response, ApiError> {
    let until = write.deadline.plus(GRACE);
    let answer = timeout_at(until, app.backend.write(write)).await;
    let answer = answer.map_err(|_| errors::unknown_outcome("it was not committed by the deadline"))??;
    let body = match (call, answer.results.first()) {
        (Call::Batch, _) => values::several(Some(&answer.results), answer.position),
        (_, Some(result)) => values::single(result, answer.position),
        // A repeated request of which nothing but its success is known.
        (_, None) => values::single(&Default::default(), answer.position),
    };
    Ok(app.answer(body, answer.position))
}

/// A read on this node, at any level.
pub(crate) async fn read<B: Backend>(
    app: &App<B>,
    statement: Statement,
    level: Level,
    deadline: Deadline,
) -> Result<Response, ApiError> {
    let read = ReadCall { statement, level, deadline };
    let answer = timeout_at(deadline.plus(GRACE), app.backend.read(read)).await;
    let answer = answer.map_err(|_| errors::timeout())??;
    let body = match answer.results.first() {
        Some(result) => values::single(result, answer.position),
        None => values::single(&Default::default(), answer.position),
    };
    Ok(app.answer(body, answer.position))
}

fn no_such_key() -> ApiError {
    ErrorCode::OutcomeUnknownKey.error(
        "no outcome is recorded under this key",
        "The request has not been committed, or its time to be kept is over.",
    )
}

/// One attempt at another node.
async fn there<B: Backend>(app: &App<B>, job: &Job, epoch: Epoch, address: &Arc<str>) -> Result<Response, ApiError> {
    let mut answer = there_as(app, job, epoch, address, None).await;
    // The client was admitted here. Where one of the two nodes has not yet seen that the token was replaced, the other secret of
    // the two is the one that the leader knows.
    for secret in app.tokens.client.iter().flat_map(|token| token.secrets()) {
        let refused = matches!(&answer, Err(error) if error.code == ErrorCode::Unauthorized);
        let shown = job.head.caller.bearer.as_ref().and_then(|bearer| bearer.token());
        if refused && shown.is_some_and(|shown| !secret.is(shown)) {
            answer = there_as(app, job, epoch, address, Some(&secret)).await;
        }
    }
    answer
}

/// One attempt with the client's own token, or with this one in its place.
async fn there_as<B: Backend>(
    app: &App<B>,
    job: &Job,
    epoch: Epoch,
    address: &Arc<str>,
    secret: Option<&Secret>,
) -> Result<Response, ApiError> {
    let request = to_forward(app, job, epoch, address, secret)?;
    let mut lead = app.lead.clone();
    let mut send = std::pin::pin!(app.pool.send(address, request));
    let sent = timeout_at(job.deadline.plus(GRACE), async {
        tokio::select! {
            biased;
            reply = &mut send => reply,
            // A frozen leader never answers: whoever replaces it ends the wait.
            _ = replaced(&mut lead, epoch, address) => match timeout(LINGER, send).await {
                Ok(reply) => reply,
                Err(_) => Err(Broken::Sent("the leader was replaced".to_owned())),
            },
        }
    });
    match sent.await {
        Ok(Ok(reply)) => relay(reply),
        Ok(Err(Broken::NotSent(reason))) => {
            tracing::debug!(%reason, "a request was not forwarded");
            Err(errors::no_leader())
        }
        // A read that broke off is as good as never run.
        Ok(Err(Broken::Sent(_))) if !job.is_write() => Err(errors::no_leader()),
        Ok(Err(Broken::Sent(reason))) => Err(job.in_doubt(&reason)),
        Err(_) => Err(job.in_doubt("the leader did not answer by the deadline")),
    }
}

async fn replaced(lead: &mut watch::Receiver<Lead>, epoch: Epoch, address: &Arc<str>) {
    let moved = |lead: &Lead| match &lead.place {
        Place::Unknown => false,
        Place::Here => true,
        Place::There(other) => lead.epoch > epoch || other != address,
    };
    if lead.wait_for(moved).await.is_err() {
        // The node ends; the deadline bounds the wait.
        std::future::pending::<()>().await;
    }
}

fn to_forward<B: Backend>(
    app: &App<B>,
    job: &Job,
    epoch: Epoch,
    address: &str,
    secret: Option<&Secret>,
) -> Result<Request<Full<Bytes>>, ApiError> {
    let (method, path, body) = match &job.what {
        What::Call { call, body, .. } => (Method::POST, call.path().to_owned(), body.clone()),
        What::Outcome(tag) => {
            let path = format!("/v1/outcome/{}", encode(&format!("{}:{}", tag.client, tag.sequence)));
            (Method::GET, path, Bytes::new())
        }
    };
    let mut request = Request::builder()
        .method(method)
        .uri(path)
        .header(HOST, address)
        .header(CONTENT_TYPE, errors::JSON)
        .header(FORWARDED, app.node.clone())
        .header(super::app::EPOCH, HeaderValue::from(epoch.0))
        .header(DEADLINE, HeaderValue::from(job.deadline.remaining().as_millis() as u64));
    if let Some(secret) = secret {
        request = request.header(AUTHORIZATION, format!("Bearer {}", secret.expose()));
    } else if let Some(bearer) = &job.head.caller.bearer {
        request = request.header(AUTHORIZATION, &bearer.header);
    }
    if let Some(tag) = &job.head.key {
        request = request.header(KEY, format!("{}:{}", tag.client, tag.sequence));
    }
    request.body(Full::new(body)).map_err(|error| {
        ErrorCode::BadRequest.error(format!("the request cannot be forwarded: {error}"), "Send it to the leader.")
    })
}

/// A key in a path: everything that is not plain is written as %XX.
fn encode(key: &str) -> String {
    let mut path = String::with_capacity(key.len());
    for byte in key.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~:".contains(&byte) {
            path.push(byte.into());
        } else {
            path.push_str(&format!("%{byte:02X}"));
        }
    }
    path
}

/// The leader's answer as ours; its errors as values, so that they can be judged.
fn relay(reply: Reply) -> Result<Response, ApiError> {
    if !reply.status.is_success()
        && let Ok(ErrorResponse { error }) = serde_json::from_slice(&reply.body)
    {
        return Err(error);
    }
    let mut response = Response::new(reply.body.into());
    *response.status_mut() = reply.status;
    for name in super::app::ANSWER_HEADERS {
        if let Some(value) = reply.headers.get(&name) {
            response.headers_mut().insert(name, value.clone());
        }
    }
    Ok(response)
}
