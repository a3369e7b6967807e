//! The load of the torture test, and what its clients write down for the checkers.
//!
//! - [`ledger`]: writes that must be there exactly once; some clients with idempotency keys, some without.
//! - [`registers`]: reads and writes of a few values, with times.
//! - [`readers`]: reads at any node, at whatever it has.
//!
//! All clients share [`Shared`]. They are paced: the point is what happens around faults, and the checks afterwards read
//! every row again.

pub mod ledger;
pub mod readers;
pub mod registers;
pub mod schema;

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rdb_protocol::api::Consistency;
use serde_json::Value;

use crate::checkers::registers::Operation;
use crate::checkers::sightings::Sightings;
use crate::checkers::writes::{Ended, WriteId};
use crate::client::{Answer, CallError, Client};
use crate::clock::{now, pause};
use crate::random::Random;

/// Deadlines that clients give their requests. The short one ends while a failover is under way, so that retries and
/// unknown outcomes happen; the long one is the default of `access.transactionTimeout`.
const DEADLINES: [Duration; 3] = [Duration::from_millis(300), Duration::from_secs(2), Duration::from_secs(5)];

/// How long a client repeats one operation. Longer than any outage that the test allows, so that a client gives up only
/// when the run fails anyway.
const PATIENCE: Duration = Duration::from_secs(60);

/// Between two attempts, so that refused connections do not spin.
const AFTER_FAILURE: Duration = Duration::from_millis(25);

/// What all clients of a run share.
#[derive(Debug)]
pub struct Shared {
    pub addresses: Vec<String>,
    stop: AtomicBool,
    /// Acknowledged operations of all kinds: the fault injector waits for it to grow.
    acknowledged: AtomicU64,
    started: Instant,
    log: Mutex<Log>,
}

/// What clients saw.
#[derive(Debug, Default)]
pub struct Log {
    pub writes: BTreeMap<WriteId, Ended>,
    /// By register.
    pub registers: BTreeMap<u64, Vec<Operation>>,
    pub sightings: Sightings,
    /// Answers that no fault explains: they fail the run.
    pub anomalies: Vec<String>,
}

impl Shared {
    pub fn new(addresses: Vec<String>) -> Shared {
        Shared {
            addresses,
            stop: AtomicBool::new(false),
            acknowledged: AtomicU64::new(0),
            started: now(),
            log: Mutex::new(Log::default()),
        }
    }

    pub fn stop(&self) {
        self.stop.store(true, Ordering::SeqCst);
    }

    pub fn stopped(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }

    pub fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::Relaxed)
    }

    fn count_acknowledged(&self) {
        self.acknowledged.fetch_add(1, Ordering::Relaxed);
    }

    /// Nanoseconds since the start of the run.
    fn time(&self) -> u64 {
        u64::try_from((now() - self.started).as_nanos()).unwrap_or(u64::MAX)
    }

    /// Writes into the log. A client that panicked while it held the lock has failed the run already.
    fn note(&self, write: impl FnOnce(&mut Log)) {
        write(&mut self.log.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
    }

    /// Takes the log, after all clients have ended.
    pub fn take_log(&self) -> Log {
        std::mem::take(&mut self.log.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
    }
}

/// What a client wants, whichever node it asks.
#[derive(Clone, Debug)]
enum Request {
    Execute {
        sql: &'static str,
        args: Value,
        key: Option<String>,
    },
    Batch {
        statements: Vec<(&'static str, Value)>,
        key: String,
    },
    /// A linearizable read.
    Read {
        sql: &'static str,
        args: Value,
    },
}

impl Request {
    /// May it be sent again although it may have run?
    fn is_repeatable(&self) -> bool {
        !matches!(self, Request::Execute { key: None, .. })
    }

    async fn send(&self, node: &mut Client, deadline: Duration) -> Result<Answer, CallError> {
        match self {
            Request::Execute { sql, args, key } => node.execute(sql, args.clone(), key.as_deref(), deadline).await,
            Request::Batch { statements, key } => node.batch(statements, Some(key), deadline).await,
            Request::Read { sql, args } => {
                node.query(sql, args.clone(), Consistency::Linearizable, None, deadline).await
            }
        }
    }
}

/// How a request ended after all its attempts.
#[derive(Debug)]
struct Attempted {
    answer: Option<Answer>,
    attempts: u32,
    /// Some attempt may have taken effect.
    may_have_run: bool,
}

/// A client that may ask any node and stays with the one that answers.
#[derive(Debug)]
struct Roaming {
    clients: Vec<Client>,
    at: usize,
    random: Random,
}

impl Roaming {
    fn new(shared: &Shared, mut random: Random) -> Roaming {
        let clients: Vec<Client> = shared.addresses.iter().map(|address| Client::new(address, None)).collect();
        let at = random.below(clients.len() as u64) as usize;
        Roaming { clients, at, random }
    }

    /// Lets a short random time pass: 2 to 12 ms is about a hundred operations a second for each client.
    async fn pace(&mut self) {
        pause(Duration::from_micros(self.random.between(2_000, 12_000))).await;
    }

    /// Sends a request until it is answered, or until it may have run and must not be repeated.
    async fn attempt(&mut self, shared: &Shared, request: &Request) -> Attempted {
        let end = now() + PATIENCE;
        let mut attempted = Attempted { answer: None, attempts: 0, may_have_run: false };
        while now() < end {
            let deadline = *self.random.pick(&DEADLINES).unwrap_or(&PATIENCE);
            attempted.attempts += 1;
            let node = &mut self.clients[self.at];
            let error = match request.send(node, deadline).await {
                Ok(answer) => {
                    attempted.answer = Some(answer);
                    shared.count_acknowledged();
                    break;
                }
                Err(error) => error,
            };
            attempted.may_have_run |= error.may_have_run();
            if error.is_final() || matches!(error, CallError::Strange { .. }) {
                let text = format!("{}: {error}", node.address());
                shared.note(|log| log.anomalies.push(text));
                break;
            }
            if attempted.may_have_run && !request.is_repeatable() {
                break;
            }
            self.at = (self.at + 1) % self.clients.len();
            pause(AFTER_FAILURE).await;
        }
        attempted
    }
}
