//! A disk without space: a small tmpfs, which needs the right to mount; without it the test says so and passes.

mod common;

use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};

use common::{Fixture, noop, page, read_all, small};
use rdb_log::{Control, Log, LogError, Retention};
use rdb_protocol::{Epoch, Index, NodeName, Position};

/// One disk at a time: a process that is being started for another test has copies of our open files for a moment, so that
/// removing them would free nothing yet.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// A file system of 256 KiB.
struct SmallDisk(tempfile::TempDir, #[expect(dead_code, reason = "held")] MutexGuard<'static, ()>);

impl SmallDisk {
    fn new() -> Option<SmallDisk> {
        let alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let dir = tempfile::tempdir().unwrap();
        let mount = Command::new("mount").args(["-t", "tmpfs", "-o", "size=256k", "tmpfs"]).arg(dir.path()).output();
        let mounted = mount.is_ok_and(|output| output.status.success());
        if !mounted {
            eprintln!("skipped: may not mount a tmpfs");
        }
        mounted.then_some(SmallDisk(dir, alone))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// Takes all the space there is.
    fn fill(&self) {
        let file = std::fs::File::create(self.path().join("filler")).unwrap();
        for length in [4096, 512, 1] {
            while std::io::Write::write_all(&mut &file, &vec![1; length]).is_ok() {}
        }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.path()).output();
    }
}

#[test]
fn a_full_disk_refuses_records_and_harms_none() {
    let Some(disk) = SmallDisk::new() else { return };
    let dir = disk.path().join("log");
    let mut log = Log::create(&dir, Position::ZERO, small()).unwrap();
    let mut entries = Vec::new();
    let refused = loop {
        let entry = page(log.last(), 1, 1024, 9);
        match log.append(&entry) {
            Ok(()) => entries.push(entry),
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, LogError::Full(_)), "{refused}");
    log.sync_handle().sync().unwrap();
    assert_eq!(read_all(&log), entries);
    // A record that fits what is left of the last segment is still taken, and a larger one still refused.
    let small_entry = noop(log.last(), 1);
    let room = log.append(&small_entry);
    assert!(matches!(log.append(&page(log.last(), 1, 65_536, 9)), Err(LogError::Full(_))));
    if room.is_ok() {
        entries.push(small_entry);
    }
    drop(log);
    let (mut log, recovery) = Log::open(&dir, small()).unwrap();
    assert_eq!(recovery.cut, None);
    assert_eq!(read_all(&log), entries);
    // Cutting works without space, and so does writing again where the cut made room.
    disk.fill();
    let keep = entries.len() - 3;
    log.truncate_after(Index(keep as u64)).unwrap();
    entries.truncate(keep);
    assert_eq!(read_all(&log), entries);
    // Space freed by retention is used.
    assert!(log.retain(Retention { floor: Index(100), max_bytes: 0, oldest_ms: 0 }).unwrap() > 0);
    for _ in 0..20 {
        log.append(&page(log.last(), 2, 1024, 9)).unwrap();
    }
}

#[test]
fn a_full_disk_does_not_keep_a_node_from_promising() {
    let Some(disk) = SmallDisk::new() else { return };
    let data = disk.path().join("data");
    let mut control = Control::open_or_create(&data, NodeName::new("a").unwrap()).unwrap();
    disk.fill();
    for epoch in 1..20 {
        control.update(|state| state.promise.epoch = Epoch(epoch)).unwrap();
    }
    drop(control);
    let control = Control::open_or_create(&data, NodeName::new("a").unwrap()).unwrap();
    assert_eq!(control.state().promise.epoch, Epoch(19));
}

#[test]
fn a_log_that_cannot_be_created_leaves_nothing() {
    let Some(disk) = SmallDisk::new() else { return };
    disk.fill();
    let dir = disk.path().join("log");
    assert!(matches!(Log::create(&dir, Position::ZERO, small()), Err(LogError::Full(_))));
    std::fs::remove_file(disk.path().join("filler")).unwrap();
    Log::create(&dir, Position::ZERO, small()).unwrap();
    drop(Fixture::new(small()));
}
