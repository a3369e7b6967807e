//! Values, statements and results, as SQLite has them: five types, no loss. [`crate::json`] turns them into the JSON
//! of the client API.

use std::sync::Arc;
use std::time::Instant;

use rdb_record::{CellRef, ClientTag};

use crate::sql::text::{first_word, skip_blank};

/// A value of SQLite.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Value {
    #[default]
    Null,
    Integer(i64),
    Real(f64),
    Text(String),
    Blob(Vec<u8>),
}

/// Arguments of a statement.
#[derive(Clone, Debug, PartialEq)]
pub enum Args {
    /// One per parameter, in order.
    Positional(Vec<Value>),
    /// By name, with or without the leading `:`, `@` or `$`; every parameter of the statement must be among them.
    Named(Vec<(String, Value)>),
}

impl Default for Args {
    fn default() -> Args {
        Args::Positional(Vec::new())
    }
}

/// One SQL statement with its arguments.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Statement {
    pub sql: String,
    pub args: Args,
}

impl Statement {
    /// A statement without arguments.
    pub fn new(sql: impl Into<String>) -> Statement {
        Statement { sql: sql.into(), args: Args::default() }
    }

    /// A statement with arguments by position.
    pub fn with(sql: impl Into<String>, args: Vec<Value>) -> Statement {
        Statement { sql: sql.into(), args: Args::Positional(args) }
    }
}

/// Bounds of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of all result rows of the request (`access.maxResultSize`), counted as [`Value::weight`] counts.
    pub max_result_bytes: u64,
}

impl Default for Limits {
    /// The default of `access.maxResultSize`.
    fn default() -> Limits {
        Limits { max_result_bytes: 64 << 20 }
    }
}

/// `Idempotency-Key: <client>:<sequence>` and what it was sent with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestKey {
    pub tag: ClientTag,
    /// Hash of the request's statements and arguments: the same key with another request is refused.
    pub request_hash: u64,
}

/// What one client request runs, all or nothing.
#[derive(Clone, Debug, Default)]
pub struct Transaction {
    pub statements: Vec<Statement>,
    pub key: Option<RequestKey>,
    pub limits: Limits,
    /// Execution is interrupted, and the transaction undone, when this has passed.
    pub deadline: Option<Instant>,
}

impl Transaction {
    /// It is VACUUM, which [`crate::Writer::run_group`] takes only as the one transaction of a group.
    pub fn is_vacuum(&self) -> bool {
        let word = |statement: &Statement| first_word(skip_blank(&statement.sql)).eq_ignore_ascii_case("VACUUM");
        matches!(self.statements.as_slice(), [only] if word(only))
    }
}

/// A result column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    pub name: String,
    /// The declared type; `None` for an expression.
    pub declared: Option<String>,
}

/// Result of one statement. Rows lie one after the other in `values`, so that a result costs one allocation, not one
/// per row.
#[derive(Clone, Debug, PartialEq)]
pub struct QueryResult {
    pub columns: Arc<[Column]>,
    /// Row by row; a multiple of `columns.len()`.
    pub values: Vec<Value>,
    pub rows_affected: u64,
    /// Of this statement's transaction; 0 when it inserted nothing.
    pub last_insert_rowid: i64,
}

impl Default for QueryResult {
    fn default() -> QueryResult {
        QueryResult { columns: Arc::new([]), values: Vec::new(), rows_affected: 0, last_insert_rowid: 0 }
    }
}

impl QueryResult {
    /// The rows, each as a slice as long as `columns`.
    pub fn rows(&self) -> impl ExactSizeIterator<Item = &[Value]> {
        // A statement without columns has no values, and chunks of 1 of nothing are nothing.
        self.values.chunks_exact(self.columns.len().max(1))
    }
}

impl Value {
    /// As it goes into a record.
    pub(crate) fn as_cell(&self) -> CellRef<'_> {
        match self {
            Value::Null => CellRef::Null,
            Value::Integer(value) => CellRef::Integer(*value),
            Value::Real(value) => CellRef::Real(*value),
            Value::Text(text) => CellRef::Text(text.as_bytes()),
            Value::Blob(blob) => CellRef::Blob(blob),
        }
    }

    /// As it comes out of a record. Text that is not UTF-8 is mended with replacement characters.
    pub fn from_cell(cell: CellRef<'_>) -> Value {
        match cell {
            CellRef::Null => Value::Null,
            CellRef::Integer(value) => Value::Integer(value),
            CellRef::Real(value) => Value::Real(value),
            CellRef::Text(text) => Value::Text(String::from_utf8_lossy(text).into_owned()),
            CellRef::Blob(blob) => Value::Blob(blob.to_vec()),
        }
    }

    /// What a value counts towards a result limit: its bytes in JSON, roughly.
    pub fn weight(&self) -> u64 {
        match self {
            Value::Null => 5,
            Value::Integer(_) => 9,
            Value::Real(_) => 17,
            Value::Text(text) => text.len() as u64 + 3,
            Value::Blob(blob) => blob.len() as u64 * 4 / 3 + 14,
        }
    }
}

impl From<i64> for Value {
    fn from(value: i64) -> Value {
        Value::Integer(value)
    }
}

impl From<&str> for Value {
    fn from(value: &str) -> Value {
        Value::Text(value.to_owned())
    }
}
