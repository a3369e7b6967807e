//! What happened: a line for people on standard output, and a JSON object in `events.jsonl` from which times can be computed.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;

use rdb_control::Event;
use serde::{Deserialize, Serialize};

use super::LocalError;
use crate::clock;
use crate::text::printable;

/// How many events are kept for `rdb local status`: about what fits on a screen.
const RECENT: usize = 20;

/// A line of `events.jsonl`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    pub at: String,
    pub unix_ms: u64,
    /// The clock that counts suspended time, for differences.
    pub boottime_us: u64,
    pub reason: String,
    pub message: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub evidence: String,
    #[serde(default)]
    pub warning: bool,
}

pub struct Journal {
    file: File,
    recent: VecDeque<Entry>,
    print: bool,
}

impl Journal {
    pub fn open(path: &Path, print: bool) -> Result<Journal, LocalError> {
        let file = OpenOptions::new().create(true).append(true).open(path).map_err(LocalError::io(path))?;
        Ok(Journal { file, recent: VecDeque::new(), print })
    }

    /// The latest events, oldest first.
    pub fn recent(&self) -> Vec<Entry> {
        self.recent.iter().cloned().collect()
    }

    /// Something that `decide` or the supervisor wants people to read.
    pub fn event(&mut self, event: Event) {
        let entry = entry(event);
        if self.print {
            print_line(&entry);
        }
        self.append(&entry);
        if self.recent.len() == RECENT {
            self.recent.pop_front();
        }
        self.recent.push_back(entry);
    }

    /// An event of the supervisor itself.
    pub fn note(&mut self, reason: &str, message: String) {
        self.event(Event { reason: reason.to_owned(), message, evidence: String::new(), warning: false });
    }

    /// A fact for those who compute times; not printed.
    pub fn fact(&mut self, reason: &str, message: String) {
        let entry = entry(Event { reason: reason.to_owned(), message, evidence: String::new(), warning: false });
        self.append(&entry);
    }

    /// A full disk must not end the supervision of nodes that can cope with it, so a lost line is only complained about.
    fn append(&mut self, entry: &Entry) {
        let Ok(mut line) = serde_json::to_vec(entry) else { return };
        line.push(b'\n');
        if let Err(error) = self.file.write_all(&line) {
            tracing::warn!(%error, "cannot write events.jsonl");
        }
    }
}

fn entry(event: Event) -> Entry {
    let unix_ms = clock::unix_ms();
    Entry {
        at: clock::rfc3339(unix_ms),
        unix_ms,
        boottime_us: clock::boottime_us(),
        reason: event.reason,
        message: event.message,
        evidence: event.evidence,
        warning: event.warning,
    }
}

fn print_line(entry: &Entry) {
    let time = entry.at.get(11..23).unwrap_or(&entry.at);
    let mark = if entry.warning { "! " } else { "" };
    // Messages often name their evidence themselves.
    let named = entry.message.contains(&entry.evidence);
    let evidence = if named { String::new() } else { format!(" ({})", entry.evidence) };
    let text = printable(&format!("{}{evidence}", entry.message));
    // Whoever started us may have closed the pipe; the cluster goes on.
    let _ = writeln!(std::io::stdout(), "{time} {mark}{}: {text}", entry.reason);
}
