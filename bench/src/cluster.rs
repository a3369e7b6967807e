//! A local cluster under test: `rdb local up` as a child process, its nodes killed, frozen and asked over HTTP.
//!
//! The supervisor's other commands are run as a person would run them. What they leave in the data directory is read
//! where HTTP has no such thing: `status.json` (the stored status with its receipts), `events.jsonl`, `<node>.log`.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rdb_protocol::status::{NodeState, NodeStatus, Role};
use serde_json::Value;
use tokio::process::{Child, Command};

use crate::client::Client;
use crate::clock::{now, until};

/// Between starting the processes and the first write: three nodes bootstrap and two are seeded, on a busy machine.
const START_LIMIT: Duration = Duration::from_secs(60);

/// One status request. Long enough for a machine with two busy cores; a frozen node costs this much at each look.
const STATUS_LIMIT: Duration = Duration::from_millis(500);

/// `rdb local kill` and the like: a process start and a word to the supervisor.
const COMMAND_LIMIT: Duration = Duration::from_secs(60);

#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    #[error("{what}: {source}")]
    Io { what: String, source: std::io::Error },
    #[error("`rdb local {command}` failed: {output}")]
    Command { command: String, output: String },
    #[error("the cluster was not ready within {} s; its supervisor said:\n{tail}", START_LIMIT.as_secs())]
    NotReady { tail: String },
    #[error("no {replicas} free ports in a row on loopback")]
    NoPorts { replicas: u16 },
}

/// What to start.
#[derive(Clone, Debug)]
pub struct Options {
    pub replicas: u16,
    /// `async`, `semiSync` or `sync`.
    pub mode: String,
    /// Further arguments of `rdb local up`.
    pub extra: Vec<String>,
    pub data: PathBuf,
    /// The `rdb` binary; its `rdb-node` lies beside it.
    pub rdb: PathBuf,
}

impl Options {
    /// Three nodes in semiSync mode with the binaries beside the running one.
    pub fn new(data: &Path) -> Result<Options, ClusterError> {
        let own = std::env::current_exe().map_err(|source| ClusterError::Io { what: "own path".into(), source })?;
        let rdb = own.with_file_name("rdb");
        Ok(Options { replicas: 3, mode: "semiSync".into(), extra: Vec::new(), data: data.to_owned(), rdb })
    }
}

/// A node of the cluster and where it listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    pub name: String,
    pub address: String,
}

/// A running cluster. Dropping it kills the supervisor, and with it the nodes.
#[derive(Debug)]
pub struct Cluster {
    options: Options,
    supervisor: Child,
    pub nodes: Vec<Node>,
}

impl Cluster {
    /// Starts a cluster in an empty directory and waits until a write succeeds and every node streams.
    pub async fn start(options: Options) -> Result<Cluster, ClusterError> {
        let io = |what: &str| {
            let what = what.to_owned();
            move |source| ClusterError::Io { what, source }
        };
        if options.data.exists() {
            std::fs::remove_dir_all(&options.data).map_err(io("old data directory"))?;
        }
        std::fs::create_dir_all(&options.data).map_err(io("data directory"))?;
        // Node i listens on the port + i, counted from 1.
        let first = free_ports(options.replicas)?;
        let port = first - 1;
        let log = std::fs::File::create(options.data.join("supervisor.log")).map_err(io("supervisor.log"))?;
        let errors = log.try_clone().map_err(io("supervisor.log"))?;
        let supervisor = Command::new(&options.rdb)
            .args(["local", "up", "--replicas", &options.replicas.to_string(), "--mode", &options.mode])
            .args(["--port", &port.to_string(), "--data"])
            .arg(&options.data)
            .args(&options.extra)
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors)
            .kill_on_drop(true)
            .spawn()
            .map_err(io(&options.rdb.display().to_string()))?;
        let nodes = (first..first + options.replicas)
            .map(|port| Node { name: String::new(), address: format!("127.0.0.1:{port}") })
            .collect();
        let mut cluster = Cluster { options, supervisor, nodes };
        if cluster.await_ready(START_LIMIT).await.is_none() {
            let tail = tail(&cluster.options.data.join("supervisor.log"), 20);
            cluster.stop().await;
            return Err(ClusterError::NotReady { tail });
        }
        Ok(cluster)
    }

    pub fn data(&self) -> &Path {
        &self.options.data
    }

    pub fn addresses(&self) -> Vec<String> {
        self.nodes.iter().map(|node| node.address.clone()).collect()
    }

    /// Waits until all nodes are up, one is open as leader, all others stream from it, and writes are served.
    async fn await_ready(&mut self, limit: Duration) -> Option<()> {
        let end = now() + limit;
        let statuses = until(limit, async || {
            let statuses: Option<Vec<NodeStatus>> = self.statuses().await.into_iter().collect();
            statuses.filter(|statuses| is_whole(statuses))
        })
        .await?;
        for (node, status) in self.nodes.iter_mut().zip(statuses) {
            node.name = status.name.to_string();
        }
        let left = end.saturating_duration_since(now()).as_secs().max(1).to_string();
        self.command("wait", &["--timeout", &left]).await.ok().map(|_| ())
    }

    /// Each node's status, in the order of [`Cluster::nodes`]; `None` for one that does not answer.
    pub async fn statuses(&self) -> Vec<Option<NodeStatus>> {
        let mut asked = Vec::new();
        for node in &self.nodes {
            let address = node.address.clone();
            asked.push(tokio::spawn(async move { Client::new(&address, None).status(STATUS_LIMIT).await.ok() }));
        }
        let mut statuses = Vec::new();
        for answer in asked {
            statuses.push(answer.await.ok().flatten());
        }
        statuses
    }

    /// The open leader of the highest epoch, by number in [`Cluster::nodes`].
    pub async fn leader(&self) -> Option<usize> {
        let statuses = self.statuses().await;
        let leading = |status: &NodeStatus| status.role == Role::Leader && status.opened;
        let open = statuses.iter().enumerate().filter_map(|(at, status)| {
            status.as_ref().filter(|status| leading(status)).map(|status| (status.promise.epoch, at))
        });
        open.max().map(|(_, at)| at)
    }

    /// Waits for an open leader.
    pub async fn await_leader(&self, limit: Duration) -> Option<usize> {
        until(limit, async || self.leader().await).await
    }

    /// Waits until all nodes are there, with one open leader, and all have applied the same index.
    pub async fn await_quiet(&self, limit: Duration) -> Option<Vec<NodeStatus>> {
        until(limit, async || {
            let statuses: Option<Vec<NodeStatus>> = self.statuses().await.into_iter().collect();
            statuses.filter(|all| is_whole(all) && all.windows(2).all(|pair| pair[0].applied == pair[1].applied))
        })
        .await
    }

    /// Runs `rdb local COMMAND ARGS --data DIR`.
    pub async fn command(&self, command: &str, args: &[&str]) -> Result<String, ClusterError> {
        let failed =
            |output: String| ClusterError::Command { command: format!("{command} {}", args.join(" ")), output };
        let mut process = Command::new(&self.options.rdb);
        process.args(["local", command]).args(args).arg("--data").arg(&self.options.data).kill_on_drop(true);
        match tokio::time::timeout(COMMAND_LIMIT, process.output()).await {
            Ok(Ok(output)) if output.status.success() => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
            Ok(Ok(output)) => Err(failed(String::from_utf8_lossy(&output.stderr).into_owned())),
            Ok(Err(error)) => Err(failed(error.to_string())),
            Err(_) => Err(failed("no end within its time".into())),
        }
    }

    /// Runs another command of `rdb` to its end, with its output shown.
    pub async fn rdb(&self, args: &[&str]) -> Result<(), ClusterError> {
        let failed = |output: String| ClusterError::Command { command: args.join(" "), output };
        let status = Command::new(&self.options.rdb).args(args).kill_on_drop(true).status().await;
        match status {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(failed(status.to_string())),
            Err(error) => Err(failed(error.to_string())),
        }
    }

    /// The stored status; `Null` while it cannot be read.
    pub fn stored_status(&self) -> Value {
        let text = std::fs::read(self.options.data.join("status.json")).unwrap_or_default();
        let stored: Value = serde_json::from_slice(&text).unwrap_or_default();
        stored["status"].clone()
    }

    /// Process id of a node, found by its data directory among the running processes.
    pub fn process_id(&self, node: usize) -> Option<u32> {
        let data = self.options.data.canonicalize().ok()?.join(&self.nodes[node].name);
        let wanted = data.to_string_lossy().into_owned();
        std::fs::read_dir("/proc").ok()?.filter_map(Result::ok).find_map(|entry| {
            let id: u32 = entry.file_name().to_str()?.parse().ok()?;
            let line = std::fs::read(entry.path().join("cmdline")).ok()?;
            let is_node = line.split(|byte| *byte == 0).any(|argument| argument == wanted.as_bytes());
            is_node.then_some(id)
        })
    }

    /// Ends the supervisor and its nodes in order, or by force if they do not end.
    pub async fn stop(&mut self) {
        let _ = self.command("down", &[]).await;
        // A node dies with its supervisor, so force is enough even if it was frozen.
        if tokio::time::timeout(Duration::from_secs(10), self.supervisor.wait()).await.is_err() {
            let _ = self.supervisor.kill().await;
        }
    }
}

/// One open leader, everybody else streaming.
fn is_whole(statuses: &[NodeStatus]) -> bool {
    let leaders = statuses.iter().filter(|status| status.state == NodeState::Leading && status.opened).count();
    let streaming = statuses.iter().filter(|status| status.state == NodeState::Streaming).count();
    leaders == 1 && leaders + streaming == statuses.len()
}

/// A port with as many free ones after it. Others may take them before the nodes do; then the start fails and says so.
fn free_ports(replicas: u16) -> Result<u16, ClusterError> {
    // Below the range from which systems pick ports for outgoing connections: those would get in the way of a node that
    // is started again.
    let mut candidates = (17_000..30_000).step_by(usize::from(replicas.max(1)) + 7);
    // Programs that run side by side start at different places.
    let skip = std::process::id() as usize % 500;
    let free = |port: u16| (port..port + replicas).all(|port| std::net::TcpListener::bind(("127.0.0.1", port)).is_ok());
    candidates
        .clone()
        .skip(skip)
        .chain(&mut candidates)
        .find(|port| free(*port))
        .ok_or(ClusterError::NoPorts { replicas })
}

/// The last lines of a file.
pub fn tail(path: &Path, lines: usize) -> String {
    let text = std::fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_ports_are_free_and_in_a_row() {
        let first = free_ports(3).unwrap();
        let held: Vec<_> =
            (first..first + 3).map(|port| std::net::TcpListener::bind(("127.0.0.1", port)).unwrap()).collect();
        assert_eq!(held.len(), 3);
        assert_ne!(free_ports(3).unwrap(), first);
    }

    #[test]
    fn the_tail_of_a_file_is_its_last_lines() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        std::fs::write(&path, "a\nb\nc\n").unwrap();
        assert_eq!(tail(&path, 2), "b\nc");
        assert_eq!(tail(&folder.path().join("none"), 2), "");
    }
}
