//! What a driver saw. A driver fills every field truthfully and decides nothing; where it does not know, the type has a
//! value that says so. All [`Time`]s are of the driver's one monotonic clock.

use std::collections::{BTreeMap, BTreeSet};

use rdb_protocol::admin::{AdminRefusal, Recruit};
use rdb_protocol::status::NodeStatus;
use rdb_protocol::{ClusterId, Epoch, Incarnation, Index, NodeName};

use crate::plan::{AdminCall, CallKind};
use crate::status::ClusterStatus;
use crate::time::Time;
use crate::upkeep::ExitedBoots;

/// Everything that a decision may depend on.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Observed {
    /// The stored status as it was read; an empty store is `ClusterStatus::default()`.
    pub status: ClusterStatus,
    /// Opaque version of `status` in the store, for the driver's compare-and-swap.
    pub version: String,
    /// Generation of the spec.
    pub generation: u64,
    /// Wall clock, used only for what no safety rests on: cooldown, `maintenance.until`, receipts.
    pub unix_ms: u64,
    /// Since when this process watches the cluster; silence before that means nothing.
    pub watched_since: Time,
    /// Since when this operator holds its own Lease without a break; `None` = it does not, and decides nothing. A driver
    /// that can't have a rival (`rdb local`, which locks its store) takes the time at which it got the lock.
    pub lease_held_since: Option<Time>,
    /// The last [`crate::Action::AnswerLease`] that this process carried out. Noted *before* the answer is sent.
    pub lease_answered: Option<LeaseAnswered>,
    /// A fresh random number; taken as the cluster's identity if there is none yet.
    pub offered_id: ClusterId,
    /// Every instance that has a process, an object or a volume.
    pub instances: BTreeMap<NodeName, InstanceObservation>,
    pub requests: Requests,
    /// The last call of each kind to each instance. See [`crate::Action::Call`] for how the driver keeps it.
    pub calls: BTreeMap<CallKey, CallRecord>,
    /// When this process last wrote the status.
    pub status_written_at: Option<Time>,
    pub elections: Elections,
    /// What is known of the volume snapshots; `None` where there are none to be taken.
    pub snapshots: Option<SnapshotsObservation>,
}

/// What this process remembers of elections. The stored status may go back to an election that has chosen its leader, when
/// the API server's data are restored from a backup.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Elections {
    /// The election that this process began and in which it has not chosen: nobody else chooses in it (rule 8).
    pub own: Option<Epoch>,
    /// The highest epoch that it ever read; the next one is above it (rule 7).
    pub highest: Epoch,
    /// When it first read the present epoch.
    pub since: Time,
}

/// Scheduled volume snapshots, as their keeper found them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SnapshotsObservation {
    pub healthy: bool,
    /// One word in CamelCase.
    pub reason: String,
    pub message: String,
    /// Position of the oldest snapshot that is kept: nodes keep their log from here, within `logRetention`.
    pub retain_from: Option<Index>,
}

/// One instance as seen by the driver.
#[derive(Clone, Debug, PartialEq)]
pub struct InstanceObservation {
    pub lifecycle: Lifecycle,
    /// `host:port` of its HTTP port, for its peers and the operator; `None` while it has none.
    pub address: Option<String>,
    pub zone: Option<String>,
    /// Where it runs (the Kubernetes node).
    pub node: Option<String>,
    pub connection: Connection,
    /// The last line of its status stream, kept when the stream ends.
    pub report: Option<Report>,
    /// Processes (boot ids) of this instance that surely ended: the parent's wait returned, or the kubelet reported
    /// `terminated` for the container that had this boot id. The last few are kept: the leader's death must not be
    /// forgotten because its next process already runs. Never put one here on weaker evidence (rule 16).
    pub exited_boots: ExitedBoots,
    /// The answer to the latest `fence` call that was answered, of whatever epoch.
    pub fence_answer: Option<FenceAnswer>,
    /// Why the running process is not what the spec asks for now: another image, other resources, a restart that was asked
    /// for. It is told of a process that is ending too. `None` = it is up to date, or nothing can be told.
    pub outdated: Option<String>,
    /// Its process was told to end, by whomever: it serves for a moment still, and another one takes its place. Its copy is
    /// one that will be missing.
    pub ending: bool,
    /// The machine that it runs on is being emptied, or it is being evicted: it will end soon.
    pub draining: bool,
    /// Surely no process of it runs, and none will without a change: what the kubelet or the scheduler says about it, such
    /// as an image that can't be pulled. `None` = it runs, or nothing is known.
    pub stuck: Option<String>,
}

/// What the driver does with the instance's process and volume.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Lifecycle {
    /// Its process runs or is being (re)started without further orders.
    #[default]
    Running,
    /// Its volume is kept and no process runs, by order.
    Stopped,
    /// Being deleted.
    Deleting,
}

/// The driver's status stream to an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Connection {
    /// The stream stands. (A frozen node's does too: look at the time of its last line.)
    Connected,
    /// No stream; attempts time out or were not answered yet.
    Lost { since: Time },
    /// No stream, and the last attempt was actively refused: no process listens there.
    Refused { since: Time },
}

/// A status line and when it came in.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    pub status: NodeStatus,
    pub received_at: Time,
}

/// A recruit's answer and when it came in.
#[derive(Clone, Debug, PartialEq)]
pub struct FenceAnswer {
    pub recruit: Recruit,
    pub received_at: Time,
}

/// The last answer to a leader's lease request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseAnswered {
    pub epoch: Epoch,
    pub request: u64,
    pub at: Time,
}

/// What people asked for: annotations of the resource, commands of `rdb local`. Those that act once stay until
/// [`crate::Action::ClearRequest`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Requests {
    /// Act once: make this instance the leader.
    pub switchover: Option<NodeName>,
    /// Act once: throw this instance's data away and seed it again.
    pub reseed: Option<NodeName>,
    /// Act once: elect in this epoch although acknowledged records may be lost.
    pub accept_data_loss: Option<Epoch>,
    /// While present: these instances are kept stopped.
    pub fence: BTreeSet<NodeName>,
}

/// One slot of the call bookkeeping.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CallKey {
    pub to: NodeName,
    pub kind: CallKind,
}

/// The last call of a kind to an instance.
#[derive(Clone, Debug, PartialEq)]
pub struct CallRecord {
    pub call: AdminCall,
    pub sent_at: Time,
    /// Of a promotion: when this process was first asked to lead this epoch, with these settings or others.
    pub first_sent_at: Time,
    /// Boot id in the instance's report when the call was sent: a restarted node may have forgotten what it was told.
    pub boot: Option<Incarnation>,
    /// `None` while it is in flight.
    pub outcome: Option<CallOutcome>,
    /// When `outcome` was known.
    pub finished_at: Option<Time>,
}

/// How a call ended.
#[derive(Clone, Debug, PartialEq)]
pub enum CallOutcome {
    /// HTTP 200.
    Done,
    /// HTTP 409: the node understood and will not.
    Refused(AdminRefusal),
    /// No answer, or none that could be read.
    Failed(String),
}

impl InstanceObservation {
    /// An instance of which nothing is known yet but that it runs.
    pub fn unknown(since: Time) -> InstanceObservation {
        InstanceObservation {
            lifecycle: Lifecycle::Running,
            address: None,
            zone: None,
            node: None,
            connection: Connection::Lost { since },
            report: None,
            exited_boots: ExitedBoots::default(),
            fence_answer: None,
            outdated: None,
            ending: false,
            draining: false,
            stuck: None,
        }
    }

    /// Its last report.
    pub fn status(&self) -> Option<&NodeStatus> {
        self.report.as_ref().map(|report| &report.status)
    }
}
