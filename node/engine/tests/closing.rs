//! What a role opened is closed with it. A test binary of its own: it looks at all files that the process has open.

mod common;

use common::*;
use rdb_engine::*;
use rdb_protocol::settings::LogFormat;

fn open_below(dir: &std::path::Path) -> Vec<std::path::PathBuf> {
    let open = std::fs::read_dir("/proc/self/fd").unwrap();
    let targets = open.filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok());
    targets.filter(|target| target.starts_with(dir)).collect()
}

/// Statements that outlive their connection keep it open, without an error.
#[test]
fn nothing_stays_open_of_a_leader_and_a_follower_in_any_format() {
    for format in [LogFormat::Page, LogFormat::Statement, LogFormat::Mixed, LogFormat::Logical] {
        let mut leader = Leader::new();
        leader.sql("CREATE TABLE t(id INTEGER PRIMARY KEY, v)");
        let mut follower = leader.seed();
        leader.writer.record_as(Recording::new(format)).unwrap();
        for sql in ["INSERT INTO t(v) VALUES (1), (2)", "UPDATE t SET v = 3 WHERE id = 1", "DELETE FROM t WHERE id = 2"]
        {
            leader.sql(sql);
        }
        assert!(leader.code("ATTACH 'other' AS other") == rdb_protocol::api::ErrorCode::Forbidden);
        follower.applier.apply(&leader.take()).unwrap();
        assert_eq!(integer(&follower.query("SELECT v FROM t")), 3);
        let Leader { dir, engine, writer, .. } = leader;
        assert!(!open_below(dir.path()).is_empty());
        drop((writer, engine));
        assert_eq!(open_below(dir.path()), Vec::<std::path::PathBuf>::new(), "leader, {format:?}");
        let dir = follower.into_dir();
        assert_eq!(open_below(dir.path()), Vec::<std::path::PathBuf>::new(), "follower, {format:?}");
    }
}
