//! Opening a connection between nodes, from either side.

use std::io;
use std::net::{TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use hyper::Response;
use hyper::body::Incoming;
use hyper::header::{CONNECTION, HeaderMap, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, UPGRADE};
use hyper::http::StatusCode;
use hyper_util::rt::TokioIo;
use rdb_protocol::Member;
use tungstenite::client::ClientRequestBuilder;
use tungstenite::handshake::derive_accept_key;
use tungstenite::protocol::{Role, WebSocketConfig};
use tungstenite::{Message, WebSocket};

use super::Link;

/// Path of the peer endpoint.
pub const PEER_PATH: &str = "/v1/peer";

/// Who dials: name and incarnation.
const NAME_HEADER: &str = "Rdb-Name";
const INCARNATION_HEADER: &str = "Rdb-Incarnation";

/// A dial or handshake that takes longer has failed: a few round trips, with room for a busy machine.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// Largest message. A record holds one group: at most `access.maxRequestSize` of new content times the pages that it can
/// touch; the core sends one record whatever its size.
const MAX_MESSAGE_BYTES: usize = 1 << 30;

/// Bytes read from the socket at once: a full group of 256 small transactions fits.
const READ_BUFFER_BYTES: usize = 256 << 10;

#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("cannot reach {address}: {source}")]
    Io { address: String, source: io::Error },
    #[error("{address} refused the peer connection: {reason}")]
    Handshake { address: String, reason: String },
}

/// An open connection: the reading half, and the sending half that all threads share.
pub struct Connection {
    socket: WebSocket<TcpStream>,
    pub link: Arc<Link>,
}

impl Connection {
    fn new(socket: WebSocket<TcpStream>, client: bool) -> io::Result<Connection> {
        socket.get_ref().set_read_timeout(None)?;
        socket.get_ref().set_write_timeout(None)?;
        let link = Link::start(socket.get_ref().try_clone()?, client)?;
        Ok(Connection { socket, link })
    }

    /// Next binary message; `None` when the connection has ended, for whatever reason.
    pub fn receive(&mut self) -> Option<bytes::Bytes> {
        loop {
            match self.socket.read() {
                Ok(Message::Binary(message)) => return Some(message),
                Ok(_) => {}
                Err(_) => return None,
            }
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.link.close();
    }
}

fn config() -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER_BYTES)
        .max_message_size(Some(MAX_MESSAGE_BYTES))
        .max_frame_size(Some(MAX_MESSAGE_BYTES))
}

/// Dials `address` (`host:port`) with the peer token, as member `me`.
pub fn dial(address: &str, token: &str, me: &Member) -> Result<Connection, ConnectError> {
    let io = |source| ConnectError::Io { address: address.to_owned(), source };
    let refused = |reason: String| ConnectError::Handshake { address: address.to_owned(), reason };
    let unresolved = || io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    let target = address.to_socket_addrs().map_err(io)?.next().ok_or_else(unresolved).map_err(io)?;
    let stream = TcpStream::connect_timeout(&target, CONNECT_TIMEOUT).map_err(io)?;
    stream.set_read_timeout(Some(CONNECT_TIMEOUT)).map_err(io)?;
    stream.set_write_timeout(Some(CONNECT_TIMEOUT)).map_err(io)?;
    let uri = format!("ws://{address}{PEER_PATH}").parse().map_err(|error| refused(format!("{error}")))?;
    let request = ClientRequestBuilder::new(uri)
        .with_header("Authorization", format!("Bearer {token}"))
        .with_header(NAME_HEADER, me.name.as_str())
        .with_header(INCARNATION_HEADER, me.incarnation.to_string());
    let (socket, _) = tungstenite::client::client_with_config(request, stream, Some(config()))
        .map_err(|error| refused(error.to_string()))?;
    Connection::new(socket, true).map_err(io)
}

/// The member that an upgrade request names, and the answer to its WebSocket key.
fn upgrade_request(headers: &HeaderMap) -> Option<(Member, HeaderValue)> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let member =
        Member { name: text(NAME_HEADER)?.parse().ok()?, incarnation: text(INCARNATION_HEADER)?.parse().ok()? };
    let accept = derive_accept_key(text(SEC_WEBSOCKET_KEY.as_str())?.as_bytes());
    Some((member, HeaderValue::from_str(&accept).ok()?))
}

/// Answers an upgrade request whose token was checked; `serve` runs on a thread of its own when the connection stands.
pub fn accept(
    mut request: hyper::Request<Incoming>,
    serve: impl FnOnce(Connection, Member) + Send + 'static,
) -> Response<bytes::Bytes> {
    let mut response = Response::new(bytes::Bytes::new());
    let Some((member, accept)) = upgrade_request(request.headers()) else {
        *response.status_mut() = StatusCode::BAD_REQUEST;
        return response;
    };
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    response.headers_mut().insert(UPGRADE, HeaderValue::from_static("websocket"));
    response.headers_mut().insert(SEC_WEBSOCKET_ACCEPT, accept);
    tokio::spawn(async move {
        match upgraded(&mut request).await {
            Ok(connection) => {
                let thread = std::thread::Builder::new().name("peer-read".into());
                if let Err(error) = thread.spawn(move || serve(connection, member)) {
                    tracing::error!(%error, "cannot start a thread for a peer connection");
                }
            }
            Err(error) => tracing::warn!(%error, "a peer connection was not established"),
        }
    });
    response
}

/// Takes the socket out of the HTTP server's hands.
async fn upgraded(request: &mut hyper::Request<Incoming>) -> Result<Connection, io::Error> {
    let upgraded = hyper::upgrade::on(request).await.map_err(io::Error::other)?;
    let parts = upgraded
        .downcast::<TokioIo<tokio::net::TcpStream>>()
        .map_err(|_| io::Error::other("the connection is not plain TCP"))?;
    let stream = parts.io.into_inner().into_std()?;
    stream.set_nonblocking(false)?;
    let socket = WebSocket::from_partially_read(stream, parts.read_buf.to_vec(), Role::Server, Some(config()));
    Connection::new(socket, false)
}
