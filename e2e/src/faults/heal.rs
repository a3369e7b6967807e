//! Undoes every fault there may be, whoever began it.

use std::time::Duration;

use anyhow::Context as _;
use serde_json::json;

use super::network::MARK;
use super::node::{MANIFEST, PARKED};
use crate::harness::shell::{docker, on_node};
use crate::harness::{Kube, until};

/// A node that was off comes back within ten seconds, the API server within half a minute.
const READY_LIMIT: Duration = Duration::from_secs(120);

/// Names of kind's containers, the control plane's first.
pub async fn nodes(kube: &Kube) -> anyhow::Result<Vec<String>> {
    let cluster = kube
        .context
        .strip_prefix("kind-")
        .with_context(|| format!("context {} is not of kind: faults work on kind's containers", kube.context))?;
    let filter = format!("label=io.x-k8s.kind.cluster={cluster}");
    let mut names: Vec<String> = docker(&["ps", "-a", "--filter", &filter, "--format", "{{.Names}}"])
        .await?
        .lines()
        .map(str::to_owned)
        .collect();
    names.sort_by_key(|name| (!name.ends_with("-control-plane"), name.clone()));
    Ok(names)
}

/// The nodes that databases run on.
pub async fn workers(kube: &Kube) -> anyhow::Result<Vec<String>> {
    Ok(nodes(kube).await?.into_iter().filter(|name| !name.ends_with("-control-plane")).collect())
}

/// Leaves a cluster whose nodes are all ready. Quick when there is nothing to do.
pub async fn heal_all(kube: &Kube) -> anyhow::Result<()> {
    for node in nodes(kube).await? {
        heal_node(&node).await.with_context(|| format!("healing {node}"))?;
    }
    until("all nodes are ready", READY_LIMIT, async || {
        for node in kube.list("Node", "", "").await? {
            let name = node["metadata"]["name"].as_str().unwrap_or_default();
            if node["spec"]["unschedulable"] == true {
                kube.patch("Node", "", name, &json!({"spec": {"unschedulable": null}})).await?;
            }
            let conditions = node["status"]["conditions"].as_array().cloned().unwrap_or_default();
            if !conditions.iter().any(|condition| condition["type"] == "Ready" && condition["status"] == "True") {
                return Ok(Err(format!("{name} is not ready")));
            }
            let taints = node["spec"]["taints"].as_array().cloned().unwrap_or_default();
            if let Some(taint) = taints.iter().find(|taint| taint["effect"] == "NoExecute") {
                return Ok(Err(format!("{name} has the taint {}", taint["key"])));
            }
        }
        Ok(Ok(()))
    })
    .await
}

async fn heal_node(node: &str) -> anyhow::Result<()> {
    let state = docker(&["inspect", "-f", "{{.State.Status}} {{len .NetworkSettings.Networks}}", node]).await?;
    let mut words = state.split_whitespace();
    let status = words.next().unwrap_or_default();
    if words.next() == Some("0") {
        docker(&["network", "connect", "kind", node]).await?;
        docker(&["restart", node]).await?;
    }
    match status {
        "paused" => docker(&["unpause", node]).await.map(drop)?,
        "exited" => docker(&["start", node]).await.map(drop)?,
        _ => {}
    }
    // Our rules, frozen containers, a stopped or parked API server.
    let script = format!(
        "for table in iptables ip6tables; do \
           $table-save -t filter 2>/dev/null | grep -- '--comment {MARK} ' | sed 's/^-A/-D/' | \
             while read -r rule; do eval $table -w $rule; done; done; \
         ctr -n k8s.io task ls 2>/dev/null | awk '$3 == \"PAUSED\" {{print $1}}' | xargs -r -n 1 ctr -n k8s.io task resume; \
         kill -CONT $(pidof kube-apiserver) 2>/dev/null; \
         [ ! -f {PARKED} ] || mv {PARKED} {MANIFEST}"
    );
    on_node(node, &script).await.map(drop)
}
