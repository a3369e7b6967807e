//! Events for people: `kubectl describe rdb` shows them. Every one is also a structured log line, and is lost without harm.

use std::sync::Arc;

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::{Api, Client};

use super::api;
use super::cache::ClusterKey;
use crate::crd::{API_VERSION, FIELD_MANAGER, KIND};

/// Longest note, in characters: the API server takes 1024 bytes, and a character has at most four.
const MAX_NOTE: usize = 1024 / 4;

/// Writes events beside whatever else is going on.
#[derive(Clone)]
pub struct Reporter {
    client: Client,
    /// Which of the operator's replicas.
    instance: Arc<str>,
}

impl Reporter {
    pub fn new(client: Client, instance: &str) -> Reporter {
        Reporter { client, instance: instance.into() }
    }

    /// Tells of something that was decided or seen for a cluster.
    pub fn tell(&self, cluster: &ClusterKey, uid: &str, event: &rdb_control::Event) {
        let rdb_control::Event { reason, message, evidence, warning } = event;
        if *warning {
            tracing::warn!(%cluster, reason, evidence, "{message}");
        } else {
            tracing::info!(%cluster, reason, evidence, "{message}");
        }
        let note = if evidence.is_empty() { message.clone() } else { format!("{message} ({evidence})") };
        let object = self.object(cluster, uid, reason, &note, *warning);
        let events: Api<Event> = Api::namespaced(self.client.clone(), &cluster.namespace);
        tokio::spawn(async move {
            if let Err(error) = api::create(&events, &object).await {
                tracing::debug!(%error, "an event was not stored");
            }
        });
    }

    fn object(&self, cluster: &ClusterKey, uid: &str, reason: &str, note: &str, warning: bool) -> Event {
        let now = jiff::Timestamp::now();
        let regarding = ObjectReference {
            api_version: Some(API_VERSION.to_owned()),
            kind: Some(KIND.to_owned()),
            name: Some(cluster.name.clone()),
            namespace: Some(cluster.namespace.clone()),
            uid: Some(uid.to_owned()),
            ..ObjectReference::default()
        };
        Event {
            action: Some("Reconcile".to_owned()),
            reason: Some(reason.to_owned()),
            note: Some(note.chars().take(MAX_NOTE).collect()),
            regarding: Some(regarding),
            event_time: Some(MicroTime(now)),
            reporting_controller: Some(FIELD_MANAGER.to_owned()),
            reporting_instance: Some(self.instance.to_string()),
            type_: Some(if warning { "Warning" } else { "Normal" }.to_owned()),
            metadata: ObjectMeta {
                name: Some(format!("{}.{:x}", cluster.name, now.as_nanosecond())),
                namespace: Some(cluster.namespace.clone()),
                ..ObjectMeta::default()
            },
            ..Event::default()
        }
    }
}
