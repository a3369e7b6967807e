//! Carrying out a plan, and what comes back: the driver's hands.

use rdb_control::{Action, AdminCall, CallOutcome, ClusterStatus, LeaseAnswered, RequestKind};
use rdb_protocol::admin::{LeaseAnswer, Recruit};
use rdb_protocol::{Incarnation, NodeName};

use crate::api::Objects;
use crate::event::{ApiRequest, Event, MS, NodeEvent, ObjectAction, OperatorEvent, SECOND, SwapError};
use crate::net::Place;
use crate::world::{World, node_id};

/// A call is given up after this.
const CALL_PATIENCE: u64 = SECOND;
/// So is a request to the API server.
const API_PATIENCE: u64 = 2 * SECOND;

impl World {
    pub(crate) fn act(&mut self, operator: usize, action: Action) {
        match action {
            Action::Call { to, call } => self.call(operator, to, call),
            Action::AnswerLease { to, answer } => self.send_lease_answer(operator, &to, answer),
            Action::CreateInstance { name } => {
                self.ask_objects(operator, ObjectAction::Create { node: node_id(&name) })
            }
            Action::StartInstance { name } => self.ask_objects(operator, ObjectAction::Start { node: node_id(&name) }),
            Action::StopInstance { name } => self.ask_objects(operator, ObjectAction::Stop { node: node_id(&name) }),
            Action::RecreateInstance { name, incarnation } => {
                if !self.has_other_data(operator, &name, incarnation) {
                    self.ask_objects(operator, ObjectAction::Recreate { node: node_id(&name) });
                }
            }
            Action::DeleteInstance { name, incarnation } => {
                if self.has_other_data(operator, &name, incarnation) {
                    return;
                }
                let me = &self.operators[operator];
                let node = node_id(&name);
                let claim = me.claims.get(&node).copied();
                self.ask_objects(operator, ObjectAction::Delete { node, claim });
            }
            Action::ClearRequest(kind) => {
                let requests = &mut self.operators[operator].observed.requests;
                match kind {
                    RequestKind::Switchover => requests.switchover = None,
                    RequestKind::Reseed => requests.reseed = None,
                    RequestKind::AcceptDataLoss => requests.accept_data_loss = None,
                }
                self.ask_objects(operator, ObjectAction::Clear(kind));
            }
            Action::Event(event) => {
                self.hit(crate::coverage::of_event(&event.reason));
                self.tell(|| format!("operator {operator}: {}: {}", event.reason, event.message));
            }
            Action::WakeAt(time) => {
                let now = self.operator_time(operator);
                let at = self.now + (time.since(now).as_micros() as u64).max(200);
                self.wake_operator(operator, at);
            }
            Action::SwapStatus(status) => self.swap(operator, status),
        }
    }

    /// An order was meant for other data than those that have the name now.
    fn has_other_data(&self, operator: usize, name: &NodeName, meant: Option<Incarnation>) -> bool {
        let instance = self.operators[operator].observed.instances.get(name);
        let present = instance.and_then(|instance| instance.status()).map(|status| status.incarnation);
        matches!((meant, present), (Some(meant), Some(present)) if meant != present)
    }

    fn ask_objects(&mut self, operator: usize, action: ObjectAction) {
        self.ask_api(operator, ApiRequest::Act(action));
        // Until the watch shows it, the plan will say the same again; that must do no harm.
        let at = self.now + 250 * MS;
        self.wake_operator(operator, at);
    }

    fn call(&mut self, operator: usize, to: NodeName, call: AdminCall) {
        let id = self.fresh_id();
        let (sent_at, node) = (self.operator_time(operator), node_id(&to));
        let me = &mut self.operators[operator];
        let boot = me.observed.instances.get(&to).and_then(|i| i.status()).map(|status| status.boot);
        let life = me.life;
        me.calls.insert(id, me.observed.note_call(to, call.clone(), boot, sent_at));
        self.operator_later(operator, CALL_PATIENCE, OperatorEvent::CallTimeout { id });
        if let Some(mut delay) = self.passes(Place::Operator(operator), Place::Node(node)) {
            if self.now < self.calls_late_until {
                delay += self.rng.between(CALL_PATIENCE, 5 * SECOND);
            } else if self.rng.chance(self.calmly(20)) {
                // A call that was given up long ago still arrives.
                delay += self.rng.skewed(0, 5 * SECOND);
                self.hit("network: call arrives late");
            }
            let event = NodeEvent::Admin { operator, life, id, call: Box::new(call) };
            self.schedule(delay, Event::Node { node, boot: 0, event });
        }
    }

    /// Takes the answer to a call.
    pub(crate) fn call_answered(
        &mut self,
        operator: usize,
        id: u64,
        outcome: CallOutcome,
        recruit: Option<Box<Recruit>>,
    ) {
        let now = self.operator_time(operator);
        let me = &mut self.operators[operator];
        let Some(call) = me.calls.remove(&id) else { return };
        if let (Some(recruit), Some(instance)) = (recruit, me.observed.instances.get_mut(&call.key.to)) {
            instance.take_fence_answer(*recruit, now);
        }
        me.observed.note_outcome(&call, outcome, now);
        self.changed(operator);
    }

    /// Rule 17: noted before it is sent, and only while the operator holds its own Lease.
    fn send_lease_answer(&mut self, operator: usize, to: &NodeName, answer: LeaseAnswer) {
        let now = self.operator_time(operator);
        let me = &mut self.operators[operator];
        me.observed.lease_answered = Some(LeaseAnswered { epoch: answer.epoch, request: answer.request, at: now });
        if me.lease_until < now {
            return;
        }
        let node = node_id(to);
        if let Some(delay) = self.passes(Place::Operator(operator), Place::Node(node)) {
            self.schedule(delay, Event::Node { node, boot: 0, event: NodeEvent::LeaseAnswer(answer) });
        }
    }

    // --- the status ---

    fn swap(&mut self, operator: usize, status: Box<ClusterStatus>) {
        let order = self.fresh_id();
        let me = &mut self.operators[operator];
        let version = me.observed.version.parse().unwrap_or(0);
        me.swapping = Some((order, me.observed.begin_swap(&status)));
        self.operator_later(operator, API_PATIENCE, OperatorEvent::SwapTimeout { order });
        self.ask_api(operator, ApiRequest::Swap { order, version, status });
    }

    pub(crate) fn swapped(&mut self, operator: usize, result: Result<Box<Objects>, SwapError>) {
        let now = self.operator_time(operator);
        let me = &mut self.operators[operator];
        // Given up long ago; a watch brings whatever it did.
        let Some((_, swap)) = me.swapping.take() else { return };
        match result {
            Ok(objects) => {
                me.observed.swap_stored(swap);
                me.observed.status_written_at = Some(now);
                self.read_objects(operator, *objects);
                // The watch may have brought it before, when nothing could be decided yet.
                self.changed(operator);
            }
            Err(SwapError::Conflict) => {
                me.observed.swap_refused(swap);
                self.hit("operator: swap refused, somebody else wrote");
                self.read_again(operator);
            }
            Err(SwapError::Unavailable) => self.read_again(operator),
        }
    }

    pub(crate) fn read_again(&mut self, operator: usize) {
        let order = self.fresh_id();
        self.ask_api(operator, ApiRequest::Read { order });
        let at = self.now + 250 * MS;
        self.wake_operator(operator, at);
    }
}
