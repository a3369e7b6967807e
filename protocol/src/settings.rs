//! Modes, formats and the parameters that a node runs with; the operator sends them with every `follow` and `promote`.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::ids::Index;

/// `spec.replication.mode`: whose flush a client's answer waits for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub enum Mode {
    /// The leader's alone (W = 0); bounded and accounted loss when it is lost.
    Async,
    /// The leader's and W followers'.
    #[default]
    SemiSync,
    /// Every member's of K.
    Sync,
}

/// `spec.replication.syncSet`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub enum SyncSet {
    /// Any W of all followers.
    #[default]
    All,
    /// One named follower, replaced when slow or gone.
    One,
}

/// `spec.replication.whenUnavailable`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub enum WhenUnavailable {
    /// Writes wait until the rule can be met.
    #[default]
    Block,
    /// The operator shrinks K by a config change, never below `minSyncFollowers`.
    Degrade,
}

/// `spec.replication.logFormat`: what the leader writes; each record carries its own kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub enum LogFormat {
    #[default]
    Page,
    Statement,
    Logical,
    Mixed,
}

/// What a node is run with. Durations in milliseconds, sizes in bytes. All fields have the defaults of the resource.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeSettings {
    pub mode: Mode,
    pub log_format: LogFormat,
    /// Records carry row changes with old values, for `GET /v1/changes`.
    pub change_stream: bool,
    /// Records carry row changes beside pages and statements, for followers whose pages are not the leader's: after the
    /// format `logical`, until each of them has a new base copy.
    pub rows_for_all: bool,
    pub heartbeat_interval_ms: u64,
    /// D of rule 16.
    pub lease_duration_ms: u64,
    /// A leader whose probe write does not commit for so long says that it makes no progress.
    pub progress_timeout_ms: u64,
    pub log_retention_bytes: u64,
    pub log_retention_age_ms: u64,
    pub max_request_bytes: u64,
    pub max_result_bytes: u64,
    pub transaction_timeout_ms: u64,
    /// The log is kept from here, within `log_retention_bytes`: the oldest volume snapshot that a new member may be seeded
    /// from. `None` = there is none.
    pub retain_from: Option<Index>,
}

impl Default for NodeSettings {
    fn default() -> NodeSettings {
        NodeSettings {
            mode: Mode::default(),
            log_format: LogFormat::default(),
            change_stream: false,
            rows_for_all: false,
            heartbeat_interval_ms: 250,
            lease_duration_ms: 1000,
            progress_timeout_ms: 10_000,
            log_retention_bytes: 1 << 30,
            log_retention_age_ms: 24 * 3600 * 1000,
            max_request_bytes: 16 << 20,
            max_result_bytes: 64 << 20,
            transaction_timeout_ms: 5000,
            retain_from: None,
        }
    }
}

impl NodeSettings {
    pub fn heartbeat_interval(&self) -> Duration {
        Duration::from_millis(self.heartbeat_interval_ms)
    }

    pub fn lease_duration(&self) -> Duration {
        Duration::from_millis(self.lease_duration_ms)
    }
}
