//! One task per instance reads its status stream and puts every line into the cluster's mailbox, with the time at which it
//! came in. A line is a full report, so of several that came at once only the last is read.
//!
//! A stream that stays silent is no evidence by itself: `decide` looks at the times.

use std::sync::Arc;
use std::time::Duration;

use http_body_util::BodyExt;
use hyper::{Method, StatusCode};
use rdb_protocol::NodeName;
use rdb_protocol::status::{MAX_LINE_BYTES, NodeStatus};
use tokio::task::AbortHandle;

use super::http::{HttpError, send};
use super::news;
use super::tokens::Tokens;
use crate::clock;
use crate::cluster::mailbox::{Input, Line, Mailbox};

/// Pause between two attempts to connect. A refused port answers at once, so this bounds how late a restarted node is
/// noticed.
const RETRY_PAUSE: Duration = Duration::from_millis(50);

/// The pause grows while nobody answers, up to this: an instance that is gone for long costs one attempt a second.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// A node reports at least once per heartbeat interval, at most 10 s. Three of them without a line and the connection is
/// made anew; a half-open one would stay silent for ever.
const SILENCE: Duration = Duration::from_secs(30);

/// What a stream needs to know.
pub struct Watched {
    pub instance: NodeName,
    pub address: String,
    /// Tells this stream from earlier ones of the instance.
    pub number: u64,
    pub tokens: Tokens,
}

/// Watches until dropped.
pub struct Stream {
    pub address: String,
    pub number: u64,
    task: AbortHandle,
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The connection as it was reported last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Known {
    Nothing,
    Connected,
    Lost,
    Refused,
}

/// Starts watching.
pub fn watch(watched: Watched, mailbox: Arc<Mailbox>) -> Stream {
    let (address, number) = (watched.address.clone(), watched.number);
    let task = tokio::spawn(run(watched, mailbox)).abort_handle();
    Stream { address, number, task }
}

async fn run(watched: Watched, mailbox: Arc<Mailbox>) {
    let mut known = Known::Nothing;
    let mut pause = RETRY_PAUSE;
    loop {
        let end = follow(&watched, &mailbox, &mut known).await;
        if end != known {
            pause = RETRY_PAUSE;
            known = end;
            mailbox.push(Input::Disconnected {
                instance: watched.instance.clone(),
                stream: watched.number,
                refused: end == Known::Refused,
                at: clock::now(),
            });
            // Whether the process is gone or only the connection shows in the next attempt.
            if end == Known::Lost {
                continue;
            }
        }
        clock::pause(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Connects once and passes lines on until the stream ends; says how.
async fn follow(watched: &Watched, mailbox: &Mailbox, known: &mut Known) -> Known {
    let instance = &watched.instance;
    for token in watched.tokens.candidates() {
        let (response, _open) = match send(&watched.address, Method::GET, "/v1/status?watch", &token, None).await {
            Ok(answered) => answered,
            Err(HttpError::Refused) => return Known::Refused,
            Err(error) => {
                tracing::debug!(%instance, %error, "no status stream");
                return Known::Lost;
            }
        };
        match response.status() {
            StatusCode::OK => return read_lines(watched, response.into_body(), mailbox, known).await,
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {}
            status => {
                tracing::debug!(%instance, %status, "status stream refused");
                return Known::Lost;
            }
        }
    }
    tracing::debug!(%instance, "no token that the node accepts");
    Known::Lost
}

async fn read_lines(watched: &Watched, mut body: hyper::body::Incoming, mailbox: &Mailbox, known: &mut Known) -> Known {
    let mut held: Vec<u8> = Vec::new();
    let mut told: Option<NodeStatus> = None;
    loop {
        let data = match tokio::time::timeout(SILENCE, body.frame()).await {
            Ok(Some(Ok(frame))) => match frame.into_data() {
                Ok(data) => data,
                Err(_) => continue,
            },
            _ => return Known::Lost,
        };
        let at = clock::now();
        if held.len() + data.len() > MAX_LINE_BYTES {
            return Known::Lost;
        }
        let Some(last) = data.iter().rposition(|byte| *byte == b'\n') else {
            held.extend_from_slice(&data);
            continue;
        };
        let (complete, rest) = data.split_at(last);
        held.extend_from_slice(complete);
        let line = held.rsplit(|byte| *byte == b'\n').find(|line| !line.trim_ascii().is_empty());
        if let Some(line) = line {
            let status = match NodeStatus::from_line(line, &watched.instance) {
                Ok(status) => Box::new(status),
                Err(error) => {
                    tracing::warn!(instance = %watched.instance, %error, "the status stream is given up");
                    return Known::Lost;
                }
            };
            let is_news = *known != Known::Connected || told.as_ref().is_none_or(|told| news::differ(told, &status));
            if is_news {
                told = Some(NodeStatus::clone(&status));
            }
            *known = Known::Connected;
            mailbox.line(&watched.instance, Line { stream: watched.number, status, at }, is_news);
        }
        held.clear();
        held.extend_from_slice(rest.get(1..).unwrap_or_default());
    }
}
