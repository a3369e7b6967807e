//! The control file and the data directory's lock.

use std::path::Path;

use rdb_protocol::{Incarnation, NodeName};

use crate::error::ControlError;
use crate::state::ControlState;

/// The data directory's control file, open and locked for this process.
#[derive(Debug)]
pub struct Control {
    state: ControlState,
}

impl Control {
    /// Locks the directory, and reads its control file or makes a new one with a fresh incarnation.
    pub fn open_or_create(dir: &Path, name: NodeName) -> Result<Control, ControlError> {
        let _ = (dir, name);
        Err(ControlError::Missing(dir.to_owned()))
    }

    pub fn state(&self) -> &ControlState {
        &self.state
    }

    /// Changes the state and returns when the change is durable; on error the state is unchanged.
    pub fn update<T>(
        &mut self,
        change: impl FnOnce(&mut ControlState) -> T,
    ) -> Result<T, ControlError> {
        Ok(change(&mut self.state))
    }

    /// Rule 18: from now on this data directory is another member.
    pub fn end_incarnation(&mut self) -> Result<Incarnation, ControlError> {
        self.update(|state| state.incarnation)
    }
}
