//! Reading a log without opening it: nothing is locked, cut or written. For people; what cannot be read ends a segment.

use std::path::Path;

use bytes::Bytes;
use rdb_record::Entry;

use crate::error::LogError;
use crate::frame::Frame;
use crate::segment::{DATA, SegmentHeader};

/// Gives the records of the segments in `directory` to `take`, oldest first, until it says false.
pub fn read_offline(directory: &Path, mut take: impl FnMut(Entry) -> bool) -> Result<(), LogError> {
    let listing = std::fs::read_dir(directory).map_err(LogError::io("listing", directory))?;
    let mut segments: Vec<_> = listing
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "seg"))
        .collect();
    segments.sort();
    for path in segments {
        let segment = Bytes::from(std::fs::read(&path).map_err(LogError::io("reading", &path))?);
        let Some(header) = SegmentHeader::decode(&path, &segment)? else { continue };
        let mut offset = DATA as usize;
        while let Ok(frame) = Frame::read(&segment, offset, Some(header.salt)) {
            let mut bytes = segment.slice(offset..);
            let Ok(entry) = Entry::read(&mut bytes) else { break };
            if !take(entry) {
                return Ok(());
            }
            offset += frame.length;
        }
    }
    Ok(())
}
