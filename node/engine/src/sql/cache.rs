//! Clients' statements, compiled once per text.
//!
//! Internal statements are never in here: a client that sends their text must meet the authorizer.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use crate::authorizer::{Authorizer, Denial, Effects, check_text};
use crate::error::SqlFailure;
use crate::sql::failure::failure;
use crate::sql::statement::{Handle, SqliteError, Stmt};
use crate::sql::text::{contains_word_part, first_word, skip_blank};
use crate::value::Column;

use rdb_protocol::api::ErrorCode;

/// Statements per connection: an application has tens to hundreds, and each takes a few KiB.
const CAPACITY: usize = 256;

/// Longer texts are compiled each time: they are most likely generated with literals and do not come again, and
/// CAPACITY × this bounds the cache's texts to 2 MiB.
const LONGEST: usize = 8 << 10;

/// A client's statement.
pub(crate) struct Compiled {
    pub(crate) stmt: Stmt,
    pub(crate) effects: Effects,
    /// It changes nothing, by SQLite's word and the authorizer's.
    pub(crate) readonly: bool,
    /// Its own text may leave part of its changes behind when it fails (OR FAIL).
    pub(crate) may_fail_halfway: bool,
    /// What it uses that would be something else on another node.
    pub(crate) unrepeatable: Option<Arc<str>>,
    /// Tables that it makes, drops or alters, in lower case.
    pub(crate) touched: BTreeSet<String>,
    columns: Arc<[Column]>,
    /// [`Stmt::recompiled`] when `columns` were read.
    columns_of: i32,
    /// Parameter names without prefix, read when they are first needed.
    names: Option<Vec<Option<String>>>,
    used: u64,
}

impl Compiled {
    /// The result columns, as they are after the first step.
    pub(crate) fn columns(&mut self) -> Arc<[Column]> {
        let now = self.stmt.recompiled();
        if now != self.columns_of {
            self.columns = read_columns(&self.stmt);
            self.columns_of = now;
        }
        Arc::clone(&self.columns)
    }

    /// Parameter names (without prefix), in order.
    pub(crate) fn names(&mut self) -> &[Option<String>] {
        let stmt = &self.stmt;
        self.names.get_or_insert_with(|| {
            let name = |index| stmt.parameter_name(index).map(|name| name.chars().skip(1).collect::<String>());
            (1..=stmt.parameter_count()).map(name).collect()
        })
    }
}

fn read_columns(stmt: &Stmt) -> Arc<[Column]> {
    (0..stmt.column_count()).map(|index| stmt.column(index)).collect()
}

#[derive(Default)]
pub(crate) struct StatementCache {
    statements: HashMap<Box<str>, Compiled>,
    /// The last statement whose text is too long to keep.
    long: Option<Compiled>,
    clock: u64,
}

impl StatementCache {
    /// The compiled statement of `sql`.
    pub(crate) fn get(&mut self, db: Handle, authorizer: &Authorizer, sql: &str) -> Result<&mut Compiled, SqlFailure> {
        self.clock += 1;
        let clock = self.clock;
        if sql.len() > LONGEST {
            return Ok(self.long.insert(compile(db, authorizer, sql)?));
        }
        // Looked up twice on a hit, because a borrow returned from one arm would last for the other too.
        if !self.statements.contains_key(sql) {
            let compiled = compile(db, authorizer, sql)?;
            self.make_room();
            self.statements.insert(sql.into(), compiled);
        }
        match self.statements.get_mut(sql) {
            Some(compiled) => {
                compiled.used = clock;
                Ok(compiled)
            }
            None => Err(SqlFailure::new(ErrorCode::Internal, "statement cache lost an entry", "")),
        }
    }

    /// The schema is another one: triggers and defaults may do what they did not when statements were compiled.
    pub(crate) fn clear(&mut self) {
        self.statements.clear();
        self.long = None;
    }

    /// Drops the statement that was not used for longest.
    fn make_room(&mut self) {
        if self.statements.len() < CAPACITY {
            return;
        }
        let oldest = self.statements.iter().min_by_key(|(_, compiled)| compiled.used);
        if let Some(key) = oldest.map(|(key, _)| key.clone()) {
            self.statements.remove(&key);
        }
    }
}

fn compile(db: Handle, authorizer: &Authorizer, sql: &str) -> Result<Compiled, SqlFailure> {
    let sql = skip_blank(sql);
    let hint = "send one statement as sql";
    check_text(first_word(sql), sql).map_err(refused)?;
    if sql.contains('\0') {
        return Err(SqlFailure::new(ErrorCode::SqlError, "the statement contains a NUL character", hint));
    }
    authorizer.forget();
    let (stmt, rest) = Stmt::prepare(db, sql).map_err(|error| explain(authorizer, error))?;
    let Some(stmt) = stmt else {
        return Err(SqlFailure::new(ErrorCode::SqlError, "there is no statement", hint));
    };
    if !skip_blank(rest).is_empty() {
        let hint = "send several statements to /v1/batch, one in each entry";
        return Err(SqlFailure::new(ErrorCode::SqlError, "more than one statement", hint));
    }
    let effects = authorizer.effects();
    let unrepeatable = authorizer.take_unrepeatable().map(Arc::from);
    let columns = read_columns(&stmt);
    let columns_of = stmt.recompiled();
    let readonly = stmt.readonly() && effects.none();
    let may_fail_halfway = contains_word_part(sql, "fail");
    let touched = authorizer.take_touched();
    let (names, used) = (None, 0);
    Ok(Compiled { stmt, effects, readonly, may_fail_halfway, unrepeatable, touched, columns, columns_of, names, used })
}

pub(crate) fn refused(denial: Denial) -> SqlFailure {
    let (code, hint, message) = denial.into_parts();
    SqlFailure::new(code, message, hint)
}

/// The answer for an error while compiling or running a client's statement.
pub(crate) fn explain(authorizer: &Authorizer, error: SqliteError) -> SqlFailure {
    failure(error, authorizer.take_denial().map(Denial::into_parts))
}
