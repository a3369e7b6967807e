//! The bytes of a record, the same in the log and on the wire. Integers are little-endian.
//!
//! | offset | size | field |
//! | --- | --- | --- |
//! | 0 | 4 | length of the whole record, this field included |
//! | 4 | 4 | CRC32C of the length field and of everything from offset 8 on |
//! | 8 | 8 | chain: xxh3-64 of everything from offset 16 on, seeded with the previous record's chain |
//! | 16 | 1 | record version: 1 for `Noop`, `EpochStart` and `Config`, 2 for all others; `Pages` may be 1, as they once were |
//! | 17 | 1 | kind, see [`RecordKind`] |
//! | 18 | 1 | flags, version 2: bit 0 = row changes stand in front of the payload, their length (4) before them; bit 1 = page images are without their zeros, see `image` |
//! | 19 | 1 | zero |
//! | 20 | 4 | bytes of client tags |
//! | 24 | 8 | epoch |
//! | 32 | 8 | index |
//! | 40 | 8 | hybrid timestamp |
//! | 48 | 8 | content checksum |
//! | 56 | | client tags: for each its sequence (8), length of the name (2), name |
//! | | | payload, to the end |
//!
//! Payloads: `Noop` is empty; `EpochStart` and `Config` are JSON, for they are rare and small; `Pages` is page size (4),
//! database size in pages (4), number of pages (4), the page numbers (4 each), then the images; `Statements` and `Rows` are
//! described in [`crate::statements`] and [`crate::rows`]; `Loss` is JSON.
//!
//! Length, CRC and version keep their places in every later version, so that an older node can tell "newer than I am"
//! from "damaged". The CRC finds damage. The chain finds a record that is intact but stands behind the wrong predecessor.

use rdb_protocol::{Chain, Epoch, Index, Position};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::record::RecordKind;

/// Newest version of the layout above that this node reads.
pub const RECORD_VERSION: u8 = 2;
/// The version of a record that version 1 can express: nodes of then still read those.
pub(crate) const FIRST_VERSION: u8 = 1;
/// Flag: row changes stand in front of the payload.
pub(crate) const WITH_ROWS: u8 = 1;
/// Flag: page images are without their zeros.
pub(crate) const SPARSE: u8 = 2;
/// Bytes in front of the client tags.
pub const HEADER_BYTES: usize = 56;
/// Longest record: the pages of one group. 1 GiB is 262,144 pages of 4 KiB; several copies of a record are in memory at
/// once (engine, log, one per network buffer), so that more would endanger the node. A larger transaction is refused.
pub const MAX_RECORD_BYTES: usize = 1 << 30;
/// Longest client name; the length field has 16 bits, and the API allows less.
pub const MAX_CLIENT_BYTES: usize = u16::MAX as usize;
/// SQLite's limits.
pub(crate) const PAGE_SIZES: std::ops::RangeInclusive<u32> = 512..=65_536;

/// Fixed part of a pages payload: page size, database size, count.
pub(crate) const PAGES_HEADER: usize = 12;
/// Fixed part of a client tag: sequence and length of the name.
pub(crate) const TAG_HEADER: usize = 10;
/// Where the chained part begins.
pub(crate) const CHAINED: usize = 16;

/// Why bytes are not a record.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// The buffer ends before the record does. Not an error of the record; more bytes may complete it.
    #[error("incomplete record: {have} of {needed} bytes")]
    Incomplete { needed: usize, have: usize },
    #[error("impossible record length {0}")]
    Length(u32),
    #[error("record checksum is {found:08x} but its bytes give {computed:08x}")]
    Checksum { found: u32, computed: u32 },
    #[error("version {0} of a record or payload is newer than this node understands: upgrade this node")]
    Version(u8),
    #[error("record kind {0} is unknown to this node: upgrade this node")]
    Kind(u8),
    /// The checksum is right but the content makes no sense: written so by a faulty node.
    #[error("malformed record: {0}")]
    Malformed(&'static str),
    #[error("record of {0} bytes exceeds the limit of {MAX_RECORD_BYTES}")]
    TooLarge(usize),
}

/// The fixed part of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Length of the whole record.
    pub length: u32,
    pub crc: u32,
    pub position: Position,
    pub kind: RecordKind,
    pub timestamp: u64,
    pub content: u64,
    /// Bytes of client tags behind the header.
    pub tags: u32,
    /// Row changes stand in front of the payload.
    pub(crate) rows: bool,
    /// Page images are without their zeros.
    pub(crate) sparse: bool,
}

impl Header {
    /// Reads the header of the record at the front of `bytes` and verifies the checksum of the whole record, which may be
    /// followed by other bytes. Does not know the previous record, so it can't check the chain: see [`follows`].
    pub fn verify(bytes: &[u8]) -> Result<Header, RecordError> {
        let length = declared_length(bytes)?;
        let Some(record) = bytes.get(..length) else {
            return Err(RecordError::Incomplete { needed: length, have: bytes.len() });
        };
        let (found, computed) = (u32_at(record, 4), checksum(record));
        if found != computed {
            return Err(RecordError::Checksum { found, computed });
        }
        if !(FIRST_VERSION..=RECORD_VERSION).contains(&record[16]) {
            return Err(RecordError::Version(record[16]));
        }
        let kind = RecordKind::from_byte(record[17]).ok_or(RecordError::Kind(record[17]))?;
        let tags = u32_at(record, 20);
        if tags as usize > length - HEADER_BYTES {
            return Err(RecordError::Malformed("client tags exceed the record"));
        }
        let position = Position {
            epoch: Epoch(u64_at(record, 24)),
            index: Index(u64_at(record, 32)),
            chain: Chain(u64_at(record, 8)),
        };
        let (timestamp, content) = (u64_at(record, 40), u64_at(record, 48));
        let flag = |flag: u8| record[16] > FIRST_VERSION && record[18] & flag != 0;
        let (rows, sparse) = (flag(WITH_ROWS), flag(SPARSE));
        Ok(Header { length: length as u32, crc: found, position, kind, timestamp, content, tags, rows, sparse })
    }
}

/// Length that the record at the front of `bytes` claims to have, checked for sense alone.
pub fn declared_length(bytes: &[u8]) -> Result<usize, RecordError> {
    if bytes.len() < 4 {
        return Err(RecordError::Incomplete { needed: HEADER_BYTES, have: bytes.len() });
    }
    let length = u32_at(bytes, 0);
    if (HEADER_BYTES..=MAX_RECORD_BYTES).contains(&(length as usize)) {
        Ok(length as usize)
    } else {
        Err(RecordError::Length(length))
    }
}

/// Does the record `bytes` at `position` continue a log that ends at `previous`?
pub fn follows(position: Position, bytes: &[u8], previous: Position) -> bool {
    previous.index.0.checked_add(1) == Some(position.index.0)
        && position.epoch >= previous.epoch
        && bytes.get(CHAINED..).is_some_and(|rest| Chain(xxh3_64_with_seed(rest, previous.chain.0)) == position.chain)
}

/// CRC32C of a record with its own field left out.
pub(crate) fn checksum(record: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&record[..4]), &record[8..])
}

/// Callers have checked the bounds.
pub(crate) fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    let mut field = [0; 4];
    field.copy_from_slice(&bytes[offset..offset + 4]);
    u32::from_le_bytes(field)
}

pub(crate) fn u64_at(bytes: &[u8], offset: usize) -> u64 {
    let mut field = [0; 8];
    field.copy_from_slice(&bytes[offset..offset + 8]);
    u64::from_le_bytes(field)
}
