//! The same random workload under every log format, and from one to the other: after each group the follower holds what the
//! leader holds, byte for byte where the format promises it.

mod carried;
#[path = "../common/mod.rs"]
mod common;
mod restarts;
mod versions;
#[path = "../workload/mod.rs"]
mod workload;

use common::*;
use std::collections::BTreeMap;

use rdb_engine::*;
use rdb_protocol::api::ErrorCode;
use rdb_protocol::settings::LogFormat;
use rdb_record::{ClientTag, Payload};
use workload::{Dice, SCHEMA};

/// Cases of each way to log: a database with a workload of its own, some dozens of groups long, compared after each of them.
/// The six ways that take them all and the two that take a quarter make 2,080.
fn cases() -> u64 {
    std::env::var("RDB_FORMAT_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(320)
}

fn transaction(dice: &mut Dice, case: u64, step: u64) -> Transaction {
    let statements = workload::transaction(dice).into_iter().map(Statement::new).collect();
    let key = (dice.below(5) == 0).then(|| RequestKey {
        tag: ClientTag { client: format!("c{case}"), sequence: step * 100 + dice.below(50) },
        request_hash: dice.next(),
    });
    Transaction { statements, key, ..Transaction::default() }
}

/// Leader and follower hold the same rows, whatever their pages.
fn assert_same_rows(leader: &Leader, follower: &Follower) {
    let mut lines = Vec::new();
    let found = diff(&leader.path(), &follower.path(), &mut lines).unwrap();
    assert_eq!(found, DiffSummary::default(), "{}", String::from_utf8_lossy(&lines));
    for sql in [
        "SELECT rowid, * FROM nokey",
        "SELECT rowid, * FROM textkey",
        "SELECT rowid, * FROM weird",
        "SELECT * FROM sqlite_sequence",
        "SELECT rowid, title FROM docs('words')",
        "SELECT id, x0 FROM spots WHERE x0 > 7",
        "PRAGMA user_version",
    ] {
        assert_eq!(query(&leader.engine, sql).values, follower.query(sql).values, "{sql}");
    }
    assert_eq!(follower.query("PRAGMA integrity_check").values, [Value::from("ok")]);
    assert!(follower.query("PRAGMA foreign_key_check").values.is_empty());
    assert_eq!(follower.engine.scan_checksum().unwrap(), follower.engine.stats().content);
}

fn carries_vacuum(format: LogFormat) -> bool {
    matches!(format, LogFormat::Page | LogFormat::Mixed)
}

struct Run {
    /// The follower's pages must be the leader's.
    exact: bool,
    leader: Leader,
    follower: Follower,
    /// Records can carry VACUUM.
    vacuums: bool,
    kinds: BTreeMap<&'static str, u64>,
}

impl Run {
    fn new(format: LogFormat, case: u64) -> Run {
        Run::with(Recording::new(format), case)
    }

    fn with(recording: Recording, case: u64) -> Run {
        let mut leader = Leader::with(|options| {
            options.page_size = [512, 1024, 4096][case as usize % 3];
            options.incremental_vacuum = case.is_multiple_of(2);
        });
        let follower = leader.seed();
        leader.writer.record_as(recording).unwrap();
        SCHEMA.iter().for_each(|sql| drop(leader.sql(sql)));
        let exact = recording.format != LogFormat::Logical;
        Run { exact, leader, follower, vacuums: carries_vacuum(recording.format), kinds: BTreeMap::new() }
    }

    fn step(&mut self, dice: &mut Dice, case: u64, step: u64) {
        if dice.below(8) == 0 {
            self.vacuum(dice, case, step);
        }
        let group: Vec<Transaction> = (0..1 + dice.below(4)).map(|_| transaction(dice, case, step)).collect();
        self.leader.group(&group);
        self.follow();
    }

    fn vacuum(&mut self, dice: &mut Dice, case: u64, step: u64) {
        let key = transaction(dice, case, step).key;
        let replays = key.as_ref().is_some_and(|key| self.leader.writer.outcome(&key.tag).unwrap().is_some());
        let before = (self.leader.engine.content(), self.leader.log.len());
        let done = self.leader.run(Transaction { key, ..tx(&["VACUUM"]) });
        if self.vacuums && !replays {
            done.unwrap();
            self.follow();
            assert_eq!(integer(&query(&self.leader.engine, "PRAGMA freelist_count")), 0);
            self.compare();
        } else {
            assert!(matches!(done.unwrap_err().code(), ErrorCode::Forbidden | ErrorCode::KeyReused));
            assert_eq!((self.leader.engine.content(), self.leader.log.len()), before);
        }
    }

    fn follow(&mut self) {
        let records = self.leader.take();
        for group in &records {
            let kind = match group.record.payload.main() {
                Payload::Pages(_) => "pages",
                Payload::Statements(_) => "statements",
                Payload::Rows(_) => "rows",
                _ => "other",
            };
            *self.kinds.entry(kind).or_default() += 1;
        }
        if let Err(error) = self.follower.applier.apply(&records) {
            panic!("{error}: {:?}", records.last().map(|group| &group.record));
        }
        if self.exact {
            assert_eq!(self.leader.engine.content(), self.follower.engine.content());
        }
    }

    fn compare(&self) {
        if self.exact {
            assert_equal(&self.leader, &self.follower);
        }
        assert_same_rows(&self.leader, &self.follower);
    }

    /// Lets the follower's database go a way of its own, by a group that this leader never made.
    fn stray(&mut self, sql: &str) {
        let dir = std::mem::replace(&mut self.follower, self.leader.seed()).into_dir();
        let engine = Engine::open(options(dir.path())).unwrap();
        let mut writer = engine.writer().unwrap();
        writer.run_group(self.leader.slot(), &[tx(&[sql])], &mut |_| Ok(())).unwrap();
        drop((writer, engine));
        self.follower = Follower::open(dir);
        self.leader.end.index = self.leader.end.index.next();
    }

    /// An empty follower with another page size, which follows from the first record on.
    fn other_page_size(recording: Recording) -> Run {
        let mut run = Run::with(recording, 2);
        let dir = folder();
        drop(Engine::create(EngineOptions { page_size: 8192, ..options(dir.path()) }).unwrap());
        run.follower = Follower::open(dir);
        run.exact = false;
        run
    }
}

fn run(recording: Recording, seed: u64) -> BTreeMap<&'static str, u64> {
    let mut all = BTreeMap::new();
    for case in 0..cases() {
        let mut dice = Dice(seed + case);
        let mut run = Run::with(recording, case);
        run.follow();
        (0..30).for_each(|step| run.step(&mut dice, case, step));
        run.compare();
        for (kind, count) in run.kinds {
            *all.entry(kind).or_default() += count;
        }
    }
    all
}

#[test]
fn pages_carry_everything() {
    let kinds = run(Recording::new(LogFormat::Page), 1000);
    assert!(kinds.len() == 1 && kinds.contains_key("pages"), "{kinds:?}");
}

#[test]
fn statements_run_again_give_the_same_bytes() {
    let kinds = run(Recording::new(LogFormat::Statement), 2000);
    assert!(kinds.len() == 1 && kinds.contains_key("statements"), "{kinds:?}");
}

#[test]
fn mixed_gives_the_same_bytes_and_uses_both() {
    let kinds = run(Recording::new(LogFormat::Mixed), 3000);
    assert!(kinds["pages"] > 0 && kinds["statements"] > kinds["pages"], "{kinds:?}");
}

#[test]
fn row_changes_carry_the_same_rows() {
    let kinds = run(Recording::new(LogFormat::Logical), 5000);
    assert!(kinds.len() == 1 && kinds.contains_key("rows"), "{kinds:?}");
}

#[test]
fn row_changes_carry_the_same_rows_with_old_values_too() {
    run(Recording::new(LogFormat::Logical).with_changes(true), 6000);
}

#[test]
fn the_format_may_change_at_any_group() {
    for case in 0..cases() {
        let mut dice = Dice(4000 + case);
        let mut run = Run::new(LogFormat::Page, case);
        for step in 0..40 {
            let format = dice.of(&[LogFormat::Page, LogFormat::Statement, LogFormat::Mixed]);
            let any_layout = dice.below(3) == 0;
            let recording = Recording::new(format).with_changes(dice.below(3) == 0).for_any_layout(any_layout);
            run.vacuums = carries_vacuum(format) && !any_layout;
            run.leader.writer.record_as(recording).unwrap();
            run.step(&mut dice, case, step);
        }
        run.compare();
    }
}

#[test]
fn row_changes_do_not_depend_on_the_page_size() {
    for case in 0..cases().div_ceil(4) {
        let mut dice = Dice(7000 + case);
        let mut run = Run::other_page_size(Recording::new(LogFormat::Logical));
        (0..30).for_each(|step| run.step(&mut dice, case, step));
        run.compare();
        assert_eq!(run.follower.engine.layout(), Layout::Other);
    }
}

#[test]
fn rows_beside_pages_serve_followers_of_any_layout() {
    for case in 0..cases().div_ceil(4) {
        let mut dice = Dice(8000 + case);
        let format = dice.of(&[LogFormat::Page, LogFormat::Statement, LogFormat::Mixed]);
        let mut run = Run::other_page_size(Recording::new(format).for_any_layout(true));
        run.vacuums = false;
        (0..30).for_each(|step| run.step(&mut dice, case, step));
        run.compare();
    }
}

#[test]
fn after_row_changes_pages_need_a_new_base_copy() {
    let mut run = Run::new(LogFormat::Logical, 2);
    let mut dice = Dice(9);
    (0..30).for_each(|step| run.step(&mut dice, 1, step));
    run.leader.writer.record_as(Recording::new(LogFormat::Page).for_any_layout(true)).unwrap();
    run.vacuum(&mut dice, 1, 31);
    run.step(&mut dice, 1, 31);
    run.compare();
    assert_eq!(run.follower.engine.layout(), Layout::Other);
    run.leader.writer.record_as(Recording::new(LogFormat::Page)).unwrap();
    run.leader.sql("INSERT INTO plain(a) VALUES (1)");
    let before = run.follower.engine.content();
    let error = run.follower.applier.apply(&run.leader.take()).unwrap_err();
    assert!(matches!(error, ApplyError::OtherLayout { .. }), "{error}");
    assert_eq!(run.follower.engine.content(), before, "it keeps what it has");
    run.follower = run.leader.seed();
    run.leader.sql("INSERT INTO plain(a) VALUES (2)");
    run.follow();
    assert_equal(&run.leader, &run.follower);
}

#[test]
fn a_table_whose_rows_cannot_be_named_is_refused_when_it_is_made() {
    let mut run = Run::new(LogFormat::Logical, 2);
    let refused = run.leader.try_sql("CREATE TABLE t(rowid, _rowid_, oid)").unwrap_err().api;
    assert!(refused.message.contains("t can't be named") && refused.hint.contains("logFormat"), "{refused:?}");
    run.leader.sql("CREATE TABLE t(rowid, _rowid_)");
    run.leader.sql("INSERT INTO t VALUES (1, 2)");
    run.follow();
    run.compare();
}

#[test]
fn a_missing_table_or_row_is_an_error() {
    for sql in ["DROP TABLE uniq", "DELETE FROM uniq", "UPDATE uniq SET v = 3"] {
        let mut run = Run::new(LogFormat::Logical, 2);
        run.leader.sql("INSERT INTO uniq VALUES (1, 1, 1)");
        run.follow();
        run.stray(sql);
        run.leader.sql("UPDATE uniq SET v = 2");
        let error = run.follower.applier.apply(&run.leader.take()).unwrap_err();
        assert!(matches!(error, ApplyError::Failed { .. } | ApplyError::Diverged { .. }), "{sql}: {error}");
    }
}

#[test]
fn clock_and_dice_are_the_records() {
    let mut run = Run::new(LogFormat::Statement, 2);
    run.follow();
    run.leader.sql("INSERT INTO nokey VALUES (random(), hex(randomblob(16))), (random(), CURRENT_TIMESTAMP)");
    let drawn = run
        .leader
        .group(&[tx(&["INSERT INTO nokey VALUES (random(), 1)"]), tx(&["INSERT INTO nokey VALUES (random(), 1)"])]);
    assert!(drawn.iter().all(Result::is_ok));
    run.follow();
    let distinct = "SELECT count(DISTINCT x) FROM nokey";
    assert_eq!((integer(&query(&run.leader.engine, distinct)), integer(&run.follower.query(distinct))), (4, 4));
    let time = run.follower.query("SELECT y FROM nokey WHERE rowid = 2").values;
    assert_eq!(time, [Value::from("1970-01-01 00:16:40")]);
    assert_equal(&run.leader, &run.follower);
}

#[test]
fn what_depends_on_a_connection_is_refused_by_name_or_goes_as_pages() {
    let changes = "INSERT INTO plain(a) VALUES (changes())";
    let mut run = Run::new(LogFormat::Statement, 2);
    let refused = run.leader.try_sql(changes).unwrap_err().api;
    assert!(refused.message.contains("changes()") && refused.hint.contains("mixed"), "{refused:?}");
    run.leader.sql("CREATE TRIGGER t AFTER INSERT ON auto BEGIN INSERT INTO plain(a) VALUES (total_changes()); END");
    let refused = run.leader.try_sql("INSERT INTO auto(v) VALUES (1)").unwrap_err().api;
    assert!(refused.message.contains("total_changes()"), "{refused:?}");
    run.leader.writer.record_as(Recording::new(LogFormat::Mixed)).unwrap();
    run.leader.sql("INSERT INTO auto(v) VALUES (1)");
    run.leader.sql(changes);
    run.follow();
    assert_eq!(run.kinds["pages"], 2);
    assert_equal(&run.leader, &run.follower);
}

#[test]
fn last_insert_rowid_is_the_transactions_own() {
    let mut run = Run::new(LogFormat::Statement, 2);
    let batch = ["INSERT INTO auto(v) VALUES (5)", "INSERT INTO plain(a) VALUES (last_insert_rowid())"];
    let other = tx(&["INSERT INTO plain(a) VALUES (last_insert_rowid())"]);
    run.leader.group(&[tx(&batch), other, tx(&batch)]);
    run.follow();
    assert_equal(&run.leader, &run.follower);
}

#[test]
fn a_follower_whose_rows_differ_stops_at_the_statement_that_touches_them() {
    let mut run = Run::new(LogFormat::Statement, 2);
    run.leader.sql("INSERT INTO plain(id, a) VALUES (5, 1)");
    run.follow();
    run.stray("UPDATE plain SET a = 2 WHERE id = 5");
    run.leader.sql("UPDATE plain SET a = a + 1 WHERE id = 5");
    let error = run.follower.applier.apply(&run.leader.take()).unwrap_err();
    assert!(matches!(error, ApplyError::Diverged { .. }), "{error}");
    assert_eq!(run.follower.query("SELECT a FROM plain WHERE id = 5").values, [Value::Integer(2)]);
}

#[test]
fn the_background_check_finds_a_flipped_byte() {
    let mut run = Run::new(LogFormat::Statement, 2);
    run.leader.sql("INSERT INTO plain(id, a) VALUES (5, zeroblob(9000))");
    run.follow();
    let check = |run: &Run| run.follower.engine.seed_session().unwrap().verify(|| {}).unwrap();
    assert!(check(&run));
    run.follower.engine.checkpoint().unwrap();
    let mut bytes = std::fs::read(run.follower.path()).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    std::fs::write(run.follower.path(), &bytes).unwrap();
    assert!(!check(&run));
}
