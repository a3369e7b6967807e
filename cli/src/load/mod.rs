//! `rdb load`: brings a SQL dump or a SQLite file into a cluster, batch by batch, through failovers, each batch exactly once.
//!
//! file → units ([`text`], [`sqlite`]) → batches ([`sender`]) → `POST /v1/batch` with a key
//!
//! A unit is what stands or falls together: usually one statement. Units are numbered from 1 in the order in which they are
//! sent, which is the same every time, so that a load can go on where it stopped.
//!
//! Foreign keys are always on in a cluster. Every batch defers them to its end, tables are made before rows where the file
//! says that it does not care for the order, and a batch that still breaks a key is joined with what follows it.

pub mod rows;
pub mod sender;
pub mod sqlite;
pub mod text;
pub mod virtual_table;

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::process::ExitCode;
use std::str::FromStr;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use rdb_protocol::api::{Args, Statement};

use crate::args::LoadOptions;
use crate::client::{Client, ClientError};
use crate::script::ScriptError;
use crate::{Failure, output};

use sender::Sender;

/// What stands or falls together.
#[derive(Clone, Debug, PartialEq)]
pub struct Unit {
    /// Where it comes from, for messages: a line, or a row of a table.
    pub origin: String,
    pub statements: Vec<Statement>,
    /// How far into the source it reaches, in the unit of [`Source::total`].
    pub done: u64,
}

impl Unit {
    /// Of one statement without arguments.
    pub fn one(origin: String, sql: String, done: u64) -> Unit {
        Unit { origin, statements: vec![Statement { sql, args: Args::default() }], done }
    }
}

/// A statement without arguments.
pub fn plain(sql: &str) -> Statement {
    Statement { sql: sql.to_owned(), args: Args::default() }
}

/// Takes units one by one.
pub type Sink<'a> = dyn FnMut(Unit) -> Result<(), LoadError> + 'a;

/// Something that can be loaded.
pub trait Source {
    /// Its size, in whatever `Unit::done` counts.
    fn total(&self) -> u64;
    /// Passes on all units in order. Twice the same if called twice.
    fn each(&mut self, sink: &mut Sink<'_>) -> Result<(), LoadError>;
    /// What could not be loaded and is left to the user.
    fn notes(&self) -> &[String];
}

/// Why a load stopped.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The cluster refused a unit; all before it are loaded.
    #[error("{origin}: {error}\nEverything before it is loaded. After correcting it, go on with --start-at {number}")]
    Refused { origin: String, number: u64, error: ClientError },
    /// Nobody answered in time. The key in `resume` makes the repeated batch safe.
    #[error("{origin}: {error}\nGo on with --resume {resume}")]
    Interrupted { origin: String, error: ClientError, resume: Box<Resume> },
    #[error(transparent)]
    Script(#[from] ScriptError),
    #[error("{origin}: {message}")]
    Source { origin: String, message: String },
    #[error("cannot read the SQLite file: {0}")]
    Sqlite(#[from] rusqlite::Error),
    #[error("{path}: {source}")]
    Io { path: String, source: std::io::Error },
}

impl LoadError {
    pub fn client_error(&self) -> Option<&ClientError> {
        match self {
            LoadError::Refused { error, .. } | LoadError::Interrupted { error, .. } => Some(error),
            LoadError::Script(_) | LoadError::Source { .. } | LoadError::Sqlite(_) | LoadError::Io { .. } => None,
        }
    }
}

/// `<client>:<sequence>@<first unit>+<units>`: the batch that was under way, with its idempotency key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resume {
    pub client: String,
    pub sequence: u64,
    pub first: u64,
    pub units: usize,
}

impl std::fmt::Display for Resume {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}@{}+{}", self.client, self.sequence, self.first, self.units)
    }
}

impl FromStr for Resume {
    type Err = String;

    fn from_str(text: &str) -> Result<Resume, String> {
        let parse = || {
            let (key, place) = text.split_once('@')?;
            let (client, sequence) = key.rsplit_once(':')?;
            let (first, units) = place.split_once('+')?;
            Some(Resume {
                client: client.to_owned(),
                sequence: sequence.parse().ok()?,
                first: first.parse().ok().filter(|first| *first > 0)?,
                units: units.parse().ok().filter(|units| *units > 0)?,
            })
        };
        parse().ok_or_else(|| format!("--resume {text:?}: expected what the message of the interrupted load says"))
    }
}

pub fn run(options: &LoadOptions) -> Result<ExitCode, Failure> {
    let client = Client::new(&options.target.url, options.target.token_file.as_deref())?;
    let patience = Duration::from_secs(options.patience);
    let resume = options.resume.as_deref().map(Resume::from_str).transpose().map_err(Failure::Other)?;
    let mut sender = match resume {
        Some(resume) => Sender::resumed(&client, patience, resume),
        None => {
            let id = format!("load-{}", crate::text::random_hex().map_err(Failure::io("randomness"))?);
            Sender::new(&client, patience, id, options.start_at.unwrap_or(1))
        }
    };
    let mut source = open(&options.file)?;
    let bar = if options.quiet { ProgressBar::hidden() } else { progress_bar(source.total()) };
    let loaded = sender.load(source.as_mut(), &|done| bar.set_position(done));
    // The bar is wiped so that the outcome is what stays on the screen.
    bar.finish_and_clear();
    let statements = loaded?;
    for note in source.notes() {
        eprintln!("note: {note}");
    }
    output::line(&format!("{} loaded", crate::text::count(statements, "statement")))?;
    Ok(ExitCode::SUCCESS)
}

fn progress_bar(total: u64) -> ProgressBar {
    let bar = ProgressBar::new(total);
    let template = "{wide_bar} {percent:>3} %  {elapsed} elapsed, {eta} left";
    bar.set_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar
}

/// Tells the two kinds of files apart by the magic of SQLite's.
fn open(path: &Path) -> Result<Box<dyn Source>, LoadError> {
    let io = |source| LoadError::Io { path: path.display().to_string(), source };
    let mut head = Vec::new();
    File::open(path).map_err(io)?.take(16).read_to_end(&mut head).map_err(io)?;
    if head == b"SQLite format 3\0" {
        Ok(Box::new(sqlite::SqliteFile::open(path)?))
    } else {
        Ok(Box::new(text::SqlText::open(path)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_to_resume_survives_its_text() {
        let resume = Resume { client: "load-a:b".to_owned(), sequence: 7, first: 3001, units: 500 };
        assert_eq!(resume.to_string().parse(), Ok(resume));
        for bad in ["", "a:1@0+1", "a:1@1+0", "a@1+1", "a:1@1"] {
            assert!(bad.parse::<Resume>().is_err(), "{bad}");
        }
    }
}
