//! The next segment, made ahead of time and filled with zeros.
//!
//! Flushing a record into blocks that were only reserved makes the file system note, in its journal, that they are written
//! now; into blocks that hold zeros already it writes the record alone, which takes about two thirds of the time. Writing
//! zeros takes as long as writing records, so a thread of its own does it beside the appends. A segment that is not ready
//! when it is needed is merely reserved, as before.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::segment::{fill_with_zeros, preallocate};

/// Zeros that are written and flushed at once: some two milliseconds of an ordinary disk.
const STEP: u64 = 1 << 20;
/// Between two steps. A segment is ready within half a second, several times before the last one is full at full load.
const PAUSE: Duration = Duration::from_millis(20);

/// Not named like a segment, so that opening a log passes it over.
const READY: &str = "next";
const UNFINISHED: &str = "next.part";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Wanted,
    Ready,
    /// No room, or another failure: tried again when the next segment is asked for.
    Failed,
    Closed,
}

#[derive(Debug)]
struct Shared {
    dir: PathBuf,
    bytes: u64,
    state: Mutex<State>,
    changed: Condvar,
}

/// The thread ends with the handle.
#[derive(Debug)]
pub(crate) struct Ahead {
    shared: Arc<Shared>,
}

impl Ahead {
    pub(crate) fn start(dir: &Path, bytes: u64) -> io::Result<Ahead> {
        let shared = Shared { dir: dir.to_owned(), bytes, state: Mutex::new(State::Wanted), changed: Condvar::new() };
        let shared = Arc::new(shared);
        let worker = shared.clone();
        std::thread::Builder::new().name("log-ahead".into()).spawn(move || worker.run())?;
        Ok(Ahead { shared })
    }

    /// Moves the prepared segment, if there is one of `bytes`, to `path` and orders another. Not durable: the directory is to
    /// be flushed by the caller.
    pub(crate) fn take(&self, path: &Path, bytes: u64) -> Option<File> {
        let mut state = self.shared.lock();
        let ready = *state == State::Ready && bytes == self.shared.bytes;
        if ready || *state == State::Failed {
            *state = State::Wanted;
        }
        let moved = ready.then(|| std::fs::rename(self.shared.dir.join(READY), path));
        self.shared.changed.notify_all();
        drop(state);
        moved?.and_then(|()| OpenOptions::new().read(true).write(true).open(path)).ok()
    }

    #[cfg(test)]
    pub(crate) fn wait_until_ready(&self) {
        let mut state = self.shared.lock();
        while *state != State::Ready {
            state = self.shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        *self.shared.lock() = State::Closed;
        self.shared.changed.notify_all();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) {
        loop {
            let mut state = self.lock();
            while !matches!(*state, State::Wanted | State::Closed) {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            if *state == State::Closed {
                return;
            }
            drop(state);
            let made = self.make();
            let mut state = self.lock();
            // Renamed under the lock, which a taker holds too.
            let ready = made.and_then(|()| std::fs::rename(self.dir.join(UNFINISHED), self.dir.join(READY)));
            if *state == State::Closed {
                return;
            }
            *state = match ready {
                Ok(()) => State::Ready,
                Err(error) => {
                    tracing::debug!(%error, "the next log segment is not prepared");
                    // It would only take room; whether it is there at all does not matter.
                    let _ = std::fs::remove_file(self.dir.join(UNFINISHED));
                    State::Failed
                }
            };
            self.changed.notify_all();
        }
    }

    /// A bit at a time: the disk is busy with records, and a segment's worth of zeros at once would make them wait for tens of
    /// milliseconds.
    fn make(&self) -> io::Result<()> {
        let file = File::create(self.dir.join(UNFINISHED))?;
        preallocate(&file, 0, self.bytes)?;
        let mut done = 0;
        while done < self.bytes && !self.is_closed_after(PAUSE) {
            let next = (done + STEP).min(self.bytes);
            fill_with_zeros(&file, done, next)?;
            file.sync_data()?;
            done = next;
        }
        file.sync_all()
    }

    /// Waits, unless nobody will want the segment any more.
    fn is_closed_after(&self, pause: Duration) -> bool {
        let state = self.lock();
        let (state, _) = self
            .changed
            .wait_timeout_while(state, pause, |state| *state != State::Closed)
            .unwrap_or_else(PoisonError::into_inner);
        *state == State::Closed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prepared_segment_is_taken_once_and_made_again() {
        let dir = tempfile::tempdir().unwrap();
        let ahead = Ahead::start(dir.path(), 8192).unwrap();
        for name in ["a", "b"] {
            ahead.wait_until_ready();
            assert!(ahead.take(&dir.path().join("other"), 4096).is_none(), "of another size");
            ahead.wait_until_ready();
            let file = ahead.take(&dir.path().join(name), 8192).unwrap();
            assert_eq!(file.metadata().unwrap().len(), 8192);
        }
        assert_eq!(std::fs::read(dir.path().join("a")).unwrap(), vec![0; 8192]);
    }

    #[test]
    fn a_failure_leaves_nothing_and_is_tried_again() {
        let dir = tempfile::tempdir().unwrap();
        let gone = dir.path().join("gone");
        let ahead = Ahead::start(&gone, 8192).unwrap();
        let failed = |ahead: &Ahead| *ahead.shared.lock() == State::Failed;
        while !failed(&ahead) {
            std::thread::yield_now();
        }
        std::fs::create_dir(&gone).unwrap();
        assert!(ahead.take(&gone.join("a"), 8192).is_none());
        ahead.wait_until_ready();
        assert!(ahead.take(&gone.join("a"), 8192).is_some());
    }
}
