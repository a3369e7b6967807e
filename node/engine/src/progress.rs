//! Deadlines and instruction budgets: SQLite calls back every [`STEP`] virtual machine instructions.
//!
//! The only place of the crate that looks at a clock.

use std::cell::Cell;
use std::ffi::{c_int, c_void};
use std::time::Instant;

use rusqlite::ffi;

use crate::sql::statement::Handle;

/// Instructions between two calls: some 10–50 µs of work, so that looking costs less than 1 % of it and a deadline is
/// met within a millisecond.
pub(crate) const STEP: u64 = 1000;

/// Why a statement was interrupted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tripped {
    Deadline,
    Budget,
}

/// What the callback looks at. Lives at a fixed address beside its connection.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    deadline: Cell<Option<Instant>>,
    /// Calls left; `None` = no budget.
    calls: Cell<Option<u64>>,
    tripped: Cell<Option<Tripped>>,
}

impl Progress {
    /// Puts a progress handler on a connection. The box must be dropped after the connection.
    pub(crate) fn install(db: Handle) -> Box<Progress> {
        let progress = Box::<Progress>::default();
        let context: *const Progress = &*progress;
        // SAFETY: the box outlives the connection, and the callback runs on the thread that uses both.
        unsafe { ffi::sqlite3_progress_handler(db, STEP as c_int, Some(call), context as *mut c_void) };
        progress
    }

    /// Starts watching one request.
    pub(crate) fn start(&self, deadline: Option<Instant>, budget: Option<u64>) {
        self.deadline.set(deadline);
        self.calls.set(budget.map(|instructions| instructions.div_ceil(STEP)));
        self.tripped.set(None);
    }

    /// Nothing is interrupted from here on: COMMIT and ROLLBACK must not be.
    pub(crate) fn stop(&self) {
        self.start(None, None);
    }

    pub(crate) fn tripped(&self) -> Option<Tripped> {
        self.tripped.get()
    }

    /// The deadline has passed already.
    pub(crate) fn late(&self) -> bool {
        self.deadline.get().is_some_and(passed)
    }

    fn look(&self) -> bool {
        if let Some(calls) = self.calls.get() {
            if calls == 0 {
                self.tripped.set(Some(Tripped::Budget));
                return true;
            }
            self.calls.set(Some(calls - 1));
        }
        if self.late() {
            self.tripped.set(Some(Tripped::Deadline));
            return true;
        }
        false
    }
}

#[allow(clippy::disallowed_methods, reason = "deadlines are instants, and only SQLite's callback is there to look")]
pub(crate) fn passed(deadline: Instant) -> bool {
    Instant::now() >= deadline
}

/// Nothing in here can panic, so nothing can unwind into SQLite.
unsafe extern "C" fn call(context: *mut c_void) -> c_int {
    // SAFETY: `Progress::install` passed a pointer that outlives the connection.
    let progress = unsafe { &*context.cast::<Progress>() };
    c_int::from(progress.look())
}
