//! The interactive session: lines are collected until they form a statement; errors are shown and the session goes on.

use std::path::PathBuf;

use rustyline::DefaultEditor;
use rustyline::error::ReadlineError;

use super::session::Session;
use super::{dot, is_unfinished};
use crate::args::RowFormat;
use crate::script;
use crate::{Failure, output};

/// Lines of history that are kept.
const HISTORY: usize = 1000;

pub fn run(session: &mut Session<'_>, mode: RowFormat) -> Result<(), Failure> {
    let broken = |error: ReadlineError| Failure::Other(error.to_string());
    let config = rustyline::Config::builder().max_history_size(HISTORY).map_err(broken)?.build();
    let mut editor = DefaultEditor::with_config(config).map_err(broken)?;
    let history = history_file();
    if let Some(path) = &history {
        // None yet, or unreadable: a session without history.
        let _ = editor.load_history(path);
    }
    output::line(&format!("{} (.help for help)", session.client().endpoints().join(", ")))?;
    let mut mode = mode;
    let mut text = String::new();
    loop {
        let prompt = match (text.is_empty(), session.in_transaction()) {
            (true, false) => "rdb> ",
            (true, true) => "rdb*> ",
            (false, _) => "...> ",
        };
        match editor.readline(prompt) {
            Ok(line) => match take_line(session, &mut mode, text, &line, &mut editor)? {
                Some(rest) => text = rest,
                None => break,
            },
            // Ctrl-C drops what was typed, Ctrl-D leaves.
            Err(ReadlineError::Interrupted) => text.clear(),
            Err(ReadlineError::Eof) => break,
            Err(error) => return Err(broken(error)),
        }
    }
    if let Some(path) = &history
        && let Err(error) = editor.save_history(path)
    {
        eprintln!("rdb: the history was not saved: {error}");
    }
    Ok(())
}

/// Adds a line and runs what is complete; returns what is left for the next line, or `None` when the session is over.
fn take_line(
    session: &mut Session<'_>,
    mode: &mut RowFormat,
    mut text: String,
    line: &str,
    editor: &mut DefaultEditor,
) -> Result<Option<String>, Failure> {
    if text.is_empty() && line.trim_start().starts_with('.') {
        // The history is a convenience; a line that can't be added is only missing from it.
        let _ = editor.add_history_entry(line.trim());
        return Ok(match dot::run(session, mode, line.trim()) {
            Ok(true) => Some(String::new()),
            Ok(false) => None,
            Err(failure) => complain(failure)?,
        });
    }
    text.push_str(line);
    text.push('\n');
    if text.trim().is_empty() {
        return Ok(Some(String::new()));
    }
    if is_unfinished(&text) {
        return Ok(Some(text));
    }
    let _ = editor.add_history_entry(text.trim());
    let statements = match script::split(&text) {
        Ok(statements) => statements,
        Err(error) => return complain(Failure::Other(error.to_string())),
    };
    for statement in statements {
        match session.run(&statement.sql) {
            Ok(ran) => dot::show(&ran, *mode)?,
            Err(error) => return complain(error.into()),
        }
    }
    Ok(Some(String::new()))
}

/// Shows an error and goes on, unless nobody can read it any more.
fn complain(failure: Failure) -> Result<Option<String>, Failure> {
    match failure {
        Failure::Io { .. } => Err(failure),
        other => {
            eprintln!("{other}");
            Ok(Some(String::new()))
        }
    }
}

fn history_file() -> Option<PathBuf> {
    std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".rdb_history"))
}
