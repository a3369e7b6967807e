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
use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};

/// Largest whole number that every JSON reader keeps exact: an IEEE double has 53 bits of fraction.
pub const SAFE_INTEGER: i64 = 1 << 53;

#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Null,
    Integer(i64),
    Real(f64),
    Text(String),
    Blob(Vec<u8>),
}

/// Arguments of a statement: by position, or by name without the leading `:`, `@` or `$`.
#[derive(Clone, Debug, PartialEq)]
pub enum Args {
    Positional(Vec<Value>),
    Named(Vec<(String, Value)>),
}

impl Default for Args {
    fn default() -> Args {
        Args::Positional(Vec::new())
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Value, D::Error> {
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
        i64::try_from(value).map(Value::Integer).map_err(|_| {
            E::custom(format_args!(
                "{value} does not fit into a signed 64-bit integer"
            ))
        })
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
            return Err(A::Error::custom(
                "an object must be {\"base64\": \"…\"} and nothing else",
            ));
        }
        let bytes = STANDARD
            .decode(text)
            .map_err(|error| A::Error::custom(format_args!("base64: {error}")))?;
        Ok(Value::Blob(bytes))
    }
}

impl<'de> Deserialize<'de> for Args {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Args, D::Error> {
        deserializer.deserialize_any(ArgsVisitor)
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
        while let Some(value) = seq.next_element()? {
            values.push(value);
        }
        Ok(Args::Positional(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Args, A::Error> {
        let mut values = Vec::new();
        while let Some(entry) = map.next_entry()? {
            values.push(entry);
        }
        Ok(Args::Named(values))
    }
}

/// Writes one statement's result in the shape of [`rdb_protocol::api::StatementResult`]: columns, then rows, then the end.
pub struct ResultWriter<'a> {
    out: &'a mut Vec<u8>,
    rows: u64,
    cells: u64,
}

impl<'a> ResultWriter<'a> {
    /// Columns as (name, declared type). Put a comma into `out` before a second result.
    pub fn begin<'c>(
        out: &'a mut Vec<u8>,
        columns: impl IntoIterator<Item = (&'c str, Option<&'c str>)>,
    ) -> ResultWriter<'a> {
        out.extend_from_slice(b"{\"columns\":[");
        for (nth, (name, declared)) in columns.into_iter().enumerate() {
            out.extend_from_slice(if nth == 0 {
                b"{\"name\":"
            } else {
                b",{\"name\":"
            });
            write_text(out, name);
            out.extend_from_slice(b",\"type\":");
            match declared {
                Some(declared) => write_text(out, declared),
                None => out.extend_from_slice(b"null"),
            }
            out.push(b'}');
        }
        out.extend_from_slice(b"],\"rows\":[");
        ResultWriter {
            out,
            rows: 0,
            cells: 0,
        }
    }

    pub fn begin_row(&mut self) {
        self.out
            .extend_from_slice(if self.rows == 0 { b"[" } else { b",[" });
        self.rows += 1;
        self.cells = 0;
    }

    /// The bytes to write the next value of the row to, by one of the `write_` functions.
    pub fn cell(&mut self) -> &mut Vec<u8> {
        if self.cells > 0 {
            self.out.push(b',');
        }
        self.cells += 1;
        self.out
    }

    pub fn value(&mut self, value: &Value) {
        write_value(self.cell(), value);
    }

    pub fn end_row(&mut self) {
        self.out.push(b']');
    }

    /// Bytes of the answer so far, for `access.maxResultSize`.
    pub fn len(&self) -> usize {
        self.out.len()
    }

    pub fn is_empty(&self) -> bool {
        self.out.is_empty()
    }

    pub fn finish(self, rows_affected: u64, last_insert_rowid: i64) {
        self.out.extend_from_slice(b"],\"rows_affected\":");
        write_unsigned(self.out, rows_affected);
        self.out.extend_from_slice(b",\"last_insert_rowid\":");
        write_integer(self.out, last_insert_rowid);
        self.out.push(b'}');
    }
}

pub fn write_value(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::Null => out.extend_from_slice(b"null"),
        Value::Integer(value) => write_integer(out, *value),
        Value::Real(value) => write_real(out, *value),
        Value::Text(value) => write_text(out, value),
        Value::Blob(value) => write_blob(out, value),
    }
}

pub fn write_integer(out: &mut Vec<u8>, value: i64) {
    if value.unsigned_abs() <= SAFE_INTEGER as u64 {
        json(out, &value);
    } else {
        out.push(b'"');
        json(out, &value);
        out.push(b'"');
    }
}

pub fn write_unsigned(out: &mut Vec<u8>, value: u64) {
    json(out, &value);
}

pub fn write_real(out: &mut Vec<u8>, value: f64) {
    match value {
        _ if value.is_finite() => json(out, &value),
        // SQLite has no NaN: it becomes NULL before it gets here.
        _ if value.is_nan() => out.extend_from_slice(b"null"),
        _ if value > 0.0 => out.extend_from_slice(b"\"Infinity\""),
        _ => out.extend_from_slice(b"\"-Infinity\""),
    }
}

pub fn write_text(out: &mut Vec<u8>, value: &str) {
    json(out, value);
}

pub fn write_blob(out: &mut Vec<u8>, value: &[u8]) {
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
    use super::*;

    fn parse(json: &str) -> Result<Value, String> {
        serde_json::from_str(json).map_err(|error| error.to_string())
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
        assert_eq!(
            write(Value::Integer(SAFE_INTEGER + 1)),
            "\"9007199254740993\""
        );
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
        for bad in [
            "{}",
            "{\"base64\":\"!\"}",
            "{\"hex\":\"00\"}",
            "{\"base64\":\"\",\"x\":\"\"}",
            "[1]",
            "{\"base64\":1}",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn text_is_escaped() {
        let text = "\"\\\n\u{0}\u{7f}é𝄞".to_owned();
        assert_eq!(
            parse(&write(Value::Text(text.clone()))),
            Ok(Value::Text(text))
        );
    }

    #[test]
    fn results_have_the_shape_that_the_protocol_states() {
        let mut out = Vec::new();
        let mut writer = ResultWriter::begin(&mut out, [("a", Some("INTEGER")), ("b\"", None)]);
        for row in [
            [Value::Integer(1), Value::Null],
            [Value::Integer(i64::MAX), Value::Text("x".into())],
        ] {
            writer.begin_row();
            row.iter().for_each(|value| writer.value(value));
            writer.end_row();
        }
        writer.finish(3, -7);
        let result: rdb_protocol::api::StatementResult = serde_json::from_slice(&out).unwrap();
        assert_eq!(result.columns[1].name, "b\"");
        assert_eq!(result.columns[0].declared.as_deref(), Some("INTEGER"));
        assert_eq!(result.rows[1][0], serde_json::json!("9223372036854775807"));
        assert_eq!(result.rows_affected, 3);
        assert_eq!(result.last_insert_rowid, serde_json::json!(-7));
    }
}
