//! Opening a log after a crash, or a broken disk.
//!
//! All segments are read and every record is verified: checksum, chain, contiguous index. At the first place where that
//! fails, the remains decide (see [`crate::frame`] for how they are told apart):
//!
//! | found | verdict |
//! | --- | --- |
//! | zeros | the end |
//! | a later intact frame which says that the record here had been flushed | [`LogError::Corrupt`]; nothing is changed |
//! | parts of the record never reached the disk | torn: cut |
//! | the record was written completely | [`LogError::BadRecord`]; cut if the options allow it (rule 18) |
//!
//! Intact frames behind a cut record that do not say so were written before any flush, and are cut with it.
//!
//! Finally everything is flushed before anybody may rely on it, because a killed process leaves records in the system's
//! memory that never reached the disk. Records that no frame proves flushed are written once more before that: after a
//! *failed* flush the system may take them for clean.
//!
//! Caveat: a last record that was flushed, and later damaged to zeros by whole sectors, looks torn. The caller compares
//! the log's end with what the control file says was acknowledged (rule 18).

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rdb_protocol::Index;
use rdb_record::{RecordError, codec};

use crate::error::LogError;
use crate::frame::{ALIGN, Frame, FrameError, classify, is_zero};
use crate::map::{Map, Segment};
use crate::options::{BadTail, LogOptions, Recovery, TailKind};
use crate::segment::{self, DATA, SegmentHeader};

/// Reads the log in `dir` and repairs its end.
pub(crate) fn recover(dir: &Path, options: &LogOptions) -> Result<(Map, Recovery), LogError> {
    let paths = segment::list(dir)?;
    let mut scan: Option<Scan> = None;
    let mut bytes = Vec::new();
    for path in &paths {
        let file = OpenOptions::new().read(true).write(true).open(path).map_err(LogError::io("open", path))?;
        let length = file.metadata().map_err(LogError::io("stat", path))?.len();
        bytes.resize(length as usize, 0);
        file.read_exact_at(&mut bytes, 0).map_err(LogError::io("read", path))?;
        let header = SegmentHeader::decode(path, &bytes)?;
        match (&mut scan, header) {
            (Some(scan), header) => scan.segment(header, path, file, &bytes)?,
            (None, Some(header)) => scan = Some(Scan::first(header, path, file, &bytes, options)?),
            (None, None) if paths.len() == 1 && is_zero(&bytes) => {
                // The creation of the log was cut short.
                segment::delete(dir, [path.as_path()])?;
            }
            (None, None) => return Err(corrupt(path, DATA, Index::ZERO, "the first segment has no header")),
        }
    }
    let Some(Scan { mut map, proven, end }) = scan else { return Err(LogError::Missing(dir.to_owned())) };
    let cut = settle(dir, &mut map, end, proven, options)?;
    flush(dir, &mut map, proven)?;
    let records = map.last.index.0 - map.base().index.0;
    Ok((map, Recovery { records, cut }))
}

/// The good records so far, and what is behind them.
struct Scan {
    map: Map,
    /// Highest index that some frame proves flushed.
    proven: Index,
    end: End,
}

/// Where the good records end, unless the next segment continues them.
struct End {
    /// What is there; `None` = zeros.
    kind: Option<TailKind>,
    /// Why it is not a record.
    reason: String,
    /// Intact frames behind it.
    survivors: u64,
    /// Segments behind it.
    later: Vec<PathBuf>,
}

impl Scan {
    /// Takes the oldest segment.
    fn first(
        header: SegmentHeader,
        path: &Path,
        file: File,
        bytes: &[u8],
        options: &LogOptions,
    ) -> Result<Scan, LogError> {
        let segment = Segment::new(header.base, file, path.to_owned(), header.salt, bytes.len() as u64);
        let end = End { kind: None, reason: String::new(), survivors: 0, later: Vec::new() };
        let mut scan = Scan { map: Map::new(segment, options.cache_bytes), proven: Index::ZERO, end };
        scan.records(header, bytes)?;
        Ok(scan)
    }

    /// Takes the next segment; without a header it was never flushed.
    fn segment(
        &mut self,
        header: Option<SegmentHeader>,
        path: &Path,
        file: File,
        bytes: &[u8],
    ) -> Result<(), LogError> {
        match header {
            // Whatever is behind the segment before: the log went on here.
            Some(header) if header.base == self.map.last && self.end.later.is_empty() => {
                let segment = Segment::new(header.base, file, path.to_owned(), header.salt, bytes.len() as u64);
                self.map.segments.push_back(segment);
                self.records(header, bytes)
            }
            Some(header) if header.base.index < self.map.last.index => {
                Err(corrupt(path, 0, header.base.index.next(), "segment overlaps the one before it"))
            }
            // Made by a rotation after records that are missing. It can still tell whether they had been flushed.
            header => {
                self.end.later.push(path.to_owned());
                self.search(bytes, DATA as usize, header.map(|header| header.salt));
                Ok(())
            }
        }
    }

    /// Reads the records of the map's newest segment, up to the first place where there is none.
    fn records(&mut self, segment: SegmentHeader, bytes: &[u8]) -> Result<(), LogError> {
        let mut offset = DATA as usize;
        let reason = loop {
            match Frame::read(bytes, offset, Some(segment.salt)) {
                Ok(Frame { header, flushed, length }) => {
                    let record = &bytes[offset..offset + header.length as usize];
                    if !codec::follows(header.position, record, self.map.last) {
                        break "it does not follow the record before it".to_owned();
                    }
                    self.map.push(header.position, length as u64, header.timestamp);
                    self.proven = self.proven.max(flushed);
                    offset += length;
                }
                // Intact, but beyond this version: nothing to repair.
                Err(FrameError::Record(error @ (RecordError::Version(_) | RecordError::Kind(_)))) => {
                    return Err(LogError::Record(error));
                }
                Err(error) => break error.to_string(),
            }
        };
        self.map.active().shrink();
        let kind = classify(bytes, offset, segment.salt);
        self.end = End { kind, reason, survivors: 0, later: Vec::new() };
        if kind.is_some() {
            self.search(bytes, offset, Some(segment.salt));
        }
        Ok(())
    }

    /// Looks for intact frames of later records, anywhere from `offset` on, and takes what they prove.
    fn search(&mut self, bytes: &[u8], mut offset: usize, salt: Option<u64>) {
        while offset + ALIGN <= bytes.len() {
            let zero = bytes[offset..offset + 4] == [0; 4];
            let frame = if zero { None } else { Frame::read(bytes, offset, salt).ok() };
            match frame {
                Some(frame) if frame.header.position.index > self.map.last.index => {
                    self.end.survivors += 1;
                    self.proven = self.proven.max(frame.flushed);
                    offset += frame.length;
                }
                _ => offset += ALIGN,
            }
        }
    }
}

/// Gives the verdict on the end of the log, and cuts it.
fn settle(
    dir: &Path,
    map: &mut Map,
    end: End,
    proven: Index,
    options: &LogOptions,
) -> Result<Option<BadTail>, LogError> {
    let after = map.last;
    let active = map.active();
    if proven > after.index {
        return Err(corrupt(&active.path, active.tail, after.index.next(), &end.reason));
    }
    let kind = match end.kind {
        None if end.later.is_empty() => return Ok(None),
        None => TailKind::Torn,
        Some(kind) => kind,
    };
    let (segment, offset) = (active.path.to_path_buf(), active.tail);
    let tail = BadTail { kind, segment, offset, after, unflushed: end.survivors };
    if kind == TailKind::Complete && !options.cut_bad_record {
        return Err(LogError::BadRecord(tail));
    }
    // Newest first: a crash in between leaves a shorter tail of the same kind.
    segment::delete(dir, end.later.iter().rev().map(PathBuf::as_path))?;
    active.size = segment::cut(&active.file, &active.path, active.tail, active.size)?;
    Ok(Some(tail))
}

/// Makes everything that was found durable.
fn flush(dir: &Path, map: &mut Map, proven: Index) -> Result<(), LogError> {
    for segment in &map.segments {
        if segment.last_index() > proven {
            let from = if proven <= segment.base.index { 0 } else { segment.offset(proven.next()) };
            rewrite(segment, from)?;
        }
        segment.file.sync_all().map_err(LogError::io("flush", &segment.path))?;
    }
    segment::sync_dir(dir)?;
    map.flushed = map.last.index;
    Ok(())
}

/// Writes a segment's bytes from `from` to its tail once more.
fn rewrite(segment: &Segment, from: u64) -> Result<(), LogError> {
    let mut bytes = vec![0; (segment.tail - from) as usize];
    segment.file.read_exact_at(&mut bytes, from).map_err(LogError::io("read", &segment.path))?;
    segment.file.write_all_at(&bytes, from).map_err(LogError::io("write", &segment.path))
}

fn corrupt(segment: &Path, offset: u64, index: Index, reason: &str) -> LogError {
    LogError::Corrupt { segment: segment.to_owned(), offset, index, reason: reason.to_owned() }
}
