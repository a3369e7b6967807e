//! The preupdate hook of a connection that runs groups: what SQLite is about to do to a row goes into the group's log, and
//! the row's hashes into the sums.
//!
//! The hook also fires for rows of a statement that fails afterwards, so the writer takes a mark before each transaction
//! and goes back to it when the transaction is undone.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::rc::Rc;

use rdb_record::{CellRef, RowLog, RowMark};
use rusqlite::ffi;

use super::cell;
use super::shape::{POSITION_TABLE, Shape, Shapes};
use super::sums::{RowSums, row_hash};
use crate::sql::statement::Handle;

/// What the hook does with a change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Mode {
    #[default]
    Off,
    /// Logs it and sums it up.
    Log,
    /// Sums it up only: it is made by a statement that followers run themselves, or applied from a record.
    Sum,
}

#[derive(Default)]
pub(crate) struct Watch {
    pub(crate) mode: Cell<Mode>,
    /// Hashes are wanted.
    pub(crate) sums: Cell<bool>,
    state: RefCell<State>,
}

#[derive(Default)]
struct State {
    shapes: Shapes,
    log: RowLog,
    /// Tables whose sums changed, and by what.
    deltas: Vec<(Rc<Shape>, u64)>,
    /// What could not be carried.
    failed: Option<String>,
}

/// A place to go back to.
pub(crate) struct Mark {
    log: RowMark,
    deltas: usize,
}

impl Watch {
    /// Puts the hook on a connection, or takes it off. The statements that were compiled before must be compiled anew: with a
    /// hook, SQLite deletes rows one by one where it would drop a table's pages at once.
    pub(crate) fn install(self: &Rc<Watch>, db: Handle, on: bool) {
        let context = Rc::as_ptr(self).cast::<c_void>().cast_mut();
        // SAFETY: the owner of the connection keeps the watch until the connection is closed.
        unsafe { ffi::sqlite3_preupdate_hook(db, if on { Some(changed) } else { None }, context) };
        self.mode.set(Mode::Off);
    }

    /// Before a group.
    pub(crate) fn reset(&self, old_values: bool, names: bool) {
        let mut state = self.state.borrow_mut();
        state.log.reset(old_values, names);
        state.deltas.clear();
        state.failed = None;
    }

    pub(crate) fn set_shapes(&self, shapes: Shapes) {
        self.state.borrow_mut().shapes = shapes;
    }

    pub(crate) fn with_shapes<T>(&self, look: impl FnOnce(&Shapes) -> T) -> T {
        look(&self.state.borrow().shapes)
    }

    pub(crate) fn shape(&self, table: &str) -> Option<Rc<Shape>> {
        self.state.borrow().shapes.get(table.as_bytes()).cloned()
    }

    pub(crate) fn mark(&self) -> Mark {
        let state = self.state.borrow();
        Mark { log: state.log.mark(), deltas: state.deltas.len() }
    }

    pub(crate) fn back_to(&self, mark: &Mark) {
        let mut state = self.state.borrow_mut();
        state.log.back_to(&mark.log);
        state.deltas.truncate(mark.deltas);
        state.failed = None;
    }

    pub(crate) fn take_failure(&self) -> Option<String> {
        self.state.borrow_mut().failed.take()
    }

    pub(crate) fn with_log<T>(&self, write: impl FnOnce(&mut RowLog) -> T) -> T {
        write(&mut self.state.borrow_mut().log)
    }

    /// Gives the collected changes to `sums`.
    pub(crate) fn settle(&self, sums: &mut RowSums) {
        let mut total: HashMap<*const Shape, (Rc<Shape>, u64)> = HashMap::new();
        for (shape, delta) in self.state.borrow_mut().deltas.drain(..) {
            total.entry(Rc::as_ptr(&shape)).or_insert_with(|| (shape, 0)).1 ^= delta;
        }
        for (shape, delta) in total.into_values() {
            sums.add(&shape.table.name, delta);
        }
    }
}

unsafe extern "C" fn changed(
    context: *mut c_void,
    db: *mut ffi::sqlite3,
    op: c_int,
    _database: *const c_char,
    table: *const c_char,
    rowid: i64,
    new_rowid: i64,
) {
    // SAFETY: `install` gave this pointer, and the watch lives; SQLite gives a C string.
    let (watch, table) = unsafe { (&*context.cast::<Watch>(), CStr::from_ptr(table)) };
    if watch.mode.get() == Mode::Off {
        return;
    }
    let mut state = watch.state.borrow_mut();
    let logging = watch.mode.get() == Mode::Log;
    let Some(shape) = state.shapes.get(table.to_bytes()).cloned() else {
        // A statement that changes the schema may make tables that it then fills: they are read as a whole afterwards.
        if logging {
            let name = table.to_string_lossy().into_owned();
            state.failed.get_or_insert(format!("table {name} is not known to the log of row changes"));
        }
        return;
    };
    if shape.table.name == POSITION_TABLE {
        return;
    }
    if shape.unnameable() {
        if logging {
            state.failed.get_or_insert(format!(
                "rows of {} can't be named: it has columns called rowid, _rowid_ and oid",
                shape.table.name
            ));
        }
        return;
    }
    // SAFETY: within the hook, for columns that the row has.
    let row = unsafe {
        let old = (op != ffi::SQLITE_INSERT).then(|| read(db, &shape, ffi::sqlite3_preupdate_old));
        let new = (op != ffi::SQLITE_DELETE).then(|| read(db, &shape, ffi::sqlite3_preupdate_new));
        (old, new)
    };
    if watch.sums.get() {
        let named = |rowid: i64| shape.rowid.is_some().then_some(rowid);
        let sum = |rowid: i64, cells: &Option<Vec<CellRef<'_>>>| {
            cells.as_ref().map_or(0, |cells| row_hash(&shape.table.name, named(rowid), cells.iter().copied()))
        };
        let delta = sum(rowid, &row.0) ^ sum(new_rowid, &row.1);
        state.deltas.push((Rc::clone(&shape), delta));
    }
    if logging {
        match row {
            (None, Some(new)) => state.log.insert(&shape.table, new_rowid, &new),
            (Some(old), Some(new)) => state.log.update(&shape.table, (rowid, new_rowid), &old, &new),
            (Some(old), None) => state.log.delete(&shape.table, rowid, &old),
            (None, None) => {}
        }
    }
}

type ReadColumn = unsafe extern "C" fn(*mut ffi::sqlite3, c_int, *mut *mut ffi::sqlite3_value) -> c_int;

/// The stored columns of the row before or after the change.
///
/// # Safety
/// Only within the hook, whose end ends what is borrowed.
unsafe fn read<'a>(db: Handle, shape: &Shape, column: ReadColumn) -> Vec<CellRef<'a>> {
    let one = |place: &usize| {
        let mut value = std::ptr::null_mut();
        // SAFETY: by the contract of this function; `value` is set when the call succeeds.
        unsafe {
            match column(db, *place as c_int, &mut value) {
                ffi::SQLITE_OK if !value.is_null() => cell(value),
                _ => CellRef::Null,
            }
        }
    };
    shape.stored.iter().map(one).collect()
}
