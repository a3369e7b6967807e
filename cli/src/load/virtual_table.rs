//! Rows of virtual tables (full text, R-tree). Nodes refuse writes to shadow tables, in which one slip breaks the index, so the
//! rows are read through the virtual table here and inserted through it there.

use rusqlite::Connection;

use super::rows;
use super::{LoadError, Sink, Unit};
use crate::catalog::{Table, quoted};
use crate::script::words;

/// Where the rows of a virtual table are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Content {
    /// In its shadow tables.
    Own,
    /// In another table of the file: the index is built again from it.
    Elsewhere,
    /// Nowhere: only the index is kept, and no rows can be read back.
    Nowhere,
}

/// Says which by the option `content=…` of the full-text modules.
fn content(sql: &str) -> Content {
    let all: Vec<&str> = words(sql).collect();
    let option = all.windows(3).find(|window| window[0].eq_ignore_ascii_case("content") && window[1] == "=");
    match option.map(|window| window[2]) {
        None => Content::Own,
        Some("''" | "\"\"") => Content::Nowhere,
        Some(_) => Content::Elsewhere,
    }
}

/// Passes on the rows of a virtual table of `db`, or what makes them again. Returns what the user has to do, if anything.
pub fn each_row(
    db: &Connection,
    table: &Table,
    done: &mut dyn FnMut() -> u64,
    sink: &mut Sink<'_>,
) -> Result<Option<String>, LoadError> {
    let name = quoted(&table.name);
    match content(&table.sql) {
        Content::Own => {
            rows::each(db, table, &["rowid"], done, sink)?;
            Ok(None)
        }
        Content::Elsewhere => {
            let sql = format!("INSERT INTO {name}({name}) VALUES('rebuild')");
            sink(Unit::one(format!("index {}", table.name), sql, done()))?;
            Ok(None)
        }
        Content::Nowhere => Ok(Some(format!("{} keeps no content that could be copied; fill it again", table.name))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_content_option_is_understood_in_all_its_spellings() {
        let of = |options: &str| content(&format!("CREATE VIRTUAL TABLE f USING fts5(a, {options})"));
        assert_eq!([of("b"), of("tokenize='x'")], [Content::Own; 2]);
        assert_eq!([of("content='docs'"), of("content = docs"), of("CONTENT=\"d\"")], [Content::Elsewhere; 3]);
        assert_eq!([of("content=''"), of("content = \"\"")], [Content::Nowhere; 2]);
    }
}
