//! Client operations, and how they travel in a record: as the page image of a made-up page. To log and core a record is
//! opaque; only the simulated database and the checkers look inside.

use bytes::{BufMut, Bytes, BytesMut};
use rdb_record::{ClientTag, Entry, PageGroup, Payload, Record};

/// What a client changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    Set { register: u64, value: u64 },
    Append { list: u64, value: u64 },
}

/// One client transaction. `sequence` is its idempotency key; each is given out once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Op {
    pub client: u64,
    pub sequence: u64,
    pub change: Change,
}

const PAGE: usize = 512;
const COUNT_BYTES: usize = 8;
const OP_BYTES: usize = 40;
/// Operations that fit one group, which has one page.
pub const MAX_OPS: usize = (PAGE - COUNT_BYTES - 16) / OP_BYTES;

/// How a group's changes are written down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Form {
    /// Whose pages they fit: the writer's own arrangement of rows on pages.
    pub layout: u64,
    /// As pages or statements, which need the same layout.
    pub pages: bool,
    /// As row changes, which fit any layout and leave another one behind.
    pub rows: bool,
}

/// Where a page holds its form.
const FORM: usize = PAGE - 16;

/// The record of a group.
pub fn encode(ops: &[Op], form: Form, content: u64, timestamp: u64) -> Record {
    let mut page = BytesMut::with_capacity(PAGE);
    page.put_u64_le(ops.len() as u64);
    for Op { client, sequence, change } in ops {
        let (kind, key, value) = match change {
            Change::Set { register, value } => (0, *register, *value),
            Change::Append { list, value } => (1, *list, *value),
        };
        for word in [*client, *sequence, kind, key, value] {
            page.put_u64_le(word);
        }
    }
    page.resize(FORM, 0);
    page.put_u64_le(form.layout);
    page.put_u64_le(u64::from(form.pages) | u64::from(form.rows) << 1);
    let clients = ops.iter().map(|op| ClientTag { client: op.client.to_string(), sequence: op.sequence }).collect();
    let pages = PageGroup { page_size: PAGE as u32, database_pages: 2, pages: vec![(2, page.freeze())] };
    Record { timestamp, content, clients, payload: Payload::Pages(pages) }
}

/// The form of a group's record.
pub fn form(entry: &Entry) -> Form {
    let Ok(Record { payload: Payload::Pages(group), .. }) = entry.decode() else { return Form::default() };
    let Some((_, page)) = group.pages.first() else { return Form::default() };
    let word = |at: usize| page.get(at..at + 8).and_then(|b| b.try_into().ok()).map_or(0, u64::from_le_bytes);
    let flags = word(FORM + 8);
    Form { layout: word(FORM), pages: flags & 1 == 1, rows: flags & 2 == 2 }
}

/// What is inside a group's record; `None` for records of other kinds.
pub fn decode(entry: &Entry) -> Option<(Vec<Op>, u64)> {
    if entry.kind != rdb_record::RecordKind::Pages {
        return None;
    }
    let record = entry.decode().ok()?;
    let Payload::Pages(group) = record.payload else { return None };
    let (_, page): &(u32, Bytes) = group.pages.first()?;
    let word = |at: usize| page.get(at..at + 8).and_then(|b| b.try_into().ok()).map_or(0, u64::from_le_bytes);
    let ops = (0..word(0) as usize).map(|n| {
        let at = COUNT_BYTES + n * OP_BYTES;
        let (key, value) = (word(at + 24), word(at + 32));
        let change = match word(at + 16) {
            0 => Change::Set { register: key, value },
            _ => Change::Append { list: key, value },
        };
        Op { client: word(at), sequence: word(at + 8), change }
    });
    Some((ops.collect(), record.content))
}
