//! `POST /v1/admin/<call>`: the operator's calls. Refusals are HTTP 409 with the refusal as the body.

use bytes::Buf;
use futures_util::Stream;
use hyper::StatusCode;
use rdb_protocol::admin::Done;
use rdb_protocol::api::{ApiError, ErrorCode};
use serde::de::DeserializeOwned;
use warp::reply::Response;

use super::app::App;
use super::auth::Caller;
use super::backend::{self, AdminAnswer, AdminCall, Backend};
use super::{errors, request};

pub(crate) async fn call<B: Backend, C: Buf>(
    app: &App<B>,
    name: &str,
    caller: &Caller,
    length: Option<u64>,
    body: impl Stream<Item = Result<C, warp::Error>>,
) -> Response {
    match try_call(app, name, caller, length, body).await {
        Ok(response) => response,
        Err(error) => errors::error(error),
    }
}

async fn try_call<B: Backend, C: Buf>(
    app: &App<B>,
    name: &str,
    caller: &Caller,
    length: Option<u64>,
    body: impl Stream<Item = Result<C, warp::Error>>,
) -> Result<Response, ApiError> {
    app.tokens.admin(caller)?;
    let body = request::body(body, length, &app.backend.limits(), backend::now()).await?;
    let call = parse(name, &body)?;
    Ok(match app.backend.admin(call).await {
        Ok(AdminAnswer::Done) => errors::json_of(StatusCode::OK, &Done {}),
        Ok(AdminAnswer::Recruit(recruit)) => errors::json_of(StatusCode::OK, &recruit),
        Err(refusal) => errors::json_of(StatusCode::CONFLICT, &refusal),
    })
}

/// The names of all admin calls, as they stand in paths.
pub(crate) const NAMES: [&str; 12] = [
    "init",
    "fence",
    "promote",
    "follow",
    "config",
    "settle",
    "stop-writes",
    "resume-writes",
    "lease",
    "reseed",
    "probe",
    "shutdown",
];

fn parse(name: &str, body: &[u8]) -> Result<AdminCall, ApiError> {
    fn of<T: DeserializeOwned>(name: &str, body: &[u8], call: fn(T) -> AdminCall) -> Result<AdminCall, ApiError> {
        serde_json::from_slice(body).map(call).map_err(|error| errors::bad_json(error, &format!("/v1/admin/{name}")))
    }
    match name {
        "init" => of(name, body, AdminCall::Init),
        "fence" => of(name, body, AdminCall::Fence),
        "promote" => of(name, body, AdminCall::Promote),
        "follow" => of(name, body, AdminCall::Follow),
        "config" => of(name, body, AdminCall::NextConfig),
        "settle" => of(name, body, AdminCall::Settle),
        "stop-writes" => of(name, body, AdminCall::StopWrites),
        "resume-writes" => of(name, body, AdminCall::ResumeWrites),
        "lease" => of(name, body, AdminCall::LeaseAnswer),
        "reseed" => of(name, body, AdminCall::Reseed),
        "probe" => of(name, body, AdminCall::Probe),
        "shutdown" => of(name, body, AdminCall::Shutdown),
        _ => Err(ErrorCode::NotFound
            .error(format!("there is no admin call {name:?}"), format!("There are {}.", NAMES.join(", ")))),
    }
}
