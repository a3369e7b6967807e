//! A random workload that touches everything SQLite can keep in a database: every kind of table, triggers, cascades,
//! generated columns, full-text and spatial indexes, UPSERT, DDL, clocks and dice, statements that fail.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part")]

/// SplitMix64.
pub struct Dice(pub u64);

impl Dice {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    pub fn of<T: Copy>(&mut self, choice: &[T]) -> T {
        choice[self.below(choice.len() as u64) as usize]
    }
}

pub const SCHEMA: &[&str] = &[
    "CREATE TABLE plain(id INTEGER PRIMARY KEY, a, b TEXT DEFAULT CURRENT_TIMESTAMP)",
    "CREATE TABLE nokey(x, y)",
    "CREATE INDEX nokey_y ON nokey(y)",
    "CREATE TABLE auto(id INTEGER PRIMARY KEY AUTOINCREMENT, v)",
    "CREATE TABLE textkey(k TEXT PRIMARY KEY, v)",
    "CREATE TABLE norowid(k TEXT, n INT, v, PRIMARY KEY (n, k)) WITHOUT ROWID",
    "CREATE TABLE weird(_rowid_, v)",
    "CREATE TABLE gen(id INTEGER PRIMARY KEY, a INT, g AS (a * 2) STORED, h AS (a + 1) VIRTUAL, z DEFAULT 7)",
    "CREATE INDEX gen_h ON gen(h)",
    "CREATE TABLE parent(id INTEGER PRIMARY KEY, v)",
    "CREATE TABLE child(id INTEGER PRIMARY KEY, p REFERENCES parent ON DELETE CASCADE ON UPDATE CASCADE)",
    "CREATE TABLE uniq(id INTEGER PRIMARY KEY, u UNIQUE, v)",
    "CREATE TABLE reals(id INTEGER PRIMARY KEY, r REAL, b BLOB) STRICT",
    "CREATE TABLE logt(id INTEGER PRIMARY KEY, what, at DEFAULT (datetime('now')), r DEFAULT (random()))",
    "CREATE TRIGGER plain_i AFTER INSERT ON plain BEGIN INSERT INTO logt(what) VALUES (NEW.a); END",
    "CREATE TRIGGER nokey_d BEFORE DELETE ON nokey BEGIN UPDATE plain SET a = OLD.x WHERE id = 1; END",
    "CREATE TRIGGER uniq_u AFTER UPDATE OF v ON uniq BEGIN INSERT INTO auto(v) VALUES (NEW.v); END",
    "CREATE VIRTUAL TABLE docs USING fts5(title, body)",
    "CREATE VIRTUAL TABLE spots USING rtree(id, x0, x1)",
    "CREATE VIEW both AS SELECT id, a FROM plain",
    "CREATE TRIGGER both_i INSTEAD OF INSERT ON both BEGIN INSERT INTO plain(a) VALUES (NEW.a || 'v'); END",
];

fn value(dice: &mut Dice) -> String {
    match dice.below(9) {
        0 => "NULL".to_owned(),
        1 => format!("{}", dice.next() as i64 >> dice.below(60)),
        2 => format!("{}.5", dice.below(1000)),
        3 => "randomblob(20)".to_owned(),
        4 => format!("'{}'", "ä-word ".repeat(dice.below(40) as usize)),
        5 => format!("zeroblob({})", dice.below(9000)),
        6 => "datetime('now', '+1 day')".to_owned(),
        7 => "abs(random() % 100)".to_owned(),
        _ => format!("'w{}'", dice.below(30)),
    }
}

fn id(dice: &mut Dice) -> u64 {
    1 + dice.below(40)
}

/// One statement. Some of them fail, always or by chance.
pub fn statement(dice: &mut Dice) -> String {
    let (v, w, n, m) = (value(dice), value(dice), id(dice), id(dice));
    match dice.below(46) {
        0..3 => format!("INSERT INTO plain(a) VALUES ({v})"),
        3 => format!("INSERT INTO plain(id, a, b) VALUES ({n}, {v}, {w})"),
        4 => format!("INSERT OR REPLACE INTO plain(id, a) VALUES ({n}, {v})"),
        5 => format!("UPDATE plain SET a = {v}, b = b WHERE id % 7 = {n} % 7"),
        6 => format!("UPDATE plain SET id = id + 1000 WHERE id = {n}"),
        7 => format!("DELETE FROM plain WHERE id < {n} AND id % 3 = 0"),
        8 | 9 => format!("INSERT INTO nokey VALUES ({v}, {w})"),
        10 => format!("DELETE FROM nokey WHERE rowid = {n}"),
        11 => format!("UPDATE nokey SET y = {v} WHERE rowid BETWEEN {n} AND {m}"),
        12 => format!("INSERT INTO nokey(rowid, x) VALUES ({}, {v})", dice.below(1 << 40)),
        13 | 14 => format!("INSERT INTO auto(v) VALUES ({v}), ({w})"),
        15 => format!("DELETE FROM auto WHERE id > (SELECT max(id) - {} FROM auto)", dice.below(5)),
        16 => format!("INSERT INTO textkey VALUES ({v}, {w}) ON CONFLICT(k) DO UPDATE SET v = excluded.v"),
        17 => format!("INSERT OR IGNORE INTO textkey VALUES ('w{n}', {v}), (NULL, {w}), ('w{m}', 1)"),
        18 => format!("UPDATE OR IGNORE textkey SET k = 'w{m}' WHERE k = 'w{n}'"),
        19 => format!("INSERT INTO norowid VALUES ('w{n}', {m}, {v}) ON CONFLICT DO UPDATE SET v = {w}, n = n + 50"),
        20 => format!("UPDATE norowid SET k = k || 'x', v = {v} WHERE n = {n}"),
        21 => format!("REPLACE INTO norowid VALUES ('w{n}', {}, {v})", m % 5),
        22 => format!("DELETE FROM norowid WHERE n < {}", n % 9),
        23 => format!("INSERT INTO weird VALUES ({v}, {w})"),
        24 => format!("UPDATE weird SET _rowid_ = {v} WHERE rowid = {n}"),
        25 => format!("INSERT INTO gen(a) VALUES ({}), ({n})", dice.below(1000)),
        26 => format!("UPDATE gen SET a = a + {m} WHERE h > {n}"),
        27 => format!("INSERT OR IGNORE INTO parent VALUES ({n}, {v})"),
        28 => format!("INSERT OR REPLACE INTO parent VALUES ({n}, {v})"),
        29 => format!("INSERT INTO child(p) VALUES ({n}), (NULL)"),
        30 => format!("UPDATE parent SET id = id + 100 WHERE id = {n}"),
        31 => format!("DELETE FROM parent WHERE id = {n}"),
        32 => format!("INSERT INTO uniq(u, v) VALUES ({}, {v})", n % 12),
        33 => format!("INSERT OR REPLACE INTO uniq(id, u, v) VALUES ({}, {}, {v})", m % 12, n % 12),
        34 => format!("UPDATE uniq SET v = {v} WHERE id >= {}", n % 12),
        35 => format!("INSERT INTO reals(r, b) VALUES ({n}, randomblob({m})), ({n}.25, NULL)"),
        36 => format!("UPDATE reals SET r = r * 2, b = zeroblob({m}) WHERE id = {n}"),
        37 | 38 => format!("INSERT INTO docs VALUES ('title {n}', 'some words {m} and {n}')"),
        39 => format!("UPDATE docs SET body = 'other words {m}' WHERE rowid = {n}"),
        40 => format!("DELETE FROM docs WHERE docs MATCH 'w OR {n}' OR rowid = {m}"),
        41 => format!("INSERT OR REPLACE INTO spots VALUES ({n}, {m}, {m} + 3.5)"),
        42 => format!("DELETE FROM spots WHERE x0 < {}", m % 9),
        43 => format!("INSERT INTO both VALUES (9, {v})"),
        44 => format!("INSERT INTO uniq(id, u) VALUES (50, 1), (51, 2), (50, {n})"),
        _ => rare(dice, n),
    }
}

/// Schema changes and whole tables.
fn rare(dice: &mut Dice, n: u64) -> String {
    let more = n % 4;
    match dice.below(24) {
        0 => format!("CREATE TABLE more{more}(id INTEGER PRIMARY KEY, v UNIQUE)"),
        1 => format!("DROP TABLE more{more}"),
        2 => format!("ALTER TABLE plain ADD COLUMN c{} DEFAULT {n}", dice.below(6)),
        3 => format!("CREATE TABLE copy{more} AS SELECT * FROM plain"),
        4 => format!("DROP TABLE copy{more}"),
        5 => format!("CREATE INDEX plain_{more} ON plain(a, id % {})", more + 1),
        6 => format!("DROP INDEX plain_{more}"),
        7 => "DELETE FROM logt".to_owned(),
        8 => "DELETE FROM nokey".to_owned(),
        9 => "ANALYZE".to_owned(),
        10 => "REINDEX".to_owned(),
        11 => format!("PRAGMA user_version = {n}"),
        12 => format!("ALTER TABLE nokey RENAME COLUMN y TO {}", dice.of(&["y", "yy"])),
        13 => format!("INSERT INTO more{more}(v) SELECT a FROM plain WHERE typeof(a) <> 'blob' LIMIT 5"),
        14 => "INSERT INTO docs(docs) VALUES ('optimize')".to_owned(),
        15 => format!(
            "WITH RECURSIVE c(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM c WHERE i < 300)
                       INSERT INTO nokey SELECT i, hex(randomblob({n})) FROM c"
        ),
        16 => format!("UPDATE sqlite_sequence SET seq = seq + {n}"),
        17 => "PRAGMA incremental_vacuum(3)".to_owned(),
        18 => format!("ALTER TABLE copy{more} RENAME TO copied{more}"),
        19 => format!("DROP TABLE copied{more}"),
        20 => format!("CREATE TRIGGER late{more} AFTER DELETE ON uniq BEGIN DELETE FROM nokey WHERE x = OLD.v; END"),
        21 => format!("DROP TRIGGER late{more}"),
        22 => format!("CREATE VIRTUAL TABLE words{more} USING fts5(w, content = '')"),
        _ => format!("DROP TABLE words{more}"),
    }
}

/// A client's transaction.
pub fn transaction(dice: &mut Dice) -> Vec<String> {
    let count = if dice.below(3) == 0 { 1 + dice.below(4) } else { 1 };
    (0..count).map(|_| statement(dice)).collect()
}
