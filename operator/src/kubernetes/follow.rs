//! Watches. Each keeps a cache in step with the API server and tells what changed; after an interruption the list is read
//! anew and what is no longer there is forgotten.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use kube::runtime::WatchStreamExt;
use kube::runtime::utils::Backoff;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Resource};
use serde::de::DeserializeOwned;

use super::cache::{Cache, ClusterKey};

/// What happened to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    There,
    Gone,
}

/// How one kind is followed.
pub struct Followed<K, N> {
    pub api: Api<K>,
    pub config: watcher::Config,
    pub cache: Arc<Cache<K>>,
    /// Whose object it is; those of nobody are left alone.
    pub key: fn(&K) -> Option<ClusterKey>,
    /// Called for every change, after the cache has it.
    pub notify: N,
}

/// Follows for ever. `ready` is called once, when the first list is complete.
pub async fn follow<K, N>(followed: Followed<K, N>, ready: impl FnOnce())
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
    N: Fn(&ClusterKey, &Arc<K>, Change),
{
    let Followed { api, config, cache, key, notify } = followed;
    let mut ready = Some(ready);
    let namespace = api.namespace().map(str::to_owned);
    // What was known before the present list and is not named by it. (What we make ourselves meanwhile is not in it.)
    let mut missing: BTreeSet<(ClusterKey, String)> = BTreeSet::new();
    let mut events = pin!(watcher::watcher(api, config).backoff(Pauses::default()));
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::Init) => missing = cache.names(namespace.as_deref()),
            Ok(Event::InitApply(object) | Event::Apply(object)) => {
                let Some((cluster, object)) = owned(object, key) else { continue };
                missing.remove(&(cluster.clone(), object.meta().name.clone().unwrap_or_default()));
                if cache.put(&cluster, Arc::clone(&object)) {
                    notify(&cluster, &object, Change::There);
                }
            }
            Ok(Event::Delete(object)) => {
                let Some((cluster, object)) = owned(object, key) else { continue };
                cache.forget(&cluster, &object);
                notify(&cluster, &object, Change::Gone);
            }
            Ok(Event::InitDone) => {
                for (cluster, name) in std::mem::take(&mut missing) {
                    if let Some(object) = cache.remove(&cluster, &name) {
                        notify(&cluster, &object, Change::Gone);
                    }
                }
                if let Some(ready) = ready.take() {
                    ready();
                }
            }
            Err(error) => tracing::warn!(%error, "a watch was interrupted and is taken up again"),
        }
    }
}

/// Pauses after errors: a quarter of a second, doubled up to five. When the API server is back, what happened meanwhile
/// must not stay unseen for long, and an operator has a handful of watches.
#[derive(Default)]
struct Pauses {
    errors: u32,
}

impl Iterator for Pauses {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let pause = Duration::from_millis(250 << self.errors.min(5));
        self.errors = self.errors.saturating_add(1);
        Some(pause.min(Duration::from_secs(5)))
    }
}

impl Backoff for Pauses {
    fn reset(&mut self) {
        self.errors = 0;
    }
}

/// Without what nobody here reads: the record of who set which field is half of an object.
fn owned<K: Resource>(mut object: K, key: fn(&K) -> Option<ClusterKey>) -> Option<(ClusterKey, Arc<K>)> {
    object.meta_mut().managed_fields = None;
    let cluster = key(&object)?;
    Some((cluster, Arc::new(object)))
}
