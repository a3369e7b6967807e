//! One decision and what follows from it; the supervisor's hands.

use std::collections::BTreeMap;

use rdb_control::{
    Action, AdminCall, CallOutcome, ClusterStatus, InstanceObservation, LeaseAnswered, Lifecycle, RequestKind, Time,
    decide,
};
use rdb_protocol::admin::{LeaseAnswer, Recruit};
use rdb_protocol::{Incarnation, NodeName};

use super::input::{Input, now};
use super::instance::Instance;
use super::store::StoreError;
use super::supervisor::Supervisor;
use crate::clock;

impl Supervisor {
    /// Decides once and carries it out. True: the status changed, so decide again.
    pub(super) fn decide(&mut self) -> bool {
        let at = now();
        self.observed.unix_ms = clock::unix_ms();
        self.observed.generation = self.spec.generation;
        self.observed.borrow_instances(observations(&mut self.instances));
        let plan = decide(&self.cluster, &self.observed, at);
        self.observed.return_instances(observations(&mut self.instances));
        self.wake_at = None;
        let mut again = false;
        for action in plan.actions {
            again |= self.carry_out(action);
        }
        again
    }

    fn carry_out(&mut self, action: Action) -> bool {
        match action {
            Action::Call { to, call } => self.call(to, call),
            Action::AnswerLease { to, answer } => self.answer_lease(&to, &answer),
            Action::CreateInstance { name } => return self.create(&name),
            Action::StartInstance { name } => {
                if let Some(instance) = self.instances.get_mut(&name) {
                    instance.observed.lifecycle = Lifecycle::Running;
                    self.start_node(&name);
                    return true;
                }
            }
            Action::StopInstance { name } => return self.set_lifecycle(&name, Lifecycle::Stopped),
            // The process ends, and is restarted like any other that ended.
            Action::RecreateInstance { name, .. } => {
                if let Some(instance) = self.instances.get_mut(&name) {
                    instance.end(now());
                }
            }
            Action::DeleteInstance { name, incarnation } => return self.delete(&name, incarnation),
            Action::ClearRequest(kind) => self.clear_request(&kind),
            Action::Event(event) => self.journal.event(event),
            Action::WakeAt(time) => self.wake_at = Some(time),
            Action::SwapStatus(status) => return self.swap(&status),
        }
        false
    }

    fn call(&mut self, to: NodeName, call: AdminCall) {
        let Some(instance) = self.instances.get(&to) else { return };
        let (number, sent_at) = (self.next_call, now());
        self.next_call += 1;
        self.journal.fact("Call", format!("{} {to}", call.kind().path()));
        let inputs = self.inputs.clone();
        self.caller.start(&instance.address, &call, move |answer| {
            let input = Input::Answered { call: number, outcome: answer.outcome, recruit: answer.recruit, at: now() };
            // Nobody listens any more when the supervisor is ending.
            let _ = inputs.send(input);
        });
        let boot = instance.observed.status().map(|status| status.boot);
        self.calls.insert(number, self.observed.note_call(to, call, boot, sent_at));
    }

    /// Takes the answer to a call.
    pub(super) fn answered(&mut self, number: u64, outcome: CallOutcome, recruit: Option<Recruit>, at: Time) {
        let Some(call) = self.calls.remove(&number) else { return };
        let took = at.since(call.sent_at).as_micros();
        let key = &call.key;
        self.journal.fact("Answer", format!("{} {}: {outcome} after {took} us", key.kind.path(), key.to));
        if let (Some(recruit), Some(instance)) = (recruit, self.instances.get_mut(&key.to)) {
            instance.observed.take_fence_answer(recruit, at);
        }
        self.observed.note_outcome(&call, outcome, at);
    }

    /// Rule 17: the answer is noted before it is sent.
    fn answer_lease(&mut self, to: &NodeName, answer: &LeaseAnswer) {
        let Some(instance) = self.instances.get(to) else { return };
        self.observed.lease_answered = Some(LeaseAnswered { epoch: answer.epoch, request: answer.request, at: now() });
        self.caller.answer_lease(&instance.address, answer);
    }

    fn create(&mut self, name: &NodeName) -> bool {
        if self.instances.contains_key(name) {
            return false;
        }
        match self.add_instance(name.clone()) {
            Ok(()) => {
                self.start_node(name);
                true
            }
            Err(error) => {
                self.journal.note("NodeCreateFailed", format!("{name}: {error}"));
                false
            }
        }
    }

    fn set_lifecycle(&mut self, name: &NodeName, lifecycle: Lifecycle) -> bool {
        let Some(instance) = self.instances.get_mut(name) else { return false };
        if instance.observed.lifecycle == lifecycle {
            return false;
        }
        instance.observed.lifecycle = lifecycle;
        instance.end(now());
        self.remove_deleted();
        true
    }

    fn delete(&mut self, name: &NodeName, incarnation: Option<Incarnation>) -> bool {
        let present =
            self.instances.get(name).and_then(|instance| instance.observed.status()).map(|status| status.incarnation);
        if let (Some(meant), Some(present)) = (incarnation, present)
            && meant != present
        {
            self.journal
                .note("NodeDeleteRefused", format!("{name} holds other data than meant: {present}, not {meant}"));
            return false;
        }
        self.set_lifecycle(name, Lifecycle::Deleting)
    }

    /// Removes the data of nodes that are to be deleted and whose process has ended.
    pub(super) fn remove_deleted(&mut self) {
        let gone: Vec<NodeName> = self
            .instances
            .values()
            .filter(|instance| instance.observed.lifecycle == Lifecycle::Deleting && instance.process.is_none())
            .map(|instance| instance.name.clone())
            .collect();
        for name in gone {
            let data = self.layout.node_data(&name);
            match std::fs::remove_dir_all(&data) {
                Ok(()) => self.journal.note("NodeDeleted", format!("{name} and its data")),
                Err(error) => self.journal.note("NodeDeleteFailed", format!("{}: {error}", data.display())),
            }
            self.instances.remove(&name);
            self.observed.calls.retain(|key, _| key.to != name);
        }
    }

    fn clear_request(&mut self, kind: &RequestKind) {
        let requests = &mut self.observed.requests;
        match kind {
            RequestKind::Switchover => requests.switchover = None,
            RequestKind::Reseed => requests.reseed = None,
            RequestKind::AcceptDataLoss => requests.accept_data_loss = None,
        }
    }

    fn swap(&mut self, status: &ClusterStatus) -> bool {
        let swap = self.observed.begin_swap(status);
        match self.store.swap(&self.observed.version, status) {
            Ok(stored) => {
                self.observed.swap_stored(swap);
                let leader = stored.status.leader.as_ref().map_or("none".to_owned(), |leader| leader.name.to_string());
                let message = format!(
                    "{:?} epoch={} leaderEpoch={} leader={leader}",
                    stored.status.phase, stored.status.epoch, stored.status.leader_epoch
                );
                self.journal.fact("StatusSwapped", message);
                self.observed.take_status(stored.status, now());
                self.observed.version = stored.resource_version;
                self.observed.status_written_at = Some(now());
                true
            }
            Err(StoreError::Conflict { .. }) => {
                self.observed.swap_refused(swap);
                self.read_status()
            }
            Err(error) => {
                tracing::error!(%error, "cannot store the status");
                self.retry_later();
                false
            }
        }
    }

    /// Somebody else wrote the status: decide on theirs.
    fn read_status(&mut self) -> bool {
        match self.store.read() {
            Ok(stored) => {
                self.observed.take_status(stored.status, now());
                self.observed.version = stored.resource_version;
                true
            }
            Err(error) => {
                tracing::error!(%error, "cannot read the status");
                self.retry_later();
                false
            }
        }
    }

    /// The disk may be full or broken for a while; the plan will be the same then.
    fn retry_later(&mut self) {
        let later = now().plus(std::time::Duration::from_millis(250));
        self.wake_at = Some(self.wake_at.map_or(later, |time| time.min(later)));
    }

    /// Reports for `rdb local status`, by name.
    pub(super) fn instance_reports(&self) -> Vec<super::control_socket::InstanceReport> {
        let at = now();
        self.instances.values().map(|instance| instance.report(at)).collect()
    }

    /// Requests of other commands need the names that exist.
    pub(super) fn names(&self) -> BTreeMap<String, NodeName> {
        self.instances.keys().map(|name| (name.to_string(), name.clone())).collect()
    }
}

/// `decide` takes the observations in one map; they live in the instances.
fn observations(
    instances: &mut BTreeMap<NodeName, Instance>,
) -> impl Iterator<Item = (&NodeName, &mut InstanceObservation)> {
    instances.iter_mut().map(|(name, instance)| (name, &mut instance.observed))
}
