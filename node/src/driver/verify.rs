//! Reading a whole database before it is used: is its content what the log says?
//!
//! A small one is read before the node serves. A large one takes seconds to minutes, in which a node that was a leader a moment
//! ago would be missed as a follower: what it promises and acknowledges rests on control file and log alone. So it takes part at
//! once, and the thread that changes the database reads it before it changes anything; until then nothing is read from it for
//! others, and a leader is not open.

use std::sync::Arc;

use rdb_engine::{Engine, EngineError};
use rdb_log::{DataState, Log, LogError};
use rdb_protocol::Index;
use rdb_record::Payload;

use super::Node;
use super::boot::{BootError, Paths};
use crate::clock;

/// A database up to this size is read before the node serves: a third of a second at the 200 MB/s of an ordinary volume, which is
/// less than a failover waits for anyway.
pub(super) const AT_ONCE_BYTES: u64 = 64 << 20;

/// A database that has not been read yet.
#[derive(Clone, Copy, Debug)]
pub struct Unverified {
    /// Its content as the log states it; `None` when the log begins behind it.
    pub(super) stated: Option<Stated>,
}

/// What a record says of the database after it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stated {
    index: Index,
    /// Checksum of the pages; `None` when the record was made of rows, so that pages need not be the leader's.
    pages: Option<u64>,
    /// Checksum of the rows, where the record carries them.
    rows: Option<u64>,
}

impl Stated {
    /// `None` when the log begins behind `index`.
    pub(super) fn at(log: &Log, index: Index) -> Result<Option<Stated>, BootError> {
        if index <= log.base().index {
            return Ok(None);
        }
        let entries = log.read(index, 1)?;
        let Some(entry) = entries.first() else { return Ok(None) };
        let record = entry.decode().map_err(LogError::from)?;
        let alone = matches!(record.payload, Payload::Rows(_));
        let rows = record.payload.rows().and_then(|rows| rows.content);
        // Without a checksum of its rows, the one of the pages is what there is.
        let pages = (!alone || rows.is_none()).then_some(record.content);
        Ok(Some(Stated { index, pages, rows }))
    }
}

/// Reads the database and compares it with what the log says of it, by its pages or, where they are not the leader's, by its rows.
pub(super) fn damage(engine: &Engine, stated: Option<Stated>) -> Result<Option<String>, EngineError> {
    match try_damage(engine, stated) {
        Err(error @ EngineError::Corrupt { .. }) => Ok(Some(error.to_string())),
        other => other,
    }
}

fn try_damage(engine: &Engine, stated: Option<Stated>) -> Result<Option<String>, EngineError> {
    let (_, content) = engine.verify()?;
    let Some(Stated { index, pages, rows }) = stated else { return Ok(None) };
    if pages == Some(content) {
        return Ok(None);
    }
    let differs = |ours: u64, stated: u64| {
        Some(format!("the database's content is {ours:016x}, record {index} states {stated:016x}"))
    };
    let Some(rows) = rows else { return Ok(differs(content, pages.unwrap_or_default())) };
    let (_, ours) = engine.verify_rows()?;
    if ours == rows {
        engine.set_other_layout();
    }
    Ok(if ours == rows { None } else { differs(ours, rows) })
}

/// Is the database read later?
pub(super) fn is_put_off(paths: &Paths) -> bool {
    let size = |path| std::fs::metadata(path).map_or(0, |file| file.len());
    paths.database_files().iter().map(size).sum::<u64>() > AT_ONCE_BYTES
}

/// What was put off at the start. A damaged database is noted, and the process ends: the next start gives it up, as any other
/// damage that is found there, under a new incarnation.
pub(super) fn finish(node: &Arc<Node>) {
    let (generation, Some(Unverified { stated })) = ({
        let core = node.lock();
        (core.generation, core.unverified)
    }) else {
        return;
    };
    let Some(engine) = node.engine() else { return };
    let begun = clock::instant();
    let damage = match damage(&engine, stated) {
        Ok(damage) => damage,
        Err(error) => super::die("cannot read the database", &error),
    };
    let mut core = node.lock();
    if core.generation != generation {
        return;
    }
    if let Some(reason) = damage {
        let noted = core.control.update(|state| state.data = DataState::DatabaseCorrupt { reason: reason.clone() });
        if let Err(error) = noted {
            super::die("cannot note a damaged database", &error);
        }
        super::die("the database is damaged", &reason);
    }
    core.unverified = None;
    node.publish(&core);
    drop(core);
    let took = clock::instant().saturating_duration_since(begun);
    tracing::info!(milliseconds = took.as_millis() as u64, "the database is what the log says");
}
