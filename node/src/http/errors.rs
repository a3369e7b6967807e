//! Every answer that is not a success: [`ApiError`] as a JSON body with its HTTP status, also for what warp rejects before
//! our code sees it.

use std::convert::Infallible;

use hyper::StatusCode;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use rdb_protocol::api::{ApiError, ErrorCode, ErrorResponse, Outcome, Retry};
use warp::Rejection;
use warp::reject;
use warp::reply::Response;

use super::metrics::Kind;

pub(crate) const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// A JSON answer.
pub(crate) fn json(status: StatusCode, body: Vec<u8>) -> Response {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, JSON);
    response
}

/// A JSON answer of anything that serde knows.
pub(crate) fn json_of(status: StatusCode, body: &impl serde::Serialize) -> Response {
    match serde_json::to_vec(body) {
        Ok(body) => json(status, body),
        Err(error) => {
            tracing::error!(%error, "an answer has no JSON form");
            json(StatusCode::INTERNAL_SERVER_ERROR, INTERNAL.to_vec())
        }
    }
}

const INTERNAL: &[u8] = br#"{"error":{"code":"INTERNAL","message":"the answer has no JSON form","hint":"Report it.","retry":"with-key","outcome":"unknown"}}"#;

pub(crate) fn error(error: ApiError) -> Response {
    let status = status(&error);
    json_of(status, &ErrorResponse { error })
}

fn status(error: &ApiError) -> StatusCode {
    StatusCode::from_u16(error.code.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

/// A body that is not the JSON of this call; serde states line and column.
pub(crate) fn bad_json(error: serde_json::Error, call: &str) -> ApiError {
    let kind = match error.classify() {
        serde_json::error::Category::Data => "the body is not what this call takes",
        _ => "the body is not valid JSON",
    };
    ErrorCode::BadRequest.error(format!("{kind}: {error}"), format!("See `{call}` in /v1/openapi.json."))
}

pub(crate) fn too_large(limit: u64) -> ApiError {
    ErrorCode::RequestTooLarge
        .error(format!("the request is larger than {limit} bytes"), "Split it, or raise `access.maxRequestSize`.")
}

pub(crate) fn timeout() -> ApiError {
    ErrorCode::Timeout.error(
        "the request ran longer than its deadline and was undone",
        "Raise `deadline_ms`, or make the statement cheaper.",
    )
}

pub(crate) fn no_leader() -> ApiError {
    ErrorCode::NoLeader.error(
        "no leader was known until the deadline",
        "Try again; `GET /v1/status` of the nodes and the resource's status say what is missing.",
    )
}

pub(crate) fn not_leader() -> ApiError {
    ErrorCode::NotLeader.error("this node does not lead", "Ask the leader; `GET /v1/status` names it.")
}

pub(crate) fn unknown_outcome(reason: &str) -> ApiError {
    ErrorCode::UnknownOutcome.error(
        format!("it is not known whether the write took effect: {reason}"),
        "Send it again with the same `Idempotency-Key`; without one, read before you write again.",
    )
}

/// For what is under way when the node ends.
pub(crate) fn stopping(kind: Kind) -> Response {
    error(match kind {
        Kind::Execute | Kind::Batch => unknown_outcome("the node is ending"),
        _ => ErrorCode::Unavailable.error("this node is ending", "Ask another node."),
    })
}

/// May another attempt end otherwise, and did this one surely not run?
pub(crate) fn is_passing(error: &ApiError) -> bool {
    error.retry == Retry::Safe
        && error.outcome == Outcome::None
        && matches!(error.code, ErrorCode::NoLeader | ErrorCode::NotLeader | ErrorCode::Unavailable)
}

/// What no filter took: in our format instead of warp's plain text.
pub(crate) async fn recover(rejection: Rejection) -> Result<Response, Infallible> {
    if let Some(header) = rejection.find::<reject::InvalidHeader>() {
        let hint = match header.name() {
            "idempotency-key" => {
                "It is `<client>:<sequence>`: 1 to 64 printable characters, a colon and a whole number."
            }
            _ => "Leave it out or correct it.",
        };
        let message = format!("the header `{}` is not valid", header.name());
        return Ok(error(ErrorCode::BadRequest.error(message, hint)));
    }
    if rejection.find::<reject::InvalidQuery>().is_some() {
        return Ok(error(ErrorCode::BadRequest.error("the query string is not valid", "See /v1/openapi.json.")));
    }
    if rejection.find::<reject::MethodNotAllowed>().is_some() {
        let refused = ErrorCode::NotFound
            .error("this path does not take this method", "See /v1/openapi.json for the methods of every path.");
        let mut response = error(refused);
        *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
        return Ok(response);
    }
    if rejection.is_not_found() {
        return Ok(error(
            ErrorCode::NotFound.error("there is nothing at this path", "See /v1/openapi.json for all paths."),
        ));
    }
    tracing::error!(?rejection, "a request was rejected for an unknown reason");
    Ok(error(
        ErrorCode::Internal.error("the request was rejected for an unknown reason", "Report it with the node's log."),
    ))
}
