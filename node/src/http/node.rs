//! What a node says about itself: status, its stream, snapshots, health and metrics.

use std::sync::Arc;

use bytes::Bytes;
use hyper::StatusCode;
use hyper::header::{CONTENT_DISPOSITION, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue};
use rdb_protocol::api::{ApiError, ErrorCode, Token};
use rdb_protocol::{Epoch, Index};
use tokio::sync::mpsc;
use tokio::time::timeout;
use warp::Reply;
use warp::reply::Response;

use super::app::App;
use super::auth::Caller;
use super::backend::{Backend, ChangesCall, Check, Snapshot};
use super::errors;

/// Lines that wait for a reader of a status stream. One: a reader that is slow gets the newest status, not a history.
const WATCH_QUEUE: usize = 1;

/// `GET /v1/status`, and `?watch` as lines of JSON: one at once, one on every change and at least one per heartbeat interval.
pub(crate) fn status<B: Backend>(app: &Arc<App<B>>, caller: &Caller, query: &str) -> Response {
    if let Err(error) = app.tokens.client_or_admin(caller) {
        return errors::error(error);
    }
    match query {
        "" => errors::json_of(StatusCode::OK, &app.backend.status()),
        "watch" | "watch=" | "watch=true" | "watch=1" => watch(app.clone()),
        _ => errors::error(
            ErrorCode::BadRequest
                .error("the only parameter of this path is `watch`", "Ask for `/v1/status` or `/v1/status?watch`."),
        ),
    }
}

fn watch<B: Backend>(app: Arc<App<B>>) -> Response {
    let (lines, queue) = mpsc::channel(WATCH_QUEUE);
    let mut changed = app.backend.status_changed();
    let left = app.left();
    tokio::spawn(async move {
        let mut left = std::pin::pin!(left);
        loop {
            changed.mark_unchanged();
            let mut line = match serde_json::to_vec(&app.backend.status()) {
                Ok(line) => line,
                Err(error) => {
                    tracing::error!(%error, "the status has no JSON form");
                    return;
                }
            };
            line.push(b'\n');
            if lines.send(Ok(Bytes::from(line))).await.is_err() {
                return;
            }
            let interval = app.backend.limits().heartbeat_interval;
            tokio::select! {
                // The interval passing means one more line.
                changed = timeout(interval, changed.changed()) => if let Ok(Err(_)) = changed {
                    return;
                },
                // The node ends; so does the stream.
                () = &mut left => return,
            }
        }
    });
    let mut response = stream(queue);
    let content_type = HeaderValue::from_static("application/x-ndjson");
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}

/// A body that is as long as the channel gives chunks; an error in it breaks the connection off.
fn stream(mut chunks: mpsc::Receiver<std::io::Result<Bytes>>) -> Response {
    let chunks = futures_util::stream::poll_fn(move |context| chunks.poll_recv(context));
    warp::reply::stream(chunks).into_response()
}

/// `GET /v1/changes?from=<epoch>/<index>`: a line of JSON for each record behind that position.
pub(crate) async fn changes<B: Backend>(app: &App<B>, caller: &Caller, query: &str) -> Response {
    match try_changes(app, caller, query).await {
        Ok(response) => response,
        Err(error) => errors::error(error),
    }
}

async fn try_changes<B: Backend>(app: &App<B>, caller: &Caller, query: &str) -> Result<Response, ApiError> {
    app.tokens.client(caller)?;
    let mut call = ChangesCall::default();
    for part in query.split('&').filter(|part| !part.is_empty()) {
        match part.split_once('=').unwrap_or((part, "")) {
            ("from", text) if position(text).is_some() => call.from = position(text),
            ("records", "") => call.records = true,
            ("end", "") => call.end = true,
            _ => {
                let hint = "It is `/v1/changes?from=<epoch>/<index>`, with the position of the last line that you have; \
                            `records` shows whole records, `end` does not wait for more.";
                return Err(ErrorCode::BadRequest.error(format!("{part:?} is not understood"), hint));
            }
        }
    }
    let lines = app.backend.changes(call).await?;
    let mut response = stream(lines);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
    Ok(response)
}

/// `GET /v1/divergence/<archive>`: the row changes of a divergent tail.
pub(crate) async fn divergence<B: Backend>(app: &App<B>, caller: &Caller, archive: String) -> Response {
    let lines = match app.tokens.client_or_admin(caller) {
        Ok(()) => app.backend.archived(archive).await,
        Err(error) => Err(error),
    };
    match lines {
        Ok(lines) => stream(lines),
        Err(error) => errors::error(error),
    }
}

/// `<epoch>/<index>`, the slash as it is or as %2F.
fn position(text: &str) -> Option<Token> {
    let (epoch, index) = text.split_once('/').or_else(|| text.split_once("%2F")).or_else(|| text.split_once("%2f"))?;
    Some(Token { epoch: Epoch(epoch.parse().ok()?), index: Index(index.parse().ok()?) })
}

/// `GET /v1/snapshot`: the database file, as of the position in the headers.
pub(crate) async fn snapshot<B: Backend>(app: &App<B>, caller: &Caller) -> Response {
    match try_snapshot(app, caller).await {
        Ok(response) => response,
        Err(error) => errors::error(error),
    }
}

async fn try_snapshot<B: Backend>(app: &App<B>, caller: &Caller) -> Result<Response, ApiError> {
    app.tokens.client_or_admin(caller)?;
    let Snapshot { position, length, chunks } = app.backend.snapshot().await?;
    let mut response = stream(chunks);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/vnd.sqlite3"));
    let file = format!("attachment; filename=\"{}-{}-{}.db\"", app.backend.node(), position.epoch, position.index);
    if let Ok(file) = HeaderValue::from_str(&file) {
        headers.insert(CONTENT_DISPOSITION, file);
    }
    if let Some(length) = length {
        headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
    app.mark(headers, position);
    Ok(response)
}

/// `/livez` and `/readyz`: a line per check, 200 when all hold.
pub(crate) fn checks(checks: &[Check]) -> Response {
    let mut text = String::new();
    for Check { name, result } in checks {
        match result {
            Ok(()) => text.push_str(&format!("[+] {name} ok\n")),
            // One line per check, whatever the reason holds.
            Err(reason) => text.push_str(&format!("[-] {name}: {}\n", reason.replace('\n', " "))),
        }
    }
    let status =
        if checks.iter().all(|check| check.result.is_ok()) { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    warp::reply::with_status(text, status).into_response()
}

/// `/metrics`.
pub(crate) fn metrics<B: Backend>(app: &App<B>) -> Response {
    match app.metrics_text() {
        Ok(text) => {
            let mut response = text.into_response();
            let content_type = HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
            response.headers_mut().insert(CONTENT_TYPE, content_type);
            response
        }
        Err(_) => {
            errors::error(ErrorCode::Internal.error("the metrics have no text form", "Report it with the node's log."))
        }
    }
}
