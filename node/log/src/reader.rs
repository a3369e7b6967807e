//! Reading outside of the lock.
//!
//! A reader looks up under the map's lock where records are, reads the file without it, and looks again: what it read must
//! be what the map still says. So a cut in between gives [`LogError::Gone`], never the bytes of another record; and files
//! that retention has deleted stay readable for a read under way.

use std::os::unix::fs::FileExt;

use bytes::{Buf, Bytes};
use rdb_protocol::{Epoch, Index, Position};
use rdb_record::Entry;

use crate::error::LogError;
use crate::frame::frame_bytes;
use crate::map::{Extent, Shared};

/// Reads the log while another thread appends to it.
#[derive(Clone, Debug)]
pub struct LogReader {
    pub(crate) shared: Shared,
}

impl LogReader {
    /// Entries from `from` on: at least one, and no more than fit `max_bytes`, maybe fewer; empty when `from` is the next
    /// index. Errors: [`LogError::Gone`] when a cut or retention took the records away; [`LogError::OutOfRange`] beyond
    /// the next index; [`LogError::Corrupt`].
    pub fn read(&self, from: Index, max_bytes: usize) -> Result<Vec<Entry>, LogError> {
        let extent = {
            let map = self.shared.lock();
            map.check(from)?;
            if let Some(entries) = map.cached(from, max_bytes) {
                return Ok(entries);
            }
            match map.extent(from, max_bytes) {
                Some(extent) => extent,
                None => return Ok(Vec::new()),
            }
        };
        let read = read_extent(&extent, from);
        let map = self.shared.lock();
        let cut = map.generation != extent.generation;
        match read {
            Ok(entries) if entries.iter().all(|entry| map.position(entry.position.index) == Some(entry.position)) => {
                Ok(entries)
            }
            // Retention meanwhile: the records were read, but say so as at any other time.
            _ if cut || map.check(from).is_err() => Err(LogError::Gone(from)),
            Err(error @ LogError::Io { .. }) => Err(error),
            Ok(_) => Err(corrupt(&extent, from, "it is not the record that was written".to_owned())),
            Err(error) => Err(corrupt(&extent, from, error.to_string())),
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

    /// Position at `index`, from the base to the last record.
    pub fn position(&self, index: Index) -> Option<Position> {
        self.shared.lock().position(index)
    }

    /// Last position of the greatest epoch that is not above `epoch`; `None` if all are above.
    pub fn epoch_end(&self, epoch: Epoch) -> Option<Position> {
        self.shared.lock().epoch_end(epoch)
    }

    /// Highest index that is known to be on disk.
    pub fn flushed(&self) -> Index {
        self.shared.lock().flushed
    }
}

fn read_extent(extent: &Extent, from: Index) -> Result<Vec<Entry>, LogError> {
    let mut buffer = vec![0; (extent.end - extent.start) as usize];
    extent.file.read_exact_at(&mut buffer, extent.start).map_err(LogError::io("read", &extent.path))?;
    let mut buffer = Bytes::from(buffer);
    let mut entries = Vec::new();
    let mut next = from;
    while !buffer.is_empty() {
        let entry = Entry::read(&mut buffer)?;
        if entry.position.index != next {
            return Err(LogError::Gone(next));
        }
        let rest = frame_bytes(entry.bytes.len()) - entry.bytes.len();
        buffer.advance(rest.min(buffer.len()));
        next = next.next();
        entries.push(entry);
    }
    Ok(entries)
}

fn corrupt(extent: &Extent, index: Index, reason: String) -> LogError {
    LogError::Corrupt { segment: extent.path.to_path_buf(), offset: extent.start, index, reason }
}
