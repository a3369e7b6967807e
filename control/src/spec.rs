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

        // A text in JSON; its pattern and bounds differ by field.
        #[cfg(feature = "schema")]
        impl schemars::JsonSchema for $name {
            fn inline_schema() -> bool {
                true
            }
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }
            fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
                String::json_schema(generator)
            }
        }
    )*};
}
text_serde!(Span, Size);

macro_rules! fields {
    ($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident: $type:ty = $default:expr,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
        #[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
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
        /// How many instances there are, the leader included; 1–15. One instance runs without followers and shows Degraded.
        instances: u32 = 3,
        /// The rdb-node image; empty = the operator's default for its own version. A change restarts the instances one by
        /// one, the leader last by switchover.
        image: String = String::new(),
        /// The operator observes and reports, but changes nothing: no failover either.
        paused: bool = false,
        /// No instances run; their volumes are kept.
        hibernated: bool = false,
        /// What happens to the volumes when the resource is deleted: Retain or Delete.
        reclaim: Reclaim = Reclaim::Retain,
        /// The volume of each instance; it holds the database and the log.
        storage: StorageSpec = StorageSpec::default(),
        /// Requests and limits of the node container.
        resources: serde_json::Map<String, serde_json::Value> = serde_json::Map::new(),
        /// Whose copies a write needs before it is acknowledged, and what the log holds.
        replication: ReplicationSpec = ReplicationSpec::default(),
        /// When a leader is held to be lost, and what may be done then.
        failover: FailoverSpec = FailoverSpec::default(),
        /// Time in which no failover is started.
        maintenance: MaintenanceSpec = MaintenanceSpec::default(),
        /// Scheduled volume snapshots of a follower.
        snapshots: SnapshotsSpec = SnapshotsSpec::default(),
        /// How a new instance gets its data.
        seeding: SeedingSpec = SeedingSpec::default(),
        /// Where instances run.
        placement: PlacementSpec = PlacementSpec::default(),
        /// Who may talk to the database, and how much at once.
        access: AccessSpec = AccessSpec::default(),
        /// Further labels and annotations of the instances' pods.
        pod_metadata: PodMetadataSpec = PodMetadataSpec::default(),
    }
}

fields! {
    StorageSpec {
        /// Size of each volume, such as 10Gi; may only grow, and needs a storage class that can expand volumes for that.
        size: Size = Size(1 << 30),
        /// Storage class of the volumes; empty = the Kubernetes cluster's default. Can't be changed later.
        storage_class: String = String::new(),
    }
}

fields! {
    /// Whose copies a write needs before it is acknowledged.
    ReplicationSpec {
        /// async: the leader's copy is enough, and a failover may lose the last writes. semiSync: the leader and
        /// syncFollowers others, whichever are first. sync: all instances.
        mode: Mode = Mode::SemiSync,
        /// How many followers must have a write on disk before it is acknowledged; semiSync only; less than instances
        /// (not checked when instances is 1).
        sync_followers: u32 = 1,
        /// all = any syncFollowers of all followers (quorum); one = one named follower, replaced when slow or gone.
        sync_set: SyncSet = SyncSet::All,
        /// When too few followers can be reached for syncTimeout: block = writes wait; degrade = fewer copies are enough
        /// until they are back, never fewer than minSyncFollowers.
        when_unavailable: WhenUnavailable = WhenUnavailable::Block,
        /// Degrading never goes below this; 0–syncFollowers.
        min_sync_followers: u32 = 1,
        /// 1s–10m: how long a synchronous follower may be unreachable before degrading or replacement.
        sync_timeout: Span = Span::from_secs(10),
        /// What the log holds. page: images of changed database pages, exact for everything. statement: SQL text.
        /// logical: row changes. mixed: statement or page, whichever is exact and smaller.
        log_format: LogFormat = LogFormat::Page,
        /// Add row changes to every record for `GET /v1/changes` (always there with `logical`).
        change_stream: bool = false,
        /// How much of the log is kept for instances that were away. Whoever falls behind it gets a new copy.
        log_retention: LogRetentionSpec = LogRetentionSpec::default(),
    }
}

fields! {
    LogRetentionSpec {
        /// At most so many bytes of log; at least 64Mi.
        size: Size = Size(1 << 30),
        /// At most so old; 1m–30d.
        age: Span = Span::from_secs(24 * 3600),
    }
}

fields! {
    FailoverSpec {
        /// Whether a lost leader is replaced at all.
        enabled: bool = true,
        /// How long a leader must be silent towards the operator and all reachable followers; 500ms–10m. A process that
        /// surely ended is replaced at once.
        detection_timeout: Span = Span::from_secs(3),
        /// How often the leader is heard when there is nothing to say; 50ms–10s, at most a quarter of leaseDuration.
        heartbeat_interval: Span = Span::from_millis(250),
        /// How long a leader may serve linearizable reads without hearing from its followers; 200ms–60s, less than
        /// detectionTimeout.
        lease_duration: Span = Span::from_secs(1),
        /// A leader that answers but commits nothing for so long is replaced; 1s–10m.
        progress_timeout: Span = Span::from_secs(10),
        /// Pause between two failovers; 0s–1h. Doubles while leaders keep dying, up to 10 min.
        cooldown: Span = Span::from_secs(10),
        /// Whether a leader may be elected that lacks acknowledged writes: refuse or allow; unset = refuse, in async mode
        /// allow.
        data_loss: Option<DataLoss> = None,
    }
}

fields! {
    /// No failover is started while active.
    MaintenanceSpec {
        /// Maintenance is on: no failover is started.
        active: bool = false,
        /// When it ends by itself, such as 2026-01-31T18:00:00Z.
        until: Option<String> = None,
    }
}

fields! {
    SnapshotsSpec {
        /// The VolumeSnapshotClass; empty = no scheduled snapshots.
        class_name: String = String::new(),
        /// When to take one, as cron's five fields, in UTC.
        schedule: String = "0 * * * *".to_owned(),
        /// How many are kept; 1–100. The log is kept back to the oldest one.
        keep: u32 = 3,
    }
}

fields! {
    SeedingSpec {
        /// snapshot = from the newest usable volume snapshot; stream = from the leader; auto = snapshot if there is one,
        /// else stream.
        method: SeedMethod = SeedMethod::Auto,
        /// How long a restarted instance may take to catch up before a rolling update stops and says so; 1s–30d.
        catch_up_timeout: Span = Span::from_secs(3600),
    }
}

fields! {
    PlacementSpec {
        /// Over zones: spread = where possible; require = no two in one zone; ignore.
        zones: Spread = Spread::Spread,
        /// Over Kubernetes nodes: spread = where possible; require = no two on one node; ignore.
        nodes: Spread = Spread::Spread,
        /// Labels that a Kubernetes node must have.
        node_selector: BTreeMap<String, String> = BTreeMap::new(),
        /// Taints of Kubernetes nodes that are tolerated.
        tolerations: Vec<serde_json::Value> = Vec::new(),
        /// PriorityClass of the pods; empty = the default.
        priority_class_name: String = String::new(),
    }
}

fields! {
    AccessSpec {
        /// Secret whose key `token` is what clients must show; empty = one is generated as <name>-client.
        client_token_secret: String = String::new(),
        /// Largest request that is read; 1Ki–1Gi.
        max_request_size: Size = Size(16 << 20),
        /// Largest result that is sent; 1Ki–1Gi.
        max_result_size: Size = Size(64 << 20),
        /// An interactive transaction that lasts longer is rolled back; 100ms–10m.
        transaction_timeout: Span = Span::from_secs(5),
        /// A stream without requests ends after this; 1s–1h.
        stream_idle_timeout: Span = Span::from_secs(10),
    }
}

fields! {
    PodMetadataSpec {
        /// Further labels.
        labels: BTreeMap<String, String> = BTreeMap::new(),
        /// Further annotations.
        annotations: BTreeMap<String, String> = BTreeMap::new(),
    }
}

/// What happens to the volumes when the resource is deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum Reclaim {
    Retain,
    Delete,
}

/// Whether an election may go on although acknowledged records may be lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub enum DataLoss {
    Refuse,
    Allow,
}

/// Where a new follower's first data comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub enum SeedMethod {
    Auto,
    Snapshot,
    Stream,
}

/// How instances are spread.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub enum Spread {
    Spread,
    Require,
    Ignore,
}
