//! Faults of the network. Rules carry a comment, by which they are found again.

use anyhow::Context as _;

use super::Guard;
use crate::harness::Database;
use crate::harness::shell::{docker, on_node};

/// Marks our rules in the nodes' tables.
pub(super) const MARK: &str = "rdb-e2e";

/// Packets between two addresses, or from and to one, are dropped on a node. Only forwarded packets: the kubelet's own
/// probes come from the node itself and still pass.
async fn drop_packets(node: &str, matches: &[String], what: String) -> anyhow::Result<Guard> {
    let rule = |action: &str, packets: &String| {
        format!("iptables -w {action} FORWARD {packets} -m comment --comment {MARK} -j DROP")
    };
    let script = |action: &str| matches.iter().map(|packets| rule(action, packets)).collect::<Vec<_>>().join(" && ");
    on_node(node, &script("-I")).await?;
    let undo = script("-D");
    Ok(Guard::new(what, &[&["exec", node, "sh", "-c", &undo]]))
}

async fn ip_of(database: &Database, instance: &str) -> anyhow::Result<String> {
    let address = database.address(instance).await?;
    Ok(address.split(':').next().context("no address")?.to_owned())
}

/// Nothing gets from or to this instance, neither operator nor peers nor clients.
pub async fn isolate_pod(database: &Database, instance: &str) -> anyhow::Result<Guard> {
    let (node, ip) = (database.node_of(instance).await?, ip_of(database, instance).await?);
    drop_packets(&node, &[format!("-s {ip}"), format!("-d {ip}")], format!("isolation of {instance}")).await
}

/// Nothing gets from one instance to the other.
pub async fn cut_pods(database: &Database, one: &str, other: &str) -> anyhow::Result<Guard> {
    let node = database.node_of(one).await?;
    let (a, b) = (ip_of(database, one).await?, ip_of(database, other).await?);
    drop_packets(&node, &[format!("-s {a} -d {b}"), format!("-s {b} -d {a}")], format!("cut between {one} and {other}"))
        .await
}

/// The node loses its network, with everything on it.
pub async fn unplug_node(node: &str) -> anyhow::Result<Guard> {
    docker(&["network", "disconnect", "kind", node]).await?;
    // Restarted, it has its interface under its old name again.
    Ok(Guard::new(format!("unplugging of {node}"), &[&["network", "connect", "kind", node], &["restart", node]]))
}
