//! Base copies are page-exact while the leader writes, and damaged ones are refused.

mod common;

use common::*;
use rdb_engine::*;
use tempfile::TempDir;

fn write(leader: &mut Leader, rows: usize) {
    for _ in 0..rows {
        leader.sql("INSERT INTO t VALUES (randomblob(1500))");
    }
}

#[test]
fn a_copy_taken_while_writing_equals_its_position() {
    let mut leader = Leader::with(|options| options.checkpoint_bytes = 256 << 10);
    leader.sql("CREATE TABLE t(v)");
    write(&mut leader, 300);
    leader.take();
    let mut session = leader.engine.seed_session().unwrap();
    let info = session.info();
    assert_eq!((info.position(), info.content.0), (leader.writer.position(), leader.engine.stats().content));
    let dir = TempDir::new().unwrap();
    let mut copy = SeedWriter::create(&dir.path().join("seed"), info).unwrap();
    while copy.next_page() <= info.page_count {
        // The writer goes on between any two parts, and the same part may be read twice.
        write(&mut leader, 5);
        leader.sql("CREATE TABLE IF NOT EXISTS new(a, b)");
        let first = copy.next_page();
        let pages = session.read_pages(first, 20).unwrap();
        assert_eq!(session.read_pages(first, 20).unwrap(), pages);
        copy.write(first, &pages).unwrap();
    }
    drop(session);
    // What was there before goes away with its -wal.
    let path = dir.path().join("db");
    drop(Engine::create(options(dir.path())).unwrap());
    std::fs::write(dir.path().join("db-wal"), b"stale").unwrap();
    copy.install(&path).unwrap();
    let mut follower = Follower::open(dir);
    assert_eq!(follower.engine.scan_checksum().unwrap(), info.content.0);
    assert_eq!(follower.engine.position().unwrap(), info.position());
    follower.applier.apply(&leader.take()).unwrap();
    assert_equal(&leader, &follower);
}

#[test]
fn a_copy_taken_in_the_middle_of_a_commit_has_the_state_before() {
    let mut leader = Leader::new();
    leader.sql("CREATE TABLE t(v)");
    let before = (leader.writer.position(), leader.engine.stats().content);
    let slot = leader.slot();
    let result = leader.writer.run_group(slot, &[tx(&["INSERT INTO t VALUES (1)"])], &mut |_| {
        let info = leader.engine.seed_session().unwrap().info();
        assert_eq!((info.position(), info.content.0), before);
        Ok(())
    });
    assert!(result.unwrap().record.is_some());
    let info = leader.engine.seed_session().unwrap().info();
    assert_eq!((info.position(), info.content.0), (leader.writer.position(), leader.engine.stats().content));
}

#[test]
fn a_session_without_a_page_table_reads_its_checksum() {
    let mut leader = Leader::new();
    leader.sql("CREATE TABLE t(v)");
    write(&mut leader, 20);
    let content = leader.engine.stats().content;
    let Leader { dir, engine, writer, .. } = leader;
    drop((writer, engine));
    let engine = Engine::open(options(dir.path())).unwrap();
    assert_eq!(engine.seed_session().unwrap().info().content.0, content);
}

#[test]
fn a_damaged_or_partial_copy_is_not_installed() {
    let mut leader = Leader::new();
    leader.sql("CREATE TABLE t(v)");
    write(&mut leader, 20);
    let mut session = leader.engine.seed_session().unwrap();
    let info = session.info();
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("db");
    let size = info.page_size as usize;
    let mut pages = session.read_pages(1, info.page_count).unwrap().to_vec();
    let start = || SeedWriter::create(&dir.path().join("seed"), info).unwrap();

    let mut copy = start();
    copy.write(1, &pages[..3 * size]).unwrap();
    assert!(matches!(copy.write(3, &pages[..size]), Err(SeedError::Malformed(_))));
    assert!(matches!(copy.write(4, &pages[..size - 1]), Err(SeedError::Malformed(_))));
    assert!(matches!(copy.write(4, &pages), Err(SeedError::Malformed(_))));
    assert!(matches!(copy.install(&path), Err(SeedError::Malformed(_))));

    pages[5 * size + 100] ^= 1;
    let mut copy = start();
    copy.write(1, &pages).unwrap();
    assert!(matches!(copy.install(&path), Err(SeedError::Checksum { .. })));
    assert!(!path.exists());
    assert!(SeedWriter::create(dir.path(), SeedInfo { page_size: 1000, ..info }).is_err());
}

#[test]
fn seed_information_survives_json() {
    let leader = Leader::new();
    let info = SeedInfo { content: rdb_protocol::Chain(u64::MAX), ..leader.engine.seed_session().unwrap().info() };
    let json = serde_json::to_string(&info).unwrap();
    assert_eq!(serde_json::from_str::<SeedInfo>(&json).unwrap(), info);
}
