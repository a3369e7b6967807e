//! What a node must remember beside its data.

use rdb_protocol::admin::PeerAddress;
use rdb_protocol::settings::NodeSettings;
use rdb_protocol::status::{DivergenceReport, Promise, SeedReport};
use rdb_protocol::{ClusterId, ConfigPair, Epoch, Incarnation, Index, Member, NodeName};
use serde::{Deserialize, Serialize};

/// Content of the control file. Fields that an older version didn't write take their defaults.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ControlState {
    pub name: NodeName,
    /// Ends by rule 18.
    pub incarnation: Incarnation,
    #[serde(default)]
    pub cluster: Option<ClusterId>,
    /// Rule 5.
    #[serde(default)]
    pub promise: Promise,
    /// Highest epoch that this node has led (rule 9).
    #[serde(default)]
    pub led: Epoch,
    /// Last epoch that this node had opened in as leader (rule 16's shortcut).
    #[serde(default)]
    pub opened: Epoch,
    /// Highest epoch that this node was promoted to with permission to lose records.
    #[serde(default)]
    pub lossy: Epoch,
    #[serde(default)]
    pub config: Option<ConfigPair>,
    /// Hint, written now and then: at least so much is committed.
    #[serde(default)]
    pub committed: Index,
    /// Hint: this node, as a leader, acknowledged records up to here to clients.
    #[serde(default)]
    pub acknowledged: Index,
    /// The operator said that records were lost by permission: a cut below `committed` is then expected.
    #[serde(default)]
    pub loss_permitted: bool,
    #[serde(default)]
    pub data: DataState,
    #[serde(default)]
    pub seed: Option<SeedReport>,
    #[serde(default)]
    pub divergences: Vec<DivergenceReport>,
    /// Where the members were when the operator last said so.
    #[serde(default)]
    pub peers: Vec<PeerAddress>,
    #[serde(default)]
    pub settings: NodeSettings,
    /// Id of the volume that the directory was last used on, where volumes have ids.
    #[serde(default)]
    pub volume: Option<String>,
    /// The content came with a copied volume and has not been judged yet.
    #[serde(default)]
    pub copied: bool,
}

impl ControlState {
    /// Of a new data directory.
    pub fn new(name: NodeName, incarnation: Incarnation) -> ControlState {
        ControlState {
            name,
            incarnation,
            cluster: None,
            promise: Promise::default(),
            led: Epoch::ZERO,
            opened: Epoch::ZERO,
            lossy: Epoch::ZERO,
            config: None,
            committed: Index::ZERO,
            acknowledged: Index::ZERO,
            loss_permitted: false,
            data: DataState::Empty,
            seed: None,
            divergences: Vec::new(),
            peers: Vec::new(),
            settings: NodeSettings::default(),
            volume: None,
            copied: false,
        }
    }

    /// The state of a copy of the volume. What was promised stays promised; what the original did as a leader, and what it cut,
    /// is not this member's.
    pub fn copied_to(self, name: NodeName, volume: &str, incarnation: Incarnation) -> ControlState {
        ControlState {
            name,
            incarnation,
            volume: Some(volume.to_owned()),
            copied: true,
            opened: Epoch::ZERO,
            lossy: Epoch::ZERO,
            acknowledged: Index::ZERO,
            seed: None,
            divergences: Vec::new(),
            ..self
        }
    }

    pub fn member(&self) -> Member {
        Member { name: self.name.clone(), incarnation: self.incarnation }
    }
}

/// What log and database of this directory are good for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "camelCase")]
pub enum DataState {
    /// Nothing yet: waits for `init`.
    #[default]
    Empty,
    /// A base copy is being fetched; log and database are not usable.
    Seeding,
    /// Log and database belong together.
    Ready,
    /// The content disagrees with the leader's; kept for the person who looks into it, until re-seeded.
    Diverged { reason: String },
    /// The log is damaged; until re-seeded.
    Corrupt { reason: String },
    /// The database is damaged; until re-seeded.
    DatabaseCorrupt { reason: String },
}
