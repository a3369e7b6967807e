//! A supervisor under test.

use std::net::TcpListener;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rdb_cli::local::control_socket::{Reply, Report, Request, ask};
use rdb_cli::local::journal::Entry;
use tempfile::TempDir;

/// Longest wait for anything: far more than any of it takes, so that a slow machine does not fail a test.
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct Cluster {
    pub(crate) folder: TempDir,
    port: u16,
    supervisor: Option<Child>,
}

/// A port below the range from which the system takes those of outgoing connections, with ten free ones behind it.
fn free_ports() -> u16 {
    let offset = (std::process::id() % 500) as u16;
    let free = |base: &u16| (1..10).all(|n| TcpListener::bind(("127.0.0.1", base + n)).is_ok());
    (0..1000).map(|n| 12_000 + (offset + n) % 1000 * 20).find(free).expect("free ports")
}

impl Cluster {
    pub(crate) fn new() -> Cluster {
        Cluster { folder: tempfile::tempdir().unwrap(), port: free_ports(), supervisor: None }
    }

    /// Starts it and waits until it is ready.
    pub(crate) fn started(options: &[&str]) -> Cluster {
        let mut cluster = Cluster::new();
        cluster.up(options);
        cluster.wait_ready();
        cluster
    }

    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_rdb"));
        command.env("RDB_LOCAL_DATA", self.folder.path());
        command
    }

    pub(crate) fn up(&mut self, options: &[&str]) {
        let port = self.port.to_string();
        let node = std::env::current_exe().unwrap();
        let mut command = self.command();
        command.args(["local", "up", "--port", &port, "--node-binary"]).arg(node).args(options);
        if std::env::var_os("VERBOSE").is_none() {
            command.stdout(Stdio::null());
        }
        self.supervisor = Some(command.spawn().unwrap());
    }

    /// Runs another `rdb local` command.
    pub(crate) fn local(&self, arguments: &[&str]) -> Output {
        self.command().arg("local").args(arguments).output().unwrap()
    }

    pub(crate) fn local_ok(&self, arguments: &[&str]) -> String {
        let output = self.local(arguments);
        let (out, err) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
        assert!(output.status.success(), "{arguments:?}: {err}\n{}", self.history());
        out
    }

    pub(crate) fn wait_ready(&self) {
        self.local_ok(&["wait", "--timeout", "20"]);
    }

    pub(crate) fn report(&self) -> Report {
        match ask(&self.folder.path().join("control.sock"), &Request::Status).unwrap() {
            Reply::Status(report) => *report,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn leader(&self) -> String {
        self.report().status.leader.unwrap().name.to_string()
    }

    /// Waits for a state of the cluster.
    pub(crate) fn until(&self, what: &str, mut holds: impl FnMut(&Report) -> bool) -> Report {
        let started = Instant::now();
        loop {
            let report = self.report();
            if holds(&report) {
                return report;
            }
            assert!(started.elapsed() < PATIENCE, "waited in vain until {what}\n{report:#?}\n{}", self.history());
            std::thread::park_timeout(Duration::from_millis(5));
        }
    }

    pub(crate) fn events(&self) -> Vec<Entry> {
        let text = std::fs::read_to_string(self.folder.path().join("events.jsonl")).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// For messages of failed tests.
    pub(crate) fn history(&self) -> String {
        let line = |event: &Entry| format!("{} {} {} {}", event.at, event.reason, event.message, event.evidence);
        self.events().iter().map(line).collect::<Vec<_>>().join("\n")
    }

    /// SIGKILL to the supervisor, and its end.
    pub(crate) fn kill_supervisor(&mut self) {
        let mut supervisor = self.supervisor.take().unwrap();
        supervisor.kill().unwrap();
        supervisor.wait().unwrap();
    }

    /// Its exit, after it was told to end.
    pub(crate) fn ended(&mut self) -> bool {
        self.supervisor.take().unwrap().wait().unwrap().success()
    }

    pub(crate) fn interrupt(&self) {
        let pid = rustix::process::Pid::from_child(self.supervisor.as_ref().unwrap());
        rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    }

    pub(crate) fn pids(&self) -> Vec<i32> {
        self.report().instances.iter().filter_map(|instance| instance.pid).collect()
    }
}

/// Does the process still run? A zombie does not.
pub(crate) fn runs(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(") ").next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with('Z'))
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Some(mut supervisor) = self.supervisor.take() {
            let _ = supervisor.kill();
            let _ = supervisor.wait();
        }
    }
}
