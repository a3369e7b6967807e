//! When the load itself stood still: its machine had too much else to do, or did nothing at all.
//!
//! A task that does nothing but wake every [`TICK`] shares the load's only thread with the writer. When it wakes late, the writer
//! could not send, take an answer or give an attempt up meanwhile, so that time says nothing about the database. Nothing else is
//! left out of an outage: an answer that a running load waits for is waited for.

use std::sync::Arc;
use std::time::Duration;

use rdb_bench::clock::{now, pause};
use serde::{Deserialize, Serialize};

use super::Shared;
use crate::clock::wall_ms;

/// Short against [`WORTH_NOTING`], and a hundredth of a percent of a processor.
const TICK: Duration = Duration::from_millis(10);

/// A busy machine wakes a thread some milliseconds late all the time, which belongs to what a client sees; this much it does not.
const WORTH_NOTING: Duration = Duration::from_millis(100);

/// A time in which the load did not run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standstill {
    pub from_ms: u64,
    pub to_ms: u64,
}

/// How much of the time from `from_ms` to `to_ms` the load stood still; `all` are in order and do not overlap.
pub fn within(all: &[Standstill], from_ms: u64, to_ms: u64) -> u64 {
    let first = all.partition_point(|still| still.to_ms <= from_ms);
    let touching = all[first..].iter().take_while(|still| still.from_ms < to_ms);
    touching.map(|still| still.to_ms.min(to_ms).saturating_sub(still.from_ms.max(from_ms))).sum()
}

/// Notes each standstill in the journal, until the program ends.
pub async fn watch(shared: Arc<Shared>) {
    loop {
        let due = now() + TICK;
        pause(TICK).await;
        let late = now().saturating_duration_since(due);
        if late >= WORTH_NOTING {
            // The length is the monotonic clock's: a wall clock that is set is no standstill.
            let to_ms = wall_ms();
            let from_ms = to_ms.saturating_sub(u64::try_from(late.as_millis()).unwrap_or(u64::MAX));
            shared.journal.stood_still(Standstill { from_ms, to_ms });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stills(times: &[(u64, u64)]) -> Vec<Standstill> {
        times.iter().map(|&(from_ms, to_ms)| Standstill { from_ms, to_ms }).collect()
    }

    #[test]
    fn only_the_overlapping_part_counts() {
        let all = stills(&[(100, 300), (500, 900)]);
        assert_eq!(within(&all, 0, 1000), 600, "all of both");
        assert_eq!(within(&all, 200, 600), 200, "the end of one and the beginning of the other");
        assert_eq!(within(&all, 600, 700), 100, "no more than there is");
        assert_eq!(within(&all, 250, 280), 30);
    }

    #[test]
    fn what_only_touches_does_not_overlap() {
        let all = stills(&[(100, 300)]);
        assert_eq!((within(&all, 0, 100), within(&all, 300, 400), within(&all, 300, 300)), (0, 0, 0));
        assert_eq!((within(&[], 0, 100), within(&all, 500, 400)), (0, 0), "nothing, and a time that runs backwards");
    }
}
