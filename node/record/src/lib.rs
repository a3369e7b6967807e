//! Log records: what one group of transactions leaves behind, in memory, on disk and on the wire.
//!
//! | module | holds |
//! | --- | --- |
//! | [`record`] | the decoded record, its kinds and payloads |
//! | [`entry`] | the encoded record that log and network carry, with its position |
//! | [`codec`] | layout of the bytes; verification |
//! | [`statements`], [`rows`] | the payloads of the formats that carry text and row changes |
//! | [`cell`] | SQLite's values and counts, of which those are made |
//! | `encode`, `decode` | from record to bytes and back |
//! | `image` | page images without their zeros |
//!
//! A record is encoded once, by the leader, and never again: followers verify and store the same bytes.

pub mod cell;
pub mod codec;
mod decode;
mod encode;
pub mod entry;
mod image;
pub mod record;
pub mod rows;
pub mod statements;

pub use cell::{Cell, CellRef};
pub use codec::{Header, MAX_RECORD_BYTES, RecordError};
pub use entry::Entry;
pub use record::{ClientTag, LossMark, PageGroup, Payload, Record, RecordKind};
pub use rows::{ChangeKind, RowChange, RowGroup, RowItem, RowItems, RowKey, RowLog, RowMark, TableShape};
pub use statements::{LoggedStatement, StatementDraft, StatementGroup, StatementLog, StatementTransaction};
