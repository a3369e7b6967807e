//! What the writer was told, and when.

use std::io::Write as _;
use std::sync::Mutex;

use serde::{Deserialize, Serialize};

use crate::clock::wall_ms;

/// Failed attempts that are kept with their text. A refused connection fails every few milliseconds, and the first ones tell the story.
const KEPT_FAILURES: usize = 2_000;

/// Failures that a report shows: so many from the beginning, and the latest.
const SHOWN_FAILURES: usize = 12;

/// Gaps that a report shows.
const SHOWN_GAPS: usize = 20;

/// A pause between acknowledgements that is worth mentioning: several times what a busy machine's fsync takes.
const NOTABLE_GAP_MS: u64 = 100;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Acknowledged {
    pub number: u64,
    pub at_ms: u64,
    pub epoch: u64,
    pub index: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    pub number: u64,
    pub at_ms: u64,
    pub error: String,
}

/// Time without a successful write.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    pub from_ms: u64,
    pub to_ms: u64,
    pub epoch_before: u64,
    pub epoch_after: u64,
}

impl Gap {
    pub fn ms(&self) -> u64 {
        self.to_ms.saturating_sub(self.from_ms)
    }
}

/// What happened since a given moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    pub now_ms: u64,
    /// Of the whole run.
    pub acknowledged_total: u64,
    /// Since the asked-for moment, like all that follows.
    pub acknowledged: u64,
    pub last_acknowledged_ms: u64,
    pub last_epoch: u64,
    pub failed_attempts: u64,
    pub failures: Vec<Failure>,
    /// The longest time without a successful write, the present one included.
    pub longest_gap_ms: u64,
    /// The notable ones, in order of time.
    pub gaps: Vec<Gap>,
}

#[derive(Debug, Default)]
struct State {
    acknowledged: Vec<Acknowledged>,
    failures: Vec<Failure>,
    latest_failure: Option<Failure>,
    /// Times of all failures, kept with their text or not.
    failed_at: Vec<u64>,
}

#[derive(Debug)]
pub struct Journal {
    state: Mutex<State>,
    file: Mutex<Option<std::io::BufWriter<std::fs::File>>>,
}

impl Journal {
    pub fn new(file: Option<std::fs::File>) -> Journal {
        Journal { state: Mutex::default(), file: Mutex::new(file.map(std::io::BufWriter::new)) }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    pub fn acknowledge(&self, entry: Acknowledged) {
        let Acknowledged { number, at_ms, epoch, index } = entry;
        self.line(&serde_json::json!({"ack": number, "at_ms": at_ms, "epoch": epoch, "index": index}));
        self.state().acknowledged.push(entry);
    }

    pub fn fail(&self, number: u64, error: String) {
        let failure = Failure { number, at_ms: wall_ms(), error };
        self.line(&serde_json::json!({"failed": number, "at_ms": failure.at_ms, "error": failure.error}));
        let mut state = self.state();
        state.failed_at.push(failure.at_ms);
        state.latest_failure = Some(failure.clone());
        if state.failures.len() < KEPT_FAILURES {
            state.failures.push(failure);
        }
    }

    /// The file is for people who look into a failed test, so an error in writing it is not one of the test.
    fn line(&self, value: &serde_json::Value) {
        let mut file = self.file.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(file) = file.as_mut() {
            let _ = writeln!(file, "{value}");
        }
    }

    /// Everything acknowledged so far, in the order of the numbers.
    pub fn acknowledged(&self) -> Vec<Acknowledged> {
        self.state().acknowledged.clone()
    }

    pub fn report(&self, since_ms: u64) -> Report {
        report(&self.state(), since_ms, wall_ms())
    }
}

fn report(state: &State, since_ms: u64, now_ms: u64) -> Report {
    let all = &state.acknowledged;
    let first = all.partition_point(|entry| entry.at_ms < since_ms);
    let mut gaps = Vec::new();
    let mut longest = 0;
    // The gap that the moment falls into counts from the acknowledgement before it: the fault came right after that moment.
    let from = first.saturating_sub(1);
    for pair in all[from..].windows(2) {
        let gap = Gap {
            from_ms: pair[0].at_ms,
            to_ms: pair[1].at_ms,
            epoch_before: pair[0].epoch,
            epoch_after: pair[1].epoch,
        };
        longest = longest.max(gap.ms());
        if gap.ms() >= NOTABLE_GAP_MS && gaps.len() < SHOWN_GAPS {
            gaps.push(gap);
        }
    }
    let last = all.last();
    longest = longest.max(now_ms.saturating_sub(last.map_or(since_ms, |entry| entry.at_ms)));
    Report {
        now_ms,
        acknowledged_total: all.len() as u64,
        acknowledged: (all.len() - first) as u64,
        last_acknowledged_ms: last.map_or(0, |entry| entry.at_ms),
        last_epoch: last.map_or(0, |entry| entry.epoch),
        failed_attempts: state.failed_at.iter().filter(|at| **at >= since_ms).count() as u64,
        failures: state
            .failures
            .iter()
            .filter(|failure| failure.at_ms >= since_ms)
            .take(SHOWN_FAILURES)
            .chain(&state.latest_failure)
            .cloned()
            .collect(),
        longest_gap_ms: longest,
        gaps,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acknowledged(times: &[u64]) -> State {
        let entry =
            |(number, at_ms): (usize, &u64)| Acknowledged { number: number as u64, at_ms: *at_ms, epoch: 1, index: 1 };
        State { acknowledged: times.iter().enumerate().map(entry).collect(), ..State::default() }
    }

    #[test]
    fn the_gap_that_a_fault_opens_is_measured_from_the_last_success() {
        let report = report(&acknowledged(&[1000, 1002, 1004, 2500, 2502]), 1005, 2503);
        assert_eq!((report.longest_gap_ms, report.acknowledged), (1496, 2));
        assert_eq!(report.gaps.len(), 1);
    }

    #[test]
    fn an_outage_that_has_not_ended_counts() {
        assert_eq!(report(&acknowledged(&[1000, 1002]), 1001, 9002).longest_gap_ms, 8000);
    }

    #[test]
    fn what_was_before_the_moment_does_not_count() {
        let report = report(&acknowledged(&[0, 900, 1000, 1002, 1004]), 1001, 1005);
        assert_eq!((report.longest_gap_ms, report.gaps.len()), (2, 0));
    }
}
