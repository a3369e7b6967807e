//! The operator's calls to a node: `POST /v1/admin/<call>` with the admin token. Every request carries the epoch that it
//! speaks for; a node with a higher promise answers [`AdminRefusal::Fenced`] and does nothing.

use serde::{Deserialize, Serialize};

use crate::config::{ClusterConfig, ConfigPair};
use crate::ids::{ClusterId, Epoch, Incarnation, Index, Member, NodeName, Position};
use crate::settings::NodeSettings;
use crate::status::Promise;

/// Where a member's HTTP port is, as `host:port`. Not part of any safety rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerAddress {
    pub name: NodeName,
    pub address: String,
}

/// `init`: gives an empty node its cluster. It becomes a follower with nothing; it never initialises itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Init {
    pub cluster: ClusterId,
    /// Guards against a volume that was swapped since the operator looked.
    pub incarnation: Incarnation,
    /// Only for the first node of a new cluster: create the empty database here instead of waiting for a seed.
    pub create: bool,
}

/// `fence`: promise to refuse every epoch below `epoch` (rule 6).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fence {
    pub epoch: Epoch,
}

/// What a recruit answers: its position is frozen below `epoch` from here on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recruit {
    pub epoch: Epoch,
    pub member: Member,
    /// End of its flushed log.
    pub position: Position,
    pub committed: Index,
    /// Milliseconds since it last answered a leader of a lower epoch; a restart counts as an answer at boot (rule 16).
    pub answered_ms_ago: u64,
    /// It led the epoch of its last promise and had opened (rule 16's shortcut).
    pub had_opened: bool,
    /// Highest index that this node, as a leader, acknowledged to a client.
    pub acknowledged: Index,
    pub config: Option<ConfigPair>,
}

/// `promote`: lead `epoch` (rule 9). May be repeated to the same node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Promote {
    pub epoch: Epoch,
    pub leader: Member,
    pub config: ConfigPair,
    /// Rule 16: how long to wait before opening, counted from the receipt of this call.
    pub lease_wait_ms: u64,
    /// Advance AUTOINCREMENT counters by the logged gap: acknowledged records may have been lost.
    pub lossy: bool,
    pub peers: Vec<PeerAddress>,
    pub settings: NodeSettings,
}

/// `follow`: who leads, and where the members are. Raises the promise like any message of its epoch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Follow {
    pub epoch: Epoch,
    pub leader: Member,
    pub peers: Vec<PeerAddress>,
    pub settings: NodeSettings,
    /// Records that were lost by permission: a cut below this node's committed index is then expected, archived and
    /// followed by a re-seed instead of a halt.
    pub loss_permitted: bool,
}

/// `config`: from now on count a record as committed under the current config or `next` (rule 15).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NextConfig {
    pub epoch: Epoch,
    pub next: ClusterConfig,
}

/// `settle`: from now on only `keep` counts (rule 15); obeyed once per (epoch, version).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settle {
    pub epoch: Epoch,
    pub version: u64,
    pub keep: ClusterConfig,
}

/// `stop-writes`: accept no new writes for a switchover; they resume by themselves after `deadline_ms` if the epoch has not
/// changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StopWrites {
    pub epoch: Epoch,
    pub deadline_ms: u64,
}

/// `resume-writes`: undo `stop-writes`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResumeWrites {
    pub epoch: Epoch,
}

/// `lease`: the operator's answer to a leader's lease request (rule 17).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseAnswer {
    pub epoch: Epoch,
    pub request: u64,
}

/// `reseed`: end the incarnation and fetch a new base copy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reseed {
    pub epoch: Epoch,
    pub incarnation: Incarnation,
}

/// `probe`: commit a `Noop` and say so; refused when it has not committed after `deadline_ms`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probe {
    pub epoch: Epoch,
    pub deadline_ms: u64,
}

/// `shutdown`: end the process in good order. Carries no epoch: it is always safe.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shutdown {}

/// The answer to calls that return nothing else.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {}

/// Why a node did not obey; HTTP 409 with this as the body.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(tag = "refused", rename_all = "camelCase")]
pub enum AdminRefusal {
    /// A higher epoch was promised (rule 5).
    #[error("promised epoch {}", promise.epoch)]
    Fenced { promise: Promise },
    /// The call does not fit the node's state; the text says how.
    #[error("{reason}")]
    State { reason: String },
}
