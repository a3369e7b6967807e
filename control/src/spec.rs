//! `spec` of a ReplicatedDB as a user writes it: every field, with its default. Bounds are checked by
//! [`crate::Cluster::parse`]. Durations are texts such as `250ms`, `10s`, `5m`, `24h`, `30d`; sizes `64Mi`, `1Gi`, `1000`.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use rdb_protocol::settings::{LogFormat, Mode, SyncSet, WhenUnavailable};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Why a text is no duration or size.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseUnitError {
    #[error("{0:?} is no duration: write a whole number and one of ms, s, m, h, d, such as 10s")]
    Span(String),
    #[error("{0:?} is no size: write a whole number of bytes, or one with Ki, Mi, Gi or Ti, such as 1Gi")]
    Size(String),
}

/// A duration with a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub Duration);

/// A number of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

/// Units from large to small, so that a number is written with the largest that divides it.
const SPAN_UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];
const SIZE_UNITS: [(&str, u64); 5] = [("Ti", 1 << 40), ("Gi", 1 << 30), ("Mi", 1 << 20), ("Ki", 1 << 10), ("", 1)];

fn parse_units(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let (_, factor) = units.iter().find(|(name, _)| *name == unit)?;
    number.parse::<u64>().ok()?.checked_mul(*factor)
}

fn write_units(f: &mut fmt::Formatter<'_>, value: u64, units: &[(&str, u64)], zero: &str) -> fmt::Result {
    match units.iter().find(|(_, factor)| value >= *factor && value.is_multiple_of(*factor)) {
        Some((unit, factor)) => write!(f, "{}{unit}", value / factor),
        None => f.write_str(zero),
    }
}

impl Span {
    pub const fn from_millis(ms: u64) -> Span {
        Span(Duration::from_millis(ms))
    }

    pub const fn from_secs(secs: u64) -> Span {
        Span(Duration::from_secs(secs))
    }

    pub fn millis(self) -> u64 {
        u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX)
    }
}

impl FromStr for Span {
    type Err = ParseUnitError;
    fn from_str(text: &str) -> Result<Span, ParseUnitError> {
        parse_units(text, &SPAN_UNITS).map(Span::from_millis).ok_or_else(|| ParseUnitError::Span(text.to_owned()))
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_units(f, self.millis(), &SPAN_UNITS, "0s")
    }
}

impl FromStr for Size {
    type Err = ParseUnitError;
    fn from_str(text: &str) -> Result<Size, ParseUnitError> {
        parse_units(text, &SIZE_UNITS).map(Size).ok_or_else(|| ParseUnitError::Size(text.to_owned()))
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_units(f, self.0, &SIZE_UNITS, "0")
    }
}

macro_rules! text_serde {
    ($($name:ident),*) => {$(
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }
    )*};
}
text_serde!(Span, Size);

macro_rules! fields {
    ($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident: $type:ty = $default:expr,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
        #[serde(rename_all = "camelCase", default, deny_unknown_fields)]
        pub struct $name { $($(#[$field_doc])* pub $field: $type,)* }

        impl Default for $name {
            fn default() -> $name {
                $name { $($field: $default,)* }
            }
        }
    };
}

fields! {
    /// A cluster of one leader and its followers.
    ClusterSpec {
        /// 1–15. One instance runs without followers and shows Degraded.
        instances: u32 = 3,
        /// rdb-node image; empty = the operator's default for its own version.
        image: String = String::new(),
        /// The operator observes and reports, but changes nothing.
        paused: bool = false,
        /// No instances run, the data is kept.
        hibernated: bool = false,
        /// What happens to the volumes when the resource is deleted.
        reclaim: Reclaim = Reclaim::Retain,
        storage: StorageSpec = StorageSpec::default(),
        /// Requests and limits of the node container.
        resources: serde_json::Map<String, serde_json::Value> = serde_json::Map::new(),
        replication: ReplicationSpec = ReplicationSpec::default(),
        failover: FailoverSpec = FailoverSpec::default(),
        maintenance: MaintenanceSpec = MaintenanceSpec::default(),
        snapshots: SnapshotsSpec = SnapshotsSpec::default(),
        seeding: SeedingSpec = SeedingSpec::default(),
        placement: PlacementSpec = PlacementSpec::default(),
        access: AccessSpec = AccessSpec::default(),
        pod_metadata: PodMetadataSpec = PodMetadataSpec::default(),
    }
}

fields! {
    StorageSpec {
        /// May only grow.
        size: Size = Size(1 << 30),
        /// Empty = the Kubernetes cluster's default.
        storage_class: String = String::new(),
    }
}

fields! {
    /// Whose copies a write needs before it is acknowledged.
    ReplicationSpec {
        mode: Mode = Mode::SemiSync,
        /// W; semiSync only; 1 ≤ W < instances (not checked when instances is 1).
        sync_followers: u32 = 1,
        /// all = any W of all followers (quorum); one = one named follower, replaced when slow or gone.
        sync_set: SyncSet = SyncSet::All,
        when_unavailable: WhenUnavailable = WhenUnavailable::Block,
        /// Degrading never goes below this; 0–syncFollowers.
        min_sync_followers: u32 = 1,
        /// 1s–10m: how long a synchronous follower may be unreachable before degrading or replacement.
        sync_timeout: Span = Span::from_secs(10),
        log_format: LogFormat = LogFormat::Page,
        /// Add row changes to every record for `GET /v1/changes` (always there with `logical`).
        change_stream: bool = false,
        log_retention: LogRetentionSpec = LogRetentionSpec::default(),
    }
}

fields! {
    LogRetentionSpec {
        /// At least 64Mi.
        size: Size = Size(1 << 30),
        /// 1m–30d.
        age: Span = Span::from_secs(24 * 3600),
    }
}

fields! {
    FailoverSpec {
        enabled: bool = true,
        /// 500ms–10m: silence towards the operator and all reachable followers.
        detection_timeout: Span = Span::from_secs(3),
        /// 50ms–10s; at most a quarter of leaseDuration.
        heartbeat_interval: Span = Span::from_millis(250),
        /// 200ms–60s; less than detectionTimeout.
        lease_duration: Span = Span::from_secs(1),
        /// 1s–10m: a leader that answers but commits nothing.
        progress_timeout: Span = Span::from_secs(10),
        /// 0s–1h between two failovers; doubles while leaders keep dying, up to 10 min.
        cooldown: Span = Span::from_secs(10),
        /// null = refuse, in async mode allow.
        data_loss: Option<DataLoss> = None,
    }
}

fields! {
    /// No failover is started while active.
    MaintenanceSpec {
        active: bool = false,
        /// RFC 3339; ends it by itself.
        until: Option<String> = None,
    }
}

fields! {
    SnapshotsSpec {
        /// VolumeSnapshotClass; empty = no scheduled snapshots.
        class_name: String = String::new(),
        /// cron, UTC
        schedule: String = "0 * * * *".to_owned(),
        /// 1–100
        keep: u32 = 3,
    }
}

fields! {
    SeedingSpec {
        /// auto = snapshot, else stream.
        method: SeedMethod = SeedMethod::Auto,
        catch_up_timeout: Span = Span::from_secs(3600),
    }
}

fields! {
    PlacementSpec {
        zones: Spread = Spread::Spread,
        nodes: Spread = Spread::Spread,
        node_selector: BTreeMap<String, String> = BTreeMap::new(),
        tolerations: Vec<serde_json::Value> = Vec::new(),
        priority_class_name: String = String::new(),
    }
}

fields! {
    AccessSpec {
        /// Key `token`; empty = generated as <name>-client.
        client_token_secret: String = String::new(),
        max_request_size: Size = Size(16 << 20),
        max_result_size: Size = Size(64 << 20),
        transaction_timeout: Span = Span::from_secs(5),
        stream_idle_timeout: Span = Span::from_secs(10),
    }
}

fields! {
    PodMetadataSpec {
        labels: BTreeMap<String, String> = BTreeMap::new(),
        annotations: BTreeMap<String, String> = BTreeMap::new(),
    }
}

/// What happens to the volumes when the resource is deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reclaim {
    Retain,
    Delete,
}

/// Whether an election may go on although acknowledged records may be lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum DataLoss {
    Refuse,
    Allow,
}

/// Where a new follower's first data comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum SeedMethod {
    Auto,
    Snapshot,
    Stream,
}

/// How instances are spread.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Spread {
    Spread,
    Require,
    Ignore,
}
