//! Observe: what the caches and the streams say becomes `control`'s [`Observed`](rdb_control::Observed). Nothing is decided
//! here; what is not known is said to be so.
//!
//! An instance is a name that has a volume claim or a pod. Orders about it are kept as annotations of its claim, so that
//! another operator finds them: see [`STOPPED`] and [`DELETING`].

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use rdb_control::{Connection, InstanceObservation, Lifecycle, Report, Time};
use rdb_protocol::NodeName;

use super::mailbox::{Input, Line, Pending};
use super::{Parsed, Worker, evidence, requests};
use crate::build::{self, Owner};
use crate::clock;
use crate::crd::{RawReplicatedDB, status};
use crate::kubernetes::cache::is_newer;
use crate::monitor::stream::{self, Stream, Watched};

/// Annotation of a claim: no pod runs on it, by order.
pub const STOPPED: &str = "replicateddb.io/stopped";
/// Annotation of a claim: it is being deleted by our order, not by somebody else's.
pub const DELETING: &str = "replicateddb.io/deleting";

/// The end of a stream and the refusal of the next are one event if they are no further apart: a process that ends takes
/// both with it.
const ONE_END: Duration = Duration::from_millis(100);

/// One instance: its stream, and what was observed.
pub struct Instance {
    pub observed: InstanceObservation,
    pub stream: Option<Stream>,
    /// Since when it can't run.
    pub stuck_since: Option<Time>,
}

impl Instance {
    fn new(now: Time) -> Instance {
        Instance { observed: InstanceObservation::unknown(now), stream: None, stuck_since: None }
    }
}

pub(super) fn has_annotation(claim: &PersistentVolumeClaim, key: &str) -> bool {
    claim.metadata.annotations.as_ref().is_some_and(|annotations| annotations.contains_key(key))
}

fn lifecycle(claim: Option<&Arc<PersistentVolumeClaim>>) -> Lifecycle {
    match claim {
        Some(claim) if has_annotation(claim, DELETING) => Lifecycle::Deleting,
        Some(claim) if has_annotation(claim, STOPPED) => Lifecycle::Stopped,
        _ => Lifecycle::Running,
    }
}

/// A port that refuses right after the stream ended has done so since then: what followers said in between counts.
fn ended(before: Connection, refused: bool, at: Time) -> Connection {
    match before {
        Connection::Lost { since } if refused && at.since(since) < ONE_END => Connection::Refused { since },
        _ if refused => Connection::Refused { since: at },
        _ => Connection::Lost { since: at },
    }
}

impl Worker {
    /// Takes in what has come.
    pub(crate) fn take(&mut self, pending: Pending) {
        if pending.resource {
            match self.context.caches.resources.get(&self.key, &self.key.name) {
                Some(resource) if resource.uid() == self.resource.uid() => self.take_resource(resource),
                _ => self.gone = true,
            }
        }
        for input in pending.inputs {
            self.take_input(input);
        }
        if pending.objects {
            self.objects_due = true;
            self.observe_objects();
        }
        for (name, line) in pending.lines {
            self.take_line(&name, line);
        }
    }

    fn take_input(&mut self, input: Input) {
        match input {
            Input::Pod(pod) => self.take_evidence(&pod),
            Input::Disconnected { instance, stream, refused, at } => {
                let Some(held) = self.instances.get_mut(&instance) else { return };
                if held.stream.as_ref().is_some_and(|held| held.number == stream) {
                    held.observed.connection = ended(held.observed.connection, refused, at);
                    tracing::info!(cluster = %self.key, %instance, refused, "status stream ended");
                }
            }
            Input::Answered { call, outcome, recruit, at } => self.answered(call, outcome, recruit, at),
            Input::Routed(result) => self.routed(result),
        }
    }

    fn take_line(&mut self, name: &NodeName, line: Line) {
        let Some(held) = self.instances.get_mut(name) else { return };
        if held.stream.as_ref().is_some_and(|held| held.number == line.stream) {
            held.observed.connection = Connection::Connected;
            held.observed.report = Some(Report { status: *line.status, received_at: line.at });
        }
    }

    /// Every report of a pod may prove that a process ended, also of one that is gone by now.
    fn take_evidence(&mut self, pod: &Pod) {
        let name = pod.metadata.name.as_deref().and_then(|name| NodeName::new(name).ok());
        let Some(held) = name.and_then(|name| self.instances.get_mut(&name)) else { return };
        evidence::ended_boots(pod).into_iter().for_each(|boot| held.observed.exited_boots.insert(boot));
    }

    /// Takes a version of the resource, unless a newer one is held.
    pub(crate) fn take_resource(&mut self, resource: Arc<RawReplicatedDB>) {
        let is_held = self.observed.version == resource.resource_version() && !self.observed.version.is_empty();
        if is_held || is_newer(self.resource.as_ref(), resource.as_ref()) {
            return;
        }
        match status::from_stored(resource.status.as_ref()) {
            Ok(status) => {
                // Pods are labelled with their roles.
                self.objects_due |= status.leader != self.observed.status.leader;
                self.objects_due |= status.phase != self.observed.status.phase;
                self.observed.take_status(status, clock::now());
                // Without it the same would be decided before anything else again.
                self.observed.status.layouts_differ |= self.layouts_unkept;
                self.unreadable = None;
            }
            Err(error) => self.unreadable = Some(error.to_string()),
        }
        self.observed.version = resource.resource_version().to_owned();
        self.observed.generation = generation(&resource);
        self.observed.requests = requests::read(&resource).0;
        self.parsed = resource.parse().map(|(resource, cluster)| Box::new(Parsed { resource, cluster }));
        if generation(&self.resource) != self.observed.generation
            || self.resource.metadata.annotations != resource.metadata.annotations
        {
            self.objects_due = true;
        }
        self.resource = resource;
        if self.objects_due {
            self.observe_objects();
        }
    }

    /// Brings the instances in line with the claims and pods that there are.
    pub(crate) fn observe_objects(&mut self) {
        let pods = self.context.caches.pods.of(&self.key);
        let claims = self.context.caches.claims.of(&self.key);
        let names: BTreeSet<NodeName> =
            pods.keys().chain(claims.keys()).filter_map(|name| self.instance_name(name)).collect();
        self.instances.retain(|name, _| names.contains(name));
        self.observed.calls.retain(|key, _| names.contains(&key.to));
        self.observe_tokens();
        let now = clock::now();
        for name in names {
            self.instances.entry(name.clone()).or_insert_with(|| Instance::new(now));
            self.observe_instance(&name, pods.get(name.as_str()), claims.get(name.as_str()));
        }
    }

    /// Names of instances are the cluster's with a number behind.
    fn instance_name(&self, name: &str) -> Option<NodeName> {
        let number = name.strip_prefix(&self.key.name)?.strip_prefix('-')?;
        let proper = number.parse::<u32>().is_ok_and(|n| n > 0 && n.to_string() == number);
        NodeName::new(name).ok().filter(|_| proper)
    }

    fn observe_instance(
        &mut self,
        name: &NodeName,
        pod: Option<&Arc<Pod>>,
        claim: Option<&Arc<PersistentVolumeClaim>>,
    ) {
        let now = clock::now();
        let machine = pod.and_then(|pod| evidence::machine(pod)).map(str::to_owned);
        let node = machine.as_deref().and_then(|machine| self.context.machines.get(machine));
        let cordoned = node.as_ref().is_some_and(|node| evidence::is_cordoned(node));
        let ending = pod.is_some_and(|pod| evidence::is_being_deleted(pod));
        // A pod that is ending is as outdated as before: its process is not the next one.
        let outdated = match (&self.parsed, pod) {
            (Ok(parsed), Some(pod)) => {
                build::outdated(&Owner { resource: &parsed.resource, images: &self.context.images }, pod)
            }
            _ => None,
        };
        let address = pod.and_then(|pod| evidence::address(pod));
        self.follow_stream(name, address.as_deref());
        let secrets = self.unusable_secrets();
        let Some(held) = self.instances.get_mut(name) else { return };
        let observed = &mut held.observed;
        observed.lifecycle = lifecycle(claim);
        observed.address = address;
        observed.zone = node.as_ref().and_then(|node| evidence::zone(node)).map(str::to_owned);
        observed.ending = ending;
        observed.draining = cordoned || ending;
        observed.outdated = outdated;
        // What is wrong with its Secret says more than how its processes end of it.
        observed.stuck = pod.and_then(|pod| evidence::stuck(pod)).map(|stuck| secrets.unwrap_or(stuck));
        held.stuck_since = observed.stuck.as_ref().and(held.stuck_since.or(Some(now)));
        if machine.is_some() {
            observed.node = machine;
        }
        if let Some(pod) = pod {
            evidence::ended_boots(pod).into_iter().for_each(|boot| held.observed.exited_boots.insert(boot));
        }
    }

    /// One stream to where the instance is now; none where it is nowhere.
    fn follow_stream(&mut self, name: &NodeName, address: Option<&str>) {
        let number = self.number();
        let known = self.tokens.is_known();
        let Some(held) = self.instances.get_mut(name) else { return };
        if held.stream.as_ref().map(|stream| stream.address.as_str()) == address {
            return;
        }
        if held.observed.connection == Connection::Connected || held.stream.is_some() {
            held.observed.connection = Connection::Lost { since: clock::now() };
        }
        held.stream = None;
        let Some(address) = address.filter(|_| known) else { return };
        let watched =
            Watched { instance: name.clone(), address: address.to_owned(), number, tokens: self.tokens.clone() };
        held.stream = Some(stream::watch(watched, Arc::clone(&self.mailbox)));
    }

    /// The instances, for one decision.
    pub(crate) fn lend_instances(&mut self) {
        let owned = self.instances.iter_mut().map(|(name, instance)| (name, &mut instance.observed));
        self.observed.borrow_instances(owned);
    }

    pub(crate) fn return_instances(&mut self) {
        let owned = self.instances.iter_mut().map(|(name, instance)| (name, &mut instance.observed));
        self.observed.return_instances(owned);
    }
}

pub(crate) fn generation(resource: &RawReplicatedDB) -> u64 {
    resource.metadata.generation.and_then(|generation| u64::try_from(generation).ok()).unwrap_or_default()
}
