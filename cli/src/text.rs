//! Text for terminals.

use std::borrow::Cow;
use std::io::{self, Write};

/// Makes text from elsewhere safe to print on one line: no control characters, so no escape sequences either.
pub fn printable(text: &str) -> String {
    text.chars().flat_map(|c| if c.is_control() { c.escape_default().collect::<Vec<_>>() } else { vec![c] }).collect()
}

/// Makes JSON from elsewhere safe to print, and leaves its meaning: DEL and the control characters U+0080 to U+009F, which some
/// terminals obey and JSON need not escape, are escaped. All others are escaped already, but for the ends of lines.
pub fn printable_json(json: &str) -> Cow<'_, str> {
    let hidden = |c: char| matches!(c, '\u{7f}'..='\u{9f}');
    if !json.contains(hidden) {
        return json.into();
    }
    json.chars()
        .fold(String::with_capacity(json.len()), |mut safe, c| {
            if hidden(c) {
                safe.push_str(&format!("\\u{:04x}", u32::from(c)));
            } else {
                safe.push(c);
            }
            safe
        })
        .into()
}

/// Prints lines of JSON that come in pieces, each by [`printable_json`] once it is whole.
pub struct JsonLines<W> {
    out: W,
    begun: Vec<u8>,
}

impl<W: Write> JsonLines<W> {
    pub fn new(out: W) -> JsonLines<W> {
        JsonLines { out, begun: Vec::new() }
    }
}

impl<W: Write> Write for JsonLines<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        if whole > 0 {
            self.begun.extend_from_slice(&bytes[..whole]);
            let lines = std::mem::take(&mut self.begun);
            self.out.write_all(printable_json(&String::from_utf8_lossy(&lines)).as_bytes())?;
        }
        self.begun.extend_from_slice(&bytes[whole..]);
        Ok(bytes.len())
    }

    /// Prints also what is not a whole line: nothing follows.
    fn flush(&mut self) -> io::Result<()> {
        let rest = std::mem::take(&mut self.begun);
        self.out.write_all(printable_json(&String::from_utf8_lossy(&rest)).as_bytes())?;
        self.out.flush()
    }
}

/// `1 record`, `2 records`.
pub fn count(n: u64, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

/// 16 random hexadecimal digits: names of runs, tokens (twice).
pub fn random_hex() -> std::io::Result<String> {
    getrandom::u64().map(|n| format!("{n:016x}")).map_err(std::io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_with_controls_that_json_allows_is_escaped_and_means_the_same() {
        let value = serde_json::json!({"a\u{9b}": ["\u{1b}[31m\u{7f}\u{85}", "é\u{a0}", "\n"]});
        let json = value.to_string();
        let safe = printable_json(&json);
        assert!(!safe.chars().any(char::is_control), "{safe:?}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&safe).unwrap(), value);
        let mut lines = JsonLines::new(Vec::new());
        let bytes = format!("{json}\n{json}\n{json}");
        for piece in bytes.as_bytes().chunks(3) {
            lines.write_all(piece).unwrap();
        }
        lines.flush().unwrap();
        assert_eq!(
            String::from_utf8(lines.out).unwrap(),
            format!("{safe}\n{safe}\n{safe}"),
            "characters come in pieces"
        );
        assert!(matches!(printable_json(r#"{"plain":1}"#), Cow::Borrowed(_)));
    }
}
