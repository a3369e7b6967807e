//! Runs the tests one after the other: two at once would disturb each other's clocks and nodes.

use anyhow::{Context as _, bail};
use rdb_bench::clock::now;

use crate::faults;
use crate::harness::case::{OPERATOR_LABELS, OPERATOR_NAMESPACE};
use crate::harness::wait::scaled;
use crate::harness::{Case, Kube, until};
use crate::scenarios::{ALL, Scenario, Tier};

/// For the operator to run before a test begins.
const OPERATOR_LIMIT: std::time::Duration = std::time::Duration::from_secs(90);

/// Events that a failed test shows; all of them are in its folder.
const SHOWN_EVENTS: usize = 20;

/// Which tests to run, and how.
#[derive(Clone, Debug)]
pub struct Selection {
    pub tiers: Vec<Tier>,
    /// A test runs when its name contains one of these; empty = all.
    pub names: Vec<String>,
    /// Leave the namespaces of failed tests as they are.
    pub keep: bool,
}

impl Selection {
    fn takes(&self, scenario: &Scenario) -> bool {
        let named = self.names.iter().any(|name| scenario.name.contains(name.as_str()));
        // A test asked for by name runs whatever its tier.
        if self.names.is_empty() { self.tiers.contains(&scenario.tier) } else { named }
    }
}

/// Runs the selected tests; fails when one of them did.
pub async fn run(selection: &Selection) -> anyhow::Result<()> {
    let kube = Kube::connect().await?;
    let chosen: Vec<&Scenario> = ALL.iter().filter(|scenario| selection.takes(scenario)).collect();
    if chosen.is_empty() {
        bail!("no test is selected");
    }
    let start = now();
    let mut failed = Vec::new();
    for scenario in &chosen {
        prepare(&kube).await.with_context(|| format!("before {}", scenario.name))?;
        let begun = now();
        match one(&kube, scenario, selection.keep).await {
            Ok(()) => println!("test {} ... ok ({:.1} s)", scenario.name, (now() - begun).as_secs_f64()),
            Err(error) => {
                println!("test {} ... FAILED ({:.1} s)\n    {error:#}", scenario.name, (now() - begun).as_secs_f64());
                failed.push(scenario.name);
            }
        }
    }
    faults::heal_all(&kube).await?;
    let seconds = (now() - start).as_secs_f64();
    println!("e2e: {} passed, {} failed, {seconds:.0} s", chosen.len() - failed.len(), failed.len());
    if failed.is_empty() { Ok(()) } else { bail!("failed: {}", failed.join(", ")) }
}

/// No fault is left from before, and the operator runs.
pub async fn prepare(kube: &Kube) -> anyhow::Result<()> {
    faults::heal_all(kube).await?;
    until("the operator is ready", OPERATOR_LIMIT, async || {
        let deployments = kube.list("Deployment", OPERATOR_NAMESPACE, OPERATOR_LABELS).await?;
        let Some(deployment) = deployments.first() else {
            return Ok(Err("there is no operator; run e2e/cluster/up".to_owned()));
        };
        let status = &deployment["status"];
        let ready = status["readyReplicas"].is_number() && status["readyReplicas"] == deployment["spec"]["replicas"];
        Ok(if ready { Ok(()) } else { Err(status.to_string()) })
    })
    .await
}

async fn one(kube: &Kube, scenario: &Scenario, keep: bool) -> anyhow::Result<()> {
    let case = Case::begin(kube.clone(), scenario.name).await?;
    let limit = scaled(scenario.limit);
    let result = match tokio::time::timeout(limit, (scenario.run)(case.clone())).await {
        Ok(result) => result,
        Err(_) => Err(anyhow::anyhow!("took longer than {} s", limit.as_secs())),
    };
    let Err(error) = result else {
        return case.remove_namespace().await.context("cleaning up");
    };
    for line in case.latest_events(SHOWN_EVENTS).await.unwrap_or_default() {
        println!("    {line}");
    }
    let folder = case.dump(scenario.name).await;
    if !keep {
        faults::heal_all(kube).await?;
        case.remove_namespace().await.with_context(|| format!("cleaning up after: {error:#}"))?;
    }
    Err(error.context(format!("see {}", folder.display())))
}
