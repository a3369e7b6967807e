//! Pods and volume claims, one by one. Every order may be repeated: what is there is left alone, and what is deleted is
//! deleted by its UID, so that another object under the same name is never hit.
//!
//! A pod that somebody deleted is made again on its claim, without being asked: an instance that is meant to run runs. A
//! claim that somebody deleted takes the instance with it as soon as its pod ends; `decide` then asks for a new one, which
//! has a new incarnation.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::{Api, ResourceExt};
use rdb_control::{Lifecycle, Phase};
use rdb_protocol::{Incarnation, NodeName};
use serde_json::json;

use super::observe::{DELETING, STOPPED, has_annotation};
use super::{Parsed, Worker, evidence};
use crate::build::{self, Owner, VolumeFacts};
use crate::clock;
use crate::crd::label;
use crate::kubernetes::api::{self, ApiError, merge, within};
use crate::kubernetes::cache::by_label;

/// A new pod waits for its volume for a moment, and a container for its image; that is no news.
const STUCK_PATIENCE: Duration = Duration::from_secs(5);

impl Worker {
    pub(crate) fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.context.client.clone(), &self.key.namespace)
    }

    pub(crate) fn claims(&self) -> Api<PersistentVolumeClaim> {
        Api::namespaced(self.context.client.clone(), &self.key.namespace)
    }

    fn claim(&self, name: &NodeName) -> Option<Arc<PersistentVolumeClaim>> {
        self.context.caches.claims.get(&self.key, name.as_str())
    }

    fn pod(&self, name: &NodeName) -> Option<Arc<Pod>> {
        self.context.caches.pods.get(&self.key, name.as_str())
    }

    fn keep_claim(&mut self, claim: PersistentVolumeClaim) {
        self.context.caches.claims.put(&self.key, Arc::new(claim));
        self.objects_due = true;
        self.observe_objects();
    }

    fn keep_pod(&mut self, pod: Pod) {
        self.context.caches.pods.put(&self.key, Arc::new(pod));
        self.observe_objects();
    }

    /// True: there is an instance now that was not there before.
    pub(crate) async fn create_instance(&mut self, name: &NodeName) -> bool {
        if self.claim(name).is_some() || self.pod(name).is_some() {
            return false;
        }
        let Some(seed) = self.choose_seed(name) else { return false };
        let Ok(parsed) = &self.parsed else { return false };
        let owner = Owner { resource: &parsed.resource, images: &self.context.images };
        let claim = build::volume_claim(&owner, name, seed.as_ref());
        match api::create(&self.claims(), &claim).await {
            Ok(created) => {
                let from = seed.map_or("empty".to_owned(), |seed| format!("from the snapshot {}", seed.snapshot));
                self.log_act(name, "VolumeCreated", &from);
                self.untell(name.as_str());
                self.keep_claim(created);
                self.ensure_pod(name).await;
                true
            }
            Err(ApiError::Exists) => self.adopt_claim(name).await,
            Err(error) => {
                self.failed(name, "VolumeCreateFailed", &format!("cannot create its volume claim: {error}"));
                false
            }
        }
    }

    /// A claim of that name is there, and the caches do not know it as ours: perhaps not yet, perhaps it is not.
    async fn adopt_claim(&mut self, name: &NodeName) -> bool {
        match within(self.claims().get(name.as_str())).await {
            Ok(found) if by_label(&found).as_ref() == Some(&self.key) => {
                self.keep_claim(found);
                true
            }
            Ok(found) => {
                let owner = found.labels().get(label::CLUSTER).cloned();
                let whose = owner.map_or("is not ours".to_owned(), |owner| format!("belongs to the cluster {owner}"));
                let text = format!("a volume claim of that name exists and {whose}; rename or remove it");
                self.failed(name, "VolumeConflict", &text);
                false
            }
            Err(error) => {
                self.failed(name, "VolumeCreateFailed", &format!("cannot read its volume claim: {error}"));
                false
            }
        }
    }

    /// Makes a pod where one is missing, and makes way for one where the old one is over.
    pub(crate) async fn ensure_pods(&mut self) {
        for name in self.instances.keys().cloned().collect::<Vec<_>>() {
            self.ensure_pod(&name).await;
        }
    }

    async fn ensure_pod(&mut self, name: &NodeName) {
        let claim = self.claim(name);
        if let Some(claim) = claim.as_ref().filter(|claim| has_annotation(claim, DELETING)) {
            self.finish_deletion(&Arc::clone(claim), name).await;
            return;
        }
        if let Some(pod) = self.pod(name) {
            if evidence::is_over(&pod) && !evidence::is_being_deleted(&pod) {
                self.delete_pod(&pod, "it is over").await;
            }
            return;
        }
        let Some(claim) = claim else { return };
        if has_annotation(&claim, STOPPED) || claim.metadata.deletion_timestamp.is_some() {
            return;
        }
        let pod = match &self.parsed {
            Ok(parsed) => build_pod(self, parsed, name, &claim),
            Err(_) => return,
        };
        match pod {
            Ok(pod) => self.create_pod(name, pod).await,
            Err(error) => self.failed(name, "PodNotPossible", &error.to_string()),
        }
    }

    async fn create_pod(&mut self, name: &NodeName, pod: Pod) {
        match api::create(&self.pods(), &pod).await {
            Ok(created) => {
                self.log_act(name, "PodCreated", "");
                self.untell(name.as_str());
                self.keep_pod(created);
            }
            // The caches learn of it in a moment, or somebody else's pod has our name.
            Err(ApiError::Exists) => match within(self.pods().get(name.as_str())).await {
                Ok(found) if by_label(&found).as_ref() == Some(&self.key) => self.keep_pod(found),
                Ok(_) => self.failed(name, "PodConflict", "a pod of that name exists and is not ours; remove it"),
                Err(error) => self.failed(name, "PodCreateFailed", &error.to_string()),
            },
            Err(error) => self.failed(name, "PodCreateFailed", &format!("cannot create its pod: {error}")),
        }
    }

    async fn delete_pod(&mut self, pod: &Pod, why: &str) {
        match api::delete(&self.pods(), pod).await {
            Ok(()) => tracing::info!(cluster = %self.key, pod = pod.name_any(), why, "pod deleted"),
            Err(error) => {
                tracing::warn!(cluster = %self.key, pod = pod.name_any(), %error, "cannot delete a pod");
                self.retry_later();
            }
        }
    }

    /// True: the observation changed.
    pub(crate) async fn start_instance(&mut self, name: &NodeName) -> bool {
        let Some(claim) = self.claim(name).filter(|claim| has_annotation(claim, STOPPED)) else { return false };
        if !self.annotate_claim(&claim, STOPPED, None).await {
            return false;
        }
        self.ensure_pod(name).await;
        true
    }

    /// True: the observation changed.
    pub(crate) async fn stop_instance(&mut self, name: &NodeName) -> bool {
        let mut changed = false;
        if let Some(claim) = self.claim(name).filter(|claim| !has_annotation(claim, STOPPED)) {
            // First the order, then the deed: a pod that is only deleted is made again.
            if !self.annotate_claim(&claim, STOPPED, Some("true")).await {
                return false;
            }
            changed = true;
        }
        if let Some(pod) = self.pod(name).filter(|pod| !evidence::is_being_deleted(pod)) {
            self.delete_pod(&pod, "it is to be stopped").await;
        }
        changed
    }

    pub(crate) async fn recreate_instance(&mut self, name: &NodeName, incarnation: Option<Incarnation>) {
        let Some(pod) = self.pod(name).filter(|pod| !evidence::is_being_deleted(pod)) else { return };
        if self.holds_what_was_meant(name, incarnation) {
            self.delete_pod(&pod, "it is to be made anew").await;
        }
    }

    /// True: the observation changed.
    pub(crate) async fn delete_instance(&mut self, name: &NodeName, incarnation: Option<Incarnation>) -> bool {
        if !self.holds_what_was_meant(name, incarnation) || !self.confirm().await {
            return false;
        }
        let Some(claim) = self.claim(name) else {
            if let Some(pod) = self.pod(name).filter(|pod| !evidence::is_being_deleted(pod)) {
                self.delete_pod(&pod, "its instance is removed").await;
            }
            return false;
        };
        if !has_annotation(&claim, DELETING) && !self.annotate_claim(&claim, DELETING, Some("true")).await {
            return false;
        }
        self.log_act(name, "InstanceDeleted", "with its volume");
        self.finish_deletion(&claim, name).await;
        true
    }

    /// The claim goes first: it stays until its pod has ended, and nothing starts on it any more.
    async fn finish_deletion(&mut self, claim: &PersistentVolumeClaim, name: &NodeName) {
        if claim.metadata.deletion_timestamp.is_none()
            && let Err(error) = api::delete(&self.claims(), claim).await
        {
            tracing::warn!(cluster = %self.key, claim = %name, %error, "cannot delete a volume claim");
            self.retry_later();
            return;
        }
        if let Some(pod) = self.pod(name).filter(|pod| !evidence::is_being_deleted(pod)) {
            self.delete_pod(&pod, "its instance is removed").await;
        }
    }

    fn holds_what_was_meant(&self, name: &NodeName, incarnation: Option<Incarnation>) -> bool {
        let status = self.instances.get(name).and_then(|instance| instance.observed.status());
        match (incarnation, status.map(|status| status.incarnation)) {
            (Some(meant), Some(present)) if meant != present => {
                tracing::warn!(cluster = %self.key, instance = %name, %meant, %present, "it holds other data than meant");
                false
            }
            _ => true,
        }
    }

    /// By compare-and-swap on the claim's version, which also names its UID.
    async fn annotate_claim(&mut self, claim: &PersistentVolumeClaim, key: &str, value: Option<&str>) -> bool {
        let version = claim.metadata.resource_version.clone().unwrap_or_default();
        let patch =
            json!({"metadata": {"resourceVersion": version, "uid": claim.metadata.uid, "annotations": {key: value}}});
        match merge(&self.claims(), &claim.name_any(), &patch).await {
            Ok(changed) => {
                self.keep_claim(changed);
                true
            }
            Err(error) => {
                tracing::info!(cluster = %self.key, claim = claim.name_any(), %error, "a volume claim was not marked");
                self.retry_later();
                false
            }
        }
    }

    /// Volumes follow `storage.size` when it grows.
    pub(crate) async fn grow_volumes(&mut self) {
        let Ok(parsed) = &self.parsed else { return };
        let wanted = parsed.resource.spec.storage.size;
        for name in self.instances.keys().cloned().collect::<Vec<_>>() {
            let Some(claim) = self.claim(&name) else { continue };
            let requests = claim.spec.as_ref().and_then(|spec| spec.resources.as_ref()?.requests.as_ref());
            let has = requests.and_then(|requests| requests.get("storage")?.0.parse::<rdb_control::spec::Size>().ok());
            if has.is_none_or(|has| has >= wanted) || claim.metadata.deletion_timestamp.is_some() {
                continue;
            }
            let patch = json!({"spec": {"resources": {"requests": {"storage": wanted.to_string()}}}});
            match merge(&self.claims(), name.as_str(), &patch).await {
                Ok(grown) => {
                    self.log_act(&name, "VolumeGrows", &format!("to {wanted}"));
                    self.context.caches.claims.put(&self.key, Arc::new(grown));
                }
                Err(error) => {
                    let text = format!("{name}: its volume can't grow to {wanted}: {error}");
                    self.tell_once(&format!("grow {name}"), "VolumeNotGrown", text);
                }
            }
        }
    }

    /// `leader` or `follower` on every pod, for people and selectors of their own; nothing rests on it.
    pub(crate) async fn label_pods(&mut self) {
        let status = &self.observed.status;
        if status.phase != Phase::Steady {
            return;
        }
        let leader = status.leader.as_ref().map(|leader| leader.name.clone());
        for name in self.instances.keys().cloned().collect::<Vec<_>>() {
            let role = if Some(&name) == leader.as_ref() { "leader" } else { "follower" };
            let Some(pod) = self.pod(&name).filter(|pod| !evidence::is_being_deleted(pod)) else { continue };
            if pod.labels().get(label::ROLE).map(String::as_str) == Some(role) {
                continue;
            }
            let patch = json!({"metadata": {"uid": pod.metadata.uid, "labels": {label::ROLE: role}}});
            match merge(&self.pods(), name.as_str(), &patch).await {
                Ok(labelled) => {
                    self.context.caches.pods.put(&self.key, Arc::new(labelled));
                }
                Err(error) => tracing::debug!(cluster = %self.key, pod = %name, %error, "a pod was not labelled"),
            }
        }
    }

    /// Tells people when an instance can't run, and when its volume is being taken away under it.
    pub(crate) fn tell_of_instances(&mut self) {
        for name in self.instances.keys().cloned().collect::<Vec<_>>() {
            let Some(instance) = self.instances.get(&name) else { continue };
            let subject = format!("stuck {name}");
            let problem = instance.observed.stuck.clone();
            match (problem, instance.stuck_since) {
                (Some(problem), Some(since)) if instance.observed.lifecycle == Lifecycle::Running => {
                    let due = since.plus(STUCK_PATIENCE);
                    if clock::now() >= due {
                        self.tell_once(&subject, "InstanceNotRunning", format!("{name} does not run: {problem}"));
                    } else {
                        self.objects_due = true;
                        self.wake_by(due);
                    }
                }
                _ => self.untell(&subject),
            }
            let lost = self
                .claim(&name)
                .is_some_and(|claim| claim.metadata.deletion_timestamp.is_some() && !has_annotation(&claim, DELETING));
            if lost {
                let text = format!("Somebody deleted the volume claim of {name}; it lives until its pod ends");
                self.tell_once(&format!("claim {name}"), "VolumeBeingDeleted", text);
            }
        }
    }

    fn log_act(&self, name: &NodeName, reason: &str, message: &str) {
        self.tell(&rdb_control::Event {
            reason: reason.to_owned(),
            message: format!("{name} {message}").trim().to_owned(),
            evidence: String::new(),
            warning: false,
        });
    }

    fn failed(&mut self, name: &NodeName, reason: &str, message: &str) {
        self.tell_once(name.as_str(), reason, format!("{name}: {message}"));
        self.objects_due = true;
        self.retry_later();
    }
}

fn build_pod(
    worker: &Worker,
    parsed: &Parsed,
    name: &NodeName,
    claim: &PersistentVolumeClaim,
) -> Result<Pod, build::BuildError> {
    let owner = Owner { resource: &parsed.resource, images: &worker.context.images };
    build::pod(&owner, name, &VolumeFacts::of(claim))
}
