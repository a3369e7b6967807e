//! Checkpoints: copying what `-wal` holds into the database file, in the background.
//!
//! A thread with its own connection sleeps until the writing role has written enough frames, then runs PASSIVE
//! checkpoints, which wait for nobody. SQLite reuses `-wal` from its start when a transaction begins while everything
//! in it has been copied. Under steady writes that moment would never come: each checkpoint leaves the frames that were
//! written meanwhile. So when little is left, the thread takes the [`WalGauge::gate`] that every group passes, and
//! copies the rest while the writer waits: a few milliseconds once in thousands of groups.
//!
//! A checkpoint begins by flushing `-wal`. Nothing of it is on disk by then, as no group waits for that, so the disk would be busy for
//! tens of milliseconds at once, and the log's flushes, for which clients do wait, behind it. So the thread has the system begin
//! to write `-wal` back, a little at a time, as it grows.
//!
//! At the same steps it enlarges `-wal`, so that groups write into a file that is long enough already. A file system
//! without a journal writes a changed inode in the next flush of any file that has its inode in the same block, and the
//! log is such a file.
//!
//! Everything in `-wal` is committed (a group is logged before it becomes visible), so a checkpoint can never bring
//! something into the file that the log does not hold.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;

use parking_lot::{Condvar, Mutex};
use rusqlite::Connection;

use crate::capture::{FILE_HEADER, FRAME_HEADER};
use crate::connection::{self, Plain, WAL_SIZE_LIMIT, sqlite};
use crate::engine::Shared;
use crate::error::EngineError;

/// The writer is held up for a checkpoint only when fewer frames than this are left: copying them takes about a
/// millisecond besides the two fsyncs.
const LITTLE: u64 = 512;

/// Passes without the gate before the gate is taken anyway: each pass leaves only what was written during it, so
/// more of them do not help.
const FREE_PASSES: u32 = 3;

/// Write-back is begun whenever `-wal` has grown by so much: some two milliseconds of an ordinary disk.
const WRITE_BACK_BYTES: u64 = 1 << 20;

/// `-wal` is at least so much longer than what it holds: when the thread comes late by one step, there is still space.
const AHEAD_BYTES: u64 = 2 * WRITE_BACK_BYTES;

/// `-wal` has space in its index for so many times the frames at which it is copied: readers may keep it from being reused for a
/// while.
const INDEXED_BOUNDS: u64 = 4;

/// Cache of the checkpoint connection; copying does not use it.
const CACHE: u64 = 256 << 10;

/// How full `-wal` is, and who wants to know.
pub(crate) struct WalGauge {
    frames: AtomicU64,
    checkpoints: AtomicU64,
    /// `-wal` is at least so long, in bytes. It is never cut below [`WAL_SIZE_LIMIT`], so no more than that is noted.
    length: AtomicU64,
    /// Frames at which the thread wakes up.
    bound: u64,
    /// Frames after which write-back is begun.
    step: u64,
    wanted: Mutex<Wanted>,
    wake: Condvar,
    /// The disk failed under a checkpoint.
    failure: OnceLock<String>,
    /// Held by the writing role while a group runs, by the thread while it copies the rest.
    pub(crate) gate: Mutex<()>,
    /// Held during a checkpoint: SQLite lets a second one at the same time end at once, with nothing done. Taken
    /// before the gate.
    one: Mutex<()>,
}

#[derive(Default)]
struct Wanted {
    checkpoint: bool,
    write_back: bool,
    stop: bool,
}

impl WalGauge {
    /// For a `-wal` that is copied when it has grown to `bytes`.
    pub(crate) fn new(bytes: u64, page_size: u32) -> WalGauge {
        let frames = |bytes: u64| (bytes / u64::from(page_size)).max(1);
        WalGauge {
            frames: AtomicU64::new(0),
            checkpoints: AtomicU64::new(0),
            length: AtomicU64::new(0),
            bound: frames(bytes),
            step: frames(WRITE_BACK_BYTES),
            wanted: Mutex::default(),
            wake: Condvar::new(),
            failure: OnceLock::new(),
            gate: Mutex::new(()),
            one: Mutex::new(()),
        }
    }

    pub(crate) fn frames(&self) -> u64 {
        self.frames.load(Ordering::Relaxed)
    }

    /// Whether `-wal` surely reaches to `end`, without asking the file system: where times have a fine grain, asking for a
    /// file's makes the next write change its inode.
    pub(crate) fn has_space(&self, end: i64) -> bool {
        u64::try_from(end).is_ok_and(|end| end <= self.length.load(Ordering::Relaxed))
    }

    pub(crate) fn failure(&self) -> Option<&str> {
        self.failure.get().map(String::as_str)
    }

    pub(crate) fn checkpoints(&self) -> u64 {
        self.checkpoints.load(Ordering::Relaxed)
    }

    /// The writing role has added frames. Wakes the thread at the bound, and again at every quarter of it: readers
    /// may have kept the last checkpoint from getting to the end.
    pub(crate) fn add(&self, frames: u64) {
        let before = self.frames.fetch_add(frames, Ordering::Relaxed);
        let passes = |step: u64| before / step != (before + frames) / step;
        let checkpoint = before + frames >= self.bound && passes(self.bound.div_ceil(4));
        let write_back = passes(self.step);
        if checkpoint || write_back {
            let mut wanted = self.wanted.lock();
            wanted.checkpoint |= checkpoint;
            wanted.write_back |= write_back;
            self.wake.notify_one();
        }
    }
}

/// The thread; ends when dropped.
pub(crate) struct CheckpointThread {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl CheckpointThread {
    pub(crate) fn start(shared: &Arc<Shared>) -> Result<CheckpointThread, EngineError> {
        let plain = connection::internal(&shared.options.path, CACHE)?;
        // Recovery or an earlier process may have left frames.
        let left = match passive(&plain.connection) {
            Ok((log, copied)) => log.saturating_sub(copied),
            // They stay where they are until there is space. Nothing else needs it: reads go on.
            Err(EngineError::Full(_)) => shared.gauge.bound,
            Err(error) => return Err(error),
        };
        shared.gauge.frames.store(left, Ordering::Relaxed);
        if !connection::reserve_index(&plain, shared.gauge.bound.saturating_mul(INDEXED_BOUNDS)) {
            tracing::warn!("no space set aside for the index of the write-ahead log");
        }
        let owned = Arc::clone(shared);
        let thread = std::thread::Builder::new()
            .name("checkpoint".to_owned())
            .spawn(move || work(&owned, &plain.connection))
            .map_err(|error| connection::io("starting the checkpoint thread", &error))?;
        Ok(CheckpointThread { shared: Arc::clone(shared), thread: Some(thread) })
    }
}

impl Drop for CheckpointThread {
    fn drop(&mut self) {
        self.shared.gauge.wanted.lock().stop = true;
        self.shared.gauge.wake.notify_one();
        if let Some(thread) = self.thread.take() {
            // It cannot panic; if it did, there is nothing left to do about it.
            let _ = thread.join();
        }
    }
}

/// The next thing to do; `None` at the end.
fn next(gauge: &WalGauge) -> Option<Wanted> {
    let mut wanted = gauge.wanted.lock();
    while !wanted.checkpoint && !wanted.write_back && !wanted.stop {
        gauge.wake.wait(&mut wanted);
    }
    (!wanted.stop).then(|| std::mem::take(&mut *wanted))
}

/// Begins to write `-wal` back, without waiting for it, and makes space for what comes next. No lock of SQLite is on this
/// file, so closing it releases none.
fn write_back(shared: &Shared, connection: &Connection) {
    let mut path = shared.options.path.clone().into_os_string();
    path.push("-wal");
    let Ok(file) = OpenOptions::new().write(true).open(path) else { return };
    // SAFETY: the descriptor is open. That it does not work, here or on this file system, changes no result.
    unsafe { libc::sync_file_range(file.as_raw_fd(), 0, 0, libc::SYNC_FILE_RANGE_WRITE) };
    // Without space ahead, each group makes its own.
    if let Err(error) = make_space(shared, connection, &file) {
        tracing::debug!(%error, "no space ahead for the write-ahead log");
    }
}

/// Zeros behind the last frame are no frames: no page has the number 0.
fn make_space(shared: &Shared, connection: &Connection, file: &File) -> io::Result<()> {
    let (frames, _) = wal_checkpoint(connection, "NOOP").map_err(io::Error::other)?;
    let frame = (FRAME_HEADER as u64).saturating_add(u64::from(shared.page_size));
    let used = frames.saturating_mul(frame).saturating_add(FILE_HEADER as u64);
    let (length, wanted) = (file.metadata()?.len(), used.saturating_add(AHEAD_BYTES).min(WAL_SIZE_LIMIT));
    if length < wanted {
        rustix::fs::fallocate(file, rustix::fs::FallocateFlags::empty(), length, wanted - length)?;
    }
    shared.gauge.length.fetch_max(length.max(wanted).min(WAL_SIZE_LIMIT), Ordering::Relaxed);
    Ok(())
}

fn work(shared: &Shared, connection: &Connection) {
    while let Some(wanted) = next(&shared.gauge) {
        if !wanted.checkpoint {
            write_back(shared, connection);
            continue;
        }
        match checkpoint(shared, connection) {
            Ok(()) => {}
            Err(error @ EngineError::Io { .. }) => {
                // Perhaps of a flush: another attempt would succeed without having saved anything.
                tracing::error!(%error, "checkpoint failed; there is no other");
                // Only this thread sets it, and ends.
                let _ = shared.gauge.failure.set(error.to_string());
                return;
            }
            // The next frames wake the thread again; meanwhile -wal grows.
            Err(error) => tracing::warn!(%error, "checkpoint failed"),
        }
    }
}

fn checkpoint(shared: &Shared, connection: &Connection) -> Result<(), EngineError> {
    let _one = shared.gauge.one.lock();
    for _ in 0..FREE_PASSES {
        let (log, copied) = passive(connection)?;
        let left = log.saturating_sub(copied);
        shared.gauge.frames.store(left, Ordering::Relaxed);
        if left <= LITTLE {
            break;
        }
    }
    let _gate = shared.gauge.gate.lock();
    let (log, copied) = passive(connection)?;
    shared.gauge.frames.store(log.saturating_sub(copied), Ordering::Relaxed);
    shared.gauge.checkpoints.fetch_add(1, Ordering::Relaxed);
    Ok(())
}

fn passive(connection: &Connection) -> Result<(u64, u64), EngineError> {
    wal_checkpoint(connection, "PASSIVE")
}

/// Frames in `-wal`, and how many of them are in the database file now.
fn wal_checkpoint(connection: &Connection, mode: &str) -> Result<(u64, u64), EngineError> {
    let count = |value: i64| u64::try_from(value).unwrap_or(0);
    connection
        .query_row(&format!("PRAGMA wal_checkpoint({mode})"), [], |row| Ok((count(row.get(1)?), count(row.get(2)?))))
        .map_err(|error| sqlite("checkpoint", error))
}

/// One checkpoint on a connection of its own.
pub(crate) fn run_once(shared: &Shared) -> Result<(), EngineError> {
    let Plain { connection, .. } = connection::internal(&shared.options.path, CACHE)?;
    let _one = shared.gauge.one.lock();
    let _gate = shared.gauge.gate.lock();
    let (log, copied) = passive(&connection)?;
    shared.gauge.frames.store(log.saturating_sub(copied), Ordering::Relaxed);
    shared.gauge.checkpoints.fetch_add(1, Ordering::Relaxed);
    Ok(())
}
