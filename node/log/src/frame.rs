//! How a record lies in a segment, and what its remains say after a crash.
//!
//! A frame begins at a multiple of 16: the record (layout in `rdb_record::codec`), zeros up to a multiple of 16, and a
//! trailer of 16 bytes, little-endian:
//!
//! | offset | size | field |
//! | --- | --- | --- |
//! | 0 | 8 | highest index that was flushed when this record was written |
//! | 8 | 4 | how many whole sectors of the frame are zero |
//! | 12 | 4 | mark: CRC32C of salt, file offset of the frame, the record's CRC, and the two fields above; last byte A5 |
//!
//! The trailer is what lets recovery tell a crash from damage. Space behind the tail is always zero (preallocated, and
//! zeroed again by every cut), and a disk writes sectors of 512 bytes, in any order. Hence:
//!
//! - A record that the crash tore has a sector that is zero and should not be; the trailer says how many should be.
//!   Anything else that is unreadable was written completely and is damage. Without the count, page images, which often
//!   hold zero sectors, would make the two look alike.
//! - An unreadable record in front of intact ones may still be innocent: several records may wait for one flush, and the
//!   disk may have kept the later ones. It is damage if a later frame says that the record had been flushed.
//! - The salt is random for each segment, so that the content of a user's blob can't pass for a frame.

use rdb_protocol::Index;
use rdb_record::Header;
use rdb_record::codec::declared_length;

use crate::options::TailKind;

/// Frames begin at multiples of this, so that neither length and CRC nor a trailer straddles two sectors.
pub(crate) const ALIGN: usize = 16;
pub(crate) const TRAILER: usize = 16;
/// What a disk writes as a whole, at the least.
const SECTOR: usize = 512;
/// Last byte of every frame: where it is zero, the frame was never finished.
const WRITTEN: u8 = 0xA5;

/// Bytes that a record of this length takes in a segment.
pub(crate) fn frame_bytes(record: usize) -> usize {
    padded(record) + TRAILER
}

fn padded(record: usize) -> usize {
    record.next_multiple_of(ALIGN)
}

/// Padding and trailer of a record: up to `ALIGN - 1 + TRAILER` bytes, without allocating.
pub(crate) struct Ending {
    bytes: [u8; ALIGN + TRAILER],
    length: usize,
}

impl Ending {
    pub(crate) fn new(record: &[u8], offset: u64, salt: u64, flushed: Index) -> Ending {
        let padding = padded(record.len()) - record.len();
        let zeros = zero_sectors(record, offset);
        let mut bytes = [0; ALIGN + TRAILER];
        let trailer = &mut bytes[padding..padding + TRAILER];
        trailer[..8].copy_from_slice(&flushed.0.to_le_bytes());
        trailer[8..12].copy_from_slice(&zeros.to_le_bytes());
        let mark = mark(salt, offset, &record[4..8], &trailer[..12]);
        trailer[12..].copy_from_slice(&mark.to_le_bytes());
        Ending { bytes, length: padding + TRAILER }
    }

    pub(crate) fn as_slice(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

/// Intact frame at the front of some bytes.
pub(crate) struct Frame {
    pub(crate) header: Header,
    pub(crate) flushed: Index,
    /// Bytes of the whole frame.
    pub(crate) length: usize,
}

/// Why there is no intact frame.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FrameError {
    #[error(transparent)]
    Record(#[from] rdb_record::RecordError),
    #[error("record does not end inside of its segment")]
    Overrun,
    #[error("frame mark is wrong")]
    Mark,
}

impl Frame {
    /// Reads the frame at `offset` of a segment's bytes. Without a salt the mark is not checked.
    pub(crate) fn read(segment: &[u8], offset: usize, salt: Option<u64>) -> Result<Frame, FrameError> {
        let bytes = segment.get(offset..).ok_or(FrameError::Overrun)?;
        let length = frame_bytes(declared_length(bytes)?);
        let trailer = bytes.get(length - TRAILER..length).ok_or(FrameError::Overrun)?;
        // Cheap check first: when recovery searches for frames, it calls this for every aligned offset.
        if salt.is_some_and(|salt| !mark_fits(trailer, salt, offset, bytes)) {
            return Err(FrameError::Mark);
        }
        let header = Header::verify(bytes)?;
        Ok(Frame { header, flushed: Index(u64_at(trailer)), length })
    }
}

/// What is behind the last good frame, which ends at `offset`; `None` = nothing was ever written there.
pub(crate) fn classify(segment: &[u8], offset: usize, salt: u64) -> Option<TailKind> {
    let bytes = segment.get(offset..).unwrap_or_default();
    if is_zero(bytes) {
        return None;
    }
    // Not even the frame's first sixteen bytes, and nothing after them.
    if is_zero(bytes.get(ALIGN..).unwrap_or_default()) {
        return Some(TailKind::Torn);
    }
    let first_sector = &bytes[..bytes.len().min(SECTOR - offset % SECTOR)];
    if first_sector[..4] == [0; 4] {
        return Some(if is_zero(first_sector) { TailKind::Torn } else { TailKind::Complete });
    }
    let Ok(record) = declared_length(bytes) else { return Some(TailKind::Complete) };
    let Some(frame) = bytes.get(..frame_bytes(record)) else { return Some(TailKind::Complete) };
    let (body, trailer) = frame.split_at(frame.len() - TRAILER);
    if trailer[TRAILER - 1] == 0 {
        // Unless its trailer is somewhere else: then it was finished, and its length was damaged.
        let finished = bytes.chunks_exact(ALIGN).any(|trailer| mark_fits(trailer, salt, offset, bytes));
        return Some(if finished { TailKind::Complete } else { TailKind::Torn });
    }
    let expected = u32::from_le_bytes([trailer[8], trailer[9], trailer[10], trailer[11]]);
    let torn = mark_fits(trailer, salt, offset, bytes) && zero_sectors(body, offset as u64) > expected;
    Some(if torn { TailKind::Torn } else { TailKind::Complete })
}

/// Whole zero sectors of the frame that begins with `record` (or with its padded bytes) at `offset` of the file. Only the
/// sector with the trailer is not counted: it can't be zero.
fn zero_sectors(record: &[u8], offset: u64) -> u32 {
    let first = (SECTOR - (offset % SECTOR as u64) as usize) % SECTOR;
    (first..)
        .step_by(SECTOR)
        .take_while(|start| start + SECTOR <= padded(record.len()))
        .filter(|start| is_zero(&record[*start..record.len().min(start + SECTOR)]))
        .count() as u32
}

pub(crate) fn is_zero(bytes: &[u8]) -> bool {
    // In words: debug builds and 16 MiB tails are common together.
    let (words, rest) = bytes.as_chunks::<16>();
    rest.iter().all(|byte| *byte == 0) && words.iter().all(|word| u128::from_ne_bytes(*word) == 0)
}

fn mark_fits(trailer: &[u8], salt: u64, offset: usize, frame: &[u8]) -> bool {
    trailer[12..16] == mark(salt, offset as u64, &frame[4..8], &trailer[..12]).to_le_bytes()
}

fn mark(salt: u64, offset: u64, record_crc: &[u8], fields: &[u8]) -> u32 {
    let crc = crc32c::crc32c(&salt.to_le_bytes());
    let crc = crc32c::crc32c_append(crc, &offset.to_le_bytes());
    let crc = crc32c::crc32c_append(crc, record_crc);
    let [a, b, c, _] = crc32c::crc32c_append(crc, fields).to_le_bytes();
    u32::from_le_bytes([a, b, c, WRITTEN])
}

fn u64_at(bytes: &[u8]) -> u64 {
    let mut field = [0; 8];
    field.copy_from_slice(&bytes[..8]);
    u64::from_le_bytes(field)
}
