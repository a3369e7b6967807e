//! The node's clocks. This is the only place of the crate that asks the system for the time.

use std::time::Instant;

use rustix::time::{ClockId, clock_gettime};

/// Microseconds that count while the machine is suspended (CLOCK_BOOTTIME): all leases and deadlines are measured with it.
pub fn boot_micros() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    now.tv_sec as u64 * 1_000_000 + now.tv_nsec as u64 / 1000
}

/// Milliseconds since 1970, for people and for timestamps in records; no decision rests on it.
pub fn unix_millis() -> u64 {
    let now = clock_gettime(ClockId::Realtime);
    (now.tv_sec.max(0) as u64) * 1000 + now.tv_nsec as u64 / 1_000_000
}

/// For deadlines of requests, which travel as [`Instant`]s.
#[allow(clippy::disallowed_methods, reason = "the one place")]
pub fn instant() -> Instant {
    Instant::now()
}
