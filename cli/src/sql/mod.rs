//! `rdb sql`: statements given as an argument, read as a script from standard input, or typed in a session.
//!
//! | module | holds |
//! | --- | --- |
//! | [`session`] | sending statements: reads, writes, transactions |
//! | [`render`] | rows as a table, JSON or CSV |
//! | [`dot`] | `.tables` and its like |
//! | [`repl`] | the interactive session |

pub mod dot;
pub mod render;
pub mod repl;
pub mod session;

use std::io::{IsTerminal, Read};
use std::process::ExitCode;

use crate::args::{RowFormat, SqlOptions};
use crate::client::Client;
use crate::script::{self, Script};
use crate::{Failure, output};

use session::{Ran, Session};

pub fn run(options: &SqlOptions) -> Result<ExitCode, Failure> {
    let client = Client::new(&options.target.url, options.target.token_file.as_deref())?;
    let mut session = Session::new(&client, options).map_err(Failure::io("randomness"))?;
    match &options.sql {
        None if std::io::stdin().is_terminal() => repl::run(&mut session, options.mode)?,
        None => run_script(&mut session, options.mode, std::io::stdin().lock())?,
        Some(sql) if sql == "-" => run_script(&mut session, options.mode, std::io::stdin().lock())?,
        Some(command) if command.trim_start().starts_with('.') => {
            let mut mode = options.mode;
            dot::run(&mut session, &mut mode, command.trim())?;
        }
        Some(sql) => run_script(&mut session, options.mode, sql.as_bytes())?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Runs statement by statement and stops at the first error. A transaction that was begun and not committed is dropped,
/// as it would be when a connection ends.
fn run_script(session: &mut Session<'_>, mode: RowFormat, source: impl Read) -> Result<(), Failure> {
    for statement in Script::new(std::io::BufReader::new(source)) {
        let statement = statement.map_err(|error| Failure::Other(error.to_string()))?;
        show(&session.run(&statement.sql)?, mode)?;
    }
    match session.pending() {
        0 => Ok(()),
        n => Err(Failure::Other(format!(
            "the script ends in a transaction without COMMIT; its {n} statements were not run"
        ))),
    }
}

/// Prints what a statement gave. Only results with columns have something to print: a script's output is data.
fn show(ran: &Ran, mode: RowFormat) -> Result<(), Failure> {
    let results = match ran {
        Ran::Results(results) => results.as_slice(),
        Ran::Begun | Ran::Queued | Ran::RolledBack => &[],
    };
    for result in results.iter().filter(|result| !result.columns.is_empty()) {
        let text = render::rows(result, mode);
        if !text.is_empty() {
            output::line(&text)?;
        }
    }
    Ok(())
}

/// Is the text in want of more lines?
fn is_unfinished(text: &str) -> bool {
    !script::is_complete(text.as_bytes()).unwrap_or(true)
}
