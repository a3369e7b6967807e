//! `make kind-demo`: a database from the quickstart manifest, a write load, the leader's process killed, then the next
//! leader's network cut; and for each what a client and the operator saw of it.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde_json::Value;

use crate::clock::wall_ms;
use crate::faults;
use crate::harness::client::BENCH_INTERVAL;
use crate::harness::{Case, Database, Kube, LoadPod};
use crate::load::Report;
use crate::scenarios::before;
use crate::scenarios::failover::ELECTION_LIMIT;
use crate::suite::prepare;

/// The default of `failover.cooldown`, and a little more.
const COOLDOWN: Duration = Duration::from_secs(12);

pub async fn run(manifest: &std::path::Path) -> anyhow::Result<()> {
    let kube = Kube::connect().await?;
    prepare(&kube).await?;
    let case = Case::begin(kube, "demo").await?;
    let result = show(&case, manifest).await;
    if result.is_err() {
        println!("see {}", case.dump("demo").await.display());
    }
    faults::heal_all(&case.kube).await?;
    case.remove_namespace().await?;
    println!("{}", result?);
    Ok(())
}

async fn show(case: &Case, manifest: &std::path::Path) -> anyhow::Result<String> {
    let text = tokio::fs::read_to_string(manifest).await.with_context(|| manifest.display().to_string())?;
    let manifest: Value = serde_yaml::from_str(&text)?;
    let name = manifest["metadata"]["name"].as_str().context("the manifest has no name")?.to_owned();
    let start = wall_ms();
    case.kube.apply(&case.namespace, &manifest).await?;
    let database = Database { kube: case.kube.clone(), namespace: case.namespace.clone(), name };
    database.healthy().await?;
    println!("{} is ready after {} ms, {} leads", database.name, wall_ms() - start, database.leader().await?);
    let load = LoadPod::start(case, &database, BENCH_INTERVAL).await?;
    println!("a client writes every {} ms", BENCH_INTERVAL.as_millis());
    let first = load.watch(Duration::from_secs(3)).await?;
    println!("{} writes in 3 s", first.acknowledged);

    let (epoch, since) = before(&load).await?;
    let leader = database.leader().await?;
    println!("\nkilling the process of the leader, {leader}");
    faults::kill_process(&database, &leader).await?;
    let report = load.writes_in_epoch_after(epoch, since, ELECTION_LIMIT).await?;
    let first_outage = tell(&database, &report, since).await?;
    let verified = load.verify().await?;
    println!("  lost: 0 of {verified} acknowledged writes");

    // Within `failover.cooldown` (10 s) of one failover no other is started: leaders that keep dying must not be chased.
    database.healthy().await?;
    load.watch(COOLDOWN).await?;
    let (epoch, since) = before(&load).await?;
    let leader = database.leader().await?;
    println!("\ncutting the leader off from the network: {leader} on {}", database.node_of(&leader).await?);
    let fault = faults::isolate_pod(&database, &leader).await?;
    let report = load.writes_in_epoch_after(epoch, since, ELECTION_LIMIT).await?;
    let second_outage = tell(&database, &report, since).await?;
    fault.heal();
    database.healthy().await?;
    println!("  {leader} is back as a follower");
    let verified = load.verify().await?;
    println!("  lost: 0 of {verified} acknowledged writes\n");
    ensure!(verified > 0, "nothing was written");
    Ok(format!("kind-demo: acknowledged={verified} lost=0 outage_ms={}", first_outage.max(second_outage)))
}

/// Detection and promotion from the operator's receipt, the first write from the client.
async fn tell(database: &Database, report: &Report, since: u64) -> anyhow::Result<u64> {
    let status = database
        .status_shows("the failover is written down", Duration::from_secs(20), |status| status["phase"] == "Steady")
        .await?;
    let receipt = &status["lastFailover"];
    let outage = report.outage;
    let back = report.gaps.iter().max_by_key(|gap| gap.ms()).map_or(0, |gap| gap.to_ms.saturating_sub(since));
    println!("  detected: after {} ms ({})", receipt["detectedMs"], receipt["reason"].as_str().unwrap_or("?"));
    println!(
        "  promoted: {} in epoch {}, open after {} ms",
        receipt["to"].as_str().unwrap_or("?"),
        receipt["epoch"],
        receipt["openedMs"]
    );
    println!("  first successful write: {back} ms after the fault; {outage} without one");
    Ok(outage.ms())
}
