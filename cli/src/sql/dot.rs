//! Commands of a session that are not SQL.

use std::io::{Seek, Write};

use clap::ValueEnum;

use super::session::{Ran, Session, consistency};
use crate::args::{ReadLevel, RowFormat};
use crate::script::Script;
use crate::{Failure, dump, output};

const HELP: &str = "\
.tables [PATTERN]        names of tables and views
.schema [TABLE]          the statements that made them
.dump [TABLE]            everything as SQL text
.mode table|json|csv     how to print rows
.consistency LEVEL       linearizable, session, bounded or any
.read FILE               run the statements in a file
.help                    this
.quit                    leave (also Ctrl-D)
BEGIN; …; COMMIT;        statements in between are sent together, as one transaction, at COMMIT";

/// Names that are not the user's.
const OWN: &str = "name NOT LIKE 'sqlite!_%' ESCAPE '!' AND name NOT LIKE '!_rdb!_%' ESCAPE '!'";

/// True: the session goes on.
pub fn run(session: &mut Session<'_>, mode: &mut RowFormat, line: &str) -> Result<bool, Failure> {
    let (command, argument) = match line.split_once(char::is_whitespace) {
        Some((command, argument)) => {
            (command, Some(argument.trim().trim_end_matches(';')).filter(|text| !text.is_empty()))
        }
        None => (line, None),
    };
    match command {
        ".quit" | ".exit" => return Ok(false),
        ".help" => output::line(HELP)?,
        ".tables" => tables(session, argument)?,
        ".schema" => schema(session, argument)?,
        ".dump" => dump(session, argument)?,
        ".mode" => *mode = choice(command, argument, "table, json, csv")?,
        ".consistency" => {
            let level: ReadLevel = choice(command, argument, "linearizable, session, bounded, any")?;
            session.consistency = consistency(level);
        }
        ".read" => read(session, *mode, argument)?,
        _ => return Err(Failure::Other(format!("unknown command {command}; try .help"))),
    }
    Ok(true)
}

fn choice<T: ValueEnum>(command: &str, argument: Option<&str>, choices: &str) -> Result<T, Failure> {
    let wanted = argument.and_then(|text| T::from_str(text, true).ok());
    wanted.ok_or_else(|| Failure::Other(format!("{command} takes one of {choices}")))
}

/// A text as a SQL literal.
fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

fn tables(session: &mut Session<'_>, pattern: Option<&str>) -> Result<(), Failure> {
    let like = literal(pattern.unwrap_or("%"));
    let sql = format!(
        "SELECT name FROM sqlite_schema WHERE type IN ('table', 'view') AND {OWN} AND name LIKE {like} ORDER BY name"
    );
    print_first_column(session, &sql, "")
}

fn schema(session: &mut Session<'_>, table: Option<&str>) -> Result<(), Failure> {
    let only = table.map_or(String::new(), |table| format!(" AND lower(tbl_name) = lower({})", literal(table)));
    let sql = format!("SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL AND {OWN}{only} ORDER BY rowid");
    print_first_column(session, &sql, ";")
}

fn print_first_column(session: &mut Session<'_>, sql: &str, end: &str) -> Result<(), Failure> {
    let result = session.query(sql, session.consistency)?;
    for value in result.rows.iter().filter_map(|row| row.first()?.as_str()) {
        output::line(&format!("{value}{end}"))?;
    }
    Ok(())
}

/// From a snapshot of the whole database, so that all tables are of one moment: the one that the asked node has applied.
fn dump(session: &mut Session<'_>, table: Option<&str>) -> Result<(), Failure> {
    let mut file = tempfile::NamedTempFile::new().map_err(Failure::io("a temporary file"))?;
    session.client().download("/v1/snapshot", file.as_file_mut())?;
    file.as_file_mut().flush().and_then(|()| file.as_file_mut().rewind()).map_err(Failure::io("a temporary file"))?;
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    dump::write_file(file.path(), table, &mut out).map_err(|error| Failure::Other(error.to_string()))?;
    out.flush().map_err(Failure::io("standard output"))
}

fn read(session: &mut Session<'_>, mode: RowFormat, file: Option<&str>) -> Result<(), Failure> {
    let file = file.ok_or_else(|| Failure::Other(".read takes a file".to_owned()))?;
    let source = std::fs::File::open(file).map_err(Failure::io(file))?;
    for statement in Script::new(std::io::BufReader::new(source)) {
        let statement = statement.map_err(|error| Failure::Other(format!("{file}: {error}")))?;
        super::show(&session.run(&statement.sql)?, mode)?;
    }
    Ok(())
}

/// Prints what a statement gave, or that it worked.
pub fn show(ran: &Ran, mode: RowFormat) -> Result<(), Failure> {
    super::show(ran, mode)?;
    summary(ran).map_or(Ok(()), |text| output::line(&text))
}

/// Of a statement without rows.
fn summary(ran: &Ran) -> Option<String> {
    match ran {
        Ran::Begun => Some("transaction begun; it runs at COMMIT".to_owned()),
        Ran::Queued => None,
        Ran::RolledBack => Some("transaction dropped".to_owned()),
        Ran::Results(results) => {
            let changed: u64 = results.iter().map(|result| result.rows_affected).sum();
            let silent = results.iter().all(|result| result.columns.is_empty());
            silent.then(|| format!("ok, {} changed", crate::text::count(changed, "row")))
        }
    }
}
