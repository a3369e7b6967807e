//! What runs beside the requests: the clock's ticks, flushing and reading for others, retention, disk space, sessions.

use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender};
use rdb_log::{DataState, LogReader, Retention};
use rdb_protocol::{Member, Position};
use rdb_replication::{Input, Time};

use super::Node;
use super::core::Effects;
use crate::clock;

/// Reads and flushes that may wait. The core has at most one fetch per follower under way, and a flush covers all before
/// it, so this is never reached by a healthy node; beyond it, whoever asks waits.
const MAX_WAITING: usize = 1024;

/// The ticker wakes at least so often, though the core may ask for less: the shortest heartbeat interval is 50 ms.
const TICK: Duration = Duration::from_millis(50);
/// Free space, and what a checkpoint met, is looked at so often.
const DISK_TICKS: u64 = 4;
/// Retention, token files, idle seed sessions.
const HOUSEKEEPING_TICKS: u64 = 40;
/// Hints in the control file. No rule needs them newer, and each costs the writes of that moment some milliseconds.
const HINT_TICKS: u64 = 200;

/// A leader that has written nothing for this part of `progressTimeout` writes a `Noop`: the timed probe of its disk and
/// followers. Four probes fit, so that one slow answer is no alarm.
const PROBES_PER_TIMEOUT: u64 = 4;

/// The way to the flusher and the fetcher.
pub struct Tasks {
    flushes: Sender<Effects>,
    fetches: Sender<Fetch>,
}

struct Fetch {
    reader: LogReader,
    generation: u64,
    to: Member,
    prev: Position,
    max_bytes: u64,
}

/// The threads' ends of [`Tasks`].
pub struct TaskQueues {
    flushes: Receiver<Effects>,
    fetches: Receiver<Fetch>,
}

impl Tasks {
    pub fn new() -> (Tasks, TaskQueues) {
        let (flushes, flush_queue) = crossbeam_channel::bounded(MAX_WAITING);
        let (fetches, fetch_queue) = crossbeam_channel::bounded(MAX_WAITING);
        (Tasks { flushes, fetches }, TaskQueues { flushes: flush_queue, fetches: fetch_queue })
    }

    pub fn flush(&self, effects: Effects) {
        if self.flushes.send(effects).is_err() {
            tracing::error!("the flusher has ended");
        }
    }

    pub fn fetch(&self, reader: LogReader, generation: u64, to: Member, prev: Position, max_bytes: u64) {
        if self.fetches.try_send(Fetch { reader, generation, to, prev, max_bytes }).is_err() {
            tracing::error!("too many fetches are waiting");
        }
    }
}

pub(super) fn start(node: &Arc<Node>, queues: TaskQueues, scrub: Duration) -> std::io::Result<()> {
    let scrubber = node.clone();
    spawn("scrub", move || super::scrub::scrub_forever(&scrubber, scrub))?;
    let TaskQueues { flushes, fetches } = queues;
    let flusher = node.clone();
    spawn("flush", move || {
        while let Ok(effects) = flushes.recv() {
            flusher.finish(effects);
        }
    })?;
    let fetcher = node.clone();
    spawn("fetch", move || {
        while let Ok(fetch) = fetches.recv() {
            serve_fetch(&fetcher, fetch);
        }
    })?;
    let ticker = node.clone();
    spawn("tick", move || tick_forever(&ticker))?;
    let dialler = node.clone();
    spawn("dial", move || super::peers::dial_forever(&dialler))?;
    let seeder = node.clone();
    spawn("seed", move || super::seeding::seed_forever(&seeder))
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
    std::thread::Builder::new().name(name.into()).spawn(run).map(drop)
}

fn serve_fetch(node: &Node, fetch: Fetch) {
    let Fetch { reader, generation, to, prev, max_bytes } = fetch;
    let entries = reader.read(prev.index.next(), max_bytes as usize).unwrap_or_else(|error| {
        tracing::warn!(%to, %error, "cannot read records for a follower");
        Vec::new()
    });
    node.drive_in(generation, Input::Fetched { to, prev, entries });
}

fn tick_forever(node: &Node) {
    let mut count = 0u64;
    loop {
        let wait = {
            let mut core = node.lock();
            let now = Time(clock::boot_micros());
            let wake = core.running.as_ref().map_or(Time::NEVER, |running| running.replica.wake_at(now));
            let wait = wake.since(now).min(TICK);
            if !wait.is_zero() {
                node.ticks.wait_for(&mut core, wait);
            }
            let effects = node.step(&mut core, Input::Tick { timestamp: node.timestamp() });
            node.unlock_and_send(core);
            node.defer(effects);
            wait
        };
        count += u64::from(!wait.is_zero());
        if count.is_multiple_of(DISK_TICKS) {
            look_at_disk(node);
        }
        if count.is_multiple_of(HOUSEKEEPING_TICKS) {
            node.tokens.refresh(clock::boot_micros());
            housekeeping(node);
        }
        if count.is_multiple_of(HINT_TICKS) {
            persist_hints(node);
        }
        probe(node);
    }
}

fn look_at_disk(node: &Node) {
    if let Some(engine) = node.engine()
        && let Some(failure) = engine.failure()
    {
        super::die("the database cannot be written", &failure);
    }
    node.disk.refresh();
    // What is said is compared with what is: the state also changes when an append runs out of space or at the start, and
    // what was said goes with the data when that is replaced.
    let said = node.lock().problems.contains_key("DISK_FULL");
    if said != node.disk.lacks_space() {
        node.disk_changed();
    }
}

/// An idle leader proves that it can still commit.
fn probe(node: &Node) {
    let now = clock::boot_micros();
    let mut core = node.lock();
    let Some(running) = &core.running else { return };
    let last = running.log.last().index;
    let idle = node.last_growth.lock().observe(last, now);
    let pause = running.replica.settings().progress_timeout_ms * 1000 / PROBES_PER_TIMEOUT;
    if running.replica.is_open() && idle >= pause && running.replica.uncommitted_ms(Time(now)).is_none() {
        let effects = node.step(&mut core, Input::Noop);
        node.unlock(core);
        node.defer(effects);
    }
}

/// When the log last grew.
#[derive(Default)]
pub struct Growth {
    last: rdb_protocol::Index,
    at: u64,
}

impl Growth {
    /// Microseconds since the log's end was another than `last`.
    fn observe(&mut self, last: rdb_protocol::Index, now: u64) -> u64 {
        if last != self.last {
            *self = Growth { last, at: now };
        }
        now.saturating_sub(self.at)
    }
}

/// Notes in the control file how far things are: two flushes, for which all that would step the core wait.
fn persist_hints(node: &Node) {
    node.lock().persist_hints();
}

fn housekeeping(node: &Node) {
    node.seeds.expire(node.wal_bytes());
    // A worker that could not apply (no space, a short failure) tries again.
    if node.view.applied() < node.view.committed() {
        node.worker.wake();
    }
    let mut core = node.lock();
    if !matches!(core.control.state().data, DataState::Ready) {
        return;
    }
    let settings = core.control.state().settings.clone();
    let applied = node.view.applied().next();
    let Some(running) = &mut core.running else { return };
    let followers = running.replica.needed_from();
    // A follower is waited for only within the limits of `logRetention`: size and age decide for it, not the floor.
    let within = running.log.disk_bytes() <= settings.log_retention_bytes;
    let mut floor = if within && followers.0 > 0 { applied.min(followers) } else { applied };
    // What a volume snapshot still needs is kept like what a follower still needs; its last record too, by which whoever
    // starts from it is recognised.
    if let Some(snapshot) = settings.retain_from.filter(|_| within) {
        floor = floor.min(snapshot);
    }
    if let Some(seed) = node.seeds.oldest() {
        floor = floor.min(seed.next());
    }
    let policy = Retention {
        floor,
        max_bytes: settings.log_retention_bytes,
        oldest_ms: clock::unix_millis().saturating_sub(settings.log_retention_age_ms),
    };
    let forgotten = running.log.forget(policy);
    drop(core);
    match forgotten.delete() {
        Ok(0) => {}
        Ok(dropped) => tracing::info!(dropped, "log segments dropped"),
        Err(error) => tracing::warn!(%error, "cannot drop old log segments"),
    }
}
