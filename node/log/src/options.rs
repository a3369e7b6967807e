//! What the caller chooses, and what opening found.

use std::path::PathBuf;

use rdb_protocol::{Index, Position};

/// Size of a segment. Retention drops whole segments, so a small disk wants small ones; a rotation costs about a
/// millisecond (new file, directory entry), so that 16 MiB, some 2,000 groups of one 8 KiB record, makes it negligible.
pub const SEGMENT_BYTES: u64 = 16 << 20;
/// Recent records kept in memory, so that followers that keep up, and the applier, never read the disk: some tenths of a
/// second of full load (8 KiB × 5,000 groups/s ≈ 40 MB/s).
pub const CACHE_BYTES: usize = 8 << 20;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogOptions {
    /// Size to which a segment is preallocated; a larger record gets a larger segment of its own.
    pub segment_bytes: u64,
    /// Memory for recent records.
    pub cache_bytes: usize,
    /// Cut a complete but damaged last record. Only after the incarnation was ended on disk (rule 18).
    pub cut_bad_record: bool,
    /// Fill segments with zeros before they are needed, on a thread of the log's own: flushes are faster then.
    pub zeros_ahead: bool,
}

impl Default for LogOptions {
    fn default() -> LogOptions {
        LogOptions { segment_bytes: SEGMENT_BYTES, cache_bytes: CACHE_BYTES, cut_bad_record: false, zeros_ahead: false }
    }
}

/// What opening a log found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovery {
    /// Records that are in the log now.
    pub records: u64,
    /// The tail that was cut, if there was one.
    pub cut: Option<BadTail>,
}

/// The end of a log that could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadTail {
    pub kind: TailKind,
    pub segment: PathBuf,
    pub offset: u64,
    /// Last good record, in front of it.
    pub after: Position,
    /// Intact records behind the bad one that were never flushed: written together with it, kept by the disk by chance.
    pub unflushed: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TailKind {
    /// Parts of it never reached the disk: it was not flushed, so nobody relied on it.
    Torn,
    /// All of it reached the disk and is damaged: somebody may have relied on it.
    Complete,
}

/// What may be dropped from the front of the log: whole segments that lie before `floor` and are beyond size or age.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// First record that somebody still needs. Never dropped, whatever size and age say.
    pub floor: Index,
    /// Bytes of segment files to keep at most.
    pub max_bytes: u64,
    /// Segments whose newest record has a smaller timestamp (milliseconds since 1970) are too old.
    pub oldest_ms: u64,
}
