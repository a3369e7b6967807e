//! What a crash or a broken disk leaves, and what opening makes of it.
//!
//! A crash keeps any subset of the 512-byte sectors that were written since the last flush, and any subset of the files
//! that were created since; damage changes bytes that had been flushed.

mod common;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use common::{Fixture, noop, page, pages, read_all, segments, small};
use proptest::prelude::*;
use proptest::sample::Index as Pick;
use rdb_log::{BadTail, Log, LogError, LogOptions, TailKind};
use rdb_protocol::Index;
use rdb_record::Entry;

const SECTOR: usize = 512;

/// Contents of the log's files.
type Image = BTreeMap<PathBuf, Vec<u8>>;

fn image(dir: &Path) -> Image {
    segments(dir).into_iter().map(|path| (path.clone(), std::fs::read(path).unwrap())).collect()
}

fn put(image: &Image) {
    let dir = image.keys().next().unwrap().parent().unwrap();
    for path in segments(dir) {
        std::fs::remove_file(path).unwrap();
    }
    for (path, bytes) in image {
        std::fs::write(path, bytes).unwrap();
    }
}

/// One record: size of its page and how much of it is not zero.
fn any_record() -> impl Strategy<Value = (u32, u8)> {
    prop_oneof![Just((0, 0)), (prop_oneof![Just(512u32), Just(1024), Just(4096), Just(8192)], 0u8..=255)]
}

fn append(log: &mut Fixture, (page_size, ink): (u32, u8)) {
    let last = log.log.last();
    log.append(if page_size == 0 { noop(last, 1) } else { page(last, 1, page_size, ink) });
}

/// A log with some flushed records, and its files before and after more were appended without a flush.
fn before_and_after(flushed: &[(u32, u8)], more: &[(u32, u8)]) -> (Fixture, Image, Image) {
    let mut log = Fixture::new(small());
    for record in flushed {
        append(&mut log, *record);
    }
    log.log.sync_handle().sync().unwrap();
    let before = image(&log.path());
    for record in more {
        append(&mut log, *record);
    }
    let after = image(&log.path());
    (log, before, after)
}

/// The log opens with a prefix of what was written, nothing flushed is lost, and it is usable.
fn check_crashed(log: Fixture, image: &Image, flushed: usize) -> Result<usize, TestCaseError> {
    put(image);
    let (mut log, recovery) = log.reopen(small()).map_err(|(_, error)| TestCaseError::fail(format!("{error:?}")))?;
    let kept = read_all(&log.log);
    prop_assert!(kept.len() >= flushed, "kept {} of {flushed} flushed", kept.len());
    prop_assert_eq!(&kept, &log.entries[..kept.len()]);
    prop_assert!(recovery.cut.is_none_or(|cut| cut.kind == TailKind::Torn));
    log.entries = kept;
    let survivors = log.entries.len();
    // Records of another length and history, so that what was left behind would be found at odd places.
    for _ in 0..3 {
        log.append(pages(log.log.last(), 2, 512, vec![vec![3; 512].into()]));
    }
    let (log, recovery) = log.reopen(small()).map_err(|(_, error)| TestCaseError::fail(format!("{error:?}")))?;
    prop_assert_eq!(recovery.cut, None);
    log.check();
    Ok(survivors)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_write_that_stopped_at_any_byte_is_cut(
        flushed in prop::collection::vec(any_record(), 0..4), record in any_record(), at in any::<Pick>(),
    ) {
        let (log, before, after) = before_and_after(&flushed, &[record]);
        let (path, new) = after.iter().next_back().unwrap();
        let old = before.get(path).cloned().unwrap_or_else(|| vec![0; new.len()]);
        let changed: Vec<usize> = (0..new.len()).filter(|i| old[*i] != new[*i]).collect();
        let stop = changed[at.index(changed.len())];
        let mut image = after.clone();
        image.insert(path.clone(), [&new[..stop], &old[stop..]].concat());
        prop_assert_eq!(check_crashed(log, &image, flushed.len())?, flushed.len());
    }

    #[test]
    fn any_sectors_that_a_crash_kept_leave_a_prefix(
        flushed in prop::collection::vec(any_record(), 0..8),
        more in prop::collection::vec(any_record(), 1..8),
        luck in prop::collection::vec(0u8..4, 200),
        odds in 0u8..4,
    ) {
        let (log, before, after) = before_and_after(&flushed, &more);
        let mut luck = luck.iter().cycle();
        let mut kept = |_: &()| *luck.next().unwrap() <= odds;
        let mut image = Image::new();
        for (path, new) in &after {
            let old = match before.get(path) {
                Some(old) => old.clone(),
                None if kept(&()) => vec![0; if kept(&()) { new.len() } else { 0 }],
                None => continue,
            };
            let mut bytes = old.clone();
            for (i, sector) in bytes.chunks_mut(SECTOR).enumerate() {
                let new = &new[i * SECTOR..i * SECTOR + sector.len()];
                if sector != new && kept(&()) {
                    sector.copy_from_slice(new);
                }
            }
            image.insert(path.clone(), bytes);
        }
        check_crashed(log, &image, flushed.len())?;
    }

    #[test]
    fn damage_to_a_flushed_record_is_never_taken_for_a_crash(
        sizes in prop::collection::vec(any_record(), 1..12), at in any::<Pick>(), bit in 0u8..8,
    ) {
        let mut log = Fixture::new(small());
        let mut frames = Vec::new();
        for record in sizes {
            append(&mut log, record);
            log.log.sync_handle().sync().unwrap();
            let length = log.entries.last().unwrap().bytes.len();
            let path = log.newest();
            let start = frames.last().filter(|(last, _, _)| *last == path).map_or(4096, |(_, _, end)| *end);
            frames.push((path, start, start + length.next_multiple_of(16) + 16));
        }
        let victim = at.index(frames.len());
        let (path, start, end) = frames[victim].clone();
        let mut bytes = std::fs::read(&path).unwrap();
        let byte = start + at.index(end - start);
        let record = log.entries[victim].bytes.len();
        prop_assume!(!(start + record..end - 16).contains(&byte), "padding has no meaning");
        bytes[byte] ^= 1 << bit;
        std::fs::write(&path, bytes).unwrap();
        let last = victim + 1 == log.entries.len();
        let good = log.entries[..victim].to_vec();
        let log_path = log.path();
        match (last, log.reopen(small())) {
            (false, Err((_, LogError::Corrupt { index, segment, .. }))) => {
                prop_assert_eq!((index, segment), (Index(victim as u64 + 1), path));
            }
            (true, Err((_dir, LogError::BadRecord(BadTail { kind, after, unflushed, .. })))) => {
                prop_assert_eq!((kind, after.index, unflushed), (TailKind::Complete, Index(victim as u64), 0));
                let (log, recovery) = Log::open(&log_path, LogOptions { cut_bad_record: true, ..small() }).unwrap();
                prop_assert_eq!(recovery.cut.map(|cut| cut.kind), Some(TailKind::Complete));
                prop_assert_eq!(read_all(&log), good);
            }
            (_, other) => prop_assert!(false, "byte {byte} of record {victim}: {:?}", other.map(|(_, r)| r).map_err(|(_, e)| e)),
        }
    }

    #[test]
    fn no_garbage_is_ever_read_as_a_record(
        records in prop::collection::vec(any_record(), 1..10),
        garbage in prop::collection::vec((any::<Pick>(), any::<Pick>(), any::<u8>(), 1usize..64), 1..6),
    ) {
        let (log, _, mut image) = before_and_after(&records, &[]);
        let paths: Vec<PathBuf> = image.keys().cloned().collect();
        for (path, at, byte, length) in garbage {
            let bytes = image.get_mut(&paths[path.index(paths.len())]).unwrap();
            let at = at.index(bytes.len());
            let end = bytes.len().min(at + length);
            bytes[at..end].fill(byte);
        }
        put(&image);
        let written = log.entries.clone();
        if let Ok((log, _)) = log.reopen(LogOptions { cut_bad_record: true, ..small() }) {
            let read = read_all(&log.log);
            prop_assert_eq!(&read, &written[..read.len()]);
        }
    }
}

/// Several records of one history, flushed one by one.
fn flushed(count: usize) -> Fixture {
    let mut log = Fixture::new(LogOptions { cache_bytes: 0, segment_bytes: 64 << 10, ..LogOptions::default() });
    log.fill(count, 1);
    log
}

#[test]
fn stale_records_behind_a_rewritten_tail_do_not_become_valid() {
    // Records 4 and 5 of two histories have equal lengths, so that the stale 5 stands exactly behind the new 4.
    let mut log = flushed(5);
    let stale = image(&log.path());
    log.log.truncate_after(Index(3)).unwrap();
    log.entries.truncate(3);
    log.append(page(log.log.last(), 2, 1024, 99));
    let mut rewritten = image(&log.path());
    for (path, bytes) in &mut rewritten {
        let end = bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1;
        bytes[end..].copy_from_slice(&stale[path][end..]);
    }
    put(&rewritten);
    // As if the file system had brought the old bytes back: refused, not read.
    let error = log.reopen(LogOptions::default()).map(|(_, recovery)| recovery).unwrap_err().1;
    assert!(matches!(error, LogError::BadRecord(_) | LogError::Corrupt { .. }), "{error:?}");
}

#[test]
fn a_cut_that_a_crash_interrupted_leaves_a_log_without_a_gap() {
    let mut log = Fixture::new(small());
    log.fill(40, 1);
    let files = segments(&log.path());
    // `truncate_after` deletes newest first.
    for path in files[1..].iter().rev() {
        std::fs::remove_file(path).unwrap();
        let (reopened, recovery) = log.reopen(small()).unwrap();
        log = reopened;
        assert_eq!(recovery.cut, None);
        log.entries.truncate(recovery.records as usize);
        log.check();
    }
}

#[test]
fn a_rotation_that_a_crash_lost_leaves_a_full_segment() {
    // Ten frames of a `Noop` fill the segment to its last byte.
    let options = LogOptions { segment_bytes: 4096 + 10 * 80, ..small() };
    for lost in [0, 4096 + 10 * 80] {
        let mut log = Fixture::new(options.clone());
        for _ in 0..11 {
            log.append(noop(log.log.last(), 1));
        }
        std::fs::write(log.newest(), vec![0; lost]).unwrap();
        let (mut log, recovery) = log.reopen(options.clone()).unwrap();
        assert_eq!((recovery.records, recovery.cut.map(|cut| cut.kind)), (10, Some(TailKind::Torn)));
        log.entries.truncate(10);
        log.append(noop(log.log.last(), 2));
        log.check();
    }
}

#[test]
fn a_segment_missing_in_the_middle_is_corruption() {
    let mut log = Fixture::new(small());
    log.fill(40, 1);
    std::fs::remove_file(&segments(&log.path())[1]).unwrap();
    assert!(matches!(log.reopen(small()).map(|(_, r)| r), Err((_, LogError::Corrupt { .. }))));
}

#[test]
fn a_log_whose_creation_was_interrupted_is_missing_and_can_be_created() {
    for length in [0, 16 << 10] {
        let log = Fixture::new(small());
        std::fs::write(log.newest(), vec![0; length]).unwrap();
        let path = log.path();
        let (_dir, error) = log.reopen(small()).map(|(_, recovery)| recovery).unwrap_err();
        assert!(matches!(error, LogError::Missing(_)), "{error:?}");
        Log::create(&path, Default::default(), small()).unwrap();
    }
}

#[test]
fn foreign_files_are_left_alone() {
    let mut log = Fixture::new(small());
    log.fill(2, 1);
    let path = log.newest();
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[..8].copy_from_slice(b"postgres");
    std::fs::write(&path, &bytes).unwrap();
    let error = log.reopen(small()).map(|(_, recovery)| recovery).unwrap_err().1;
    assert!(matches!(error, LogError::Foreign(_)), "{error:?}");

    let log = Fixture::new(small());
    std::fs::write(log.path().join("notes.seg"), "hello").unwrap();
    let error = log.reopen(small()).map(|(_, recovery)| recovery).unwrap_err().1;
    assert!(matches!(error, LogError::Foreign(_)), "{error:?}");
}

#[test]
fn a_newer_format_asks_for_an_upgrade() {
    let mut log = Fixture::new(small());
    log.fill(2, 1);
    let path = log.newest();
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[8] = 2;
    std::fs::write(&path, &bytes).unwrap();
    let (_dir, error) = log.reopen(small()).map(|(_, recovery)| recovery).unwrap_err();
    assert!(matches!(error, LogError::NewerVersion { found: 2, known: 1, .. }), "{error:?}");
    assert_eq!(std::fs::read(&path).unwrap(), bytes);
}

#[test]
fn damage_found_while_reading_is_reported_and_not_returned() {
    let mut log = flushed(5);
    let path = log.newest();
    let mut bytes = std::fs::read(&path).unwrap();
    let at = bytes.iter().rposition(|byte| *byte != 0).unwrap() - 100;
    bytes[at] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    assert_eq!(log.log.read(Index(4), 0).unwrap(), log.entries[3..4]);
    assert!(matches!(log.log.read(Index(5), 0), Err(LogError::Corrupt { index: Index(5), .. })));
    log.entries.truncate(4);
}

#[test]
fn a_record_of_another_history_in_its_place_is_not_returned() {
    let log = flushed(5);
    let mut other = Fixture::new(LogOptions { segment_bytes: 64 << 10, ..small() });
    other.fill(5, 2);
    // As by a write that the disk put in the wrong place: intact, same index, same length.
    std::fs::write(log.newest(), std::fs::read(other.newest()).unwrap()).unwrap();
    assert!(matches!(log.log.read(Index(2), 0), Err(LogError::Corrupt { .. })));
}

#[test]
fn a_last_record_with_a_damaged_length_does_not_pass_for_torn() {
    for flip in 0..32 {
        let log = flushed(3);
        let path = log.newest();
        let mut bytes = std::fs::read(&path).unwrap();
        let start = 4096 + 2 * (1104 + 16);
        assert_eq!(bytes[start..start + 4], log.entries[2].bytes[..4]);
        bytes[start + flip / 8] ^= 1 << (flip % 8);
        std::fs::write(&path, &bytes).unwrap();
        let (_dir, error) = log.reopen(small()).map(|(_, recovery)| recovery).unwrap_err();
        assert!(matches!(error, LogError::BadRecord(_)), "bit {flip}: {error:?}");
    }
}

#[test]
fn a_users_copy_of_a_log_is_not_evidence() {
    // A record whose page image holds whole frames of a log, torn: they must not pass for later flushed records.
    let donor = flushed(20);
    let frames = std::fs::read(donor.newest()).unwrap()[4096..4096 + 8192].to_vec();
    let mut log = flushed(3);
    let last: Entry = pages(log.log.last(), 1, 8192, vec![frames.into()]);
    log.append(last);
    let path = log.newest();
    let mut bytes = std::fs::read(&path).unwrap();
    let end = bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    bytes[end - 2 * SECTOR..end].fill(0);
    std::fs::write(&path, &bytes).unwrap();
    let (log, recovery) = log.reopen(small()).unwrap();
    assert_eq!(recovery.records, 3);
    assert_eq!(recovery.cut.map(|cut| (cut.kind, cut.unflushed)), Some((TailKind::Torn, 0)));
    drop(log);
}
