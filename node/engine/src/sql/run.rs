//! Running a client's statement: binding its arguments, collecting its rows.

use rdb_protocol::api::ErrorCode;

use crate::error::SqlFailure;
use crate::sql::cache::Compiled;
use crate::sql::statement::{SqliteError, Stmt};
use crate::value::{Args, QueryResult, Value};

/// Why a statement ended early. The statement has been reset.
pub(crate) enum RunError {
    Sqlite(SqliteError),
    /// Refused before or besides SQLite; the statement may have changed something if `TooLarge`.
    Refused(SqlFailure),
    /// Refused after it had run: its changes stand and must be undone with all others.
    Late(SqlFailure),
    TooLarge,
}

impl From<SqliteError> for RunError {
    fn from(error: SqliteError) -> RunError {
        RunError::Sqlite(error)
    }
}

/// Runs a statement to its end. `room` is what is left of the request's result limit.
pub(crate) fn run(compiled: &mut Compiled, args: &Args, room: &mut u64) -> Result<QueryResult, RunError> {
    let result = bind(compiled, args).and_then(|()| collect(compiled, room));
    compiled.stmt.reset();
    // The arguments are the caller's memory and end with this call.
    compiled.stmt.clear();
    result
}

fn bind(compiled: &mut Compiled, args: &Args) -> Result<(), RunError> {
    match args {
        Args::Positional(values) => bind_positional(&compiled.stmt, values),
        Args::Named(values) => bind_named(compiled, values),
    }
}

fn bind_positional(stmt: &Stmt, values: &[Value]) -> Result<(), RunError> {
    let wanted = stmt.parameter_count();
    if wanted != values.len() {
        let message = format!("the statement has {wanted} parameters, {} arguments were given", values.len());
        return Err(mismatch(message));
    }
    for (index, value) in values.iter().enumerate() {
        // SAFETY: `run` clears the bindings before it returns, and the values are borrowed until then.
        unsafe { stmt.bind(index + 1, value)? };
    }
    Ok(())
}

fn bind_named(compiled: &mut Compiled, values: &[(String, Value)]) -> Result<(), RunError> {
    let mut used = 0;
    let mut bindings = Vec::with_capacity(values.len());
    for (index, name) in compiled.names().iter().enumerate() {
        let Some(name) = name else {
            return Err(mismatch(format!("parameter {} has no name: give the arguments as an array", index + 1)));
        };
        match values.iter().position(|(key, _)| key.trim_start_matches([':', '@', '$']) == name) {
            Some(at) => bindings.push((index + 1, at)),
            None => return Err(mismatch(format!("no argument for the parameter {name}"))),
        }
    }
    for (index, at) in bindings {
        if let Some((_, value)) = values.get(at) {
            // SAFETY: as in `bind_positional`.
            unsafe { compiled.stmt.bind(index, value)? };
            used += 1;
        }
    }
    if used < values.len() {
        let known: Vec<&str> = compiled.names().iter().flatten().map(String::as_str).collect();
        let unknown = values.iter().map(|(key, _)| key.trim_start_matches([':', '@', '$']));
        if let Some(name) = unknown.into_iter().find(|name| !known.contains(name)) {
            return Err(mismatch(format!("the statement has no parameter {name}")));
        }
    }
    Ok(())
}

fn mismatch(message: String) -> RunError {
    let hint = "give one argument for each parameter of the statement";
    RunError::Refused(SqlFailure::new(ErrorCode::SqlError, message, hint))
}

fn collect(compiled: &mut Compiled, room: &mut u64) -> Result<QueryResult, RunError> {
    let mut result = QueryResult::default();
    if !compiled.stmt.step()? {
        result.columns = compiled.columns();
        return Ok(result);
    }
    result.columns = compiled.columns();
    let width = result.columns.len();
    loop {
        for index in 0..width {
            let value = compiled.stmt.value(index);
            *room = room.checked_sub(value.weight()).ok_or(RunError::TooLarge)?;
            result.values.push(value);
        }
        if !compiled.stmt.step()? {
            return Ok(result);
        }
    }
}

/// The answer to a client whose result is larger than its limit.
pub(crate) fn too_large(limit: u64) -> SqlFailure {
    SqlFailure::new(
        ErrorCode::ResultTooLarge,
        format!("the result is larger than {limit} bytes"),
        "ask for fewer rows or columns, in pages with LIMIT, or raise access.maxResultSize",
    )
}
