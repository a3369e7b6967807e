//! The one place of this crate that takes time from the system. Load, faults and measurements are about real time, so
//! all of it is real here; the checkers get times as numbers.

use std::time::{Duration, Instant};

/// Now, on the monotonic clock.
#[allow(clippy::disallowed_methods)] // reason: this is the clock module
pub fn now() -> Instant {
    Instant::now()
}

/// Lets `time` pass. For pacing load and spacing faults; whoever waits for something uses [`until`].
#[allow(clippy::disallowed_methods)] // reason: this is the clock module
pub async fn pause(time: Duration) {
    tokio::time::sleep(time).await;
}

/// How often [`until`] looks. Short against the second within which a failover must end, long against the cost of a look.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// Looks until `look` gives something; `None` when `limit` has passed first.
pub async fn until<T>(limit: Duration, mut look: impl AsyncFnMut() -> Option<T>) -> Option<T> {
    let end = now() + limit;
    loop {
        if let Some(found) = look().await {
            return Some(found);
        }
        if now() >= end {
            return None;
        }
        pause(POLL_INTERVAL).await;
    }
}

/// Processor time that the calling thread has used.
pub fn thread_cpu() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}
