//! What a cluster has beside its instances: token secrets, services, the disruption budget. They are applied when the
//! resource changed, and now and then in case somebody else changed them.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Secret, Service};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::Api;
use kube::api::DeleteParams;
use rdb_control::Time;

use super::{Parsed, Worker};
use crate::build::{self, Owner, TOKEN_KEY, TokenKind};
use crate::clock;
use crate::crd::annotation;
use crate::kubernetes::api::{self, ApiError, within};
use crate::kubernetes::cache::by_label;

/// Applying what is as it should be costs five requests; for a fleet of 300 that is 2.5 a second.
const APPLY_AGAIN: Duration = Duration::from_secs(600);

/// What was applied, and when.
#[derive(Debug, Default)]
pub struct Kept {
    generation: Option<u64>,
    at: Time,
}

impl Worker {
    /// Brings objects in line with the resource. Failures are tried again.
    pub(crate) async fn keep_objects(&mut self) {
        let Ok(parsed) = &self.parsed else { return };
        if parsed.resource.spec.paused {
            return;
        }
        self.objects_due = false;
        self.keep_secrets().await;
        self.ensure_pods().await;
        self.give_up_seeds().await;
        self.grow_volumes().await;
        self.label_pods().await;
        self.tell_of_instances();
        let again = self.objects.at.plus(APPLY_AGAIN);
        if self.objects.generation != Some(self.observed.generation) || again <= clock::now() {
            match self.apply_objects().await {
                Ok(()) => {
                    self.objects = Kept { generation: Some(self.observed.generation), at: clock::now() };
                    self.untell("objects");
                }
                Err(error) => {
                    self.tell_once("objects", "ApplyFailed", format!("Services are not as they should be: {error}"));
                    self.objects_due = true;
                    self.retry_later();
                }
            }
        }
        self.end_restart().await;
    }

    async fn apply_objects(&mut self) -> Result<(), ApiError> {
        let Ok(parsed) = &self.parsed else { return Ok(()) };
        let owner = Owner { resource: &parsed.resource, images: &self.context.images };
        let services: Api<Service> = Api::namespaced(self.context.client.clone(), &self.key.namespace);
        let mut ipv6 = false;
        for service in build::services(&owner) {
            let name = service.metadata.name.clone().unwrap_or_default();
            let applied = api::apply(&services, &name, &service).await?;
            let families = applied.spec.and_then(|spec| spec.ip_families).unwrap_or_default();
            ipv6 |= families.first().map(String::as_str) == Some("IPv6");
        }
        let budgets: Api<PodDisruptionBudget> = Api::namespaced(self.context.client.clone(), &self.key.namespace);
        match build::disruption_budget(&owner) {
            Some(budget) => {
                api::apply(&budgets, &self.key.name, &budget).await?;
            }
            None => match within(budgets.delete(&self.key.name, &DeleteParams::default())).await {
                Ok(_) | Err(ApiError::NotFound) => {}
                Err(error) => return Err(error),
            },
        }
        self.routes.ipv6 = ipv6;
        Ok(())
    }

    /// Generates what is absent; never touches what is there.
    async fn keep_secrets(&mut self) {
        for kind in TokenKind::ALL {
            if let Err(problem) = self.keep_secret(kind).await {
                self.tell_once(&format!("{kind:?}"), "SecretNotUsable", problem);
                self.objects_due = true;
                self.retry_later();
            } else {
                self.untell(&format!("{kind:?}"));
            }
        }
    }

    /// What people were told about Secrets that cannot be used.
    pub(crate) fn unusable_secrets(&self) -> Option<String> {
        let told: Vec<&str> = TokenKind::ALL.iter().filter_map(|kind| self.told(&format!("{kind:?}"))).collect();
        (!told.is_empty()).then(|| told.join("; "))
    }

    async fn keep_secret(&mut self, kind: TokenKind) -> Result<(), String> {
        let Ok(parsed) = &self.parsed else { return Ok(()) };
        let owner = Owner { resource: &parsed.resource, images: &self.context.images };
        let (name, generated) = (kind.secret_name(&owner), kind.is_generated(&owner));
        let secrets: Api<Secret> = Api::namespaced(self.context.client.clone(), &self.key.namespace);
        if let Some(secret) = self.context.caches.secrets.get(&self.key, &name) {
            return usable(&secret, &name);
        }
        if generated {
            match api::create(&secrets, &build::secret(&owner, kind, &generate()?)).await {
                Ok(created) => {
                    self.context.caches.secrets.put(&self.key, Arc::new(created));
                    self.observe_objects();
                    return Ok(());
                }
                Err(ApiError::Exists) => {}
                Err(error) => return Err(format!("Secret {name} cannot be made: {error}")),
            }
        }
        match within(secrets.get(&name)).await {
            Ok(found) => {
                usable(&found, &name)?;
                if by_label(&found).as_ref() == Some(&self.key) || generated {
                    // One that a person made in place of ours is used as it is.
                    self.context.caches.secrets.put(&self.key, Arc::new(found));
                    self.observe_objects();
                }
                Ok(())
            }
            Err(ApiError::NotFound) => Err(format!("Secret {name} does not exist; make it, with the key {TOKEN_KEY}")),
            Err(error) => Err(format!("Secret {name} cannot be read: {error}")),
        }
    }

    /// The operator's own token to the nodes.
    pub(crate) fn observe_tokens(&mut self) {
        let secret = self.context.caches.secrets.get(&self.key, &format!("{}-admin", self.key.name));
        if let Some(token) = secret.as_deref().and_then(token) {
            self.tokens.set(&token);
        }
    }

    /// A restart was asked for and every instance has been made anew since.
    async fn end_restart(&mut self) {
        let Ok(parsed) = &self.parsed else { return };
        let Parsed { resource, .. } = parsed.as_ref();
        let owner = Owner { resource, images: &self.context.images };
        let pods = self.context.caches.pods.of(&self.key);
        if build::restart_is_done(&owner, pods.values().map(Arc::as_ref)) {
            self.remove_annotation(annotation::RESTART).await;
        }
    }
}

/// 32 random bytes as text.
fn generate() -> Result<String, String> {
    let mut bytes = [0u8; 32];
    getrandom::fill(&mut bytes).map_err(|error| format!("no randomness for a token: {error}"))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn token(secret: &Secret) -> Option<String> {
    let bytes = &secret.data.as_ref()?.get(TOKEN_KEY)?.0;
    let text = std::str::from_utf8(bytes).ok()?.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

fn usable(secret: &Secret, name: &str) -> Result<(), String> {
    match token(secret) {
        Some(_) => Ok(()),
        None => {
            Err(format!("Secret {name} has no text under the key {TOKEN_KEY}; put one there, or delete the Secret"))
        }
    }
}
