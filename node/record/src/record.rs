//! The decoded record.

use bytes::Bytes;
use rdb_protocol::{ClusterConfig, Epoch, Index, Member};
use serde::{Deserialize, Serialize};

use crate::rows::RowGroup;
use crate::statements::StatementGroup;

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
    /// Transaction group as statements.
    Statements = 4,
    /// Transaction group as row changes.
    Rows = 5,
    /// First record of an epoch that began with a loss: says which positions vanished.
    Loss = 6,
}

impl RecordKind {
    /// `None` for kinds that this version doesn't know.
    pub fn from_byte(byte: u8) -> Option<RecordKind> {
        Some(match byte {
            0 => RecordKind::Noop,
            1 => RecordKind::EpochStart,
            2 => RecordKind::Config,
            3 => RecordKind::Pages,
            4 => RecordKind::Statements,
            5 => RecordKind::Rows,
            6 => RecordKind::Loss,
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

/// What vanished in a failover that lost records: those of older epochs behind `after`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LossMark {
    /// Epoch of the last record that was kept.
    pub epoch: Epoch,
    /// The last record that was kept.
    pub after: Index,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Payload {
    Noop,
    EpochStart {
        leader: Member,
    },
    Config(ClusterConfig),
    Pages(PageGroup),
    Statements(StatementGroup),
    Rows(RowGroup),
    Loss(LossMark),
    /// Pages or statements with the same changes as rows beside them: for consumers of changes, and for followers whose
    /// pages are laid out otherwise.
    WithRows(Box<Payload>, RowGroup),
}

impl Payload {
    /// What stands beside the rows, or the payload itself.
    pub fn main(&self) -> &Payload {
        match self {
            Payload::WithRows(main, _) => main,
            other => other,
        }
    }

    /// The row changes, where the record carries them.
    pub fn rows(&self) -> Option<&RowGroup> {
        match self {
            Payload::WithRows(_, rows) | Payload::Rows(rows) => Some(rows),
            _ => None,
        }
    }
}

/// A record without its place in the log, which [`crate::Entry`] adds when it is encoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Hybrid timestamp: milliseconds since 1970 in the upper 48 bits, a counter in the lower 16; never decreases along
    /// the log.
    pub timestamp: u64,
    /// Content checksum of the leader's database after this record (page XOR; row XOR where the
    /// payload is rows alone); 0 for kinds that leave it unchanged and
    /// do not state it.
    pub content: u64,
    /// The group's client transactions that carried an idempotency key.
    pub clients: Vec<ClientTag>,
    pub payload: Payload,
}
