//! The end of a cluster. Its pods go first, so that nothing writes any more; then, under `reclaim: Delete`, its volumes.
//! Under `Retain` the claims stay as they are, with their labels: a resource of the same name finds its data again. What
//! else there is goes with the resource, whose property it is.

use std::sync::Arc;

use serde_json::json;

use super::{Worker, evidence};
use crate::crd::FINALIZER;
use crate::kubernetes::api;

impl Worker {
    pub(crate) async fn finalize(&mut self) {
        let finalizers = self.resource.metadata.finalizers.clone().unwrap_or_default();
        if !finalizers.iter().any(|finalizer| finalizer == FINALIZER) {
            return;
        }
        let pods = self.context.caches.pods.of(&self.key);
        let api = self.pods();
        for pod in pods.values().filter(|pod| !evidence::is_being_deleted(pod)) {
            if let Err(error) = api::delete(&api, pod.as_ref()).await {
                tracing::warn!(cluster = %self.key, %error, "cannot delete a pod");
            }
        }
        if !pods.is_empty() {
            // Woken when the last of them is gone.
            return;
        }
        if self.deletes_volumes() && !self.delete_volumes().await {
            self.retry_later();
            return;
        }
        let rest: Vec<&String> = finalizers.iter().filter(|finalizer| *finalizer != FINALIZER).collect();
        if self.patch_metadata(json!({"finalizers": rest})).await {
            tracing::info!(cluster = %self.key, "the cluster has ended");
        }
    }

    /// Only if the spec says so for sure, be it valid otherwise or not.
    fn deletes_volumes(&self) -> bool {
        self.resource.spec.get("reclaim").and_then(|reclaim| reclaim.as_str()) == Some("Delete")
    }

    async fn delete_volumes(&mut self) -> bool {
        let mut done = true;
        let api = self.claims();
        for claim in self.context.caches.claims.of(&self.key).values().map(Arc::clone) {
            if claim.metadata.deletion_timestamp.is_some() {
                continue;
            }
            if let Err(error) = api::delete(&api, claim.as_ref()).await {
                tracing::warn!(cluster = %self.key, %error, "cannot delete a volume claim");
                done = false;
            }
        }
        done
    }
}
