//! The supervisor's loop: observe → decide → act, until nothing changes any more; then wait for the next input.
//!
//! All state lives in one thread. Everything that may take time happens in others and comes back as an [`Input`]: status
//! lines, ends of processes, answers to calls, commands. The one exception is the status store, whose swap is two short
//! disk flushes and has to be done before anything else is decided.
//!
//! The nodes are children of this thread and die with it, whatever ends it.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use rdb_control::{Cluster, ClusterStatus, Observed, Time};
use rdb_protocol::{ClusterId, NodeName};
use rustix::fs::{FlockOperation, flock};
use rustix::process::Signal;

use super::LocalError;
use super::act::Caller;
use super::control_socket::{Reply, Request, Sent};
use super::input::{Input, now};
use super::instance::{Instance, RESTART_PAUSE};
use super::journal::Journal;
use super::layout::Layout;
use super::process::Launcher;
use super::spec::StoredSpec;
use super::store::StatusStore;
use super::{control_socket, signals, watch};

/// Longest sleep without any input: nothing depends on it, it only bounds the harm of a wake-up that `decide` forgot.
const LONGEST_WAIT: Duration = Duration::from_secs(1);

/// Status lines that come faster than this are decided on together. A node under load may report thousands of times a
/// second; every other input is acted on at once.
const LINE_BATCH: Duration = Duration::from_millis(3);

/// Swaps in one turn. An election needs about five; more than this means that two decisions undo each other, and the
/// disk is given a rest.
const MAX_SWAPS: u32 = 32;

/// How long a port may stay taken at the start: nodes of a supervisor that was killed end within milliseconds.
const PORT_PATIENCE: Duration = Duration::from_secs(3);

/// For whoever asked us to end to be told that we have.
const REPLY_PATIENCE: Duration = Duration::from_secs(1);

/// What `rdb local up` was asked for.
pub struct Options {
    pub layout: Layout,
    pub launcher: Launcher,
    pub stored: StoredSpec,
    pub restart: bool,
    /// Print events to standard output.
    pub print: bool,
}

/// A cluster under supervision.
pub struct Supervisor {
    pub(super) layout: Layout,
    pub(super) launcher: Launcher,
    pub(super) restart: bool,
    pub(super) spec: StoredSpec,
    pub(super) cluster: Cluster,
    pub(super) store: StatusStore<ClusterStatus>,
    pub(super) journal: Journal,
    pub(super) caller: Caller,
    pub(super) token: String,
    pub(super) instances: BTreeMap<NodeName, Instance>,
    /// All but `instances`, which are put in for each decision.
    pub(super) observed: Observed,
    /// Admin calls in flight by number, with the slot that they were made for.
    pub(super) calls: BTreeMap<u64, rdb_control::CallInFlight>,
    pub(super) next_call: u64,
    pub(super) wake_at: Option<Time>,
    pub(super) inputs: Sender<Input>,
    arrivals: Receiver<Input>,
    ending: Option<Ending>,
    _lock: File,
}

/// The cluster is being ended.
struct Ending {
    replies: Vec<Sender<Sent>>,
}

impl Supervisor {
    /// Takes the data directory, reads what is stored, and starts the nodes that are there. The calling thread has to live
    /// as long as the cluster.
    pub fn new(options: Options) -> Result<Supervisor, LocalError> {
        let Options { layout, launcher, stored, restart, print } = options;
        let lock = lock(&layout)?;
        let cluster = stored.cluster()?;
        layout.ensure_tokens()?;
        let (inputs, arrivals) = channel();
        // Before any other thread exists: a signal ends the process if one thread does not block it.
        signals::pass_on(inputs.clone())?;
        let store = StatusStore::new(&layout.status());
        let status = store.read()?;
        let journal = Journal::open(&layout.events(), print)?;
        let token = crate::client::read_token(&layout.admin_token())?;
        let started = now();
        let offered = getrandom::u64().map_err(|error| LocalError::io("randomness")(std::io::Error::other(error)))?;
        let mut observed = Observed {
            version: status.resource_version,
            generation: stored.generation,
            watched_since: started,
            lease_held_since: Some(started),
            offered_id: ClusterId(offered),
            ..Observed::default()
        };
        observed.take_status(status.status, started);
        let mut supervisor = Supervisor {
            caller: Caller::new(&token),
            layout,
            launcher,
            restart,
            spec: stored,
            cluster,
            store,
            journal,
            token,
            instances: BTreeMap::new(),
            observed,
            calls: BTreeMap::new(),
            next_call: 0,
            wake_at: None,
            inputs,
            arrivals,
            ending: None,
            _lock: lock,
        };
        supervisor.check_ports()?;
        supervisor.spec.write(&supervisor.layout)?;
        supervisor.adopt_existing()?;
        Ok(supervisor)
    }

    /// Lets the other commands in, and runs until told to end.
    pub fn run(mut self) -> Result<(), LocalError> {
        control_socket::serve(&self.layout.socket(), self.inputs.clone())?;
        let message = format!("cluster {} in {}", self.spec.name, self.layout.root().display());
        self.journal.note("SupervisorStarted", message);
        self.turn();
        while !self.has_ended() {
            self.wait();
            self.turn();
        }
        self.journal.note("SupervisorEnded", "all nodes have ended".to_owned());
        // Failing to remove the socket harms nobody: the next supervisor does it.
        let _ = std::fs::remove_file(self.layout.socket());
        let (written, all_written) = channel();
        for reply in self.ending.iter().flat_map(|ending| &ending.replies) {
            let reply_text = Reply::Done("the cluster has ended".to_owned());
            let _ = reply.send(Sent { reply: reply_text, written: Some(written.clone()) });
        }
        drop(written);
        // Ends with an error when the last of them is written, which is what is waited for.
        let _ = all_written.recv_timeout(REPLY_PATIENCE);
        Ok(())
    }

    /// Nodes that are there: every directory with a name of this cluster.
    fn adopt_existing(&mut self) -> Result<(), LocalError> {
        let root = self.layout.root().to_owned();
        for entry in std::fs::read_dir(&root).map_err(LocalError::io(&root))? {
            let entry = entry.map_err(LocalError::io(&root))?;
            let name = entry.file_name().to_str().and_then(|name| NodeName::new(name).ok());
            if let Some(name) = name
                && self.number(&name).is_some()
                && entry.path().is_dir()
            {
                self.add_instance(name.clone())?;
                self.start_node(&name);
            }
        }
        Ok(())
    }

    /// The n of `<cluster>-<n>`, which decides its port.
    pub(super) fn number(&self, name: &NodeName) -> Option<u16> {
        let number = name.as_str().strip_prefix(&self.spec.name)?.strip_prefix('-')?;
        number.parse().ok().filter(|n: &u16| (1..=99).contains(n) && n.to_string() == number)
    }

    pub(super) fn address(&self, number: u16) -> Result<String, LocalError> {
        match self.spec.port.checked_add(number) {
            Some(port) => Ok(format!("127.0.0.1:{port}")),
            None => Err(LocalError::Spec(format!("port {} + {number} is no port", self.spec.port))),
        }
    }

    pub(super) fn add_instance(&mut self, name: NodeName) -> Result<(), LocalError> {
        let number =
            self.number(&name).ok_or_else(|| LocalError::Supervisor(format!("{name} is no name of this cluster")))?;
        let address = self.address(number)?;
        let data = self.layout.node_data(&name);
        std::fs::create_dir_all(&data).map_err(LocalError::io(&data))?;
        let instance = Instance::new(name.clone(), address, &self.token, self.inputs.clone())?;
        self.instances.insert(name, instance);
        Ok(())
    }

    fn check_ports(&self) -> Result<(), LocalError> {
        let deadline = now().plus(PORT_PATIENCE);
        for number in 1..=self.cluster.instances() {
            let address = self.address(u16::try_from(number).unwrap_or(u16::MAX))?;
            if !watch::wait_until_refused(&address, deadline) {
                return Err(LocalError::PortInUse(address));
            }
        }
        Ok(())
    }

    /// Starts a node's process; a failure is told and tried again later.
    pub(super) fn start_node(&mut self, name: &NodeName) {
        let Some(instance) = self.instances.get_mut(name) else { return };
        match instance.start(&self.launcher, &self.inputs) {
            Ok(()) => {
                let pid = instance.process.as_ref().map_or(0, |process| process.id());
                self.journal.note("NodeStarted", format!("{name} as process {pid} on {}", instance.address));
            }
            Err(error) => {
                instance.restart_at = Some(now().plus(RESTART_PAUSE));
                self.journal.note("NodeStartFailed", format!("{name}: {error}"));
            }
        }
    }

    /// Waits for an input or the next time at which something is due, and takes in all that has come by then.
    fn wait(&mut self) {
        let started = now();
        let due = self.next_due(started);
        let first = match self.arrivals.recv_timeout(due.since(started)) {
            Ok(input) => input,
            // The sender that we hold ourselves keeps the channel open.
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return,
        };
        let mut only_lines = matches!(first, Input::Line { .. });
        self.take(first);
        let until = now().plus(LINE_BATCH);
        loop {
            let patience = if only_lines { until.since(now()) } else { Duration::ZERO };
            match self.arrivals.recv_timeout(patience) {
                Ok(input) => {
                    only_lines &= matches!(input, Input::Line { .. });
                    self.take(input);
                }
                Err(_) => return,
            }
        }
    }

    fn next_due(&self, at: Time) -> Time {
        let instances = self.instances.values().flat_map(|instance| [instance.restart_at, instance.kill_at]);
        let due = instances.chain([self.wake_at]).flatten().min();
        due.unwrap_or(Time(u64::MAX)).min(at.plus(LONGEST_WAIT))
    }

    fn take(&mut self, input: Input) {
        match input {
            Input::Line { node, launch, status, at } => {
                if let Some(instance) = self.instances.get_mut(&node) {
                    instance.line(launch, *status, at);
                }
            }
            Input::Disconnected { node, refused, at } => {
                if let Some(instance) = self.instances.get_mut(&node) {
                    instance.disconnected(refused, at);
                }
                let how = if refused { "refuses connections" } else { "stream ended" };
                self.journal.fact("Disconnected", format!("{node}: {how}"));
            }
            Input::Exited { node, launch, how, at } => self.exited(&node, launch, &how, at),
            Input::Answered { call, outcome, recruit, at } => self.answered(call, outcome, recruit, at),
            Input::Command { request: Request::Down, reply } => self.begin_end(Some(reply)),
            Input::Command { request, reply } => {
                let answer = self.command(request);
                // The command may have been interrupted meanwhile.
                let _ = reply.send(answer.into());
            }
            // The second one is for those who do not want to wait.
            Input::Ending(_) if self.ending.is_some() => self.signal_all(Signal::KILL),
            Input::Ending(_) => self.begin_end(None),
        }
    }

    fn exited(&mut self, node: &NodeName, launch: u64, how: &str, at: Time) {
        let ending = self.ending.is_some();
        let Some(instance) = self.instances.get_mut(node) else { return };
        if !instance.exited(launch) {
            return;
        }
        let mut message = format!("{node}: {how}");
        if self.restart && !ending && instance.is_wanted() {
            instance.restart_at = Some(at.plus(RESTART_PAUSE));
            message.push_str("; it is restarted after a second");
        }
        self.journal.note("NodeExited", message);
    }

    fn begin_end(&mut self, reply: Option<Sender<Sent>>) {
        if self.ending.is_none() {
            self.journal.note("Ending", "the nodes are told to end".to_owned());
            let at = now();
            self.instances.values_mut().for_each(|instance| instance.end(at));
        }
        self.ending.get_or_insert(Ending { replies: Vec::new() }).replies.extend(reply);
    }

    fn signal_all(&mut self, signal: Signal) {
        for instance in self.instances.values_mut() {
            instance.signal(signal);
        }
    }

    fn has_ended(&self) -> bool {
        self.ending.is_some() && self.instances.values().all(|instance| instance.process.is_none())
    }

    /// What is due, then decisions until one changes nothing.
    fn turn(&mut self) {
        self.timers();
        if self.ending.is_some() {
            return;
        }
        for _ in 0..MAX_SWAPS {
            if !self.decide() {
                return;
            }
        }
        tracing::error!("{MAX_SWAPS} status changes in one turn; waiting a little");
        self.wake_at = Some(now().plus(Duration::from_millis(250)));
    }

    fn timers(&mut self) {
        let at = now();
        let mut start = Vec::new();
        for instance in self.instances.values_mut() {
            if instance.kill_at.is_some_and(|time| time <= at) {
                instance.kill_at = None;
                instance.signal(Signal::KILL);
            }
            if instance.restart_at.is_some_and(|time| time <= at) && instance.is_wanted() {
                start.push(instance.name.clone());
            }
        }
        if self.ending.is_none() {
            start.iter().for_each(|name| self.start_node(name));
        }
        self.remove_deleted();
    }
}

/// One supervisor per data directory.
fn lock(layout: &Layout) -> Result<File, LocalError> {
    let path = layout.supervisor_lock();
    let file =
        OpenOptions::new().create(true).truncate(false).write(true).open(&path).map_err(LocalError::io(&path))?;
    flock(&file, FlockOperation::NonBlockingLockExclusive)
        .map_err(|_| LocalError::AlreadyRunning(layout.root().to_owned()))?;
    Ok(file)
}
