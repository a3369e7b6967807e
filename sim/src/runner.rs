//! Running many seeds on several threads, in parts that can be gone on with later.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;

use anyhow::Context as _;

use crate::coverage::Coverage;
use crate::event::At;
use crate::profile::Profile;
use crate::world::World;

/// What a run came to.
#[derive(Debug, Default)]
pub struct Summary {
    pub seeds: u64,
    pub simulated: At,
    pub events: u64,
    pub committed: u64,
    pub acknowledged: u64,
    pub violations: BTreeMap<u64, String>,
    pub coverage: Coverage,
    /// Of all traces, in the order of the seeds.
    pub hash: u64,
}

/// One seed's result on its way to the collector.
struct One {
    seed: u64,
    report: crate::world::Report,
    coverage: Coverage,
}

impl Summary {
    fn take(&mut self, one: One) {
        let One { seed, report, coverage } = one;
        self.seeds += 1;
        self.simulated += report.simulated;
        self.events += report.events;
        self.committed += report.committed;
        self.acknowledged += report.acknowledged;
        self.coverage.add(&coverage);
        self.hash ^= report.hash.rotate_left((seed % 63) as u32);
        if let Some(violation) = report.violation {
            self.violations.insert(seed, violation);
        }
    }

    pub fn hours(&self) -> f64 {
        self.simulated as f64 / 3.6e9
    }
}

/// Runs these seeds. After `most` violations no new seed is begun.
pub fn run(seeds: &[u64], jobs: usize, most: usize, mut each: impl FnMut(u64, &Summary)) -> Summary {
    let next = AtomicU64::new(0);
    let stop = AtomicBool::new(false);
    let (results, arrivals) = mpsc::channel::<One>();
    std::thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            let results = results.clone();
            let (next, stop) = (&next, &stop);
            scope.spawn(move || {
                while !stop.load(Ordering::Acquire) {
                    let Some(seed) = seeds.get(next.fetch_add(1, Ordering::AcqRel) as usize).copied() else { return };
                    let (report, world) = World::new(Profile::of(seed), false).run();
                    // The collector lives as long as this scope.
                    let _ = results.send(One { seed, report, coverage: world.coverage });
                }
            });
        }
        drop(results);
        let mut summary = Summary::default();
        for one in arrivals {
            let seed = one.seed;
            summary.take(one);
            each(seed, &summary);
            if summary.violations.len() >= most {
                stop.store(true, Ordering::Release);
            }
        }
        summary
    })
}

/// How far a long run has come: one line, replaced after each part.
#[derive(Clone, Copy, Debug, Default)]
pub struct Progress {
    pub next: u64,
    pub seeds: u64,
    pub violations: u64,
    pub simulated: At,
}

impl Progress {
    /// A file that is not there is a run that has not begun.
    pub fn read(path: &Path) -> anyhow::Result<Progress> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Progress::default()),
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
        };
        let words: Result<Vec<u64>, _> = text.split_whitespace().map(str::parse).collect();
        match words.as_deref() {
            Ok([next, seeds, violations, simulated]) => {
                Ok(Progress { next: *next, seeds: *seeds, violations: *violations, simulated: *simulated })
            }
            _ => anyhow::bail!("{} does not hold the progress of a run", path.display()),
        }
    }

    pub fn write(&self, path: &Path) -> anyhow::Result<()> {
        let Progress { next, seeds, violations, simulated } = self;
        let part = path.with_extension("part");
        std::fs::write(&part, format!("{next} {seeds} {violations} {simulated}\n"))
            .and_then(|()| std::fs::rename(&part, path))
            .with_context(|| format!("cannot write {}", path.display()))
    }
}
