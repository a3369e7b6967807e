//! Row changes: seen while they happen, applied elsewhere, and summed up so that two databases can be compared whatever
//! their pages look like.
//!
//! SQLite's preupdate hook is used, not its session extension: the hook sees rows with NULL in their key, tables without a
//! key and tables with a column named `_rowid_`, which a session leaves out without a word.
//!
//! | module | holds |
//! | --- | --- |
//! | [`missing`] | values of columns that a row was written without |
//! | [`shape`] | tables as row changes see them: stored columns, key, how a row is named in SQL |
//! | [`watch`] | the hook: each change into the log of the group, its hashes into the sums |
//! | [`sums`] | the checksum of all rows, table by table |
//! | [`sequence`] | AUTOINCREMENT counters, of which no hook tells |
//! | [`apply`] | the statements by which a follower makes the same changes |

pub(crate) mod apply;
pub(crate) mod missing;
pub(crate) mod sequence;
pub(crate) mod shape;
pub(crate) mod sums;
pub(crate) mod watch;

use std::ffi::c_int;

use rdb_record::CellRef;
use rusqlite::ffi;

/// A value of SQLite's without copying it.
///
/// # Safety
/// `value` is valid, and stays so and unchanged as long as the result lives.
pub(crate) unsafe fn cell<'a>(value: *mut ffi::sqlite3_value) -> CellRef<'a> {
    // SAFETY: by the contract of this function.
    unsafe {
        match ffi::sqlite3_value_type(value) {
            ffi::SQLITE_INTEGER => CellRef::Integer(ffi::sqlite3_value_int64(value)),
            ffi::SQLITE_FLOAT => CellRef::Real(ffi::sqlite3_value_double(value)),
            ffi::SQLITE_TEXT => {
                let start = ffi::sqlite3_value_text(value);
                CellRef::Text(bytes(start, ffi::sqlite3_value_bytes(value)))
            }
            ffi::SQLITE_BLOB => {
                let start = ffi::sqlite3_value_blob(value);
                CellRef::Blob(bytes(start.cast(), ffi::sqlite3_value_bytes(value)))
            }
            _ => CellRef::Null,
        }
    }
}

/// # Safety
/// `start` is valid for `length` bytes, or null.
unsafe fn bytes<'a>(start: *const u8, length: c_int) -> &'a [u8] {
    if start.is_null() || length <= 0 {
        return &[];
    }
    // SAFETY: by the contract of this function.
    unsafe { std::slice::from_raw_parts(start, length as usize) }
}

pub(crate) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
