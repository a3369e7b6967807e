//! Values that their JSON does not tell apart: integers beyond ±2^53 and infinite reals look like text there, and text that is
//! not UTF-8 looks like its mended form. Lines state them a second time, as SQL.

use rusqlite::types::ValueRef;

use crate::json::SAFE_INTEGER;

/// The SQL literal of a value whose JSON is ambiguous.
pub(super) fn literal(value: ValueRef<'_>) -> Option<String> {
    match value {
        ValueRef::Integer(integer) if integer.unsigned_abs() > SAFE_INTEGER as u64 => Some(integer.to_string()),
        // SQLite reads a number that is too large as infinity.
        ValueRef::Real(real) if real.is_infinite() => Some(if real > 0.0 { "9e999" } else { "-9e999" }.to_owned()),
        ValueRef::Text(text) if std::str::from_utf8(text).is_err() => {
            let digits: String = text.iter().map(|byte| format!("{byte:02x}")).collect();
            Some(format!("CAST(x'{digits}' AS TEXT)"))
        }
        _ => None,
    }
}
