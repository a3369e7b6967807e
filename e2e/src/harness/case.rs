//! One test: its namespace, and what is kept of it when it fails.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::json;

use super::kube::Kube;
use super::shell;
use super::wait::until;

/// Where the operator runs; see `charts/replicateddb-operator`.
pub const OPERATOR_NAMESPACE: &str = "replicateddb-system";
pub const OPERATOR_LABELS: &str = "app.kubernetes.io/name=replicateddb-operator";

/// For a namespace to be gone, with all that is in it.
const DELETION_LIMIT: Duration = Duration::from_secs(120);

#[derive(Clone)]
pub struct Case {
    pub kube: Kube,
    pub namespace: String,
}

impl Case {
    /// A new namespace for the test `name`; one that an earlier run left behind is removed first.
    pub async fn begin(kube: Kube, name: &str) -> anyhow::Result<Case> {
        let case = Case { kube, namespace: format!("e2e-{}", name.replace('_', "-")) };
        case.remove_namespace().await?;
        case.kube
            .create(
                "",
                &json!({
                    "apiVersion": "v1", "kind": "Namespace",
                    // As strict as a cluster may be: our pods must run there.
                    "metadata": {"name": case.namespace, "labels": {
                        "pod-security.kubernetes.io/enforce": "restricted", "rdb-e2e": "case"}},
                }),
            )
            .await?;
        Ok(case)
    }

    /// Removes the namespace and waits until it is gone: its load must not disturb the next test.
    pub async fn remove_namespace(&self) -> anyhow::Result<()> {
        self.kube.delete("Namespace", "", &self.namespace, None).await?;
        until("namespace is gone", DELETION_LIMIT, async || {
            Ok(match self.kube.find("Namespace", "", &self.namespace).await? {
                None => Ok(()),
                Some(namespace) => Err(namespace["status"].to_string()),
            })
        })
        .await
    }

    /// Messages of the events in the namespace, oldest first: `reason: message`.
    pub async fn events(&self) -> anyhow::Result<Vec<String>> {
        let mut events = self.kube.list("Event", &self.namespace, "").await?;
        events.sort_by_key(|event| {
            event["eventTime"].as_str().or(event["lastTimestamp"].as_str()).unwrap_or_default().to_owned()
        });
        let text = |event: &serde_json::Value| {
            format!("{}: {}", event["reason"].as_str().unwrap_or(""), event["message"].as_str().unwrap_or(""))
        };
        Ok(events.iter().map(text).collect())
    }

    /// The latest events of databases and their instances, oldest first, each with its time.
    pub async fn latest_events(&self, count: usize) -> anyhow::Result<Vec<String>> {
        let events = self.kube.list("Event", &self.namespace, "").await?;
        let mut lines = Vec::new();
        for event in &events {
            let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
            let about = &event["involvedObject"];
            if about["kind"] == "ReplicatedDB" || about["kind"] == "Pod" {
                // Events of the operator have a precise time, those of a kubelet only the second.
                let at = [&event["eventTime"], &event["lastTimestamp"]].map(text);
                let at = at.into_iter().find(|at| !at.is_empty()).unwrap_or_default();
                let (name, reason, message) = (text(&about["name"]), text(&event["reason"]), text(&event["message"]));
                lines.push(format!("{at} {name} {reason}: {message}"));
            }
        }
        lines.sort();
        Ok(lines.split_off(lines.len().saturating_sub(count)))
    }

    /// Writes everything that helps to understand a failure into a folder of its own; gives its path.
    pub async fn dump(&self, name: &str) -> PathBuf {
        let folder = Path::new("target/e2e").join(name);
        let _ = tokio::fs::remove_dir_all(&folder).await;
        let _ = tokio::fs::create_dir_all(&folder).await;
        let (context, namespace) = (self.kube.context.as_str(), self.namespace.as_str());
        let kinds =
            "replicateddbs,pods,persistentvolumeclaims,services,endpointslices,volumesnapshots,poddisruptionbudgets";
        let dumps: &[(&str, &[&str])] = &[
            ("objects.yaml", &["-n", namespace, "get", kinds, "-o", "yaml"]),
            ("summary.txt", &["-n", namespace, "get", kinds, "-o", "wide"]),
            ("events.txt", &["-n", namespace, "get", "events", "--sort-by=.lastTimestamp"]),
            ("nodes.txt", &["get", "nodes", "-o", "wide"]),
            ("csi.log", &["-n", "rdb-csi", "logs", "deployment/controller", "--all-containers", "--tail=500"]),
            ("operator.log", &["-n", OPERATOR_NAMESPACE, "logs", "-l", OPERATOR_LABELS, "--tail=4000", "--prefix"]),
            ("operator-pods.txt", &["-n", OPERATOR_NAMESPACE, "get", "pods", "-o", "wide"]),
        ];
        for (file, args) in dumps {
            self.kubectl(&folder.join(file), context, args).await;
        }
        let pods = self.kube.list("Pod", namespace, "").await.unwrap_or_default();
        for pod in pods.iter().filter_map(|pod| pod["metadata"]["name"].as_str()) {
            self.kubectl(&folder.join(format!("{pod}.log")), context, &["-n", namespace, "logs", pod, "--tail=4000"])
                .await;
            self.kubectl(
                &folder.join(format!("{pod}.previous.log")),
                context,
                &["-n", namespace, "logs", pod, "--previous", "--tail=4000"],
            )
            .await;
        }
        folder
    }

    async fn kubectl(&self, file: &Path, context: &str, args: &[&str]) {
        let args: Vec<&str> = ["--context", context, "--request-timeout=20s"].iter().chain(args).copied().collect();
        let text = match shell::run("kubectl", &args).await {
            Ok(text) if text.is_empty() => return,
            Ok(text) => text,
            Err(error) => format!("{error:#}"),
        };
        let _ = tokio::fs::write(file, text).await;
    }
}
