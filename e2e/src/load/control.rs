//! How a test speaks to the load: plain HTTP inside the test's namespace, reached through the API server's pod proxy.
//!
//! | path | what |
//! | --- | --- |
//! | `GET /report?since=<ms>` | [`super::Report`] |
//! | `POST /verify` | [`super::Verdict`]; the writer rests meanwhile |
//! | `POST /pace?interval_us=&attempt_ms=` | changes the pace |
//! | `POST /pause`, `POST /resume` | stops and starts the writer |
//! | `POST /call` | sends a request of the test to a node, with the client's token ([`Call`]) |

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rdb_bench::client::{Connection, RequestBuilder};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use warp::Filter;
use warp::http::StatusCode;
use warp::reply::{Reply, Response};

use super::{Pace, Shared, verify};

/// Largest request of a test.
const MAX_BODY: u64 = 1 << 20;

/// For one request of a test: longer than any deadline that it gives.
const CALL_LIMIT: Duration = Duration::from_secs(20);

/// A request that a test wants sent from within the cluster.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Call {
    /// `host:port`; without it the load's own target.
    #[serde(default)]
    pub address: Option<String>,
    /// Such as `/v1/status`.
    pub path: String,
    /// `POST` when there is one.
    #[serde(default)]
    pub body: Option<Value>,
    #[serde(default)]
    pub key: Option<String>,
    /// Instead of the load's own token.
    #[serde(default)]
    pub token: Option<String>,
}

/// What came back.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Answer {
    pub status: u16,
    pub body: Value,
}

/// Serves until the program ends.
pub async fn serve(shared: Arc<Shared>, address: std::net::SocketAddr) {
    let with = move || {
        let shared = shared.clone();
        warp::any().map(move || shared.clone())
    };
    let report =
        warp::path!("report").and(warp::get()).and(query()).and(with()).map(|query: Query, shared: Arc<Shared>| {
            reply(&shared.journal.report(number(&query, "since").unwrap_or(0)))
        });
    let check = warp::path!("verify").and(warp::post()).and(with()).then(async |shared: Arc<Shared>| {
        match verify::verify(&shared).await {
            Ok(verdict) => reply(&verdict),
            Err(text) => failure(StatusCode::SERVICE_UNAVAILABLE, &text),
        }
    });
    let pace = warp::path!("pace").and(warp::post()).and(query()).and(with()).map(set_pace);
    let rest = warp::path!("pause").and(warp::post()).and(with()).map(|shared: Arc<Shared>| {
        shared.pause(true);
        reply(&json!({}))
    });
    let resume = warp::path!("resume").and(warp::post()).and(with()).map(|shared: Arc<Shared>| {
        shared.pause(false);
        reply(&json!({}))
    });
    let body = warp::body::content_length_limit(MAX_BODY).and(warp::body::json());
    let call =
        warp::path!("call").and(warp::post()).and(body).and(with()).then(async |call: Call, shared: Arc<Shared>| {
            match tokio::time::timeout(CALL_LIMIT, send(&call, &shared)).await {
                Ok(Ok(answer)) => reply(&answer),
                Ok(Err(text)) => failure(StatusCode::BAD_GATEWAY, &text),
                Err(_) => failure(StatusCode::GATEWAY_TIMEOUT, "no answer in time"),
            }
        });
    warp::serve(report.or(check).or(pace).or(rest).or(resume).or(call)).run(address).await;
}

type Query = BTreeMap<String, String>;

fn query() -> impl Filter<Extract = (Query,), Error = warp::Rejection> + Clone {
    warp::query::<Query>()
}

fn number(query: &Query, name: &str) -> Option<u64> {
    query.get(name)?.parse().ok()
}

fn set_pace(query: Query, shared: Arc<Shared>) -> Response {
    let Pace { mut interval, mut attempt } = shared.pace();
    if let Some(micros) = number(&query, "interval_us") {
        interval = Duration::from_micros(micros);
    }
    if let Some(millis) = number(&query, "attempt_ms") {
        attempt = Duration::from_millis(millis);
    }
    shared.set_pace(Pace { interval, attempt });
    reply(&json!({}))
}

async fn send(call: &Call, shared: &Shared) -> Result<Answer, String> {
    let address = call.address.clone().unwrap_or_else(|| shared.target.to_string());
    let token = call.token.as_deref().or(shared.token.as_deref());
    let mut request = Vec::new();
    match &call.body {
        Some(body) => {
            RequestBuilder::post(&call.path, token).write(
                &mut request,
                call.key.as_deref(),
                body.to_string().as_bytes(),
            );
        }
        None => RequestBuilder::get(&call.path, token).write(&mut request, None, &[]),
    }
    let mut connection = Connection::open(&address).await.map_err(|error| error.to_string())?;
    let head = connection.exchange(&request).await.map_err(|error| error.to_string())?;
    let text = String::from_utf8_lossy(connection.body());
    let body = serde_json::from_str(&text).unwrap_or_else(|_| Value::String(text.into_owned()));
    Ok(Answer { status: head.status, body })
}

fn reply(value: &impl Serialize) -> Response {
    warp::reply::json(value).into_response()
}

fn failure(status: StatusCode, text: &str) -> Response {
    warp::reply::with_status(warp::reply::json(&json!({"error": text})), status).into_response()
}
