//! One HTTP/1.1 request on a connection of its own. Connections are not pooled: one that was may end at a process that is
//! gone, and then nobody knows whether the request was obeyed.

use std::io::ErrorKind;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::AbortHandle;

/// A machine in the same cluster accepts a connection within a round trip, or is not there.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// Read buffer of a connection: more than a status line, and nine hundred of them are 15 MB.
const READ_BUFFER: usize = 16 << 10;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// Actively refused: no process listens there.
    #[error("connection refused")]
    Refused,
    #[error("no connection: {0}")]
    Connect(#[source] std::io::Error),
    #[error("no connection within {} ms", CONNECT_TIMEOUT.as_millis())]
    ConnectTimeout,
    #[error("{0}")]
    Http(#[from] hyper::Error),
    #[error("cannot make the request: {0}")]
    Request(#[from] hyper::http::Error),
}

/// Ends the connection when dropped.
pub struct Open(AbortHandle);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Sends a request; the answer's body is read while the [`Open`] is held.
pub async fn send(
    address: &str,
    method: Method,
    path: &str,
    token: &str,
    body: Option<Vec<u8>>,
) -> Result<(Response<Incoming>, Open), HttpError> {
    let connecting = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(address));
    let tcp = match connecting.await {
        Err(_) => return Err(HttpError::ConnectTimeout),
        Ok(Err(error)) if error.kind() == ErrorKind::ConnectionRefused => return Err(HttpError::Refused),
        Ok(Err(error)) => return Err(HttpError::Connect(error)),
        Ok(Ok(tcp)) => tcp,
    };
    // Without it a request's small segments may wait for acknowledgements; a socket that can't be set is used as it is.
    let _ = tcp.set_nodelay(true);
    let mut builder = http1::Builder::new();
    builder.read_buf_exact_size(Some(READ_BUFFER));
    let (mut sender, connection) = builder.handshake::<_, Full<Bytes>>(TokioIo::new(tcp)).await?;
    // An error of the connection shows in the answer or its body.
    let open = Open(tokio::spawn(async move { drop(connection.await) }).abort_handle());
    let mut request = Request::builder().method(method).uri(path).header(HOST, address);
    request = request.header(AUTHORIZATION, format!("Bearer {token}"));
    if body.is_some() {
        request = request.header(CONTENT_TYPE, "application/json");
    }
    let request = request.body(Full::new(Bytes::from(body.unwrap_or_default())))?;
    Ok((sender.send_request(request).await?, open))
}
