//! What a driver has to do.

use rdb_protocol::admin::{
    Fence, Follow, Init, LeaseAnswer, NextConfig, Promote, Reseed, ResumeWrites, Settle, StopWrites,
};
use rdb_protocol::{Incarnation, NodeName};

use crate::status::ClusterStatus;
use crate::time::Time;

/// The actions of one decision, in the order in which to carry them out. At most one [`Action::SwapStatus`], and it is
/// the last one; at most one [`Action::WakeAt`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    pub actions: Vec<Action>,
}

/// One thing to do. Orders about instances are repeated in every plan until the observation shows them carried out, so
/// carrying them out again must do no harm.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// `POST /v1/admin/<call>` to an instance, at the address that its observation has.
    ///
    /// Start it and go on without waiting: [`crate::Observed::note_call`] when it is started, and
    /// [`crate::Observed::note_outcome`] when the answer comes; a call that was replaced in its slot is left to end by
    /// itself. A recruit's answer to `fence` also goes to [`crate::InstanceObservation::take_fence_answer`]. Give up
    /// (outcome `Failed`) after a second or so: a frozen node accepts connections. Never repeat a call by yourself:
    /// `decide` repeats what went unanswered after [`crate::decide::CALL_RETRY`], and leaves alone what is in flight.
    Call { to: NodeName, call: AdminCall },
    /// Answer the leader's lease request (rule 17): `POST /v1/admin/lease`. Put it into `Observed::lease_answered` with
    /// the present time, and only then send it. Dropping it is safe; sending it late is not: if it can't be sent within
    /// the same turn, drop it. A driver with a real Lease looks once more whether it still holds it.
    AnswerLease { to: NodeName, answer: LeaseAnswer },
    /// Make a new instance with an empty volume and start it.
    CreateInstance { name: NodeName },
    /// Start a stopped instance on its volume.
    StartInstance { name: NodeName },
    /// End the process and keep the volume; do not restart it.
    StopInstance { name: NodeName },
    /// End the process in good order and start it anew on its volume as the spec asks for now. `incarnation` is the data
    /// that the decision was made for, if known. Repeated for as long as the observation is `outdated`; a process that is
    /// ending already is left to end.
    RecreateInstance { name: NodeName, incarnation: Option<Incarnation> },
    /// End the process and delete the volume. `incarnation` is the data that the decision was made for, if known: with a
    /// precondition on the volume's UID, so that another one of that name is not hit.
    DeleteInstance { name: NodeName, incarnation: Option<Incarnation> },
    /// The request was carried out or refused (an event says which); remove it if it still has this value.
    ClearRequest(RequestKind),
    /// Tell people. Already free of repetition.
    Event(Event),
    /// Decide again at this time even if nothing changes. It replaces any earlier one.
    WakeAt(Time),
    /// Replace the whole status by compare-and-swap on `Observed::version` (rule 1). Always the last action. Decide again
    /// after it, with the status as stored; after a conflict, read the status first.
    SwapStatus(Box<ClusterStatus>),
}

/// A request that acts once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RequestKind {
    Switchover,
    Reseed,
    AcceptDataLoss,
}

/// The operator's calls, with their bodies as in [`rdb_protocol::admin`].
#[derive(Clone, Debug, PartialEq)]
pub enum AdminCall {
    Init(Init),
    /// Answered with a `Recruit`; every other call with `Done`.
    Fence(Fence),
    Promote(Promote),
    Follow(Follow),
    NextConfig(NextConfig),
    Settle(Settle),
    StopWrites(StopWrites),
    ResumeWrites(ResumeWrites),
    Reseed(Reseed),
}

/// Which call; also its path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum CallKind {
    Init,
    Fence,
    Promote,
    Follow,
    NextConfig,
    Settle,
    StopWrites,
    ResumeWrites,
    Reseed,
}

impl CallKind {
    /// Last part of the path below `/v1/admin/`.
    pub fn path(self) -> &'static str {
        match self {
            CallKind::Init => "init",
            CallKind::Fence => "fence",
            CallKind::Promote => "promote",
            CallKind::Follow => "follow",
            CallKind::NextConfig => "config",
            CallKind::Settle => "settle",
            CallKind::StopWrites => "stop-writes",
            CallKind::ResumeWrites => "resume-writes",
            CallKind::Reseed => "reseed",
        }
    }
}

impl AdminCall {
    pub fn kind(&self) -> CallKind {
        match self {
            AdminCall::Init(_) => CallKind::Init,
            AdminCall::Fence(_) => CallKind::Fence,
            AdminCall::Promote(_) => CallKind::Promote,
            AdminCall::Follow(_) => CallKind::Follow,
            AdminCall::NextConfig(_) => CallKind::NextConfig,
            AdminCall::Settle(_) => CallKind::Settle,
            AdminCall::StopWrites(_) => CallKind::StopWrites,
            AdminCall::ResumeWrites(_) => CallKind::ResumeWrites,
            AdminCall::Reseed(_) => CallKind::Reseed,
        }
    }

    /// The JSON body.
    pub fn body(&self) -> Result<serde_json::Value, serde_json::Error> {
        match self {
            AdminCall::Init(body) => serde_json::to_value(body),
            AdminCall::Fence(body) => serde_json::to_value(body),
            AdminCall::Promote(body) => serde_json::to_value(body),
            AdminCall::Follow(body) => serde_json::to_value(body),
            AdminCall::NextConfig(body) => serde_json::to_value(body),
            AdminCall::Settle(body) => serde_json::to_value(body),
            AdminCall::StopWrites(body) => serde_json::to_value(body),
            AdminCall::ResumeWrites(body) => serde_json::to_value(body),
            AdminCall::Reseed(body) => serde_json::to_value(body),
        }
    }
}

/// Something that people should be able to read later.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// One word in CamelCase.
    pub reason: String,
    pub message: String,
    /// What the decision rests on; empty if the message says it all.
    pub evidence: String,
    pub warning: bool,
}

impl Plan {
    /// The status to be swapped in, if any.
    pub fn swap(&self) -> Option<&ClusterStatus> {
        self.actions.iter().find_map(|action| match action {
            Action::SwapStatus(status) => Some(status.as_ref()),
            _ => None,
        })
    }

    /// When to decide again at the latest.
    pub fn wake_at(&self) -> Option<Time> {
        self.actions.iter().find_map(|action| match action {
            Action::WakeAt(time) => Some(*time),
            _ => None,
        })
    }
}
