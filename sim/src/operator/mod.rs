//! A simulated operator: the real `decide`, with the duties of a driver. It reads the API through watches that lag, follows
//! the nodes' status streams, and carries out plans one action at a time, so that it can die between any two.

pub mod act;
pub mod watch;

use std::collections::BTreeMap;

use rdb_control::{CallInFlight, Cluster, Observed, SwapInFlight, Time, decide};
use rdb_protocol::ClusterId;

use crate::event::{At, Event, MS, NodeId, OperatorEvent, SECOND};
use crate::net::Place;
use crate::world::{CLUSTER, World};

/// What comes in within this is decided on together.
const BATCH: At = 3 * MS;
/// Swaps in one turn at most, as in the driver of `rdb local`.
const MAX_SWAPS: u32 = 32;

#[derive(Debug)]
pub struct Operator {
    pub id: usize,
    /// Its process; 0 = none.
    pub life: u64,
    pub paused: bool,
    backlog: Vec<OperatorEvent>,
    pub(crate) observed: Observed,
    cluster: Option<Cluster>,
    /// Revision of the objects as last read; 0 = never.
    revision: u64,
    claims: BTreeMap<NodeId, u64>,
    streams: BTreeMap<NodeId, watch::Stream>,
    calls: BTreeMap<u64, CallInFlight>,
    /// The swap that is under way.
    swapping: Option<(u64, SwapInFlight)>,
    swaps: u32,
    due: Option<At>,
    order: u64,
    /// It stops deciding when the Lease was not renewed until then.
    lease_until: Time,
    pub dies_after: Option<u64>,
}

impl Operator {
    pub fn new(id: usize) -> Operator {
        Operator {
            id,
            life: 0,
            paused: false,
            backlog: Vec::new(),
            observed: Observed::default(),
            cluster: None,
            revision: 0,
            claims: BTreeMap::new(),
            streams: BTreeMap::new(),
            calls: BTreeMap::new(),
            swapping: None,
            swaps: 0,
            due: None,
            order: 0,
            lease_until: Time(0),
            dies_after: None,
        }
    }
}

impl World {
    pub(crate) fn operator_time(&self, operator: usize) -> Time {
        let drift = self.profile.drift as i64 * if operator == 0 { 700 } else { -900 };
        let rate = (1_000_000 + drift) as u128;
        Time((u128::from(self.now + 100 * SECOND) * rate / 1_000_000) as u64)
    }

    pub(crate) fn start_operator(&mut self, operator: usize) {
        let life = self.fresh_id();
        let now = self.operator_time(operator);
        let offered_id = ClusterId(self.rng.word());
        let Some(me) = self.operators.get_mut(operator) else { return };
        *me = Operator::new(operator);
        me.life = life;
        me.observed = Observed { watched_since: now, offered_id, ..Observed::default() };
        if self.profile.both_act {
            me.observed.lease_held_since = Some(now);
            self.coverage.hit("operator: both act");
        }
        self.tell(|| format!("operator {operator} starts"));
        self.operator_later(operator, MS, OperatorEvent::RenewLease);
    }

    pub(crate) fn end_operator(&mut self, operator: usize) {
        if let Some(me) = self.operators.get_mut(operator) {
            me.life = 0;
            me.paused = false;
            me.streams.clear();
            self.tell(|| format!("operator {operator} is killed"));
        }
        for place in self.nodes.values_mut() {
            if let Some(process) = &mut place.process {
                process.forget_watcher(operator);
            }
        }
    }

    pub(crate) fn operator_later(&mut self, operator: usize, delay: At, event: OperatorEvent) {
        let life = self.operators[operator].life;
        self.schedule(delay, Event::Operator { operator, life, event });
    }

    pub(crate) fn resume_operator(&mut self, operator: usize) {
        let Some(me) = self.operators.get_mut(operator).filter(|me| me.paused) else { return };
        me.paused = false;
        let life = me.life;
        for event in std::mem::take(&mut me.backlog) {
            self.schedule(0, Event::Operator { operator, life, event });
        }
    }

    pub(crate) fn operator_event(&mut self, operator: usize, life: u64, event: OperatorEvent) {
        let Some(me) = self.operators.get_mut(operator) else { return };
        if me.life == 0 || me.life != life {
            return;
        }
        if me.paused {
            me.backlog.push(event);
            return;
        }
        match event {
            OperatorEvent::Turn { order } => self.turn(operator, order),
            OperatorEvent::Line { node, stream, status } => self.line(operator, node, stream, *status),
            OperatorEvent::Connect { node, stream } => self.connect_stream(operator, node, stream),
            OperatorEvent::Disconnected { node, stream, refused } => {
                self.disconnected(operator, node, stream, refused);
            }
            OperatorEvent::Answered { id, outcome, recruit } => self.call_answered(operator, id, outcome, recruit),
            OperatorEvent::CallTimeout { id } => {
                let outcome = rdb_control::CallOutcome::Failed("no answer in time".to_owned());
                self.call_answered(operator, id, outcome, None);
            }
            OperatorEvent::Objects(objects) => self.read_objects(operator, *objects),
            OperatorEvent::Swapped(result) => self.swapped(operator, result),
            OperatorEvent::SwapTimeout { order } => {
                if self.operators[operator].swapping.is_some_and(|(sent, _)| sent == order) {
                    self.hit("operator: swap without an answer");
                    self.operators[operator].swapping = None;
                    self.read_again(operator);
                }
            }
            OperatorEvent::Lease { held, asked_at } => self.lease(operator, held, asked_at),
            OperatorEvent::RenewLease => self.patrol(operator),
        }
    }

    /// Decide soon.
    pub(crate) fn wake_operator(&mut self, operator: usize, at: At) {
        let Some(me) = self.operators.get_mut(operator) else { return };
        if me.due.is_some_and(|due| due <= at) {
            return;
        }
        me.due = Some(at);
        me.order += 1;
        let (order, life) = (me.order, me.life);
        self.push(at.max(self.now), Event::Operator { operator, life, event: OperatorEvent::Turn { order } });
    }

    pub(crate) fn changed(&mut self, operator: usize) {
        let at = self.now + BATCH;
        self.wake_operator(operator, at);
    }

    fn turn(&mut self, operator: usize, order: u64) {
        let now = self.operator_time(operator);
        let unix_ms = 1_700_000_000_000 + self.now / MS;
        let Some(me) = self.operators.get_mut(operator) else { return };
        if me.order != order {
            return;
        }
        me.due = None;
        if me.swapping.is_some() || me.revision == 0 {
            return;
        }
        if me.lease_until < now && !self.profile.both_act {
            me.observed.lease_held_since = None;
        }
        me.observed.unix_ms = unix_ms;
        let Some(cluster) = &me.cluster else { return };
        let plan = decide(cluster, &me.observed, now);
        if plan.swap().is_none() {
            me.swaps = 0;
        } else {
            me.swaps += 1;
            if me.swaps > MAX_SWAPS {
                me.swaps = 0;
                let at = self.now + 250 * MS;
                self.hit("operator: rests after many swaps");
                return self.wake_operator(operator, at);
            }
        }
        if !plan.actions.is_empty() {
            self.trace.fold(plan.actions.len() as u64);
        }
        for action in plan.actions {
            if self.dies_before_action(operator) {
                return;
            }
            self.act(operator, action);
        }
    }

    fn dies_before_action(&mut self, operator: usize) -> bool {
        match &mut self.operators[operator].dies_after {
            Some(0) => {
                self.hit("operator: died between two actions");
                self.end_operator(operator);
                let event = Event::Heal(crate::event::Heal::Operator { operator });
                let delay = self.rng.skewed(100 * MS, 5 * SECOND);
                self.schedule(delay, event);
                true
            }
            Some(left) => {
                *left -= 1;
                false
            }
            None => false,
        }
    }

    pub(crate) fn parse_spec(&mut self, operator: usize, spec: &rdb_control::ClusterSpec) {
        if let Ok(cluster) = Cluster::parse(CLUSTER, spec) {
            self.operators[operator].cluster = Some(cluster);
        }
    }

    /// A request on its way to the API server, if it gets there.
    pub(crate) fn ask_api(&mut self, operator: usize, request: crate::event::ApiRequest) {
        let life = self.operators[operator].life;
        if let Some(delay) = self.passes(Place::Operator(operator), Place::Api) {
            self.schedule(delay, Event::Api { operator, life, request });
        }
    }
}
