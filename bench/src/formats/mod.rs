//! `make test-formats`: the random workload of the engine's tests through a real cluster, in every log format, with killed
//! leaders and changes of the format under way. After each case all nodes are compared, table by table and, where the format
//! promises it, byte by byte; and a cache that lives on the change stream must hold what the database holds.

mod cache;
#[path = "../../../node/engine/tests/workload/mod.rs"]
mod dice;

use std::path::{Path, PathBuf};
use std::time::Duration;

use rdb_protocol::api::Consistency;
use serde_json::{Value, json};

use crate::client::{CallError, Client};
use crate::clock::until;
use crate::cluster::{Cluster, ClusterError, Options as ClusterOptions};
use cache::Cache;
use dice::{Dice, SCHEMA, transaction};

/// Client transactions of a case.
const TRANSACTIONS: u64 = 30;
/// The transaction of a case that is VACUUM: before anything disturbs the cluster.
const VACUUM: u64 = 9;
/// One write, failover included.
const WRITE_LIMIT: Duration = Duration::from_secs(20);
/// Nodes come back, are re-seeded, and agree.
const QUIET_LIMIT: Duration = Duration::from_secs(90);

/// The case in which the format changes for the first time.
const FIRST_CHANGE: u64 = 2;

/// What to run.
#[derive(Clone, Debug)]
pub struct Options {
    pub formats: Vec<String>,
    /// Cases for each format.
    pub cases: u64,
    pub seed: u64,
    pub data: PathBuf,
}

#[derive(Debug, thiserror::Error)]
pub enum FormatsError {
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    #[error("the schema: {0}")]
    Schema(CallError),
    #[error("reading: {0}")]
    Read(String),
    #[error("the nodes did not agree on a position in time")]
    NotQuiet,
    #[error("{0}")]
    Differs(String),
    #[error("the cache: {0}")]
    Cache(String),
    #[error("writing a copy: {0}")]
    Io(#[from] std::io::Error),
}

/// Runs the cases of all formats; the number of cases.
pub async fn run(options: &Options) -> Result<u64, FormatsError> {
    let mut cases = 0;
    for format in &options.formats {
        let mut settings = ClusterOptions::new(&options.data.join(format))?;
        let spec = ["--log-format", format, "--cooldown", "0s", "--set", "replication.changeStream=true"];
        settings.extra = spec.map(str::to_owned).to_vec();
        let mut cluster = Cluster::start(settings).await?;
        let outcome = cases_of(&cluster, format, options).await;
        cluster.stop().await;
        cases += outcome?;
        println!("{format:>9}: {} cases, all nodes equal, the cache too", options.cases);
    }
    Ok(cases)
}

async fn cases_of(cluster: &Cluster, format: &str, options: &Options) -> Result<u64, FormatsError> {
    let mut client = Client::new(&cluster.nodes[0].address, None);
    for sql in SCHEMA {
        client.execute(sql, json!([]), None, WRITE_LIMIT).await.map_err(FormatsError::Schema)?;
    }
    let cache = Cache::start(cluster.addresses(), "uniq", "id");
    let mut present = format.to_owned();
    for case in 0..options.cases {
        let mut dice = Dice(options.seed * 1000 + case);
        for step in 0..TRANSACTIONS {
            if step == TRANSACTIONS / 2 {
                disturb(cluster, case, &mut present).await?;
            }
            let address = &cluster.nodes[(step % cluster.nodes.len() as u64) as usize].address;
            let key = format!("case{case}:{step}");
            if step == VACUUM {
                let ran = write(address, &["VACUUM".to_owned()], &format!("vacuum{case}:{step}")).await?;
                let carried = matches!(present.as_str(), "page" | "mixed");
                // On the way back from row changes it has to wait, and how long is not known here.
                if ran != carried && case < FIRST_CHANGE {
                    return Err(FormatsError::Differs(format!("VACUUM in {present}: ran is {ran}")));
                }
            }
            write(address, &transaction(&mut dice), &key).await?;
        }
        let physical = present != "logical";
        compare(cluster, physical).await.map_err(|error| match error {
            FormatsError::Differs(why) => FormatsError::Differs(format!("{format}, case {case}: {why}")),
            other => other,
        })?;
        check_cache(cluster, &cache).await?;
    }
    Ok(options.cases)
}

/// Half of a case's way through: a dead leader, or another format, or both.
async fn disturb(cluster: &Cluster, case: u64, present: &mut String) -> Result<(), FormatsError> {
    if case % 2 == 1
        && let Some(leader) = cluster.await_leader(WRITE_LIMIT).await
    {
        cluster.command("kill", &[&cluster.nodes[leader].name]).await?;
    }
    if case % 3 == FIRST_CHANGE {
        let next = match present.as_str() {
            "page" => "statement",
            "statement" => "mixed",
            "mixed" => "logical",
            _ => "page",
        };
        cluster.command("set", &["replication.logFormat", next]).await?;
        *present = next.to_owned();
    }
    Ok(())
}

/// One transaction with a key, sent again until its outcome is known: has it run? Statements may fail: that is a part of the
/// workload.
async fn write(address: &str, statements: &[String], key: &str) -> Result<bool, FormatsError> {
    let mut client = Client::new(address, None);
    let batch: Vec<(&str, Value)> = statements.iter().map(|sql| (sql.as_str(), json!([]))).collect();
    let done = until(WRITE_LIMIT, async || match client.batch(&batch, Some(key), Duration::from_secs(5)).await {
        Ok(_) => Some(true),
        Err(error) if error.is_final() => Some(false),
        Err(_) => None,
    });
    done.await.ok_or_else(|| FormatsError::Read(format!("no outcome for {key}")))
}

/// Every node's database against the leader's.
async fn compare(cluster: &Cluster, physical: bool) -> Result<(), FormatsError> {
    let laid_out = until(QUIET_LIMIT, async || {
        let statuses = cluster.await_quiet(Duration::from_secs(1)).await?;
        // After row changes, pages are only equal when each follower has a new copy.
        (!physical || statuses.iter().all(|status| !status.other_layout)).then_some(())
    });
    laid_out.await.ok_or(FormatsError::NotQuiet)?;
    let mut copies = Vec::new();
    for node in &cluster.nodes {
        let path = cluster.data().join(format!("{}.copy", node.name));
        let mut bytes = Vec::new();
        let mut client = Client::new(&node.address, None);
        let status = client.download("/v1/snapshot", |part| bytes.extend_from_slice(part)).await;
        if !matches!(status, Ok(200)) {
            return Err(FormatsError::Read(format!("snapshot of {}: {status:?}", node.name)));
        }
        std::fs::write(&path, &bytes)?;
        copies.push((node.name.clone(), path, bytes));
    }
    for (name, path, bytes) in copies.iter().skip(1) {
        let (first, first_path, first_bytes) = &copies[0];
        let mut lines = Vec::new();
        let found =
            rdb_engine::diff(first_path, path, &mut lines).map_err(|error| FormatsError::Read(error.to_string()))?;
        if found != rdb_engine::DiffSummary::default() {
            let lines = String::from_utf8_lossy(&lines).into_owned();
            return Err(FormatsError::Differs(format!("{first} and {name}: {found:?}\n{lines}")));
        }
        if physical && masked(first_bytes) != masked(bytes) {
            return Err(FormatsError::Differs(format!("{first} and {name}: same rows, other bytes")));
        }
    }
    remove(&copies)
}

fn remove(copies: &[(String, PathBuf, Vec<u8>)]) -> Result<(), FormatsError> {
    for (_, path, _) in copies {
        for suffix in ["", "-wal", "-shm"] {
            let mut name = path.as_os_str().to_owned();
            name.push(suffix);
            if Path::new(&name).exists() {
                std::fs::remove_file(&name)?;
            }
        }
    }
    Ok(())
}

/// Without the counters of page 1 that SQLite keeps for itself.
fn masked(bytes: &[u8]) -> Vec<u8> {
    let mut copy = bytes.to_vec();
    for range in [24..28, 92..100] {
        if let Some(part) = copy.get_mut(range) {
            part.fill(0);
        }
    }
    copy
}

async fn check_cache(cluster: &Cluster, cache: &Cache) -> Result<(), FormatsError> {
    let mut client = Client::new(&cluster.nodes[0].address, None);
    let read = client.query("SELECT * FROM uniq", json!([]), Consistency::Linearizable, None, WRITE_LIMIT).await;
    let answer = read.map_err(|error| FormatsError::Read(error.to_string()))?;
    let columns: Vec<String> =
        answer.results.iter().flat_map(|result| &result.columns).map(|c| c.name.clone()).collect();
    let rows: Vec<cache::Row> =
        answer.rows().iter().map(|row| columns.iter().cloned().zip(row.iter().cloned()).collect()).collect();
    let caught_up = until(QUIET_LIMIT, async || cache.agrees(answer.position, &rows)).await;
    match caught_up {
        Some(Ok(())) => Ok(()),
        Some(Err(why)) => Err(FormatsError::Cache(why)),
        None => Err(FormatsError::Cache(format!("it did not reach {:?}: {}", answer.position, cache.state()))),
    }
}
