//! Rows for people and programs. Values come as the API gives them: integers beyond 2^53 as strings, blobs as
//! `{"base64": …}`; JSON output keeps that form.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rdb_protocol::api::StatementResult;
use serde_json::Value;

use crate::args::RowFormat;
use crate::output;

/// The rows of a result, without a line end at the end.
pub fn rows(result: &StatementResult, format: RowFormat) -> String {
    match format {
        RowFormat::Table => table(result),
        RowFormat::Json => json(result),
        RowFormat::Csv => csv(result),
    }
}

fn table(result: &StatementResult) -> String {
    let header: Vec<String> = result.columns.iter().map(|column| crate::text::printable(&column.name)).collect();
    let header: Vec<&str> = header.iter().map(String::as_str).collect();
    let rows: Vec<Vec<String>> = result.rows.iter().map(|row| row.iter().map(plain).collect()).collect();
    output::table(&header, &rows)
}

/// A value as a person would write it: NULL, a number, the text itself, X'…'.
fn plain(value: &Value) -> String {
    match value {
        Value::Null => "NULL".to_owned(),
        Value::String(text) => text.clone(),
        other => match blob(other) {
            Some(bytes) => format!("X'{}'", hex(&bytes)),
            None => other.to_string(),
        },
    }
}

fn blob(value: &Value) -> Option<Vec<u8>> {
    STANDARD.decode(value.get("base64")?.as_str()?).ok()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02X}")).collect()
}

/// An array of objects. Written by hand to keep the order of the columns; a name that occurs twice gets a number.
fn json(result: &StatementResult) -> String {
    let mut names: Vec<String> = Vec::new();
    for column in &result.columns {
        let mut name = column.name.clone();
        let mut n = 1;
        while names.contains(&name) {
            n += 1;
            name = format!("{}:{n}", column.name);
        }
        names.push(name);
    }
    let object = |row: &Vec<Value>| {
        let pair = |(name, value): (&String, &Value)| format!("{}:{value}", Value::from(name.as_str()));
        format!("{{{}}}", names.iter().zip(row).map(pair).collect::<Vec<_>>().join(","))
    };
    format!("[{}]", result.rows.iter().map(object).collect::<Vec<_>>().join(",\n "))
}

/// RFC 4180 with a header; NULL is an empty field, an empty text is `""`, a blob is in base64.
fn csv(result: &StatementResult) -> String {
    let header = result.columns.iter().map(|column| csv_text(&column.name)).collect::<Vec<_>>().join(",");
    let field = |value: &Value| match value {
        Value::Null => String::new(),
        Value::String(text) => csv_text(text),
        other => match other.get("base64").and_then(Value::as_str) {
            Some(text) => text.to_owned(),
            None => csv_text(&other.to_string()),
        },
    };
    let row = |row: &Vec<Value>| row.iter().map(field).collect::<Vec<_>>().join(",");
    std::iter::once(header).chain(result.rows.iter().map(row)).collect::<Vec<_>>().join("\r\n")
}

fn csv_text(text: &str) -> String {
    if text.is_empty() || text.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rdb_protocol::api::Column;
    use serde_json::json;

    fn result() -> StatementResult {
        let column = |name: &str| Column { name: name.to_owned(), declared: None };
        StatementResult {
            columns: vec![column("z"), column("a"), column("a")],
            rows: vec![
                vec![json!("9007199254740993"), Value::Null, json!("")],
                vec![json!(1.0), json!({"base64": "AP8="}), json!("say \"hi\",\n\u{1b}[31m")],
            ],
            ..StatementResult::default()
        }
    }

    #[test]
    fn json_keeps_the_order_and_both_of_two_equal_names() {
        let text = rows(&result(), RowFormat::Json);
        assert!(text.starts_with(r#"[{"z":"9007199254740993","a":null,"a:2":""}"#), "{text}");
        assert!(serde_json::from_str::<Value>(&text).is_ok());
    }

    #[test]
    fn csv_tells_null_from_empty_and_quotes() {
        let text = rows(&result(), RowFormat::Csv);
        assert_eq!(text, "z,a,a\r\n9007199254740993,,\"\"\r\n1.0,AP8=,\"say \"\"hi\"\",\n\u{1b}[31m\"");
    }

    #[test]
    fn a_table_has_no_escape_sequences_from_the_data() {
        let text = rows(&result(), RowFormat::Table);
        assert!(text.contains("X'00FF'") && text.contains("NULL") && !text.contains('\u{1b}'), "{text}");
    }
}
