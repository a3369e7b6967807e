//! What clients may not do, each with its code; and what looks similar and is allowed.

mod common;

use common::*;
use rdb_engine::*;
use rdb_protocol::api::ErrorCode::{self, Forbidden, ReadOnly, SqlError};

const FORBIDDEN: &[&str] = &[
    "SELECT * FROM _rdb_position",
    "SELECT count(*) FROM _RDB_clients",
    "SELECT (SELECT idx FROM _rdb_position)",
    "WITH x AS (SELECT * FROM main._rdb_position) SELECT 1 FROM x",
    "UPDATE _rdb_position SET idx = 7",
    // The very text of an internal statement, which must not be found in a cache.
    "UPDATE _rdb_position SET epoch = ?1, idx = ?2, previous_chain = ?3 WHERE id = 1",
    "INSERT INTO _rdb_clients(client) VALUES (1)",
    "DELETE FROM _rdb_position",
    "DROP TABLE _rdb_position",
    "ALTER TABLE _rdb_position ADD COLUMN x",
    "ALTER TABLE t RENAME TO _rdb_x",
    "ALTER TABLE t RENAME TO \"_RDB_x\"",
    "/* a */ alter TABLE t RENAME TO [_rdb_x]",
    "CREATE TABLE _rdb_x(a)",
    "CREATE TABLE \"_Rdb_x\" AS SELECT 1",
    "CREATE VIEW _rdb_v AS SELECT 1",
    "CREATE INDEX _rdb_i ON t(v)",
    "CREATE INDEX i ON _rdb_position(idx)",
    "CREATE TRIGGER tr AFTER UPDATE ON _rdb_position BEGIN SELECT 1; END",
    "CREATE VIRTUAL TABLE _rdb_f USING fts5(x)",
    "INSERT INTO t SELECT data FROM sqlite_dbpage",
    "SELECT count(*) FROM sqlite_dbpage",
    "UPDATE sqlite_dbpage SET data = zeroblob(4096) WHERE pgno = 2",
    "CREATE VIRTUAL TABLE pages USING sqlite_dbpage",
    "CREATE VIRTUAL TABLE stat USING dbstat",
    "SELECT * FROM hidden",
    "ATTACH 'other' AS other",
    "ATTACH ':memory:' AS other",
    "DETACH main",
    "VACUUM main",
    "VACUUM INTO 'file'",
    "/* a */ vacuum main INTO 'file' --",
    "SELECT load_extension('x')",
    "BEGIN",
    "BEGIN IMMEDIATE",
    "COMMIT",
    "END",
    "ROLLBACK",
    "-- a comment\n ROLLBACK",
    "SAVEPOINT s",
    "SAVEPOINT fts3",
    "RELEASE s",
    "ROLLBACK TO _rdb_transaction",
    "CREATE TEMP TABLE x(a)",
    "CREATE TABLE temp.x(a)",
    "CREATE TEMP VIEW x AS SELECT 1",
    "CREATE TEMP TRIGGER x AFTER INSERT ON t BEGIN SELECT 1; END",
    "PRAGMA journal_mode = DELETE",
    "PRAGMA journal_mode = WAL",
    "PRAGMA locking_mode = EXCLUSIVE",
    "PRAGMA synchronous = OFF",
    "PRAGMA wal_checkpoint",
    "PRAGMA wal_checkpoint(TRUNCATE)",
    "PRAGMA wal_autocheckpoint = 10",
    "PRAGMA writable_schema = ON",
    "PRAGMA page_size = 512",
    "PRAGMA query_only = OFF",
    "PRAGMA foreign_keys = OFF",
    "PRAGMA recursive_triggers = ON",
    "PRAGMA ignore_check_constraints = ON",
    "PRAGMA schema_version = 1",
    "PRAGMA auto_vacuum = FULL",
    "PRAGMA temp_store_directory = '/'",
    "PRAGMA shrink_memory",
    "PRAGMA hard_heap_limit = 1",
    "PRAGMA table_info(_rdb_position)",
    "SELECT * FROM pragma_table_info('_rdb_position')",
];

const WRONG: &[&str] = &[
    "SELECT * FROM pragma_wal_checkpoint",
    "",
    " ; -- nothing",
    "SELECT",
    "SELECT 1; SELECT 2",
    "INSERT INTO t VALUES (1); DELETE FROM t",
    "SELECT * FROM nowhere",
    "SELECT nothing FROM t",
    "INSERT INTO t VALUES (1, 2, 3)",
    "UPDATE sqlite_schema SET sql = ''",
    "DELETE FROM sqlite_master",
    "INSERT INTO f_data VALUES (1, x'00')",
    "SELECT 1 \0",
];

const ALLOWED: &[&str] = &[
    "SELECT 1;",
    " ; SELECT 1 -- one\n ; /* still one */",
    "SELECT '_rdb_position', 1 AS _rdb_column",
    "CREATE TABLE rdb_x(_rdb_a)",
    "SELECT name FROM sqlite_schema",
    "EXPLAIN QUERY PLAN SELECT * FROM t",
    "EXPLAIN SELECT * FROM t",
    "PRAGMA table_info(t)",
    "PRAGMA table_xinfo('t')",
    "SELECT name FROM pragma_table_info('t')",
    "PRAGMA index_list(t)",
    "PRAGMA foreign_key_list(t)",
    "PRAGMA foreign_key_check",
    "PRAGMA integrity_check",
    "PRAGMA quick_check(1)",
    "PRAGMA user_version",
    "PRAGMA user_version = 3",
    "PRAGMA application_id = 4",
    "PRAGMA journal_mode",
    "PRAGMA page_count",
    "PRAGMA foreign_keys",
    "PRAGMA database_list",
    "PRAGMA compile_options",
    "PRAGMA optimize",
    "PRAGMA incremental_vacuum",
    "REINDEX",
    "VACUUM",
    " /* a */ vacuum ; -- b",
    "ANALYZE",
    "ANALYZE t",
    "INSERT INTO f(f) VALUES ('optimize')",
    "INSERT INTO f3(f3) VALUES ('optimize')",
    "SELECT json_extract('{\"a\": [1, 2]}', '$.a[1]'), '{}' ->> 'x'",
    "SELECT date('now'), random()",
    "INSERT INTO t VALUES (1) ON CONFLICT DO NOTHING",
    "WITH x AS (SELECT 1) INSERT INTO t SELECT * FROM x RETURNING *",
    "REPLACE INTO t VALUES (1)",
    "ALTER TABLE t RENAME COLUMN v TO w",
    "ALTER TABLE t RENAME TO t2",
];

fn leader() -> Leader {
    let mut leader = Leader::new();
    for sql in [
        "CREATE TABLE t(v)",
        "CREATE VIEW hidden AS SELECT * FROM _rdb_clients",
        "CREATE VIRTUAL TABLE f USING fts5(x)",
        "CREATE VIRTUAL TABLE f3 USING fts3(x)",
    ] {
        leader.sql(sql);
    }
    leader
}

#[test]
fn refused_statements_have_a_code_and_change_nothing() {
    let mut leader = leader();
    let content = leader.engine.stats().content;
    for (list, code) in [(FORBIDDEN, Forbidden), (WRONG, SqlError)] {
        for sql in list {
            // Twice: the second time something may be cached. And in a batch.
            for transaction in [tx(&[sql]), tx(&[sql]), tx(&["SELECT 1", sql])] {
                let failure = leader.run(transaction).expect_err(sql);
                assert_eq!(failure.code(), code, "{sql}: {failure}");
                assert!(!failure.api.message.is_empty() && !failure.api.hint.is_empty(), "{sql}");
            }
        }
    }
    assert_eq!(leader.engine.scan_checksum().unwrap(), content);
    leader.sql("INSERT INTO t VALUES ('still works')");
}

#[test]
fn harmless_statements_work() {
    let mut leader = leader();
    let mut follower = leader.seed();
    for sql in ALLOWED {
        leader.sql(sql);
    }
    follower.applier.apply(&leader.take()).unwrap();
    assert_equal(&leader, &follower);
}

#[test]
fn readers_refuse_the_same_and_writes_too() {
    let leader = leader();
    let mut reader = leader.engine.reader().unwrap();
    let mut code = |sql: &str| match reader.query(&Statement::new(sql), &Limits::default(), None, None) {
        Ok(_) => None,
        Err(QueryError::Sql(failure)) => Some(failure.code()),
        Err(other) => panic!("{sql}: {other}"),
    };
    for sql in FORBIDDEN.iter().chain(&["VACUUM"]) {
        assert_eq!(code(sql), Some(Forbidden), "{sql}");
    }
    for sql in [
        "INSERT INTO t VALUES (1)",
        "DELETE FROM t",
        "CREATE TABLE x(a)",
        "DROP TABLE t",
        "PRAGMA user_version = 5",
        "PRAGMA incremental_vacuum",
        "PRAGMA optimize",
        "PRAGMA defer_foreign_keys = ON",
        "INSERT INTO f VALUES ('x') RETURNING *",
        "ANALYZE",
        "REINDEX",
    ] {
        assert_eq!(code(sql), Some(ReadOnly), "{sql}");
    }
    for sql in ["SELECT * FROM t", "PRAGMA table_info(t)", "SELECT * FROM f WHERE f MATCH 'x'", "PRAGMA quick_check"] {
        assert_eq!(code(sql), None, "{sql}");
    }
}

#[test]
fn internal_names_do_not_come_in_by_schema_objects() {
    let mut leader = leader();
    leader.sql("CREATE TRIGGER spy AFTER INSERT ON t BEGIN DELETE FROM _rdb_clients; END");
    assert_eq!(leader.code("INSERT INTO t VALUES (1)"), Forbidden);
    leader.sql("DROP TRIGGER spy");
    leader.sql("INSERT INTO t VALUES (1)");
    leader.sql("CREATE VIRTUAL TABLE g USING fts5(client, content = '_rdb_clients')");
    assert_eq!(leader.code("SELECT * FROM g"), Forbidden);
    assert_eq!(leader.code("INSERT INTO g(g) VALUES ('rebuild')"), Forbidden);
    let names = "SELECT count(*) FROM sqlite_schema WHERE name LIKE '^_rdb^_%' ESCAPE '^'";
    assert_eq!(integer(&query(&leader.engine, names)), 3);
}

#[test]
fn failures_of_sqlite_keep_their_message_and_code() {
    let mut leader = leader();
    leader.sql("CREATE TABLE u(a UNIQUE NOT NULL CHECK (a > 0))");
    leader.sql("INSERT INTO u VALUES (1)");
    let failure = leader.try_sql("INSERT INTO u VALUES (1)").unwrap_err();
    assert_eq!((failure.code(), failure.sqlite_code), (ErrorCode::Constraint, Some(2067)));
    assert_eq!(failure.api.message, "UNIQUE constraint failed: u.a");
    assert_eq!(leader.code("INSERT INTO u VALUES (0)"), ErrorCode::Constraint);
    assert_eq!(leader.code("INSERT INTO u VALUES (NULL)"), ErrorCode::Constraint);
    assert_eq!(leader.code("SELECT abs(-9223372036854775808)"), SqlError);
}
