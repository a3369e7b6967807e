//! Text for terminals.

/// Makes text from elsewhere safe to print on one line: no control characters, so no escape sequences either.
pub fn printable(text: &str) -> String {
    text.chars().flat_map(|c| if c.is_control() { c.escape_default().collect::<Vec<_>>() } else { vec![c] }).collect()
}

/// `1 record`, `2 records`.
pub fn count(n: u64, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

/// 16 random hexadecimal digits: names of runs, tokens (twice).
pub fn random_hex() -> std::io::Result<String> {
    getrandom::u64().map(|n| format!("{n:016x}")).map_err(std::io::Error::other)
}
