//! Faults of whole nodes.

use super::Guard;
use crate::harness::shell::{docker, on_node};

/// All processes of the node stop, and do not know it when they go on.
pub async fn freeze_node(node: &str) -> anyhow::Result<Guard> {
    docker(&["pause", node]).await?;
    Ok(Guard::new(format!("freeze of {node}"), &[&["unpause", node]]))
}

/// The node ends at once, and starts again when the guard goes.
pub async fn kill_node(node: &str) -> anyhow::Result<Guard> {
    docker(&["kill", node]).await?;
    Ok(Guard::new(format!("death of {node}"), &[&["start", node]]))
}

/// Where the manifest waits meanwhile.
pub(super) const PARKED: &str = "/etc/kubernetes/kube-apiserver.yaml";
pub(super) const MANIFEST: &str = "/etc/kubernetes/manifests/kube-apiserver.yaml";

/// The API server ends; connections to it are refused. Back about half a minute after it is healed.
pub async fn stop_api_server(control_plane: &str) -> anyhow::Result<Guard> {
    // The kubelet notices a missing manifest within twenty seconds; the kill makes the outage begin now.
    let script = format!("mv {MANIFEST} {PARKED} && kill -KILL $(pidof kube-apiserver)");
    on_node(control_plane, &script).await?;
    let undo = format!("mv {PARKED} {MANIFEST}");
    Ok(Guard::new("stop of the API server".to_owned(), &[&["exec", control_plane, "sh", "-c", &undo]]))
}

/// The API server accepts connections and answers none. After two minutes the kubelet starts it anew.
pub async fn hang_api_server(control_plane: &str) -> anyhow::Result<Guard> {
    on_node(control_plane, "kill -STOP $(pidof kube-apiserver)").await?;
    let undo: &[&str] = &["exec", control_plane, "sh", "-c", "kill -CONT $(pidof kube-apiserver)"];
    Ok(Guard::new("hang of the API server".to_owned(), &[undo]))
}
