//! How the other `rdb local` commands talk to the supervisor: a Unix socket in the data directory, one JSON line to ask and
//! one to answer. Only the owner of the directory's files may connect (mode 0600).

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use rdb_control::ClusterStatus;
use rdb_control::spec::ClusterSpec;
use rdb_protocol::NodeName;
use rdb_protocol::status::NodeStatus;
use serde::{Deserialize, Serialize};

use super::LocalError;
use super::input::Input;
use super::journal;

/// Longest request; the longest sensible one is a path and a value of the spec.
const MAX_REQUEST_BYTES: u64 = 64 << 10;

/// The supervisor answers from its loop, at once, but for `down`, which waits for the nodes to end.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// What a command asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "camelCase")]
pub enum Request {
    Status,
    Kill { node: String },
    Freeze { node: String },
    Thaw { node: String },
    Start { node: String },
    Switchover { target: NodeName },
    Reseed { node: String },
    AcceptDataLoss { epoch: u64 },
    Set { path: String, value: String },
    Down,
}

/// What the supervisor answers.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Reply {
    Status(Box<Report>),
    /// Done, in one line.
    Done(String),
    /// Not done, and why.
    Refused(String),
}

/// A reply on its way to the command's thread. `written` is dropped when the command has it: what ends the supervisor has
/// to wait for that.
pub struct Sent {
    pub reply: Reply,
    pub written: Option<Sender<()>>,
}

impl From<Reply> for Sent {
    fn from(reply: Reply) -> Sent {
        Sent { reply, written: None }
    }
}

/// Everything that the supervisor knows.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    pub name: String,
    pub supervisor_pid: u32,
    pub generation: u64,
    pub spec: ClusterSpec,
    pub resource_version: String,
    /// As stored.
    pub status: ClusterStatus,
    pub instances: Vec<InstanceReport>,
    /// Requests that are still to be carried out.
    pub switchover: Option<NodeName>,
    pub reseed: Option<NodeName>,
    pub events: Vec<journal::Entry>,
}

/// One node, as the supervisor sees it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct InstanceReport {
    pub name: NodeName,
    /// `http://host:port`.
    pub url: String,
    /// `None`: no process runs.
    pub pid: Option<i32>,
    pub frozen: bool,
    /// A status stream stands.
    pub connected: bool,
    /// Milliseconds since its last status line.
    pub heard_ms_ago: Option<u64>,
    /// Its last status line.
    pub report: Option<NodeStatus>,
}

/// Unix socket addresses hold about 100 bytes; a longer path is reached through its folder's file descriptor.
const MAX_SOCKET_PATH: usize = 100;

/// A path for the socket that fits, and what must stay open while it is used.
fn short_path(path: &Path) -> std::io::Result<(PathBuf, Option<std::fs::File>)> {
    if path.as_os_str().len() <= MAX_SOCKET_PATH {
        return Ok((path.to_owned(), None));
    }
    let (Some(folder), Some(file)) = (path.parent(), path.file_name()) else {
        return Err(ErrorKind::InvalidInput.into());
    };
    let folder = std::fs::File::open(folder)?;
    let short = Path::new("/proc/self/fd").join(std::os::fd::AsRawFd::as_raw_fd(&folder).to_string()).join(file);
    Ok((short, Some(folder)))
}

/// Starts to listen; requests arrive as [`Input::Command`]. The caller holds the supervisor's lock, so a socket that is
/// there belongs to nobody.
pub fn serve(path: &Path, inputs: Sender<Input>) -> Result<(), LocalError> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(LocalError::io(path)(error)),
        _ => {}
    }
    let (short, folder) = short_path(path).map_err(LocalError::io(path))?;
    let listener = UnixListener::bind(short).map_err(LocalError::io(path))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(LocalError::io(path))?;
    drop(folder);
    let accept = move || {
        for stream in listener.incoming().flatten() {
            let inputs = inputs.clone();
            let served = std::thread::Builder::new().name("command".to_owned()).spawn(move || {
                if let Err(error) = answer(&stream, &inputs) {
                    tracing::debug!(%error, "a command went away");
                }
            });
            if let Err(error) = served {
                tracing::error!(%error, "cannot start a thread for a command");
            }
        }
    };
    std::thread::Builder::new().name("control-socket".to_owned()).spawn(accept).map_err(LocalError::io("a thread"))?;
    Ok(())
}

fn answer(stream: &UnixStream, inputs: &Sender<Input>) -> std::io::Result<()> {
    stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
    stream.set_write_timeout(Some(ANSWER_TIMEOUT))?;
    let mut line = String::new();
    BufReader::new(stream.take(MAX_REQUEST_BYTES)).read_line(&mut line)?;
    let sent = match serde_json::from_str::<Request>(&line) {
        Err(error) => Reply::Refused(format!("unreadable request: {error}")).into(),
        Ok(request) => {
            let (reply, replies) = channel();
            let ended = || Reply::Refused("the supervisor is ending".to_owned()).into();
            match inputs.send(Input::Command { request, reply }) {
                Ok(()) => replies.recv().unwrap_or_else(|_| ended()),
                Err(_) => ended(),
            }
        }
    };
    let mut text = serde_json::to_vec(&sent.reply)?;
    text.push(b'\n');
    (&mut &*stream).write_all(&text)
}

/// Asks the supervisor of the cluster in `path`'s folder.
pub fn ask(path: &Path, request: &Request) -> Result<Reply, LocalError> {
    let (short, _folder) = short_path(path).map_err(LocalError::io(path))?;
    let mut stream = match UnixStream::connect(short) {
        Ok(stream) => stream,
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) => {
            return Err(LocalError::NotRunning(path.parent().unwrap_or(path).to_owned()));
        }
        Err(error) => return Err(LocalError::io(path)(error)),
    };
    stream.set_read_timeout(Some(ANSWER_TIMEOUT)).map_err(LocalError::io(path))?;
    let mut text = serde_json::to_vec(request).map_err(|error| LocalError::Supervisor(error.to_string()))?;
    text.push(b'\n');
    stream.write_all(&text).map_err(LocalError::io(path))?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).map_err(LocalError::io(path))?;
    serde_json::from_str(&line).map_err(|error| LocalError::Supervisor(format!("unreadable answer: {error}")))
}
