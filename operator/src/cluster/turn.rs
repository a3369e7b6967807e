//! Decide, and carry the plan out: the actions in their order, until a decision changes nothing any more.

use rdb_control::{Action, AdminCall, CallOutcome, ClusterStatus, LeaseAnswered, Phase, Time, decide};
use rdb_protocol::NodeName;
use rdb_protocol::admin::{LeaseAnswer, Recruit};

use super::Worker;
use crate::clock;
use crate::monitor::call;

/// Swaps in one turn. An election needs about five; more than this means that two decisions undo each other, and the API
/// server is given a rest.
const MAX_SWAPS: u32 = 32;

impl Worker {
    /// Everything that is to be done now. Without the operator's Lease: nothing.
    pub(crate) async fn turn(&mut self) {
        let started = clock::now();
        self.wake_at = None;
        self.observed.lease_held_since = self.context.lease.held_since(started);
        if self.observed.lease_held_since.is_none() {
            self.be_attentive(false);
            return;
        }
        if self.unread && !self.reread().await {
            return;
        }
        if self.resource.is_being_deleted() {
            self.finalize().await;
            return;
        }
        if !self.is_decidable().await {
            return;
        }
        self.decide_until_settled().await;
        self.route();
        if !self.unread && !self.gone && self.observed.status.phase == Phase::Steady {
            self.keep_snapshots().await;
        }
        if self.objects_due && !self.unread && !self.gone {
            self.keep_objects().await;
        }
        let quiet = self.observed.status.phase == Phase::Steady
            && self.instances.values().all(|i| i.observed.connection == rdb_control::Connection::Connected);
        self.be_attentive(!quiet);
        self.context.metrics.turn(&self.key, &self.observed.status, clock::now().since(started));
    }

    /// While all is well, lines that say nothing new wake nobody.
    fn be_attentive(&self, attentive: bool) {
        self.mailbox.be_attentive(attentive);
    }

    async fn decide_until_settled(&mut self) {
        for _ in 0..MAX_SWAPS {
            // What a leader says of itself is enough to route to it; storing that it is open takes longer.
            self.route();
            if !self.decide().await || self.unread || self.gone {
                return;
            }
        }
        tracing::error!(cluster = %self.key, "{MAX_SWAPS} status changes in one turn; waiting a little");
        self.retry_later();
    }

    /// Decides once and carries it out. True: the status or the instances changed, so decide again.
    async fn decide(&mut self) -> bool {
        let at = clock::now();
        self.observed.lease_held_since = self.context.lease.held_since(at);
        self.observed.unix_ms = clock::unix_ms();
        self.basis.clone_from(&self.observed.version);
        self.lend_instances();
        let plan = match &self.parsed {
            Ok(parsed) => decide(&parsed.cluster, &self.observed, at),
            Err(_) => rdb_control::Plan::default(),
        };
        self.return_instances();
        let mut again = false;
        for action in plan.actions {
            again |= self.carry_out(action).await;
        }
        again
    }

    async fn carry_out(&mut self, action: Action) -> bool {
        match action {
            Action::Call { to, call } => self.call(to, call),
            Action::AnswerLease { to, answer } => self.answer_lease(&to, &answer),
            Action::CreateInstance { name } => return self.create_instance(&name).await,
            Action::StartInstance { name } => return self.start_instance(&name).await,
            Action::StopInstance { name } => return self.stop_instance(&name).await,
            Action::RecreateInstance { name, incarnation } => self.recreate_instance(&name, incarnation).await,
            Action::DeleteInstance { name, incarnation } => return self.delete_instance(&name, incarnation).await,
            Action::ClearRequest(kind) => self.clear_request(&kind).await,
            Action::Event(event) => self.tell(&event),
            Action::WakeAt(time) => self.wake_by(time),
            Action::SwapStatus(status) => return self.swap(&status).await,
        }
        false
    }

    fn call(&mut self, to: NodeName, call: AdminCall) {
        let Some(instance) = self.instances.get(&to) else { return };
        let Some(address) = instance.observed.address.clone() else { return };
        let boot = instance.observed.status().map(|status| status.boot);
        let (number, sent_at) = (self.number(), clock::now());
        tracing::info!(cluster = %self.key, %to, call = call.kind().path(), "call");
        call::start(address, &call, number, self.tokens.clone(), std::sync::Arc::clone(&self.mailbox));
        self.in_flight.insert(number, self.observed.note_call(to, call, boot, sent_at));
    }

    /// Takes the answer to a call.
    pub(crate) fn answered(&mut self, number: u64, outcome: CallOutcome, recruit: Option<Recruit>, at: Time) {
        let Some(call) = self.in_flight.remove(&number) else { return };
        let took_us = at.since(call.sent_at).as_micros() as u64;
        let key = &call.key;
        tracing::info!(cluster = %self.key, to = %key.to, call = key.kind.path(), took_us, how = %outcome, "answer");
        if let (Some(recruit), Some(instance)) = (recruit, self.instances.get_mut(&key.to)) {
            instance.observed.take_fence_answer(recruit, at);
        }
        self.observed.note_outcome(&call, outcome, at);
    }

    /// Rule 17: only while our own Lease is held, and noted before it is sent.
    fn answer_lease(&mut self, to: &NodeName, answer: &LeaseAnswer) {
        let address = self.instances.get(to).and_then(|instance| instance.observed.address.clone());
        let now = clock::now();
        let (Some(address), Some(_)) = (address, self.context.lease.held_since(now)) else { return };
        self.observed.lease_answered = Some(LeaseAnswered { epoch: answer.epoch, request: answer.request, at: now });
        call::answer_lease(address, answer, self.tokens.clone());
    }

    /// The status as it was decided, for the log.
    pub(crate) fn log_swap(&self, status: &ClusterStatus, took_us: u64) {
        let leader = status.leader.as_ref().map_or("none", |leader| leader.name.as_str());
        tracing::info!(
            cluster = %self.key, phase = ?status.phase, epoch = status.epoch.0, leader_epoch = status.leader_epoch.0,
            leader, says = status.message, took_us, "status stored"
        );
    }
}
