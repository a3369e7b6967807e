//! Failover times, as a client that writes every 2 ms sees them. The last lines of the program are
//!
//! ```text
//! failover: <fault> n=… median_ms=… max_ms=… lost=0
//! ```

use std::time::Duration;

use anyhow::{Context as _, bail};
use rdb_bench::clock::pause;
use serde_json::json;

use crate::faults;
use crate::harness::client::{BENCH_INTERVAL, PATIENT_ATTEMPT, SHORT_ATTEMPT};
use crate::harness::{Case, Database, Kube, LoadPod, eventually};
use crate::load::Report;
use crate::scenarios::before;
use crate::scenarios::changes::switch_over;
use crate::scenarios::failover::ELECTION_LIMIT;
use crate::suite::prepare;

/// A node that was off is ready after about ten seconds, its pod soon after.
const MENDED_LIMIT: Duration = Duration::from_secs(180);

/// Between two faults: kube-proxy has synced, caches are warm, the last fault's dust has settled.
const REST: Duration = Duration::from_secs(2);

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Fault {
    /// SIGKILL to the leader's process.
    ProcessKilled,
    /// The leader's container is paused.
    ProcessFrozen,
    /// The leader's node is paused.
    NodeFrozen,
    /// The leader's pod reaches nobody.
    Partitioned,
    /// The leader's node is killed.
    NodeKilled,
    /// A planned switchover; failed requests count as a failure of the run.
    Switchover,
}

pub const FAULTS: &[Fault] = &[
    Fault::ProcessKilled,
    Fault::Switchover,
    Fault::ProcessFrozen,
    Fault::Partitioned,
    Fault::NodeFrozen,
    Fault::NodeKilled,
];

impl Fault {
    fn name(self) -> &'static str {
        match self {
            Fault::ProcessKilled => "process-killed",
            Fault::ProcessFrozen => "process-frozen",
            Fault::NodeFrozen => "node-frozen",
            Fault::Partitioned => "partitioned",
            Fault::NodeKilled => "node-killed",
            Fault::Switchover => "switchover",
        }
    }
}

/// Runs each fault `runs` times on one database, then an API server outage of `outage`.
pub async fn run(chosen: &[Fault], runs: usize, outage: Duration) -> anyhow::Result<()> {
    let kube = Kube::connect().await?;
    prepare(&kube).await?;
    let case = Case::begin(kube, "bench-failover").await?;
    let result = measure(&case, chosen, runs, outage).await;
    if result.is_err() {
        let folder = case.dump("bench-failover").await;
        println!("see {}", folder.display());
    }
    faults::heal_all(&case.kube).await?;
    case.remove_namespace().await?;
    result
}

async fn measure(case: &Case, chosen: &[Fault], runs: usize, outage: Duration) -> anyhow::Result<()> {
    let database = Database::create(case, "db", json!({})).await?;
    let load = LoadPod::start(case, &database, BENCH_INTERVAL).await?;
    let mut lines = Vec::new();
    for fault in chosen {
        let attempt = if *fault == Fault::Switchover { PATIENT_ATTEMPT } else { SHORT_ATTEMPT };
        load.set_attempt(attempt).await?;
        let mut outages = Vec::new();
        for turn in 1..=runs {
            let report =
                strike(case, &database, &load, *fault).await.with_context(|| format!("{} {turn}", fault.name()))?;
            println!("{} {turn}/{runs}: {}", fault.name(), report.outage);
            if *fault == Fault::Switchover && report.failed_attempts > 0 {
                bail!("{} requests failed during a switchover: {report:?}", report.failed_attempts);
            }
            outages.push(report.outage.ms());
        }
        load.verify().await?;
        lines.push(line(fault.name(), outages));
    }
    if !outage.is_zero() {
        lines.push(without_api_server(case, &database, &load, outage).await?);
    }
    for line in lines {
        println!("{line}");
    }
    Ok(())
}

fn line(name: &str, mut outages: Vec<u64>) -> String {
    outages.sort_unstable();
    let median = outages.get(outages.len() / 2).copied().unwrap_or(0);
    let max = outages.last().copied().unwrap_or(0);
    // `verify` has failed the run if anything was lost.
    format!("failover: {name} n={} median_ms={median} max_ms={max} lost=0", outages.len())
}

/// One fault, and what the client saw of it; the cluster is healthy again afterwards.
pub async fn strike(case: &Case, database: &Database, load: &LoadPod, fault: Fault) -> anyhow::Result<Report> {
    let leader = database.leader().await?;
    let node = database.node_of(&leader).await?;
    pause(REST).await;
    let (epoch, since) = before(load).await?;
    let guard = match fault {
        Fault::ProcessKilled => faults::kill_process(database, &leader).await.map(|()| None)?,
        Fault::ProcessFrozen => Some(faults::freeze_process(database, &leader).await?),
        Fault::NodeFrozen => Some(faults::freeze_node(&node).await?),
        Fault::Partitioned => Some(faults::isolate_pod(database, &leader).await?),
        Fault::NodeKilled => Some(faults::kill_node(&node).await?),
        Fault::Switchover => {
            let target = database.followers().await?.into_iter().next().context("no follower")?;
            switch_over(database, &target).await.map(|()| None)?
        }
    };
    let report = load.writes_in_epoch_after(epoch, since, ELECTION_LIMIT).await?;
    drop(guard);
    if fault == Fault::ProcessKilled {
        // Killed again and again, one pod would wait longer each time before it starts; a new one starts at once.
        // The next fault has to meet three instances, not the rest of this one.
        let uid = database.pod(&leader).await?["metadata"]["uid"].clone();
        case.kube.delete("Pod", &case.namespace, &leader, Some(1)).await?;
        eventually("the pod is gone", MENDED_LIMIT, async || database.pod_is_gone(&leader, &uid).await).await?;
    }
    if fault == Fault::NodeKilled {
        faults::heal_all(&case.kube).await?;
    }
    database.healthy_within(MENDED_LIMIT).await?;
    Ok(report)
}

/// No API server and no operator: not one request may fail.
async fn without_api_server(
    case: &Case,
    database: &Database,
    load: &LoadPod,
    outage: Duration,
) -> anyhow::Result<String> {
    load.set_attempt(PATIENT_ATTEMPT).await?;
    let (epoch, since) = before(load).await?;
    let control_plane = faults::nodes(&case.kube).await?.remove(0);
    let fault = faults::stop_api_server(&control_plane).await?;
    pause(outage).await;
    fault.heal();
    faults::heal_all(&case.kube).await?;
    let report = load.writes_again("writes", since, MENDED_LIMIT).await?;
    if report.failed_attempts > 0 || report.last_epoch != epoch {
        bail!("writes suffered from the API server's absence: {report:?}");
    }
    database.healthy_within(MENDED_LIMIT).await?;
    load.verify().await?;
    Ok(format!(
        "control-plane-outage: seconds={} writes={} failed=0 outage_ms={} lost=0",
        outage.as_secs(),
        report.acknowledged,
        report.outage.ms()
    ))
}
