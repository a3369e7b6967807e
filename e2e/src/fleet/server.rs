//! HTTP of the fake nodes: `/v1/status?watch` and `/v1/admin/<call>`. One listener per node, so that a dead one refuses
//! connections; whoever ends it drops the listener and everything that it accepted.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use rdb_bench::clock::{now, pause};
use rdb_protocol::NodeName;
use tokio::net::TcpListener;
use tokio::task::{AbortHandle, JoinSet};

use super::node::Database;

/// The port of every node.
const PORT: u16 = 7700;

/// A status stream has a line per heartbeat, as those of real nodes.
const HEARTBEAT: Duration = Duration::from_millis(250);

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// A listening node; it ends when this is dropped.
pub struct Server {
    task: AbortHandle,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Serves a node at its address.
pub async fn serve(database: Arc<Database>, name: NodeName, address: Ipv4Addr) -> anyhow::Result<Server> {
    let address = SocketAddr::from((address, PORT));
    let listener = TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))?;
    let task = tokio::spawn(async move {
        // Dropped with this task, and so are the connections.
        let mut connections = JoinSet::new();
        loop {
            let Ok((stream, _)) = listener.accept().await else { continue };
            let (database, name) = (Arc::clone(&database), name.clone());
            connections.spawn(async move {
                let service = service_fn(move |request| answer(Arc::clone(&database), name.clone(), request));
                // A client that goes away is no news.
                let _ =
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
            });
            while connections.try_join_next().is_some() {}
        }
    });
    Ok(Server { task: task.abort_handle() })
}

fn whole(status: StatusCode, text: Vec<u8>) -> Response<Body> {
    let mut response = Response::new(Full::new(Bytes::from(text)).boxed_unsync());
    *response.status_mut() = status;
    response
}

async fn answer(
    database: Arc<Database>,
    name: NodeName,
    request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    let path = request.uri().path().to_owned();
    if path == "/v1/status" {
        return Ok(stream(database, name));
    }
    let Some(call) = path.strip_prefix("/v1/admin/") else { return Ok(whole(StatusCode::NOT_FOUND, Vec::new())) };
    let Ok(body) = request.into_body().collect().await else {
        return Ok(whole(StatusCode::BAD_REQUEST, Vec::new()));
    };
    let (answer, opens) = database.call(&name, call, &body.to_bytes());
    if let Some(opens) = opens {
        tokio::spawn(async move {
            pause(opens - now()).await;
            database.announce();
        });
    }
    let text = |value: Result<Vec<u8>, serde_json::Error>| value.unwrap_or_default();
    Ok(match answer {
        Ok(value) => whole(StatusCode::OK, text(serde_json::to_vec(&value))),
        Err(refusal) => whole(StatusCode::CONFLICT, text(serde_json::to_vec(&refusal))),
    })
}

/// A line at once, one for every change, and one per heartbeat.
fn stream(database: Arc<Database>, name: NodeName) -> Response<Body> {
    let changes = database.changes.subscribe();
    let lines = futures_util::stream::unfold(
        (database, name, changes, true),
        |(database, name, mut changes, first)| async move {
            if !first {
                // The interval passing means one more line.
                let _ = tokio::time::timeout(HEARTBEAT, changes.changed()).await;
            }
            changes.mark_unchanged();
            let mut line = serde_json::to_vec(&database.report(&name)?).ok()?;
            line.push(b'\n');
            Some((Ok::<_, Infallible>(Frame::data(Bytes::from(line))), (database, name, changes, false)))
        },
    );
    Response::new(StreamBody::new(Box::pin(lines)).boxed_unsync())
}
