//! Corners of SQLite that a log could miss or get wrong, each under every way to log, and looked at again after a restart.
//!
//! A line is a transaction, its statements parted by ` -> `. What begins with `?` may be refused, if it is carried otherwise.

use super::*;

fn carried(setup: &str, work: &str) {
    for format in [LogFormat::Logical, LogFormat::Statement, LogFormat::Mixed] {
        carry(&format!("{format:?}"), Recording::new(format), false, setup, work);
    }
    for format in [LogFormat::Logical, LogFormat::Page, LogFormat::Statement] {
        carry(&format!("{format:?} to other pages"), Recording::new(format).for_any_layout(true), true, setup, work);
    }
}

/// The setup goes as pages, unless the follower has other ones.
fn carry(way: &str, recording: Recording, other_pages: bool, setup: &str, work: &str) {
    let mut leader = Leader::new();
    let mut follower = leader.seed();
    if other_pages {
        let dir = folder();
        drop(Engine::create(EngineOptions { page_size: 8192, ..options(dir.path()) }).unwrap());
        follower = Follower::open(dir);
        leader.writer.record_as(recording).unwrap();
    }
    let perform = |leader: &mut Leader, follower: &mut Follower, line: &str| {
        let may_fail = line.starts_with('?');
        let statements: Vec<&str> = line.trim_start_matches('?').split(" -> ").collect();
        let done = leader.run(tx(&statements));
        assert!(may_fail || done.is_ok(), "{way}: {line}: {done:?}");
        follower.applier.apply(&leader.take()).unwrap_or_else(|error| panic!("{way}: {line}: {error}"));
    };
    for line in setup.lines().map(str::trim).filter(|line| !line.is_empty()) {
        perform(&mut leader, &mut follower, line);
    }
    leader.writer.record_as(recording).unwrap();
    for line in work.lines().map(str::trim).filter(|line| !line.is_empty()) {
        perform(&mut leader, &mut follower, line);
    }
    assert_alike(way, &leader, &follower, work);
    // A node that starts sums up what it finds, not what it was told.
    let mut follower = Follower::open(follower.into_dir());
    perform(&mut leader, &mut follower, "CREATE TABLE the_last(x)");
    assert_alike(way, &leader, &follower, work);
}

fn assert_alike(way: &str, leader: &Leader, follower: &Follower, work: &str) {
    let mut lines = Vec::new();
    let found = diff(&leader.path(), &follower.path(), &mut lines).unwrap();
    assert_eq!(found, DiffSummary::default(), "{way}: {work}: {}", String::from_utf8_lossy(&lines));
    for sql in ["SELECT rowid, * FROM sqlite_sequence", "PRAGMA user_version", "PRAGMA application_id"] {
        let ask = |engine: &Engine| {
            let mut reader = engine.reader().unwrap();
            reader.query(&Statement::new(sql), &Limits::default(), None, None).map(|answer| answer.result.values).ok()
        };
        assert_eq!(ask(&leader.engine), ask(&follower.engine), "{way}: {sql}");
    }
    assert_eq!(follower.query("PRAGMA integrity_check").values, [Value::from("ok")], "{way}: {work}");
}

#[test]
fn spatial_indexes_with_columns_of_their_own() {
    carried(
        "CREATE VIRTUAL TABLE r USING rtree(id, a, b, +t, +u)",
        "INSERT INTO r VALUES (1, 2, 3, 'x', 1.5), (2, 3, 4, NULL, x'00')
         UPDATE r SET t = 'y', a = 1 WHERE id = 1 -> UPDATE r SET id = 9 WHERE id = 2
         DELETE FROM r WHERE id = 1
         ALTER TABLE r RENAME TO rr -> INSERT OR REPLACE INTO rr VALUES (9, 1, 1, 1, 1)",
    );
}

#[test]
fn rowids_by_all_their_names() {
    carried(
        "CREATE TABLE t(id INTEGER PRIMARY KEY DESC, v) -> CREATE TABLE u(id INTEGER, v, PRIMARY KEY (id DESC)) -> CREATE TABLE w(id INTEGER UNIQUE PRIMARY KEY DESC)
         CREATE TABLE rowid(rowid INTEGER PRIMARY KEY, oid, _rowid_) -> CREATE TABLE x(oid, rowid)",
        "INSERT INTO t VALUES (5, 1), (NULL, 2) -> INSERT INTO u VALUES (5, 1), (NULL, 2) -> INSERT INTO w VALUES (3), (2)
         INSERT INTO rowid VALUES (3, 1, 1), (NULL, 2, 2) -> INSERT INTO x VALUES (7, 8)
         UPDATE t SET id = 9 WHERE v = 2 -> UPDATE u SET id = id + 1 WHERE v = 2 -> UPDATE w SET id = id + 10
         UPDATE rowid SET rowid = 40 WHERE rowid = 3 -> UPDATE x SET oid = 3, _rowid_ = 77
         DELETE FROM t -> DELETE FROM u -> DELETE FROM w -> DELETE FROM rowid",
    );
}

#[test]
fn counters_that_clients_write() {
    carried(
        "CREATE TABLE a(id INTEGER PRIMARY KEY AUTOINCREMENT)",
        "INSERT INTO a DEFAULT VALUES
         INSERT INTO sqlite_sequence VALUES (CAST(x'ff61' AS TEXT), 1), (NULL, x'00'), ('a', 2.5)
         UPDATE sqlite_sequence SET seq = CAST(x'fe' AS TEXT) WHERE seq = 1
         DELETE FROM sqlite_sequence WHERE name IS NULL
         DROP TABLE a -> CREATE TABLE a(id INTEGER PRIMARY KEY AUTOINCREMENT) -> INSERT INTO a VALUES (40)
         ALTER TABLE a RENAME TO aa -> INSERT INTO aa DEFAULT VALUES",
    );
}

#[test]
fn values_at_the_limits() {
    carried(
        "CREATE TABLE t(a, i INT, r REAL, t TEXT, n NUMERIC, b BLOB)",
        "INSERT INTO t VALUES (-0.0, -0.0, -0.0, -0.0, -0.0, -0.0), (9e999, 9e999, -9e999, 9e999, 9e999, 9e999 - 9e999)
         INSERT INTO t(a, i, r, t, n) SELECT x, x, x, x, x FROM (SELECT -9223372036854775808 AS x UNION ALL SELECT 9223372036854775807)
         INSERT INTO t VALUES (1.0, 1.0, 1, 1.0, 1.0, 1.0), (9007199254740993, 1e15, 9007199254740993, 2, 9007199254740993.0, 140737488355328)
         INSERT INTO t VALUES ('', x'', zeroblob(0), zeroblob(3), CAST(x'00ff41' AS TEXT), CAST(x'' AS TEXT))
         INSERT INTO t VALUES ('12', '12', '12', 12, '12', '12'), (1, '12a', '1e3', 1e300, '1e400', '0x10')
         UPDATE t SET a = 1 -> UPDATE t SET a = 1.0
         UPDATE t SET r = 5, b = zeroblob(5) -> UPDATE t SET a = -0.0, r = -0.0",
    );
}

#[test]
fn conflicts_and_triggers() {
    carried(
        "CREATE TABLE t(id INTEGER PRIMARY KEY, u UNIQUE, w UNIQUE ON CONFLICT REPLACE, n NOT NULL ON CONFLICT REPLACE DEFAULT 9)
         CREATE TABLE l(x) -> CREATE VIEW v AS SELECT id, n FROM t
         CREATE TRIGGER ti AFTER INSERT ON t BEGIN INSERT INTO l VALUES (NEW.id); SELECT RAISE(IGNORE) WHERE NEW.id = 13; UPDATE t SET n = n + 1 WHERE id = NEW.id; END
         CREATE TRIGGER td BEFORE DELETE ON t BEGIN DELETE FROM t WHERE id = OLD.id + 1; UPDATE t SET n = 0 WHERE id = OLD.id; END
         CREATE TRIGGER tu BEFORE UPDATE ON t WHEN NEW.id > 100 BEGIN DELETE FROM t WHERE id = OLD.id; END
         CREATE TRIGGER vu INSTEAD OF UPDATE ON v BEGIN UPDATE t SET n = NEW.n * 2 WHERE id = OLD.id; END",
        "INSERT INTO t VALUES (1, 1, 1, 1), (2, 2, 2, 2), (3, 3, 3, NULL), (4, 4, 4, 4), (13, 13, 13, 13)
         INSERT OR REPLACE INTO t VALUES (1, 2, 3, NULL)
         UPDATE OR REPLACE t SET id = 4, u = 13 WHERE id = 1
         UPDATE OR IGNORE t SET u = 5
         ?INSERT OR FAIL INTO t VALUES (30, 30, 30, 30), (31, 30, 31, 31)
         INSERT INTO t VALUES (20, 20, 20, 20), (21, 21, 21, 21)
         DELETE FROM t WHERE id = 20
         INSERT INTO t VALUES (50, 50, 50, 50) -> UPDATE t SET id = 150 WHERE id = 50
         UPDATE t SET n = 7 FROM (SELECT 4 AS q) WHERE id = q RETURNING *
         UPDATE v SET n = n + 1
         WITH z AS (SELECT 60 AS i) INSERT INTO t SELECT i, i, i, i FROM z WHERE 1 ON CONFLICT(u) DO UPDATE SET n = 3",
    );
}

#[test]
fn the_schema_changes_between_rows() {
    carried(
        "CREATE TABLE t(id INTEGER PRIMARY KEY, a, b) -> INSERT INTO t VALUES (1, 1, 1), (2, 2, 2)
         CREATE TABLE a(x) -> INSERT INTO a VALUES (1) -> CREATE TABLE b(x) -> INSERT INTO b VALUES (2)",
        "UPDATE t SET a = 5 -> ALTER TABLE t ADD COLUMN c DEFAULT 3 -> UPDATE t SET c = 4 WHERE id = 1 -> ALTER TABLE t DROP COLUMN b -> UPDATE t SET a = 6
         ALTER TABLE t RENAME COLUMN a TO aa -> INSERT INTO t(aa) VALUES (1)
         ALTER TABLE t RENAME TO tt -> INSERT INTO tt(aa) VALUES (2) -> CREATE TABLE t(x) -> INSERT INTO t VALUES (1)
         ALTER TABLE a RENAME TO z -> ALTER TABLE b RENAME TO a -> ALTER TABLE z RENAME TO b -> INSERT INTO a VALUES (3) -> INSERT INTO b VALUES (4)
         DROP TABLE a -> CREATE TABLE a(y, z) -> INSERT INTO a VALUES (1, 2) -> DROP TABLE a -> CREATE TABLE a(y, q) -> INSERT INTO a VALUES (1, 3)
         ?INSERT INTO a VALUES (9, 9) -> CREATE UNIQUE INDEX bad ON tt(id / 100)
         INSERT INTO a VALUES (9, 8)
         ALTER TABLE t ADD COLUMN ck CHECK (ck IS NULL OR ck > 1) -> INSERT INTO t(x, ck) VALUES (1, 2)
         ALTER TABLE t ADD COLUMN z AS (x || 'x') -> UPDATE t SET x = 'q' -> PRAGMA user_version = 5 -> PRAGMA application_id = 9",
    );
}

#[test]
fn generated_columns_between_stored_ones() {
    carried(
        "CREATE TABLE t(a, v AS (a + 1), b, s AS (a * 2) STORED, c DEFAULT 3, UNIQUE (v), UNIQUE(s))
         CREATE TABLE w(a, v AS (a + 1), b, s AS (a * 2) STORED, c, PRIMARY KEY (c, a)) WITHOUT ROWID",
        "INSERT INTO t(a, b) VALUES (1, 2), (2, 3) -> INSERT INTO w(a, b, c) VALUES (1, 2, 3), (4, 5, 6)
         UPDATE t SET a = a + 10, c = 9 -> UPDATE w SET a = a + 10, b = 1
         INSERT OR REPLACE INTO t(a, b) VALUES (11, 5)
         DELETE FROM w WHERE v > 12 -> DELETE FROM t WHERE v = 12",
    );
}

#[test]
fn what_tells_of_a_connection_is_not_kept_under_a_key() {
    for pragma in ["PRAGMA database_list", "PRAGMA data_version", "SELECT name FROM pragma_table_list"] {
        let mut run = Run::new(LogFormat::Mixed, 2);
        run.follow();
        let key = Some(RequestKey { tag: ClientTag { client: "c".to_owned(), sequence: 1 }, request_hash: 1 });
        run.leader.run(Transaction { key, ..tx(&[pragma, "INSERT INTO plain(a) VALUES (1)"]) }).unwrap();
        run.follow();
        assert_equal(&run.leader, &run.follower);
    }
}
