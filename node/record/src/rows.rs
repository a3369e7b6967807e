//! Row changes: the payload of a logical record, and what stands beside every other payload for the change stream.
//!
//! Version (1 byte, now 1), flags (1: bit 0 old values, bit 1 column names, bit 2 the checksum is stated), schema cookie before (4) and after (4), chain before the record (8), seed (8),
//! content checksum of the rows after (8); then items, each a tag byte and its content:
//!
//! | tag | content |
//! | --- | --- |
//! | 1 | a client transaction begins: its number in the group, 0 or 1 + the number of its client tag |
//! | 2 | a table, numbered from 0 in order: name; flags (bit 0 without rowid, bit 1 internal); count of columns; of key columns and their places; column names if the flag says so |
//! | 3 | insert: table, rowid unless a column has it, all values |
//! | 4 | update: table, key, rowid afterwards unless a column has it, old values if the flag says so, a bit for each column that changed, the new values of those |
//! | 5 | delete: table, key, old values if the flag says so |
//! | 6 | a statement that was run as such (it changes the schema): its number in the group, text, arguments |
//!
//! The key of a row is its rowid, or the primary key's values in a table without one. Columns are the stored, not generated
//! ones, in the table's order. Counts and values are those of [`crate::cell`].

use std::collections::HashMap;

use bytes::Bytes;
use rdb_protocol::Chain;

use crate::cell::{CellRef, Cursor, put_bytes, put_cell, put_count, put_signed};
use crate::codec::RecordError;
use crate::statements::version;

const VERSION: u8 = 1;
const HEADER: usize = 34;
const OLD_VALUES: u8 = 1;
const NAMES: u8 = 2;
const SUMMED: u8 = 4;
const WITHOUT_ROWID: u8 = 1;
const INTERNAL: u8 = 2;

/// Row changes of a group, in the order in which they happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowGroup {
    /// Deletes and updates carry the whole old row.
    pub old_values: bool,
    pub names: bool,
    pub cookie_before: u32,
    pub cookie_after: u32,
    /// Chain before the record: part of the position that the database states.
    pub previous_chain: Chain,
    /// Of `random()` in the statements among the items, with their number.
    pub seed: u64,
    /// Checksum over all rows of the leader's database afterwards, where the leader keeps one: only then followers can apply
    /// the changes.
    pub content: Option<u64>,
    /// The items, encoded.
    pub body: Bytes,
}

/// What a row change must know of its table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TableShape {
    pub name: String,
    /// Names of the columns that changes carry; empty names where the record has none.
    pub columns: Vec<String>,
    /// Places of the primary key's columns: the one that is the rowid, or the key of a table without rowid.
    pub key: Vec<usize>,
    pub without_rowid: bool,
    /// A part of a virtual table, or one of the node's own: not for consumers of changes.
    pub internal: bool,
}

impl TableShape {
    /// The rowid is one of the columns.
    fn rowid_is_column(&self) -> bool {
        !self.without_rowid && !self.key.is_empty()
    }
}

/// One decoded item.
#[derive(Clone, Debug, PartialEq)]
pub enum RowItem<'a> {
    Begin { number: u32, tag: Option<usize> },
    Row(RowChange<'a>),
    Statement { number: u32, sql: &'a str, named: bool, args: Vec<(&'a str, CellRef<'a>)> },
}

/// A row that was inserted, updated or deleted.
#[derive(Clone, Debug, PartialEq)]
pub struct RowChange<'a> {
    /// Place in [`RowItems::tables`].
    pub table: usize,
    pub kind: ChangeKind<'a>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum ChangeKind<'a> {
    Insert { rowid: Option<i64>, new: Vec<CellRef<'a>> },
    Update { key: RowKey<'a>, rowid: Option<i64>, old: Option<Vec<CellRef<'a>>>, new: Vec<Option<CellRef<'a>>> },
    Delete { key: RowKey<'a>, old: Option<Vec<CellRef<'a>>> },
}

/// What names a row before the change.
#[derive(Clone, Debug, PartialEq)]
pub enum RowKey<'a> {
    Rowid(i64),
    Columns(Vec<CellRef<'a>>),
}

/// A decoded [`RowGroup`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RowItems<'a> {
    pub tables: Vec<TableShape>,
    pub items: Vec<RowItem<'a>>,
}

impl RowGroup {
    pub(crate) fn encoded_len(&self) -> usize {
        HEADER + self.body.len()
    }

    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        out.push(VERSION);
        let flag = |set: bool, flag: u8| if set { flag } else { 0 };
        let summed = flag(self.content.is_some(), SUMMED);
        out.push(flag(self.old_values, OLD_VALUES) | flag(self.names, NAMES) | summed);
        out.extend_from_slice(&self.cookie_before.to_le_bytes());
        out.extend_from_slice(&self.cookie_after.to_le_bytes());
        out.extend_from_slice(&self.previous_chain.0.to_le_bytes());
        out.extend_from_slice(&self.seed.to_le_bytes());
        out.extend_from_slice(&self.content.unwrap_or(0).to_le_bytes());
        out.extend_from_slice(&self.body);
    }

    pub(crate) fn read(bytes: &Bytes) -> Result<RowGroup, RecordError> {
        let mut from = Cursor(bytes);
        version(from.byte()?)?;
        let flags = from.byte()?;
        Ok(RowGroup {
            old_values: flags & OLD_VALUES != 0,
            names: flags & NAMES != 0,
            cookie_before: from.u32()?,
            cookie_after: from.u32()?,
            previous_chain: Chain(from.u64()?),
            seed: from.u64()?,
            content: Some(from.u64()?).filter(|_| flags & SUMMED != 0),
            body: bytes.slice(HEADER..),
        })
    }

    /// Decodes the items.
    pub fn items(&self) -> Result<RowItems<'_>, RecordError> {
        let mut items = Vec::new();
        let tables = self.each_item(|_, item| items.push(item))?;
        Ok(RowItems { tables, items })
    }

    /// Decodes the items one after the other, each with the tables so far: together they can be many times the record.
    pub fn each_item<'a>(
        &'a self,
        mut take: impl FnMut(&[TableShape], RowItem<'a>),
    ) -> Result<Vec<TableShape>, RecordError> {
        let mut from = Cursor(&self.body);
        let mut tables = Vec::new();
        while !from.is_empty() {
            let item = match from.byte()? {
                1 => {
                    let number = small(from.count()?)?;
                    let tag = from.count()?.checked_sub(1).map(|tag| usize::try_from(tag).unwrap_or(usize::MAX));
                    RowItem::Begin { number, tag }
                }
                2 => {
                    tables.push(self.table(&mut from)?);
                    continue;
                }
                6 => {
                    let (number, sql) = (small(from.count()?)?, from.text()?);
                    let (named, args) = read_args(&mut from)?;
                    RowItem::Statement { number, sql, named, args }
                }
                tag => {
                    let table = usize::try_from(from.count()?).unwrap_or(usize::MAX);
                    let shape = tables.get(table).ok_or(RecordError::Malformed("a change without table"))?;
                    RowItem::Row(RowChange { table, kind: self.change(tag, shape, &mut from)? })
                }
            };
            take(&tables, item);
        }
        Ok(tables)
    }

    fn table(&self, from: &mut Cursor<'_>) -> Result<TableShape, RecordError> {
        let name = from.text()?.to_owned();
        let flags = from.byte()?;
        let columns = usize::try_from(from.count()?).ok().filter(|columns| *columns <= MAX_COLUMNS);
        let columns = columns.ok_or(RecordError::Malformed("a table of too many columns"))?;
        let place = |from: &mut Cursor<'_>| {
            let place = usize::try_from(from.count()?).ok().filter(|place| *place < columns);
            place.ok_or(RecordError::Malformed("a key column that is none"))
        };
        let key = (0..from.count_of(1)?).map(|_| place(from)).collect::<Result<Vec<_>, _>>()?;
        let column = |from: &mut Cursor<'_>| Ok(if self.names { from.text()?.to_owned() } else { String::new() });
        let columns = (0..columns).map(|_| column(from)).collect::<Result<_, RecordError>>()?;
        let (without_rowid, internal) = (flags & WITHOUT_ROWID != 0, flags & INTERNAL != 0);
        Ok(TableShape { name, columns, key, without_rowid, internal })
    }

    fn change<'a>(&self, tag: u8, shape: &TableShape, from: &mut Cursor<'a>) -> Result<ChangeKind<'a>, RecordError> {
        let width = shape.columns.len();
        let cells =
            |from: &mut Cursor<'a>, count: usize| (0..count).map(|_| from.cell()).collect::<Result<Vec<_>, _>>();
        let hidden = |from: &mut Cursor<'a>| {
            let hidden = !shape.without_rowid && !shape.rowid_is_column();
            hidden.then(|| from.signed()).transpose()
        };
        if tag == 3 {
            return Ok(ChangeKind::Insert { rowid: hidden(from)?, new: cells(from, width)? });
        }
        let key = match shape.without_rowid {
            true => RowKey::Columns(cells(from, shape.key.len())?),
            false => RowKey::Rowid(from.signed()?),
        };
        match tag {
            4 => {
                let rowid = hidden(from)?;
                let old = if self.old_values { Some(cells(from, width)?) } else { None };
                let bits = from.take(width.div_ceil(8))?;
                let set = |at: usize| bits.get(at / 8).is_some_and(|byte| byte >> (at % 8) & 1 != 0);
                let new = (0..width).map(|at| set(at).then(|| from.cell()).transpose()).collect::<Result<_, _>>()?;
                Ok(ChangeKind::Update { key, rowid, old, new })
            }
            5 => Ok(ChangeKind::Delete { key, old: if self.old_values { Some(cells(from, width)?) } else { None } }),
            _ => Err(RecordError::Malformed("unknown kind of row change")),
        }
    }
}

/// SQLite's own limit.
const MAX_COLUMNS: usize = 32_767;

fn small(count: u64) -> Result<u32, RecordError> {
    u32::try_from(count).map_err(|_| RecordError::Malformed("transaction number"))
}

type ReadArgs<'a> = (bool, Vec<(&'a str, CellRef<'a>)>);

fn read_args<'a>(from: &mut Cursor<'a>) -> Result<ReadArgs<'a>, RecordError> {
    let counted = from.count()?;
    let named = counted & 1 != 0;
    let mut args = Vec::new();
    for _ in 0..counted >> 1 {
        let name = if named { from.text()? } else { "" };
        args.push((name, from.cell()?));
    }
    Ok((named, args))
}

/// Writes row changes as they happen; what fails is taken back.
#[derive(Debug, Default)]
pub struct RowLog {
    old_values: bool,
    names: bool,
    body: Vec<u8>,
    tables: HashMap<String, u64>,
    /// In the order of their numbers.
    order: Vec<String>,
    /// The present transaction, until its first change.
    begin: Option<(u32, Option<usize>)>,
}

/// A place in a [`RowLog`] to go back to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RowMark {
    body: usize,
    tables: usize,
    begin: Option<(u32, Option<usize>)>,
}

impl RowLog {
    /// Before a group.
    pub fn reset(&mut self, old_values: bool, names: bool) {
        (self.old_values, self.names, self.begin) = (old_values, names, None);
        self.body.clear();
        self.tables.clear();
        self.order.clear();
    }

    /// Before a client's transaction.
    pub fn begin(&mut self, number: u32, tag: Option<usize>) {
        self.begin = Some((number, tag));
    }

    pub fn mark(&self) -> RowMark {
        RowMark { body: self.body.len(), tables: self.order.len(), begin: self.begin }
    }

    /// Forgets what came after `mark`.
    pub fn back_to(&mut self, mark: &RowMark) {
        self.body.truncate(mark.body);
        for table in self.order.drain(mark.tables.min(self.order.len())..) {
            self.tables.remove(&table);
        }
        self.begin = mark.begin;
    }

    pub fn is_empty(&self) -> bool {
        self.body.is_empty()
    }

    pub fn encoded_len(&self) -> usize {
        HEADER + self.body.len()
    }

    pub fn insert(&mut self, table: &TableShape, rowid: i64, new: &[CellRef<'_>]) {
        self.start(3, table);
        if !table.without_rowid && !table.rowid_is_column() {
            put_signed(&mut self.body, rowid);
        }
        new.iter().for_each(|cell| put_cell(&mut self.body, *cell));
    }

    pub fn update(&mut self, table: &TableShape, rowids: (i64, i64), old: &[CellRef<'_>], new: &[CellRef<'_>]) {
        self.start(4, table);
        self.key(table, rowids.0, old);
        if !table.without_rowid && !table.rowid_is_column() {
            put_signed(&mut self.body, rowids.1);
        }
        if self.old_values {
            old.iter().for_each(|cell| put_cell(&mut self.body, *cell));
        }
        let bits = self.body.len();
        self.body.resize(bits + table.columns.len().div_ceil(8), 0);
        for (at, (old, new)) in old.iter().zip(new).enumerate() {
            if !same(*old, *new) {
                if let Some(byte) = self.body.get_mut(bits + at / 8) {
                    *byte |= 1 << (at % 8);
                }
                put_cell(&mut self.body, *new);
            }
        }
    }

    pub fn delete(&mut self, table: &TableShape, rowid: i64, old: &[CellRef<'_>]) {
        self.start(5, table);
        self.key(table, rowid, old);
        if self.old_values {
            old.iter().for_each(|cell| put_cell(&mut self.body, *cell));
        }
    }

    /// A statement that followers run themselves; the arguments are positional or all named.
    pub fn statement(&mut self, number: u32, sql: &str, named: bool, args: &[(&str, CellRef<'_>)]) {
        self.announce();
        self.body.push(6);
        put_count(&mut self.body, u64::from(number));
        put_bytes(&mut self.body, sql.as_bytes());
        put_count(&mut self.body, (args.len() as u64) << 1 | u64::from(named));
        for (name, value) in args {
            if named {
                put_bytes(&mut self.body, name.as_bytes());
            }
            put_cell(&mut self.body, *value);
        }
        // Its tables may be others from here on.
        self.tables.clear();
    }

    /// The group as it goes into the record.
    pub fn group(&self, cookies: (u32, u32), previous_chain: Chain, seed: u64, content: Option<u64>) -> RowGroup {
        RowGroup {
            old_values: self.old_values,
            names: self.names,
            cookie_before: cookies.0,
            cookie_after: cookies.1,
            previous_chain,
            seed,
            content,
            body: Bytes::copy_from_slice(&self.body),
        }
    }

    fn announce(&mut self) {
        if let Some((number, tag)) = self.begin.take() {
            self.body.push(1);
            put_count(&mut self.body, u64::from(number));
            put_count(&mut self.body, tag.map_or(0, |tag| tag as u64 + 1));
        }
    }

    fn start(&mut self, tag: u8, table: &TableShape) {
        self.announce();
        let number = match self.tables.get(&table.name) {
            Some(number) => *number,
            None => self.define(table),
        };
        self.body.push(tag);
        put_count(&mut self.body, number);
    }

    fn define(&mut self, table: &TableShape) -> u64 {
        let number = self.order.len() as u64;
        self.body.push(2);
        put_bytes(&mut self.body, table.name.as_bytes());
        let internal = if table.internal { INTERNAL } else { 0 };
        self.body.push(internal | if table.without_rowid { WITHOUT_ROWID } else { 0 });
        put_count(&mut self.body, table.columns.len() as u64);
        put_count(&mut self.body, table.key.len() as u64);
        table.key.iter().for_each(|place| put_count(&mut self.body, *place as u64));
        if self.names {
            table.columns.iter().for_each(|name| put_bytes(&mut self.body, name.as_bytes()));
        }
        self.order.push(table.name.clone());
        self.tables.insert(table.name.clone(), number);
        number
    }

    fn key(&mut self, table: &TableShape, rowid: i64, old: &[CellRef<'_>]) {
        if !table.without_rowid {
            return put_signed(&mut self.body, rowid);
        }
        for place in &table.key {
            put_cell(&mut self.body, old.get(*place).copied().unwrap_or(CellRef::Null));
        }
    }
}

/// The very same value: a real is compared by its bits, so that NaN cannot hide a change.
fn same(a: CellRef<'_>, b: CellRef<'_>) -> bool {
    match (a, b) {
        (CellRef::Real(a), CellRef::Real(b)) => a.to_bits() == b.to_bits(),
        (a, b) => a == b,
    }
}
