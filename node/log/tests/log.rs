//! Appending, cutting, retention and lookups, without accidents.

mod common;

use common::{Fixture, at_time, noop, page, read_all, segments, small};
use rdb_log::{Log, LogError, LogOptions, Retention};
use rdb_protocol::{Chain, Epoch, Index, Position};

#[test]
fn records_survive_reopening_over_several_segments() {
    let mut log = Fixture::new(small());
    log.fill(30, 1);
    log.fill(3, 4);
    assert!(segments(&log.path()).len() >= 3);
    log.check();
    let (log, recovery) = log.reopen(small()).unwrap();
    assert_eq!((recovery.records, recovery.cut), (33, None));
    assert_eq!(log.log.flushed(), Index(33));
    log.check();
}

#[test]
fn cache_and_disk_give_the_same_entries() {
    let mut log = Fixture::new(LogOptions { cache_bytes: 6000, ..small() });
    log.fill(30, 1);
    log.check();
    assert_eq!(log.log.read(Index(31), 100).unwrap(), []);
    assert_eq!(log.log.read(Index(30), 0).unwrap().len(), 1);
    assert_eq!(log.log.read(Index(2), 0).unwrap().len(), 1);
    assert!(matches!(log.log.read(Index(32), 100), Err(LogError::OutOfRange { .. })));
    assert!(matches!(log.log.read(Index(0), 100), Err(LogError::Gone(_))));
}

#[test]
fn read_gives_no_more_than_was_asked_for() {
    let mut log = Fixture::new(LogOptions { cache_bytes: 0, ..LogOptions::default() });
    log.fill(20, 1);
    for max in [1200, 5000, 12_000] {
        let read = log.log.read(Index(3), max).unwrap();
        let bytes: usize = read.iter().map(|entry| entry.bytes.len()).sum();
        assert!(bytes <= max && bytes + 1200 > max, "{bytes} of {max}");
    }
}

#[test]
fn only_the_next_record_is_taken() {
    let mut log = Fixture::new(small());
    log.fill(2, 3);
    let last = log.log.last();
    let skipped = noop(noop(last, 3).position, 3);
    let older = noop(last, 2);
    let other_history = noop(Position { chain: Chain(1), ..last }, 3);
    for wrong in [skipped, older, other_history] {
        assert!(matches!(log.log.append(&wrong), Err(LogError::NotNext { .. })));
    }
    log.check();
}

#[test]
fn a_seeded_log_begins_after_its_base() {
    let dir = tempfile::tempdir().unwrap();
    let base = Position { epoch: Epoch(5), index: Index(1000), chain: Chain(77) };
    let path = dir.path().join("log");
    let mut log = Log::create(&path, base, small()).unwrap();
    assert!(matches!(Log::create(&path, base, small()), Err(LogError::Exists(_))));
    assert_eq!((log.last(), log.base(), log.first_index()), (base, base, Index(1001)));
    assert_eq!(log.epochs(), []);
    assert_eq!((log.epoch_end(Epoch(4)), log.epoch_end(Epoch(5))), (None, Some(base)));
    let entry = noop(base, 6);
    log.append(&entry).unwrap();
    drop(log);
    let (log, _) = Log::open(&path, small()).unwrap();
    assert_eq!(log.epochs(), [entry.position]);
    assert_eq!(read_all(&log), [entry]);
    drop(log);
    Log::remove(&path).unwrap();
    assert!(matches!(Log::open(&path, small()), Err(LogError::Missing(_))));
}

#[test]
fn a_record_larger_than_a_segment_gets_its_own() {
    let mut log = Fixture::new(small());
    for size in [65_536, 512, 65_536, 65_536] {
        log.append(page(log.log.last(), 1, size, 9));
    }
    log.log.sync_handle().sync().unwrap();
    log.check();
    let (log, _) = log.reopen(small()).unwrap();
    log.check();
}

#[test]
fn a_cut_log_continues_with_another_history() {
    // Every place to cut, including segment borders and everything.
    for keep in 0..25 {
        // With and without a cache.
        let mut log = Fixture::new(LogOptions { cache_bytes: keep as usize % 2 * 10_000, ..small() });
        log.fill(12, 1);
        log.fill(12, 2);
        let _unfinished = log.log.sync_handle();
        log.log.truncate_after(Index(keep)).unwrap();
        log.entries.truncate(keep as usize);
        log.check();
        assert_eq!(log.log.flushed(), Index(keep));
        log.fill(2, 6);
        log.check();
        let (mut log, recovery) = log.reopen(small()).unwrap();
        assert_eq!((recovery.records, recovery.cut), (keep + 2, None), "cut at {keep}");
        log.check();
        log.fill(3, 7);
        log.check();
        log.reopen(small()).unwrap().0.check();
    }
}

#[test]
fn nothing_of_a_cut_record_stays_on_disk() {
    let mut log = Fixture::new(small());
    log.fill(8, 1);
    log.log.truncate_after(Index(3)).unwrap();
    log.append(noop(log.entries[2].position, 2));
    let bytes = std::fs::read(log.newest()).unwrap();
    assert_eq!(bytes.len(), 16 << 10);
    let tail = bytes.iter().rposition(|byte| *byte != 0).unwrap();
    // Three records of 56 + 16 + 1024 bytes and one of 56, each padded to sixteen and with a trailer.
    assert_eq!(tail, 4096 + 3 * (1104 + 16) + (64 + 16) - 1);
}

#[test]
fn cutting_outside_of_the_log_is_refused() {
    let mut log = Fixture::new(small());
    log.fill(2, 1);
    assert!(matches!(log.log.truncate_after(Index(3)), Err(LogError::OutOfRange { .. })));
    log.check();
}

#[test]
fn a_flush_begun_before_a_cut_says_nothing_about_what_was_written_after_it() {
    let mut log = Fixture::new(small());
    log.fill(5, 1);
    let before = log.log.sync_handle();
    log.log.truncate_after(Index(2)).unwrap();
    log.entries.truncate(2);
    for _ in 0..3 {
        log.append(noop(log.log.last(), 2));
    }
    before.sync().unwrap();
    assert_eq!(log.log.flushed(), Index(2));
    log.log.sync_handle().sync().unwrap();
    assert_eq!(log.log.flushed(), Index(5));
}

#[test]
fn retention_never_drops_what_is_needed() {
    let mut log = Fixture::new(small());
    for ms in 1..=1000 {
        log.append(at_time(log.log.last(), 1 + ms / 300, ms));
    }
    let all = log.log.disk_bytes();
    let count = segments(&log.path()).len();
    assert!(count > 4);
    // Not beyond size or age.
    let keep = Retention { floor: Index(1001), max_bytes: all, oldest_ms: 0 };
    assert_eq!(log.log.retain(keep).unwrap(), 0);
    // Beyond size, but needed.
    assert_eq!(log.log.retain(Retention { floor: Index(1), max_bytes: 0, ..keep }).unwrap(), 0);
    for floor in [1, 100, 500, 501, 900] {
        log.log.retain(Retention { floor: Index(floor), max_bytes: 0, oldest_ms: u64::MAX }).unwrap();
        assert!(log.log.first_index() <= Index(floor));
        log.check();
    }
    assert!(segments(&log.path()).len() < count);
    assert!(matches!(log.log.read(Index(1), 100), Err(LogError::Gone(_))));
    log.log.retain(Retention { floor: Index(5000), max_bytes: 0, oldest_ms: 0 }).unwrap();
    assert_eq!(segments(&log.path()).len(), 1);
    log.check();
    log.reopen(small()).unwrap().0.check();
}

#[test]
fn retention_keeps_a_segment_for_its_last_record() {
    let mut log = Fixture::new(small());
    log.fill(40, 1);
    for floor in 1..=40 {
        log.log.retain(Retention { floor: Index(floor), max_bytes: 0, oldest_ms: 0 }).unwrap();
        assert!(log.log.first_index() <= Index(floor), "{} dropped, {floor} needed", log.log.base().index);
    }
    assert!(log.log.first_index() > Index(20));
}

#[test]
fn retention_keeps_segments_of_the_last_while() {
    let mut log = Fixture::new(small());
    for ms in 1..=1000 {
        log.append(at_time(log.log.last(), 1, ms));
    }
    log.log.retain(Retention { floor: Index(1001), max_bytes: u64::MAX, oldest_ms: 600 }).unwrap();
    let first = log.log.first_index();
    assert!(first > Index(300) && first <= Index(600), "{first}");
    log.check();
}

#[test]
fn segments_made_ahead_of_time_are_segments_like_others() {
    let mut log = Fixture::new(LogOptions { zeros_ahead: true, ..small() });
    log.fill(200, 1);
    assert!(segments(&log.path()).len() >= 10);
    log.check();
    let (log, recovery) = log.reopen(small()).unwrap();
    assert_eq!((recovery.records, recovery.cut), (200, None));
    log.check();
}

#[test]
fn forgotten_segments_leave_the_log_at_once_and_their_files_when_there_is_time() {
    let mut log = Fixture::new(small());
    log.fill(60, 1);
    let before = segments(&log.path()).len();
    let forgotten = log.log.forget(Retention { floor: Index(50), max_bytes: 0, oldest_ms: 0 });
    let first = log.log.first_index();
    assert!(first > Index(1) && matches!(log.log.read(Index(1), 1), Err(LogError::Gone(_))));
    assert_eq!(segments(&log.path()).len(), before);
    // Writing goes on meanwhile.
    log.fill(30, 1);
    let now = segments(&log.path()).len();
    let count = forgotten.delete().unwrap();
    assert!(count > 0 && now > before);
    assert_eq!((segments(&log.path()).len(), log.log.first_index()), (now - count, first));
    let (log, _) = log.reopen(small()).unwrap();
    assert_eq!((log.log.first_index(), log.log.last().index), (first, Index(90)));
}
