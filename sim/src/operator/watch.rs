//! What an operator sees: the API's objects, the nodes' status streams, and its own Lease.

use std::collections::BTreeSet;

use rdb_control::{Connection, InstanceObservation, Lifecycle, Report};
use rdb_protocol::Incarnation;
use rdb_protocol::status::NodeStatus;

use crate::api::Objects;
use crate::event::{ApiRequest, At, Event, MS, NodeEvent, NodeId, OperatorEvent, SECOND};
use crate::net::Place;
use crate::world::{World, node_name};

/// Between two attempts at a status stream.
const RETRY: At = 250 * MS;
/// A stream without a line for so long is begun anew.
const STALE_STREAM: At = 3 * SECOND;
/// The Lease is renewed so often, held without renewal for so long by its own clock, and given to somebody else after so
/// long; the difference of the latter two is what clocks may drift apart.
pub(crate) const RENEW: At = SECOND;
const RENEW_DEADLINE: At = 4 * SECOND;
pub(crate) const LEASE: At = 6 * SECOND;

/// A status stream to a node.
#[derive(Debug)]
pub(crate) struct Stream {
    number: u64,
    last_sign: At,
}

impl World {
    /// Takes what was read, unless something newer is known.
    pub(crate) fn read_objects(&mut self, operator: usize, objects: Objects) {
        let now = self.operator_time(operator);
        let me = &mut self.operators[operator];
        if objects.revision <= me.revision && me.revision > 0 {
            return;
        }
        me.revision = objects.revision;
        let resource = objects.resource;
        me.observed.take_status(resource.status, now);
        me.observed.version = resource.version.to_string();
        me.observed.generation = resource.generation;
        me.observed.requests = resource.requests;
        me.claims = objects.claims.iter().map(|(node, claim)| (*node, claim.uid)).collect();
        let present: BTreeSet<NodeId> = objects.claims.keys().chain(objects.pods.keys()).copied().collect();
        let names: BTreeSet<_> = present.iter().map(|node| node_name(*node)).collect();
        me.observed.instances.retain(|name, _| names.contains(name));
        me.observed.calls.retain(|key, _| names.contains(&key.to));
        me.streams.retain(|node, _| present.contains(node));
        let mut fresh = Vec::new();
        for node in &present {
            let instance = me.observed.instances.entry(node_name(*node)).or_insert_with(|| InstanceObservation {
                address: Some(format!("{}:7700", node_name(*node))),
                ..InstanceObservation::unknown(now)
            });
            let pod = objects.pods.get(node);
            let claim = objects.claims.get(node);
            instance.lifecycle = match (claim, pod) {
                (Some(claim), _) if claim.deleting => Lifecycle::Deleting,
                (None, _) => Lifecycle::Deleting,
                (_, None) => Lifecycle::Stopped,
                (_, Some(_)) => Lifecycle::Running,
            };
            let old = pod.filter(|pod| pod.image != resource.image);
            instance.outdated = old.map(|pod| format!("image {} instead of {}", pod.image, resource.image));
            instance.ending = pod.is_some_and(|pod| pod.deleting);
            instance.draining = objects.draining.contains(node);
            let ended = pod.into_iter().flat_map(|pod| &pod.terminated);
            ended.for_each(|boot| instance.exited_boots.insert(Incarnation(*boot)));
            if !me.streams.contains_key(node) {
                fresh.push(*node);
            }
        }
        self.parse_spec(operator, &resource.spec);
        for node in fresh {
            self.begin_stream(operator, node, 10 * MS);
        }
        self.changed(operator);
    }

    // --- streams ---

    fn begin_stream(&mut self, operator: usize, node: NodeId, delay: At) {
        let number = self.fresh_id();
        let last_sign = self.now + delay;
        self.operators[operator].streams.insert(node, Stream { number, last_sign });
        self.operator_later(operator, delay, OperatorEvent::Connect { node, stream: number });
    }

    fn is_current(&self, operator: usize, node: NodeId, stream: u64) -> bool {
        self.operators[operator].streams.get(&node).is_some_and(|held| held.number == stream)
    }

    pub(crate) fn connect_stream(&mut self, operator: usize, node: NodeId, stream: u64) {
        if !self.is_current(operator, node, stream) {
            return;
        }
        let (here, there) = (Place::Operator(operator), Place::Node(node));
        let both = self.reaches(here, there) && self.reaches(there, here);
        let delay = self.passes(here, there).filter(|_| both);
        let pod = self.api.objects.pods.get(&node).is_some_and(|pod| !pod.deleting);
        let process = self.nodes.get(&node).is_some_and(|place| place.process.is_some());
        match delay {
            Some(delay) if process => {
                let life = self.operators[operator].life;
                self.schedule(delay, Event::Node { node, boot: 0, event: NodeEvent::Watch { operator, life, stream } });
            }
            Some(delay) if pod => {
                self.operator_later(operator, 2 * delay, OperatorEvent::Disconnected { node, stream, refused: true });
            }
            // No route: nothing comes back, and it is tried again.
            _ => self.begin_stream(operator, node, RETRY),
        }
    }

    pub(crate) fn line(&mut self, operator: usize, node: NodeId, stream: u64, status: NodeStatus) {
        let (now, received_at) = (self.now, self.operator_time(operator));
        if !self.is_current(operator, node, stream) {
            return;
        }
        let me = &mut self.operators[operator];
        if let Some(held) = me.streams.get_mut(&node) {
            held.last_sign = now;
        }
        if let Some(instance) = me.observed.instances.get_mut(&node_name(node)) {
            instance.connection = Connection::Connected;
            instance.report = Some(Report { status, received_at });
        }
        self.changed(operator);
    }

    pub(crate) fn disconnected(&mut self, operator: usize, node: NodeId, stream: u64, refused: bool) {
        let since = self.operator_time(operator);
        if !self.is_current(operator, node, stream) {
            return;
        }
        if let Some(instance) = self.operators[operator].observed.instances.get_mut(&node_name(node)) {
            instance.connection = match instance.connection {
                Connection::Refused { since } if refused => Connection::Refused { since },
                _ if refused => Connection::Refused { since },
                _ => Connection::Lost { since },
            };
        }
        let delay = if refused { RETRY } else { 5 * MS };
        self.begin_stream(operator, node, delay);
        self.changed(operator);
    }

    // --- the Lease ---

    /// Every second: the Lease, streams that went silent, and a look at the API in case a watch was lost.
    pub(crate) fn patrol(&mut self, operator: usize) {
        self.operator_later(operator, RENEW, OperatorEvent::RenewLease);
        let (asked_at, order) = (self.now, self.fresh_id());
        self.ask_api(operator, ApiRequest::Lease { asked_at });
        self.ask_api(operator, ApiRequest::Read { order });
        let since = self.operator_time(operator);
        let silent: Vec<NodeId> = self.operators[operator]
            .streams
            .iter()
            .filter(|(_, stream)| asked_at > stream.last_sign + STALE_STREAM)
            .map(|(node, _)| *node)
            .collect();
        for node in silent {
            let instance = self.operators[operator].observed.instances.get_mut(&node_name(node));
            if let Some(instance) = instance.filter(|instance| instance.connection == Connection::Connected) {
                instance.connection = Connection::Lost { since };
            }
            self.begin_stream(operator, node, MS);
        }
    }

    pub(crate) fn lease(&mut self, operator: usize, held: bool, asked_at: At) {
        let age = self.now - asked_at;
        let now = self.operator_time(operator);
        if self.profile.both_act {
            return;
        }
        let me = &mut self.operators[operator];
        if !held {
            me.observed.lease_held_since = None;
            return;
        }
        let until = rdb_control::Time((now.0 + RENEW_DEADLINE).saturating_sub(age));
        if me.lease_until < now {
            me.observed.lease_held_since = None;
        }
        me.lease_until = me.lease_until.max(until);
        if me.observed.lease_held_since.is_none() && now < me.lease_until {
            me.observed.lease_held_since = Some(now);
            self.hit("operator: Lease taken");
            self.tell(|| format!("operator {operator} holds the Lease"));
            self.changed(operator);
        }
    }
}
