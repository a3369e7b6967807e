//! The change stream: what this node has applied, record by record, as row changes.
//!
//! A consumer names the position up to which it has everything and gets a line per record from there on, as long as it
//! stays connected. The position of the last line is its token: with it, it goes on at any node, also after a failover,
//! without gap or repeat. A position that this history has not is answered with what vanished, and the stream goes on from the
//! last position in common.

use std::fs::File;
use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rdb_engine::{NO_CHANGES, Shown, changes_of, record_to_text};
use rdb_log::LogReader;
use rdb_protocol::api::{ApiError, ErrorCode, Token};
use rdb_protocol::{Epoch, Index, Position};
use rdb_record::{Entry, Payload};
use serde_json::{Map, Value as Json, json};
use tokio::sync::mpsc;

use super::Node;
use super::reads::unavailable;
use crate::clock;
use crate::http::backend::ChangesCall;

/// Chunks that wait for a slow consumer, each the lines of [`READ_BYTES`] of the log, or of one larger record.
const QUEUE: usize = 2;
/// Log bytes read at once.
const READ_BYTES: usize = 1 << 20;
/// Bytes of an archive sent at once.
const CHUNK_BYTES: usize = 64 << 10;
/// Without records a line states the position so often, so that both sides notice when the other has gone.
const IDLE: Duration = Duration::from_secs(5);

type Lines = mpsc::Sender<std::io::Result<Bytes>>;

/// Where a token is in a node's log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Here,
    /// Its record is newer than what this node has there, which may get it yet, or lose what it has instead.
    Ahead,
    /// Its record vanished; this is the last one in common.
    Lost(Token),
    /// What they have in common lies before the log.
    Unknown,
}

/// `epoch` is that of the newest record that the node shows. One that it only promised says nothing yet: the old leader may be
/// elected again, with all its records.
fn place(reader: &LogReader, token: Token, epoch: Epoch) -> Place {
    match reader.position(token.index) {
        Some(at) if at.epoch == token.epoch => return Place::Here,
        Some(at) if at.epoch < token.epoch && token.epoch >= epoch => return Place::Ahead,
        None if token.index > reader.base().index && token.epoch >= epoch => return Place::Ahead,
        _ => {}
    }
    // Within an epoch all logs are prefixes of each other. Of an epoch that is not in this log, nobody here knows where it
    // began: after a failover with loss that may be before the end of an older one.
    match reader.epoch_end(token.epoch) {
        Some(end) if end.epoch == token.epoch && end.index < token.index => Place::Lost(token_of(end)),
        _ => Place::Unknown,
    }
}

fn token_of(position: Position) -> Token {
    Token { epoch: position.epoch, index: position.index }
}

fn lost_line(token: Token, kept: Token) -> Json {
    json!({ "position": kept, "lost": { "epoch": token.epoch, "after": kept.index, "through": token.index } })
}

impl Node {
    /// Begins a stream behind `from`, or behind what is applied now.
    pub(super) fn change_stream(
        self: &Arc<Self>,
        call: ChangesCall,
    ) -> Result<mpsc::Receiver<std::io::Result<Bytes>>, ApiError> {
        if !self.view.serving() {
            return Err(unavailable());
        }
        let (generation, reader) = {
            let core = self.lock();
            let running = core.running.as_ref().ok_or_else(unavailable)?;
            (core.generation, running.log.reader())
        };
        let first = match call.from.filter(|_| call.records) {
            Some(from) => (Token { index: from.index.max(reader.base().index), ..from }, None),
            None => self.first_line(&reader, call.from)?,
        };
        let (lines, queue) = mpsc::channel(QUEUE);
        let node = self.clone();
        tokio::spawn(async move { node.send_changes(generation, reader, call, first, lines).await });
        Ok(queue)
    }

    /// An archive's row changes. Its name is `<epoch>-<index>`, and nothing else is a path.
    pub(super) fn archived_rows(&self, archive: &str) -> Result<mpsc::Receiver<std::io::Result<Bytes>>, ApiError> {
        let missing = || ErrorCode::BadRequest.error(format!("there is no archive {archive:?} here"), "see the status");
        if archive.is_empty() || !archive.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-') {
            return Err(missing());
        }
        let mut file = File::open(self.paths.archive.join(format!("{archive}.rows.jsonl"))).map_err(|_| missing())?;
        let (chunks, queue) = mpsc::channel(QUEUE);
        tokio::spawn(async move {
            loop {
                // A thread for each chunk, not for the stream: a reader that stops reading holds none.
                let read = tokio::task::spawn_blocking(move || {
                    let mut buffer = vec![0; CHUNK_BYTES];
                    let read = file.read(&mut buffer);
                    (file, read.map(|read| Bytes::from(buffer).slice(..read)))
                });
                let Ok((same, read)) = read.await else { return };
                file = same;
                let (ended, failed) = (matches!(&read, Ok(chunk) if chunk.is_empty()), read.is_err());
                if ended || chunks.send(read).await.is_err() || failed {
                    return;
                }
            }
        });
        Ok(queue)
    }

    /// Where the stream begins, and what it says first.
    fn first_line(&self, reader: &LogReader, from: Option<Token>) -> Result<(Token, Option<Json>), ApiError> {
        let base = reader.base();
        let Some(from) = from else {
            let at = token_of(reader.position(self.view.applied()).unwrap_or(base));
            return Ok((at, Some(json!({ "position": at }))));
        };
        match place(reader, from, self.shown_epoch(reader)) {
            Place::Here | Place::Ahead => Ok((from, None)),
            Place::Lost(kept) => Ok((kept, Some(lost_line(from, kept)))),
            Place::Unknown => {
                let message = if from.index < base.index {
                    format!("changes are kept from {} on", base.index.next())
                } else {
                    format!(
                        "{}/{} is no part of this history, and where they part is not known",
                        from.epoch, from.index
                    )
                };
                let hint =
                    "take a new copy of what you follow, and go on from the position of that read; or ask another node";
                Err(ErrorCode::PositionLost.error(message, hint))
            }
        }
    }

    async fn send_changes(
        self: Arc<Self>,
        generation: u64,
        reader: LogReader,
        call: ChangesCall,
        (mut at, first): (Token, Option<Json>),
        lines: Lines,
    ) {
        if let Some(first) = first
            && send(&lines, &first).await.is_err()
        {
            return;
        }
        loop {
            if call.end && self.view.applied() <= at.index {
                return;
            }
            let deadline = tokio::time::Instant::from_std(clock::instant() + IDLE);
            // Tokens come from outside: there may be no index behind this one.
            let next = Index(at.index.0.saturating_add(1));
            let there = tokio::select! {
                there = self.view.wait_applied(next, deadline) => there,
                () = lines.closed() => return,
            };
            // Before the look at the log: what it holds beyond this may be cut yet.
            let upto = self.view.applied();
            match self.look(generation, &reader, &call, at) {
                Some(Place::Here) => {}
                Some(Place::Lost(kept)) => {
                    if send(&lines, &lost_line(at, kept)).await.is_err() {
                        return;
                    }
                    at = kept;
                    continue;
                }
                Some(Place::Ahead) => {
                    // It may be about to hear of the consumer's epoch; whoever came back at once would find it no wiser.
                    let gone = tokio::time::timeout_at(deadline, lines.closed()).await.is_ok();
                    if gone || self.look(generation, &reader, &call, at) == Some(Place::Ahead) {
                        return;
                    }
                    continue;
                }
                // The consumer connects again, here or elsewhere.
                Some(Place::Unknown) | None => return,
            }
            if !there {
                let Some(here) = reader.position(at.index).map(token_of) else { return };
                if send(&lines, &json!({ "position": here })).await.is_err() {
                    return;
                }
                continue;
            }
            let (reading, after) = (reader.clone(), at.index);
            let read = tokio::task::spawn_blocking(move || read_lines(&reading, call.records, after, upto)).await;
            // What was read goes on from the token only if that is still there.
            if self.look(generation, &reader, &call, at) != Some(Place::Here) {
                continue;
            }
            let (read, last) = match read {
                Ok(Ok(read)) => read,
                Ok(Err(reason)) => {
                    // Whoever has gone away needs no reason.
                    let _ = lines.send(Err(std::io::Error::other(reason))).await;
                    return;
                }
                Err(_) => return,
            };
            at = last;
            if lines.send(Ok(Bytes::from(read))).await.is_err() {
                return;
            }
        }
    }

    fn shown_epoch(&self, reader: &LogReader) -> Epoch {
        reader.position(self.view.applied()).unwrap_or(reader.base()).epoch
    }

    /// Where the token is now; `None` when the stream's data are others, or none. Whoever looks at whole records takes them as
    /// they come.
    fn look(&self, generation: u64, reader: &LogReader, call: &ChangesCall, token: Token) -> Option<Place> {
        if self.lock().generation != generation || !self.view.serving() {
            return None;
        }
        Some(if call.records { Place::Here } else { place(reader, token, self.shown_epoch(reader)) })
    }
}

async fn send(lines: &Lines, line: &Json) -> Result<(), ()> {
    lines.send(Ok(Bytes::from(format!("{line}\n")))).await.map_err(drop)
}

/// Lines for the records behind `after`, and the last position that was looked at.
fn read_lines(reader: &LogReader, records: bool, after: Index, upto: Index) -> Result<(String, Token), String> {
    let entries = reader.read(after.next(), READ_BYTES).map_err(|error| error.to_string())?;
    let (mut lines, mut last, mut told) = (String::new(), None, true);
    for entry in entries.iter().take_while(|entry| entry.position.index <= upto) {
        let line = if records { Some(whole(entry)) } else { line(entry)? };
        told = line.is_some();
        if let Some(line) = line {
            lines.push_str(&line);
            lines.push('\n');
        }
        last = Some(token_of(entry.position));
    }
    let last = last.ok_or("the records are not kept any more")?;
    if !told {
        // Nothing for consumers in it, but they should know that they have everything up to here.
        lines.push_str(&format!("{}\n", json!({ "position": last })));
    }
    Ok((lines, last))
}

/// A record as it is.
fn whole(entry: &Entry) -> String {
    let position = json!(token_of(entry.position));
    let mut line = Map::from_iter([("position".to_owned(), position), ("bytes".to_owned(), json!(entry.bytes.len()))]);
    match entry.decode() {
        Ok(record) => record_to_text(&record, line),
        Err(error) => {
            line.insert("error".to_owned(), json!(error.to_string()));
            Json::Object(line).to_string()
        }
    }
}

/// A record's line; none for records that change nothing.
fn line(entry: &Entry) -> Result<Option<String>, String> {
    let record = entry.decode().map_err(|error| error.to_string())?;
    let (position, time_ms) = (token_of(entry.position), record.timestamp >> 16);
    match record.payload.main() {
        Payload::Noop | Payload::EpochStart { .. } | Payload::Config(_) => return Ok(None),
        Payload::Loss(mark) => {
            return Ok(Some(json!({ "lost": mark, "position": position, "time_ms": time_ms }).to_string()));
        }
        Payload::Pages(_) | Payload::Statements(_) | Payload::Rows(_) | Payload::WithRows(..) => {}
    }
    if record.payload.rows().is_some_and(|rows| rows.names)
        && let Some(changes) = changes_of(&record, Shown::default()).map_err(|error| error.to_string())?
    {
        let position = json!(position);
        let line = || format!("{{\"position\":{position},\"time_ms\":{time_ms},\"transactions\":{changes}}}");
        return Ok((changes != NO_CHANGES).then(line));
    }
    let gap = "this record carries no row changes: changeStream was off when it was written";
    Ok(Some(json!({ "gap": gap, "position": position, "time_ms": time_ms }).to_string()))
}
