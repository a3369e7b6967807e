//! In which order the pods of a database are renewed, and whether one at a time: from a watch, which gives the changes as the API
//! server made them, however late a test looks. (A pod's time of creation only tells the second.)

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use futures_util::StreamExt as _;
use serde_json::Value;

use super::database::Database;
use super::kube::{Change, Kube};
use super::wait::{scaled, until};

/// For a watch to be taken up again.
const WATCH_LIMIT: Duration = Duration::from_secs(30);

/// The watch of one database's pods.
pub struct Renewals {
    database: Database,
    /// Where the watch is.
    version: String,
    seen: Seen,
}

impl Renewals {
    /// From the pods that there are now.
    pub async fn begin(database: &Database) -> anyhow::Result<Renewals> {
        let (pods, version) = database.kube.list_at("Pod", &database.namespace, &database.labels()).await?;
        Ok(Renewals { database: database.clone(), version, seen: Seen::new(&pods) })
    }

    /// Waits until each pod was renewed; fails if it was not one at a time, or `last` not the last.
    pub async fn one_at_a_time(mut self, last: &str, limit: Duration) -> anyhow::Result<()> {
        let limit = scaled(limit);
        let all_new = tokio::time::timeout(limit, self.watch()).await;
        let (left, order) = (self.seen.left(), &self.seen.order);
        all_new.with_context(|| format!("{left:?} are old after {} s", limit.as_secs()))??;
        ensure!(order.last().is_some_and(|name| name == last), "{last} was not the last: {order:?}");
        ensure!(order.len() == self.seen.pods.len(), "not each once: {order:?}");
        Ok(())
    }

    /// Takes in what changed, until all pods are new.
    async fn watch(&mut self) -> anyhow::Result<()> {
        let Database { kube, namespace, .. } = &self.database;
        let labels = self.database.labels();
        loop {
            let changes = until("the pods are watched", WATCH_LIMIT, async || {
                Ok(kube.watch("Pod", namespace, &labels, &self.version).await.map_err(|error| format!("{error:#}")))
            })
            .await?;
            let mut changes = std::pin::pin!(changes);
            loop {
                match changes.next().await {
                    Some(Ok(change)) => {
                        self.version.clone_from(&change.version);
                        self.seen.take(&change)?;
                    }
                    Some(Err(error)) if !Kube::goes_on(&error) => return Err(error),
                    // It was quiet for long, and is taken up where it was.
                    Some(Err(_)) | None => break,
                }
                if self.seen.left().is_empty() {
                    return Ok(());
                }
            }
        }
    }
}

/// An instance's pod.
#[derive(Debug)]
struct Pod {
    uid: String,
    /// It is there, and was not told to end.
    stays: bool,
}

#[derive(Debug, Default)]
struct Seen {
    first: BTreeMap<String, String>,
    pods: BTreeMap<String, Pod>,
    /// Names of new pods, as they were made.
    order: Vec<String>,
}

fn name_and_uid(pod: &Value) -> (String, String) {
    let text = |key: &str| pod["metadata"][key].as_str().unwrap_or_default().to_owned();
    (text("name"), text("uid"))
}

impl Seen {
    fn new(pods: &[Value]) -> Seen {
        let mut seen = Seen { first: pods.iter().map(name_and_uid).collect(), ..Seen::default() };
        for pod in pods {
            seen.note(pod, false);
        }
        seen
    }

    /// Fails where two are away at the same time.
    fn take(&mut self, change: &Change) -> anyhow::Result<()> {
        self.note(&change.object, change.deleted);
        let away = self.pods.iter().filter(|(_, pod)| !pod.stays);
        let away: Vec<&String> = away.map(|(name, _)| name).collect();
        ensure!(away.len() < 2, "{away:?} were ending or gone at the same time");
        Ok(())
    }

    fn note(&mut self, pod: &Value, deleted: bool) {
        let (name, uid) = name_and_uid(pod);
        let known = self.pods.get(&name).is_some_and(|known| known.uid == uid);
        // A pod made under the name of one whose end comes to be known later; the watch keeps this order, a relist may not.
        if deleted && !known {
            return;
        }
        if !known && self.first.get(&name) != Some(&uid) {
            self.order.push(name.clone());
        }
        let stays = !deleted && pod["metadata"]["deletionTimestamp"].is_null();
        self.pods.insert(name, Pod { uid, stays });
    }

    /// Instances whose pod is still the first one.
    fn left(&self) -> Vec<&String> {
        self.first.keys().filter(|name| !self.order.contains(name)).collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(name: &str, uid: &str, ending: bool) -> Value {
        let at = ending.then_some("2026-11-01T00:00:00Z");
        json!({"metadata": {"name": name, "uid": uid, "deletionTimestamp": at}})
    }

    fn seen() -> Seen {
        Seen::new(&[pod("db-1", "a", false), pod("db-2", "b", false), pod("db-3", "c", false)])
    }

    fn change(seen: &mut Seen, object: Value, deleted: bool) -> anyhow::Result<()> {
        seen.take(&Change { object, deleted, version: String::new() })
    }

    fn renew(seen: &mut Seen, name: &str, old: &str, new: &str) {
        change(seen, pod(name, old, true), false).unwrap();
        change(seen, pod(name, old, true), true).unwrap();
        change(seen, pod(name, new, false), false).unwrap();
        change(seen, pod(name, new, false), false).unwrap();
    }

    #[test]
    fn pods_are_named_in_the_order_in_which_they_were_made() {
        let mut seen = seen();
        renew(&mut seen, "db-3", "c", "d");
        assert_eq!(seen.left(), ["db-1", "db-2"]);
        renew(&mut seen, "db-1", "a", "e");
        renew(&mut seen, "db-2", "b", "f");
        assert_eq!(seen.order, ["db-3", "db-1", "db-2"]);
        assert!(seen.left().is_empty());
    }

    #[test]
    fn one_that_ends_while_another_is_ending_or_gone_is_seen() {
        for gone in [false, true] {
            let mut seen = seen();
            change(&mut seen, pod("db-3", "c", true), gone).unwrap();
            let text = change(&mut seen, pod("db-1", "a", true), false).unwrap_err().to_string();
            assert_eq!(text, r#"["db-1", "db-3"] were ending or gone at the same time"#);
        }
    }
}
