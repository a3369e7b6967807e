//! What the writer was told, and when.

use std::fmt;
use std::io::Write as _;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use serde::{Deserialize, Serialize};

use super::standstill::{self, Standstill};
use crate::clock::wall_ms;

/// Failed attempts that are kept with their text. A refused connection fails every few milliseconds, and the first ones tell the story.
const KEPT_FAILURES: usize = 2_000;

/// Failures that a report shows: so many from the beginning, and the latest.
const SHOWN_FAILURES: usize = 12;

/// Gaps that a report shows, and standstills.
const SHOWN_GAPS: usize = 20;

/// Standstills that are kept, for minutes of a machine that stumbles ten times a second. One that is not kept counts as an outage.
const KEPT_STANDSTILLS: usize = 2_000;

/// Lines that wait for the disk: more than a load writes in a minute. What is too much is not written down.
const QUEUED_LINES: usize = 50_000;

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

/// Time without a successful write, as far as it says something about the database.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outage {
    pub from_ms: u64,
    pub to_ms: u64,
    /// Of this the load itself did not run.
    pub stood_still_ms: u64,
}

impl Outage {
    /// Without the time in which the load did not run.
    pub fn ms(&self) -> u64 {
        self.to_ms.saturating_sub(self.from_ms).saturating_sub(self.stood_still_ms)
    }
}

impl fmt::Display for Outage {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(to, "{} ms", self.ms())?;
        match self.stood_still_ms {
            0 => Ok(()),
            still => write!(to, " (and {still} ms in which the load itself stood still)"),
        }
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
    pub outage: Outage,
    /// The notable ones, in order of time, whatever the load did meanwhile.
    pub gaps: Vec<Gap>,
    /// When the load itself did not run.
    pub standstills: Vec<Standstill>,
}

#[derive(Debug, Default)]
struct State {
    acknowledged: Vec<Acknowledged>,
    failures: Vec<Failure>,
    latest_failure: Option<Failure>,
    /// Times of all failures, kept with their text or not.
    failed_at: Vec<u64>,
    /// In order of time.
    standstills: Vec<Standstill>,
}

#[derive(Debug)]
pub struct Journal {
    state: Mutex<State>,
    /// To the thread that writes the file: a disk that stands still must not stop the load.
    lines: Option<SyncSender<String>>,
}

impl Journal {
    pub fn new(file: Option<std::fs::File>) -> Journal {
        let lines = file.map(|file| {
            let (lines, queue) = sync_channel(QUEUED_LINES);
            std::thread::spawn(move || write_down(&queue, file));
            lines
        });
        Journal { state: Mutex::default(), lines }
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

    pub fn stood_still(&self, still: Standstill) {
        self.line(&serde_json::json!({"stood_still": still}));
        let mut state = self.state();
        // A wall clock that was set back must not put them out of order.
        let from_ms = state.standstills.last().map_or(still.from_ms, |last| still.from_ms.max(last.to_ms));
        if from_ms < still.to_ms && state.standstills.len() < KEPT_STANDSTILLS {
            state.standstills.push(Standstill { from_ms, ..still });
        }
    }

    /// The file is for people who look into a failed test, so a line that it does not get is no error of the test.
    fn line(&self, value: &serde_json::Value) {
        if let Some(lines) = &self.lines {
            let _ = lines.try_send(value.to_string());
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

/// Writes lines as they come, until the journal is dropped.
fn write_down(lines: &Receiver<String>, file: std::fs::File) {
    let mut file = std::io::BufWriter::new(file);
    while let Ok(line) = lines.recv() {
        let _ = writeln!(file, "{line}");
        for line in lines.try_iter() {
            let _ = writeln!(file, "{line}");
        }
        let _ = file.flush();
    }
}

fn report(state: &State, since_ms: u64, now_ms: u64) -> Report {
    let all = &state.acknowledged;
    let first = all.partition_point(|entry| entry.at_ms < since_ms);
    let mut gaps = Vec::new();
    let mut longest = Outage::default();
    let mut note = |from_ms: u64, to_ms: u64| {
        let outage = Outage { from_ms, to_ms, stood_still_ms: standstill::within(&state.standstills, from_ms, to_ms) };
        if outage.ms() > longest.ms() {
            longest = outage;
        }
    };
    // The gap that the moment falls into counts from the acknowledgement before it: the fault came right after that moment.
    let from = first.saturating_sub(1);
    for pair in all[from..].windows(2) {
        let gap = Gap {
            from_ms: pair[0].at_ms,
            to_ms: pair[1].at_ms,
            epoch_before: pair[0].epoch,
            epoch_after: pair[1].epoch,
        };
        note(gap.from_ms, gap.to_ms);
        if gap.ms() >= NOTABLE_GAP_MS && gaps.len() < SHOWN_GAPS {
            gaps.push(gap);
        }
    }
    let last = all.last();
    note(last.map_or(since_ms, |entry| entry.at_ms), now_ms);
    let begin = all.get(from).map_or(since_ms, |entry| entry.at_ms.min(since_ms));
    let standstills = state.standstills.iter().filter(|still| still.to_ms > begin).take(SHOWN_GAPS);
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
        standstills: standstills.copied().collect(),
        outage: longest,
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
        assert_eq!((report.outage.ms(), report.acknowledged), (1496, 2));
        assert_eq!(report.gaps.len(), 1);
    }

    #[test]
    fn an_outage_that_has_not_ended_counts() {
        assert_eq!(report(&acknowledged(&[1000, 1002]), 1001, 9002).outage.ms(), 8000);
    }

    #[test]
    fn what_was_before_the_moment_does_not_count() {
        let report = report(&acknowledged(&[0, 900, 1000, 1002, 1004]), 1001, 1005);
        assert_eq!((report.outage.ms(), report.gaps.len()), (2, 0));
    }

    fn with_standstills(times: &[u64], stills: &[(u64, u64)]) -> State {
        let standstills = stills.iter().map(|&(from_ms, to_ms)| Standstill { from_ms, to_ms }).collect();
        State { standstills, ..acknowledged(times) }
    }

    #[test]
    fn the_time_in_which_the_load_stood_still_is_no_outage() {
        let state = with_standstills(&[1000, 8300, 8302], &[(4100, 8290)]);
        let outage = report(&state, 1001, 8303).outage;
        assert_eq!((outage.ms(), outage.stood_still_ms), (7300 - 4190, 4190));
        assert_eq!(outage.to_string(), "3110 ms (and 4190 ms in which the load itself stood still)");
    }

    #[test]
    fn a_longer_outage_is_not_hidden_behind_a_gap_in_which_the_load_stood_still() {
        let state = with_standstills(&[1000, 6000, 6002, 8002], &[(1100, 5900)]);
        let report = report(&state, 1001, 8003);
        assert_eq!((report.outage.ms(), report.outage.from_ms, report.outage.stood_still_ms), (2000, 6002, 0));
        assert_eq!((report.gaps.len(), report.standstills.len()), (2, 1));
    }

    #[test]
    fn a_standstill_before_or_after_an_outage_shortens_nothing() {
        let state = with_standstills(&[1000, 1500, 1502, 4502, 4504, 4904], &[(1100, 1450), (4550, 4880)]);
        assert_eq!(report(&state, 1001, 4905).outage.ms(), 3000);
    }

    #[test]
    fn standstills_stay_in_order_when_the_clock_is_set_back() {
        let journal = Journal::new(None);
        for (from_ms, to_ms) in [(100, 300), (200, 400), (150, 350)] {
            journal.stood_still(Standstill { from_ms, to_ms });
        }
        let kept = [Standstill { from_ms: 100, to_ms: 300 }, Standstill { from_ms: 300, to_ms: 400 }];
        assert_eq!(journal.state().standstills, kept);
    }
}
