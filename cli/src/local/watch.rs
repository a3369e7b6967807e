//! One thread per node reads its status stream and passes every line on, with the time at which it came in.
//!
//! A stream belongs to one process. The supervisor counts a node's launches; a stream is tagged with the launch that was
//! current both before it was connected and when its first line came. Since a port is taken by one process at a time and the
//! count goes up before the next one is started, no line is ever taken for another process's: the proof that a leader's
//! process ended (rule 16) rests on it.

use std::io::{BufRead, BufReader, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::Sender;
use std::thread::Thread;
use std::time::Duration;

use rdb_control::Time;
use rdb_protocol::NodeName;
use rdb_protocol::status::{MAX_LINE_BYTES, NodeStatus};

use super::input::{Input, now};

/// Pause between two attempts to connect. Loopback refuses at once, so this bounds how late a restarted node is noticed,
/// at 50 cheap system calls a second for a dead one.
const RETRY_PAUSE: Duration = Duration::from_millis(20);

/// A node answers at once or is frozen. A frozen one answers when it is thawed, so giving up early gains nothing; the
/// limit only frees the thread from a node that never will.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// Keeps watching until dropped.
pub struct Watcher {
    stop: Arc<AtomicBool>,
    thread: Thread,
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.unpark();
    }
}

/// What a watcher needs to know.
pub struct Watched {
    pub name: NodeName,
    pub address: String,
    pub token: String,
    /// Counts the starts of the node's process; raised *before* each.
    pub launch: Arc<AtomicU64>,
}

/// The connection as it was reported last.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Known {
    Nothing,
    Connected,
    Lost,
    Refused,
}

/// Starts watching.
pub fn spawn(watched: Watched, inputs: Sender<Input>) -> std::io::Result<Watcher> {
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let handle = std::thread::Builder::new()
        .name(format!("watch-{}", watched.name))
        .spawn(move || watch(&watched, &inputs, &stopped))?;
    Ok(Watcher { stop, thread: handle.thread().clone() })
}

fn watch(watched: &Watched, inputs: &Sender<Input>, stop: &AtomicBool) {
    let agent = crate::client::agent(ANSWER_TIMEOUT);
    let mut known = Known::Nothing;
    while !stop.load(Ordering::Relaxed) {
        let end = follow_stream(watched, &agent, inputs, &mut known, stop);
        if end != known {
            known = end;
            let lost = Input::Disconnected { node: watched.name.clone(), refused: end == Known::Refused, at: now() };
            if inputs.send(lost).is_err() {
                return;
            }
        }
        std::thread::park_timeout(RETRY_PAUSE);
    }
}

/// Connects once and passes lines on until the stream ends; says how.
fn follow_stream(
    watched: &Watched,
    agent: &ureq::Agent,
    inputs: &Sender<Input>,
    known: &mut Known,
    stop: &AtomicBool,
) -> Known {
    let launch = watched.launch.load(Ordering::SeqCst);
    let request = agent
        .get(format!("http://{}/v1/status?watch", watched.address))
        .header("Authorization", format!("Bearer {}", watched.token));
    let response = match request.call() {
        Ok(response) if response.status().is_success() => response,
        Ok(response) => {
            tracing::debug!(node = %watched.name, status = %response.status(), "status stream refused");
            return Known::Lost;
        }
        Err(ureq::Error::Io(error)) if error.kind() == std::io::ErrorKind::ConnectionRefused => return Known::Refused,
        Err(error) => {
            tracing::debug!(node = %watched.name, %error, "no status stream");
            return Known::Lost;
        }
    };
    let mut lines = BufReader::new(response.into_body().into_reader());
    let mut line = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        line.clear();
        match (&mut lines).take(MAX_LINE_BYTES as u64).read_until(b'\n', &mut line) {
            Ok(n) if n > 0 && line.last() == Some(&b'\n') => {}
            _ => return Known::Lost,
        }
        let at = now();
        if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        let status = match NodeStatus::from_line(&line, &watched.name) {
            Ok(status) => Box::new(status),
            Err(error) => {
                tracing::warn!(node = %watched.name, %error, "the status stream is given up");
                return Known::Lost;
            }
        };
        // Another launch began while we connected: this may be its stream, and the tag would be wrong.
        if watched.launch.load(Ordering::SeqCst) != launch && *known != Known::Connected {
            return Known::Lost;
        }
        *known = Known::Connected;
        if inputs.send(Input::Line { node: watched.name.clone(), launch, status, at }).is_err() {
            return Known::Lost;
        }
    }
    Known::Lost
}

/// Proof that nothing listens: waits until connections are refused, or gives up at `deadline`.
pub fn wait_until_refused(address: &str, deadline: Time) -> bool {
    loop {
        match std::net::TcpStream::connect(address) {
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => return true,
            _ if now() >= deadline => return false,
            _ => std::thread::park_timeout(RETRY_PAUSE),
        }
    }
}
