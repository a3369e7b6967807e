//! The one place of this crate that takes time from the system.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rdb_control::Time;

/// Microseconds of the clock that also counts suspended time, as leases need it (`docs/protocol.md`, Time).
pub fn now() -> Time {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Time((time.tv_sec as u64) * 1_000_000 + (time.tv_nsec as u64) / 1000)
}

/// Milliseconds since 1970, for people and receipts; never compared between machines.
#[allow(clippy::disallowed_methods, reason = "the clock of this driver")]
pub fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

/// The pause between two attempts of a retry loop against something remote.
#[allow(clippy::disallowed_methods, reason = "a retry loop against another process has no condition to wait on")]
pub async fn pause(duration: Duration) {
    tokio::time::sleep(duration).await;
}
