//! What the binary does, and how it says so.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Context as _;

use crate::node::serve::configs;
use crate::profile::Profile;
use crate::runner::{self, Progress, Summary};
use crate::shrink;
use crate::world::World;

/// Seeds that failed once, each with what was wrong. They are run first.
const REGRESSIONS: &str = include_str!("../regressions.txt");
/// A run ends after so many violations: they tend to have one cause.
const MAX_VIOLATIONS: usize = 5;
/// A short run cannot be expected to meet every scenario.
const EXPECT_ALL_FROM: u64 = 3000;

pub enum Command {
    Seeds { first: u64, seeds: u64 },
    Story { seed: u64 },
    Resume { path: PathBuf, part: u64, until: u64 },
    Planted { most: u64, only: Option<String> },
    Histories { folder: PathBuf, first: u64, seeds: u64 },
}

/// False: something is wrong with what was simulated.
pub fn run(command: Command, jobs: usize) -> anyhow::Result<bool> {
    match command {
        Command::Seeds { first, seeds } => Ok(run_seeds(first, seeds, jobs)),
        Command::Story { seed } => Ok(tell(seed)),
        Command::Resume { path, part, until } => resume(&path, part, until, jobs),
        Command::Planted { most, only } => Ok(crate::planted::find_all(most, only.as_deref(), jobs)),
        Command::Histories { folder, first, seeds } => histories(&folder, first, seeds),
    }
}

#[allow(clippy::disallowed_methods, reason = "seeds per second are told to people")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

fn regressions() -> Vec<u64> {
    let first_word = |line: &str| line.split_whitespace().next().and_then(|word| word.parse().ok());
    REGRESSIONS.lines().filter_map(first_word).collect()
}

fn run_seeds(first: u64, seeds: u64, jobs: usize) -> bool {
    let begun = now();
    let all: Vec<u64> = regressions().into_iter().chain(first..first + seeds).collect();
    let summary = runner::run(&all, jobs, MAX_VIOLATIONS, |_, _| {});
    let seconds = begun.elapsed().as_secs_f64();
    for (scenario, count) in summary.coverage.iter() {
        println!("{count:>10}  {scenario}");
    }
    let mut well = true;
    for scenario in summary.coverage.unlisted() {
        println!("not in the list of scenarios: {scenario}");
        well = false;
    }
    let missing = if seeds >= EXPECT_ALL_FROM { summary.coverage.missing() } else { Vec::new() };
    for scenario in &missing {
        println!("never met: {scenario}");
    }
    well &= missing.is_empty() && summary.violations.is_empty();
    for (seed, violation) in &summary.violations {
        println!("seed {seed}: {violation}");
    }
    if let Some((seed, _)) = summary.violations.first_key_value() {
        tell_shrunk(*seed);
    }
    println!(
        "{:.1} seeds/s with {jobs} jobs, {} events, {} records committed, {} writes acknowledged, hash {:016x}",
        summary.seeds as f64 / seconds,
        summary.events,
        summary.committed,
        summary.acknowledged,
        summary.hash
    );
    println!("{}", last_line(&summary));
    well
}

fn last_line(summary: &Summary) -> String {
    let Summary { seeds, violations, .. } = summary;
    format!("sim: seeds={seeds} violations={} simulated_hours={:.1}", violations.len(), summary.hours())
}

fn tell_shrunk(seed: u64) {
    let Some((profile, violation)) = shrink::shrink(Profile::of(seed)) else {
        return println!("seed {seed} does not fail when it is run alone: the simulator is not deterministic");
    };
    println!("--- the story of seed {seed}, with {} of its faults", profile.plan.len());
    for line in shrink::story(&profile) {
        println!("{line}");
    }
    println!("--- {violation}");
}

fn tell(seed: u64) -> bool {
    let (report, world) = World::new(Profile::of(seed), true).run();
    for (at, line) in world.trace.story() {
        println!("{} {line}", crate::trace::Stamp(*at));
    }
    for node in world.nodes.keys() {
        if let Some(status) = world.status_of(*node) {
            println!(
                "{}: {:?}, promised {}, config {}, flushed {}, committed {}, applied {}, from {}, followers {:?}, other layout {}, exact since \
                 {}/{}, problems {:?}",
                status.member(),
                status.state,
                status.promise.epoch,
                status.config.as_ref().map(configs).unwrap_or_default(),
                status.flushed,
                status.committed,
                status.applied,
                status.first_retained,
                status
                    .followers
                    .iter()
                    .map(|f| (f.member.name.as_str(), f.connected, f.acknowledged, f.caught_up))
                    .collect::<Vec<_>>(),
                status.other_layout,
                status.exact.epoch,
                status.exact.index,
                status.problems,
            );
        }
    }
    println!("hash {:016x}, {} events, {} records committed", report.hash, report.events, report.committed);
    match &report.violation {
        Some(violation) => println!("seed {seed}: {violation}"),
        None => println!("seed {seed}: nothing wrong"),
    }
    report.violation.is_none()
}

/// Part after part; killed at any time, it goes on with the part that was under way.
fn resume(path: &Path, part: u64, until: u64, jobs: usize) -> anyhow::Result<bool> {
    let mut progress = Progress::read(path)?;
    progress.next = progress.next.max(1);
    let begun = now();
    let mut here = 0;
    while progress.next <= until {
        let last = until.min(progress.next + part - 1);
        let seeds: Vec<u64> = (progress.next..=last).collect();
        let summary = runner::run(&seeds, jobs, MAX_VIOLATIONS, |_, _| {});
        for (seed, violation) in &summary.violations {
            println!("seed {seed}: {violation}");
        }
        here += summary.seeds;
        progress.next = last + 1;
        progress.seeds += summary.seeds;
        progress.violations += summary.violations.len() as u64;
        progress.simulated += summary.simulated;
        progress.write(path)?;
        println!(
            "sim: seeds={} violations={} simulated_hours={:.1} ({:.1} seeds/s)",
            progress.seeds,
            progress.violations,
            progress.simulated as f64 / 3.6e9,
            here as f64 / begun.elapsed().as_secs_f64()
        );
    }
    Ok(progress.violations == 0)
}

fn histories(folder: &Path, first: u64, seeds: u64) -> anyhow::Result<bool> {
    std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let mut well = true;
    for seed in first..first + seeds {
        let (report, world) = World::new(Profile::of(seed), false).run();
        well &= report.violation.is_none();
        if let Some(text) = world.checks.export() {
            let path = folder.join(format!("{seed}.jsonl"));
            std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        }
    }
    Ok(well)
}
