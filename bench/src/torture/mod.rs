//! `make torture`: a real local cluster under load while its nodes are killed and frozen at random, in each mode.
//!
//! - [`faults`]: which fault comes next (from the seed) and how it is done.
//! - [`receipts`]: what failovers say that they lost.
//! - [`survey`]: reads everything from every node when the faults are over.
//! - [`verdict`]: feeds what clients saw and what nodes hold to the checkers.
//! - this file: one run after the other, the report, and what is kept of a run that failed.

pub mod faults;
pub mod receipts;
pub mod survey;
pub mod verdict;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::client::CallError;
use crate::clock::until;
use crate::cluster::{self, Cluster, ClusterError};
use crate::random::Random;
use crate::workload::{Shared, ledger, readers, registers, schema};
use verdict::Verdict;

/// Clients that write the ledger, registers and clients of each register. Few enough that three nodes and they share two
/// cores with room to spare, many enough that groups of several transactions form.
const LEDGER_CLIENTS: u64 = 12;
const REGISTERS: u64 = 4;
const CLIENTS_PER_REGISTER: u64 = 3;

/// Acknowledged operations between the end of one fault's outage and the next fault.
const PROGRESS: u64 = 100;

/// How long writes may fail after a fault before the run counts as stuck. Ten times what a frozen leader costs with
/// default settings, since nodes that were killed also restart and catch up on busy cores.
const OUTAGE_LIMIT: Duration = Duration::from_secs(60);

/// Faults that the supervisor may refuse in a row (the node is down already, no switchover is safe now). More than it can
/// refuse while writes go on.
const REFUSALS: u64 = 50;

/// Until all nodes hold the same after the last fault: nodes restart, cut, catch up or seed again.
const QUIET_LIMIT: Duration = Duration::from_secs(120);

#[derive(Debug, thiserror::Error)]
pub enum TortureError {
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    #[error("the tables could not be made: {0}")]
    Schema(CallError),
    #[error("writes did not go on within {} s after {after}", OUTAGE_LIMIT.as_secs())]
    Stuck { after: String },
    #[error("{} s after the last fault the nodes had not come together: {statuses}", QUIET_LIMIT.as_secs())]
    NotQuiet { statuses: String },
    #[error("the supervisor refused {REFUSALS} faults in a row")]
    Refused,
    #[error("a node could not be read: {0}")]
    Survey(String),
}

/// A mode to torture, and the arguments of `rdb local up` that make it.
#[derive(Clone, Copy, Debug)]
pub struct Mode {
    pub name: &'static str,
    mode: &'static str,
    extra: &'static [&'static str],
    /// Failovers may lose records, if a receipt names them.
    lossy: bool,
}

/// All modes, in the order in which they are run.
pub const MODES: [Mode; 4] = [
    Mode { name: "semiSync", mode: "semiSync", extra: &[], lossy: false },
    Mode { name: "sync", mode: "sync", extra: &[], lossy: false },
    Mode { name: "one", mode: "semiSync", extra: &["--sync-set", "one"], lossy: false },
    Mode { name: "async", mode: "async", extra: &[], lossy: true },
];

/// What to run.
#[derive(Clone, Debug)]
pub struct Options {
    pub faults: u64,
    pub modes: Vec<Mode>,
    pub log_format: String,
    pub seed: u64,
    /// Data directories of the runs; those of failed runs are kept.
    pub data: PathBuf,
}

/// Sums over all modes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    pub faults: u64,
    pub acknowledged: u64,
    pub lost: u64,
    pub duplicated: u64,
    pub diverged: u64,
    /// Violations of other kinds and runs that could not be finished.
    pub other: u64,
}

impl Totals {
    pub fn is_clean(&self) -> bool {
        self.lost + self.duplicated + self.diverged + self.other == 0
    }
}

impl std::fmt::Display for Totals {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Totals { faults, acknowledged, lost, duplicated, diverged, other: _ } = self;
        write!(
            f,
            "torture: faults={faults} acknowledged={acknowledged} lost={lost} duplicated={duplicated} \
             diverged={diverged}"
        )
    }
}

/// Runs all modes, one after the other, and reports as it goes.
pub async fn run(options: &Options) -> Totals {
    let mut totals = Totals::default();
    println!("torture: seed {} (repeat with --seed {})", options.seed, options.seed);
    for mode in &options.modes {
        let data = options.data.join(mode.name);
        match run_mode(options, *mode, &data).await {
            Ok((faults, verdict)) => {
                totals.faults += faults;
                totals.acknowledged += verdict.writes.acknowledged;
                totals.lost += verdict.lost();
                totals.duplicated += verdict.writes.duplicated.len() as u64;
                totals.diverged += verdict.diverged();
                totals.other += verdict.other();
                println!("{:>9}: {verdict}", mode.name);
                if verdict.is_clean() {
                    let _ = std::fs::remove_dir_all(&data); // a directory that stays is overwritten by the next run
                } else {
                    explain(&verdict, &data);
                }
            }
            Err(error) => {
                totals.other += 1;
                println!("{:>9}: FAILED: {error}", mode.name);
                keep_evidence(&data);
            }
        }
    }
    totals
}

/// One mode: start, load, faults, calm, survey, verdict.
async fn run_mode(options: &Options, mode: Mode, data: &Path) -> Result<(u64, Verdict), TortureError> {
    let mut random = Random::new(options.seed);
    let mut settings = cluster::Options::new(data)?;
    settings.mode = mode.mode.to_owned();
    // Faults come faster than a cooldown would allow. Silence is noticed sooner than by default, so that a run of many
    // frozen leaders does not consist of waiting.
    settings.extra = ["--cooldown", "0s", "--detection-timeout", "1500ms"].map(str::to_owned).to_vec();
    settings.extra.extend(["--log-format".to_owned(), options.log_format.clone()]);
    settings.extra.extend(mode.extra.iter().map(|argument| argument.to_string()));
    let mut cluster = Cluster::start(settings).await?;
    let address = cluster.nodes[0].address.clone();
    schema::create(&address, REGISTERS).await.map_err(TortureError::Schema)?;

    let shared = Arc::new(Shared::new(cluster.addresses()));
    let receipts = receipts::Collector::start(data);
    let mut clients = start_clients(&shared, &mut random);
    let outcome = inject(&cluster, &shared, options.faults, &mut random).await;
    shared.stop();
    while clients.join_next().await.is_some() {}
    let done = match outcome {
        Ok(()) => finish(&cluster, &shared, receipts, mode).await,
        Err(error) => Err(error),
    };
    cluster.stop().await;
    done.map(|verdict| (options.faults, verdict))
}

fn start_clients(shared: &Arc<Shared>, random: &mut Random) -> tokio::task::JoinSet<()> {
    let mut clients = tokio::task::JoinSet::new();
    for client in 0..LEDGER_CLIENTS {
        clients.spawn(ledger::run(shared.clone(), client, random.fork()));
    }
    for register in 0..REGISTERS {
        for number in 0..CLIENTS_PER_REGISTER {
            let client = 1 + register * CLIENTS_PER_REGISTER + number;
            clients.spawn(registers::run(shared.clone(), register, client, random.fork()));
        }
    }
    for address in &shared.addresses {
        clients.spawn(readers::run(shared.clone(), address.clone()));
    }
    clients
}

/// Injects the faults, each after writes have gone on since the last one.
async fn inject(cluster: &Cluster, shared: &Shared, faults: u64, random: &mut Random) -> Result<(), TortureError> {
    let mut last = "the start".to_owned();
    for number in 1..=faults {
        await_progress(shared, &last).await?;
        last = format!("fault {number} of {faults}: {}", one_fault(cluster, random).await?);
    }
    await_progress(shared, &last).await
}

/// Draws faults until one is carried out.
async fn one_fault(cluster: &Cluster, random: &mut Random) -> Result<String, TortureError> {
    for _ in 0..REFUSALS {
        let fault = faults::next(random, cluster.nodes.len());
        if faults::carry_out(cluster, &fault, random).await? {
            return Ok(format!("{fault:?}"));
        }
    }
    Err(TortureError::Refused)
}

async fn await_progress(shared: &Shared, last: &str) -> Result<(), TortureError> {
    let wanted = shared.acknowledged() + PROGRESS;
    let reached = until(OUTAGE_LIMIT, async || (shared.acknowledged() >= wanted).then_some(())).await;
    reached.ok_or_else(|| TortureError::Stuck { after: last.to_owned() })
}

/// Waits until the nodes have come together and judges.
async fn finish(
    cluster: &Cluster,
    shared: &Shared,
    receipts: receipts::Collector,
    mode: Mode,
) -> Result<Verdict, TortureError> {
    if cluster.await_quiet(QUIET_LIMIT).await.is_none() {
        let statuses = format!("{:#?}", cluster.statuses().await);
        return Err(TortureError::NotQuiet { statuses });
    }
    let receipts = receipts.finish(cluster).await;
    let survey = survey::read(cluster).await.map_err(TortureError::Survey)?;
    let log = shared.take_log();
    Ok(verdict::judge(&log, &survey, if mode.lossy { &receipts } else { &[] }))
}

fn explain(verdict: &Verdict, data: &Path) {
    for line in verdict.details() {
        println!("           {line}");
    }
    keep_evidence(data);
}

/// Shows the ends of the logs, and says where the rest is.
fn keep_evidence(data: &Path) {
    let mut logs: Vec<PathBuf> = std::fs::read_dir(data)
        .map(|entries| entries.filter_map(Result::ok).map(|entry| entry.path()).collect())
        .unwrap_or_default();
    logs.retain(|path| path.extension().is_some_and(|extension| extension == "log" || extension == "jsonl"));
    logs.sort();
    for path in logs {
        println!("--- end of {}", path.display());
        println!("{}", cluster::tail(&path, 15));
    }
    println!("--- logs and data are kept in {}", data.display());
}
