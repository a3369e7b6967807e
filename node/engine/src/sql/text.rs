//! What must be known about SQL text before SQLite sees it: where a statement really begins, whether anything follows
//! it, and whether it names something that only text can show.

/// The text without leading white space, comments and empty statements.
pub(crate) fn skip_blank(mut sql: &str) -> &str {
    loop {
        sql = sql.trim_start_matches(|c: char| c.is_ascii_whitespace() || c == ';' || c == '\u{feff}');
        if let Some(comment) = sql.strip_prefix("--") {
            sql = comment.split_once('\n').map_or("", |(_, rest)| rest);
        } else if let Some(comment) = sql.strip_prefix("/*") {
            // As in SQLite, a comment that never ends goes to the end of the text.
            sql = comment.split_once("*/").map_or("", |(_, rest)| rest);
        } else {
            return sql;
        }
    }
}

/// The first word of text that starts with a statement.
pub(crate) fn first_word(sql: &str) -> &str {
    let end = sql.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(sql.len());
    sql.get(..end).unwrap_or("")
}

/// ASCII letters compared without case.
pub(crate) fn contains_word_part(sql: &str, part: &str) -> bool {
    sql.as_bytes().windows(part.len()).any(|window| window.eq_ignore_ascii_case(part.as_bytes()))
}

pub(crate) fn starts_with_ignoring_case(name: &str, prefix: &str) -> bool {
    name.as_bytes().get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blank_is_white_space_comments_and_semicolons() {
        for blank in ["", " ;\n; ", "-- a comment", "/* a */ -- b\n;", "/* never ends"] {
            assert_eq!(skip_blank(blank), "", "{blank:?}");
        }
        assert_eq!(skip_blank(" /* a */;\n-- b\n select 1"), "select 1");
        assert_eq!(first_word("select 1"), "select");
        assert_eq!(first_word("COMMIT"), "COMMIT");
        assert_eq!(first_word("(x"), "");
    }

    #[test]
    fn parts_are_found_without_case() {
        assert!(contains_word_part("INSERT oR FaIl INTO t", "fail"));
        assert!(!contains_word_part("fai", "fail"));
        assert!(starts_with_ignoring_case("_RDB_x", "_rdb_"));
        assert!(!starts_with_ignoring_case("_rd", "_rdb_"));
    }
}
