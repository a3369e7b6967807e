//! What a row has in a column that was added after the row was written: SQLite stores nothing there, and gives the column's
//! default.
//!
//! The preupdate hook says NULL for such a column of a row that `INSERT INTO b SELECT * FROM a` copies as it is (between tables
//! that are alike, SQLite takes over whole records, short ones too). It means it by the same address each time, which tells
//! it from a NULL that is stored.

use std::collections::HashMap;

use rdb_record::Cell;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, ffi};

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

    /// A type that converts so.
    fn declared(self) -> &'static str {
        match self {
            Affinity::Blob => "BLOB",
            Affinity::Text => "TEXT",
            Affinity::Numeric => "NUMERIC",
            Affinity::Real => "REAL",
        }
    }
}

/// Finds them out; the same few expressions come again and again.
///
/// By asking SQLite for a row that was written without the column: what it gives there is not what an INSERT would store (of a
/// TEXT column with DEFAULT 1.50, '1.50' and '1.5').
#[derive(Default)]
pub(crate) struct Defaults {
    /// A database in memory, once one is needed.
    scratch: Option<Connection>,
    known: HashMap<(String, Affinity), Missing>,
}

impl Defaults {
    /// `sql` is the default as the schema states it, without parentheses around it.
    pub(crate) fn value(&mut self, sql: &str, affinity: Affinity) -> Missing {
        if let Some(known) = self.known.get(&(sql.to_owned(), affinity)) {
            return known.clone();
        }
        // Words, bare or quoted, are texts only without parentheses; other expressions need them.
        let forms = [sql.to_owned(), format!("({sql})")];
        let found = forms.iter().find_map(|default| self.find_out(default, affinity).ok());
        let value = found.unwrap_or(Missing::Unknown);
        self.known.insert((sql.to_owned(), affinity), value.clone());
        value
    }

    fn find_out(&mut self, default: &str, affinity: Affinity) -> rusqlite::Result<Missing> {
        let scratch = match &mut self.scratch {
            Some(scratch) => scratch,
            none => none.insert(Connection::open_in_memory()?),
        };
        scratch.execute_batch(&format!(
            "DROP TABLE IF EXISTS t; CREATE TABLE t(a); INSERT INTO t VALUES (1);
             ALTER TABLE t ADD COLUMN c {} DEFAULT {default}",
            affinity.declared()
        ))?;
        scratch.query_row("SELECT c FROM t", [], |row| {
            Ok(match row.get_ref(0)? {
                ValueRef::Null => Missing::Null,
                ValueRef::Integer(value) => Missing::Value(Cell::Integer(value)),
                ValueRef::Real(value) => Missing::Value(Cell::Real(value)),
                ValueRef::Text(text) => Missing::Value(Cell::Text(text.to_vec())),
                ValueRef::Blob(blob) => Missing::Value(Cell::Blob(blob.to_vec())),
            })
        })
    }
}

/// Is it the value that SQLite gives for a column that a copied row lacks?
pub(crate) fn is_missing(value: *mut ffi::sqlite3_value) -> bool {
    // SAFETY: without a statement, SQLite gives its constant NULL, which is never freed.
    value == unsafe { ffi::sqlite3_column_value(std::ptr::null_mut(), 0) }
}
