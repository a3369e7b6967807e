//! `rdb log URL|DIR`: the records of a node's log, one line of JSON each: for learning, and for support.
//!
//! From a directory it reads the files as they are, also those of a node that does not start; nothing is locked or changed.
//! From a URL it asks the node, which shows what it has applied.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use rdb_record::Entry;
use serde_json::{Map, Value, json};

use crate::Failure;
use crate::args::LogOptions;
use crate::client::Client;
use crate::text::{JsonLines, printable_json};

pub fn run(options: &LogOptions) -> Result<ExitCode, Failure> {
    let source = Path::new(&options.target.url);
    let mut out = std::io::stdout().lock();
    if source.is_dir() {
        print_directory(source, options, &mut out)?;
    } else {
        let client = Client::new(&options.target.url, options.target.token_file.as_deref())?;
        let from = match &options.from {
            Some(position) => position.clone(),
            None => retained_from(&client)?,
        };
        let follow = if options.follow { "" } else { "&end" };
        let mut lines = JsonLines::new(out);
        let done = client.download(&format!("/v1/changes?from={from}&records{follow}"), &mut lines);
        lines.flush().map_err(Failure::io("writing"))?;
        done?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The position in front of the first record that the node has.
fn retained_from(client: &Client) -> Result<String, Failure> {
    let status = client.endpoints().first().map(|url| client.status_of(url)).transpose()?;
    let first = status.map_or(1, |status| status.first_retained.0);
    // Epoch 0: whatever it was, it is in front of the first.
    Ok(format!("0/{}", first.saturating_sub(1)))
}

fn print_directory(directory: &Path, options: &LogOptions, out: &mut impl Write) -> Result<(), Failure> {
    let inner = directory.join("log");
    let directory = if inner.is_dir() { inner.as_path() } else { directory };
    let from = options.from.as_deref().and_then(|position| position.rsplit('/').next()?.parse().ok()).unwrap_or(0);
    let mut failed = Ok(());
    let read = rdb_log::read_offline(directory, |entry| {
        if entry.position.index.0 > from {
            failed = print_entry(&entry, out);
        }
        failed.is_ok()
    });
    failed?;
    read.map_err(|error| Failure::Other(error.to_string()))
}

/// One line.
pub(crate) fn print_entry(entry: &Entry, out: &mut impl Write) -> Result<(), Failure> {
    let position = json!({ "epoch": entry.position.epoch, "index": entry.position.index });
    let mut line = Map::from_iter([("position".to_owned(), position), ("bytes".to_owned(), json!(entry.bytes.len()))]);
    let line = match entry.decode() {
        Ok(record) => rdb_engine::record_to_text(&record, line),
        Err(error) => {
            line.insert("error".to_owned(), json!(error.to_string()));
            Value::Object(line).to_string()
        }
    };
    writeln!(out, "{}", printable_json(&line)).map_err(Failure::io("writing"))
}
