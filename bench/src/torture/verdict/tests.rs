//! A run without fault is clean, and each planted violation is seen.

use super::*;
use crate::checkers::At;
use crate::checkers::registers::{Kind, Operation};
use crate::checkers::writes::Ended;

const BATCHER: u64 = 2;

fn id(number: u64) -> WriteId {
    WriteId { client: BATCHER, number }
}

fn operation(kind: Kind, start: u64) -> Operation {
    Operation { kind, start, end: Some(start + 1), epoch: 1, repeated: false }
}

/// Three writes of one client, seen by a reader, and a register.
fn clean() -> (Log, Survey) {
    let mut log = Log::default();
    for number in 1..=3 {
        log.writes.insert(id(number), Ended::Acknowledged(At { epoch: 1, index: number }));
        log.sightings.record(id(number), At { epoch: 1, index: number });
    }
    log.registers.insert(0, vec![operation(Kind::Write(5), 1), operation(Kind::Read(5), 3)]);
    let node = NodeContent {
        tables: BTreeMap::from([("ledger".into(), 1)]),
        image: 9,
        integrity: vec!["ok".into()],
        ledger: (1..=3).map(|number| (id(number), 1)).collect(),
        order: BTreeMap::from([(BATCHER, vec![1, 2, 3])]),
        counters: BTreeMap::from([(BATCHER, 3)]),
        lists: BTreeMap::from([(BATCHER, vec![1, 2, 3])]),
    };
    let survey = ["a", "b", "c"].map(|name| (name.to_owned(), node.clone())).into();
    (log, survey)
}

fn node(survey: &mut Survey) -> &mut NodeContent {
    survey.get_mut("b").unwrap()
}

#[test]
fn a_clean_run_is_clean() {
    let (log, survey) = clean();
    let verdict = judge(&log, &survey, &[]);
    assert!(verdict.is_clean(), "{:?}", verdict.details());
    assert_eq!((verdict.writes.acknowledged, verdict.rows_read, verdict.register_operations), (3, 3, 2));
}

type Plant = fn(&mut Log, &mut Survey);

#[test]
fn each_planted_violation_is_seen() {
    let planted: [(&str, Plant); 9] = [
        ("lost", |_, survey| {
            node(survey).ledger.remove(&id(2));
        }),
        ("read and lost", |log, survey| {
            log.writes.insert(id(2), Ended::Unknown);
            node(survey).ledger.remove(&id(2));
        }),
        ("duplicated", |_, survey| {
            node(survey).ledger.insert(id(1), 2);
        }),
        ("there although it failed", |log, _| {
            log.writes.remove(&id(1));
        }),
        ("not linearizable", |log, _| {
            log.registers.insert(0, vec![operation(Kind::Write(5), 1), operation(Kind::Read(0), 3)]);
        }),
        ("torn", |_, survey| drop(node(survey).lists.insert(BATCHER, vec![1, 3, 2]))),
        ("diverged: table", |_, survey| {
            node(survey).tables.insert("ledger".into(), 2);
        }),
        ("diverged: database files", |_, survey| node(survey).image = 8),
        ("diverged: b: integrity", |_, survey| node(survey).integrity = vec!["row 7 missing from index".into()]),
    ];
    for (expected, plant) in planted {
        let (mut log, mut survey) = clean();
        plant(&mut log, &mut survey);
        let verdict = judge(&log, &survey, &[]);
        assert!(!verdict.is_clean(), "{expected}");
        assert!(verdict.details().iter().any(|line| line.starts_with(expected)), "{expected}: {:?}", verdict.details());
    }
}

#[test]
fn what_a_receipt_names_is_accounted_for_and_nothing_else() {
    let (log, mut survey) = clean();
    for node in survey.values_mut() {
        node.ledger.remove(&id(3));
        node.order.insert(BATCHER, vec![1, 2]);
        node.lists.insert(BATCHER, vec![1, 2]);
        node.counters.insert(BATCHER, 2);
    }
    let receipt = |promoted| [Receipt { epoch: 2, promoted, acknowledged: 3 }];
    let verdict = judge(&log, &survey, &receipt(2));
    assert!(verdict.is_clean(), "{:?}", verdict.details());
    assert_eq!(verdict.writes.accounted, [id(3)]);
    assert!(!judge(&log, &survey, &receipt(3)).is_clean());
}
