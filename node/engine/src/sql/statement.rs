//! One prepared statement.
//!
//! A [`Stmt`] does not borrow its connection, so that both can live in one struct. The owner keeps the order: the
//! fields that hold statements are declared before the connection, and so dropped before it.

use std::ffi::{CStr, c_char, c_int};
use std::ptr::{self, NonNull};

use rdb_record::CellRef;
use rusqlite::ffi;

use crate::value::{Column, Value};

/// Handle of a connection, for as long as its owner lives.
pub(crate) type Handle = *mut ffi::sqlite3;

/// An extended result code of SQLite with its message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SqliteError {
    pub(crate) code: i32,
    pub(crate) message: String,
    /// `errno` of the failed system call, where there was one.
    pub(crate) errno: i32,
}

impl SqliteError {
    /// The error of the last call on `db`.
    pub(crate) fn last(db: Handle) -> SqliteError {
        // SAFETY: the callers' handle is open, and the message is copied before the next call can change it.
        unsafe {
            SqliteError {
                code: ffi::sqlite3_extended_errcode(db),
                message: CStr::from_ptr(ffi::sqlite3_errmsg(db)).to_string_lossy().into_owned(),
                errno: ffi::sqlite3_system_errno(db),
            }
        }
    }

    /// The code without its extension.
    pub(crate) fn primary(&self) -> i32 {
        self.code & 0xff
    }
}

pub(crate) struct Stmt {
    raw: NonNull<ffi::sqlite3_stmt>,
    db: Handle,
}

impl Stmt {
    /// Compiles the first statement of `sql`. Gives the statement (`None` if there was only white space or a comment)
    /// and the rest of the text.
    pub(crate) fn prepare(db: Handle, sql: &str) -> Result<(Option<Stmt>, &str), SqliteError> {
        let too_long =
            || SqliteError { code: ffi::SQLITE_TOOBIG, message: "statement text too long".to_owned(), errno: 0 };
        let length = c_int::try_from(sql.len()).map_err(|_| too_long())?;
        let mut raw = ptr::null_mut();
        let mut tail: *const c_char = ptr::null();
        let flags = ffi::SQLITE_PREPARE_PERSISTENT;
        let start = sql.as_ptr().cast::<c_char>();
        // SAFETY: `start` is valid for `length` bytes during the call; `tail` points into them afterwards.
        let (code, used) = unsafe {
            let code = ffi::sqlite3_prepare_v3(db, start, length, flags, &mut raw, &mut tail);
            (code, if tail.is_null() { sql.len() } else { tail.offset_from(start) as usize })
        };
        if code != ffi::SQLITE_OK {
            return Err(SqliteError::last(db));
        }
        let rest = sql.get(used..).unwrap_or("");
        Ok((NonNull::new(raw).map(|raw| Stmt { raw, db }), rest))
    }

    /// Compiles an internal statement.
    pub(crate) fn internal(db: Handle, sql: &str) -> Result<Stmt, SqliteError> {
        match Stmt::prepare(db, sql)? {
            (Some(stmt), _) => Ok(stmt),
            (None, _) => {
                Err(SqliteError { code: ffi::SQLITE_MISUSE, message: format!("empty statement: {sql}"), errno: 0 })
            }
        }
    }

    fn raw(&self) -> *mut ffi::sqlite3_stmt {
        self.raw.as_ptr()
    }

    pub(crate) fn parameter_count(&self) -> usize {
        // SAFETY: the statement is alive.
        unsafe { ffi::sqlite3_bind_parameter_count(self.raw()) as usize }
    }

    /// Name of a parameter (1-based) with its prefix; `None` for `?`.
    pub(crate) fn parameter_name(&self, index: usize) -> Option<String> {
        // SAFETY: the name lives as long as the statement and is copied here.
        unsafe {
            let name = ffi::sqlite3_bind_parameter_name(self.raw(), index as c_int);
            (!name.is_null()).then(|| CStr::from_ptr(name).to_string_lossy().into_owned())
        }
    }

    /// Binds a value without copying it.
    ///
    /// # Safety
    /// `value` must stay unchanged until [`Stmt::clear`] or the next binding of the same parameter.
    pub(crate) unsafe fn bind(&self, index: usize, value: &Value) -> Result<(), SqliteError> {
        let (raw, at) = (self.raw(), index as c_int);
        // SAFETY: the caller keeps the bytes alive; SQLITE_STATIC tells SQLite not to copy or free them.
        let code = unsafe {
            match value {
                Value::Null => ffi::sqlite3_bind_null(raw, at),
                Value::Integer(value) => ffi::sqlite3_bind_int64(raw, at, *value),
                Value::Real(value) => ffi::sqlite3_bind_double(raw, at, *value),
                Value::Text(text) => ffi::sqlite3_bind_text64(
                    raw,
                    at,
                    text.as_ptr().cast(),
                    text.len() as u64,
                    ffi::SQLITE_STATIC(),
                    ffi::SQLITE_UTF8 as u8,
                ),
                Value::Blob(blob) => return self.bind_blob(index, blob),
            }
        };
        self.check(code)
    }

    /// Binds bytes without copying them.
    ///
    /// # Safety
    /// As [`Stmt::bind`].
    pub(crate) unsafe fn bind_blob(&self, index: usize, blob: &[u8]) -> Result<(), SqliteError> {
        // SAFETY: the caller keeps the bytes alive. An empty slice's pointer is not null, so it is bound as an empty
        // blob, not as NULL.
        let code = unsafe {
            let data = blob.as_ptr().cast();
            let length = blob.len() as u64;
            ffi::sqlite3_bind_blob64(self.raw(), index as c_int, data, length, ffi::SQLITE_STATIC())
        };
        self.check(code)
    }

    /// Binds a record's value without copying it.
    ///
    /// # Safety
    /// As [`Stmt::bind`].
    pub(crate) unsafe fn bind_cell(&self, index: usize, cell: CellRef<'_>) -> Result<(), SqliteError> {
        let (raw, at) = (self.raw(), index as c_int);
        // SAFETY: the caller keeps the bytes alive; SQLITE_STATIC tells SQLite not to copy or free them.
        let code = unsafe {
            match cell {
                CellRef::Null => ffi::sqlite3_bind_null(raw, at),
                CellRef::Integer(value) => ffi::sqlite3_bind_int64(raw, at, value),
                CellRef::Real(value) => ffi::sqlite3_bind_double(raw, at, value),
                CellRef::Text(text) => {
                    let (start, length) = (text.as_ptr().cast(), text.len() as u64);
                    ffi::sqlite3_bind_text64(raw, at, start, length, ffi::SQLITE_STATIC(), ffi::SQLITE_UTF8 as u8)
                }
                CellRef::Blob(blob) => return self.bind_blob(index, blob),
            }
        };
        self.check(code)
    }

    pub(crate) fn bind_integer(&self, index: usize, value: i64) -> Result<(), SqliteError> {
        // SAFETY: the statement is alive.
        let code = unsafe { ffi::sqlite3_bind_int64(self.raw(), index as c_int, value) };
        self.check(code)
    }

    fn check(&self, code: c_int) -> Result<(), SqliteError> {
        if code == ffi::SQLITE_OK { Ok(()) } else { Err(SqliteError::last(self.db)) }
    }

    /// `true` = a row, `false` = done.
    pub(crate) fn step(&self) -> Result<bool, SqliteError> {
        // SAFETY: the statement is alive and its connection is used by this thread only.
        match unsafe { ffi::sqlite3_step(self.raw()) } {
            ffi::SQLITE_ROW => Ok(true),
            ffi::SQLITE_DONE => Ok(false),
            _ => Err(SqliteError::last(self.db)),
        }
    }

    /// Steps to the end and resets: for statements whose rows nobody wants.
    pub(crate) fn execute(&self) -> Result<(), SqliteError> {
        let result = loop {
            match self.step() {
                Ok(true) => {}
                Ok(false) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        self.reset();
        result
    }

    /// Ends the execution. Its error, if any, was already returned by [`Stmt::step`].
    pub(crate) fn reset(&self) {
        // SAFETY: the statement is alive.
        unsafe { ffi::sqlite3_reset(self.raw()) };
    }

    /// Forgets the bound values.
    pub(crate) fn clear(&self) {
        // SAFETY: the statement is alive.
        unsafe { ffi::sqlite3_clear_bindings(self.raw()) };
    }

    /// It changes nothing in the database file (by itself; SQLite's word).
    pub(crate) fn readonly(&self) -> bool {
        // SAFETY: the statement is alive.
        unsafe { ffi::sqlite3_stmt_readonly(self.raw()) != 0 }
    }

    pub(crate) fn column_count(&self) -> usize {
        // SAFETY: the statement is alive.
        unsafe { ffi::sqlite3_column_count(self.raw()) as usize }
    }

    /// How often SQLite compiled it again because the schema had changed.
    pub(crate) fn recompiled(&self) -> i32 {
        // SAFETY: the statement is alive.
        unsafe { ffi::sqlite3_stmt_status(self.raw(), ffi::SQLITE_STMTSTATUS_REPREPARE, 0) }
    }

    pub(crate) fn column(&self, index: usize) -> Column {
        // SAFETY: the texts live until the next call on the statement and are copied here.
        let text = |text: *const c_char| unsafe {
            (!text.is_null()).then(|| CStr::from_ptr(text).to_string_lossy().into_owned())
        };
        // SAFETY: the statement is alive.
        let (name, declared) = unsafe {
            let at = index as c_int;
            (ffi::sqlite3_column_name(self.raw(), at), ffi::sqlite3_column_decltype(self.raw(), at))
        };
        Column { name: text(name).unwrap_or_default(), declared: text(declared) }
    }

    /// A column of the present row. Text that is not UTF-8 is mended with replacement characters.
    pub(crate) fn value(&self, index: usize) -> Value {
        let (raw, at) = (self.raw(), index as c_int);
        // SAFETY: the statement stands on a row.
        unsafe {
            match ffi::sqlite3_column_type(raw, at) {
                ffi::SQLITE_INTEGER => Value::Integer(ffi::sqlite3_column_int64(raw, at)),
                ffi::SQLITE_FLOAT => Value::Real(ffi::sqlite3_column_double(raw, at)),
                ffi::SQLITE_TEXT => {
                    let start = ffi::sqlite3_column_text(raw, at);
                    let bytes = bytes(start, ffi::sqlite3_column_bytes(raw, at));
                    Value::Text(String::from_utf8_lossy(bytes).into_owned())
                }
                ffi::SQLITE_BLOB => Value::Blob(self.blob(index).to_vec()),
                _ => Value::Null,
            }
        }
    }

    /// A column of the present row as it is, borrowed until the next step.
    pub(crate) fn cell(&self, index: usize) -> CellRef<'_> {
        // SAFETY: the statement stands on a row, and its values live until the next call that moves it.
        unsafe { crate::rows::cell(ffi::sqlite3_column_value(self.raw(), index as c_int)) }
    }

    pub(crate) fn integer(&self, index: usize) -> i64 {
        // SAFETY: the statement stands on a row.
        unsafe { ffi::sqlite3_column_int64(self.raw(), index as c_int) }
    }

    /// A column of the present row, borrowed until the next step.
    pub(crate) fn blob(&self, index: usize) -> &[u8] {
        // SAFETY: the statement stands on a row; the bytes live until the next call that moves it, and those that can
        // be made while the slice is borrowed do not.
        unsafe {
            let start = ffi::sqlite3_column_blob(self.raw(), index as c_int);
            bytes(start.cast(), ffi::sqlite3_column_bytes(self.raw(), index as c_int))
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

impl Drop for Stmt {
    fn drop(&mut self) {
        // SAFETY: the owner drops statements before their connection.
        unsafe { ffi::sqlite3_finalize(self.raw()) };
    }
}
