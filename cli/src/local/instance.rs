//! One node of a local cluster: its process, its status stream, and what was observed of both.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::Sender;
use std::time::Duration;

use rdb_control::{Connection, InstanceObservation, Lifecycle, Report, Time};
use rdb_protocol::NodeName;
use rdb_protocol::status::NodeStatus;
use rustix::process::Signal;

use super::LocalError;
use super::control_socket::InstanceReport;
use super::input::{Input, now};
use super::process::{Launcher, NodeProcess};
use super::watch::{self, Watched, Watcher};

/// A dead node is restarted after this time, as a kubelet would.
pub const RESTART_PAUSE: Duration = Duration::from_secs(1);

/// A node that was told to end and has not done so by then is killed: twice the longest default transaction.
pub const END_PATIENCE: Duration = Duration::from_secs(10);

pub struct Instance {
    pub name: NodeName,
    pub address: String,
    pub observed: InstanceObservation,
    pub process: Option<NodeProcess>,
    pub frozen: bool,
    /// When to start it again.
    pub restart_at: Option<Time>,
    /// When to kill it, after it was told to end.
    pub kill_at: Option<Time>,
    launch: Arc<AtomicU64>,
    _watcher: Watcher,
}

impl Instance {
    /// A node without a process, already watched.
    pub fn new(name: NodeName, address: String, token: &str, inputs: Sender<Input>) -> Result<Instance, LocalError> {
        let launch = Arc::new(AtomicU64::new(0));
        let watched = Watched {
            name: name.clone(),
            address: address.clone(),
            token: token.to_owned(),
            launch: Arc::clone(&launch),
        };
        let watcher = watch::spawn(watched, inputs).map_err(LocalError::io("a thread"))?;
        let mut observed = InstanceObservation::unknown(now());
        observed.address = Some(address.clone());
        Ok(Instance {
            name,
            address,
            observed,
            process: None,
            frozen: false,
            restart_at: None,
            kill_at: None,
            launch,
            _watcher: watcher,
        })
    }

    /// Starts its process if none runs.
    pub fn start(&mut self, launcher: &Launcher, inputs: &Sender<Input>) -> Result<(), LocalError> {
        self.restart_at = None;
        if self.process.is_some() {
            return Ok(());
        }
        // Before the process exists: see the module `watch`.
        let launch = self.launch.fetch_add(1, Ordering::SeqCst) + 1;
        let (inputs, node) = (inputs.clone(), self.name.clone());
        let ended = move |how| {
            // Nobody listens any more when the supervisor itself is ending.
            let _ = inputs.send(Input::Exited { node, launch, how, at: now() });
        };
        self.process = Some(launcher.start(&self.name, &self.address, ended)?);
        self.frozen = false;
        Ok(())
    }

    /// Takes a line of its status stream. Returns false if it changes nothing that can be relied on.
    pub fn line(&mut self, launch: u64, status: NodeStatus, at: Time) -> bool {
        let running = self.process.is_some() && launch == self.launch.load(Ordering::SeqCst);
        if !running {
            // The last words of a process that has ended: they name it, and are proof of whose end it was.
            self.observed.exited_boots.insert(status.boot);
            return true;
        }
        self.observed.connection = Connection::Connected;
        self.observed.report = Some(Report { status, received_at: at });
        true
    }

    pub fn disconnected(&mut self, refused: bool, at: Time) {
        self.observed.connection =
            if refused { Connection::Refused { since: at } } else { Connection::Lost { since: at } };
    }

    /// Its process was waited for. Returns false if that was an earlier one.
    pub fn exited(&mut self, launch: u64) -> bool {
        if launch != self.launch.load(Ordering::SeqCst) {
            return false;
        }
        // Reports of a running process come from the present launch only, so this one is the process that ended.
        if let Some(boot) = self.observed.status().map(|status| status.boot) {
            self.observed.exited_boots.insert(boot);
        }
        self.process = None;
        self.frozen = false;
        self.kill_at = None;
        true
    }

    /// Sends a signal; false if no process runs.
    pub fn signal(&mut self, signal: Signal) -> bool {
        let sent = self.process.as_ref().is_some_and(|process| process.signal(signal));
        if sent && signal == Signal::STOP {
            self.frozen = true;
        } else if sent && signal == Signal::CONT {
            self.frozen = false;
        }
        sent
    }

    /// Tells the process to end in order; it is killed if it does not.
    pub fn end(&mut self, at: Time) {
        self.restart_at = None;
        self.signal(Signal::CONT);
        if self.signal(Signal::TERM) && self.kill_at.is_none() {
            self.kill_at = Some(at.plus(END_PATIENCE));
        }
    }

    pub fn report(&self, at: Time) -> InstanceReport {
        let heard = self.observed.report.as_ref();
        InstanceReport {
            name: self.name.clone(),
            url: format!("http://{}", self.address),
            pid: self.process.as_ref().map(NodeProcess::id),
            frozen: self.frozen,
            connected: self.observed.connection == Connection::Connected,
            heard_ms_ago: heard.map(|report| at.since(report.received_at).as_millis() as u64),
            report: heard.map(|report| report.status.clone()),
        }
    }

    /// Its process is to be kept running.
    pub fn is_wanted(&self) -> bool {
        self.observed.lifecycle == Lifecycle::Running
    }
}
