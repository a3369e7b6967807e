//! The payload of a statement record: what clients sent, and all that its effect depends on besides the database.
//!
//! Version (1 byte, now 1), flags (1), SQLite's version number (4), page size (4), chain before the record (8), seed (8); then the transactions, each:
//! its number in the group (count), 0 or 1 + the number of its client tag (count) followed by the hash of its request (8),
//! count of statements, and each statement: 0 and its text, or the number (from 1) of a text that came before; count of
//! arguments × 2, + 1 when they have names; each argument: its name if so, its value ([`crate::cell`]).

use std::collections::HashMap;

use bytes::Bytes;
use rdb_protocol::Chain;

use crate::cell::{CellRef, Cursor, put_bytes, put_cell, put_count};
use crate::codec::RecordError;

const VERSION: u8 = 1;
const HEADER: usize = 26;

/// The leader watched the rows change, and SQLite then deletes them one by one where it could drop a whole table's pages.
const WATCHED: u8 = 1;

/// Transactions as text. The clock that they saw is the record's timestamp.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatementGroup {
    /// What `sqlite3_libversion_number` said on the leader.
    pub sqlite: u32,
    pub page_size: u32,
    /// Chain before the record: part of the position that the database states.
    pub previous_chain: Chain,
    /// Of `random()` and `randomblob()`, together with the transaction's number.
    pub seed: u64,
    /// Rows were watched while the statements ran, which changes how SQLite deletes all rows of a table.
    pub watched: bool,
    /// The transactions, encoded.
    pub body: Bytes,
}

/// One client transaction of a [`StatementGroup`].
#[derive(Clone, Debug, PartialEq)]
pub struct StatementTransaction<'a> {
    /// Its place in the group as the leader ran it; failed ones left no trace but their number.
    pub number: u32,
    /// Its place among the record's client tags, and the hash of its request, if it carried an idempotency key.
    pub key: Option<(usize, u64)>,
    pub statements: Vec<LoggedStatement<'a>>,
}

/// A statement with its arguments; names are empty for arguments by position.
#[derive(Clone, Debug, PartialEq)]
pub struct LoggedStatement<'a> {
    pub sql: &'a str,
    pub named: bool,
    pub args: Vec<(&'a str, CellRef<'a>)>,
}

impl StatementGroup {
    pub(crate) fn encoded_len(&self) -> usize {
        HEADER + self.body.len()
    }

    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        out.push(VERSION);
        out.push(if self.watched { WATCHED } else { 0 });
        out.extend_from_slice(&self.sqlite.to_le_bytes());
        out.extend_from_slice(&self.page_size.to_le_bytes());
        out.extend_from_slice(&self.previous_chain.0.to_le_bytes());
        out.extend_from_slice(&self.seed.to_le_bytes());
        out.extend_from_slice(&self.body);
    }

    pub(crate) fn read(bytes: &Bytes) -> Result<StatementGroup, RecordError> {
        let mut from = Cursor(bytes);
        version(from.byte()?)?;
        let watched = from.byte()? & WATCHED != 0;
        let (sqlite, page_size) = (from.u32()?, from.u32()?);
        let (previous_chain, seed) = (Chain(from.u64()?), from.u64()?);
        Ok(StatementGroup { sqlite, page_size, previous_chain, seed, watched, body: bytes.slice(HEADER..) })
    }

    /// Decodes the transactions.
    pub fn transactions(&self) -> Result<Vec<StatementTransaction<'_>>, RecordError> {
        let mut from = Cursor(&self.body);
        let (mut texts, mut transactions) = (Vec::new(), Vec::new());
        while !from.is_empty() {
            let number = u32::try_from(from.count()?).map_err(|_| RecordError::Malformed("transaction number"))?;
            let key = match from.count()? {
                0 => None,
                tag => Some((usize::try_from(tag - 1).unwrap_or(usize::MAX), from.u64()?)),
            };
            let count = from.count_of(2)?;
            let statements = (0..count).map(|_| read_statement(&mut from, &mut texts)).collect::<Result<_, _>>()?;
            transactions.push(StatementTransaction { number, key, statements });
        }
        Ok(transactions)
    }
}

/// Payloads have versions of their own, so that one format can change without the others.
pub(crate) fn version(found: u8) -> Result<(), RecordError> {
    if found == VERSION { Ok(()) } else { Err(RecordError::Version(found)) }
}

fn read_statement<'a>(from: &mut Cursor<'a>, texts: &mut Vec<&'a str>) -> Result<LoggedStatement<'a>, RecordError> {
    let sql = match from.count()? {
        0 => {
            let sql = from.text()?;
            texts.push(sql);
            sql
        }
        number => usize::try_from(number - 1)
            .ok()
            .and_then(|at| texts.get(at))
            .copied()
            .ok_or(RecordError::Malformed("a statement's text is missing"))?,
    };
    let counted = from.count_of(0)?;
    let named = counted & 1 != 0;
    let mut args = Vec::new();
    for _ in 0..counted >> 1 {
        let name = if named { from.text()? } else { "" };
        args.push((name, from.cell()?));
    }
    Ok(LoggedStatement { sql, named, args })
}

/// Writes transactions as they run; what fails is taken back.
#[derive(Debug, Default)]
pub struct StatementLog {
    body: Vec<u8>,
    texts: HashMap<Box<str>, u64>,
    /// In the order of their numbers, to take the youngest back.
    order: Vec<Box<str>>,
    begun: Option<Begun>,
}

/// The transaction that is being written.
#[derive(Clone, Copy, Debug)]
struct Begun {
    number: u32,
    texts: usize,
}

/// A transaction's statements on their way into a [`StatementLog`].
#[derive(Debug, Default)]
pub struct StatementDraft {
    statements: u64,
    bytes: Vec<u8>,
}

impl StatementLog {
    /// Before a group.
    pub fn reset(&mut self) {
        self.body.clear();
        self.texts.clear();
        self.order.clear();
        self.begun = None;
    }

    /// Before a client's transaction, the `number`th of its group.
    pub fn begin(&mut self, number: u32, draft: &mut StatementDraft) {
        self.begun = Some(Begun { number, texts: self.order.len() });
        draft.statements = 0;
        draft.bytes.clear();
    }

    /// A statement of the present transaction. `args` is how many there will be, given by [`StatementDraft::arg`].
    pub fn statement(&mut self, draft: &mut StatementDraft, sql: &str, named: bool, args: usize) {
        draft.statements += 1;
        match self.texts.get(sql) {
            Some(number) => put_count(&mut draft.bytes, *number),
            None => {
                self.order.push(sql.into());
                self.texts.insert(sql.into(), self.order.len() as u64);
                put_count(&mut draft.bytes, 0);
                put_bytes(&mut draft.bytes, sql.as_bytes());
            }
        }
        put_count(&mut draft.bytes, (args as u64) << 1 | u64::from(named));
    }

    /// The transaction failed, or wrote nothing.
    pub fn take_back(&mut self) {
        if let Some(begun) = self.begun.take() {
            for text in self.order.drain(begun.texts..) {
                self.texts.remove(&text);
            }
        }
    }

    /// The transaction stands.
    pub fn keep(&mut self, draft: &StatementDraft, key: Option<(usize, u64)>) {
        let Some(begun) = self.begun.take() else { return };
        put_count(&mut self.body, u64::from(begun.number));
        match key {
            None => put_count(&mut self.body, 0),
            Some((tag, hash)) => {
                put_count(&mut self.body, tag as u64 + 1);
                self.body.extend_from_slice(&hash.to_le_bytes());
            }
        }
        put_count(&mut self.body, draft.statements);
        self.body.extend_from_slice(&draft.bytes);
    }

    pub fn encoded_len(&self) -> usize {
        HEADER + self.body.len()
    }

    /// What was written so far.
    pub fn body(&self) -> Bytes {
        Bytes::copy_from_slice(&self.body)
    }
}

impl StatementDraft {
    /// The next argument; `name` where the statement's arguments are named.
    pub fn arg(&mut self, name: Option<&str>, value: CellRef<'_>) {
        if let Some(name) = name {
            put_bytes(&mut self.bytes, name.as_bytes());
        }
        put_cell(&mut self.bytes, value);
    }
}
