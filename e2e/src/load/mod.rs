//! The load of a client pod: one writer, one connection, a write every few milliseconds, each with an idempotency key.
//!
//! - [`writer`]: sends each write until it is acknowledged.
//! - [`journal`]: what was acknowledged and when, what failed meanwhile; also as JSON lines in a file.
//! - [`standstill`]: when the load itself did not run, which is no outage of the database.
//! - [`verify`]: reads the table back and compares.
//! - [`control`]: the HTTP interface by which a test asks for reports, changes the pace and sends requests of its own.
//!
//! A write whose attempt failed is sent again with the same key until it is acknowledged, so the time between two
//! acknowledgements is what a patient client waits. With a short `attempt` a hanging connection is given up soon, which
//! measures an outage closely; with a long one the nodes may hold a request over a failover or switchover, and any failed
//! attempt is one that a client would have seen.

pub mod control;
pub mod journal;
pub mod standstill;
pub mod verify;
pub mod writer;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

pub use journal::{Gap, Journal, Outage, Report};
pub use verify::Verdict;

/// A pace or patience of zero would spin.
const SMALLEST: Duration = Duration::from_millis(1);

/// What writer, verifier and control interface share.
#[derive(Debug)]
pub struct Shared {
    /// Name of this run: `client` of the idempotency keys, and column `run` of the table.
    pub run: String,
    /// The Service, resolved once: its address stays, and the cluster's DNS may be in the fault's way.
    pub target: SocketAddr,
    pub token: Option<String>,
    pub journal: Journal,
    interval_us: AtomicU64,
    attempt_us: AtomicU64,
    paused: AtomicBool,
    /// The writer sits between two writes and sees that it is paused.
    idle: AtomicBool,
}

impl Shared {
    pub fn new(run: String, target: SocketAddr, token: Option<String>, journal: Journal, pace: Pace) -> Shared {
        let shared = Shared {
            run,
            target,
            token,
            journal,
            interval_us: AtomicU64::new(0),
            attempt_us: AtomicU64::new(0),
            paused: AtomicBool::new(false),
            idle: AtomicBool::new(false),
        };
        shared.set_pace(pace);
        shared
    }

    pub fn pace(&self) -> Pace {
        Pace {
            interval: Duration::from_micros(self.interval_us.load(Ordering::Relaxed)),
            attempt: Duration::from_micros(self.attempt_us.load(Ordering::Relaxed)),
        }
    }

    pub fn set_pace(&self, pace: Pace) {
        let micros = |time: Duration| u64::try_from(time.max(SMALLEST).as_micros()).unwrap_or(u64::MAX);
        self.interval_us.store(micros(pace.interval), Ordering::Relaxed);
        self.attempt_us.store(micros(pace.attempt), Ordering::Relaxed);
    }

    pub fn pause(&self, paused: bool) {
        self.paused.store(paused, Ordering::SeqCst);
    }

    pub fn is_paused(&self) -> bool {
        self.paused.load(Ordering::SeqCst)
    }

    pub fn is_idle(&self) -> bool {
        self.idle.load(Ordering::SeqCst)
    }

    fn set_idle(&self, idle: bool) {
        self.idle.store(idle, Ordering::SeqCst);
    }
}

/// How fast to write, and how long to wait for one answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// From the start of one write to the start of the next; a slow write delays the next.
    pub interval: Duration,
    /// Limit of one attempt, also sent as the request's deadline.
    pub attempt: Duration,
}
