//! Log records: what one group of transactions leaves behind, in memory, on disk and on the wire.
//!
//! | module | holds |
//! | --- | --- |
//! | [`record`] | the decoded record, its kinds and payloads |
//! | [`entry`] | the encoded record that log and network carry, with its position |
//!
//! A record is encoded once, by the leader, and never again: followers verify and store the same bytes.

pub mod entry;
pub mod record;

pub use entry::Entry;
pub use record::{ClientTag, PageGroup, Payload, Record, RecordKind};
