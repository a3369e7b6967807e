//! Admin calls: one task and one connection for each, so that no call ever waits for another.

use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Limited};
use hyper::{Method, StatusCode};
use rdb_control::{AdminCall, CallOutcome};
use rdb_protocol::admin::{AdminRefusal, LeaseAnswer, Recruit};

use super::http::send;
use super::tokens::Tokens;
use crate::clock;
use crate::cluster::mailbox::{Input, Mailbox};

/// A healthy node answers within a few disk flushes; a frozen one must not hold a call for longer than this.
const CALL_TIMEOUT: Duration = Duration::from_secs(1);

/// Answers are a few hundred bytes.
const MAX_ANSWER_BYTES: usize = 1 << 20;

/// Starts a call; its outcome comes into the mailbox under this number.
pub fn start(address: String, call: &AdminCall, number: u64, tokens: Tokens, mailbox: Arc<Mailbox>) {
    let is_fence = matches!(call, AdminCall::Fence(_));
    let path = format!("/v1/admin/{}", call.kind().path());
    let body = call.body().map(|body| body.to_string().into_bytes());
    tokio::spawn(async move {
        let answered = match body {
            Ok(body) => post(&address, &path, &tokens, body).await.and_then(|text| read_answer(is_fence, &text)),
            Err(error) => Err(Stop::Failed(error.to_string())),
        };
        let (outcome, recruit) = match answered {
            Ok(recruit) => (CallOutcome::Done, recruit),
            Err(Stop::Refused(refusal)) => (CallOutcome::Refused(refusal), None),
            Err(Stop::Failed(message)) => (CallOutcome::Failed(message), None),
        };
        mailbox.push(Input::Answered { call: number, outcome, recruit, at: clock::now() });
    });
}

/// Answers a leader's lease request; nobody waits for the result, the leader asks again.
pub fn answer_lease(address: String, answer: &LeaseAnswer, tokens: Tokens) {
    let Ok(body) = serde_json::to_vec(answer) else { return };
    tokio::spawn(async move {
        if let Err(Stop::Failed(message)) = post(&address, "/v1/admin/lease", &tokens, body).await {
            tracing::debug!(%message, "lease answer not delivered");
        }
    });
}

/// Why there is no good answer.
enum Stop {
    Refused(AdminRefusal),
    Failed(String),
}

async fn post(address: &str, path: &str, tokens: &Tokens, body: Vec<u8>) -> Result<Vec<u8>, Stop> {
    match tokio::time::timeout(CALL_TIMEOUT, post_unbounded(address, path, tokens, body)).await {
        Ok(answered) => answered,
        Err(_) => Err(Stop::Failed(format!("no answer within {} ms", CALL_TIMEOUT.as_millis()))),
    }
}

async fn post_unbounded(address: &str, path: &str, tokens: &Tokens, body: Vec<u8>) -> Result<Vec<u8>, Stop> {
    let mut last = Stop::Failed("the admin token is not known yet".to_owned());
    for token in tokens.candidates() {
        let sent = send(address, Method::POST, path, &token, Some(body.clone())).await;
        let (response, _open) = sent.map_err(|error| Stop::Failed(error.to_string()))?;
        let status = response.status();
        let text = Limited::new(response.into_body(), MAX_ANSWER_BYTES).collect().await;
        let text = text.map_err(|error| Stop::Failed(error.to_string()))?.to_bytes();
        last = match status {
            StatusCode::OK => return Ok(text.to_vec()),
            StatusCode::CONFLICT => match serde_json::from_slice(&text) {
                Ok(refusal) => return Err(Stop::Refused(refusal)),
                Err(error) => return Err(Stop::Failed(format!("unreadable refusal: {error}"))),
            },
            _ => Stop::Failed(format!("HTTP {status}: {}", short(&text))),
        };
        // Nothing was obeyed; the node may know the token before this one.
        if !matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
            break;
        }
    }
    Err(last)
}

fn short(text: &[u8]) -> String {
    String::from_utf8_lossy(text).chars().take(200).collect()
}

fn read_answer(is_fence: bool, text: &[u8]) -> Result<Option<Recruit>, Stop> {
    if !is_fence {
        return Ok(None);
    }
    // A fence without a readable answer tells nothing about the node's position: it did not happen, for us.
    serde_json::from_slice(text).map(Some).map_err(|error| Stop::Failed(format!("unreadable answer: {error}")))
}
