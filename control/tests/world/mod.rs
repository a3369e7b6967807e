//! A tiny world for scenarios: nodes that keep the rules of the protocol as far as `decide` can see them, a status store, a
//! driver that carries out plans, and faults. Time moves in steps of 50 ms; logs are lists of numbered records.
//!
//! Every plan and every status is checked on the way (`checker`), so a scenario only states what it is about.
#![allow(dead_code, unreachable_pub, reason = "every test binary uses its own part of it")]

pub mod checker;
pub mod node;

use std::collections::BTreeMap;
use std::time::Duration;

use rdb_control::{
    Action, AdminCall, CallInFlight, CallOutcome, Cluster, ClusterSpec, ClusterStatus, Connection, Elections, Event,
    InstanceObservation, LeaseAnswered, Lifecycle, Observed, Phase, Report, RequestKind, Time, decide,
};
use rdb_protocol::{ClusterId, Incarnation, NodeName};

use checker::Checker;
use node::Node;

pub const STEP_MS: u64 = 50;

/// Between the order to end an instance and the end of its process, which serves its clients until then.
pub const END_MS: u64 = 500;

/// Between the order to renew an instance and its next process.
pub const RECREATE_MS: u64 = 2000;

pub struct World {
    pub spec: ClusterSpec,
    pub cluster: Cluster,
    pub observed: Observed,
    pub now_ms: u64,
    pub nodes: BTreeMap<NodeName, Node>,
    /// A dead process is started again after so long.
    pub restart_after_ms: Option<u64>,
    /// The driver knows surely when a process ends.
    pub exit_proof: bool,
    pub events: Vec<Event>,
    pub checker: Checker,
    pub calls_sent: u64,
    pub swaps: u64,
    /// The driver does not call an instance outdated any more when its process was told to end.
    pub ending_is_up_to_date: bool,
    /// Every order to renew an instance.
    pub recreations: Vec<NodeName>,
    in_flight: Vec<(CallInFlight, AdminCall)>,
    next_id: u64,
}

pub fn name(text: &str) -> NodeName {
    NodeName::new(text).unwrap()
}

impl World {
    pub fn new(change: impl FnOnce(&mut ClusterSpec)) -> World {
        let mut spec = ClusterSpec::default();
        change(&mut spec);
        let cluster = Cluster::parse("db", &spec).unwrap();
        let start = 1_000_000;
        let observed = Observed {
            watched_since: Time::from_millis(start),
            lease_held_since: Some(Time::from_millis(start)),
            offered_id: ClusterId(7),
            unix_ms: 1_700_000_000_000,
            ..Observed::default()
        };
        World {
            spec,
            cluster,
            observed,
            now_ms: start,
            nodes: BTreeMap::new(),
            restart_after_ms: None,
            exit_proof: true,
            events: Vec::new(),
            checker: Checker::default(),
            calls_sent: 0,
            swaps: 0,
            ending_is_up_to_date: false,
            recreations: Vec::new(),
            in_flight: Vec::new(),
            next_id: 1,
        }
    }

    /// A cluster that is open and has all its instances in its config.
    pub fn steady(change: impl FnOnce(&mut ClusterSpec)) -> World {
        let mut world = World::new(change);
        let instances = world.cluster.instances() as usize;
        let all_in = |world: &World| world.settled() && world.status().ready_instances as usize == instances;
        world.run_until("the cluster is bootstrapped", all_in);
        world
    }

    pub fn change_spec(&mut self, change: impl FnOnce(&mut ClusterSpec)) {
        change(&mut self.spec);
        self.cluster = Cluster::parse("db", &self.spec).unwrap();
        self.observed.generation += 1;
    }

    pub fn status(&self) -> &ClusterStatus {
        &self.observed.status
    }

    pub fn now(&self) -> Time {
        Time::from_millis(self.now_ms)
    }

    /// Open, and no change under way or still wanted.
    pub fn settled(&self) -> bool {
        let status = self.status();
        status.phase == Phase::Steady && status.config.as_ref().is_some_and(|config| config.next.is_none())
    }

    pub fn leader(&self) -> NodeName {
        self.status().leader.as_ref().unwrap().name.clone()
    }

    pub fn followers(&self) -> Vec<NodeName> {
        let leader = self.leader();
        self.nodes.keys().filter(|name| **name != leader).cloned().collect()
    }

    pub fn node(&mut self, name: &NodeName) -> &mut Node {
        self.nodes.get_mut(name).unwrap()
    }

    pub fn cohort(&self) -> Vec<String> {
        let config = &self.status().config.as_ref().unwrap().current;
        config.cohort.iter().map(|member| member.name.to_string()).collect()
    }

    pub fn acks(&self) -> u32 {
        self.status().config.as_ref().unwrap().current.acks
    }

    pub fn kill(&mut self, name: &NodeName) {
        let now = self.now_ms;
        let proof = self.exit_proof;
        let node = self.nodes.get_mut(name).unwrap();
        let boot = node.boot;
        node.die(now);
        if proof && let Some(instance) = self.observed.instances.get_mut(name) {
            instance.exited_boots.insert(boot);
        }
    }

    /// Its process is told to end, by whomever; another one takes its place.
    pub fn end(&mut self, name: &NodeName) {
        let now = self.now_ms;
        let node = self.node(name);
        if node.recreated_at_ms.is_none() {
            node.ends_at_ms = Some(now + END_MS);
            node.recreated_at_ms = Some(now + RECREATE_MS);
        }
    }

    pub fn revive(&mut self, name: &NodeName) {
        let (id, now) = (self.fresh_id(), self.now_ms);
        let node = self.node(name);
        if !node.alive {
            node.start(Incarnation(id), now);
        }
    }

    /// Its volume is replaced by an empty one.
    pub fn wipe(&mut self, name: &NodeName) {
        let (id, boot, now) = (self.fresh_id(), self.fresh_id(), self.now_ms);
        let (old_boot, old) = (self.nodes[name].boot, self.nodes[name].member());
        self.nodes.values_mut().for_each(|node| node.disconnected(&old));
        self.observed.instances.get_mut(name).unwrap().exited_boots.insert(old_boot);
        self.nodes.insert(name.clone(), Node::empty(name.clone(), Incarnation(id), Incarnation(boot), now));
    }

    fn fresh_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    /// Runs until the condition holds; fails after a quarter of a simulated hour.
    pub fn run_until(&mut self, what: &str, condition: impl Fn(&World) -> bool) {
        for _ in 0..18_000 {
            if condition(self) {
                return;
            }
            self.step();
        }
        panic!("not within a quarter of an hour: {what}\nstatus: {:#?}\nevents: {:#?}", self.status(), self.events);
    }

    pub fn run_ms(&mut self, ms: u64) {
        for _ in 0..ms.div_ceil(STEP_MS) {
            self.step();
        }
    }

    pub fn step(&mut self) {
        self.now_ms += STEP_MS;
        self.observed.unix_ms += STEP_MS;
        self.restart_dead();
        self.answer_calls();
        node::replicate(&mut self.nodes, self.now_ms, &mut self.checker);
        self.look();
        self.act();
    }

    fn restart_dead(&mut self) {
        let now = self.now_ms;
        let ended = self.nodes.values().filter(|node| node.ends_at_ms.is_some_and(|at| at <= now));
        for name in ended.map(|node| node.name.clone()).collect::<Vec<_>>() {
            self.node(&name).ends_at_ms = None;
            self.kill(&name);
        }
        let renewed = self.nodes.values().filter(|node| node.recreated_at_ms.is_some_and(|at| at <= now));
        for name in renewed.map(|node| node.name.clone()).collect::<Vec<_>>() {
            self.node(&name).recreated_at_ms = None;
            self.node(&name).outdated = None;
            self.revive(&name);
        }
        let Some(after) = self.restart_after_ms else { return };
        let due = |node: &Node| {
            !node.alive && !node.stopped && node.recreated_at_ms.is_none() && self.now_ms >= node.died_ms + after
        };
        let names: Vec<NodeName> = self.nodes.values().filter(|node| due(node)).map(|n| n.name.clone()).collect();
        names.iter().for_each(|name| self.revive(name));
    }

    /// What the driver sees.
    fn look(&mut self) {
        let now = self.now();
        for (name, node) in &self.nodes {
            let instance = self.observed.instances.entry(name.clone()).or_insert_with(|| InstanceObservation {
                address: Some(format!("{name}:1")),
                ..InstanceObservation::unknown(now)
            });
            instance.lifecycle = if node.stopped { Lifecycle::Stopped } else { Lifecycle::Running };
            instance.ending = node.ends_at_ms.is_some();
            instance.outdated = node.outdated.clone().filter(|_| !(instance.ending && self.ending_is_up_to_date));
            instance.draining = node.draining || instance.ending;
            instance.stuck = node.stuck.clone();
            let silent = node.frozen || node.hidden;
            instance.connection = match (node.alive, silent, instance.connection) {
                (true, false, _) => Connection::Connected,
                (true, true, connection) => connection,
                (false, _, Connection::Refused { since }) => Connection::Refused { since },
                (false, _, _) => Connection::Refused { since: now },
            };
            if node.alive && !silent {
                instance.report = Some(Report { status: node.report(self.now_ms), received_at: now });
            }
        }
        let nodes = &self.nodes;
        self.observed.instances.retain(|name, _| nodes.contains_key(name));
    }

    fn act(&mut self) {
        for _ in 0..20 {
            let plan = decide(&self.cluster, &self.observed, self.now());
            self.checker.plan(&self.observed, &plan, self.now());
            let mut swapped = false;
            for action in plan.actions {
                if std::env::var_os("TRACE").is_some() {
                    eprintln!("{} {action:?}", self.now_ms);
                }
                swapped |= self.carry_out(action);
            }
            if !swapped {
                return;
            }
        }
        panic!("the plan never comes to rest: {:#?}", self.status());
    }

    /// True: the status was swapped.
    fn carry_out(&mut self, action: Action) -> bool {
        match action {
            Action::Call { to, call } => self.send(to, call),
            Action::AnswerLease { to, answer } => {
                let answered = LeaseAnswered { epoch: answer.epoch, request: answer.request, at: self.now() };
                self.observed.lease_answered = Some(answered);
                let now = self.now_ms;
                let node = self.node(&to);
                // The request was made with its last report, at most a step ago.
                if node.alive && !node.frozen && !node.hidden && node.is_leader() && node.led == answer.epoch {
                    node.lease_request += 1;
                    node.lease_until_ms = node.lease_until_ms.max(now + node::LEASE_MS);
                }
            }
            Action::CreateInstance { name } => {
                let (id, boot, now) = (self.fresh_id(), self.fresh_id(), self.now_ms);
                let fresh = Node::empty(name.clone(), Incarnation(id), Incarnation(boot), now);
                self.nodes.entry(name).or_insert(fresh);
            }
            Action::StartInstance { name } => {
                self.node(&name).stopped = false;
                self.revive(&name);
            }
            Action::StopInstance { name } => {
                self.kill(&name);
                self.node(&name).stopped = true;
            }
            Action::RecreateInstance { name, .. } => {
                self.recreations.push(name.clone());
                self.end(&name);
            }
            Action::DeleteInstance { name, .. } => {
                self.nodes.remove(&name);
            }
            Action::ClearRequest(RequestKind::Switchover) => self.observed.requests.switchover = None,
            Action::ClearRequest(RequestKind::Reseed) => self.observed.requests.reseed = None,
            Action::ClearRequest(RequestKind::AcceptDataLoss) => self.observed.requests.accept_data_loss = None,
            Action::Event(event) => self.events.push(event),
            Action::WakeAt(_) => {}
            Action::SwapStatus(status) => {
                self.checker.swap(&self.observed.status, &status);
                let (swap, now) = (self.observed.begin_swap(&status), self.now());
                self.observed.take_status(*status, now);
                self.observed.swap_stored(swap);
                self.observed.status_written_at = Some(self.now());
                self.swaps += 1;
                return true;
            }
        }
        false
    }

    fn send(&mut self, to: NodeName, call: AdminCall) {
        self.calls_sent += 1;
        let boot = self.observed.instances[&to].status().map(|status| status.boot);
        let now = self.now();
        self.in_flight.push((self.observed.note_call(to, call.clone(), boot, now), call));
    }

    fn answer_calls(&mut self) {
        for (sent, call) in std::mem::take(&mut self.in_flight) {
            let now = self.now();
            let seed = Incarnation(self.fresh_id());
            let to = &sent.key.to;
            let reached = self.nodes.get_mut(to).filter(|node| node.alive && !node.frozen && !node.hidden);
            let outcome = match reached {
                None => CallOutcome::Failed("no answer".to_owned()),
                Some(node) => match node.call(&call, self.now_ms, seed) {
                    Err(refusal) => CallOutcome::Refused(refusal),
                    Ok(recruit) => {
                        if let Some(recruit) = recruit {
                            self.observed.instances.get_mut(to).unwrap().take_fence_answer(recruit, now);
                        }
                        CallOutcome::Done
                    }
                },
            };
            self.observed.note_outcome(&sent, outcome, now);
        }
    }

    /// Another operator takes over: it knows the status, and nothing else.
    pub fn replace_operator(&mut self) {
        let now = self.now();
        self.observed.calls.clear();
        self.observed.lease_answered = None;
        self.observed.watched_since = now;
        self.observed.elections = Elections { since: now, ..Elections::default() };
        self.observed.lease_held_since = Some(now);
        self.observed.instances.clear();
        self.in_flight.clear();
        self.look();
    }

    pub fn has_event(&self, reason: &str) -> bool {
        self.events.iter().any(|event| event.reason == reason)
    }

    pub fn lease_wait(&self) -> Duration {
        Duration::from_millis(1100)
    }
}
