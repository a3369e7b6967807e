//! Routes: where the services lead. Each is one endpoint slice, written whole, so that clients change over at once.
//!
//! kube-proxy takes a change over within 50 ms if its last one was a second ago, else at the end of that second. So while
//! a leader is being replaced nothing is written: the one write that counts is the new leader's. The slice of the leader
//! comes first, for the same reason.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Api;
use rdb_control::{Connection, Lifecycle, Time};
use rdb_protocol::NodeName;
use rdb_protocol::status::{NodeState, Role};

use super::Worker;
use super::mailbox::Input;
use super::observe::Instance;
use crate::build::{self, Endpoint, Owner, Routes};
use crate::clock;
use crate::kubernetes::api;

/// An election takes one or two seconds. After this the routes follow what is there, with or without a leader.
const HOLD: Duration = Duration::from_secs(5);

/// What was written, and what is under way.
#[derive(Debug, Default)]
pub struct Routing {
    pub ipv6: bool,
    /// The slices as they were written last; empty = not known.
    written: BTreeMap<String, EndpointSlice>,
    in_flight: Option<BTreeMap<String, EndpointSlice>>,
    routed: Routes,
    /// Since when there is no leader to route to.
    leaderless_since: Option<Time>,
}

impl Worker {
    /// Starts a write if the routes lead elsewhere than they should.
    pub(crate) fn route(&mut self) {
        let Ok(parsed) = &self.parsed else { return };
        if self.routes.in_flight.is_some() || parsed.resource.spec.paused {
            return;
        }
        let wanted = self.wanted_routes();
        let now = clock::now();
        // Also when a new operator does not know what was written: clients still go where the last leader was.
        if wanted.leader.is_some() {
            self.routes.leaderless_since = None;
        } else {
            let until = self.routes.leaderless_since.get_or_insert(now).plus(HOLD);
            if now < until {
                self.wake_by(until);
                return;
            }
        }
        let owner = Owner { resource: &parsed.resource, images: &self.context.images };
        let slices: BTreeMap<String, EndpointSlice> = build::endpoint_slices(&owner, &wanted)
            .into_iter()
            .filter_map(|slice| Some((slice.metadata.name.clone()?, slice)))
            .collect();
        let first = owner.rw_service();
        let changed = slices.iter().filter(|(name, slice)| self.routes.written.get(*name) != Some(*slice));
        let mut changed: Vec<(String, EndpointSlice)> = changed.map(|(n, s)| (n.clone(), s.clone())).collect();
        if changed.is_empty() {
            return;
        }
        changed.sort_by_key(|(name, _)| *name != first);
        let leader = wanted.leader.as_ref().map_or("none", |leader| leader.name.as_str());
        tracing::info!(cluster = %self.key, leader, ready = wanted.all.len(), "routes move");
        self.routes.routed = wanted;
        self.routes.in_flight = Some(slices);
        let api: Api<EndpointSlice> = Api::namespaced(self.context.client.clone(), &self.key.namespace);
        let mailbox = std::sync::Arc::clone(&self.mailbox);
        tokio::spawn(async move {
            let mut result = Ok(());
            for (name, slice) in changed {
                if let Err(error) = api::apply(&api, &name, &slice).await {
                    result = Err(format!("{name}: {error}"));
                    break;
                }
            }
            mailbox.push(Input::Routed(result));
        });
    }

    pub(crate) fn routed(&mut self, result: Result<(), String>) {
        let in_flight = self.routes.in_flight.take();
        match result {
            Ok(()) => self.routes.written = in_flight.unwrap_or_default(),
            Err(error) => {
                tracing::warn!(cluster = %self.key, error, "routes were not moved");
                // Which of them were is not known.
                self.routes.written.clear();
                self.retry_later();
            }
        }
    }

    fn wanted_routes(&self) -> Routes {
        let leader = self.open_leader();
        let serves = |(name, instance): (&NodeName, &Instance)| {
            let is_leader = leader.as_ref() == Some(name);
            let was = self.routes.routed.all.iter().any(|endpoint| endpoint.name == *name);
            (is_leader || follows(instance, was)).then(|| self.endpoint(name)).flatten()
        };
        Routes {
            leader: leader.as_ref().and_then(|name| self.endpoint(name)),
            all: self.instances.iter().filter_map(serves).collect(),
            ipv6: self.routes.ipv6,
        }
    }

    /// The leader of the stored epoch, if it says that it is open.
    fn open_leader(&self) -> Option<NodeName> {
        let status = &self.observed.status;
        let leader = status.leader.as_ref().filter(|_| status.has_leader())?;
        let observed = &self.instances.get(&leader.name)?.observed;
        let report = observed.status()?;
        let open = report.role == Role::Leader
            && report.opened
            && report.led == status.epoch
            && report.incarnation == leader.incarnation
            && observed.connection == Connection::Connected
            && !observed.exited_boots.contains(&report.boot);
        open.then(|| leader.name.clone())
    }

    fn endpoint(&self, name: &NodeName) -> Option<Endpoint> {
        let observed = &self.instances.get(name)?.observed;
        let address = observed.address.as_deref()?;
        let (ip, _port) = address.rsplit_once(':')?;
        let pod = self.context.caches.pods.get(&self.key, name.as_str())?;
        Some(Endpoint {
            name: name.clone(),
            ip: ip.trim_matches(['[', ']']).to_owned(),
            node: observed.node.clone(),
            zone: observed.zone.clone(),
            pod_uid: pod.metadata.uid.clone(),
        })
    }
}

/// A follower is routed to once it streams, and for as long as it can answer: it may lose its leader for a moment.
fn follows(instance: &Instance, was: bool) -> bool {
    let observed = &instance.observed;
    let Some(status) = observed.status() else { return false };
    let state = match status.state {
        NodeState::Streaming => true,
        NodeState::Searching | NodeState::CatchingUp => was,
        NodeState::Empty
        | NodeState::Seeding
        | NodeState::Opening
        | NodeState::Leading
        | NodeState::WritesStopped
        | NodeState::Diverged
        | NodeState::Halted => false,
    };
    state
        && status.role == Role::Follower
        && observed.lifecycle == Lifecycle::Running
        && observed.connection == Connection::Connected
        && !observed.exited_boots.contains(&status.boot)
}
