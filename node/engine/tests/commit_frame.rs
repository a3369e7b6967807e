//! What a process that is killed at the commit point leaves behind: never a group that was not committed.

mod common;

use std::path::Path;

use common::*;
use rdb_engine::*;
use rdb_protocol::api::ErrorCode;
use rdb_record::{PageGroup, Payload};
use tempfile::TempDir;

const FILE_HEADER: usize = 32;
const FRAME_HEADER: usize = 24;

/// The database as the files hold it now, opened elsewhere as after `kill -9`: `SELECT v FROM t`.
fn after_a_kill(path: &Path) -> i64 {
    let dir = TempDir::new().unwrap();
    let copy = dir.path().join("db");
    for suffix in ["", "-wal"] {
        let name = |path: &Path| format!("{}{suffix}", path.display());
        std::fs::copy(name(path), name(&copy)).unwrap();
    }
    let connection = rusqlite::Connection::open(&copy).unwrap();
    connection.query_row("SELECT v FROM t", [], |row| row.get(0)).unwrap()
}

/// Does the slot of the group's commit frame hold that frame's page, from an earlier use of `-wal`?
fn slot_holds_the_page(path: &Path, group: &PageGroup) -> bool {
    let wal = std::fs::read(format!("{}-wal", path.display())).unwrap();
    let size = group.page_size as usize;
    let at = FILE_HEADER + (group.pages.len() - 1) * (FRAME_HEADER + size) + FRAME_HEADER;
    group.pages.iter().map(|(page, _)| page).is_sorted() && wal[at..at + size] == group.pages.last().unwrap().1
}

/// A leader whose next group, `SET`, makes a commit frame with the page that lies in its slot already.
fn toggled() -> Leader {
    let mut leader = Leader::new();
    leader.sql("CREATE TABLE t(v)");
    leader.sql("INSERT INTO t VALUES (0)");
    leader.engine.checkpoint().unwrap();
    leader.sql(SET);
    leader.sql("UPDATE t SET v = 0");
    leader.engine.checkpoint().unwrap();
    leader
}

const SET: &str = "UPDATE t SET v = 1";

#[test]
fn a_group_that_waits_or_was_refused_is_not_found_after_a_kill() {
    let mut leader = toggled();
    let (path, slot) = (leader.path(), leader.slot());
    let refused = ErrorCode::UnknownOutcome.error("fenced", "");
    for _ in 0..2 {
        let mut at_commit = None;
        let result = leader.writer.run_group(slot, &[tx(&[SET])], &mut |record| {
            let Payload::Pages(pages) = record.payload else { panic!("pages") };
            at_commit = Some((slot_holds_the_page(&path, &pages), after_a_kill(&path)));
            Err(CommitError(refused.clone()))
        });
        assert!(result.unwrap().results[0].is_err());
        assert_eq!(at_commit, Some((true, 0)));
        assert_eq!(after_a_kill(&path), 0);
        assert_eq!(integer(&query(&leader.engine, "SELECT v FROM t")), 0);
    }
    leader.sql(SET);
    assert_eq!(after_a_kill(&path), 1);
}

#[test]
fn spilled_pages_do_not_make_the_commit_frame_valid_early() {
    let mut leader = Leader::with(|options| options.writer_cache_bytes = 64 << 10);
    leader.sql("CREATE TABLE big(id INTEGER PRIMARY KEY, data)");
    leader.sql("CREATE TABLE t(v)");
    leader.sql("INSERT INTO t VALUES (0)");
    let mut follower = leader.seed();
    // Spills, writes spilled pages over in place, and grows `-wal` with its commit frame.
    let group = tx(&[
        "WITH n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000)
         INSERT INTO big SELECT i, randomblob(900) FROM n",
        "UPDATE big SET data = randomblob(900)",
        SET,
    ]);
    let (path, slot) = (leader.path(), leader.slot());
    let refused = ErrorCode::UnknownOutcome.error("fenced", "");
    let mut at_commit = None;
    let result = leader.writer.run_group(slot, std::slice::from_ref(&group), &mut |_| {
        at_commit = Some(after_a_kill(&path));
        Err(CommitError(refused.clone()))
    });
    assert!(result.unwrap().results[0].is_err());
    assert_eq!((at_commit, after_a_kill(&path)), (Some(0), 0));
    leader.run(group).unwrap();
    assert_eq!(after_a_kill(&path), 1);
    follower.applier.apply(&leader.take()).unwrap();
    assert_equal(&leader, &follower);
}

#[test]
#[allow(clippy::disallowed_methods, reason = "the longest that a thread is waited for")]
fn the_file_grows_ahead_of_its_frames_and_the_zeros_are_no_frames() {
    let mut leader = Leader::new();
    leader.sql("CREATE TABLE t(v)");
    leader.sql("INSERT INTO t VALUES (0)");
    leader.sql("CREATE TABLE filling(data)");
    let page = 4096 + FRAME_HEADER as u64;
    let ahead = |leader: &Leader| {
        let length = std::fs::metadata(format!("{}-wal", leader.path().display())).unwrap().len();
        length.saturating_sub(FILE_HEADER as u64 + leader.engine.stats().wal_frames * page)
    };
    // Some megabytes: it is called for, and the next checkpoint is far.
    for _ in 0..300 {
        leader.sql("INSERT INTO filling VALUES (randomblob(9000))");
    }
    let begun = std::time::Instant::now();
    while ahead(&leader) < 1 << 20 {
        assert!(begun.elapsed().as_secs() < 60, "only {} bytes ahead", ahead(&leader));
        std::thread::yield_now();
    }
    assert_eq!(leader.engine.stats().checkpoints, 0);
    leader.sql(SET);
    assert_eq!(after_a_kill(&leader.path()), 1);
    let Leader { dir, engine, writer, .. } = leader;
    let (content, position) = (engine.stats().content, engine.position().unwrap());
    drop((writer, engine));
    let engine = Engine::open(options(dir.path())).unwrap();
    assert_eq!((engine.scan_checksum().unwrap(), engine.position().unwrap()), (content, position));
}
