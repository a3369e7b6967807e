//! One `ReplicatedDB`: a task that observes, decides and acts (design: observe → cluster → decide → plan → act).
//!
//! | module | part |
//! | --- | --- |
//! | [`mailbox`] | what comes in |
//! | [`observe`], [`evidence`], [`requests`] | observe: API objects and reports become `control`'s `Observed` |
//! | [`turn`] | decide, and carry the plan out |
//! | [`store`] | act on the resource: compare-and-swap only |
//! | [`instances`] | act on pods and volumes |
//! | [`objects`] | act on secrets, services, the budget |
//! | [`routes`] | act on endpoint slices |
//! | [`snapshots`] | act on volume snapshots |
//! | [`finalize`] | the end of a cluster |
//!
//! All state is in one [`Worker`], and nothing else writes it. What takes long happens beside it and comes back as input.
//! The exceptions are requests to the API server on which the next decision depends; each has a greatest time.

pub mod evidence;
pub mod finalize;
pub mod instances;
pub mod mailbox;
pub mod objects;
pub mod observe;
pub mod requests;
pub mod routes;
pub mod snapshots;
pub mod store;
pub mod turn;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use kube::Api;
use rdb_control::{Cluster, Observed, Time};
use rdb_protocol::{ClusterId, NodeName};

use crate::clock;
use crate::context::Context;
use crate::crd::{InvalidResource, RawReplicatedDB, ReplicatedDB};
use crate::kubernetes::cache::ClusterKey;
use crate::monitor::tokens::Tokens;
use mailbox::{Mailbox, Pending};
use observe::Instance;

/// Longest sleep without any input: nothing depends on it, it only bounds the harm of a wake-up that `decide` forgot.
const LONGEST_WAIT: Duration = Duration::from_secs(1);

/// Status lines that come faster than this are decided on together; every other input is acted on at once.
const LINE_BATCH: Duration = Duration::from_millis(3);

/// After something failed that will be tried again: the API server is given a rest.
const RETRY_PAUSE: Duration = Duration::from_millis(250);

/// One cluster's task and all that it knows.
pub struct Worker {
    pub(crate) context: Arc<Context>,
    pub(crate) key: ClusterKey,
    pub(crate) mailbox: Arc<Mailbox>,
    pub(crate) api: Api<RawReplicatedDB>,
    /// The resource in the version on which decisions are made.
    pub(crate) resource: Arc<RawReplicatedDB>,
    /// Its spec, if that is valid.
    pub(crate) parsed: Result<Box<Parsed>, InvalidResource>,
    /// Why its status can't be read, if that is so. Then nothing is decided.
    pub(crate) unreadable: Option<String>,
    /// The stored version may be another than `resource`: read it before deciding.
    pub(crate) unread: bool,
    /// The resource is gone, or another one has its name.
    pub(crate) gone: bool,
    /// All but `instances`, which are put in for each decision.
    pub(crate) observed: Observed,
    pub(crate) instances: BTreeMap<NodeName, Instance>,
    pub(crate) tokens: Tokens,
    /// Admin calls in flight by number, with the slot that they were made for.
    pub(crate) in_flight: BTreeMap<u64, rdb_control::CallInFlight>,
    pub(crate) next_number: u64,
    pub(crate) wake_at: Option<Time>,
    /// Version of the resource that the decision under way was made on; our own changes of its metadata move it on.
    pub(crate) basis: String,
    /// Objects changed since they were last looked after.
    pub(crate) objects_due: bool,
    pub(crate) objects: objects::Kept,
    pub(crate) routes: routes::Routing,
    pub(crate) snapshots: snapshots::Keeping,
    /// The definition of ReplicatedDB is too old to keep `layoutsDiffer`: this process remembers it, so that all else goes on.
    pub(crate) layouts_unkept: bool,
    /// What people were told last about a subject, so that it is not repeated.
    pub(crate) told: BTreeMap<String, String>,
}

/// A valid spec in both forms.
pub struct Parsed {
    pub resource: ReplicatedDB,
    pub cluster: Cluster,
}

/// Works on a cluster for as long as its resource exists.
pub async fn run(context: Arc<Context>, key: ClusterKey, mailbox: Arc<Mailbox>) {
    while let Some(resource) = context.caches.resources.get(&key, &key.name) {
        let mut worker = Worker::new(Arc::clone(&context), key.clone(), Arc::clone(&mailbox), resource);
        while !worker.gone {
            worker.turn().await;
            let pending = worker.wait().await;
            worker.take(pending);
        }
        context.metrics.forget(&key);
        // The API server may know of its end before the watch does.
        clock::pause(RETRY_PAUSE).await;
    }
}

/// The identity of a cluster that has none yet. Without randomness, the resource's UID is unique as well.
fn offered_id(resource: &RawReplicatedDB) -> ClusterId {
    let of_uid = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    ClusterId(getrandom::u64().unwrap_or_else(|_| resource.uid().bytes().fold(0xcbf2_9ce4_8422_2325, of_uid)))
}

impl Worker {
    pub fn new(
        context: Arc<Context>,
        key: ClusterKey,
        mailbox: Arc<Mailbox>,
        resource: Arc<RawReplicatedDB>,
    ) -> Worker {
        let observed =
            Observed { watched_since: clock::now(), offered_id: offered_id(&resource), ..Observed::default() };
        let mut worker = Worker {
            api: Api::namespaced(context.client.clone(), &key.namespace),
            parsed: Err(InvalidResource::Unreadable(String::new())),
            resource: Arc::clone(&resource),
            context,
            key,
            mailbox,
            unreadable: None,
            unread: false,
            gone: false,
            observed,
            instances: BTreeMap::new(),
            tokens: Tokens::default(),
            in_flight: BTreeMap::new(),
            next_number: 0,
            wake_at: None,
            basis: String::new(),
            objects_due: true,
            objects: objects::Kept::default(),
            routes: routes::Routing::default(),
            snapshots: snapshots::Keeping::default(),
            layouts_unkept: false,
            told: BTreeMap::new(),
        };
        worker.take_resource(resource);
        worker.observe_objects();
        worker
    }

    pub(crate) fn number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number
    }

    /// Waits for an input or the next time at which something is due, and takes in all that has come by then.
    async fn wait(&mut self) -> Pending {
        let started = clock::now();
        let due = self.wake_at.unwrap_or(Time(u64::MAX)).min(started.plus(LONGEST_WAIT));
        // An error is that nothing came in time.
        let _ = tokio::time::timeout(due.since(started), self.mailbox.arrival()).await;
        let until = clock::now().plus(LINE_BATCH);
        while self.mailbox.has_only_lines() && clock::now() < until {
            let _ = tokio::time::timeout(until.since(clock::now()), self.mailbox.arrival()).await;
        }
        self.mailbox.take()
    }

    /// Tries again soon.
    pub(crate) fn retry_later(&mut self) {
        self.wake_by(clock::now().plus(RETRY_PAUSE));
    }

    pub(crate) fn wake_by(&mut self, time: Time) {
        self.wake_at = Some(self.wake_at.map_or(time, |at| at.min(time)));
    }

    /// Tells people of something, unless it was the last thing that they were told about this subject.
    pub(crate) fn tell_once(&mut self, subject: &str, reason: &str, message: String) {
        if self.told.get(subject) == Some(&message) {
            return;
        }
        let event = rdb_control::Event {
            reason: reason.to_owned(),
            message: message.clone(),
            evidence: String::new(),
            warning: true,
        };
        self.tell(&event);
        self.told.insert(subject.to_owned(), message);
    }

    /// What people were last told about this subject, unless it is in order.
    pub(crate) fn told(&self, subject: &str) -> Option<&str> {
        self.told.get(subject).map(String::as_str)
    }

    /// The subject is in order again.
    pub(crate) fn untell(&mut self, subject: &str) {
        self.told.remove(subject);
    }

    pub(crate) fn tell(&self, event: &rdb_control::Event) {
        self.context.reporter.tell(&self.key, self.resource.uid(), event);
    }
}
