//! Volume snapshots of this cluster: the pure part is [`crate::snapshots`]; here it gets what it decides on and is carried
//! out.

use std::time::Duration;

use rdb_control::Time;
use rdb_protocol::NodeName;

use super::Worker;
use crate::build::{Owner, SnapshotSeed};
use crate::clock;
use crate::kubernetes::api::{self, PATIENCE};
use crate::snapshots::{self, Listed, Seed, SnapshotClass, object, run};

/// A class that somebody makes or removes is noticed after this.
const CLASS_AGAIN: Duration = Duration::from_secs(60);

/// How long an instance waits before it asks again what it may start from.
const SEED_PAUSE: Duration = Duration::from_secs(1);

/// What is known of the snapshot class, and when to look again.
#[derive(Debug, Default)]
pub struct Keeping {
    class: Option<(String, SnapshotClass, Time)>,
    next_unix_ms: u64,
}

impl Worker {
    /// Takes what is due and deletes what is too old.
    pub(crate) async fn keep_snapshots(&mut self) {
        let now_unix_ms = clock::unix_ms();
        if !self.objects_due && now_unix_ms < self.snapshots.next_unix_ms {
            return;
        }
        self.look_up_class().await;
        let listed = self.listed();
        self.lend_instances();
        let outcome = match &self.parsed {
            Ok(parsed) => {
                let owner = Owner { resource: &parsed.resource, images: &self.context.images };
                snapshots::plan(&owner, &self.observed, &listed, now_unix_ms)
            }
            Err(_) => snapshots::Outcome::default(),
        };
        self.return_instances();
        outcome.events.iter().for_each(|event| self.tell(event));
        for action in &outcome.actions {
            let done = run::carry_out(&self.context.client, &self.key.namespace, action);
            match tokio::time::timeout(PATIENCE, done).await {
                Ok(Ok(())) => self.untell("snapshot"),
                Ok(Err(error)) => self.tell_once("snapshot", "SnapshotFailed", error.to_string()),
                Err(_) => tracing::warn!(cluster = %self.key, "a snapshot was not answered in time"),
            }
        }
        self.observed.snapshots = outcome.observation;
        self.snapshots.next_unix_ms = outcome.next_unix_ms.unwrap_or(u64::MAX);
        let wait = Duration::from_millis(self.snapshots.next_unix_ms.saturating_sub(now_unix_ms));
        self.wake_by(clock::now().plus(wait));
    }

    async fn look_up_class(&mut self) {
        let Ok(parsed) = &self.parsed else { return };
        let name = parsed.resource.spec.snapshots.class_name.clone();
        let now = clock::now();
        let known = self.snapshots.class.as_ref().filter(|(of, _, at)| *of == name && now.since(*at) < CLASS_AGAIN);
        if name.is_empty() || !self.context.has_snapshots || known.is_some() {
            return;
        }
        match tokio::time::timeout(PATIENCE, run::class(&self.context.client, &name)).await {
            Ok(Ok(class)) => self.snapshots.class = Some((name, class, now)),
            Ok(Err(error)) => tracing::debug!(cluster = %self.key, %error, "the snapshot class cannot be read"),
            Err(_) => tracing::debug!(cluster = %self.key, "the snapshot class was not answered in time"),
        }
    }

    fn listed(&self) -> Listed {
        if !self.context.has_snapshots {
            return Listed { snapshots: Vec::new(), class: SnapshotClass::NoApi };
        }
        let asked = self.parsed.as_ref().map(|parsed| parsed.resource.spec.snapshots.class_name.as_str());
        let class = self.snapshots.class.as_ref().filter(|(of, _, _)| asked == Ok(of.as_str()));
        Listed {
            snapshots: self
                .context
                .caches
                .snapshots
                .of(&self.key)
                .values()
                .map(|object| object::read(object))
                .collect(),
            class: class.map_or(SnapshotClass::Unknown, |(_, class, _)| *class),
        }
    }

    /// What a new instance's volume is made from; `None` = not known yet.
    pub(crate) fn choose_seed(&mut self, name: &NodeName) -> Option<Option<SnapshotSeed>> {
        let listed = self.listed();
        self.lend_instances();
        let seed = match &self.parsed {
            Ok(parsed) => {
                let owner = Owner { resource: &parsed.resource, images: &self.context.images };
                Some(snapshots::seed_for(&owner, &self.observed, &listed))
            }
            Err(_) => None,
        };
        self.return_instances();
        let subject = format!("seed {name}");
        match seed? {
            Seed::Snapshot(seed) => {
                self.untell(&subject);
                Some(Some(seed))
            }
            Seed::Empty { why } => {
                tracing::info!(cluster = %self.key, instance = %name, why, "starts from an empty volume");
                self.untell(&subject);
                Some(None)
            }
            Seed::Wait { why } => {
                self.tell_once(&subject, "SeedAwaited", format!("{name} waits for its first data: {why}"));
                self.wake_by(clock::now().plus(SEED_PAUSE));
                None
            }
        }
    }

    /// Claims from snapshots that are never going to be bound make way for the next step of the ladder.
    pub(crate) async fn give_up_seeds(&mut self) {
        let now_unix_ms = clock::unix_ms();
        for (name, claim) in self.context.caches.claims.of(&self.key) {
            let pod = self.context.caches.pods.get(&self.key, &name);
            let Ok(parsed) = &self.parsed else { return };
            let owner = Owner { resource: &parsed.resource, images: &self.context.images };
            let Some(given) = snapshots::give_up(&owner, &claim, pod.as_deref(), now_unix_ms) else { continue };
            self.tell_once(&format!("seed {name}"), "SeedGivenUp", format!("{name}: {}", given.why));
            let marking = run::mark_unusable(&self.context.client, &self.key.namespace, &given.snapshot, &given.why);
            if !matches!(tokio::time::timeout(PATIENCE, marking).await, Ok(Ok(()))) {
                self.retry_later();
                continue;
            }
            // It was never bound, so it holds nothing.
            let mut gone = api::delete(&self.claims(), claim.as_ref()).await;
            if let Some(pod) = pod {
                gone = gone.and(api::delete(&self.pods(), pod.as_ref()).await);
            }
            if let Err(error) = gone {
                tracing::warn!(cluster = %self.key, claim = name, %error, "cannot delete a claim that is not bound");
            }
        }
    }
}
