//! The bytes in which a request's result is kept under its idempotency key.
//!
//! Version (1), count of statements; per statement: count of columns, each column's name and declared type (0, or 1 and
//! the text), rows affected, last insert rowid, count of values, each value as tag and content. Counts and lengths are
//! LEB128, integers and floats 8 bytes little endian. Version 2 is the same without any values: of a result that is too
//! large. A reader refuses other versions, so a node can be upgraded first.

use crate::value::{Column, QueryResult, Value};

const WHOLE: u8 = 1;
const WITHOUT_VALUES: u8 = 2;

/// The values of larger results are not kept: the row would be logged to every node.
pub(crate) const LARGEST: usize = 256 << 10;

/// What is kept of a request's results.
#[derive(Debug, PartialEq)]
pub(crate) struct Kept {
    pub(crate) results: Vec<QueryResult>,
    /// `false`: without their values.
    pub(crate) whole: bool,
}

/// The encoded results, without their values if they are too large, or `None` when they are too large even so.
pub(crate) fn encode(results: &[QueryResult]) -> Option<Vec<u8>> {
    let weight: u64 = results.iter().flat_map(|result| &result.values).map(Value::weight).sum();
    let whole = (weight <= LARGEST as u64).then(|| encode_as(WHOLE, results));
    let fits = |bytes: &Vec<u8>| bytes.len() <= LARGEST;
    whole.filter(fits).or_else(|| Some(encode_as(WITHOUT_VALUES, results)).filter(fits))
}

fn encode_as(version: u8, results: &[QueryResult]) -> Vec<u8> {
    let mut out = vec![version];
    put_count(&mut out, results.len());
    for result in results {
        put_count(&mut out, result.columns.len());
        for column in result.columns.iter() {
            put_bytes(&mut out, column.name.as_bytes());
            out.push(u8::from(column.declared.is_some()));
            put_bytes(&mut out, column.declared.as_deref().unwrap_or("").as_bytes());
        }
        out.extend_from_slice(&result.rows_affected.to_le_bytes());
        out.extend_from_slice(&result.last_insert_rowid.to_le_bytes());
        let values = if version == WHOLE { result.values.as_slice() } else { &[] };
        put_count(&mut out, values.len());
        values.iter().for_each(|value| put_value(&mut out, value));
    }
    out
}

fn put_count(out: &mut Vec<u8>, mut count: usize) {
    while count >= 0x80 {
        out.push(count as u8 | 0x80);
        count >>= 7;
    }
    out.push(count as u8);
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_count(out, bytes.len());
    out.extend_from_slice(bytes);
}

fn put_value(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::Null => out.push(0),
        Value::Integer(value) => {
            out.push(1);
            out.extend_from_slice(&value.to_le_bytes());
        }
        Value::Real(value) => {
            out.push(2);
            out.extend_from_slice(&value.to_le_bytes());
        }
        Value::Text(text) => {
            out.push(3);
            put_bytes(out, text.as_bytes());
        }
        Value::Blob(blob) => {
            out.push(4);
            put_bytes(out, blob);
        }
    }
}

/// What [`encode`] kept; `None` when the bytes are not that.
pub(crate) fn decode(bytes: &[u8]) -> Option<Kept> {
    let mut from = Cursor(bytes);
    let whole = match from.byte()? {
        WHOLE => true,
        WITHOUT_VALUES => false,
        _ => return None,
    };
    let statements = from.count()?;
    let results = (0..statements).map(|_| decode_result(&mut from)).collect::<Option<Vec<_>>>()?;
    from.0.is_empty().then_some(Kept { results, whole })
}

fn decode_result(from: &mut Cursor<'_>) -> Option<QueryResult> {
    let columns = (0..from.count()?)
        .map(|_| {
            let name = from.text()?;
            let declared = from.byte()? == 1;
            let text = from.text()?;
            Some(Column { name, declared: declared.then_some(text) })
        })
        .collect::<Option<Vec<_>>>()?;
    let rows_affected = u64::from_le_bytes(from.eight()?);
    let last_insert_rowid = i64::from_le_bytes(from.eight()?);
    let values = (0..from.count()?).map(|_| decode_value(from)).collect::<Option<Vec<_>>>()?;
    Some(QueryResult { columns: columns.into(), values, rows_affected, last_insert_rowid })
}

fn decode_value(from: &mut Cursor<'_>) -> Option<Value> {
    Some(match from.byte()? {
        0 => Value::Null,
        1 => Value::Integer(i64::from_le_bytes(from.eight()?)),
        2 => Value::Real(f64::from_le_bytes(from.eight()?)),
        3 => Value::Text(from.text()?),
        4 => Value::Blob(from.bytes()?.to_vec()),
        _ => return None,
    })
}

struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1)?.first().copied()
    }

    fn eight(&mut self) -> Option<[u8; 8]> {
        self.take(8)?.try_into().ok()
    }

    fn count(&mut self) -> Option<usize> {
        let mut count = 0_usize;
        for shift in (0..usize::BITS).step_by(7) {
            let byte = self.byte()?;
            count |= usize::from(byte & 0x7f).checked_shl(shift)?;
            if byte < 0x80 {
                // Every counted thing takes a byte at least, so a larger count is a lie about memory.
                return (count <= LARGEST).then_some(count);
            }
        }
        None
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = self.count()?;
        self.take(length)
    }

    fn text(&mut self) -> Option<String> {
        String::from_utf8(self.bytes()?.to_vec()).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_come_back_and_cut_bytes_do_not() {
        let result = QueryResult {
            columns: vec![
                Column { name: "a".to_owned(), declared: Some("INTEGER".to_owned()) },
                Column { name: "b".to_owned(), declared: None },
            ]
            .into(),
            values: vec![
                Value::Integer(i64::MIN),
                Value::Null,
                Value::Text("ü".repeat(100)),
                Value::Blob(vec![0; 300]),
                Value::Real(0.1),
                Value::Text(String::new()),
            ],
            rows_affected: 3,
            last_insert_rowid: -1,
        };
        let results = vec![result, QueryResult::default()];
        let bytes = encode(&results).unwrap();
        assert_eq!(decode(&bytes), Some(Kept { results, whole: true }));
        for length in 0..bytes.len() {
            assert_eq!(decode(&bytes[..length]), None, "{length}");
        }
    }

    #[test]
    fn large_results_are_kept_without_their_values() {
        let counts = QueryResult { rows_affected: 7, last_insert_rowid: -1, ..QueryResult::default() };
        for values in [vec![Value::Blob(vec![0; LARGEST])], vec![Value::Null; LARGEST]] {
            let bytes = encode(&[QueryResult { values, ..counts.clone() }]).unwrap();
            assert_eq!(decode(&bytes), Some(Kept { results: vec![counts.clone()], whole: false }));
        }
        let name = "n".repeat(LARGEST);
        let columns = vec![Column { name, declared: None }].into();
        assert_eq!(encode(&[QueryResult { columns, ..QueryResult::default() }]), None);
    }
}
