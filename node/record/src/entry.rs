//! The encoded record.

use bytes::Bytes;
use rdb_protocol::Position;

use crate::record::RecordKind;

/// A record as log and network carry it. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its own position: epoch, index, and the chain *after* it.
    pub position: Position,
    pub kind: RecordKind,
    /// The whole encoded record, length and CRC included.
    pub bytes: Bytes,
}
