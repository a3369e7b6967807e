//! Requests to nodes: endpoints, token, and errors that say what to do.
//!
//! A client has one or more endpoints (`URL[,URL…]`). It stays with one as long as that answers and goes on to the next
//! when the connection fails. Whether a failed request may be sent again is never guessed here: [`ClientError::retry`]
//! says what is known, and the caller decides.

use std::cell::Cell;
use std::io::Read;
use std::path::Path;
use std::time::Duration;

use rdb_protocol::api::{ApiError, ErrorCode, ErrorResponse, Outcome, Retry};
use rdb_protocol::status::NodeStatus;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::clock;

/// Nodes are near; a connection that takes longer is to a dead one.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// A node says at once how it is, or is in no state to.
const STATUS_TIMEOUT: Duration = Duration::from_secs(3);

/// For the first byte of a download.
const DOWNLOAD_TIMEOUT: Duration = Duration::from_secs(60);

/// What an answer may take on top of the deadline that the node keeps.
pub const MARGIN: Duration = Duration::from_secs(1);

/// Largest answer that is read; twice the largest default result (`access.maxResultSize`), which JSON may make longer.
const MAX_ANSWER_BYTES: u64 = 128 << 20;

/// Why a request has no good answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The node's own words.
    #[error("{}: {}{}", .0.code, .0.message, hint(&.0.hint))]
    Api(Box<ApiError>),
    /// No connection, or it broke. `sent`: the request may have reached the node.
    #[error("cannot reach {url}: {message}")]
    Transport { url: String, message: String, sent: bool },
    /// It answered with something that is not this API.
    #[error("{url} does not answer like a node: {message}")]
    Protocol { url: String, message: String },
    #[error("{0}")]
    Config(String),
}

fn hint(hint: &str) -> String {
    if hint.is_empty() { String::new() } else { format!("\nhint: {hint}") }
}

impl ClientError {
    /// May the same request be sent again?
    pub fn retry(&self) -> Retry {
        match self {
            ClientError::Api(error) => error.retry,
            ClientError::Transport { sent: false, .. } => Retry::Safe,
            ClientError::Transport { sent: true, .. } => Retry::WithKey,
            ClientError::Protocol { .. } | ClientError::Config(_) => Retry::Never,
        }
    }

    /// Nobody knows whether it took effect.
    pub fn outcome_unknown(&self) -> bool {
        match self {
            ClientError::Api(error) => error.outcome == Outcome::Unknown,
            ClientError::Transport { sent, .. } => *sent,
            ClientError::Protocol { .. } | ClientError::Config(_) => false,
        }
    }

    /// Of a read there is no outcome to wonder about.
    fn harmless(self) -> ClientError {
        match self {
            ClientError::Transport { url, message, .. } => ClientError::Transport { url, message, sent: false },
            other => other,
        }
    }

    /// Could the same request, sent again with its key a little later, end otherwise? A statement that ran into its
    /// deadline would only do so again.
    fn may_pass(&self, unreachable: bool) -> bool {
        match self {
            ClientError::Api(error) => error.retry != Retry::Never && error.code != ErrorCode::Timeout,
            ClientError::Transport { sent, .. } => *sent || unreachable,
            ClientError::Protocol { .. } | ClientError::Config(_) => false,
        }
    }

    pub fn exit_code(&self) -> u8 {
        match self {
            _ if self.outcome_unknown() => 4,
            ClientError::Transport { .. } => 3,
            ClientError::Api(_) | ClientError::Protocol { .. } | ClientError::Config(_) => 1,
        }
    }
}

/// How long to go on trying.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    pub total: Duration,
    /// For the answer to one attempt: longer than the node's own deadline, whose answer says more than silence does.
    pub answer: Duration,
    /// Also while no node can be reached at all.
    pub unreachable: bool,
}

/// Pauses between attempts: short at first, since a failover takes well under a second, and then ever less of a burden.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// Speaks to the nodes of one cluster with one token.
pub struct Client {
    agent: ureq::Agent,
    endpoints: Vec<String>,
    current: Cell<usize>,
    token: Option<String>,
}

impl Client {
    /// `urls`: base URLs separated by commas; `http://` may be left out.
    pub fn new(urls: &str, token_file: Option<&Path>) -> Result<Client, ClientError> {
        let endpoints: Vec<String> =
            urls.split(',').map(str::trim).filter(|url| !url.is_empty()).map(base_url).collect();
        if endpoints.is_empty() {
            return Err(ClientError::Config("no URL given".to_owned()));
        }
        let token = token_file.map(read_token).transpose()?;
        Ok(Client { agent: agent(DOWNLOAD_TIMEOUT), endpoints, current: Cell::new(0), token })
    }

    pub fn endpoints(&self) -> &[String] {
        &self.endpoints
    }

    /// `POST`s JSON. Only a request that surely was not sent goes on to the next endpoint.
    fn post<B: Serialize, A: DeserializeOwned>(
        &self,
        path: &str,
        body: &B,
        key: Option<&str>,
        answer_within: Duration,
    ) -> Result<A, ClientError> {
        self.first_reachable(|base| {
            let url = format!("{base}{path}");
            let mut request = self.agent.post(&url).config().timeout_recv_response(Some(answer_within)).build();
            if let Some(token) = &self.token {
                request = request.header("Authorization", format!("Bearer {token}"));
            }
            if let Some(key) = key {
                request = request.header("Idempotency-Key", key);
            }
            answer(&url, request.send_json(body))
        })
    }

    /// `POST`s a read, which may be sent as often as needed: to every endpoint until one answers.
    pub fn post_read<B: Serialize, A: DeserializeOwned>(
        &self,
        path: &str,
        body: &B,
        answer_within: Duration,
    ) -> Result<A, ClientError> {
        let mut last = None;
        for _ in 0..self.endpoints.len() {
            match self.post(path, body, None, answer_within) {
                // It may have arrived somewhere, which does no harm; `post` has gone on to another endpoint.
                Err(error @ ClientError::Transport { sent: true, .. }) => last = Some(error.harmless()),
                other => return other,
            }
        }
        Err(last.unwrap_or_else(|| ClientError::Config("no URL given".to_owned())))
    }

    /// `POST`s with an idempotency key until there is an answer that sending it again can't change, or `patience` ends.
    /// The key makes it safe: the request takes effect once, however often it is sent.
    pub fn post_once<B: Serialize, A: DeserializeOwned>(
        &self,
        path: &str,
        body: &B,
        key: &str,
        patience: Patience,
    ) -> Result<A, ClientError> {
        let deadline = clock::now() + patience.total;
        let mut pause = FIRST_PAUSE;
        // Once one attempt may have arrived, a later one that surely did not says nothing about the first.
        let mut doubtful: Option<ClientError> = None;
        loop {
            let error = match self.post(path, body, Some(key), patience.answer) {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            if !error.may_pass(patience.unreachable) {
                return Err(error);
            }
            if clock::now() + pause >= deadline {
                return Err(doubtful.unwrap_or(error));
            }
            if error.outcome_unknown() {
                doubtful = Some(error);
            }
            clock::pause(pause);
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// The node's status, from exactly this base URL.
    pub fn status_of(&self, base: &str) -> Result<NodeStatus, ClientError> {
        let url = format!("{}/v1/status", base_url(base));
        let request = self.get_request(&url).config().timeout_recv_response(Some(STATUS_TIMEOUT)).build();
        answer(&url, request.call())
    }

    /// Copies the body of a `GET`, however long, to `sink`.
    pub fn download(&self, path: &str, sink: &mut dyn std::io::Write) -> Result<u64, ClientError> {
        self.first_reachable(|base| {
            let url = format!("{base}{path}");
            let mut response = check(&url, self.get_request(&url).call())?;
            let mut reader = response.body_mut().as_reader();
            std::io::copy(&mut reader, sink).map_err(|error| transport(&url, &error, true))
        })
    }

    fn get_request(&self, url: &str) -> ureq::RequestBuilder<ureq::typestate::WithoutBody> {
        let request = self.agent.get(url);
        match &self.token {
            Some(token) => request.header("Authorization", format!("Bearer {token}")),
            None => request,
        }
    }

    /// Tries the endpoints in turn, the last good one first.
    fn first_reachable<A>(&self, mut attempt: impl FnMut(&str) -> Result<A, ClientError>) -> Result<A, ClientError> {
        let mut last = None;
        let start = self.current.get();
        for offset in 0..self.endpoints.len() {
            let index = (start + offset) % self.endpoints.len();
            match attempt(&self.endpoints[index]) {
                Err(error @ ClientError::Transport { sent, .. }) => {
                    // The next request starts elsewhere; this one goes on only if it surely was not sent.
                    self.current.set((index + 1) % self.endpoints.len());
                    if sent {
                        return Err(error);
                    }
                    last = Some(error);
                }
                other => {
                    self.current.set(index);
                    return other;
                }
            }
        }
        Err(last.unwrap_or_else(|| ClientError::Config("no URL given".to_owned())))
    }
}

/// `host:port` or a URL, without a slash at the end.
pub fn base_url(url: &str) -> String {
    let url = url.trim_end_matches('/');
    if url.contains("://") { url.to_owned() } else { format!("http://{url}") }
}

/// An agent that leaves HTTP statuses to us.
pub fn agent(timeout: Duration) -> ureq::Agent {
    ureq::Agent::config_builder()
        .http_status_as_error(false)
        .timeout_connect(Some(CONNECT_TIMEOUT))
        .timeout_recv_response(Some(timeout))
        .proxy(None)
        .max_redirects(0)
        .build()
        .new_agent()
}

/// First line of a token file.
pub fn read_token(path: &Path) -> Result<String, ClientError> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| ClientError::Config(format!("cannot read the token file {}: {error}", path.display())))?;
    let token = text.trim();
    // A header takes visible ASCII only; anything else is a wrong file, not a token.
    if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(ClientError::Config(format!(
            "{} does not hold a token (one line of visible ASCII)",
            path.display()
        )));
    }
    Ok(token.to_owned())
}

type Response = ureq::http::Response<ureq::Body>;

fn answer<A: DeserializeOwned>(url: &str, result: Result<Response, ureq::Error>) -> Result<A, ClientError> {
    let mut response = check(url, result)?;
    let body = read_body(url, &mut response)?;
    serde_json::from_slice(&body)
        .map_err(|error| ClientError::Protocol { url: url.to_owned(), message: error.to_string() })
}

/// Turns everything that is not a success into an error.
fn check(url: &str, result: Result<Response, ureq::Error>) -> Result<Response, ClientError> {
    let mut response = match result {
        Ok(response) => response,
        Err(error) => return Err(transport_error(url, error)),
    };
    if response.status().is_success() {
        return Ok(response);
    }
    let status = response.status();
    let body = read_body(url, &mut response)?;
    match serde_json::from_slice::<ErrorResponse>(&body) {
        Ok(response) => Err(ClientError::Api(Box::new(response.error))),
        Err(_) => {
            let text: String = String::from_utf8_lossy(&body).chars().take(200).collect();
            Err(ClientError::Protocol {
                url: url.to_owned(),
                message: format!("HTTP {status} {}", text.escape_debug()),
            })
        }
    }
}

fn read_body(url: &str, response: &mut Response) -> Result<Vec<u8>, ClientError> {
    let mut body = Vec::new();
    let mut reader = response.body_mut().with_config().limit(MAX_ANSWER_BYTES).reader();
    reader.read_to_end(&mut body).map_err(|error| transport(url, &error, true))?;
    Ok(body)
}

fn transport(url: &str, error: &dyn std::fmt::Display, sent: bool) -> ClientError {
    ClientError::Transport { url: url.to_owned(), message: error.to_string(), sent }
}

/// Was the request sent? Only failures to get a connection say surely no.
fn transport_error(url: &str, error: ureq::Error) -> ClientError {
    let unsent = match &error {
        // A name that does not resolve has no kind of its own in the standard library, only this text.
        ureq::Error::Io(io) => {
            io.kind() == std::io::ErrorKind::ConnectionRefused || io.to_string().starts_with("failed to lookup address")
        }
        ureq::Error::Timeout(timeout) => matches!(timeout, ureq::Timeout::Connect | ureq::Timeout::Resolve),
        ureq::Error::HostNotFound | ureq::Error::ConnectionFailed => true,
        ureq::Error::BadUri(_) | ureq::Error::Http(_) | ureq::Error::TlsRequired => {
            return ClientError::Config(format!("{url}: {error}"));
        }
        _ => false,
    };
    transport(url, &error, !unsent)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_connection_was_not_sent() {
        // A port that was just free: bound and released.
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let client = Client::new(&format!("127.0.0.1:{port}"), None).unwrap();
        let error =
            client.post::<_, serde_json::Value>("/v1/execute", &serde_json::json!({}), None, MARGIN).unwrap_err();
        assert_eq!((error.retry(), error.exit_code()), (Retry::Safe, 3), "{error}");
    }

    #[test]
    fn every_endpoint_is_tried_before_giving_up() {
        let ports: Vec<u16> =
            (0..2).map(|_| std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()).collect();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let alive = listener.local_addr().unwrap().port();
        let server = std::thread::spawn(move || drop(listener.accept().unwrap()));
        let urls = format!("127.0.0.1:{},127.0.0.1:{},127.0.0.1:{alive}", ports[0], ports[1]);
        let client = Client::new(&urls, None).unwrap();
        let error = client.post::<_, serde_json::Value>("/", &serde_json::json!({}), None, MARGIN).unwrap_err();
        server.join().unwrap();
        assert!(error.to_string().contains(&alive.to_string()), "{error}");
    }

    #[test]
    fn a_broken_connection_leaves_the_outcome_unknown() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let _ = stream.read(&mut [0; 16]);
        });
        let client = Client::new(&address.to_string(), None).unwrap();
        let error =
            client.post::<_, serde_json::Value>("/v1/execute", &serde_json::json!({}), None, MARGIN).unwrap_err();
        server.join().unwrap();
        assert_eq!((error.retry(), error.exit_code()), (Retry::WithKey, 4), "{error}");
    }
}
