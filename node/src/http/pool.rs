//! Keep-alive connections to the leader, for forwarded requests.
//!
//! What matters to the caller when a connection breaks is whether the leader may have seen the request: [`Broken`].

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::HeaderMap;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::sockets::{PEER, limit_silence};

/// A leader in the same cluster answers a connection attempt within a round trip; whoever takes longer is gone, and the
/// request is better held until the next leader is known.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// Connections unused for so long are not used again: well below [`super::server::SWEEP_INTERVAL`], after which the leader
/// closes them, perhaps while a request is on its way.
const MAX_IDLE: Duration = Duration::from_secs(10);

/// Idle connections kept per leader: as many as clients that write through one follower at once in the largest benchmark.
const MAX_IDLE_CONNECTIONS: usize = 256;

type Sender = SendRequest<Full<Bytes>>;

/// Idle connections of each leader, the most recently used one last, with the time of its last use.
type Idle = BTreeMap<Arc<str>, Vec<(Sender, Instant)>>;

/// The leader's answer.
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

/// No answer came.
#[derive(Debug)]
pub(crate) enum Broken {
    /// The leader surely has not seen the request.
    NotSent(String),
    /// It may have run it.
    Sent(String),
}

#[derive(Default)]
pub(crate) struct Pool {
    idle: Mutex<Idle>,
}

impl Pool {
    /// Sends a request over an idle or a new connection.
    pub(crate) async fn send(&self, address: &Arc<str>, mut request: Request<Full<Bytes>>) -> Result<Reply, Broken> {
        while let Some(mut sender) = self.take(address) {
            if sender.ready().await.is_err() {
                continue;
            }
            match sender.try_send_request(request).await {
                Ok(response) => return self.finish(address, sender, response).await,
                Err(mut error) => match error.take_message() {
                    // It never left: the connection had been closed. The next one may be better.
                    Some(unsent) => request = unsent,
                    None => return Err(Broken::Sent(error.into_error().to_string())),
                },
            }
        }
        let mut sender = connect(address).await.map_err(Broken::NotSent)?;
        match sender.try_send_request(request).await {
            Ok(response) => self.finish(address, sender, response).await,
            Err(mut error) => match error.take_message() {
                Some(_) => Err(Broken::NotSent(error.into_error().to_string())),
                None => Err(Broken::Sent(error.into_error().to_string())),
            },
        }
    }

    async fn finish(
        &self,
        address: &Arc<str>,
        sender: Sender,
        response: Response<hyper::body::Incoming>,
    ) -> Result<Reply, Broken> {
        let (head, body) = response.into_parts();
        let body = body.collect().await;
        let body = body.map_err(|error| Broken::Sent(error.to_string()))?.to_bytes();
        if !sender.is_closed() {
            let mut idle = self.idle.lock();
            let idle = idle.entry(address.clone()).or_default();
            if idle.len() < MAX_IDLE_CONNECTIONS {
                idle.push((sender, Instant::now()));
            }
        }
        Ok(Reply { status: head.status, headers: head.headers, body })
    }

    /// The most recently used connection to `address`; those to former leaders are dropped on the way.
    fn take(&self, address: &Arc<str>) -> Option<Sender> {
        let mut all = self.idle.lock();
        if all.len() > 1 {
            all.retain(|other, _| other == address);
        }
        let idle = all.get_mut(address)?;
        let (sender, since) = idle.pop()?;
        if since.elapsed() > MAX_IDLE {
            // The rest is older still.
            idle.clear();
            return None;
        }
        Some(sender)
    }
}

async fn connect(address: &str) -> Result<Sender, String> {
    let open = async {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        limit_silence(&stream, PEER)?;
        Ok::<_, std::io::Error>(stream)
    };
    let stream = match tokio::time::timeout(CONNECT_TIMEOUT, open).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return Err(format!("cannot reach the leader at {address}: {error}")),
        Err(_) => return Err(format!("the leader at {address} does not take connections")),
    };
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
    // Ends with the connection; its error reaches whoever waits for an answer.
    tokio::spawn(async move { connection.await.ok() });
    Ok(sender)
}
