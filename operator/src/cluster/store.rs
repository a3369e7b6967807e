//! The resource: its status, its finalizer and the annotations of requests. Every write carries the resourceVersion of the
//! very object that the decision was made on (rule 1), and what comes back from a write is what the next decision is made
//! on. A write that was not answered may have been carried out, so the resource is read before anything else is decided.
//!
//! A merge patch of the metadata with the resourceVersion is a compare-and-swap as well: its answer has the same status and
//! spec, so a decision that was made on the object before it stands.

use std::sync::Arc;
use std::time::Duration;

use kube::api::PostParams;
use rdb_control::status::Condition;
use rdb_control::{ClusterStatus, Connection, RequestKind, Time};
use serde_json::{Value, json};

use super::{Worker, requests};
use crate::build::Owner;
use crate::clock;
use crate::crd::status::{Shown, from_stored, to_stored};
use crate::crd::{FINALIZER, RawReplicatedDB};
use crate::kubernetes::api::{ApiError, merge, within};

/// For so long after the leader was lost, people are told nothing but decisions.
const NEWS_PAUSE: Duration = Duration::from_secs(1);

/// Do two statuses differ in no decision?
fn says_the_same(old: &ClusterStatus, new: &ClusterStatus) -> bool {
    let told = ClusterStatus {
        observed_generation: old.observed_generation,
        phase: old.phase,
        message: old.message.clone(),
        ready_instances: old.ready_instances,
        instances: old.instances.clone(),
        forecast: old.forecast.clone(),
        conditions: old.conditions.clone(),
        ..new.clone()
    };
    told == *old
}

/// Fields of the status that are not read back as they were sent. What a definition drops that does not know it counts only
/// if it said something: a field that is not there is read as its default.
fn lost_fields(sent: &ClusterStatus, stored: &ClusterStatus) -> Vec<String> {
    let fields = |status: &ClusterStatus| match serde_json::to_value(status) {
        Ok(Value::Object(fields)) => fields,
        _ => serde_json::Map::new(),
    };
    let stored = fields(stored);
    let is_lost = |(field, value): &(String, Value)| stored.get(field) != Some(value);
    fields(sent).into_iter().filter(is_lost).map(|(field, _)| field).collect()
}

impl Worker {
    /// Stores a status by compare-and-swap. True: decide again, on what is stored now.
    pub(crate) async fn swap(&mut self, status: &ClusterStatus) -> bool {
        if self.observed.version != self.basis {
            return true;
        }
        if let Some(until) = self.news_may_wait(status) {
            self.wake_by(until);
            return false;
        }
        let mut object = RawReplicatedDB::clone(&self.resource);
        object.status = match to_stored(status, &self.shown()) {
            Ok(stored) => Some(stored),
            Err(error) => {
                tracing::error!(cluster = %self.key, %error, "the status cannot be expressed");
                return false;
            }
        };
        let sent = clock::now();
        let swap = self.observed.begin_swap(status);
        let written = within(self.api.replace_status(&self.key.name, &PostParams::default(), &object)).await;
        match &written {
            Ok(_) => self.observed.swap_stored(swap),
            Err(ApiError::Conflict(_) | ApiError::NotFound | ApiError::Refused(_)) => self.observed.swap_refused(swap),
            Err(ApiError::Exists | ApiError::Unknown(_)) => {}
        }
        // One that can't be read at all is told of elsewhere.
        let kept = written.as_ref().ok().and_then(|stored| from_stored(stored.status.as_ref()).ok());
        if let Some(kept) = &kept {
            self.observed.status_written_at = Some(clock::now());
            self.layouts_unkept = status.layouts_differ && !kept.layouts_differ;
        }
        let stored = self.take_written(written).await;
        let Some(kept) = kept else { return stored };
        // A write of which nothing was kept leaves the object as it was.
        self.observed.status.layouts_differ = kept.layouts_differ || self.layouts_unkept;
        let lost = lost_fields(status, &kept);
        if lost.is_empty() {
            self.untell("definition");
        } else {
            self.definition_too_old(&lost);
        }
        let remembered = ClusterStatus { layouts_differ: status.layouts_differ, ..kept };
        if !says_the_same(&remembered, status) {
            // What was decided is not what is stored, and would be decided again and again.
            self.retry_later();
            return false;
        }
        if stored {
            let status = self.observed.status.clone();
            self.log_swap(&status, clock::now().since(sent).as_micros() as u64);
        }
        stored
    }

    fn definition_too_old(&mut self, lost: &[String]) {
        let message = format!(
            "The API server does not keep status.{}, and nothing goes on that needs it. Its definition of ReplicatedDB is older \
             than this operator: apply the one that `rdb-operator crd` prints, or let the chart install it (crds.install)",
            lost.join(", status.")
        );
        if self.told("definition") != Some(&message) {
            tracing::error!(cluster = %self.key, message, "the definition of ReplicatedDB is too old");
        }
        self.tell_once("definition", "DefinitionTooOld", message);
    }

    /// When the leader was lost a moment ago, its successor's election is more urgent than to tell people of it, and a
    /// write that is under way would hold it up.
    fn news_may_wait(&self, status: &ClusterStatus) -> Option<Time> {
        let leader = self.observed.status.leader.as_ref()?;
        let since = match self.instances.get(&leader.name)?.observed.connection {
            Connection::Connected => return None,
            Connection::Lost { since } | Connection::Refused { since } => since,
        };
        let until = since.plus(NEWS_PAUSE);
        (clock::now() < until && says_the_same(&self.observed.status, status)).then_some(until)
    }

    fn shown(&self) -> Shown<'_> {
        let (asked_instances, image) = match &self.parsed {
            Ok(parsed) => {
                let owner = Owner { resource: &parsed.resource, images: &self.context.images };
                (parsed.cluster.instances(), owner.image())
            }
            Err(_) => (0, ""),
        };
        Shown { cluster: &self.key.name, asked_instances, image }
    }

    /// Takes the answer to a write of the resource. True: there is something new to decide on.
    pub(crate) async fn take_written(&mut self, written: Result<RawReplicatedDB, ApiError>) -> bool {
        match written {
            Ok(stored) => {
                self.keep(stored);
                true
            }
            Err(ApiError::Conflict(_)) => self.reread().await,
            Err(ApiError::NotFound) => {
                self.gone = true;
                false
            }
            Err(ApiError::Refused(message)) => {
                tracing::error!(cluster = %self.key, message, "a write of the resource was refused");
                self.tell_once("write", "WriteRefused", format!("The API server refuses what we write: {message}"));
                self.retry_later();
                false
            }
            Err(error @ (ApiError::Exists | ApiError::Unknown(_))) => {
                tracing::warn!(cluster = %self.key, %error, "whether the resource was written is not known");
                self.unread = true;
                self.retry_later();
                false
            }
        }
    }

    fn keep(&mut self, mut stored: RawReplicatedDB) {
        stored.metadata.managed_fields = None;
        let stored = Arc::new(stored);
        self.context.caches.resources.put(&self.key, Arc::clone(&stored));
        self.take_resource(stored);
    }

    /// Reads the resource from the API server itself. True: it is as stored now.
    pub(crate) async fn reread(&mut self) -> bool {
        match within(self.api.get(&self.key.name)).await {
            Ok(stored) if stored.uid() == self.resource.uid() => {
                self.unread = false;
                self.keep(stored);
                true
            }
            Ok(_) | Err(ApiError::NotFound) => {
                self.gone = true;
                false
            }
            Err(error) => {
                tracing::warn!(cluster = %self.key, %error, "the resource cannot be read");
                self.unread = true;
                self.retry_later();
                false
            }
        }
    }

    /// Before a step that can't be taken back: is the status that it was decided on still the stored one? Writing it once
    /// more changes nothing and fails if it is not.
    pub(crate) async fn confirm(&mut self) -> bool {
        let object = RawReplicatedDB::clone(&self.resource);
        let version = object.resource_version().to_owned();
        let written = within(self.api.replace_status(&self.key.name, &PostParams::default(), &object)).await;
        let same = matches!(&written, Ok(stored) if stored.resource_version() == version);
        self.take_written(written).await && same
    }

    /// Can anything be decided? If not, people are told why.
    pub(crate) async fn is_decidable(&mut self) -> bool {
        if let Some(problem) = self.unreadable.clone() {
            self.tell_once("status", "StatusUnreadable", format!("Nothing is decided: {problem}"));
            return false;
        }
        self.untell("status");
        if let Err(problem) = &self.parsed {
            let message = problem.to_string();
            self.refuse_spec(message).await;
            return false;
        }
        self.untell("spec");
        if !self.ensure_finalizer().await {
            return false;
        }
        self.clear_unreadable_requests().await;
        !self.unread && !self.gone
    }

    /// The last valid spec is not kept in force: what is running goes on by itself, without failover, until it is mended.
    async fn refuse_spec(&mut self, message: String) {
        self.tell_once("spec", "InvalidSpec", format!("Nothing is decided until this is mended: {message}"));
        self.basis.clone_from(&self.observed.version);
        let mut status = self.observed.status.clone();
        status.observed_generation = self.observed.generation;
        status.message = format!("Invalid spec: {message}");
        for (kind, value) in [("Ready", false), ("Reconciling", false), ("Stalled", true)] {
            set_condition(&mut status, kind, value, "InvalidSpec", &message);
        }
        if status != self.observed.status {
            self.swap(&status).await;
        }
    }

    /// Our finalizer comes before anything that the end of the cluster has to undo.
    async fn ensure_finalizer(&mut self) -> bool {
        let present = self.resource.metadata.finalizers.clone().unwrap_or_default();
        if present.iter().any(|finalizer| finalizer == FINALIZER) {
            return true;
        }
        let finalizers: Vec<String> = present.into_iter().chain([FINALIZER.to_owned()]).collect();
        self.patch_metadata(json!({"finalizers": finalizers})).await
    }

    /// Changes the metadata by compare-and-swap.
    pub(crate) async fn patch_metadata(&mut self, mut metadata: serde_json::Value) -> bool {
        if let Some(metadata) = metadata.as_object_mut() {
            metadata.insert("resourceVersion".to_owned(), json!(self.resource.resource_version()));
        }
        let is_basis = self.observed.version == self.basis;
        let written = merge(&self.api, &self.key.name, &json!({"metadata": metadata})).await;
        let obeyed = written.is_ok();
        let known = self.take_written(written).await;
        if obeyed && is_basis {
            self.basis.clone_from(&self.observed.version);
        }
        known
    }

    /// The request was carried out or refused: its annotation goes, if it is still the one that was decided on.
    pub(crate) async fn clear_request(&mut self, kind: &RequestKind) {
        self.remove_annotation(requests::key(kind)).await;
    }

    pub(crate) async fn remove_annotation(&mut self, key: &str) {
        if self.resource.annotation(key).is_some() {
            self.patch_metadata(json!({"annotations": {key: null}})).await;
        }
    }

    async fn clear_unreadable_requests(&mut self) {
        for requests::Unreadable { key, problem } in requests::read(&self.resource).1 {
            self.tell_once(key, "RequestRefused", format!("{key}: {problem}"));
            self.remove_annotation(key).await;
            self.untell(key);
        }
    }
}

fn set_condition(status: &mut ClusterStatus, kind: &str, value: bool, reason: &str, message: &str) {
    let old = status.conditions.iter().position(|condition| condition.kind == kind);
    let since = old.and_then(|at| status.conditions.get(at)).filter(|old| old.status == value);
    let condition = Condition {
        kind: kind.to_owned(),
        status: value,
        reason: reason.to_owned(),
        message: message.to_owned(),
        since_unix_ms: since.map_or_else(clock::unix_ms, |old| old.since_unix_ms),
    };
    match old.and_then(|at| status.conditions.get_mut(at)) {
        Some(old) => *old = condition,
        None => status.conditions.push(condition),
    }
}
