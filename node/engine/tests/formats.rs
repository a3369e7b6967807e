//! The same random workload under every log format, and from one to the other: after each group the follower holds what the
//! leader holds, byte for byte where the format promises it.

mod common;
mod workload;

use common::*;
use rdb_engine::*;
use rdb_protocol::settings::LogFormat;
use rdb_record::{ClientTag, Payload};
use workload::{Dice, SCHEMA};

/// Cases per format; each is a database of its own and some dozens of groups.
fn cases() -> u64 {
    std::env::var("RDB_FORMAT_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(40)
}

fn transaction(dice: &mut Dice, case: u64, step: u64) -> Transaction {
    let statements = workload::transaction(dice).into_iter().map(Statement::new).collect();
    let key = (dice.below(5) == 0).then(|| RequestKey {
        tag: ClientTag { client: format!("c{case}"), sequence: step * 100 + dice.below(50) },
        request_hash: dice.next(),
    });
    Transaction { statements, key, ..Transaction::default() }
}

struct Run {
    leader: Leader,
    follower: Follower,
    kinds: std::collections::BTreeMap<&'static str, u64>,
}

impl Run {
    fn new(format: LogFormat, case: u64) -> Run {
        let mut leader = Leader::with(|options| {
            options.page_size = [512, 1024, 4096][case as usize % 3];
            options.incremental_vacuum = case % 2 == 0;
        });
        let follower = leader.seed();
        leader.writer.record_as(Recording::new(format)).unwrap();
        SCHEMA.iter().for_each(|sql| drop(leader.sql(sql)));
        Run { leader, follower, kinds: Default::default() }
    }

    fn step(&mut self, dice: &mut Dice, case: u64, step: u64) {
        let group: Vec<Transaction> = (0..1 + dice.below(4)).map(|_| transaction(dice, case, step)).collect();
        self.leader.group(&group);
        self.follow();
    }

    fn follow(&mut self) {
        let records = self.leader.take();
        for group in &records {
            *self
                .kinds
                .entry(match group.record.payload.main() {
                    Payload::Pages(_) => "pages",
                    Payload::Statements(_) => "statements",
                    _ => "other",
                })
                .or_default() += 1;
        }
        if let Err(error) = self.follower.applier.apply(&records) {
            panic!("{error}: {:?}", records.last().map(|group| &group.record));
        }
        assert_eq!(self.leader.engine.content(), self.follower.engine.content());
    }
}

fn run(format: LogFormat, seed: u64) -> std::collections::BTreeMap<&'static str, u64> {
    let mut all = std::collections::BTreeMap::new();
    for case in 0..cases() {
        let mut dice = Dice(seed + case);
        let mut run = Run::new(format, case);
        run.follow();
        for step in 0..30 {
            run.step(&mut dice, case, step);
        }
        assert_equal(&run.leader, &run.follower);
        for (kind, count) in run.kinds {
            *all.entry(kind).or_default() += count;
        }
    }
    all
}

#[test]
fn pages_carry_everything() {
    let kinds = run(LogFormat::Page, 1000);
    assert!(kinds.len() == 1 && kinds.contains_key("pages"), "{kinds:?}");
}

#[test]
fn statements_run_again_give_the_same_bytes() {
    let kinds = run(LogFormat::Statement, 2000);
    assert!(kinds.len() == 1 && kinds.contains_key("statements"), "{kinds:?}");
}

#[test]
fn mixed_gives_the_same_bytes_and_uses_both() {
    let kinds = run(LogFormat::Mixed, 3000);
    assert!(kinds["pages"] > 0 && kinds["statements"] > kinds["pages"], "{kinds:?}");
}

#[test]
fn the_format_may_change_at_any_group() {
    for case in 0..cases() {
        let mut dice = Dice(4000 + case);
        let mut run = Run::new(LogFormat::Page, case);
        for step in 0..40 {
            let format = dice.of(&[LogFormat::Page, LogFormat::Statement, LogFormat::Mixed]);
            run.leader.writer.record_as(Recording::new(format)).unwrap();
            run.step(&mut dice, case, step);
        }
        assert_equal(&run.leader, &run.follower);
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
    // Another leader's group, which this one never made.
    let dir = std::mem::replace(&mut run.follower, run.leader.seed()).dir;
    let engine = Engine::open(options(dir.path())).unwrap();
    let mut writer = engine.writer().unwrap();
    let slot = Slot { previous: run.leader.end, ..run.leader.slot() };
    writer.run_group(slot, &[tx(&["UPDATE plain SET a = 2 WHERE id = 5"])], &mut |_| Ok(())).unwrap();
    drop((writer, engine));
    run.follower = Follower::open(dir);
    run.leader.end.index = run.leader.end.index.next();
    run.leader.sql("UPDATE plain SET a = a + 1 WHERE id = 5");
    let error = run.follower.applier.apply(&run.leader.take()).unwrap_err();
    assert!(matches!(error, ApplyError::Diverged { .. }), "{error}");
    assert_eq!(run.follower.query("SELECT a FROM plain WHERE id = 5").values, [Value::Integer(2)]);
}
