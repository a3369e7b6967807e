//! What a row has in a column that was added after the row was written: SQLite stores nothing there, and gives the column's
//! default.
//!
//! The preupdate hook says NULL for such a column of a row that `INSERT INTO b SELECT * FROM a` copies as it is (between tables
//! that are alike, SQLite takes over whole records, short ones too). It means it by the same address each time, which tells
//! it from a NULL that is stored.

use std::collections::HashMap;

use rdb_record::Cell;
use rusqlite::ffi;

use crate::sql::statement::{Handle, SqliteError, Stmt};
use crate::sql::text::contains_word_part;

/// What a column's rows have that were written without it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Missing {
    Null,
    Value(Cell),
    /// Its expression is not one that ALTER TABLE … ADD COLUMN takes when there are rows, or not understood.
    Unknown,
}

/// How a column converts what it stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Affinity {
    Blob,
    Text,
    Numeric,
    Real,
}

impl Affinity {
    /// By SQLite's rules for the declared type.
    pub(crate) fn of(declared: &str, strict: bool) -> Affinity {
        let has = |part: &&str| contains_word_part(declared, part);
        if has(&"INT") {
            Affinity::Numeric
        } else if ["CHAR", "CLOB", "TEXT"].iter().any(&has) {
            Affinity::Text
        } else if declared.is_empty() || has(&"BLOB") || strict && declared.eq_ignore_ascii_case("ANY") {
            Affinity::Blob
        } else if ["REAL", "FLOA", "DOUB"].iter().any(has) {
            Affinity::Real
        } else {
            Affinity::Numeric
        }
    }

    /// The value of `d` after the conversion.
    fn converted(self) -> &'static str {
        match self {
            Affinity::Blob => "d",
            Affinity::Text => "CASE WHEN typeof(d) IN ('integer', 'real') THEN CAST(d AS TEXT) ELSE d END",
            Affinity::Numeric => {
                "CASE WHEN typeof(d) = 'text' AND CAST(d AS NUMERIC) = d THEN CAST(d AS NUMERIC) ELSE d END"
            }
            Affinity::Real => {
                "CASE WHEN typeof(d) = 'integer' OR typeof(d) = 'text' AND CAST(d AS REAL) = d THEN CAST(d AS REAL) ELSE d END"
            }
        }
    }
}

/// Finds them out; the same few expressions come again and again.
pub(crate) struct Defaults {
    db: Handle,
    known: HashMap<(String, Affinity), Missing>,
}

impl Defaults {
    pub(crate) fn new(db: Handle) -> Defaults {
        Defaults { db, known: HashMap::new() }
    }

    /// `sql` is the default as the schema states it. The statement is the engine's own.
    pub(crate) fn value(&mut self, sql: &str, affinity: Affinity) -> Result<Missing, SqliteError> {
        if let Some(known) = self.known.get(&(sql.to_owned(), affinity)) {
            return Ok(known.clone());
        }
        let value = self.find_out(sql, affinity)?;
        self.known.insert((sql.to_owned(), affinity), value.clone());
        Ok(value)
    }

    fn find_out(&self, sql: &str, affinity: Affinity) -> Result<Missing, SqliteError> {
        // It must not draw from the numbers of the present transaction.
        if contains_word_part(sql, "random") && sql.contains('(') {
            return Ok(Missing::Unknown);
        }
        let query = format!("SELECT {} FROM (SELECT {sql} AS d)", affinity.converted());
        let Ok(stmt) = Stmt::internal(self.db, &query) else {
            // A bare word is a text.
            let word = sql.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
            return Ok(if word { Missing::Value(Cell::Text(sql.as_bytes().to_vec())) } else { Missing::Unknown });
        };
        match stmt.step() {
            Ok(true) => Ok(match stmt.cell(0).to_cell() {
                Cell::Null => Missing::Null,
                value => Missing::Value(value),
            }),
            Ok(false) => Ok(Missing::Unknown),
            Err(error) if error.primary() == ffi::SQLITE_ERROR => Ok(Missing::Unknown),
            Err(error) => Err(error),
        }
    }
}

/// Is it the value that SQLite gives for a column that a copied row lacks?
pub(crate) fn is_missing(value: *mut ffi::sqlite3_value) -> bool {
    // SAFETY: without a statement, SQLite gives its constant NULL, which is never freed.
    value == unsafe { ffi::sqlite3_column_value(std::ptr::null_mut(), 0) }
}
