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
use rdb_engine::{Shown, changes_of, record_to_json};
use rdb_log::LogReader;
use rdb_protocol::Index;
use rdb_protocol::api::{ApiError, ErrorCode, Token};
use rdb_record::{Entry, Payload};
use serde_json::{Value as Json, json};
use tokio::sync::mpsc;

use super::Node;
use super::reads::unavailable;
use crate::clock;
use crate::http::backend::ChangesCall;

/// Lines that wait for a slow consumer; each is one record.
const QUEUE: usize = 64;
/// Log bytes read at once.
const READ_BYTES: usize = 1 << 20;
/// Bytes of an archive sent at once.
const CHUNK_BYTES: usize = 64 << 10;
/// Without records a line states the position so often, so that both sides notice when the other has gone.
const IDLE: Duration = Duration::from_secs(5);

type Lines = mpsc::Sender<std::io::Result<Bytes>>;

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
            Some(from) => (from.index.max(reader.base().index), None),
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
        let file = File::open(self.paths.archive.join(format!("{archive}.rows.jsonl"))).map_err(|_| missing())?;
        let (chunks, queue) = mpsc::channel(QUEUE);
        tokio::task::spawn_blocking(move || {
            let mut file = file;
            loop {
                let mut buffer = vec![0; CHUNK_BYTES];
                let read = match file.read(&mut buffer) {
                    Ok(0) => return,
                    Ok(read) => Ok(Bytes::from(buffer).slice(..read)),
                    Err(error) => Err(error),
                };
                let failed = read.is_err();
                if chunks.blocking_send(read).is_err() || failed {
                    return;
                }
            }
        });
        Ok(queue)
    }

    /// Where the stream begins, and what it says first.
    fn first_line(&self, reader: &LogReader, from: Option<Token>) -> Result<(Index, Option<Json>), ApiError> {
        let base = reader.base();
        let Some(from) = from else {
            let at = reader.position(self.view.applied()).unwrap_or(base);
            return Ok((at.index, Some(json!({ "position": Token { epoch: at.epoch, index: at.index } }))));
        };
        match reader.position(from.index) {
            Some(at) if at.epoch == from.epoch => Ok((from.index, None)),
            // Ahead of this node, which may still get there.
            None if from.index > base.index && from.epoch >= self.view.epoch() => Ok((from.index, None)),
            _ if from.index < base.index => Err(ErrorCode::PositionLost.error(
                format!("changes are kept from {} on", base.index.next()),
                "take a new copy of what you follow, and go on from the position of that read; or ask another node",
            )),
            _ => {
                let end = reader.epoch_end(from.epoch).filter(|end| end.index < from.index).unwrap_or(base);
                let kept = Token { epoch: end.epoch, index: end.index };
                let lost = json!({ "epoch": from.epoch, "after": end.index, "through": from.index });
                Ok((end.index, Some(json!({ "position": kept, "lost": lost }))))
            }
        }
    }

    async fn send_changes(
        self: Arc<Self>,
        generation: u64,
        reader: LogReader,
        call: ChangesCall,
        (mut after, first): (Index, Option<Json>),
        lines: Lines,
    ) {
        if let Some(first) = first
            && send(&lines, &first).await.is_err()
        {
            return;
        }
        loop {
            if call.end && self.view.applied() <= after {
                return;
            }
            let deadline = tokio::time::Instant::from_std(clock::instant() + IDLE);
            let there = tokio::select! {
                there = self.view.wait_applied(after.next(), deadline) => there,
                () = lines.closed() => return,
            };
            // Other data, or none: the consumer connects again, here or elsewhere.
            if self.lock().generation != generation || !self.view.serving() {
                return;
            }
            if !there {
                let Some(at) = reader.position(after) else { return };
                let here = json!({ "position": Token { epoch: at.epoch, index: at.index } });
                if send(&lines, &here).await.is_err() {
                    return;
                }
                continue;
            }
            let (reading, upto) = (reader.clone(), self.view.applied());
            let read = tokio::task::spawn_blocking(move || read_lines(&reading, call.records, after, upto)).await;
            let (read, last) = match read {
                Ok(Ok(read)) => read,
                Ok(Err(reason)) => {
                    // Whoever has gone away needs no reason.
                    let _ = lines.send(Err(std::io::Error::other(reason))).await;
                    return;
                }
                Err(_) => return,
            };
            after = last;
            for line in read {
                if send(&lines, &line).await.is_err() {
                    return;
                }
            }
        }
    }
}

async fn send(lines: &Lines, line: &Json) -> Result<(), ()> {
    lines.send(Ok(Bytes::from(format!("{line}\n")))).await.map_err(drop)
}

/// Lines for the records behind `after`, and the last index that was looked at.
fn read_lines(reader: &LogReader, records: bool, after: Index, upto: Index) -> Result<(Vec<Json>, Index), String> {
    let entries = reader.read(after.next(), READ_BYTES).map_err(|error| error.to_string())?;
    let (mut lines, mut last, mut told) = (Vec::new(), after, true);
    for entry in entries.iter().take_while(|entry| entry.position.index <= upto) {
        let line = if records { Some(whole(entry)) } else { line(entry)? };
        told = line.is_some();
        lines.extend(line);
        last = entry.position.index;
    }
    if last == after {
        return Err("the records are not kept any more".to_owned());
    }
    if let (false, Some(at)) = (told, reader.position(last)) {
        // Nothing for consumers in it, but they should know that they have everything up to here.
        lines.push(json!({ "position": Token { epoch: at.epoch, index: at.index } }));
    }
    Ok((lines, last))
}

/// A record as it is.
fn whole(entry: &Entry) -> Json {
    let mut line = match entry.decode() {
        Ok(record) => record_to_json(&record),
        Err(error) => json!({ "error": error.to_string() }),
    };
    if let Some(object) = line.as_object_mut() {
        let position = Token { epoch: entry.position.epoch, index: entry.position.index };
        object.insert("position".to_owned(), json!(position));
        object.insert("bytes".to_owned(), json!(entry.bytes.len()));
    }
    line
}

/// A record's line; none for records that change nothing.
fn line(entry: &Entry) -> Result<Option<Json>, String> {
    let record = entry.decode().map_err(|error| error.to_string())?;
    let position = json!(Token { epoch: entry.position.epoch, index: entry.position.index });
    let mut line = match record.payload.main() {
        Payload::Noop | Payload::EpochStart { .. } | Payload::Config(_) => return Ok(None),
        Payload::Loss(mark) => json!({ "lost": mark }),
        Payload::Pages(_) | Payload::Statements(_) | Payload::Rows(_) | Payload::WithRows(..) => {
            let named = record.payload.rows().is_some_and(|rows| rows.names);
            match changes_of(&record, Shown::default()).map_err(|error| error.to_string())? {
                Some(transactions) if named && transactions.is_empty() => return Ok(None),
                Some(transactions) if named => json!({ "transactions": transactions }),
                _ => json!({ "gap": "this record carries no row changes: changeStream was off when it was written" }),
            }
        }
    };
    if let Some(object) = line.as_object_mut() {
        object.insert("position".to_owned(), position);
        object.insert("time_ms".to_owned(), json!(record.timestamp >> 16));
    }
    Ok(Some(line))
}
