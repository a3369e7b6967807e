//! Resident memory of nodes, idle and with 256 clients.

use std::time::Duration;

use super::report::Line;
use super::throughput::{insert_body, plan, prepared};
use super::{ScenarioError, Settings};
use crate::clock::pause;
use crate::cluster::Cluster;
use crate::load::Background;

const CLIENTS: usize = 256;

/// How long nodes idle before they are looked at.
const IDLE: Duration = Duration::from_secs(5);

/// Measures all nodes; the largest counts.
pub async fn run(settings: &Settings) -> Result<Vec<Line>, ScenarioError> {
    let (mut cluster, leader) = prepared(settings).await?;
    pause(IDLE).await;
    let idle = largest(&cluster)?;
    let load = Background::start(&plan(settings, &cluster, leader, CLIENTS, "/v1/execute"), insert_body);
    pause(settings.warm_up + settings.measure).await;
    let loaded = largest(&cluster)?;
    let outcome = load.stop().await;
    cluster.stop().await;
    if outcome.latencies.count() == 0 {
        return Err(ScenarioError::Failed(outcome.first_failure.unwrap_or_else(|| "no answers".into())));
    }
    let line = |name, clients, mib: f64| {
        let mut line = Line::new(name, clients);
        line.more.push(("rss_mib".into(), format!("{mib:.1}")));
        line
    };
    Ok(vec![line("memory-idle", 0, idle), line("memory-loaded", CLIENTS, loaded)])
}

fn largest(cluster: &Cluster) -> Result<f64, ScenarioError> {
    let sizes: Option<Vec<u64>> = (0..cluster.nodes.len())
        .map(|node| resident_kib(&std::fs::read_to_string(format!("/proc/{}/status", cluster.process_id(node)?)).ok()?))
        .collect();
    let largest = sizes.and_then(|sizes| sizes.into_iter().max());
    let largest =
        largest.ok_or_else(|| ScenarioError::Failed("a node's memory cannot be read (needs /proc)".into()))?;
    Ok(largest as f64 / 1024.0)
}

/// `VmRSS` of `/proc/<id>/status`.
fn resident_kib(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resident_memory_is_read() {
        assert_eq!(resident_kib("Name:\tx\nVmRSS:\t   31232 kB\nThreads:\t9\n"), Some(31232));
        assert_eq!(resident_kib("Name:\tx\n"), None);
    }
}
