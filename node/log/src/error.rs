//! What can go wrong, classified by what the caller must do.

use std::io;
use std::path::{Path, PathBuf};

use rdb_protocol::{Epoch, Index, Position};
use rdb_record::RecordError;

#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// Not fatal: nothing was written. Refuse writes until there is space.
    #[error("no space left for the log in {}", .0.display())]
    Full(PathBuf),
    /// Damage in front of records that were flushed after it: do not serve, say so, re-seed.
    #[error("log is corrupt at record {index} ({} offset {offset}): {reason}", segment.display())]
    Corrupt { segment: PathBuf, offset: u64, index: Index, reason: String },
    /// Only from open: the last record was completely written and is damaged. It may have been acknowledged, so end the
    /// incarnation first (rule 18), then open with [`crate::LogOptions::cut_bad_record`].
    #[error("the last record of the log is damaged: {0:?}")]
    BadRecord(crate::BadTail),
    /// Not one of our files: the directory belongs to something else. Do not touch it.
    #[error("{} is not a log of ReplicatedDB", .0.display())]
    Foreign(PathBuf),
    #[error("{} has format version {found}, this node understands {known}: upgrade this node", path.display())]
    NewerVersion { path: PathBuf, found: u32, known: u32 },
    /// The records asked for were cut or dropped, maybe while they were being read; look again.
    #[error("record {0} is no longer in the log")]
    Gone(Index),
    /// Beyond the end of the log, or before its base.
    #[error("record {index} is outside of the log, {first} to {last}")]
    OutOfRange { index: Index, first: Index, last: Index },
    /// Mistake of the caller: the entry is not the continuation of the log.
    #[error("record {}/{} does not follow {}/{}", found.0, found.1, last.0, last.1)]
    NotNext { last: (Epoch, Index), found: (Epoch, Index) },
    /// Only from open: the directory has no log. Use [`crate::Log::create`].
    #[error("no log in {}", .0.display())]
    Missing(PathBuf),
    /// Only from create: the directory already has a log.
    #[error("there is already a log in {}", .0.display())]
    Exists(PathBuf),
    #[error("record: {0}")]
    Record(#[from] RecordError),
    /// The disk failed: stop the process. Never retry a failed flush.
    #[error("{action} {}: {source}", path.display())]
    Io { action: &'static str, path: PathBuf, source: io::Error },
}

impl LogError {
    /// For `map_err`: sorts "no space" from a failing disk.
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> LogError {
        let path = path.to_owned();
        move |source| match source.kind() {
            // The process's own limit on file sizes is a kind of quota.
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
                LogError::Full(path)
            }
            _ => LogError::Io { action, path, source },
        }
    }

    pub(crate) fn not_next(last: Position, found: Position) -> LogError {
        LogError::NotNext { last: (last.epoch, last.index), found: (found.epoch, found.index) }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Another process has this data directory.
    #[error("{} is in use by another process", .0.display())]
    Locked(PathBuf),
    /// Data without a control file: its promises are unknown, so it must not take part in anything.
    #[error("{} has data but no control file", .0.display())]
    Missing(PathBuf),
    #[error("{} is not a control file of ReplicatedDB", .0.display())]
    Foreign(PathBuf),
    /// Neither empty nor ours: it belongs to something else. Nothing was touched.
    #[error("{} is not empty and not of ReplicatedDB, it has {found:?}: give this node a directory of its own", dir.display())]
    Occupied { dir: PathBuf, found: String },
    #[error("{} has format version {found}, this node understands {known}: upgrade this node", path.display())]
    NewerVersion { path: PathBuf, found: u32, known: u32 },
    #[error("{} is damaged: {reason}", path.display())]
    Corrupt { path: PathBuf, reason: String },
    /// The directory belongs to a node of another name.
    #[error("data directory belongs to node {found}, not to {expected}")]
    OtherNode { expected: String, found: String },
    /// Not fatal: the state is unchanged, in memory and on disk.
    #[error("no space left for {}", .0.display())]
    Full(PathBuf),
    /// It is unknown whether the change is on disk: stop the process.
    #[error("{action} {}: {source}", path.display())]
    Io { action: &'static str, path: PathBuf, source: io::Error },
}
