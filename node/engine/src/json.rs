//! The JSON of the client API for the engine's values: integers beyond ±2^53 as strings, blobs as `{"base64": "…"}`.
//! JSON has no infinity; SQLite's infinite reals are the strings `"Infinity"` and `"-Infinity"`.

use std::io::Write;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rdb_protocol::api::{self, ErrorCode};
use serde_json::{Number, Value as Json};

use crate::error::SqlFailure;
use crate::value::{Args, QueryResult, Statement, Value};

/// Integers up to here are the same in every JSON reader, those that read doubles included.
const SAFE: u64 = 1 << 53;

/// A JSON value as an argument: booleans become 0 and 1. Errors name what cannot be bound.
pub fn value_from_json(json: Json) -> Result<Value, SqlFailure> {
    match json {
        Json::Null => Ok(Value::Null),
        Json::Bool(value) => Ok(Value::Integer(i64::from(value))),
        Json::Number(number) => number_from_json(&number),
        Json::String(text) => Ok(Value::Text(text)),
        Json::Object(object) => match object.get("base64") {
            Some(Json::String(text)) if object.len() == 1 => {
                let blob = STANDARD.decode(text).map_err(|error| bad(format!("base64: {error}")))?;
                Ok(Value::Blob(blob))
            }
            _ => Err(bad("an object as argument must be {\"base64\": \"…\"}".to_owned())),
        },
        Json::Array(_) => Err(bad("an array cannot be an argument".to_owned())),
    }
}

fn number_from_json(number: &Number) -> Result<Value, SqlFailure> {
    if let Some(integer) = number.as_i64() {
        return Ok(Value::Integer(integer));
    }
    if number.is_u64() {
        return Err(bad(format!("{number} is larger than a 64-bit signed integer")));
    }
    match number.as_f64() {
        Some(real) => Ok(Value::Real(real)),
        None => Err(bad(format!("{number} is not a number that SQLite can hold"))),
    }
}

fn bad(message: String) -> SqlFailure {
    let hint = "arguments are null, booleans, numbers, strings and {\"base64\": \"…\"}";
    SqlFailure::new(ErrorCode::BadRequest, message, hint)
}

pub fn value_to_json(value: &Value) -> Json {
    match value {
        Value::Null => Json::Null,
        Value::Integer(integer) => integer_to_json(*integer),
        Value::Real(real) => match Number::from_f64(*real) {
            Some(number) => Json::Number(number),
            None => Json::String(infinity(*real).to_owned()),
        },
        Value::Text(text) => Json::String(text.clone()),
        Value::Blob(blob) => serde_json::json!({ "base64": STANDARD.encode(blob) }),
    }
}

fn integer_to_json(integer: i64) -> Json {
    if integer.unsigned_abs() <= SAFE { Json::from(integer) } else { Json::String(integer.to_string()) }
}

/// SQLite has no NaN: it turns them into NULL.
fn infinity(real: f64) -> &'static str {
    if real > 0.0 { "Infinity" } else { "-Infinity" }
}

pub fn args_from_json(args: api::Args) -> Result<Args, SqlFailure> {
    Ok(match args {
        api::Args::Positional(values) => {
            Args::Positional(values.into_iter().map(value_from_json).collect::<Result<_, _>>()?)
        }
        api::Args::Named(values) => {
            let named = values.into_iter().map(|(name, value)| Ok((name, value_from_json(value)?)));
            Args::Named(named.collect::<Result<_, SqlFailure>>()?)
        }
    })
}

pub fn statement_from_json(statement: api::Statement) -> Result<Statement, SqlFailure> {
    Ok(Statement { sql: statement.sql, args: args_from_json(statement.args)? })
}

pub fn result_to_json(result: &QueryResult) -> api::StatementResult {
    let column =
        |column: &crate::value::Column| api::Column { name: column.name.clone(), declared: column.declared.clone() };
    api::StatementResult {
        columns: result.columns.iter().map(column).collect(),
        rows: result.rows().map(|row| row.iter().map(value_to_json).collect()).collect(),
        rows_affected: result.rows_affected,
        last_insert_rowid: integer_to_json(result.last_insert_rowid),
    }
}

/// Writes the members of [`api::StatementResult`] without the braces around them:
/// `"columns":[…],"rows":[…],"rows_affected":n,"last_insert_rowid":n`, so that the caller can add `position`. The same
/// JSON as that of [`result_to_json`], without building a tree of it.
pub fn write_result_members(result: &QueryResult, out: &mut Vec<u8>) {
    out.extend_from_slice(b"\"columns\":[");
    for (index, column) in result.columns.iter().enumerate() {
        out.extend_from_slice(if index == 0 { b"{\"name\":" } else { b",{\"name\":" });
        write_text(&column.name, out);
        out.extend_from_slice(b",\"type\":");
        match &column.declared {
            Some(declared) => write_text(declared, out),
            None => out.extend_from_slice(b"null"),
        }
        out.push(b'}');
    }
    out.extend_from_slice(b"],\"rows\":[");
    for (index, row) in result.rows().enumerate() {
        out.extend_from_slice(if index == 0 { b"[" } else { b",[" });
        for (index, value) in row.iter().enumerate() {
            if index > 0 {
                out.push(b',');
            }
            write_value(value, out);
        }
        out.push(b']');
    }
    out.extend_from_slice(b"],\"rows_affected\":");
    write_display(result.rows_affected, out);
    out.extend_from_slice(b",\"last_insert_rowid\":");
    write_integer(result.last_insert_rowid, out);
}

/// One value as JSON.
pub fn write_value(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Null => out.extend_from_slice(b"null"),
        Value::Integer(integer) => write_integer(*integer, out),
        Value::Real(real) if real.is_finite() => {
            // Writing a finite number to memory cannot fail.
            let _ = serde_json::to_writer(out, real);
        }
        Value::Real(real) => write_text(infinity(*real), out),
        Value::Text(text) => write_text(text, out),
        Value::Blob(blob) => {
            out.extend_from_slice(b"{\"base64\":\"");
            let start = out.len();
            out.resize(start + blob.len().div_ceil(3) * 4, 0);
            let room = out.get_mut(start..).unwrap_or_default();
            let written = STANDARD.encode_slice(blob, room).unwrap_or(0);
            out.truncate(start + written);
            out.extend_from_slice(b"\"}");
        }
    }
}

fn write_integer(integer: i64, out: &mut Vec<u8>) {
    if integer.unsigned_abs() <= SAFE {
        write_display(integer, out);
    } else {
        out.push(b'"');
        write_display(integer, out);
        out.push(b'"');
    }
}

fn write_display(number: impl std::fmt::Display, out: &mut Vec<u8>) {
    // Writing to memory cannot fail.
    let _ = write!(out, "{number}");
}

fn write_text(text: &str, out: &mut Vec<u8>) {
    // Writing text to memory cannot fail.
    let _ = serde_json::to_writer(out, text);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::value::Column;

    #[test]
    fn written_json_equals_built_json() {
        let columns = ["a", "quo\"te", "ü"]
            .map(|name| Column { name: name.to_owned(), declared: (name == "a").then(|| "INTEGER".to_owned()) });
        let values = vec![
            Value::Integer(1 << 53),
            Value::Integer((1 << 53) + 1),
            Value::Integer(i64::MIN),
            Value::Real(1.0),
            Value::Real(f64::NEG_INFINITY),
            Value::Null,
            Value::Text("line\nbreak \u{1}\"".to_owned()),
            Value::Blob(vec![]),
            Value::Blob(vec![1, 2, 3, 4]),
        ];
        let result = QueryResult { columns: columns.into(), values, rows_affected: 7, last_insert_rowid: i64::MAX };
        let mut out = b"{".to_vec();
        write_result_members(&result, &mut out);
        out.push(b'}');
        let written: Json = serde_json::from_slice(&out).unwrap();
        let built = serde_json::to_value(result_to_json(&result)).unwrap();
        assert_eq!(written, built);
        assert_eq!(written["rows"][0][0], Json::from(1_i64 << 53));
        assert_eq!(written["rows"][0][1], Json::from("9007199254740993"));
        assert_eq!(written["rows"][1][0].to_string(), "1.0");
        assert_eq!(written["rows"][2][2]["base64"], Json::from("AQIDBA=="));
    }

    #[test]
    fn arguments_are_scalars() {
        let value = |json: &str| value_from_json(serde_json::from_str(json).unwrap());
        assert_eq!(value("true").unwrap(), Value::Integer(1));
        assert_eq!(value("-9223372036854775808").unwrap(), Value::Integer(i64::MIN));
        assert_eq!(value("1.5").unwrap(), Value::Real(1.5));
        assert_eq!(value("{\"base64\": \"AQI=\"}").unwrap(), Value::Blob(vec![1, 2]));
        for bad in ["[1]", "{}", "{\"base64\": \"?\"}", "{\"base64\": \"\", \"x\": 1}", "18446744073709551615"] {
            assert_eq!(value(bad).unwrap_err().code(), ErrorCode::BadRequest, "{bad}");
        }
    }
}
