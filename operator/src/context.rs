//! What all clusters' tasks share.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use k8s_openapi::api::core::v1::{Node, PersistentVolumeClaim, Pod, Secret};
use kube::Client;
use kube::api::DynamicObject;

use crate::build::Images;
use crate::crd::RawReplicatedDB;
use crate::kubernetes::cache::Cache;
use crate::kubernetes::events::Reporter;
use crate::kubernetes::lease::Lease;
use crate::metrics::Metrics;

/// Objects as the API server reported them.
#[derive(Debug, Default)]
pub struct Caches {
    pub resources: Arc<Cache<RawReplicatedDB>>,
    pub pods: Arc<Cache<Pod>>,
    pub claims: Arc<Cache<PersistentVolumeClaim>>,
    pub secrets: Arc<Cache<Secret>>,
    pub snapshots: Arc<Cache<DynamicObject>>,
}

/// The cluster's machines (its Nodes), by name.
#[derive(Debug, Default)]
pub struct Machines(RwLock<BTreeMap<String, Arc<Node>>>);

impl Machines {
    pub fn get(&self, name: &str) -> Option<Arc<Node>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    /// True: what we look at changed. A machine's status is written every few seconds and concerns nobody here.
    pub fn put(&self, node: Arc<Node>) -> bool {
        let Some(name) = node.metadata.name.clone() else { return false };
        let told = |node: &Node| (node.spec.clone(), node.metadata.labels.clone());
        let old = self.0.write().unwrap_or_else(PoisonError::into_inner).insert(name, Arc::clone(&node));
        old.is_none_or(|old| told(&old) != told(&node))
    }

    pub fn remove(&self, name: &str) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).remove(name);
    }
}

/// Handed to every cluster's task.
pub struct Context {
    pub client: Client,
    pub caches: Caches,
    pub machines: Machines,
    pub lease: Lease,
    pub reporter: Reporter,
    pub metrics: Metrics,
    pub images: Images,
    /// The API server knows VolumeSnapshots.
    pub has_snapshots: bool,
}
