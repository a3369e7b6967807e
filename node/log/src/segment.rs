//! Segment files: `<index of the first record, 20 digits>.seg`.
//!
//! | offset | size | field (little-endian) |
//! | --- | --- | --- |
//! | 0 | 8 | magic `RDB-LOG\n` |
//! | 8 | 4 | format version, now 1 |
//! | 12 | 4 | CRC32C of the rest of the 64 bytes |
//! | 16 | 24 | base: epoch, index and chain of the record in front of the first |
//! | 40 | 8 | salt of the frames' marks |
//! | 48 | 16 | zero |
//! | 4096 | | frames, see [`crate::frame`]; then zeros to the end of the file |
//!
//! Files are preallocated, so that flushing a record changes no metadata: with data alone fdatasync took a quarter of the
//! time. Magic, version and CRC keep their places in later versions.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rdb_protocol::{Chain, Epoch, Index, Position};
use rustix::fs::FallocateFlags;
use rustix::io::Errno;

use crate::ahead::Ahead;
use crate::error::LogError;
use crate::frame::is_zero;

const MAGIC: [u8; 8] = *b"RDB-LOG\n";
const VERSION: u32 = 1;
const HEADER: usize = 64;
/// Where frames begin: a block of its own, so that writing the first record never rewrites the header's block.
pub(crate) const DATA: u64 = 4096;
const EXTENSION: &str = "seg";

/// The fixed part of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    /// Position in front of the segment's first record.
    pub(crate) base: Position,
    pub(crate) salt: u64,
}

impl SegmentHeader {
    pub(crate) fn encode(&self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        let fields = [self.base.epoch.0, self.base.index.0, self.base.chain.0, self.salt];
        for (i, field) in fields.into_iter().enumerate() {
            bytes[16 + 8 * i..24 + 8 * i].copy_from_slice(&field.to_le_bytes());
        }
        let crc = checksum(&bytes);
        bytes[12..16].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Reads a segment's header; `None` when it was never completely written.
    pub(crate) fn decode(path: &Path, segment: &[u8]) -> Result<Option<SegmentHeader>, LogError> {
        if is_zero(&segment[..segment.len().min(DATA as usize)]) {
            return Ok(None);
        }
        let foreign = || LogError::Foreign(path.to_owned());
        let (bytes, data) = segment.split_at_checked(HEADER).ok_or_else(foreign)?;
        // Nothing was written but a part of the header.
        let begun = is_zero(data);
        let magic = bytes.iter().zip(MAGIC).take_while(|(byte, expected)| *byte == expected).count();
        if magic < MAGIC.len() {
            return if begun && is_zero(&bytes[magic..]) { Ok(None) } else { Err(foreign()) };
        }
        let u32_at = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let u64_at = |at: usize| u64::from(u32_at(at)) | u64::from(u32_at(at + 4)) << 32;
        if u32_at(8) > VERSION {
            return Err(LogError::NewerVersion { path: path.to_owned(), found: u32_at(8), known: VERSION });
        }
        let base = Position { epoch: Epoch(u64_at(16)), index: Index(u64_at(24)), chain: Chain(u64_at(32)) };
        let corrupt = |reason: &str| LogError::Corrupt {
            segment: path.to_owned(),
            offset: 0,
            index: base.index,
            reason: reason.to_owned(),
        };
        if u32_at(12) != checksum(bytes) {
            if begun {
                return Ok(None);
            }
            return Err(corrupt("segment header has a wrong checksum"));
        }
        if path.file_name().and_then(|name| name.to_str()) != Some(&file_name(base)) {
            return Err(corrupt("segment header does not fit the file's name"));
        }
        Ok(Some(SegmentHeader { base, salt: u64_at(40) }))
    }
}

fn checksum(header: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&header[..12]), &header[16..HEADER])
}

fn file_name(base: Position) -> String {
    format!("{:020}.{EXTENSION}", base.index.0.saturating_add(1))
}

/// Creates the segment for the records after `base`, `bytes` long. Not durable yet: file, header and directory entry are
/// flushed with the first records. On error nothing is left.
pub(crate) fn create(
    dir: &Path,
    header: SegmentHeader,
    bytes: u64,
    ahead: Option<&Ahead>,
) -> Result<(File, PathBuf), LogError> {
    let path = dir.join(file_name(header.base));
    if let Some(file) = ahead.and_then(|ahead| ahead.take(&path, bytes)) {
        return match file.write_all_at(&header.encode(), 0) {
            Ok(()) => Ok((file, path)),
            Err(error) => {
                // As below.
                let _ = std::fs::remove_file(&path);
                Err(LogError::io("write", &path)(error))
            }
        };
    }
    let open = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&path);
    let file = open.map_err(LogError::io("create", &path))?;
    let filled = preallocate(&file, 0, bytes).and_then(|()| file.write_all_at(&header.encode(), 0));
    if let Err(error) = filled {
        // If this fails too, an empty file remains, which opening removes.
        let _ = std::fs::remove_file(&path);
        return Err(LogError::io("preallocate", &path)(error));
    }
    Ok((file, path))
}

/// Makes the file `bytes` long, with space behind every byte from `from` on.
pub(crate) fn preallocate(file: &File, from: u64, bytes: u64) -> io::Result<()> {
    if from >= bytes {
        return Ok(());
    }
    match rustix::fs::fallocate(file, FallocateFlags::empty(), from, bytes - from) {
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => fill_with_zeros(file, from, bytes),
        other => Ok(other?),
    }
}

/// For file systems that can't preallocate, and ahead of time.
pub(crate) fn fill_with_zeros(file: &File, from: u64, bytes: u64) -> io::Result<()> {
    const CHUNK: usize = 1 << 20;
    let zeros = vec![0; CHUNK];
    let mut at = from;
    while at < bytes {
        let length = (bytes - at).min(CHUNK as u64);
        file.write_all_at(&zeros[..length as usize], at)?;
        at += length;
    }
    Ok(())
}

/// Cuts everything from `offset` on and leaves zeros there; durable on return. Returns the file's size: `bytes`, or less
/// when the disk is full.
pub(crate) fn cut(file: &File, path: &Path, offset: u64, bytes: u64) -> Result<u64, LogError> {
    let io = || LogError::io("cut", path);
    // Giving the blocks back is the one portable way to be sure of zeros.
    file.set_len(offset).map_err(io())?;
    let size = match preallocate(file, offset, bytes).map_err(io()) {
        Ok(()) => bytes,
        Err(LogError::Full(_)) => {
            file.set_len(offset).map_err(io())?;
            offset
        }
        Err(error) => return Err(error),
    };
    file.sync_all().map_err(io())?;
    Ok(size)
}

/// Paths of the segments in `dir`, oldest first. Errors: [`LogError::Foreign`] for a segment that is not named like ours.
pub(crate) fn list(dir: &Path) -> Result<Vec<PathBuf>, LogError> {
    let io = || LogError::io("list", dir);
    let mut paths = Vec::new();
    match std::fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(paths),
        Err(error) => return Err(io()(error)),
        Ok(entries) => {
            for entry in entries {
                let path = entry.map_err(io())?.path();
                if path.extension().is_some_and(|extension| extension == EXTENSION) {
                    paths.push(path);
                }
            }
        }
    }
    for path in &paths {
        let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
        if stem.len() != 20 || !stem.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(LogError::Foreign(path.clone()));
        }
    }
    // All names have equally many digits, so this is their order.
    paths.sort();
    Ok(paths)
}

/// Deletes segments, durably one after the other in the given order, so that a crash never leaves a gap.
pub(crate) fn delete<'a>(dir: &Path, paths: impl IntoIterator<Item = &'a Path>) -> Result<(), LogError> {
    for path in paths {
        std::fs::remove_file(path).map_err(LogError::io("delete", path))?;
        sync_dir(dir)?;
    }
    Ok(())
}

pub(crate) fn sync_dir(dir: &Path) -> Result<(), LogError> {
    let file = File::open(dir).map_err(LogError::io("open", dir))?;
    file.sync_all().map_err(LogError::io("flush", dir))
}
