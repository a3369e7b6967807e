//! The preupdate hook of a connection that runs groups: what SQLite is about to do to a row goes into the group's log, and
//! the row's hashes into the sums.
//!
//! The hook also fires for rows of a statement that fails afterwards, so the writer takes a mark before each transaction
//! and goes back to it when the transaction is undone.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeSet, HashMap};
use std::ffi::{CStr, c_char, c_int, c_void};
use std::rc::Rc;

use rdb_record::{Cell as Value, CellRef, RowLog, RowMark};
use rusqlite::ffi;

use super::cell;
use super::missing::{self, Missing};
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
    /// Sums it up only: it is applied from a record, or made by a statement of one.
    Sum,
    /// As `Sum`, of a statement that followers run themselves. But followers check no foreign keys, so what these do to rows
    /// of other tables is logged (DROP TABLE deletes the rows first, with all consequences).
    Schema,
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
    /// Rows that were written in place.
    rewritten: Vec<Rewritten>,
    /// What could not be carried.
    failed: Option<String>,
    /// In mode `Schema`: tables (in lower case) whose rows go with the statement.
    altered: BTreeSet<String>,
    /// Bytes from which on the log is too large for a record, and nothing more is logged.
    limit: usize,
    /// It is.
    full: bool,
}

/// A row that was written in place, through a handle on one of its values (FTS5 does so when its settings change). The hook
/// comes before, calls it a deletion, and cannot tell what is written: the row is read when the statement is through.
pub(crate) struct Rewritten {
    pub(crate) shape: Rc<Shape>,
    pub(crate) rowid: i64,
    old: Vec<Value>,
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
    pub(crate) fn reset(&self, old_values: bool, names: bool, limit: u64) {
        let mut state = self.state.borrow_mut();
        (state.limit, state.full) = (usize::try_from(limit).unwrap_or(usize::MAX), false);
        state.log.reset(old_values, names);
        state.deltas.clear();
        state.rewritten.clear();
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
        state.rewritten.clear();
        state.failed = None;
    }

    /// The changes since [`Watch::reset`] are larger than a record may be.
    pub(crate) fn is_full(&self) -> bool {
        self.state.borrow().full
    }

    /// Before a statement that changes the schema and makes, drops or alters these tables.
    pub(crate) fn begin_schema(&self, altered: BTreeSet<String>) {
        self.state.borrow_mut().altered = altered;
        self.mode.set(Mode::Schema);
    }

    pub(crate) fn take_rewritten(&self) -> Vec<Rewritten> {
        std::mem::take(&mut self.state.borrow_mut().rewritten)
    }

    /// What has become of a row that was written in place.
    pub(crate) fn log_rewritten(&self, row: &Rewritten, new: &[CellRef<'_>]) {
        let old: Vec<CellRef<'_>> = row.old.iter().map(Value::as_ref).collect();
        let hash = |cells: &[CellRef<'_>]| row_hash(&row.shape.table.name, Some(row.rowid), cells.iter().copied());
        self.state.borrow_mut().deltas.push((Rc::clone(&row.shape), hash(&old) ^ hash(new)));
        self.with_log(|log| log.update(&row.shape.table, (row.rowid, row.rowid), &old, new));
    }

    pub(crate) fn take_failure(&self) -> Option<String> {
        self.state.borrow_mut().failed.take()
    }

    pub(crate) fn with_log<T>(&self, write: impl FnOnce(&mut RowLog) -> T) -> T {
        let mut state = self.state.borrow_mut();
        let result = write(&mut state.log);
        state.full |= state.log.encoded_len() > state.limit;
        result
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
    let logging = watch.mode.get() == Mode::Log && !state.full;
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
    let of_others =
        watch.mode.get() == Mode::Schema && !shape.table.internal && !state.altered.contains(&shape.lower_name());
    let logging = logging || of_others;
    if let Some(why) = shape.refusal() {
        if logging {
            state.failed.get_or_insert(why);
        }
        return;
    }
    // SAFETY: within the hook, for columns that the row has.
    let row = unsafe {
        let old = (op != ffi::SQLITE_INSERT).then(|| read(db, &shape, ffi::sqlite3_preupdate_old));
        let new = (op != ffi::SQLITE_DELETE).then(|| read(db, &shape, ffi::sqlite3_preupdate_new));
        (old.transpose(), new.transpose())
    };
    let row = match row {
        (Ok(old), Ok(new)) => (old, new),
        (Err(why), _) | (_, Err(why)) => {
            state.failed.get_or_insert(why);
            return;
        }
    };
    // SAFETY: within the hook.
    let in_place = op == ffi::SQLITE_DELETE && unsafe { ffi::sqlite3_preupdate_blobwrite(db) } >= 0;
    let again = state.rewritten.iter().any(|row| row.rowid == rowid && row.shape.table.name == shape.table.name);
    if again || in_place && !logging {
        state.failed.get_or_insert(format!("a row of {} is written in place and again", shape.table.name));
    }
    if in_place {
        let old = row.0.iter().flatten().map(|cell| cell.to_cell()).collect();
        state.rewritten.push(Rewritten { shape, rowid, old });
        return;
    }
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
        state.full |= state.log.encoded_len() > state.limit;
    }
}

type ReadColumn = unsafe extern "C" fn(*mut ffi::sqlite3, c_int, *mut *mut ffi::sqlite3_value) -> c_int;

/// The stored columns of the row before or after the change. The error says what could not be found out.
///
/// # Safety
/// Only within the hook, whose end ends what is borrowed.
unsafe fn read<'a>(db: Handle, shape: &'a Shape, column: ReadColumn) -> Result<Vec<CellRef<'a>>, String> {
    let one = |(place, missing): (&usize, &'a Missing)| {
        let mut value = std::ptr::null_mut();
        // SAFETY: by the contract of this function; `value` is set when the call succeeds.
        let found = unsafe { column(db, *place as c_int, &mut value) == ffi::SQLITE_OK && !value.is_null() };
        match missing {
            _ if !found => Err(format!("a value of {} cannot be read", shape.table.name)),
            Missing::Value(value_of) if missing::is_missing(value) => Ok(value_of.as_ref()),
            Missing::Unknown if missing::is_missing(value) => {
                Err(format!("a row of {} lacks a column whose default is not a constant", shape.table.name))
            }
            // SAFETY: as above.
            _ => Ok(unsafe { cell(value) }),
        }
    };
    shape.stored.iter().zip(&shape.missing).map(one).collect()
}
