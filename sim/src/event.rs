//! What can happen, and the queue of what will. Ties in time go by order of scheduling, so that a run is a function of its
//! seed.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use rdb_control::{AdminCall, CallOutcome, ClusterStatus};
use rdb_protocol::admin::{LeaseAnswer, Recruit};
use rdb_protocol::status::NodeStatus;
use rdb_protocol::{Member, Position};
use rdb_replication::PeerMessage;

use crate::api::Objects;
use crate::client::{Reply, Request};
use crate::node::seeding::BaseCopy;

/// Simulated microseconds since the world began.
pub type At = u64;
pub const MS: At = 1000;
pub const SECOND: At = 1_000_000;

/// The n of `db-<n>`.
pub type NodeId = usize;
pub type ConnId = u64;

#[derive(Clone, Debug)]
pub enum Event {
    /// For the process `boot` of a node; 0 = for whatever process is there.
    Node {
        node: NodeId,
        boot: u64,
        event: NodeEvent,
    },
    /// For the process `life` of an operator.
    Operator {
        operator: usize,
        life: u64,
        event: OperatorEvent,
    },
    /// A request of an operator reaches the API server.
    Api {
        operator: usize,
        life: u64,
        request: ApiRequest,
    },
    Client {
        client: usize,
        event: ClientEvent,
    },
    Kubelet(KubeletEvent),
    /// Number in the plan.
    Fault(usize),
    Heal(Heal),
    /// The fault phase is over.
    Calm,
}

#[derive(Clone, Debug)]
pub enum NodeEvent {
    Tick,
    Housekeeping,
    Flushed {
        generation: u64,
        upto: Position,
    },
    Fetch {
        generation: u64,
        to: Member,
        prev: Position,
        max_bytes: u64,
    },
    /// The worker looks at what there is to do.
    Work,
    Dial {
        order: u64,
    },
    Accept {
        conn: ConnId,
    },
    Connected {
        conn: ConnId,
    },
    Message {
        conn: ConnId,
        message: Box<PeerMessage>,
    },
    Broken {
        conn: ConnId,
    },
    Admin {
        operator: usize,
        life: u64,
        id: u64,
        call: Box<AdminCall>,
    },
    LeaseAnswer(LeaseAnswer),
    Request {
        client: usize,
        request: Box<Request>,
    },
    /// A linearizable read has its snapshot; now the lease decides.
    Confirm {
        client: usize,
        request: Box<Request>,
        reply: Box<Reply>,
    },
    SeedBegin {
        generation: u64,
    },
    SeedFetch,
    SeedServe {
        from: NodeId,
        from_boot: u64,
        attempt: u64,
    },
    SeedCopied {
        attempt: u64,
        copy: Box<BaseCopy>,
    },
    Report,
    /// The operator's status stream asks to begin.
    Watch {
        operator: usize,
        life: u64,
        stream: u64,
    },
}

#[allow(clippy::large_enum_variant, reason = "a recruit's answer is rare, and moved but a few times")]
#[derive(Clone, Debug)]
pub enum OperatorEvent {
    Turn { order: u64 },
    Line { node: NodeId, stream: u64, status: Box<NodeStatus> },
    Connect { node: NodeId, stream: u64 },
    Disconnected { node: NodeId, stream: u64, refused: bool },
    Answered { id: u64, outcome: CallOutcome, recruit: Option<Box<Recruit>> },
    CallTimeout { id: u64 },
    Objects(Box<Objects>),
    Swapped(Result<Box<Objects>, SwapError>),
    SwapTimeout { order: u64 },
    Lease { held: bool, asked_at: At },
    RenewLease,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SwapError {
    Conflict,
    Unavailable,
}

#[derive(Clone, Debug)]
pub enum ApiRequest {
    Swap { order: u64, version: u64, status: Box<ClusterStatus> },
    Read { order: u64 },
    Lease { asked_at: At },
    Act(ObjectAction),
}

/// What an operator does to objects other than the status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ObjectAction {
    Create {
        node: NodeId,
    },
    Start {
        node: NodeId,
    },
    Stop {
        node: NodeId,
    },
    /// With the claim's UID as the operator saw it.
    Delete {
        node: NodeId,
        claim: Option<u64>,
    },
    Recreate {
        node: NodeId,
    },
    Clear(rdb_control::RequestKind),
}

#[derive(Clone, Debug)]
pub enum ClientEvent {
    Next,
    Answer {
        attempt: u64,
        reply: Reply,
    },
    Timeout {
        attempt: u64,
    },
    /// The pause before the next attempt is over.
    Retry {
        attempt: u64,
    },
}

#[derive(Clone, Copy, Debug)]
pub enum KubeletEvent {
    /// The pod is scheduled, its volume is attached: run the container.
    Start { node: NodeId, pod: u64 },
    /// The kubelet has seen the container end.
    Terminated { node: NodeId, pod: u64, boot: u64 },
    /// The grace period is over.
    Kill { node: NodeId, pod: u64 },
}

/// Ends of faults that last.
#[derive(Clone, Debug)]
pub enum Heal {
    Partition(u64),
    Resume {
        node: NodeId,
        boot: u64,
    },
    Disk {
        node: NodeId,
    },
    HostUp {
        node: NodeId,
    },
    Operator {
        operator: usize,
    },
    ResumeOperator {
        operator: usize,
    },
    Api,
    /// A process whose pod object was deleted by force ends at last.
    Orphan {
        node: NodeId,
        boot: u64,
    },
    /// The machine is emptied for good: the pod is evicted. Then it takes pods again.
    Evict {
        node: NodeId,
    },
    Uncordon {
        node: NodeId,
    },
    Unfence {
        node: NodeId,
    },
    Maintenance,
    Unpause,
    WakeUp,
}

/// Time, order of scheduling, and where the event lies.
type Entry = Reverse<(At, u64, usize)>;

/// The heap moves entries about all the time, so the events themselves, which are large, lie still beside it.
#[derive(Debug, Default)]
pub struct Queue {
    heap: BinaryHeap<Entry>,
    events: Vec<Option<Event>>,
    free: Vec<usize>,
    order: u64,
}

impl Queue {
    pub fn push(&mut self, at: At, event: Event) {
        self.order += 1;
        let slot = self.free.pop().unwrap_or_else(|| {
            self.events.push(None);
            self.events.len() - 1
        });
        self.events[slot] = Some(event);
        self.heap.push(Reverse((at, self.order, slot)));
    }

    pub fn pop(&mut self) -> Option<(At, Event)> {
        let Reverse((at, _, slot)) = self.heap.pop()?;
        let event = self.events[slot].take()?;
        self.free.push(slot);
        Some((at, event))
    }
}
