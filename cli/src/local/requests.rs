//! What the other commands ask of the supervisor, carried out in its loop.

use rdb_protocol::{Epoch, NodeName};
use rustix::process::Signal;

use super::control_socket::{Reply, Report, Request};
use super::supervisor::Supervisor;

impl Supervisor {
    pub(super) fn command(&mut self, request: Request) -> Reply {
        match self.try_command(request) {
            Ok(reply) => reply,
            Err(reason) => Reply::Refused(reason),
        }
    }

    fn try_command(&mut self, request: Request) -> Result<Reply, String> {
        let done = match request {
            Request::Status => return Ok(Reply::Status(Box::new(self.report()))),
            Request::Kill { node } => self.signal(&node, Signal::KILL, "killed", "NodeKilled")?,
            Request::Freeze { node } => self.signal(&node, Signal::STOP, "frozen", "NodeFrozen")?,
            Request::Thaw { node } => self.signal(&node, Signal::CONT, "thawed", "NodeThawed")?,
            Request::Start { node } => {
                let name = self.resolve(&node)?;
                if self.instances.get(&name).is_some_and(|instance| instance.process.is_some()) {
                    return Ok(Reply::Done(format!("{name} is running already")));
                }
                self.start_node(&name);
                format!("{name} is started")
            }
            Request::Switchover { target } => {
                let name = self.resolve(target.as_str())?;
                self.observed.requests.switchover = Some(name.clone());
                format!("switchover to {name} requested")
            }
            Request::Reseed { node } => {
                let name = self.resolve(&node)?;
                self.observed.requests.reseed = Some(name.clone());
                format!("re-seeding of {name} requested")
            }
            Request::AcceptDataLoss { epoch } => {
                let present = self.observed.status.epoch;
                if Epoch(epoch) < present {
                    return Err(format!("epoch {epoch} has passed; the present one is {present}"));
                }
                self.observed.requests.accept_data_loss = Some(Epoch(epoch));
                format!("loss of acknowledged writes accepted for epoch {epoch}")
            }
            Request::Set { path, value } => self.set(&path, &value)?,
            // Answered when all nodes have ended, by the loop itself.
            Request::Down => return Err("ending is the loop's business".to_owned()),
        };
        Ok(Reply::Done(done))
    }

    /// A node by its name, its number, or as `leader`.
    fn resolve(&self, node: &str) -> Result<NodeName, String> {
        if node == "leader" {
            let leader = self.observed.status.leader.as_ref().map(|leader| leader.name.clone());
            return leader.ok_or_else(|| "there is no leader".to_owned());
        }
        let names = self.names();
        let numbered = format!("{}-{node}", self.spec.name);
        names.get(node).or_else(|| names.get(&numbered)).cloned().ok_or_else(|| {
            let known: Vec<&str> = names.keys().map(String::as_str).collect();
            format!("no node {node:?}; there are {}", known.join(", "))
        })
    }

    fn signal(&mut self, node: &str, signal: Signal, past: &str, event: &str) -> Result<String, String> {
        let name = self.resolve(node)?;
        let instance = self.instances.get_mut(&name).ok_or_else(|| format!("no node {name}"))?;
        if !instance.signal(signal) {
            return Err(format!("{name} is not running"));
        }
        self.journal.note(event, name.to_string());
        Ok(format!("{name} {past}"))
    }

    /// A change that makes the spec invalid is refused as a whole.
    fn set(&mut self, path: &str, value: &str) -> Result<String, String> {
        let mut changed = self.spec.clone();
        changed.set(path, value).map_err(|error| error.to_string())?;
        let cluster = changed.cluster().map_err(|error| error.to_string())?;
        if changed.generation == self.spec.generation {
            return Ok(format!("{path} is {value} already"));
        }
        changed.write(&self.layout).map_err(|error| error.to_string())?;
        self.spec = changed;
        self.cluster = cluster;
        self.journal.note("SpecChanged", format!("{path} = {value}, generation {}", self.spec.generation));
        Ok(format!("{path} = {value}"))
    }

    fn report(&self) -> Report {
        Report {
            name: self.spec.name.clone(),
            supervisor_pid: std::process::id(),
            generation: self.spec.generation,
            spec: self.spec.spec.clone(),
            resource_version: self.observed.version.clone(),
            status: self.observed.status.clone(),
            instances: self.instance_reports(),
            switchover: self.observed.requests.switchover.clone(),
            reseed: self.observed.requests.reseed.clone(),
            events: self.journal.recent(),
        }
    }
}
