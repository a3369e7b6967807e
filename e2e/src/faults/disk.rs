//! Faults of an instance's volume, on the node that has it mounted.

use anyhow::Context as _;

use super::Guard;
use crate::harness::Database;
use crate::harness::shell::on_node;

/// Where the volume of an instance is mounted, and on which node.
async fn mountpoint(database: &Database, instance: &str) -> anyhow::Result<(String, String)> {
    let pod = database.pod(instance).await?;
    let node = pod["spec"]["nodeName"].as_str().context("on no node")?.to_owned();
    let uid = pod["metadata"]["uid"].as_str().context("no uid")?;
    let found =
        on_node(&node, &format!("ls -d /var/lib/kubelet/pods/{uid}/volumes/kubernetes.io~csi/pvc-*/mount")).await?;
    Ok((node, found.lines().next().context("no volume")?.to_owned()))
}

/// Leaves no more than a few pages free.
pub async fn fill_disk(database: &Database, instance: &str) -> anyhow::Result<Guard> {
    let (node, mount) = mountpoint(database, instance).await?;
    let file = format!("{mount}/ballast");
    // Reserved in ever smaller pieces, until nothing is left for anyone else either.
    let script = format!(
        "for step in 64 8 1; do n=0; while fallocate -o $(stat -c %s {file} 2>/dev/null || echo 0) -l ${{step}}M {file} 2>/dev/null; \
         do n=$((n+1)); [ $n -lt 1000 ] || break; done; done; ls -l {file}"
    );
    on_node(&node, &script).await?;
    Ok(Guard::new(format!("full disk of {instance}"), &[&["exec", &node, "rm", "-f", &file]]))
}
