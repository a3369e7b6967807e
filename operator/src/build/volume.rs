//! An instance's volume claim. It has no owner (see the module's header) and is never replaced: whoever deletes one does
//! so by its UID.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    PersistentVolumeClaim, PersistentVolumeClaimSpec, TypedLocalObjectReference, VolumeResourceRequirements,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use rdb_control::spec::Size;
use rdb_protocol::NodeName;

use super::{Owner, SnapshotSeed};
use crate::snapshots::object;

/// What a pod has to know of its volume.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VolumeFacts {
    /// UID of the claim: another one under the same name is another volume, and ends the incarnation (rule 18).
    pub claim_uid: String,
    /// What the volume was made from, if it was a snapshot.
    pub seed: Option<SnapshotSeed>,
}

impl VolumeFacts {
    /// As the claim itself says.
    pub fn of(claim: &PersistentVolumeClaim) -> VolumeFacts {
        let seed = claim.metadata.annotations.as_ref().and_then(object::seed_of);
        VolumeFacts { claim_uid: claim.metadata.uid.clone().unwrap_or_default(), seed }
    }
}

/// The claim of an instance: empty, or from a snapshot.
///
/// To let a volume grow, apply it again as it was made, with the same source: a claim's data source can't be changed.
pub fn volume_claim(owner: &Owner, instance: &NodeName, source: Option<&SnapshotSeed>) -> PersistentVolumeClaim {
    let storage = &owner.spec().storage;
    let bytes = storage.size.0.max(source.and_then(|seed| seed.restore_bytes).unwrap_or(0));
    let class = &storage.storage_class;
    let mut metadata = owner.free(instance.as_str(), owner.instance_labels(instance));
    metadata.annotations = source.map(object::seed_annotations);
    PersistentVolumeClaim {
        metadata,
        spec: Some(PersistentVolumeClaimSpec {
            // One node at a time, which every kind of storage can do; one pod at a time would be better, but not all can.
            access_modes: Some(vec!["ReadWriteOnce".to_owned()]),
            data_source: source.map(|seed| TypedLocalObjectReference {
                api_group: Some(object::GROUP.to_owned()),
                kind: object::KIND.to_owned(),
                name: seed.snapshot.clone(),
            }),
            resources: Some(VolumeResourceRequirements {
                limits: None,
                requests: Some(BTreeMap::from([("storage".to_owned(), Quantity(Size(bytes).to_string()))])),
            }),
            storage_class_name: (!class.is_empty()).then(|| class.clone()),
            volume_mode: Some("Filesystem".to_owned()),
            ..PersistentVolumeClaimSpec::default()
        }),
        status: None,
    }
}
