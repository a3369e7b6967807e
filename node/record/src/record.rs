//! The decoded record.

use bytes::Bytes;
use rdb_protocol::{ClusterConfig, Member};

/// One client transaction of a group, for exactly-once retries: `Idempotency-Key: <client>:<sequence>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientTag {
    pub client: String,
    pub sequence: u64,
}

/// The byte that names a record's payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum RecordKind {
    /// Heartbeat that lets an idle cluster commit.
    Noop = 0,
    /// First record of an epoch (rule 13).
    EpochStart = 1,
    /// End of a config change (rule 15).
    Config = 2,
    /// Transaction group as page images.
    Pages = 3,
    // 4 and 5 are kept for statements and row changes.
}

impl RecordKind {
    /// `None` for kinds that this version doesn't know.
    pub fn from_byte(byte: u8) -> Option<RecordKind> {
        Some(match byte {
            0 => RecordKind::Noop,
            1 => RecordKind::EpochStart,
            2 => RecordKind::Config,
            3 => RecordKind::Pages,
            _ => return None,
        })
    }
}

/// Images of the database pages that a group changed, in the order in which a follower applies them: page 1 last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageGroup {
    /// Bytes per page, a power of two from 512 to 65,536.
    pub page_size: u32,
    /// Database size in pages after the group.
    pub database_pages: u32,
    /// (page number, image of `page_size` bytes); every page once.
    pub pages: Vec<(u32, Bytes)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Payload {
    Noop,
    EpochStart { leader: Member },
    Config(ClusterConfig),
    Pages(PageGroup),
}

/// A record without its place in the log, which [`crate::Entry`] adds when it is encoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Hybrid timestamp: milliseconds since 1970 in the upper 48 bits, a counter in the lower 16; never decreases along
    /// the log.
    pub timestamp: u64,
    /// Content checksum of the leader's database after this record (page XOR); 0 for kinds that leave it unchanged and
    /// do not state it.
    pub content: u64,
    /// The group's client transactions that carried an idempotency key.
    pub clients: Vec<ClientTag>,
    pub payload: Payload,
}
