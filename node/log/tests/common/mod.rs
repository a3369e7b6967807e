//! Records to fill a log with, and a model of what it should hold.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its own part")]

use std::path::{Path, PathBuf};

use bytes::Bytes;
use rdb_log::{Log, LogError, LogOptions, Recovery};
use rdb_protocol::{Epoch, Index, Position};
use rdb_record::{Entry, Payload, Record, RecordKind};
use tempfile::TempDir;

/// Small segments, so that a few records fill several.
pub fn small() -> LogOptions {
    LogOptions { segment_bytes: 16 << 10, cache_bytes: 0, ..LogOptions::default() }
}

pub fn noop(previous: Position, epoch: u64) -> Entry {
    at_time(previous, epoch, previous.index.0 + 1)
}

/// A record made at this many milliseconds.
pub fn at_time(previous: Position, epoch: u64, ms: u64) -> Entry {
    let record = Record { timestamp: ms << 16, content: 0, clients: Vec::new(), payload: Payload::Noop };
    record.encode(previous, Epoch(epoch))
}

/// One page image: zeros with `ink` bytes at both ends, as pages of a B-tree are.
pub fn page(previous: Position, epoch: u64, page_size: u32, ink: u8) -> Entry {
    let mut image = vec![0; page_size as usize];
    let ink_bytes = usize::from(ink).min(image.len());
    image[..ink_bytes].fill(ink);
    let from = image.len() - ink_bytes;
    image[from..].fill(ink);
    pages(previous, epoch, page_size, vec![Bytes::from(image)])
}

/// As version 1 of the format wrote it: images with their zeros, so that a record has sectors of zeros.
pub fn pages(previous: Position, epoch: u64, page_size: u32, images: Vec<Bytes>) -> Entry {
    let empty = Record { timestamp: 1 << 16, content: 7, clients: Vec::new(), payload: Payload::Noop };
    let mut bytes = empty.encode(previous, Epoch(epoch)).bytes.to_vec();
    bytes[17] = RecordKind::Pages as u8;
    for field in [page_size, 9, images.len() as u32].into_iter().chain(1..=images.len() as u32) {
        bytes.extend_from_slice(&field.to_le_bytes());
    }
    images.iter().for_each(|image| bytes.extend_from_slice(image));
    let length = bytes.len() as u32;
    bytes[..4].copy_from_slice(&length.to_le_bytes());
    let chain = xxhash_rust::xxh3::xxh3_64_with_seed(&bytes[16..], previous.chain.0);
    bytes[8..16].copy_from_slice(&chain.to_le_bytes());
    let crc = crc32c::crc32c_append(crc32c::crc32c(&bytes[..4]), &bytes[8..]);
    bytes[4..8].copy_from_slice(&crc.to_le_bytes());
    let entry = Entry::read(&mut Bytes::from(bytes)).unwrap();
    assert!(entry.follows(previous));
    entry
}

/// A log with a directory that goes away with it.
pub struct Fixture {
    pub dir: TempDir,
    pub log: Log,
    pub entries: Vec<Entry>,
}

impl Fixture {
    pub fn new(options: LogOptions) -> Fixture {
        let dir = tempfile::tempdir().unwrap();
        let log = Log::create(&dir.path().join("log"), Position::ZERO, options).unwrap();
        Fixture { dir, log, entries: Vec::new() }
    }

    pub fn path(&self) -> PathBuf {
        self.dir.path().join("log")
    }

    pub fn append(&mut self, entry: Entry) {
        self.log.append(&entry).unwrap();
        self.entries.push(entry);
    }

    /// `count` flushed page records of one epoch.
    pub fn fill(&mut self, count: usize, epoch: u64) {
        for _ in 0..count {
            self.append(page(self.log.last(), epoch, 1024, 1 + (self.entries.len() % 200) as u8));
            self.log.sync_handle().sync().unwrap();
        }
    }

    /// The file of the newest segment.
    pub fn newest(&self) -> PathBuf {
        segments(&self.path()).pop().unwrap()
    }

    pub fn reopen(self, options: LogOptions) -> Result<(Fixture, Recovery), (TempDir, LogError)> {
        let path = self.path();
        let Fixture { dir, log, entries } = self;
        drop(log);
        match Log::open(&path, options) {
            Ok((log, recovery)) => Ok((Fixture { dir, log, entries }, recovery)),
            Err(error) => Err((dir, error)),
        }
    }

    /// The log holds exactly `entries`, by every way to ask.
    pub fn check(&self) {
        let base = self.log.base();
        let kept = &self.entries[base.index.0 as usize..];
        assert_eq!(self.log.last(), kept.last().map_or(base, |entry| entry.position));
        assert_eq!(read_all(&self.log), kept);
        for entry in kept {
            assert_eq!(self.log.position(entry.position.index), Some(entry.position));
        }
        assert_eq!(self.log.position(base.index), Some(base));
        assert_eq!(self.log.position(self.log.last().index.next()), None);
        let mut ends: Vec<Position> = Vec::new();
        for entry in kept {
            if ends.last().is_some_and(|end| end.epoch == entry.position.epoch) {
                ends.pop();
            }
            ends.push(entry.position);
        }
        assert_eq!(self.log.epochs(), ends);
        for epoch in 0..10 {
            let expected = ends.iter().rfind(|end| end.epoch.0 <= epoch).copied();
            let expected = expected.or((base.epoch.0 <= epoch).then_some(base));
            assert_eq!(self.log.epoch_end(Epoch(epoch)), expected, "epoch {epoch}");
        }
    }
}

pub fn read_all(log: &Log) -> Vec<Entry> {
    let mut entries: Vec<Entry> = Vec::new();
    let mut next = log.first_index();
    while next <= log.last().index {
        let read = log.read(next, 5000).unwrap();
        next = Index(next.0 + read.len() as u64);
        entries.extend(read);
    }
    entries
}

pub fn segments(dir: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}
