//! A second random workload, of what depends on a connection's past: full-text and spatial indexes with their commands and
//! settings, copies of whole tables, dropped parents, ANALYZE. Groups have several transactions, some fail, followers take them
//! late and restart in between.

use super::*;

const TABLES: &[&str] = &[
    "CREATE TABLE a(k TEXT COLLATE NOCASE, r REAL, v, PRIMARY KEY(k, r)) WITHOUT ROWID",
    "CREATE TABLE b(id INTEGER PRIMARY KEY, x, y)",
    "CREATE TABLE bb(id INTEGER PRIMARY KEY, x, y)",
    "CREATE TABLE p(id INTEGER PRIMARY KEY, v)",
    "CREATE TABLE c(id INTEGER PRIMARY KEY, p REFERENCES p ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED, q REFERENCES p ON DELETE SET NULL)",
    "CREATE VIRTUAL TABLE f4 USING fts4(x)",
    "CREATE VIRTUAL TABLE f5 USING fts5(x, y)",
    "CREATE VIRTUAL TABLE fc USING fts5(x, content=b, content_rowid=id)",
    "CREATE VIRTUAL TABLE r USING rtree(id, a, b, +t)",
    "CREATE TRIGGER bi AFTER INSERT ON b BEGIN INSERT INTO fc(rowid, x) VALUES (NEW.id, NEW.x); END",
    "CREATE TRIGGER bd AFTER DELETE ON b BEGIN INSERT INTO fc(fc, rowid, x) VALUES ('delete', OLD.id, OLD.x); END",
    "CREATE TABLE x1(x, y)",
    "CREATE TABLE x2(x, y)",
    "CREATE TRIGGER xt AFTER DELETE ON auto BEGIN INSERT INTO x2 SELECT * FROM x1; END",
];

fn one(d: &mut Dice) -> String {
    let (n, m) = (d.below(12), d.below(5));
    let w = d.of(&["a", "A", "b", "B", "hello world", "one two three", "zz"]);
    match d.below(44) {
        0 => format!("INSERT OR REPLACE INTO a VALUES ('{w}', {n}, random())"),
        1 => format!("UPDATE OR IGNORE a SET k = upper(k) WHERE r = {n}"),
        2 => format!("UPDATE OR REPLACE a SET r = {n}.5, k = '{w}' WHERE r > {n}"),
        3 => format!("DELETE FROM a WHERE k = '{w}'"),
        4 => format!("INSERT INTO b(x) VALUES ('{w}')"),
        5 => format!("DELETE FROM b WHERE id % 5 = {m}"),
        6 => format!("INSERT OR IGNORE INTO p VALUES ({n}, 1)"),
        7 => format!("INSERT INTO c(p, q) VALUES ({n}, {n})"),
        8 => format!("DELETE FROM p WHERE id = {n}"),
        9 => "DROP TABLE p".into(),
        10 => "CREATE TABLE p(id INTEGER PRIMARY KEY, v, w DEFAULT 5)".into(),
        11 => format!("INSERT INTO f4 VALUES ('{w}')"),
        12 => "DELETE FROM f4".into(),
        13 => format!("DELETE FROM f4 WHERE rowid = {n}"),
        14 => format!(
            "INSERT INTO f4(f4) VALUES ('{}')",
            d.of(&["rebuild", "optimize", "merge=2,2", "automerge=2", "integrity-check"])
        ),
        15 => format!("INSERT INTO f5 VALUES ('{w}', '{n}')"),
        16 => format!(
            "INSERT INTO f5(f5, rank) VALUES ('{}', {})",
            d.of(&["automerge", "pgsz", "crisismerge", "secure-delete", "usermerge"]),
            2 + n * 8
        ),
        17 => format!("INSERT INTO f5(f5) VALUES ('{}')", d.of(&["rebuild", "optimize", "integrity-check", "flush"])),
        18 => format!("INSERT INTO f5(f5, rank) VALUES ('merge', {})", d.of(&["-8", "16"])),
        19 => format!("DELETE FROM f5 WHERE f5 MATCH 'hello' AND rowid > {n}"),
        20 => format!("UPDATE f5 SET x = '{w}' WHERE rowid = {n}"),
        21 => "INSERT INTO fc(fc) VALUES ('rebuild')".into(),
        22 => format!("INSERT OR REPLACE INTO r VALUES ({n}, {m}, {m} + 2, '{w}')"),
        23 => format!("UPDATE r SET t = '{w}', id = id + 20 WHERE id = {n}"),
        24 => "ANALYZE".into(),
        25 => "REINDEX".into(),
        26 => format!("CREATE TABLE ct{m} AS SELECT *, random() AS z FROM b"),
        27 => format!("DROP TABLE ct{m}"),
        28 => format!("ALTER TABLE {} ADD COLUMN {} DEFAULT {n}", d.of(&["x1", "x2"]), d.of(&["m1", "m2"])),
        29 => format!("INSERT INTO {} SELECT * FROM {}", d.of(&["x1", "bb", "x2"]), d.of(&["x2", "b", "x1"])),
        30 => format!("INSERT INTO x1(x) VALUES ({n})"),
        31 => "DELETE FROM x1".into(),
        32 => "DELETE FROM bb".into(),
        33 => "INSERT INTO auto(v) VALUES (1), (2)".into(),
        34 => "DELETE FROM auto WHERE id % 3 = 0".into(),
        35 => format!(
            "ALTER TABLE {} RENAME TO {}",
            d.of(&["x1", "x2", "x3", "f5", "g5"]),
            d.of(&["x1", "x2", "x3", "f5", "g5"])
        ),
        36 => "PRAGMA defer_foreign_keys = ON".into(),
        37 => format!("UPDATE sqlite_sequence SET seq = seq + {n}"),
        38 => format!("CREATE INDEX IF NOT EXISTS ix{m} ON b(x, {m})"),
        39 => format!("DELETE FROM sqlite_stat1 WHERE rowid % 3 = {m}"),
        40 => format!("CREATE TABLE IF NOT EXISTS tab{n}(x UNIQUE)"),
        41 => format!("DROP TABLE IF EXISTS tab{n}"),
        42 => format!("INSERT INTO tab{n} VALUES (abs(random()) % 50)"),
        _ => "INSERT INTO b(id, x) VALUES (1000, 1), (1000, 2)".into(),
    }
}

fn run_with_restarts(recording: Recording, other_pages: bool) {
    for case in 0..cases().div_ceil(8) {
        let mut dice = Dice(case + 77);
        let mut run = if other_pages { Run::other_page_size(recording) } else { Run::new(LogFormat::Page, 1) };
        TABLES.iter().for_each(|sql| drop(run.leader.sql(sql)));
        run.exact = false;
        for step in 0..60 {
            if step == 10 {
                run.leader.writer.record_as(recording).unwrap();
            }
            let mut transaction = || {
                let statements: Vec<String> = (0..1 + dice.below(4)).map(|_| one(&mut dice)).collect();
                tx(&statements.iter().map(String::as_str).collect::<Vec<_>>())
            };
            let group: Vec<Transaction> = (0..1 + step % 3).map(|_| transaction()).collect();
            run.leader.group(&group);
            if dice.below(4) > 0 {
                run.follow();
            }
            if dice.below(12) == 0 {
                run.follow();
                let other = run.leader.seed();
                run.follower = Follower::open(std::mem::replace(&mut run.follower, other).into_dir());
            }
        }
        run.follow();
        run.compare();
    }
}

#[test]
fn row_changes_survive_restarts() {
    run_with_restarts(Recording::new(LogFormat::Logical), false);
    run_with_restarts(Recording::new(LogFormat::Page).for_any_layout(true), true);
}

#[test]
fn statements_survive_restarts() {
    run_with_restarts(Recording::new(LogFormat::Statement), false);
    run_with_restarts(Recording::new(LogFormat::Mixed).with_changes(true), false);
}
