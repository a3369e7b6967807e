//! A node's durable memory outside of the database: the replicated log and the control file.
//!
//! | module | holds |
//! | --- | --- |
//! | [`log`] | [`Log`]: append, cut, retention, lookups; used under the replication core's lock |
//! | `ahead` | the next segment, made ahead of time |
//! | [`sync`] | [`SyncHandle`]: flushes what was appended, outside of that lock |
//! | [`reader`] | [`LogReader`]: reads for catch-up and apply, outside of that lock |
//! | [`offline`] | reading a log that nobody has opened |
//! | [`control`] | [`Control`]: promise, identity and config in one small file; the data directory's lock |
//! | [`state`] | [`ControlState`], the control file's content |
//! | `segment`, `frame` | layout of the files; how a record lies in one, and what its remains say after a crash |
//! | `recovery` | opening: torn, damaged, corrupt |
//! | `map` | where each record is, in memory |
//! | [`options`] | what the caller chooses, and what opening found |
//! | [`error`] | what can go wrong, classified by what the caller must do |

mod ahead;
pub mod control;
pub mod error;
mod frame;
pub mod log;
mod map;
pub mod offline;
pub mod options;
pub mod reader;
mod recovery;
mod segment;
pub mod state;
pub mod sync;

pub use control::Control;
pub use error::{ControlError, LogError};
pub use log::{Forgotten, Log};
pub use offline::read_offline;
pub use options::{BadTail, LogOptions, Recovery, Retention, TailKind};
pub use reader::LogReader;
pub use state::{ControlState, DataState};
pub use sync::SyncHandle;
