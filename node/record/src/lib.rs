//! Log records: what one group of transactions leaves behind, in memory, on disk and on the wire.
//!
//! | module | holds |
//! | --- | --- |
//! | [`record`] | the decoded record, its kinds and payloads |
//! | [`entry`] | the encoded record that log and network carry, with its position |
//! | [`codec`] | layout of the bytes; verification |
//! | `encode`, `decode` | from record to bytes and back |
//!
//! A record is encoded once, by the leader, and never again: followers verify and store the same bytes.

pub mod codec;
mod decode;
mod encode;
pub mod entry;
pub mod record;

pub use codec::{Header, MAX_RECORD_BYTES, RecordError};
pub use entry::Entry;
pub use record::{ClientTag, PageGroup, Payload, Record, RecordKind};
