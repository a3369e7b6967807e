//! What is damaged, foreign, full or out of order is noticed and said.

mod common;

use std::os::unix::fs::FileExt;

use bytes::Bytes;
use common::*;
use rdb_engine::*;
use rdb_protocol::Index;
use rdb_protocol::api::ErrorCode;
use tempfile::TempDir;

fn pair() -> (Leader, Follower) {
    let mut leader = Leader::new();
    leader.sql("CREATE TABLE t(id INTEGER PRIMARY KEY, v)");
    for _ in 0..30 {
        leader.sql("INSERT INTO t(v) VALUES (randomblob(1000))");
    }
    let follower = leader.seed();
    (leader, follower)
}

#[test]
fn a_flipped_bit_in_a_followers_file_is_found_by_the_next_record() {
    let (mut leader, follower) = pair();
    let Follower { dir, engine, applier } = follower;
    drop((applier, engine));
    let file = std::fs::OpenOptions::new().read(true).write(true).open(dir.path().join("db")).unwrap();
    let at = 10 * 4096 + 2000;
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 4], at).unwrap();
    let mut follower = Follower::open(dir);
    let before = follower.engine.position().unwrap();
    leader.sql("UPDATE t SET v = 1 WHERE id = 30");
    let records = leader.take();
    let error = follower.applier.apply(&records).unwrap_err();
    assert!(matches!(error, ApplyError::Diverged { leaders, .. } if leaders == records[0].record.content), "{error}");
    assert_eq!(follower.engine.position().unwrap(), before);
}

#[test]
fn a_record_whose_checksum_does_not_fit_is_not_applied() {
    let (mut leader, mut follower) = pair();
    leader.sql("INSERT INTO t(v) VALUES (1)");
    let good = leader.take();
    let mut bad = good.clone();
    let (_, image) = &mut pages(&mut bad[0]).pages[0];
    let mut changed = image.to_vec();
    changed[4000] ^= 1;
    *image = Bytes::from(changed);
    assert!(matches!(follower.applier.apply(&bad), Err(ApplyError::Diverged { .. })));
    // The right one still fits.
    follower.applier.apply(&good).unwrap();
    assert_equal(&leader, &follower);
    // Once more is skipped.
    follower.applier.apply(&good).unwrap();
    assert_equal(&leader, &follower);
}

#[test]
fn malformed_records_are_refused() {
    let (mut leader, mut follower) = pair();
    leader.sql("INSERT INTO t(v) VALUES (1)");
    leader.sql("INSERT INTO t(v) VALUES (2)");
    let good = leader.take();
    let mut refuse = |change: &dyn Fn(&mut Vec<ApplyGroup>), expected: &str| {
        let mut bad = good.clone();
        change(&mut bad);
        let error = format!("{:?}", follower.applier.apply(&bad).unwrap_err());
        assert!(error.starts_with(expected), "{error}");
    };
    refuse(&|bad| pages(&mut bad[0]).page_size = 8192, "PageSize");
    refuse(&|bad| pages(&mut bad[0]).pages[0].0 = 0, "Malformed");
    refuse(&|bad| pages(&mut bad[0]).pages[0].0 = 1 << 30, "Malformed");
    refuse(&|bad| pages(&mut bad[0]).database_pages = 0, "Malformed");
    refuse(&|bad| pages(&mut bad[0]).pages[0].1 = Bytes::from_static(b"short"), "Malformed");
    refuse(&|bad| bad.reverse(), "Order");
    refuse(&|bad| bad[1].position.index = bad[0].position.index, "Order");
    refuse(&|bad| bad[1].position.index = Index(77), "Malformed");
}

#[test]
fn foreign_files_are_not_opened() {
    let dir = TempDir::new().unwrap();
    let open = || Engine::open(options(dir.path())).map(drop).unwrap_err();
    let path = dir.path().join("db");
    assert!(matches!(open(), EngineError::Missing(_)));
    std::fs::write(&path, "this is no database".repeat(1000)).unwrap();
    assert!(matches!(open(), EngineError::Foreign { .. }), "{:?}", open());
    std::fs::remove_file(&path).unwrap();
    let other = rusqlite::Connection::open(&path).unwrap();
    other.execute_batch("CREATE TABLE t(v)").unwrap();
    assert!(matches!(open(), EngineError::Foreign { .. }));
    drop(other);
    std::fs::remove_file(&path).unwrap();
    drop(Engine::create(options(dir.path())).unwrap());
    assert!(matches!(Engine::create(options(dir.path())).map(drop), Err(EngineError::Foreign { .. })));
    let newer = rusqlite::Connection::open(&path).unwrap();
    newer.execute_batch("UPDATE _rdb_position SET format = 2").unwrap();
    drop(newer);
    assert!(open().to_string().contains("upgrade this node"));
}

#[test]
fn a_disk_without_reserve_refuses_writes_and_goes_on_reading() {
    let mut leader = Leader::new();
    leader.sql("CREATE TABLE t(v)");
    let content = leader.engine.stats().content;
    let Leader { dir, engine, writer, end, .. } = leader;
    drop((writer, engine));
    let full = EngineOptions { reserve_bytes: u64::MAX, ..options(dir.path()) };
    let engine = Engine::open(full).unwrap();
    let writer = engine.writer().unwrap();
    let mut leader = Leader { dir, engine, writer, end, log: Vec::new(), last: None };
    let results = leader.group(&[tx(&["INSERT INTO t VALUES (1)"]), tx(&["INSERT INTO t VALUES (2)"])]);
    assert!(results.iter().all(|result| result.as_ref().unwrap_err().code() == ErrorCode::DiskFull));
    assert_eq!(leader.end, end);
    assert_eq!(integer(&leader.sql("SELECT count(*) FROM t")), 0);
    assert_eq!(leader.engine.scan_checksum().unwrap(), content);
}

/// A file system of one MiB; `None` where mounting is not permitted.
struct Small(TempDir);

impl Small {
    fn mount() -> Option<Small> {
        let dir = TempDir::new().unwrap();
        let mut command = std::process::Command::new("mount");
        command.args(["-t", "tmpfs", "-o", "size=1m", "tmpfs"]).arg(dir.path());
        command.output().ok().filter(|output| output.status.success()).map(|_| Small(dir))
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg("-l").arg(self.0.path()).output();
    }
}

#[test]
fn a_full_disk_is_a_clean_refusal_for_leader_and_follower_and_heals() {
    let (Some(leaders_disk), Some(followers_disk)) = (Small::mount(), Small::mount()) else {
        eprintln!("skipped: mounting is not permitted here");
        return;
    };
    let mut leader = Leader::with(|options| options.path = leaders_disk.0.path().join("db"));
    let fill = |disk: &Small, free: usize| {
        let ballast = disk.0.path().join("ballast");
        let _ = std::fs::remove_file(&ballast);
        let mut size = 1 << 20;
        while std::fs::write(&ballast, vec![1; size]).is_err() {
            size -= 4096;
        }
        std::fs::write(&ballast, vec![1; size.saturating_sub(free)]).unwrap();
    };
    leader.sql("CREATE TABLE t(v)");
    let mut session = leader.engine.seed_session().unwrap();
    let mut copy = SeedWriter::create(&followers_disk.0.path().join("seed"), session.info()).unwrap();
    copy_all(&mut session, &mut copy, 100);
    let path = followers_disk.0.path().join("db");
    copy.install(&path).unwrap();
    drop(session);
    leader.take();
    let engine = Engine::open(EngineOptions { reserve_bytes: 0, ..EngineOptions::new(&path) }).unwrap();
    let mut applier = engine.applier().unwrap();

    // The frames of one write are many, so that the space ends at different places of them.
    for free in (0..40_000).step_by(4096) {
        fill(&leaders_disk, free);
        let mut written = 0;
        let refused = loop {
            match leader.try_sql("INSERT INTO t VALUES (randomblob(9000))") {
                Ok(_) => written += 1,
                Err(failure) => break failure,
            }
        };
        assert_eq!(refused.code(), ErrorCode::DiskFull, "{refused}");
        assert!(written < 100, "{written}");
        assert!(query(&leader.engine, "SELECT count(*) FROM t").values.len() == 1);
        let _ = std::fs::remove_file(leaders_disk.0.path().join("ballast"));
        leader.sql("INSERT INTO t VALUES ('healed')");
        leader.sql("DELETE FROM t");
        leader.engine.checkpoint().unwrap();
    }
    let records = leader.take();
    fill(&followers_disk, 8192);
    let refused = applier.apply(&records).unwrap_err();
    assert!(matches!(refused, ApplyError::Full(_)), "{refused:?}");
    let _ = std::fs::remove_file(followers_disk.0.path().join("ballast"));
    applier.apply(&records).unwrap();
    assert_eq!(engine.scan_checksum().unwrap(), leader.engine.scan_checksum().unwrap());
    assert_eq!(engine.stats().content, leader.engine.stats().content);
}

#[test]
fn a_failure_after_the_commit_point_is_fatal() {
    let mut leader = Leader::new();
    leader.sql("CREATE TABLE t(v)");
    let wal = leader.dir.path().join("db-wal");
    let slot = leader.slot();
    let result = leader.writer.run_group(slot, &[tx(&["INSERT INTO t VALUES (1)"])], &mut |_| {
        // From here on the file cannot be written through any descriptor of this process.
        let only_read = std::fs::File::open(&wal).unwrap();
        for entry in std::fs::read_dir("/proc/self/fd").unwrap() {
            let entry = entry.unwrap();
            let fd: i32 = entry.file_name().to_string_lossy().parse().unwrap();
            if std::fs::read_link(entry.path()).is_ok_and(|path| path == wal) {
                unsafe { libc::dup2(std::os::fd::AsRawFd::as_raw_fd(&only_read), fd) };
            }
        }
        Ok(())
    });
    assert!(result.unwrap_err().0.contains("disk I/O error"));
    assert_eq!(integer(&query(&leader.engine, "SELECT count(*) FROM t")), 0);
}

#[test]
fn only_one_role_writes() {
    let leader = Leader::new();
    assert!(matches!(leader.engine.writer(), Err(EngineError::Busy)));
    assert!(matches!(leader.engine.applier(), Err(EngineError::Busy)));
    drop(leader.writer);
    let applier = leader.engine.applier().unwrap();
    assert!(matches!(leader.engine.writer(), Err(EngineError::Busy)));
    drop(applier);
    assert!(leader.engine.writer().is_ok());
}

#[test]
fn a_slot_behind_the_database_is_fatal() {
    let mut leader = Leader::new();
    leader.sql("CREATE TABLE t(v)");
    leader.sql("INSERT INTO t VALUES (1)");
    let slot = Slot { previous: rdb_protocol::Position::ZERO, ..leader.slot() };
    assert!(leader.writer.run_group(slot, &[tx(&["SELECT 1"])], &mut |_| Ok(())).is_err());
}

#[test]
fn the_index_of_the_write_ahead_log_has_its_space_before_a_full_disk_can_end_the_process() {
    let mut leader = Leader::with(|options| options.checkpoint_bytes = 64 << 20);
    let index = || std::fs::metadata(leader.path().with_file_name("db-shm")).unwrap();
    // Four times 16384 frames, at 4096 for each 32 KiB.
    let before = std::os::unix::fs::MetadataExt::blocks(&index()) * 512;
    assert!(before >= 16 * (32 << 10), "{before} bytes");
    let length = index().len();
    leader.sql("CREATE TABLE t(v)");
    for _ in 0..4 {
        leader.sql("INSERT INTO t(v) VALUES (randomblob(6000000))");
    }
    let after = std::fs::metadata(leader.path().with_file_name("db-shm")).unwrap().len();
    assert_eq!(after, length, "more than the first part's frames, without another part");
    assert!(leader.engine.stats().wal_frames > 4096);
}
