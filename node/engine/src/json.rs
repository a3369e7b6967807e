//! The JSON of the client API for the engine's values: integers beyond ±2^53 as strings, blobs as `{"base64": "…"}`.

use rdb_protocol::api;

use crate::error::SqlFailure;
use crate::value::{Args, QueryResult, Statement, Value};

/// A JSON value as an argument: booleans become 0 and 1. Errors name what cannot be bound.
pub fn value_from_json(json: serde_json::Value) -> Result<Value, SqlFailure> {
    let _ = json;
    Err(SqlFailure::new(
        api::ErrorCode::Internal,
        "not built yet",
        "",
    ))
}

pub fn value_to_json(value: &Value) -> serde_json::Value {
    let _ = value;
    serde_json::Value::Null
}

pub fn args_from_json(args: api::Args) -> Result<Args, SqlFailure> {
    let _ = args;
    Err(SqlFailure::new(
        api::ErrorCode::Internal,
        "not built yet",
        "",
    ))
}

pub fn statement_from_json(statement: api::Statement) -> Result<Statement, SqlFailure> {
    Ok(Statement {
        sql: statement.sql,
        args: args_from_json(statement.args)?,
    })
}

pub fn result_to_json(result: &QueryResult) -> api::StatementResult {
    let _ = result;
    api::StatementResult::default()
}

/// Writes the members of [`api::StatementResult`] without the braces around them:
/// `"columns":[…],"rows":[…],"rows_affected":n,"last_insert_rowid":n`, so that the caller can add `position`.
pub fn write_result_members(result: &QueryResult, out: &mut Vec<u8>) {
    let _ = (result, out);
}
