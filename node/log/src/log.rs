//! The replicated log: append-only segment files of one directory.
//!
//! | operation | disk | durable |
//! | --- | --- | --- |
//! | [`Log::append`] | one write into preallocated space | when a later [`SyncHandle::sync`] returns |
//! | rotation, within `append` | new file; nothing waits for the disk | the same |
//! | [`Log::truncate_after`] | deletes newer segments, zeroes the tail | on return |
//! | [`Log::retain`] | deletes older segments | on return |
//! | [`Log::forget`] | nothing yet: [`Forgotten::delete`] does, outside of the caller's lock | when that returns |
//! | [`Log::open`] | reads everything, see [`crate::recovery`] | what it found, on return |
//!
//! The log does not know what is committed: when to cut is the caller's decision (rule 10).

use std::fs::File;
use std::io::{self, IoSlice};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rdb_protocol::{Epoch, Index, Position};
use rdb_record::Entry;

use crate::ahead::Ahead;
use crate::error::LogError;
use crate::frame::{Ending, frame_bytes};
use crate::map::{Map, Segment, Shared};
use crate::options::{LogOptions, Recovery, Retention};
use crate::reader::LogReader;
use crate::recovery;
use crate::segment::{self, DATA, SegmentHeader};
use crate::sync::{Pending, SyncHandle};

/// The log of one data directory. Its methods take the caller's exclusive use; [`SyncHandle`] and [`LogReader`] don't.
#[derive(Debug)]
pub struct Log {
    shared: Shared,
    dir: Arc<PathBuf>,
    /// The directory itself, to flush new entries.
    directory: Arc<File>,
    options: LogOptions,
    /// Full segments and directory changes that are maybe not flushed yet.
    pending: Vec<Arc<Pending>>,
    /// Makes the next segment.
    ahead: Option<Ahead>,
}

/// Segments that are not part of the log any more, oldest first.
#[derive(Debug)]
#[must_use = "the files are still there"]
pub struct Forgotten {
    dir: Arc<PathBuf>,
    paths: Vec<Arc<PathBuf>>,
}

impl Forgotten {
    /// Deletes the files, durably one after the other; returns how many. Not to be mixed with another one's.
    pub fn delete(self) -> Result<usize, LogError> {
        segment::delete(&self.dir, self.paths.iter().map(|path| path.as_path()))?;
        Ok(self.paths.len())
    }
}

/// What an append must know of the map.
struct Tail {
    file: Arc<File>,
    path: Arc<PathBuf>,
    salt: u64,
    offset: u64,
    room: u64,
    last: Position,
    flushed: Index,
}

impl Log {
    /// Opens the log in `dir`, cuts a torn tail and flushes what it found. Errors: see [`LogError`], in particular
    /// [`LogError::Corrupt`] and [`LogError::BadRecord`], where nothing is changed.
    pub fn open(dir: &Path, options: LogOptions) -> Result<(Log, Recovery), LogError> {
        let (map, recovery) = recovery::recover(dir, &options)?;
        if let Some(cut) = &recovery.cut {
            tracing::warn!(?cut, "cut the unreadable end of the log");
        }
        Ok((Log::with(dir, map, options)?, recovery))
    }

    /// Makes an empty log in `dir`, whose first record will follow `base`. Durable on return.
    pub fn create(dir: &Path, base: Position, options: LogOptions) -> Result<Log, LogError> {
        std::fs::create_dir_all(dir).map_err(LogError::io("create", dir))?;
        if !segment::list(dir)?.is_empty() {
            return Err(LogError::Exists(dir.to_owned()));
        }
        let first = new_segment(dir, base, options.segment_bytes, None)?;
        if options.zeros_ahead {
            let fill = segment::fill_with_zeros(&first.file, segment::DATA, options.segment_bytes);
            fill.map_err(LogError::io("preallocate", &first.path))?;
        }
        first.file.sync_all().map_err(LogError::io("flush", &first.path))?;
        segment::sync_dir(dir)?;
        if let Some(parent) = dir.parent().filter(|parent| parent.is_dir()) {
            segment::sync_dir(parent)?;
        }
        let map = Map::new(first, options.cache_bytes);
        Log::with(dir, map, options)
    }

    /// Deletes the log in `dir`, if there is one; for re-seeding. Durable on return.
    pub fn remove(dir: &Path) -> Result<(), LogError> {
        let paths = segment::list(dir)?;
        segment::delete(dir, paths.iter().rev().map(PathBuf::as_path))
    }

    fn with(dir: &Path, map: Map, options: LogOptions) -> Result<Log, LogError> {
        let directory = File::open(dir).map_err(LogError::io("open", dir))?;
        let ahead = options.zeros_ahead.then(|| Ahead::start(dir, options.segment_bytes)).transpose();
        Ok(Log {
            ahead: ahead.map_err(LogError::io("start a thread for", dir))?,
            shared: Shared::new(map),
            dir: Arc::new(dir.to_owned()),
            directory: Arc::new(directory),
            options,
            pending: Vec::new(),
        })
    }

    /// Writes the entry behind the last one; durable when a [`SyncHandle`] taken afterwards has synced. Errors:
    /// [`LogError::Full`], after which the log is as before and usable; [`LogError::NotNext`].
    pub fn append(&mut self, entry: &Entry) -> Result<(), LogError> {
        let frame = frame_bytes(entry.bytes.len()) as u64;
        let mut tail = self.tail();
        if !entry.follows(tail.last) {
            return Err(LogError::not_next(tail.last, entry.position));
        }
        if frame > tail.room {
            self.make_room(frame)?;
            tail = self.tail();
        }
        let ending = Ending::new(&entry.bytes, tail.offset, tail.salt, tail.flushed);
        if let Err(error) = write_all(&tail.file, &entry.bytes, ending.as_slice(), tail.offset) {
            return Err(self.give_up(&tail, LogError::io("write", &tail.path)(error)));
        }
        let mut map = self.shared.lock();
        map.push(entry.position, frame, entry.timestamp());
        map.remember(entry);
        Ok(())
    }

    /// Undoes a write that failed. Space was preallocated, but file systems that copy on write need more: what reached the
    /// file must not stay behind the tail, where the next record may be shorter.
    fn give_up(&self, tail: &Tail, error: LogError) -> LogError {
        if !matches!(error, LogError::Full(_)) {
            return error;
        }
        match tail.file.set_len(tail.offset) {
            Ok(()) => {
                // Without room, the next record goes to a new segment.
                self.shared.lock().active().size = tail.offset;
                error
            }
            Err(source) => LogError::Io { action: "cut", path: tail.path.to_path_buf(), source },
        }
    }

    fn tail(&self) -> Tail {
        let mut map = self.shared.lock();
        let (last, flushed) = (map.last, map.flushed);
        let active = map.active();
        Tail {
            file: Arc::clone(&active.file),
            path: Arc::clone(&active.path),
            salt: active.salt,
            offset: active.tail,
            room: active.size.saturating_sub(active.tail),
            last,
            flushed,
        }
    }

    /// Begins a new segment, or enlarges one that is still empty, so that a frame of this size fits.
    fn make_room(&mut self, frame: u64) -> Result<(), LogError> {
        let bytes = (DATA + frame).next_multiple_of(DATA).max(self.options.segment_bytes);
        let mut map = self.shared.lock();
        let last = map.last;
        let active = map.active();
        if active.records() == 0 {
            segment::preallocate(&active.file, 0, bytes).map_err(LogError::io("preallocate", &active.path))?;
            active.size = bytes;
            return Ok(());
        }
        let (file, path, records) = (Arc::clone(&active.file), Arc::clone(&active.path), active.records());
        drop(map);
        let mut next = new_segment(&self.dir, last, bytes, self.ahead.as_ref())?;
        // Probably as many as in the last one; saves the vectors from growing under load.
        next.reserve(records);
        self.pending.push(Pending::new(file, path));
        self.pending.push(Pending::new(Arc::clone(&self.directory), Arc::clone(&self.dir)));
        let mut map = self.shared.lock();
        map.active().shrink();
        map.segments.push_back(next);
        Ok(())
    }

    /// For flushing what has been appended so far.
    pub fn sync_handle(&mut self) -> SyncHandle {
        self.pending.retain(|pending| !pending.is_flushed());
        let mut map = self.shared.lock();
        let (generation, upto) = (map.generation, map.last);
        let active = map.active();
        SyncHandle {
            shared: self.shared.clone(),
            generation,
            upto,
            pending: self.pending.clone(),
            active: Arc::clone(&active.file),
            path: Arc::clone(&active.path),
        }
    }

    /// Position of the last record, or the base.
    pub fn last(&self) -> Position {
        self.shared.lock().last
    }

    /// Position in front of the first record.
    pub fn base(&self) -> Position {
        self.shared.lock().base()
    }

    /// Index of the first record, which may not exist yet.
    pub fn first_index(&self) -> Index {
        self.base().index.next()
    }

    /// Highest index that is known to be on disk.
    pub fn flushed(&self) -> Index {
        self.shared.lock().flushed
    }

    /// Position at `index`, from the base to the last record.
    pub fn position(&self, index: Index) -> Option<Position> {
        self.shared.lock().position(index)
    }

    /// Last position of the greatest epoch that is not above `epoch`; `None` if all are above.
    pub fn epoch_end(&self, epoch: Epoch) -> Option<Position> {
        self.shared.lock().epoch_end(epoch)
    }

    /// Last position of each epoch that a record of the log has, newest last; without the base.
    pub fn epochs(&self) -> Vec<Position> {
        self.shared.lock().epochs()
    }

    /// As [`LogReader::read`].
    pub fn read(&self, from: Index, max_bytes: usize) -> Result<Vec<Entry>, LogError> {
        self.reader().read(from, max_bytes)
    }

    pub fn reader(&self) -> LogReader {
        LogReader { shared: self.shared.clone() }
    }

    /// Cuts every record after `index` (rule 10). Durable on return, and so is everything that remains.
    pub fn truncate_after(&mut self, index: Index) -> Result<(), LogError> {
        let (dropped, file, path, tail, size) = {
            let mut map = self.shared.lock();
            let Some(position) = map.position(index) else {
                let (first, last) = (map.base().index, map.last.index);
                return Err(LogError::OutOfRange { index, first, last });
            };
            if position == map.last {
                return Ok(());
            }
            // First in memory, so that no reader looks up what is being cut.
            let dropped = map.truncate_after(index, position);
            let active = map.active();
            (dropped, Arc::clone(&active.file), Arc::clone(&active.path), active.tail, active.size)
        };
        // Newest first: a crash in between leaves a longer log, never one with a gap.
        segment::delete(&self.dir, dropped.iter().map(|segment| segment.path.as_path()))?;
        for pending in self.pending.drain(..) {
            pending.flush()?;
        }
        let size = segment::cut(&file, &path, tail, size)?;
        let mut map = self.shared.lock();
        map.active().size = size;
        map.flushed = index;
        Ok(())
    }

    /// Drops segments from the front, see [`Retention`], durably; returns how many. Never the newest one.
    pub fn retain(&mut self, policy: Retention) -> Result<usize, LogError> {
        self.forget(policy).delete()
    }

    /// The quick half of [`Log::retain`]: from now on the segments are not part of the log. Their files go with
    /// [`Forgotten::delete`], which waits for the disk and needs no access to the log; a crash before that brings them back.
    pub fn forget(&mut self, policy: Retention) -> Forgotten {
        let mut map = self.shared.lock();
        let oldest = || map.drop_oldest(policy.floor, policy.max_bytes, policy.oldest_ms);
        let paths = std::iter::from_fn(oldest).map(|segment| segment.path).collect();
        Forgotten { dir: Arc::clone(&self.dir), paths }
    }

    /// Bytes of disk that the segments take.
    pub fn disk_bytes(&self) -> u64 {
        self.shared.lock().disk_bytes()
    }
}

/// Creates the file of the segment after `base`.
pub(crate) fn new_segment(dir: &Path, base: Position, bytes: u64, ahead: Option<&Ahead>) -> Result<Segment, LogError> {
    let salt = getrandom::u64()
        .map_err(|error| LogError::io("get a random number for", dir)(io::Error::other(error.to_string())))?;
    let (file, path) = segment::create(dir, SegmentHeader { base, salt }, bytes, ahead)?;
    Ok(Segment::new(base, file, path, salt, bytes))
}

/// Writes both parts behind each other, with one call to the system unless the disk takes less.
fn write_all(file: &File, record: &[u8], ending: &[u8], offset: u64) -> io::Result<()> {
    let parts = [IoSlice::new(record), IoSlice::new(ending)];
    let mut done = loop {
        match rustix::io::pwritev(file, &parts, offset) {
            Err(rustix::io::Errno::INTR) => {}
            other => break other?,
        }
    };
    if done < record.len() {
        file.write_all_at(&record[done..], offset + done as u64)?;
        done = record.len();
    }
    file.write_all_at(&ending[done - record.len()..], offset + done as u64)
}
