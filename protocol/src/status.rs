//! What a node reports about itself: `GET /v1/status`, and as a stream of JSON lines with `?watch`.

use serde::{Deserialize, Serialize};

use crate::admin::PeerAddress;
use crate::config::{ClusterConfig, ConfigPair};
use crate::ids::{ClusterId, Epoch, Incarnation, Index, Member, NodeName, Position};

/// A node's durable promise to refuse every epoch below `epoch`. It names the epoch's leader once known, so that an
/// epoch has one (rule 5).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Promise {
    pub epoch: Epoch,
    pub leader: Option<Member>,
}

/// What the node is in its present epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Role {
    /// No data and no cluster yet: waits for `init`.
    Empty,
    Follower,
    Leader,
}

/// What the node is doing; the words of `status.instances[].state`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum NodeState {
    /// Waits for `init`.
    Empty,
    /// Follower without a leader that it hears.
    Searching,
    /// Receives a base copy.
    Seeding,
    /// Receives older records.
    CatchingUp,
    /// Receives records as they are made.
    Streaming,
    /// Leader whose `EpochStart` is not committed and applied yet.
    Opening,
    /// Leader, open for clients.
    Leading,
    /// Leader that accepts no new writes for a switchover.
    WritesStopped,
    /// Its content disagrees with the leader's; serves nothing and waits to be re-seeded.
    Diverged,
    /// Stopped by a broken invariant or a corrupt log; serves nothing. `problems` says why.
    Halted,
}

/// Something that the person on call must know, with a stable code.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// Stable, such as `DISK_FULL`, `LOG_CORRUPT`, `CUT_BELOW_COMMITTED`, `DIVERGED`.
    pub code: String,
    /// What happened and what to do.
    pub message: String,
}

/// A leader's view of one follower.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FollowerProgress {
    pub member: Member,
    pub connected: bool,
    /// Highest index that it acknowledged in this epoch (rule 11); 0 = none yet.
    pub acknowledged: Index,
    /// Milliseconds since its last answer of any kind in this epoch; `None` = never.
    pub answered_ms_ago: Option<u64>,
    /// It has flushed what was committed when it asked to join, or more.
    pub caught_up: bool,
}

/// The leader's report that a config change has ended (rule 15).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SettleReport {
    pub epoch: Epoch,
    pub version: u64,
    pub keep: ClusterConfig,
    /// The `Config` record is committed: only then may `current` be swapped.
    pub committed: bool,
}

/// Where a follower's data came from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeedReport {
    /// `empty`, `stream` or `snapshot`.
    pub method: String,
    pub position: Position,
}

/// Tail that this node had and the cluster has not: cut by rule 10 and kept in its archive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DivergenceReport {
    /// File name in the archive.
    pub archive: String,
    /// Who had the tail: giving up the database ends the incarnation, but not this report.
    pub incarnation: Incarnation,
    /// The node may, as a leader, have acknowledged records up to here: an upper bound.
    pub acknowledged: Index,
    /// Last common position.
    pub from: Position,
    /// Where the cut tail ended.
    pub to: Position,
    /// Every cut record could be turned into row changes.
    pub complete: bool,
}

/// Everything that `decide` may know of a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeStatus {
    pub name: NodeName,
    pub incarnation: Incarnation,
    pub cluster: Option<ClusterId>,
    /// New at every start of the process.
    pub boot: Incarnation,
    pub version: String,
    pub role: Role,
    pub state: NodeState,
    pub promise: Promise,
    /// Highest epoch that this node has led (rule 9).
    pub led: Epoch,
    /// Highest epoch that this node was to lead with permission to lose acknowledged records: what a status that is rebuilt
    /// has forgotten.
    #[serde(default)]
    pub lossy: Epoch,
    /// Last record flushed to this node's log.
    pub flushed: Position,
    /// Known committed index.
    pub committed: Index,
    /// Visible in this node's database.
    pub applied: Index,
    /// Oldest record in this node's log.
    pub first_retained: Index,
    pub config: Option<ConfigPair>,
    /// Where the members are, as the operator last said; what a client that knows one node may ask next.
    #[serde(default)]
    pub peers: Vec<PeerAddress>,
    /// Leader: its `EpochStart` is committed and applied and the lease rule allowed it to open (rule 13).
    pub opened: bool,
    pub settled: Option<SettleReport>,
    /// Leader: one per follower that ever connected in this epoch.
    pub followers: Vec<FollowerProgress>,
    /// Follower: milliseconds since it last heard the leader named in its promise; `None` = never.
    pub leader_heard_ms_ago: Option<u64>,
    /// Leader: it has the lease now.
    pub lease_valid: bool,
    /// Leader in async mode: number of the request that an operator's answer would renew the lease for (rule 17).
    pub lease_request: Option<u64>,
    /// Leader: age in milliseconds of the oldest write or probe that is not committed; `None` = none waits.
    pub uncommitted_ms: Option<u64>,
    /// Leader: records below or at this index were acknowledged to clients.
    pub acknowledged: Index,
    pub seed: Option<SeedReport>,
    /// Follower: the pages of its database are not the leader's, for it applied row changes. Leader: it logs row changes alone.
    /// Such nodes need a new base copy before they can follow pages or statements.
    #[serde(default)]
    pub other_layout: bool,
    /// Leader: the record since which all that it logged carry pages or statements. Follower: the last record of which it
    /// applied these as they are, so its pages were the leader's then. Zero: none in this process.
    #[serde(default)]
    pub exact: RecordPlace,
    pub divergences: Vec<DivergenceReport>,
    pub problems: Vec<Problem>,
}

/// A record, by its place in the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordPlace {
    pub epoch: Epoch,
    pub index: Index,
}

impl NodeStatus {
    pub fn member(&self) -> Member {
        Member { name: self.name.clone(), incarnation: self.incarnation }
    }

    /// Reads a line of the status stream of the node with this name. Errors: [`LineError`].
    pub fn from_line(line: &[u8], of: &NodeName) -> Result<NodeStatus, LineError> {
        let status: NodeStatus = serde_json::from_slice(line)?;
        if status.name == *of { Ok(status) } else { Err(LineError::AnotherNode(status.name)) }
    }
}

/// Longest line of a status stream, in bytes. A line holds a few hundred bytes for each of at most 15 members.
pub const MAX_LINE_BYTES: usize = 1 << 20;

/// A line of a status stream that says nothing about the node that was asked.
#[derive(Debug, thiserror::Error)]
pub enum LineError {
    #[error("another node answers at this address: {0}")]
    AnotherNode(NodeName),
    #[error("unreadable status line: {0}")]
    Unreadable(#[from] serde_json::Error),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_another_node_is_not_taken() {
        let (one, two) = (NodeName::new("db-1").unwrap(), NodeName::new("db-2").unwrap());
        let position = serde_json::json!({"epoch": 2, "index": 7, "chain": "0000000000000009"});
        let line = serde_json::json!({
            "name": "db-2", "incarnation": "0000000000000001", "cluster": null, "boot": "0000000000000002",
            "version": "test", "role": "follower", "state": "Streaming", "promise": {"epoch": 2, "leader": null}, "led": 0,
            "flushed": position, "committed": 7, "applied": 7, "first_retained": 1, "config": null, "opened": false,
            "settled": null, "followers": [], "leader_heard_ms_ago": 1, "lease_valid": false, "lease_request": null,
            "uncommitted_ms": null, "acknowledged": 0, "seed": null, "divergences": [], "problems": [],
        });
        let line = line.to_string();
        assert_eq!(NodeStatus::from_line(line.as_bytes(), &two).unwrap().name, two);
        let error = NodeStatus::from_line(line.as_bytes(), &one).unwrap_err();
        assert_eq!(error.to_string(), "another node answers at this address: db-2");
        let torn = &line.as_bytes()[..line.len() / 2];
        assert!(matches!(NodeStatus::from_line(torn, &two), Err(LineError::Unreadable(_))));
    }
}
