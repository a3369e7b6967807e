//! The stored status of a cluster. Its first part is the record of decisions: {epoch, leader, leaderEpoch, phase, config}
//! and what belongs to them, changed only by compare-and-swap (rule 1). The rest is told to people and may be lost
//! without harm.

use rdb_protocol::{ClusterId, ConfigPair, Epoch, Incarnation, Index, Member, NodeName};
use serde::{Deserialize, Serialize};

/// Where the cluster is in its life; the STATUS column.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum Phase {
    /// The first node is being given its data, or the asked-for durability rule does not hold yet.
    #[default]
    Bootstrapping,
    /// A leader is open and no change is under way.
    Steady,
    /// An election is under way (rule 7): no leader is chosen for the epoch yet.
    FailingOver,
    /// The leader of the epoch is chosen (rule 8) and not open yet.
    Promoting,
    /// The leader stops writes for a planned switchover.
    SwitchingOver,
    /// A config change is under way (rule 15).
    Reconfiguring,
    /// Nothing goes on without a person; `message` says what to do.
    Stalled,
    /// No instances run; the data is kept.
    Hibernated,
}

/// `status` of the resource.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct ClusterStatus {
    /// Generation of the spec that the latest decision was made for.
    pub observed_generation: u64,
    pub phase: Phase,
    /// One sentence for the person on call.
    pub message: String,
    /// The cluster's identity, given at bootstrap.
    pub cluster: Option<ClusterId>,
    pub epoch: Epoch,
    /// Leader of `leader_epoch`.
    pub leader: Option<Member>,
    /// Latest epoch for which a leader was chosen; below `epoch` while an election is under way.
    pub leader_epoch: Epoch,
    /// The latest leader that was seen open, and its process: what a proof of its end must match (rule 16).
    pub opened: Option<Opened>,
    pub config: Option<ConfigPair>,
    /// Highest config version that ever stood: one that was given up is not used again.
    pub config_version: u64,
    /// When the last config change was given up, until one succeeds.
    pub config_given_up_unix_ms: Option<u64>,
    /// Why the election of `epoch` was started and what was known then; cleared with `Steady`.
    pub election: Option<Election>,
    /// A planned switchover before its election.
    pub switchover: Option<Switchover>,
    /// When a switchover that nobody asked for was last called off.
    pub switchover_called_off_unix_ms: Option<u64>,
    /// The instance that the rolling update renews now.
    pub rollout: Option<Rollout>,
    /// Last epoch whose leader was promoted with permission to lose acknowledged records.
    pub loss_epoch: Option<Epoch>,
    /// Nodes may hold their rows on other pages than the leader: set before anybody is told to log row changes alone, taken
    /// back when every instance has shown that its pages are the leader's.
    pub layouts_differ: bool,
    pub ready_instances: u32,
    pub instances: Vec<InstanceStatus>,
    pub forecast: Option<Forecast>,
    pub last_failover: Option<Receipt>,
    /// Receipts of earlier failovers that used permission to lose records, newest last.
    pub earlier_losses: Vec<Receipt>,
    pub conditions: Vec<Condition>,
}

/// A leader that was seen open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct Opened {
    pub epoch: Epoch,
    /// Its process. A process that leads leads one epoch, and a restarted one leads nothing (rule 9).
    pub boot: Incarnation,
}

/// Why a leader was replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum Reason {
    /// The first leader of a new cluster, or all nodes were restarted.
    ColdStart,
    /// Proof that the leader's process ended.
    ProcessExited,
    /// The leader's port refuses connections and no follower hears it.
    ConnectionRefused,
    /// The leader's process was restarted.
    Restarted,
    /// Silence towards the operator and the followers.
    Silent,
    /// It answers but commits nothing.
    NoProgress,
    /// It reports that it cannot serve (halted, diverged, or another incarnation under its name).
    Unfit,
    /// A node had promised a higher epoch, or the chosen leader was lost before it opened.
    Retry,
    /// Planned.
    Switchover,
    /// The status was lost and rebuilt from every member's control file. Until a leader has opened, every member's word is
    /// needed for an election.
    StatusRebuilt,
}

/// An election under way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct Election {
    pub reason: Reason,
    /// The evidence, as one sentence.
    pub evidence: String,
    /// The last leader that was open.
    pub from: Option<Member>,
    /// The epoch that `from` led.
    pub from_epoch: Epoch,
    pub started_unix_ms: u64,
    /// Between the last sign of life of the old leader and the decision.
    pub detected_ms: u64,
    /// Highest index that the old leader was known to have acknowledged, or to have flushed if that is more: what it did
    /// after its last report is not known.
    pub acknowledged: Index,
    /// A tie goes to this node (rule 8).
    pub preferred: Option<NodeName>,
    /// It answers but got nothing committed: left out of the recruits if the others are enough (they may be any that rule
    /// 4 allows), or it would win again.
    pub avoided: Option<Member>,
    /// Epochs that this election has taken so far.
    pub attempts: u32,
    /// A person permitted the loss of acknowledged records for this election.
    pub loss_permitted: bool,
    /// `leader` before the choice, and the epoch that it was chosen for: whose lease may still run (rule 16).
    pub replaced: Option<Member>,
    pub replaced_epoch: Epoch,
    /// Permission to lose acknowledged records was used for a choice. A later choice of the same election builds on it.
    pub lossy: bool,
    /// Highest index of the chosen leader when it was chosen; the lowest of all choices of this election.
    pub promoted: Option<Index>,
}

/// A planned switchover that has not started its election.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct Switchover {
    pub target: NodeName,
    pub started_unix_ms: u64,
}

/// One step of a rolling update: an instance that is ended and started as the spec asks for now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct Rollout {
    pub instance: NodeName,
    /// In what it differs from what is asked for.
    pub reason: String,
    pub started_unix_ms: u64,
    /// It did not catch up within `seeding.catchUpTimeout`; no other instance is touched until it has.
    pub stopped: bool,
}

/// One row of `status.instances`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct InstanceStatus {
    pub name: NodeName,
    /// `leader`, `follower`, `empty` or `unknown`.
    pub role: String,
    pub epoch: Epoch,
    pub index: Index,
    pub lag_records: u64,
    /// What it does, in the words of the node's report, or `Unreachable`, `Stopped`.
    pub state: String,
    /// Its copies count (K).
    pub sync: bool,
    pub ready: bool,
    /// Where it runs.
    pub node: Option<String>,
}

/// What would happen if the leader died now.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct Forecast {
    pub successor: Option<NodeName>,
    /// Acknowledged records that the successor has not.
    pub acknowledged_at_risk: u64,
    /// Who can't succeed, and why.
    pub vetoes: Vec<Veto>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Veto {
    pub instance: NodeName,
    pub reason: String,
}

/// `status.lastFailover`: what was lost, honestly.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct Receipt {
    pub epoch: Epoch,
    pub from: Option<NodeName>,
    /// The data of `from` that has to be read for an exact number.
    #[serde(default)]
    pub from_incarnation: Option<Incarnation>,
    /// The epoch that it led: its own tail ends in it.
    #[serde(default)]
    pub from_epoch: Epoch,
    pub to: NodeName,
    pub reason: Reason,
    pub evidence: String,
    /// From the last sign of life to the decision.
    pub detected_ms: u64,
    /// From the last sign of life to the open leader.
    pub opened_ms: u64,
    /// Upper bound of the acknowledged records that are not in the new log; see `exact`.
    pub records_at_risk: u64,
    /// `records_at_risk` is the true number: nothing can be lost by the rules, or the old leader's log has been read.
    pub exact: bool,
    /// The old leader's log is gone for good; the bound will never become exact.
    #[serde(default)]
    pub incomplete: bool,
    /// Highest index known to have been acknowledged by the old leader.
    pub acknowledged: Index,
    /// End of the promoted log before its `EpochStart`.
    pub promoted: Index,
    pub lossy: bool,
    /// Failovers that followed each other within the back-off, this one included.
    pub in_a_row: u32,
    pub at_unix_ms: u64,
}

/// A condition as Kubernetes knows it; times as Unix milliseconds, for the driver to format.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// `Ready`, `Reconciling`, `Stalled`, `Degraded`, `Divergence`, `SnapshotsHealthy`.
    #[serde(rename = "type")]
    pub kind: String,
    pub status: bool,
    /// One word in CamelCase.
    pub reason: String,
    pub message: String,
    pub since_unix_ms: u64,
}

impl ClusterStatus {
    /// No election is under way: the leader of the epoch is chosen.
    pub fn has_leader(&self) -> bool {
        self.leader.is_some() && self.leader_epoch == self.epoch
    }

    /// The condition of this type.
    pub fn condition(&self, kind: &str) -> Option<&Condition> {
        self.conditions.iter().find(|condition| condition.kind == kind)
    }
}
