//! The operator's own Lease: of several replicas one decides. The compare-and-swap of the status keeps two that both act
//! from doing harm; the Lease keeps them from disturbing each other, and rule 17 rests on [`Lease::held_since`].
//!
//! Times are of our own clock only, which counts suspended time. A holder believes itself to be one until
//! [`RENEW_DEADLINE`] after it *sent* its last good renewal; a rival waits for the longer [`LEASE_DURATION`] after it *saw*
//! the last change. So there is a time with no holder, never one with two.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease as LeaseObject, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::PostParams;
use kube::{Api, Client};
use rdb_control::Time;

use super::api::{self, ApiError, within};
use crate::clock;

/// A rival takes over after this time without a renewal: an operator that dies is missed for as long.
pub const LEASE_DURATION: Duration = Duration::from_secs(6);

/// A holder that could not renew for so long decides nothing more. Two seconds less than the above leave room for a slow
/// decision that was begun before.
pub const RENEW_DEADLINE: Duration = Duration::from_secs(4);

/// Between two renewals, or two looks at somebody else's.
const PERIOD: Duration = Duration::from_secs(1);

/// After an attempt that failed.
const RETRY: Duration = Duration::from_millis(250);

#[derive(Debug, Default)]
struct Held {
    since: Option<Time>,
    until: Time,
}

/// What this process knows of its own Lease.
#[derive(Clone, Debug, Default)]
pub struct Lease(Arc<Mutex<Held>>);

impl Lease {
    /// Since when it has been held without a break; `None` = it is not held now.
    pub fn held_since(&self, now: Time) -> Option<Time> {
        let held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        held.since.filter(|_| now < held.until)
    }

    /// A renewal that was sent then was obeyed; that is known since `answered`.
    fn renewed(&self, sent: Time, answered: Time) {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Counted from the answer: before that nobody knew.
        if held.since.is_none() || answered >= held.until {
            held.since = Some(answered);
        }
        held.until = sent.plus(RENEW_DEADLINE);
    }

    fn lost(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Held::default();
    }
}

/// Where the Lease is, and who we are.
pub struct Keeper {
    api: Api<LeaseObject>,
    name: String,
    identity: String,
    lease: Lease,
    /// The object as it was read or written last.
    seen: Option<LeaseObject>,
    seen_at: Time,
}

impl Keeper {
    pub fn new(client: Client, namespace: &str, name: &str, identity: &str) -> Keeper {
        Keeper {
            api: Api::namespaced(client, namespace),
            name: name.to_owned(),
            identity: identity.to_owned(),
            lease: Lease::default(),
            seen: None,
            seen_at: Time::default(),
        }
    }

    pub fn lease(&self) -> Lease {
        self.lease.clone()
    }

    /// Takes, renews and retakes until `stop` is done; then gives the Lease back. `changed` is called after it was got or
    /// lost.
    pub async fn run(mut self, changed: impl Fn(bool), stop: impl Future<Output = ()>) {
        let mut stop = std::pin::pin!(stop);
        let mut held = false;
        loop {
            let pause = match self.attempt().await {
                Ok(()) => PERIOD,
                Err(error) => {
                    tracing::warn!(%error, "cannot renew the operator's Lease");
                    RETRY
                }
            };
            let holds = self.lease.held_since(clock::now()).is_some();
            if holds != held {
                held = holds;
                tracing::info!(identity = self.identity, holds, "the operator's Lease changed hands");
                changed(holds);
            }
            if tokio::time::timeout(pause, &mut stop).await.is_ok() {
                break;
            }
        }
        self.give_back().await;
    }

    async fn attempt(&mut self) -> Result<(), ApiError> {
        let now = clock::now();
        if self.lease.held_since(now).is_none() {
            self.look().await?;
        }
        let Some(seen) = self.seen.clone() else { return self.take(None).await };
        let spec = seen.spec.clone().unwrap_or_default();
        let holder = spec.holder_identity.as_deref().unwrap_or_default();
        let duration = spec.lease_duration_seconds.and_then(|s| u64::try_from(s).ok()).map(Duration::from_secs);
        let expired = clock::now().since(self.seen_at) > duration.unwrap_or(LEASE_DURATION).max(LEASE_DURATION);
        if holder == self.identity || holder.is_empty() || expired {
            self.take(Some(seen)).await
        } else {
            self.lease.lost();
            Ok(())
        }
    }

    /// Reads the Lease; a changed one counts from now.
    async fn look(&mut self) -> Result<(), ApiError> {
        let found = within(self.api.get_opt(&self.name)).await?;
        let version = |object: &Option<LeaseObject>| object.as_ref().and_then(|o| o.metadata.resource_version.clone());
        if version(&found) != version(&self.seen) {
            self.seen_at = clock::now();
        }
        self.seen = found;
        Ok(())
    }

    /// Writes ourselves into it, by compare-and-swap on what was seen.
    async fn take(&mut self, seen: Option<LeaseObject>) -> Result<(), ApiError> {
        let sent = clock::now();
        let object = self.filled(seen.as_ref(), &self.identity);
        let written = match seen {
            None => api::create(&self.api, &object).await,
            Some(_) => within(self.api.replace(&self.name, &PostParams::default(), &object)).await,
        };
        match written {
            Ok(stored) => {
                let answered = clock::now();
                self.lease.renewed(sent, answered);
                (self.seen, self.seen_at) = (Some(stored), answered);
                Ok(())
            }
            // Somebody was faster, or wrote into it: we hold nothing that we did not just renew.
            Err(error @ (ApiError::Conflict(_) | ApiError::Exists | ApiError::NotFound)) => {
                self.lease.lost();
                Err(error)
            }
            // Perhaps it was written. The old deadline stands.
            Err(error) => Err(error),
        }
    }

    fn filled(&self, seen: Option<&LeaseObject>, holder: &str) -> LeaseObject {
        let now = Some(MicroTime(jiff::Timestamp::now()));
        let old = seen.and_then(|object| object.spec.clone()).unwrap_or_default();
        let same = old.holder_identity.as_deref() == Some(holder);
        let transitions = old.lease_transitions.unwrap_or(0);
        let metadata = seen
            .map(|object| object.metadata.clone())
            .unwrap_or_else(|| ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() });
        LeaseObject {
            metadata,
            spec: Some(LeaseSpec {
                holder_identity: Some(holder.to_owned()),
                lease_duration_seconds: i32::try_from(LEASE_DURATION.as_secs()).ok(),
                acquire_time: if same { old.acquire_time } else { now.clone() },
                renew_time: now,
                lease_transitions: Some(if same { transitions } else { transitions.saturating_add(1) }),
                ..LeaseSpec::default()
            }),
        }
    }

    /// So that the next one need not wait. We decide nothing more from here on.
    async fn give_back(&mut self) {
        let held = self.lease.held_since(clock::now()).is_some();
        self.lease.lost();
        let Some(seen) = self.seen.take().filter(|_| held) else { return };
        let object = self.filled(Some(&seen), "");
        if let Err(error) = within(self.api.replace(&self.name, &PostParams::default(), &object)).await {
            tracing::info!(%error, "the Lease was not given back; it runs out by itself");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake_api::FakeApi;

    const PATH: &str = "/apis/coordination.k8s.io/v1/namespaces/system/leases/rdb-operator";

    fn keeper(api: &FakeApi, identity: &str) -> Keeper {
        Keeper::new(api.client(), "system", "rdb-operator", identity)
    }

    fn holds(keeper: &Keeper) -> bool {
        keeper.lease().held_since(clock::now()).is_some()
    }

    #[tokio::test]
    async fn of_two_operators_one_holds_the_lease() {
        let api = FakeApi::default();
        let (mut a, mut b) = (keeper(&api, "a"), keeper(&api, "b"));
        a.attempt().await.unwrap();
        b.attempt().await.unwrap();
        a.attempt().await.unwrap();
        b.attempt().await.unwrap();
        assert!(holds(&a) && !holds(&b));
        a.give_back().await;
        assert!(!holds(&a));
        b.attempt().await.unwrap();
        assert!(holds(&b));
        assert_eq!(api.object(PATH)["spec"]["holderIdentity"], "b");
    }

    #[tokio::test]
    async fn a_holder_that_was_replaced_holds_nothing() {
        let api = FakeApi::default();
        let mut a = keeper(&api, "a");
        a.attempt().await.unwrap();
        let mut taken = api.object(PATH);
        taken["spec"]["holderIdentity"] = serde_json::json!("b");
        api.store(PATH, taken);
        assert!(a.attempt().await.is_err());
        assert!(!holds(&a));
        a.attempt().await.unwrap();
        assert!(!holds(&a), "the other one has just renewed");
    }

    #[test]
    fn a_lease_ends_by_our_own_clock_and_a_break_starts_it_anew() {
        let (lease, at) = (Lease::default(), Time::from_millis);
        lease.renewed(at(1000), at(1100));
        lease.renewed(at(2000), at(2100));
        assert_eq!(lease.held_since(at(5999)), Some(at(1100)));
        assert_eq!(lease.held_since(at(6000)), None, "four seconds after the last renewal was sent");
        lease.renewed(at(6500), at(6600));
        assert_eq!(lease.held_since(at(6700)), Some(at(6600)));
    }
}
