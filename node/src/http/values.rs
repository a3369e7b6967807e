//! SQL values in JSON, both ways, without a tree in between: arguments are parsed straight into [`Value`]s, and results are
//! written straight into the bytes of the answer.
//!
//! | SQLite | as an argument | in a result |
//! | --- | --- | --- |
//! | NULL | `null` | `null` |
//! | INTEGER | a whole number of 64 bits, `true`, `false` | a number; text beyond 2^53, where JavaScript would round it |
//! | REAL | a number with a fraction or exponent | a number with a fraction or exponent; `"Infinity"`, `"-Infinity"` |
//! | TEXT | a string | a string |
//! | BLOB | `{"base64": "…"}` | `{"base64": "…"}` |

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rdb_engine::{Args, QueryResult, SAFE_INTEGER, Value};
use rdb_protocol::api::Token;
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};

/// Bytes of an answer around its values: the keys, one or two columns, the position.
const FRAME_BYTES: usize = 256;

/// Bytes of a usual value; a guess for the first allocation only.
const CELL_BYTES: usize = 16;

/// `deserialize_with` of a statement's arguments: by position, or by name.
pub(crate) fn args<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Args, D::Error> {
    deserializer.deserialize_any(ArgsVisitor)
}

struct ValueSeed;

impl<'de> DeserializeSeed<'de> for ValueSeed {
    type Value = Value;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("null, a number, a string, true, false or {\"base64\": \"…\"}")
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Integer(value.into()))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Integer(value))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        // Not silently rounded to REAL: the caller meant a whole number.
        i64::try_from(value)
            .map(Value::Integer)
            .map_err(|_| E::custom(format_args!("{value} does not fit into a signed 64-bit integer")))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Ok(Value::Real(value))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
        Ok(Value::Text(value.to_owned()))
    }

    fn visit_string<E: Error>(self, value: String) -> Result<Value, E> {
        Ok(Value::Text(value))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let Some((key, text)) = map.next_entry::<String, String>()? else {
            return Err(A::Error::custom("an object must be {\"base64\": \"…\"}"));
        };
        if key != "base64" || map.next_key::<String>()?.is_some() {
            return Err(A::Error::custom("an object must be {\"base64\": \"…\"} and nothing else"));
        }
        let bytes = STANDARD.decode(text).map_err(|error| A::Error::custom(format_args!("base64: {error}")))?;
        Ok(Value::Blob(bytes))
    }
}

struct ArgsVisitor;

impl<'de> Visitor<'de> for ArgsVisitor {
    type Value = Args;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of values or an object of named values")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Args, A::Error> {
        let mut values = Vec::with_capacity(8);
        while let Some(value) = seq.next_element_seed(ValueSeed)? {
            values.push(value);
        }
        Ok(Args::Positional(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Args, A::Error> {
        let mut values = Vec::new();
        while let Some(name) = map.next_key()? {
            values.push((name, map.next_value_seed(ValueSeed)?));
        }
        Ok(Args::Named(values))
    }
}

/// Writes one statement's result as a [`rdb_protocol::api::StatementResult`] whose closing brace is left out, so that
/// `position` can follow.
pub(crate) fn write_open_result(out: &mut Vec<u8>, result: &QueryResult) {
    out.extend_from_slice(b"{\"columns\":[");
    for (nth, column) in result.columns.iter().enumerate() {
        out.extend_from_slice(if nth == 0 { b"{\"name\":" } else { b",{\"name\":" });
        write_text(out, &column.name);
        out.extend_from_slice(b",\"type\":");
        match &column.declared {
            Some(declared) => write_text(out, declared),
            None => out.extend_from_slice(b"null"),
        }
        out.push(b'}');
    }
    out.extend_from_slice(b"],\"rows\":[");
    for (nth, row) in result.rows().enumerate() {
        out.extend_from_slice(if nth == 0 { b"[" } else { b",[" });
        for (nth, value) in row.iter().enumerate() {
            if nth > 0 {
                out.push(b',');
            }
            write_value(out, value);
        }
        out.push(b']');
    }
    out.extend_from_slice(b"],\"rows_affected\":");
    write_unsigned(out, result.rows_affected);
    out.extend_from_slice(b",\"last_insert_rowid\":");
    write_integer(out, result.last_insert_rowid);
}

/// The answer to `execute` and `query`.
pub(crate) fn single(result: &QueryResult, position: Token) -> Vec<u8> {
    let mut out = Vec::with_capacity(FRAME_BYTES + result.values.len() * CELL_BYTES);
    write_open_result(&mut out, result);
    out.push(b',');
    write_position(&mut out, position);
    out.push(b'}');
    out
}

/// The answer to `batch` and `outcome`; `None`: the results were too large to keep whole.
pub(crate) fn several(results: Option<&[QueryResult]>, position: Token) -> Vec<u8> {
    let mut out = Vec::with_capacity(FRAME_BYTES);
    out.extend_from_slice(b"{\"results\":");
    match results {
        None => out.extend_from_slice(b"null"),
        Some(results) => {
            out.push(b'[');
            for (nth, result) in results.iter().enumerate() {
                if nth > 0 {
                    out.push(b',');
                }
                write_open_result(&mut out, result);
                out.push(b'}');
            }
            out.push(b']');
        }
    }
    out.push(b',');
    write_position(&mut out, position);
    out.push(b'}');
    out
}

fn write_position(out: &mut Vec<u8>, position: Token) {
    out.extend_from_slice(b"\"position\":{\"epoch\":");
    write_unsigned(out, position.epoch.0);
    out.extend_from_slice(b",\"index\":");
    write_unsigned(out, position.index.0);
    out.push(b'}');
}

fn write_value(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::Null => out.extend_from_slice(b"null"),
        Value::Integer(value) => write_integer(out, *value),
        Value::Real(value) => write_real(out, *value),
        Value::Text(value) => write_text(out, value),
        Value::Blob(value) => write_blob(out, value),
    }
}

fn write_integer(out: &mut Vec<u8>, value: i64) {
    if value.unsigned_abs() <= SAFE_INTEGER as u64 {
        json(out, &value);
    } else {
        out.push(b'"');
        json(out, &value);
        out.push(b'"');
    }
}

fn write_unsigned(out: &mut Vec<u8>, value: u64) {
    json(out, &value);
}

fn write_real(out: &mut Vec<u8>, value: f64) {
    match value {
        _ if value.is_finite() => json(out, &value),
        // SQLite has no NaN: it becomes NULL before it gets here.
        _ if value.is_nan() => out.extend_from_slice(b"null"),
        _ if value > 0.0 => out.extend_from_slice(b"\"Infinity\""),
        _ => out.extend_from_slice(b"\"-Infinity\""),
    }
}

fn write_text(out: &mut Vec<u8>, value: &str) {
    json(out, value);
}

fn write_blob(out: &mut Vec<u8>, value: &[u8]) {
    out.extend_from_slice(b"{\"base64\":\"");
    let start = out.len();
    // Base64 makes 4 characters of 3 bytes, rounded up.
    out.resize(start + value.len().div_ceil(3) * 4, 0);
    if let Some(space) = out.get_mut(start..) {
        // The space was made to measure, so that this cannot fail.
        let written = STANDARD.encode_slice(value, space).unwrap_or(0);
        out.truncate(start + written);
    }
    out.extend_from_slice(b"\"}");
}

fn json<T: serde::Serialize + ?Sized>(out: &mut Vec<u8>, value: &T) {
    // Numbers and text always have a JSON form, and a Vec takes every byte.
    let written = serde_json::to_writer(out, value);
    debug_assert!(written.is_ok());
}

#[cfg(test)]
mod tests {
    use rdb_engine::Column;
    use rdb_protocol::api::{BatchResponse, ExecuteResponse};
    use rdb_protocol::{Epoch, Index};
    use serde_json::json;

    use super::*;

    fn parse(json: &str) -> Result<Value, String> {
        let mut parser = serde_json::Deserializer::from_str(json);
        ValueSeed.deserialize(&mut parser).map_err(|error| error.to_string())
    }

    fn write(value: Value) -> String {
        let mut out = Vec::new();
        write_value(&mut out, &value);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn integers_of_64_bits_are_exact_both_ways() {
        assert_eq!(parse("9223372036854775807"), Ok(Value::Integer(i64::MAX)));
        assert_eq!(parse("-9223372036854775808"), Ok(Value::Integer(i64::MIN)));
        assert!(parse("9223372036854775808").unwrap_err().contains("64-bit"));
        assert_eq!(write(Value::Integer(i64::MIN)), "\"-9223372036854775808\"");
        assert_eq!(write(Value::Integer(SAFE_INTEGER)), "9007199254740992");
        assert_eq!(write(Value::Integer(SAFE_INTEGER + 1)), "\"9007199254740993\"");
    }

    /// The change stream's values come from the engine, as a tree; an answer's from here.
    #[test]
    fn answers_say_what_the_change_stream_says() {
        for value in [
            Value::Null,
            Value::Integer(-SAFE_INTEGER),
            Value::Integer(-SAFE_INTEGER - 1),
            Value::Integer(i64::MAX),
            Value::Real(1.0),
            Value::Real(-1.5e300),
            Value::Real(f64::INFINITY),
            Value::Real(f64::NEG_INFINITY),
            Value::Text("line\nbreak \u{1}\"".to_owned()),
            Value::Blob(vec![]),
            Value::Blob(vec![1, 2, 3, 4]),
        ] {
            assert_eq!(write(value.clone()), rdb_engine::value_to_json(&value).to_string());
        }
    }

    #[test]
    fn reals_stay_reals() {
        assert_eq!(parse("1.0"), Ok(Value::Real(1.0)));
        assert_eq!(write(Value::Real(1.0)), "1.0");
        assert_eq!(write(Value::Real(f64::NEG_INFINITY)), "\"-Infinity\"");
        assert_eq!(write(Value::Real(f64::NAN)), "null");
    }

    #[test]
    fn blobs_of_every_length_survive() {
        for length in 0..10u8 {
            let blob = Value::Blob((0..length).map(|n| n.wrapping_mul(251)).collect());
            assert_eq!(parse(&write(blob.clone())), Ok(blob));
        }
        for bad in
            ["{}", "{\"base64\":\"!\"}", "{\"hex\":\"00\"}", "{\"base64\":\"\",\"x\":\"\"}", "[1]", "{\"base64\":1}"]
        {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn text_is_escaped() {
        let text = "\"\\\n\u{0}\u{7f}é𝄞".to_owned();
        assert_eq!(parse(&write(Value::Text(text.clone()))), Ok(Value::Text(text)));
    }

    #[test]
    fn results_have_the_shape_that_the_protocol_states() {
        let column =
            |name: &str, declared: Option<&str>| Column { name: name.into(), declared: declared.map(Into::into) };
        let result = QueryResult {
            columns: [column("a", Some("INTEGER")), column("b\"", None)].into(),
            values: vec![Value::Integer(1), Value::Null, Value::Integer(i64::MAX), Value::Text("x".into())],
            rows_affected: 3,
            last_insert_rowid: -7,
        };
        let position = Token { epoch: Epoch(2), index: Index(9) };
        let one: ExecuteResponse = serde_json::from_slice(&single(&result, position)).unwrap();
        assert_eq!(one.position, position);
        assert_eq!(one.result.columns[1].name, "b\"");
        assert_eq!(one.result.columns[0].declared.as_deref(), Some("INTEGER"));
        assert_eq!(one.result.rows[1], [json!("9223372036854775807"), json!("x")]);
        assert_eq!(one.result.rows_affected, 3);
        assert_eq!(one.result.last_insert_rowid, json!(-7));
        let both = [result, QueryResult::default()];
        let both: BatchResponse = serde_json::from_slice(&several(Some(&both), position)).unwrap();
        assert_eq!(both.results[0], one.result);
        assert!(both.results[1].columns.is_empty() && both.results[1].rows.is_empty());
    }
}
