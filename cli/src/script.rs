//! SQL text as a sequence of statements, with the line on which each begins.
//!
//! A semicolon ends a statement unless it stands in a string, a quoted name or a comment, or in the body of a trigger. The
//! first three are recognised here, byte by byte; the last by SQLite's own `sqlite3_complete`, which is asked only at
//! semicolons that pass the first test, so that a megabyte of text in one string costs one look.

use std::ffi::CString;
use std::io::BufRead;

/// Longest statement that is collected. Twice the largest default request, which could not carry it.
const MAX_STATEMENT_BYTES: usize = 32 << 20;

/// A statement and where it begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Located {
    /// Counted from 1.
    pub line: u64,
    /// Without surrounding white space; ends with its semicolon if it has one.
    pub sql: String,
    /// Bytes of the source up to its end.
    pub end: u64,
}

#[derive(Debug, thiserror::Error)]
pub enum ScriptError {
    #[error("line {line}: {message}")]
    Text { line: u64, message: String },
    #[error("line {line}: {source}")]
    Read { line: u64, source: std::io::Error },
}

/// What the scanner is inside of.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Plain,
    /// Until this byte; doubling it is the same as leaving and entering again.
    Quoted(u8),
    LineComment,
    BlockComment,
}

/// Reads statements from text.
pub struct Script<R> {
    source: R,
    /// What was read and not yet taken begins at `start`; the rest is thrown away before more is read.
    buffer: Vec<u8>,
    start: usize,
    /// Where `start` is in the source.
    offset: u64,
    /// Line at `start`.
    line: u64,
    scanned: usize,
    state: State,
    ended: bool,
}

impl<R: BufRead> Script<R> {
    pub fn new(source: R) -> Script<R> {
        Script {
            source,
            buffer: Vec::new(),
            start: 0,
            offset: 0,
            line: 1,
            scanned: 0,
            state: State::Plain,
            ended: false,
        }
    }

    fn next_statement(&mut self) -> Result<Option<Located>, ScriptError> {
        loop {
            while let Some(end) = self.scan() {
                let complete = is_complete(&self.buffer[self.start..end]);
                let complete = complete.map_err(|message| ScriptError::Text { line: self.line, message })?;
                if complete && let Some(found) = self.take(end)? {
                    return Ok(Some(found));
                }
            }
            if self.ended {
                return self.take(self.buffer.len());
            }
            self.buffer.drain(..self.start);
            self.scanned -= self.start;
            self.start = 0;
            if self.buffer.len() > MAX_STATEMENT_BYTES {
                let message = format!("the statement is longer than {MAX_STATEMENT_BYTES} bytes");
                return Err(ScriptError::Text { line: self.line, message });
            }
            let line = self.line;
            let read = self.source.read_until(b'\n', &mut self.buffer);
            self.ended = read.map_err(|source| ScriptError::Read { line, source })? == 0;
            if self.offset == 0 && self.scanned == 0 && self.buffer.starts_with(b"\xef\xbb\xbf") {
                self.buffer[..3].fill(b' ');
            }
        }
    }

    /// Goes on to just behind the next semicolon that may end a statement.
    fn scan(&mut self) -> Option<usize> {
        while let Some(&byte) = self.buffer.get(self.scanned) {
            let next = self.buffer.get(self.scanned + 1).copied();
            self.scanned += 1;
            match (self.state, byte) {
                (State::Plain, b'\'' | b'"' | b'`') => self.state = State::Quoted(byte),
                (State::Plain, b'[') => self.state = State::Quoted(b']'),
                (State::Plain, b'-') if next == Some(b'-') => self.state = State::LineComment,
                (State::Plain, b'/') if next == Some(b'*') => {
                    self.scanned += 1;
                    self.state = State::BlockComment;
                }
                (State::Plain, b';') => return Some(self.scanned),
                (State::Quoted(end), _) if byte == end => self.state = State::Plain,
                (State::LineComment, b'\n') => self.state = State::Plain,
                (State::BlockComment, b'*') if next == Some(b'/') => {
                    self.scanned += 1;
                    self.state = State::Plain;
                }
                _ => {}
            }
        }
        None
    }

    /// Takes the buffer up to `end` as a statement; `None` if there is nothing but space and comments.
    fn take(&mut self, end: usize) -> Result<Option<Located>, ScriptError> {
        let bytes = &self.buffer[self.start..end];
        let first = self.line + lines(&bytes[..leading_space(bytes)]);
        self.line += lines(bytes);
        self.offset += bytes.len() as u64;
        let sql = std::str::from_utf8(bytes)
            .map_err(|_| ScriptError::Text { line: first, message: "the statement is not UTF-8".to_owned() })?
            .trim();
        let is_empty = words(sql).next().is_none_or(|word| word == ";");
        let found = Located { line: first, sql: sql.to_owned(), end: self.offset };
        self.start = end;
        self.scanned = end;
        self.state = State::Plain;
        Ok((!is_empty).then_some(found))
    }
}

impl<R: BufRead> Iterator for Script<R> {
    type Item = Result<Located, ScriptError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_statement().transpose()
    }
}

fn lines(bytes: &[u8]) -> u64 {
    bytes.iter().filter(|byte| **byte == b'\n').count() as u64
}

fn leading_space(bytes: &[u8]) -> usize {
    bytes.iter().take_while(|byte| byte.is_ascii_whitespace()).count()
}

/// Does the text end with a complete statement? It may have a trigger's body around its last semicolon.
pub fn is_complete(text: &[u8]) -> Result<bool, String> {
    let text = CString::new(text).map_err(|_| "the text contains a NUL byte".to_owned())?;
    // SAFETY: the pointer is to a NUL-terminated string that outlives the call, which keeps nothing.
    Ok(unsafe { rusqlite::ffi::sqlite3_complete(text.as_ptr()) } != 0)
}

/// All statements of a text.
pub fn split(text: &str) -> Result<Vec<Located>, ScriptError> {
    Script::new(text.as_bytes()).collect()
}

/// The words of a statement: names and numbers as they are, quoted text with its quotes, other characters one by one.
/// Space and comments are left out.
pub fn words(sql: &str) -> impl Iterator<Item = &str> {
    let mut rest = sql;
    std::iter::from_fn(move || {
        loop {
            rest = rest.trim_start();
            if let Some(comment) = rest.strip_prefix("--") {
                rest = comment.split_once('\n').map_or("", |(_, after)| after);
            } else if let Some(comment) = rest.strip_prefix("/*") {
                rest = comment.split_once("*/").map_or("", |(_, after)| after);
            } else {
                break;
            }
        }
        let length = word_length(rest)?;
        let (word, after) = rest.split_at(length);
        rest = after;
        Some(word)
    })
}

fn word_length(text: &str) -> Option<usize> {
    let first = text.chars().next()?;
    let is_name = |c: char| c.is_alphanumeric() || matches!(c, '_' | '$');
    let quoted = match first {
        '\'' | '"' | '`' => Some(first),
        '[' => Some(']'),
        _ => None,
    };
    if let Some(end) = quoted {
        let mut from = 1;
        while let Some(at) = text[from..].find(end) {
            from += at + 1;
            // A doubled quote stands for itself.
            if !text[from..].starts_with(end) || end == ']' {
                return Some(from);
            }
            from += 1;
        }
        return Some(text.len());
    }
    Some(if is_name(first) { text.find(|c| !is_name(c)).unwrap_or(text.len()) } else { first.len_utf8() })
}

/// A name without its quotes.
pub fn unquote(word: &str) -> String {
    let mut chars = word.chars();
    match (chars.next(), chars.next_back()) {
        (Some(open @ ('"' | '\'' | '`')), Some(close)) if open == close => {
            chars.as_str().replace(&format!("{open}{open}"), &open.to_string())
        }
        (Some('['), Some(']')) => chars.as_str().to_owned(),
        _ => word.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(sql: &str) -> Vec<(u64, String)> {
        split(sql).unwrap().into_iter().map(|found| (found.line, found.sql)).collect()
    }

    #[test]
    fn semicolons_in_strings_names_and_comments_end_nothing() {
        let sql = "insert into t values('a;''b');-- x;\n/* ; */ select \";\", [;], `;`;";
        assert_eq!(
            texts(sql),
            [
                (1, "insert into t values('a;''b');".to_owned()),
                (1, "-- x;\n/* ; */ select \";\", [;], `;`;".to_owned()),
            ]
        );
    }

    #[test]
    fn a_trigger_is_one_statement() {
        let sql =
            "create trigger a after insert on t begin\n select 1; select case 1 when 1 then 2 end;\nend;\nselect 2;";
        let found = texts(sql);
        assert_eq!((found.len(), found[1].clone()), (2, (4, "select 2;".to_owned())));
    }

    #[test]
    fn empty_statements_and_trailing_comments_are_left_out() {
        assert_eq!(texts(" ;;\n-- nothing\n;select 1;\n-- end"), [(3, "select 1;".to_owned())]);
    }

    #[test]
    fn the_last_statement_needs_no_semicolon() {
        assert_eq!(texts("select 1;\n\nselect 2"), [(1, "select 1;".to_owned()), (3, "select 2".to_owned())]);
    }

    #[test]
    fn a_byte_order_mark_is_no_part_of_the_first_statement() {
        assert_eq!(texts("\u{feff}select 1;"), [(1, "select 1;".to_owned())]);
    }

    #[test]
    fn a_megabyte_of_semicolons_in_a_string_is_read_quickly() {
        let sql = format!("insert into t values('{}');", ";\n".repeat(1 << 19));
        assert_eq!(texts(&sql).len(), 1);
    }

    #[test]
    fn bytes_that_are_no_text_are_an_error_with_a_line() {
        let bad = Script::new(&b"select 1;\nselect '\xff';"[..]).collect::<Result<Vec<_>, _>>();
        assert!(matches!(bad, Err(ScriptError::Text { line: 2, .. })));
        assert!(split("select '\0';").is_err());
    }

    #[test]
    fn words_and_names() {
        let found: Vec<&str> = words("-- c\nINSERT/**/INTO \"a\"\"b\"(x)VALUES('c''d',1.5)").collect();
        assert_eq!(
            found,
            ["INSERT", "INTO", "\"a\"\"b\"", "(", "x", ")", "VALUES", "(", "'c''d'", ",", "1", ".", "5", ")"]
        );
        assert_eq!([unquote("\"a\"\"b\""), unquote("[a b]"), unquote("plain")], ["a\"b", "a b", "plain"]);
    }
}
