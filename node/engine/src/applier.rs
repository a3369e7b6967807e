//! The follower's role: makes a leader's page records visible.

use rdb_protocol::Position;
use rdb_record::PageGroup;

use crate::engine::DbPosition;
use crate::error::ApplyError;

/// One committed record to apply.
#[derive(Clone, Debug)]
pub struct ApplyGroup {
    pub position: Position,
    pub pages: PageGroup,
    /// Content checksum that the leader stated.
    pub content: u64,
}

/// The follower's connection.
pub struct Applier {
    _private: (),
}

impl Applier {
    /// Applies records in one SQLite transaction: readers see all of them or none. Records up to the present position
    /// are skipped. Records of other kinds are simply left out; indexes must rise.
    pub fn apply(&mut self, records: &[ApplyGroup]) -> Result<(), ApplyError> {
        let _ = records;
        Err(ApplyError::Io(crate::engine::pending().to_string()))
    }

    /// Position of the last record in the database.
    pub fn position(&self) -> DbPosition {
        DbPosition::default()
    }
}
