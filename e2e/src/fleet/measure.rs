//! The measurement itself.

use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use futures_util::{StreamExt, stream};
use rdb_bench::clock::{now, pause};
use serde_json::json;
use tokio::process::{Child, Command};

use super::kubelet::Kubelet;
use super::{Fleet, NETWORK};
use crate::harness::{Kube, shell};

/// Where the fleet lives; removed at the end.
const NAMESPACE: &str = "rdb-fleet";

/// Requests of ours in flight while the fleet is made: the operator should be the one that is busy.
const MAKERS: usize = 8;

/// A failover takes two seconds; a lost one is told after so long.
const FAILOVER_LIMIT: Duration = Duration::from_secs(30);

/// The operator's garbage of making three hundred databases is not what it needs at rest.
const SETTLE: Duration = Duration::from_secs(30);

/// What to measure.
#[derive(Clone, Debug, clap::Args)]
pub struct Plan {
    #[arg(long, default_value_t = 300)]
    pub databases: usize,
    /// The operator's program.
    #[arg(long, default_value = "target/release/rdb-operator")]
    pub operator: PathBuf,
    /// A kubeconfig for the operator; without, it uses ours.
    #[arg(long)]
    pub operator_config: Option<PathBuf>,
    /// For how long memory and processor time at rest are watched.
    #[arg(long, default_value_t = 60)]
    pub seconds: u64,
    /// Failovers with one database, and as many with all of them.
    #[arg(long, default_value_t = 20)]
    pub failovers: usize,
    /// Leave everything as it is at the end: the API server goes too.
    #[arg(long)]
    pub leave: bool,
}

/// Runs it. The operator of the cluster, if there is one, is stopped meanwhile.
pub async fn run(plan: &Plan) -> anyhow::Result<()> {
    let kube = Kube::connect().await?;
    let others = Others::stop(&kube).await?;
    shell::run("ip", &["route", "replace", "local", NETWORK, "dev", "lo"]).await.context("needs root")?;
    let result = measure(&kube, plan).await;
    let _ = shell::run("ip", &["route", "del", "local", NETWORK, "dev", "lo"]).await;
    others.start(&kube).await?;
    result
}

/// Operators that run in the cluster.
struct Others(Vec<(String, u64)>);

const OPERATORS: &str = "replicateddb-system";

impl Others {
    async fn stop(kube: &Kube) -> anyhow::Result<Others> {
        let mut stopped = Vec::new();
        for deployment in kube.list("Deployment", OPERATORS, "").await? {
            let name = deployment["metadata"]["name"].as_str().unwrap_or_default().to_owned();
            let replicas = deployment["spec"]["replicas"].as_u64().unwrap_or(0);
            kube.patch("Deployment", OPERATORS, &name, &json!({"spec": {"replicas": 0}})).await?;
            stopped.push((name, replicas));
        }
        Ok(Others(stopped))
    }

    async fn start(self, kube: &Kube) -> anyhow::Result<()> {
        for (name, replicas) in self.0 {
            kube.patch("Deployment", OPERATORS, &name, &json!({"spec": {"replicas": replicas}})).await?;
        }
        Ok(())
    }
}

async fn measure(kube: &Kube, plan: &Plan) -> anyhow::Result<()> {
    clear(kube).await?;
    kube.apply("", &json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})).await?;
    let fleet = Arc::new(Fleet::default());
    let kubelet = Kubelet::new(Arc::clone(&fleet), kube.client(), NAMESPACE);
    let running = tokio::spawn(Arc::clone(&kubelet).run());
    let operator = Operator::start(plan, &kube.context)?;
    let result = with_operator(kube, plan, &fleet, &kubelet, &operator).await;
    let cleared = if plan.leave { Ok(()) } else { clear(kube).await };
    running.abort();
    drop(operator);
    result.and(cleared)
}

async fn with_operator(
    kube: &Kube,
    plan: &Plan,
    fleet: &Fleet,
    kubelet: &Arc<Kubelet>,
    operator: &Operator,
) -> anyhow::Result<()> {
    make(kube, 0..1).await?;
    let alone = failovers(fleet, kubelet, 1, plan.failovers).await?;
    println!(
        "fleet: databases=1 failovers={} median_ms={} max_ms={}",
        alone.len(),
        median(&alone),
        alone[alone.len() - 1]
    );
    let began = now();
    make(kube, 1..plan.databases).await?;
    let made = (now() - began).as_secs();
    eprintln!(
        ">> {} databases are ready after {made} s; at rest for {} s",
        plan.databases,
        SETTLE.as_secs() + plan.seconds
    );
    pause(SETTLE).await;
    let (cpu_before, at) = (operator.cpu_seconds()?, now());
    pause(Duration::from_secs(plan.seconds)).await;
    let cores = (operator.cpu_seconds()? - cpu_before) / (now() - at).as_secs_f64();
    let rss = operator.rss_mib()?;
    let among = failovers(fleet, kubelet, plan.databases, plan.failovers).await?;
    println!(
        "fleet: databases={} failovers={} median_ms={} max_ms={}",
        plan.databases,
        among.len(),
        median(&among),
        among[among.len() - 1]
    );
    println!(
        "fleet: databases={} instances={} ready_after_s={made} rss_mib={rss} idle_cores={cores:.2} failover_ratio={:.2}",
        plan.databases,
        3 * plan.databases,
        median(&among) as f64 / median(&alone).max(1) as f64,
    );
    Ok(())
}

fn median(sorted: &[u64]) -> u64 {
    sorted.get(sorted.len() / 2).copied().unwrap_or(0)
}

fn name(n: usize) -> String {
    format!("fleet-{n}")
}

/// Makes databases and waits until they are open with all their instances.
async fn make(kube: &Kube, which: std::ops::Range<usize>) -> anyhow::Result<()> {
    let manifest = |n: usize| {
        json!({
            "apiVersion": "replicateddb.io/v1alpha1", "kind": "ReplicatedDB", "metadata": {"name": name(n)},
            "spec": {
                "instances": 3,
                "storage": {"size": "1Gi", "storageClass": "fleet-has-no-volumes"},
                "failover": {"cooldown": "0s"},
                "placement": {"nodeSelector": {"replicateddb.io/fleet": "no-such-node"}},
            },
        })
    };
    let made: Vec<anyhow::Result<()>> = stream::iter(which)
        .map(|n| async move {
            kube.apply(NAMESPACE, &manifest(n)).await?;
            let limit = Duration::from_secs(600);
            crate::harness::wait::until(&name(n), limit, async || {
                // All at once look at the API server as rarely as a person would.
                pause(Duration::from_millis(400)).await;
                let found = kube.get("ReplicatedDB", NAMESPACE, &name(n)).await?;
                let status = &found["status"];
                let open = status["phase"] == "Steady" && status["readyInstances"] == 3;
                Ok(if open { Ok(()) } else { Err(status["message"].to_string()) })
            })
            .await
        })
        .buffer_unordered(MAKERS)
        .collect()
        .await;
    made.into_iter().collect()
}

/// Kills leaders one after the other; gives the times until the next one was open, sorted.
async fn failovers(fleet: &Fleet, kubelet: &Arc<Kubelet>, databases: usize, count: usize) -> anyhow::Result<Vec<u64>> {
    let mut times = Vec::new();
    for round in 0..count {
        // Far from each other in name, so that no two are handled in turn.
        let database = fleet.database(&name((round * 7919) % databases));
        let old = database.leader().context("no leader is open")?;
        kubelet.kill(&old).await?;
        let start = now();
        let mut changes = database.changes.subscribe();
        loop {
            if database.leader().is_some_and(|leader| leader != old) {
                break;
            }
            ensure!(now() - start < FAILOVER_LIMIT, "{old} was killed and nobody took its place");
            // Opening is announced; an announcement that was missed is made up for by the next look.
            let _ = tokio::time::timeout(Duration::from_millis(20), changes.changed()).await;
        }
        times.push(u64::try_from((now() - start).as_millis()).unwrap_or(u64::MAX));
        // The old one comes back and follows, and the operator has told everybody.
        pause(Duration::from_secs(2)).await;
    }
    times.sort_unstable();
    Ok(times)
}

/// Removes what this or an interrupted run made.
async fn clear(kube: &Kube) -> anyhow::Result<()> {
    for database in kube.list("ReplicatedDB", NAMESPACE, "").await? {
        let name = database["metadata"]["name"].as_str().unwrap_or_default();
        // The finalizer waits for an operator, and none may run.
        kube.patch("ReplicatedDB", NAMESPACE, name, &json!({"metadata": {"finalizers": null}})).await?;
    }
    kube.delete("Namespace", "", NAMESPACE, None).await?;
    crate::harness::wait::until("the namespace is gone", Duration::from_secs(300), async || {
        Ok(match kube.find("Namespace", "", NAMESPACE).await? {
            Some(_) => Err("it is there".to_owned()),
            None => Ok(()),
        })
    })
    .await
}

/// The operator as a process of this machine, so that what it uses can be read from the kernel.
struct Operator {
    process: Child,
}

impl Operator {
    fn start(plan: &Plan, context: &str) -> anyhow::Result<Operator> {
        let log = std::fs::File::create("target/fleet-operator.log").context("target/fleet-operator.log")?;
        let program = &plan.operator;
        let config = match &plan.operator_config {
            Some(path) => path.clone(),
            None => kubeconfig(context)?,
        };
        let process = Command::new(program)
            .arg("run")
            .env("KUBECONFIG", config)
            .env("RDB_WATCH_NAMESPACES", NAMESPACE)
            .env("RDB_LEASE_NAME", "rdb-fleet")
            .env("POD_NAMESPACE", "default")
            .env("RDB_LISTEN", "127.0.0.1:0")
            .env("RUST_LOG", "error,rdb_operator=warn")
            .stdout(Stdio::from(log.try_clone()?))
            .stderr(Stdio::from(log))
            .kill_on_drop(true)
            .spawn()
            .with_context(|| program.display().to_string())?;
        Ok(Operator { process })
    }

    fn proc(&self, file: &str) -> anyhow::Result<String> {
        let id = self.process.id().context("the operator has ended; see target/fleet-operator.log")?;
        std::fs::read_to_string(format!("/proc/{id}/{file}")).context("the operator has ended")
    }

    /// Processor time of all its threads.
    fn cpu_seconds(&self) -> anyhow::Result<f64> {
        let stat = self.proc("stat")?;
        // The name, in parentheses, may hold anything; fields 14 and 15 of the whole line are user and system time.
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks = |index: usize| fields.get(index).and_then(|text| text.parse::<f64>().ok());
        match (ticks(11), ticks(12)) {
            // A hundred ticks a second, as the kernel tells every program of this kind.
            (Some(user), Some(system)) => Ok((user + system) / 100.0),
            _ => bail!("/proc has no processor times"),
        }
    }

    fn rss_mib(&self) -> anyhow::Result<u64> {
        let status = self.proc("status")?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
        let kib: u64 = line.trim().trim_end_matches(" kB").parse().context("VmRSS is no number")?;
        Ok(kib / 1024)
    }
}

/// A configuration with this context as the present one, for a program that takes no other choice.
fn kubeconfig(context: &str) -> anyhow::Result<PathBuf> {
    let mut config = kube::config::Kubeconfig::read()?;
    config.current_context = Some(context.to_owned());
    let path = PathBuf::from("target/fleet-kubeconfig");
    std::fs::write(&path, serde_yaml::to_string(&config)?).context("target/fleet-kubeconfig")?;
    Ok(path)
}
