//! Values as JSON where a tree of it is wanted, as in the change stream: integers beyond ±2^53 as strings, blobs as
//! `{"base64": "…"}`, and SQLite's infinite reals, which JSON lacks, as `"Infinity"` and `"-Infinity"`. Answers to clients say the
//! same and are written without a tree, where HTTP is.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Number, Value as Json};

use crate::value::Value;

/// Largest whole number that every JSON reader keeps exact: an IEEE double has 53 bits of fraction.
pub const SAFE_INTEGER: i64 = 1 << 53;

pub fn value_to_json(value: &Value) -> Json {
    match value {
        Value::Null => Json::Null,
        Value::Integer(integer) if integer.unsigned_abs() > SAFE_INTEGER as u64 => Json::String(integer.to_string()),
        Value::Integer(integer) => Json::from(*integer),
        Value::Real(real) => match Number::from_f64(*real) {
            Some(number) => Json::Number(number),
            // SQLite has no NaN: it turns them into NULL.
            None => Json::from(if *real > 0.0 { "Infinity" } else { "-Infinity" }),
        },
        Value::Text(text) => Json::String(text.clone()),
        Value::Blob(blob) => serde_json::json!({ "base64": STANDARD.encode(blob) }),
    }
}
