//! The one place of this crate that reads the wall clock. Client pods and test share it: all run on one machine's kernel, and
//! times of both are compared. Durations are measured by `rdb_bench::clock`.

use std::time::{SystemTime, UNIX_EPOCH};

/// Milliseconds since 1970.
#[allow(clippy::disallowed_methods)] // reason: this is the clock module
pub fn wall_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
