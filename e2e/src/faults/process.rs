//! Faults of one container's process.

use anyhow::Context as _;

use super::Guard;
use crate::harness::Database;
use crate::harness::shell::docker;

/// The node that an instance runs on, and its container there.
pub async fn container_of(database: &Database, instance: &str) -> anyhow::Result<(String, String)> {
    let pod = database.pod(instance).await?;
    let node = pod["spec"]["nodeName"].as_str().context("on no node")?;
    let id = pod["status"]["containerStatuses"][0]["containerID"].as_str().context("no container")?;
    Ok((node.to_owned(), id.trim_start_matches("containerd://").to_owned()))
}

/// SIGKILL, from outside the container, as the kernel does it when memory runs out.
pub async fn kill_process(database: &Database, instance: &str) -> anyhow::Result<()> {
    let (node, id) = container_of(database, instance).await?;
    docker(&["exec", &node, "ctr", "-n", "k8s.io", "task", "kill", "-s", "SIGKILL", &id]).await.map(drop)
}

/// Freezes the container's processes.
pub async fn freeze_process(database: &Database, instance: &str) -> anyhow::Result<Guard> {
    let (node, id) = container_of(database, instance).await?;
    docker(&["exec", &node, "ctr", "-n", "k8s.io", "task", "pause", &id]).await?;
    let undo: &[&str] = &["exec", &node, "ctr", "-n", "k8s.io", "task", "resume", &id];
    Ok(Guard::new(format!("freeze of {instance}"), &[undo]))
}
