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
fn rows_that_are_copied_with_columns_they_lack() {
    carried(
        "CREATE TABLE a(id INTEGER PRIMARY KEY, x) -> INSERT INTO a(x) VALUES (1), (2)
         ALTER TABLE a ADD COLUMN d DEFAULT 7 -> ALTER TABLE a ADD COLUMN e TEXT NOT NULL DEFAULT 1.50
         ALTER TABLE a ADD COLUMN f REAL DEFAULT '3' -> ALTER TABLE a ADD COLUMN g INT DEFAULT ' 5 ' -> ALTER TABLE a ADD COLUMN h DEFAULT word
         ALTER TABLE a ADD COLUMN i DEFAULT NULL -> ALTER TABLE a ADD COLUMN j DEFAULT 'random(x)' -> ALTER TABLE a ADD COLUMN k DEFAULT (-5)
         ALTER TABLE a ADD COLUMN l DEFAULT 5.0 -> ALTER TABLE a ADD COLUMN m TEXT DEFAULT true -> ALTER TABLE a ADD COLUMN n DEFAULT \"q\"
         CREATE TABLE b(id INTEGER PRIMARY KEY, x, d DEFAULT 7, e TEXT NOT NULL DEFAULT 1.50, f REAL DEFAULT '3', g INT DEFAULT ' 5 ', h DEFAULT word, i DEFAULT NULL, j DEFAULT 'random(x)', k DEFAULT (-5), l DEFAULT 5.0, m TEXT DEFAULT true, n DEFAULT \"q\")
         CREATE TABLE k(id TEXT PRIMARY KEY, x) WITHOUT ROWID -> INSERT INTO k VALUES (1, 2), (2, 3) -> ALTER TABLE k ADD COLUMN d DEFAULT 'q'
         CREATE TABLE l(id TEXT PRIMARY KEY, x, d DEFAULT 'q') WITHOUT ROWID",
        "INSERT INTO b SELECT * FROM a
         INSERT INTO l SELECT * FROM k
         UPDATE b SET x = 5 -> UPDATE l SET id = id || 'x' -> UPDATE k SET id = id || 'y'
         DELETE FROM a WHERE id = 1",
    );
    carried(
        "CREATE TABLE a(x) -> INSERT INTO a VALUES (1), (NULL) -> ALTER TABLE a ADD COLUMN d DEFAULT 7 -> INSERT INTO a VALUES (3, NULL)
         CREATE TABLE b(x, d DEFAULT 7)",
        "INSERT INTO b SELECT * FROM a
         UPDATE b SET x = 5",
    );
}

#[test]
fn tables_that_a_query_fills() {
    carried(
        "CREATE TABLE a(x) -> CREATE TABLE auto(id INTEGER PRIMARY KEY AUTOINCREMENT) -> INSERT INTO auto VALUES (8)
         CREATE VIRTUAL TABLE f USING fts5(x)",
        "INSERT INTO a VALUES (random()) -> CREATE TABLE c AS SELECT random() AS r
         CREATE TABLE d AS SELECT random() AS r -> CREATE TABLE \"e \"\"f\" AS SELECT random() AS r, x'00' AS \"a b\", 'ä' FROM a
         CREATE TABLE last AS SELECT last_insert_rowid() AS r
         ?CREATE TABLE chg AS SELECT changes() AS r
         INSERT INTO f VALUES ('hello') -> CREATE TABLE g AS SELECT rowid AS r FROM f WHERE f MATCH 'hello'
         INSERT INTO f VALUES ('hello') -> CREATE TABLE h AS SELECT rowid AS r FROM f WHERE f MATCH 'hello'
         UPDATE sqlite_sequence SET seq = 90 -> CREATE TABLE seqs AS SELECT * FROM sqlite_sequence
         CREATE TABLE IF NOT EXISTS seqs AS SELECT 5
         CREATE TABLE IF NOT EXISTS fresh AS SELECT x FROM a -> INSERT INTO fresh VALUES (3) -> UPDATE fresh SET x = 1
         CREATE TABLE schema AS SELECT * FROM sqlite_schema
         CREATE TABLE stat AS SELECT * FROM dbstat
         EXPLAIN CREATE TABLE never AS SELECT 1",
    );
}

#[test]
fn new_tables_of_any_width_are_refused_or_carried() {
    let columns: Vec<String> = (0..2000).map(|n| format!("c{n}")).collect();
    let wide = format!("CREATE TABLE wide({})", columns.join(", "));
    let mut run = Run::new(LogFormat::Logical, 2);
    let refused = run.leader.try_sql(&wide).unwrap_err().api;
    assert!(refused.message.contains("too wide") && refused.hint.contains("logFormat"), "{refused:?}");
    let every = columns[1..].iter().map(|name| format!("{name} = 5")).collect::<Vec<_>>().join(", ");
    run.leader.sql(&format!("CREATE TABLE less({})", columns[1..].join(", ")));
    run.leader.sql("INSERT INTO less(c1, c1999) VALUES (1, 2)");
    run.leader.sql(&format!("UPDATE less SET rowid = 9, {every}"));
    run.follow();
    // One that is there already does not hinder others.
    let mut run = Run::new(LogFormat::Page, 2);
    run.leader.sql(&wide);
    run.follow();
    run.leader.writer.record_as(Recording::new(LogFormat::Logical)).unwrap();
    run.exact = false;
    run.leader.sql("INSERT INTO plain(a) VALUES (1)");
    assert_eq!(run.leader.code("INSERT INTO wide(c1) VALUES (1)"), ErrorCode::Forbidden);
    run.follow();
}

#[test]
fn full_text_in_the_batch_that_makes_it() {
    carried("", "CREATE VIRTUAL TABLE f USING fts5(x) -> INSERT INTO f VALUES ('a') -> CREATE TABLE z(x) -> INSERT INTO f VALUES ('b')
         INSERT INTO f VALUES ('c')
         CREATE VIRTUAL TABLE g USING fts4(x) -> INSERT INTO g VALUES ('a') -> CREATE TABLE y(x) -> INSERT INTO g VALUES ('b')
         CREATE VIRTUAL TABLE h USING fts5(x) -> INSERT INTO h VALUES ('a')");
}

#[test]
fn full_text_commands_and_settings() {
    carried(
        "CREATE VIRTUAL TABLE f USING fts5(x, content='') -> CREATE TABLE docs(id INTEGER PRIMARY KEY, x)
         CREATE VIRTUAL TABLE g USING fts5(x, content=docs, content_rowid=id) -> CREATE VIRTUAL TABLE h USING fts5(x, content='', contentless_delete=1)",
        "INSERT INTO f(rowid, x) VALUES (1, 'a b') -> INSERT INTO docs(x) VALUES ('p q'), ('q r')
         INSERT INTO g(g) VALUES ('rebuild')
         INSERT INTO h(rowid, x) VALUES (4, 'zz'), (5, 'yy') -> DELETE FROM h WHERE rowid = 4
         INSERT INTO f(f, rank) VALUES ('automerge', 2)
         INSERT INTO f(rowid, x) VALUES (2, 'b c') -> INSERT INTO f(f, rank) VALUES ('crisismerge', 3) -> INSERT INTO f(f, rank) VALUES ('pgsz', 64)
         INSERT INTO f(rowid, x) VALUES (3, 'c d') -> INSERT INTO f(f, rank) VALUES ('merge', -16)
         INSERT INTO g(g, rank) VALUES ('secure-delete', 1) -> INSERT INTO g(g, rank) VALUES ('rank', 'bm25(2.0)')
         INSERT INTO g(g, rowid, x) VALUES ('delete', 1, 'p q') -> INSERT INTO g(g) VALUES ('optimize')
         INSERT INTO f(f) VALUES ('delete-all')
         ALTER TABLE g RENAME TO gg -> INSERT INTO gg(gg) VALUES ('rebuild')
         CREATE VIRTUAL TABLE v USING fts5vocab(gg, 'row') -> CREATE TABLE w AS SELECT * FROM v
         DROP TABLE v -> DROP TABLE gg",
    );
}

#[test]
fn a_full_text_index_is_sound_after_its_settings_changed() {
    let mut run = Run::new(LogFormat::Logical, 2);
    run.leader.sql("INSERT INTO docs VALUES ('one', 'two')");
    run.leader.sql("INSERT INTO docs(docs, rank) VALUES ('automerge', 8)");
    run.follow();
    assert_eq!(integer(&run.follower.query("SELECT count(*) FROM docs('two')")), 1);
    run.compare();
}

/// Statements that a virtual table had compiled before rows were watched would empty its tables without a word.
#[test]
fn older_full_text_that_was_emptied_before() {
    carried(
        "CREATE VIRTUAL TABLE f USING fts4(x) -> INSERT INTO f VALUES ('a')
         DELETE FROM f WHERE rowid = 1
         INSERT INTO f(f) VALUES ('rebuild')
         INSERT INTO f VALUES ('b')",
        "INSERT INTO f(f) VALUES ('rebuild')
         DELETE FROM f WHERE rowid = 1
         INSERT INTO f VALUES ('c')
         INSERT INTO f(f) VALUES ('optimize')",
    );
}

#[test]
fn tables_that_full_text_makes_for_itself() {
    carried(
        "CREATE VIRTUAL TABLE f USING fts3(x) -> INSERT INTO f VALUES ('a') -> INSERT INTO f VALUES ('b')",
        "?INSERT INTO f(f) VALUES ('automerge=4')
         ?INSERT INTO f(f) VALUES ('merge=4,2')
         INSERT INTO f VALUES ('c')
         CREATE TABLE z(x)",
    );
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
fn a_parent_table_that_is_dropped() {
    let refill = "DROP TABLE p -> CREATE TABLE p(id INTEGER PRIMARY KEY, more) -> INSERT INTO p VALUES (1, 2)";
    let parent = "CREATE TABLE p(id INTEGER PRIMARY KEY) -> INSERT INTO p VALUES (1)";
    for (child, work) in [
        ("REFERENCES p", format!("PRAGMA defer_foreign_keys = ON -> {refill}")),
        ("REFERENCES p DEFERRABLE INITIALLY DEFERRED", refill.to_owned()),
        ("REFERENCES p ON DELETE CASCADE", "DROP TABLE p".to_owned()),
        ("REFERENCES p ON DELETE SET NULL", format!("INSERT INTO c VALUES (1) -> {refill}")),
    ] {
        carried(&format!("{parent}\nCREATE TABLE c(x {child}) -> INSERT INTO c VALUES (1)"), &work);
    }
}

#[test]
fn keys_that_compare_otherwise_than_their_columns() {
    carried(
        "CREATE TABLE t(k TEXT COLLATE NOCASE, v, PRIMARY KEY(k COLLATE BINARY)) WITHOUT ROWID -> INSERT INTO t VALUES ('a', 1), ('A', 2)
         CREATE TABLE u(k TEXT, v, PRIMARY KEY(k COLLATE NOCASE, k)) WITHOUT ROWID -> INSERT INTO u VALUES ('a', 1), ('A', 2)
         CREATE TABLE w(k TEXT COLLATE NOCASE, r REAL, v, PRIMARY KEY(k, r)) WITHOUT ROWID -> INSERT INTO w VALUES ('a', 1, 1), ('b', 2.5, 2)",
        "UPDATE t SET v = 5 WHERE k = 'a' COLLATE BINARY
         DELETE FROM t WHERE v = 5
         UPDATE u SET v = 5 WHERE k = 'a' -> UPDATE u SET k = 'b' WHERE k = 'a' -> DELETE FROM u WHERE v = 5
         UPDATE w SET k = upper(k)
         UPDATE OR REPLACE w SET k = 'c', r = 4
         INSERT OR REPLACE INTO w VALUES ('C', 4.0, 7)
         REPLACE INTO w VALUES ('x', -0.0, 7), ('x', 0, 8), ('y', 9e999, 1), ('y', -9e999, 2)
         DELETE FROM w WHERE r > 4 -> DELETE FROM w WHERE k = 'X'",
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

/// SQLite goes through tables in the order of a hash table, which tells of a connection's past.
#[test]
fn analyze_and_reindex_after_a_follower_restarted() {
    for format in [LogFormat::Statement, LogFormat::Mixed, LogFormat::Logical] {
        for case in 0..8 {
            let mut dice = Dice(case);
            let mut run = Run::new(format, 2);
            for step in 0..60 {
                let n = dice.below(40);
                let verb =
                    dice.of(&["CREATE TABLE tab#(x UNIQUE)", "DROP TABLE tab#", "INSERT INTO tab# VALUES (random())"]);
                let _ = run.leader.try_sql(&verb.replace('#', &n.to_string()));
                if step % 20 == 10 {
                    run.follow();
                    let other = run.leader.seed();
                    let follower = std::mem::replace(&mut run.follower, other);
                    run.follower = Follower::open(follower.into_dir());
                }
            }
            run.leader.sql("ANALYZE");
            run.leader.sql("REINDEX");
            run.leader.sql("DELETE FROM sqlite_stat1 WHERE rowid % 2");
            run.follow();
            run.compare();
        }
    }
}

#[test]
fn full_text_is_rebuilt_after_its_settings_changed_and_a_follower_restarted() {
    for sql in ["'rebuild'", "?1", "'delete-all'"] {
        let mut run = Run::new(LogFormat::Statement, 2);
        run.leader.sql("CREATE TABLE texts(x)");
        run.leader.sql("CREATE VIRTUAL TABLE f USING fts5(x, content=texts)");
        run.leader.sql("INSERT INTO f(f, rank) VALUES ('automerge', 2)");
        run.follow();
        let other = run.leader.seed();
        run.follower = Follower::open(std::mem::replace(&mut run.follower, other).into_dir());
        let args = if sql == "?1" { vec![Value::from("rebuild")] } else { Vec::new() };
        let sql = format!("INSERT INTO f(f) VALUES ({sql})");
        let statements = vec![Statement { sql, args: Args::Positional(args) }];
        run.leader.run(Transaction { statements, ..Transaction::default() }).unwrap();
        run.leader.sql("INSERT INTO f(rowid, x) VALUES (7, 'b')");
        run.follow();
        assert_equal(&run.leader, &run.follower);
    }
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

/// Rows that are written again and again take few pages, but many bytes in a log of rows.
#[test]
fn a_log_of_rows_is_no_larger_than_a_record_may_be() {
    const FITS: usize = 30;
    let mut leader = Leader::with(|options| options.max_record_bytes = 4 << 20);
    let mut follower = leader.seed();
    leader.writer.record_as(Recording::new(LogFormat::Logical)).unwrap();
    leader.sql("CREATE TABLE t(x)");
    leader.sql("INSERT INTO t VALUES (1)");
    let many = ["UPDATE t SET x = zeroblob(100000) || random()"; 3 * FITS];
    assert_eq!(leader.run(tx(&many)).unwrap_err().code(), ErrorCode::RequestTooLarge);
    let of_two = leader.group(&[tx(&many[..FITS]), tx(&many[..FITS])]);
    assert!(of_two[0].is_ok());
    assert_eq!(of_two[1].as_ref().unwrap_err().code(), ErrorCode::Overloaded, "it is sent again, and fits alone");
    let filled = "CREATE TABLE c AS WITH RECURSIVE c(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM c WHERE i < 500)
                  SELECT zeroblob(9000) AS b FROM c";
    assert_eq!(leader.code(filled), ErrorCode::RequestTooLarge);
    leader.sql("UPDATE t SET x = 5");
    follower.applier.apply(&leader.take()).unwrap();
    assert_alike("Logical", &leader, &follower, "");
}
