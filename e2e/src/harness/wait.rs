//! Waiting: always for a condition, always with a deadline, and a failure says what was last seen.

use std::time::Duration;

use anyhow::bail;
use rdb_bench::clock::{now, pause};

/// Between two looks at the API server: short against anything that is waited for, long against the cost of a request.
const POLL: Duration = Duration::from_millis(100);

/// All limits are multiplied by `E2E_SLOW` (default 1), for machines that have more to do.
pub fn slow() -> f64 {
    std::env::var("E2E_SLOW").ok().and_then(|text| text.parse().ok()).unwrap_or(1.0)
}

pub fn scaled(limit: Duration) -> Duration {
    limit.mul_f64(slow())
}

/// Looks until `look` gives `Ok(Ok(value))`; `Ok(Err(text))` says what is still missing. An error of the look itself (the
/// API server is away) counts as missing too: a test that needs the answer at once calls without this.
pub async fn until<T>(
    what: &str,
    limit: Duration,
    mut look: impl AsyncFnMut() -> anyhow::Result<Result<T, String>>,
) -> anyhow::Result<T> {
    let start = now();
    loop {
        let missing = match look().await {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(missing)) => missing,
            Err(error) => format!("{error:#}"),
        };
        if now() - start >= scaled(limit) {
            bail!("{what}: not within {:.0} s; last seen: {missing}", scaled(limit).as_secs_f64());
        }
        pause(POLL).await;
    }
}

/// The same for a plain yes or no.
pub async fn eventually(
    what: &str,
    limit: Duration,
    mut look: impl AsyncFnMut() -> anyhow::Result<bool>,
) -> anyhow::Result<()> {
    until(what, limit, async || Ok(if look().await? { Ok(()) } else { Err("not so".to_owned()) })).await
}
