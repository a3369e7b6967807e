//! Watches the free space of the data directory, so that writes are refused while there is still room to finish what has
//! begun, and accepted again as soon as space was freed.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

/// Below this many free bytes no new group is begun. A group that has begun needs its record in the log (a segment of
/// 16 MiB is preallocated before the last one is full) and its pages in SQLite's WAL (at most `access.maxRequestSize` of new
/// content, 16 MiB by default, in twice as many page bytes): 16 + 32 MiB.
pub const REFUSE_BELOW_BYTES: u64 = 48 << 20;

/// Writes resume above this: one segment more, so that the state does not flutter.
pub const RESUME_ABOVE_BYTES: u64 = 64 << 20;

pub struct DiskSpace {
    directory: PathBuf,
    full: AtomicBool,
    /// One for each [`Needed`].
    unfit: [AtomicBool; 2],
}

/// What a follower has to write to go on, however large it is.
#[derive(Clone, Copy, Debug)]
pub enum Needed {
    /// The next record, in the log.
    Record,
    /// The pages of records that the log has.
    Pages,
}

impl DiskSpace {
    pub fn new(directory: &Path) -> DiskSpace {
        DiskSpace { directory: directory.to_owned(), full: AtomicBool::new(false), unfit: Default::default() }
    }

    /// Is there too little space for another group?
    pub fn is_full(&self) -> bool {
        self.full.load(Ordering::Relaxed)
    }

    /// Should people do something about it? Also when much is left, and yet not enough for what a follower has to write next.
    pub fn lacks_space(&self) -> bool {
        self.is_full() || self.unfit.iter().any(|unfit| unfit.load(Ordering::Relaxed))
    }

    /// Whether what is needed was tried in vain the last time.
    pub fn set_unfit(&self, needed: Needed, unfit: bool) {
        let [record, pages] = &self.unfit;
        let place = match needed {
            Needed::Record => record,
            Needed::Pages => pages,
        };
        place.store(unfit, Ordering::Relaxed);
    }

    /// Somebody ran out of space although the last look found enough.
    pub fn ran_out(&self) {
        self.full.store(true, Ordering::Relaxed);
    }

    /// Looks again.
    pub fn refresh(&self) {
        let free = match rustix::fs::statvfs(&self.directory) {
            Ok(stat) => stat.f_bavail.saturating_mul(stat.f_frsize),
            Err(error) => {
                tracing::warn!(%error, "cannot read the free space of the data directory");
                return;
            }
        };
        let was = self.is_full();
        let full = free < if was { RESUME_ABOVE_BYTES } else { REFUSE_BELOW_BYTES };
        self.full.store(full, Ordering::Relaxed);
        if full != was {
            tracing::warn!(free_bytes = free, full, "disk space");
        }
    }
}
