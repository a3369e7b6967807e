//! Readers and flushes on other threads.

mod common;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use common::{Fixture, noop, page, small};
use rdb_log::{LogError, LogOptions, Retention};
use rdb_protocol::{Chain, Index};

/// Every record of a history states its epoch, so a reader can tell which history it got a record of.
#[test]
fn a_reader_racing_cuts_and_retention_gets_whole_records_or_a_clean_error() {
    let mut log = Fixture::new(LogOptions { cache_bytes: 3000, ..small() });
    let reader = log.log.reader();
    let (done, reads, gone) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    thread::scope(|scope| {
        for seed in 0..2u64 {
            let reader = reader.clone();
            let (done, reads, gone) = (&done, &reads, &gone);
            scope.spawn(move || {
                let mut next = seed;
                // At least some reads of each kind, however slow the machine.
                while !done.load(Ordering::Relaxed) {
                    next = next.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                    let (base, last) = (reader.base().index.0, reader.last().index.0);
                    let from = Index(base + 1 + (next >> 33) % (last.saturating_sub(base) + 1));
                    match reader.read(from, 4000) {
                        Ok(entries) => {
                            let mut expected = from;
                            for pair in entries.windows(2) {
                                assert!(pair[1].follows(pair[0].position));
                            }
                            for entry in entries {
                                assert_eq!(entry.position.index, expected);
                                entry.decode().unwrap();
                                expected = expected.next();
                            }
                            reads.fetch_add(1, Ordering::Relaxed);
                        }
                        Err(LogError::Gone(_) | LogError::OutOfRange { .. }) => {
                            gone.fetch_add(1, Ordering::Relaxed);
                        }
                        Err(error) => panic!("{error}"),
                    }
                }
            });
        }
        let mut epoch = 0;
        while epoch < 150 || reads.load(Ordering::Relaxed) < 1000 {
            epoch += 1;
            for _ in 0..12 {
                let entry = page(log.log.last(), epoch, 1024, epoch as u8);
                log.log.append(&entry).unwrap();
            }
            let (base, last) = (log.log.base().index.0, log.log.last().index.0);
            log.log.truncate_after(Index(last - (epoch % 11).min(last - base))).unwrap();
            if epoch % 10 == 0 {
                let floor = Index(log.log.last().index.0);
                log.log.retain(Retention { floor, max_bytes: 40 << 10, oldest_ms: 0 }).unwrap();
            }
        }
        done.store(true, Ordering::Relaxed);
    });
}

#[test]
fn one_flush_covers_a_rotation_since_the_last() {
    let mut log = Fixture::new(small());
    let handle = log.log.sync_handle();
    for _ in 0..40 {
        log.append(page(log.log.last(), 1, 1024, 5));
    }
    handle.sync().unwrap();
    assert_eq!(log.log.flushed(), Index(0), "a handle flushes only what was appended before it was taken");
    let handle = log.log.sync_handle();
    assert_eq!(handle.upto(), log.log.last());
    let again = handle.clone();
    handle.sync().unwrap();
    again.sync().unwrap();
    assert_eq!(log.log.flushed(), Index(40));
    log.check();
}

#[test]
fn lookups_follow_a_cut_at_once() {
    let mut log = Fixture::new(small());
    log.fill(20, 1);
    let reader = log.log.reader();
    let cut = log.entries[15].position;
    log.log.truncate_after(Index(10)).unwrap();
    assert_eq!(reader.position(Index(16)), None);
    assert!(matches!(reader.read(Index(16), 0), Err(LogError::OutOfRange { .. })));
    for _ in 0..10 {
        let entry = noop(log.log.last(), 2);
        log.log.append(&entry).unwrap();
    }
    let new = reader.position(Index(16)).unwrap();
    assert!(new.chain != cut.chain && new.chain != Chain(0));
}
