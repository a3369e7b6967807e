//! VolumeSnapshots as they are written and read. They are untyped: their definition is not part of Kubernetes, and may be
//! missing altogether.

use std::collections::BTreeMap;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use kube::api::{ApiResource, DynamicObject};
use kube::core::GroupVersionKind;
use rdb_protocol::{Chain, ClusterId, Epoch, Index, NodeName, Position};
use serde_json::{Value, json};

use crate::build::{Owner, SnapshotSeed};

pub const GROUP: &str = "snapshot.storage.k8s.io";
pub const VERSION: &str = "v1";
pub const KIND: &str = "VolumeSnapshot";
pub const CLASS_KIND: &str = "VolumeSnapshotClass";

/// Which cluster, by identity.
pub const CLUSTER_ID: &str = "replicateddb.io/cluster-id";
/// The position that surely is in it.
pub const EPOCH: &str = "replicateddb.io/epoch";
pub const INDEX: &str = "replicateddb.io/index";
pub const CHAIN: &str = "replicateddb.io/chain";
/// Whose volume it is of.
pub const INSTANCE: &str = "replicateddb.io/instance";
/// No volume could be made from it, and why.
pub const UNUSABLE: &str = "replicateddb.io/unusable";
/// Of a volume claim: the snapshot that it was made from.
pub const SNAPSHOT: &str = "replicateddb.io/snapshot";

/// The kind as the API server knows it.
pub fn api_resource(kind: &str) -> ApiResource {
    ApiResource::from_gvk(&GroupVersionKind::gvk(GROUP, VERSION, kind))
}

/// One VolumeSnapshot, as far as it matters here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    pub name: String,
    pub uid: String,
    pub created_unix_ms: u64,
    pub ready: bool,
    /// What the driver says went wrong with it, as long as it is not ready.
    pub error: Option<String>,
    pub deleting: bool,
    pub cluster: Option<ClusterId>,
    pub position: Option<Position>,
    pub instance: Option<NodeName>,
    pub restore_bytes: Option<u64>,
    /// No volume could be made from it.
    pub unusable: Option<String>,
}

/// What is known of `spec.snapshots.className`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SnapshotClass {
    Known,
    Missing,
    /// Nothing is said: we may not look, or could not.
    #[default]
    Unknown,
    /// This Kubernetes cluster has no volume snapshots at all.
    NoApi,
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listed {
    pub snapshots: Vec<Snapshot>,
    pub class: SnapshotClass,
}

/// `<cluster>-<yyyymmddhhmmss>`, in UTC.
pub fn name(cluster: &str, unix_ms: u64) -> String {
    let at = timestamp(unix_ms).to_zoned(TimeZone::UTC);
    let (date, time) = (at.date(), at.time());
    format!(
        "{cluster}-{:04}{:02}{:02}{:02}{:02}{:02}",
        date.year(),
        date.month(),
        date.day(),
        time.hour(),
        time.minute(),
        time.second(),
    )
}

pub(super) fn timestamp(unix_ms: u64) -> Timestamp {
    i64::try_from(unix_ms).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok()).unwrap_or(Timestamp::MAX)
}

/// The snapshot to be taken of an instance's volume.
pub fn volume_snapshot(
    owner: &Owner,
    instance: &NodeName,
    cluster: ClusterId,
    position: &Position,
    unix_ms: u64,
) -> DynamicObject {
    let mut object = DynamicObject::new(&name(owner.name(), unix_ms), &api_resource(KIND));
    object.metadata.namespace = Some(owner.resource.namespace().to_owned());
    object.metadata.labels = Some(owner.instance_labels(instance));
    let mut annotations = position_annotations(cluster, position);
    annotations.insert(INSTANCE.to_owned(), instance.to_string());
    object.metadata.annotations = Some(annotations);
    object.data(json!({
        "spec": {
            "volumeSnapshotClassName": owner.spec().snapshots.class_name,
            "source": { "persistentVolumeClaimName": instance.as_str() },
        }
    }))
}

fn position_annotations(cluster: ClusterId, position: &Position) -> BTreeMap<String, String> {
    BTreeMap::from([
        (CLUSTER_ID.to_owned(), cluster.to_string()),
        (EPOCH.to_owned(), position.epoch.to_string()),
        (INDEX.to_owned(), position.index.to_string()),
        (CHAIN.to_owned(), position.chain.to_string()),
    ])
}

/// What a volume claim remembers of its source.
pub fn seed_annotations(seed: &SnapshotSeed) -> BTreeMap<String, String> {
    let mut annotations = position_annotations(seed.cluster, &seed.position);
    annotations.insert(SNAPSHOT.to_owned(), seed.snapshot.clone());
    annotations
}

/// The source that a volume claim remembers.
pub fn seed_of(annotations: &BTreeMap<String, String>) -> Option<SnapshotSeed> {
    Some(SnapshotSeed {
        snapshot: annotations.get(SNAPSHOT)?.clone(),
        cluster: annotations.get(CLUSTER_ID)?.parse().ok()?,
        position: position_of(annotations)?,
        restore_bytes: None,
    })
}

fn position_of(annotations: &BTreeMap<String, String>) -> Option<Position> {
    let number = |key: &str| annotations.get(key)?.parse::<u64>().ok();
    Some(Position {
        epoch: Epoch(number(EPOCH)?),
        index: Index(number(INDEX)?),
        chain: annotations.get(CHAIN)?.parse::<Chain>().ok()?,
    })
}

/// Reads a VolumeSnapshot. What people or drivers left out or misspelt is `None`, and so it is not used for anything.
pub fn read(object: &DynamicObject) -> Snapshot {
    let meta = &object.metadata;
    let none = BTreeMap::new();
    let annotations = meta.annotations.as_ref().unwrap_or(&none);
    let status = object.data.get("status");
    let ready = status.and_then(|status| status.get("readyToUse")).and_then(Value::as_bool).unwrap_or(false);
    let error = status.and_then(|status| status.get("error")).map(|error| {
        let message = error.get("message").and_then(Value::as_str);
        message.unwrap_or("the storage driver reports an error").to_owned()
    });
    let restore = status.and_then(|status| status.get("restoreSize")).and_then(Value::as_str);
    let created = meta.creation_timestamp.as_ref().and_then(|time| u64::try_from(time.0.as_millisecond()).ok());
    Snapshot {
        name: meta.name.clone().unwrap_or_default(),
        uid: meta.uid.clone().unwrap_or_default(),
        created_unix_ms: created.unwrap_or(0),
        ready,
        // Drivers try again, and the last error stays behind when they succeed.
        error: error.filter(|_| !ready),
        deleting: meta.deletion_timestamp.is_some(),
        cluster: annotations.get(CLUSTER_ID).and_then(|id| id.parse().ok()),
        position: position_of(annotations),
        instance: annotations.get(INSTANCE).and_then(|name| name.parse().ok()),
        restore_bytes: restore.and_then(quantity),
        unusable: annotations.get(UNUSABLE).cloned(),
    }
}

/// Bytes of a Kubernetes quantity. Drivers write whole numbers with or without a binary or decimal unit.
fn quantity(text: &str) -> Option<u64> {
    const UNITS: [(&str, u64); 9] = [
        ("Ki", 1 << 10),
        ("Mi", 1 << 20),
        ("Gi", 1 << 30),
        ("Ti", 1 << 40),
        ("k", 1000),
        ("M", 1_000_000),
        ("G", 1_000_000_000),
        ("T", 1_000_000_000_000),
        ("", 1),
    ];
    let (unit, factor) = UNITS.iter().find(|(unit, _)| text.ends_with(unit))?;
    text.strip_suffix(unit)?.parse::<u64>().ok()?.checked_mul(*factor)
}
