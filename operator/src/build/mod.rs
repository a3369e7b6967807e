//! The objects of a cluster, as they should be: pure functions of the resource and of what was observed. Nothing here
//! talks to the API server; `act` applies what these return by server-side apply.
//!
//! | module | builds |
//! | --- | --- |
//! | this one | what all objects share: names, labels, owners |
//! | [`pod`], [`security`], [`placement`] | an instance's pod |
//! | [`template`] | what a pod was made from, and whether that is what is asked for now |
//! | [`volume`] | its volume claim, empty or from a volume snapshot |
//! | [`service`] | services, and the endpoint slices that are the routes |
//! | [`support`] | secrets and the disruption budget |
//!
//! ## Who goes with the resource
//!
//! Pods, services, endpoint slices, the budget and secrets have the resource as their owner and are collected with it.
//! Volume claims and volume snapshots have no owner: they outlive it under `reclaim: Retain`, and its finalizer deletes
//! them under `reclaim: Delete`. An owner reference that came and went with a field of the spec would be one wrong write
//! away from losing data.

pub mod placement;
pub mod pod;
pub mod security;
pub mod service;
pub mod support;
pub mod template;
pub mod volume;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use rdb_control::ClusterSpec;
use rdb_protocol::{ClusterId, NodeName, Position};

pub use pod::pod;
pub use service::{Endpoint, Routes, endpoint_slices, services};
pub use support::{TokenKind, disruption_budget, secret};
pub use template::{outdated, restart_is_done};
pub use volume::{VolumeFacts, volume_claim};

use crate::crd::{ReplicatedDB, label};

/// The port of every node, for clients, peers, the operator and probes.
pub const PORT: i32 = 7700;
pub const PORT_NAME: &str = "http";

/// Key of the token in every token secret.
pub const TOKEN_KEY: &str = "token";

/// Images that are used where the resource names none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Images {
    pub node: String,
}

/// Whose objects are built.
#[derive(Clone, Copy, Debug)]
pub struct Owner<'a> {
    pub resource: &'a ReplicatedDB,
    pub images: &'a Images,
}

/// The volume snapshot that a new volume is made from, and what is in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotSeed {
    /// Name of the VolumeSnapshot.
    pub snapshot: String,
    pub cluster: ClusterId,
    pub position: Position,
    /// The least size that a volume made from it may have.
    pub restore_bytes: Option<u64>,
}

/// A field of the spec that the API server let through and that can't be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("spec.{field}: {problem}")]
pub struct BuildError {
    pub field: &'static str,
    pub problem: String,
}

impl<'a> Owner<'a> {
    pub fn name(&self) -> &'a str {
        self.resource.name()
    }

    pub fn spec(&self) -> &'a ClusterSpec {
        &self.resource.spec
    }

    /// The node image that is asked for.
    pub fn image(&self) -> &'a str {
        if self.spec().image.is_empty() { &self.images.node } else { &self.spec().image }
    }

    /// Labels of every object of this cluster.
    pub fn labels(&self) -> BTreeMap<String, String> {
        let pairs = [
            (label::NAME, label::NAME_VALUE),
            (label::MANAGED_BY, label::MANAGED_BY_VALUE),
            (label::CLUSTER, self.name()),
        ];
        pairs.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
    }

    /// Labels of an instance's objects.
    pub fn instance_labels(&self, instance: &NodeName) -> BTreeMap<String, String> {
        let mut labels = self.labels();
        labels.insert(label::INSTANCE.to_owned(), instance.to_string());
        labels
    }

    /// Selects the pods of this cluster.
    pub fn selector(&self) -> LabelSelector {
        LabelSelector { match_labels: Some(self.pod_selector()), match_expressions: None }
    }

    pub(crate) fn pod_selector(&self) -> BTreeMap<String, String> {
        let pairs = [(label::NAME, label::NAME_VALUE), (label::CLUSTER, self.name())];
        pairs.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
    }

    /// Metadata of an object that goes with the resource.
    fn owned(&self, name: impl Into<String>, labels: BTreeMap<String, String>) -> ObjectMeta {
        ObjectMeta { owner_references: Some(vec![self.resource.owner_reference()]), ..self.free(name, labels) }
    }

    /// Metadata of an object that may outlive the resource.
    fn free(&self, name: impl Into<String>, labels: BTreeMap<String, String>) -> ObjectMeta {
        ObjectMeta {
            name: Some(name.into()),
            namespace: Some(self.resource.namespace().to_owned()),
            labels: Some(labels),
            ..ObjectMeta::default()
        }
    }

    pub fn rw_service(&self) -> String {
        format!("{}-rw", self.name())
    }

    pub fn ro_service(&self) -> String {
        format!("{}-ro", self.name())
    }

    /// Any node; it forwards what it can't do itself.
    pub fn any_service(&self) -> String {
        self.name().to_owned()
    }

    /// Headless: gives every node its name.
    pub fn nodes_service(&self) -> String {
        format!("{}-nodes", self.name())
    }
}
