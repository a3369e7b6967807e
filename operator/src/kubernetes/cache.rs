//! Objects as they were last reported, by the cluster that they belong to. What we write ourselves is put in at once, so
//! that the next decision sees it; the newer of two versions stays.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError, RwLock};

use kube::Resource;

use crate::crd::label;

/// A `ReplicatedDB`, by where it is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterKey {
    pub namespace: String,
    pub name: String,
}

impl std::fmt::Display for ClusterKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// The cluster that an object belongs to by its labels.
pub fn by_label<K: Resource>(object: &K) -> Option<ClusterKey> {
    let meta = object.meta();
    let labels = meta.labels.as_ref()?;
    if labels.get(label::MANAGED_BY).map(String::as_str) != Some(label::MANAGED_BY_VALUE) {
        return None;
    }
    Some(ClusterKey { namespace: meta.namespace.clone()?, name: labels.get(label::CLUSTER)?.clone() })
}

/// The resource itself.
pub fn by_name<K: Resource>(object: &K) -> Option<ClusterKey> {
    Some(ClusterKey { namespace: object.meta().namespace.clone()?, name: object.meta().name.clone()? })
}

type Objects<K> = BTreeMap<ClusterKey, BTreeMap<String, Arc<K>>>;

/// All objects of one kind.
#[derive(Debug)]
pub struct Cache<K> {
    objects: RwLock<Objects<K>>,
}

impl<K> Default for Cache<K> {
    fn default() -> Cache<K> {
        Cache { objects: RwLock::default() }
    }
}

impl<K: Resource> Cache<K> {
    /// The objects of a cluster, by name.
    pub fn of(&self, cluster: &ClusterKey) -> BTreeMap<String, Arc<K>> {
        self.objects.read().unwrap_or_else(PoisonError::into_inner).get(cluster).cloned().unwrap_or_default()
    }

    pub fn get(&self, cluster: &ClusterKey, name: &str) -> Option<Arc<K>> {
        self.objects.read().unwrap_or_else(PoisonError::into_inner).get(cluster)?.get(name).cloned()
    }

    /// Keeps an object unless this or a newer version of it is there. True: it is kept.
    pub fn put(&self, cluster: &ClusterKey, object: Arc<K>) -> bool {
        let Some(name) = object.meta().name.clone() else { return false };
        let mut objects = self.objects.write().unwrap_or_else(PoisonError::into_inner);
        let held = objects.entry(cluster.clone()).or_default();
        if held
            .get(&name)
            .is_some_and(|held| is_same(held.as_ref(), object.as_ref()) || is_newer(held.as_ref(), object.as_ref()))
        {
            return false;
        }
        held.insert(name, object);
        true
    }

    /// Names of all that is kept, in one namespace or in all.
    pub fn names(&self, namespace: Option<&str>) -> BTreeSet<(ClusterKey, String)> {
        let objects = self.objects.read().unwrap_or_else(PoisonError::into_inner);
        let within = objects.iter().filter(|(key, _)| namespace.is_none_or(|namespace| key.namespace == namespace));
        within.flat_map(|(key, held)| held.keys().map(|name| (key.clone(), name.clone()))).collect()
    }

    /// Forgets an object, if it is still this one that has the name.
    pub fn forget(&self, cluster: &ClusterKey, object: &K) {
        let Some(name) = object.meta().name.as_deref() else { return };
        if self.get(cluster, name).is_some_and(|held| held.meta().uid == object.meta().uid) {
            self.remove(cluster, name);
        }
    }

    pub fn remove(&self, cluster: &ClusterKey, name: &str) -> Option<Arc<K>> {
        let mut objects = self.objects.write().unwrap_or_else(PoisonError::into_inner);
        let held = objects.get_mut(cluster)?;
        let removed = held.remove(name);
        if held.is_empty() {
            objects.remove(cluster);
        }
        removed
    }
}

fn is_same<K: Resource>(a: &K, b: &K) -> bool {
    let (a, b) = (a.meta(), b.meta());
    a.resource_version.is_some() && a.resource_version == b.resource_version && a.uid == b.uid
}

/// Is `a` a later version of the same object than `b`? Versions of one kind are numbers that grow.
pub fn is_newer<K: Resource>(a: &K, b: &K) -> bool {
    let version = |object: &K| object.meta().resource_version.as_ref().and_then(|version| version.parse::<u64>().ok());
    match (version(a), version(b)) {
        (Some(a_version), Some(b_version)) => a.meta().uid == b.meta().uid && a_version > b_version,
        _ => false,
    }
}
