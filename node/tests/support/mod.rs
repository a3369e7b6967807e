//! Real `rdb-node` processes for tests, and a minimal operator who leads them by hand over the admin API.
//!
//! | module | holds |
//! | --- | --- |
//! | [`process`] | one process with its directory, its port and its calls |
//! | [`operator`] | a cluster: bootstrap, elections, config changes, and equal content |
//! | [`ledger`] | which writes were acknowledged, and whether they are still there |
//! | [`proxy`] | a TCP proxy that breaks connections off |
//! | [`disk`] | directories: comparing them, damaging files, small file systems |

pub mod disk;
pub mod ledger;
pub mod operator;
pub mod process;
pub mod proxy;

pub use ledger::Ledger;
pub use operator::Cluster;
pub use process::{Node, Reply};

use std::time::{Duration, Instant};

/// How long a condition may take that holds after milliseconds on an idle machine.
pub const PATIENCE: Duration = Duration::from_secs(40);

/// Between two looks at another process.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// Waits until `look` finds something. What is waited for is in another process, so that it can only be asked again.
#[allow(clippy::disallowed_methods, reason = "the one place where tests wait: for a condition, up to a limit")]
pub fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begun.elapsed() < PATIENCE, "waited in vain: {what}");
        std::thread::sleep(LOOK_AGAIN);
    }
}

/// As [`wait_for`], for a condition.
pub fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    wait_for(what, || holds().then_some(()));
}

/// A random number that other tests, which run at the same time, do not have.
pub fn random() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    std::hash::RandomState::new().build_hasher().finish()
}
