//! The world of one seed: nodes, operators, API server, network, clients and checkers in one thread, moved on by one queue of
//! events.

use std::collections::BTreeMap;

use rdb_protocol::{Member, NodeName};
use rdb_replication::Output;

use crate::api::Api;
use crate::check::Checks;
use crate::client::Client;
use crate::coverage::Coverage;
use crate::disk::{SimLog, Volume};
use crate::event::{At, ClientEvent, ConnId, Event, MS, NodeId, Queue, SECOND};
use crate::net::{Blocked, Conn};
use crate::node::Process;
use crate::operator::Operator;
use crate::plan::Target;
use crate::profile::Profile;
use crate::rng::Rng;
use crate::trace::Trace;

/// After the faults have ended, a cluster is back in order, with everything as asked for, within this simulated time. The
/// longest waits on the way: ten minutes of back-off after failovers in a row, and what `rdb_control` grants a cold start.
pub const CONVERGES_WITHIN: At = 900 * SECOND;
/// After so long without a way on, a person accepts what the message says.
const PATIENCE: At = 60 * SECOND;
/// How often it is looked whether it is.
const LOOK: At = SECOND;

/// A place for an instance: its volume, its process, and the machine below them.
#[derive(Debug)]
pub struct Node {
    pub id: NodeId,
    pub name: NodeName,
    pub volume: Option<Volume>,
    pub process: Option<Process>,
    pub host_down: bool,
    pub slow: bool,
    pub stuck: bool,
    /// Microseconds of its clock per second of the world.
    pub rate: u64,
    /// Restarts of the container, for the kubelet's back-off.
    pub restarts: u32,
    pub started: At,
}

#[derive(Debug)]
pub struct World {
    pub profile: Profile,
    pub now: At,
    pub(crate) rng: Rng,
    queue: Queue,
    pub nodes: BTreeMap<NodeId, Node>,
    pub(crate) conns: BTreeMap<ConnId, Conn>,
    pub(crate) next_conn: ConnId,
    next_id: u64,
    pub(crate) cuts: Vec<(u64, Blocked)>,
    /// A pause of the leader that waits for its next round: for how long, and the round that it has seen.
    pub(crate) pause_at_round: Option<(At, Option<u64>)>,
    /// What happens when a leader is told of a change of the config: whom it kills, for how long calls are held up.
    pub(crate) at_next_change: Option<(Target, At)>,
    /// Operators' calls to nodes are held up until then.
    pub(crate) calls_late_until: At,
    pub api: Api,
    pub operators: Vec<Operator>,
    pub clients: Vec<Client>,
    pub checks: Checks,
    pub coverage: Coverage,
    pub trace: Trace,
    pub(crate) scratch: Vec<Output>,
    /// What incarnations held that ended for a base copy.
    pub(crate) given_up: BTreeMap<Member, SimLog>,
    /// The fault phase is over.
    pub calm: bool,
    ended: bool,
    /// Data were taken away, or the status was: a person may have to say that records may be lost.
    pub(crate) robbed: bool,
    /// The status has been asking for a person's word since then.
    asked_since: Option<At>,
}

/// How a world ended.
#[derive(Clone, Debug)]
pub struct Report {
    pub violation: Option<String>,
    pub hash: u64,
    pub simulated: At,
    pub events: u64,
    pub committed: u64,
    pub acknowledged: u64,
}

impl World {
    pub fn new(profile: Profile, story: bool) -> World {
        let operators = (0..profile.operators).map(Operator::new).collect();
        let clients = (0..profile.clients).map(|_| Client::default()).collect();
        let mut api = Api::default();
        api.objects.resource.spec = profile.spec.clone();
        api.objects.resource.generation = 1;
        api.wrote_resource();
        let mut world = World {
            now: SECOND,
            rng: Rng::new(profile.seed, 2),
            queue: Queue::default(),
            nodes: BTreeMap::new(),
            conns: BTreeMap::new(),
            next_conn: 0,
            next_id: 0,
            cuts: Vec::new(),
            pause_at_round: None,
            at_next_change: None,
            calls_late_until: 0,
            api,
            operators,
            clients,
            checks: Checks::default(),
            coverage: Coverage::default(),
            trace: Trace::new(story),
            scratch: Vec::new(),
            given_up: BTreeMap::new(),
            calm: false,
            ended: false,
            robbed: false,
            asked_since: None,
            profile,
        };
        world.prepare();
        world
    }

    fn prepare(&mut self) {
        for (number, (at, _)) in self.profile.plan.clone().into_iter().enumerate() {
            self.push(SECOND + at, Event::Fault(number));
        }
        self.push(SECOND + self.profile.calm_at, Event::Calm);
        for operator in 0..self.operators.len() {
            self.start_operator(operator);
        }
        for client in 0..self.clients.len() {
            self.schedule(100 * MS, Event::Client { client, event: ClientEvent::Next });
        }
    }

    /// Runs to the end: through the faults, and then until the cluster is in order again.
    pub fn run(mut self) -> (Report, World) {
        let deadline = SECOND + self.profile.calm_at + CONVERGES_WITHIN;
        let mut look_at = SECOND + self.profile.calm_at + LOOK;
        while let Some((at, event)) = self.queue.pop() {
            if self.calm && at >= look_at {
                look_at = at + LOOK;
                if self.look(at >= deadline) {
                    break;
                }
            }
            self.now = at;
            self.trace.fold(at);
            self.trace.events += 1;
            self.dispatch(event);
            if self.checks.violation().is_some() {
                break;
            }
        }
        let report = Report {
            violation: self.checks.violation().map(str::to_owned),
            hash: self.trace.hash(),
            simulated: self.now,
            events: self.trace.events,
            committed: self.checks.committed(),
            acknowledged: self.checks.acknowledged(),
        };
        (report, self)
    }

    /// True: this world has ended.
    fn look(&mut self, late: bool) -> bool {
        let Some(why) = self.unsettled() else {
            if !self.ended {
                // One last look without clients, so that all logs come to the same end.
                self.ended = true;
                return false;
            }
            self.final_check();
            return true;
        };
        self.ended = false;
        self.person();
        if late {
            let status = &self.api.objects.resource.status;
            let message = format!(
                "not in order {} s after the last fault: {why}; status: {:?}, {}",
                CONVERGES_WITHIN / SECOND,
                status.phase,
                status.message
            );
            self.checks.violate(message);
            return true;
        }
        false
    }

    /// Where data are gone for good, somebody reads the message after a while and does what it says.
    fn person(&mut self) {
        let message = &self.api.objects.resource.status.message;
        let epoch = message.rsplit_once("accept the data loss for epoch ").and_then(|(_, rest)| {
            let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
            digits.parse().ok()
        });
        let Some(epoch) = epoch.filter(|_| self.robbed) else {
            self.asked_since = None;
            return;
        };
        let since = *self.asked_since.get_or_insert(self.now);
        if self.now > since + PATIENCE && self.api.objects.resource.requests.accept_data_loss.is_none() {
            self.asked_since = None;
            self.hit("wish: a person accepts a loss");
            self.tell(|| format!("*** a person accepts the loss of records for epoch {epoch}"));
            self.api.objects.resource.requests.accept_data_loss = Some(rdb_protocol::Epoch(epoch));
            self.wrote_resource();
        }
    }

    /// Clients begin nothing new.
    pub(crate) fn clients_end(&self) -> bool {
        self.calm && self.now > SECOND + self.profile.calm_at + 5 * SECOND
    }

    fn dispatch(&mut self, event: Event) {
        match event {
            Event::Node { node, boot, event } => self.node_event(node, boot, event),
            Event::Operator { operator, life, event } => self.operator_event(operator, life, event),
            Event::Api { operator, life, request } => self.api_request(operator, life, request),
            Event::Client { client, event } => self.client_event(client, event),
            Event::Kubelet(event) => self.kubelet_event(event),
            Event::Fault(number) => {
                if let Some((_, fault)) = self.profile.plan.get(number).copied() {
                    self.inject(fault);
                }
            }
            Event::Heal(heal) => self.heal(heal),
            Event::Calm => self.calm_down(),
        }
    }

    pub(crate) fn push(&mut self, at: At, event: Event) {
        self.queue.push(at, event);
    }

    pub(crate) fn schedule(&mut self, delay: At, event: Event) {
        self.queue.push(self.now + delay, event);
    }

    /// Unique in this world, and the same in every run of it.
    pub(crate) fn fresh_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    pub(crate) fn tell(&mut self, line: impl FnOnce() -> String) {
        self.trace.tell(self.now, line);
    }

    pub(crate) fn hit(&mut self, scenario: &'static str) {
        self.coverage.hit(scenario);
    }

    /// The machine for an instance, made when its first object is.
    pub(crate) fn place(&mut self, id: NodeId) -> &mut Node {
        let drift = self.profile.drift;
        let rate = 1000 - drift + self.rng.below(2 * drift + 1);
        self.nodes.entry(id).or_insert_with(|| Node {
            id,
            name: node_name(id),
            volume: None,
            process: None,
            host_down: false,
            slow: false,
            stuck: false,
            rate: rate * 1000,
            restarts: 0,
            started: 0,
        })
    }
}

/// The cluster's name in every world.
pub const CLUSTER: &str = "db";

pub fn node_name(id: NodeId) -> NodeName {
    match NodeName::new(format!("{CLUSTER}-{id}")) {
        Ok(name) => name,
        Err(error) => unreachable!("a number after a good name: {error}"),
    }
}

pub fn node_id(name: &NodeName) -> NodeId {
    name.as_str().rsplit('-').next().and_then(|digits| digits.parse().ok()).unwrap_or(0)
}
