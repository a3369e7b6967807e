//! Records that another version of SQLite has logged: statements, and pages of a newer file format.

use rdb_record::StatementGroup;

use super::*;

/// Not applied, not called diverged, nothing changed, and the record without the difference is applied afterwards.
fn assert_incompatible(run: &mut Run, change: impl FnOnce(&mut Payload), says: &[&str]) {
    let content = run.follower.engine.content();
    let record = run.leader.take();
    let mut foreign = record.clone();
    change(&mut foreign[0].record.payload);
    let error = run.follower.applier.apply(&foreign).unwrap_err();
    let ApplyError::Incompatible(message) = &error else { panic!("{error:?}") };
    assert!(says.iter().all(|part| message.contains(part)), "{message}");
    assert_eq!(run.follower.engine.content(), content);
    run.follower.applier.apply(&record).unwrap();
    assert_equal(&run.leader, &run.follower);
}

#[test]
fn statements_of_another_sqlite_are_refused() {
    let mut run = Run::new(LogFormat::Statement, 2);
    run.follow();
    run.leader.sql("INSERT INTO plain(a) VALUES (1)");
    let newer = |payload: &mut Payload| {
        let Payload::Statements(group) = payload else { panic!("statements") };
        group.sqlite = 3_099_012;
    };
    assert_incompatible(&mut run, newer, &["3.99.12", "logFormat", "re-seed"]);
}

/// As if the leader ran another version of SQLite.
fn of_another_sqlite(payload: &mut Payload) -> &mut StatementGroup {
    match payload {
        Payload::Statements(group) => {
            group.sqlite += 1;
            group
        }
        Payload::WithRows(main, _) => of_another_sqlite(main),
        _ => panic!("statements"),
    }
}

/// For a follower that becomes the leader: what its SQLite makes of them is compared with what the leader's made.
#[test]
fn statements_of_another_sqlite_may_be_tried() {
    let mut run = Run::new(LogFormat::Statement, 2);
    run.follow();
    run.follower.applier.try_any_sqlite(true);
    run.leader.sql("INSERT INTO plain(a) VALUES (1)");
    let mut records = run.leader.take();
    of_another_sqlite(&mut records[0].record.payload);
    run.follower.applier.apply(&records).unwrap();
    assert_equal(&run.leader, &run.follower);
}

/// Nothing is wrong with its data: the leader's version can go on with them.
#[test]
fn statements_that_another_sqlite_runs_otherwise_are_refused() {
    let says = ["3.", "start it with the leader's version"];
    let mut run = Run::new(LogFormat::Statement, 2);
    run.follow();
    run.follower.applier.try_any_sqlite(true);
    run.leader.sql("INSERT INTO nokey VALUES (random(), 1)");
    let otherwise = |payload: &mut Payload| of_another_sqlite(payload).seed ^= 1;
    assert_incompatible(&mut run, otherwise, &[&says[..], &["comes out otherwise"]].concat());
    run.leader.sql("INSERT INTO plain(a) VALUES (1)");
    let unknown = |payload: &mut Payload| {
        let group = of_another_sqlite(payload);
        let mut bytes = group.body.to_vec();
        let at = bytes.windows(5).position(|word| word == b"plain").unwrap();
        bytes[at..at + 5].copy_from_slice(b"plane");
        group.body = bytes.into();
    };
    assert_incompatible(&mut run, unknown, &[&says[..], &["no such table: plane"]].concat());
}

/// What travels for followers with other pages serves those with another SQLite too.
#[test]
fn rows_beside_statements_of_another_sqlite_are_applied() {
    for tried in [false, true] {
        let mut run = Run::with(Recording::new(LogFormat::Statement).for_any_layout(true), 2);
        run.follow();
        run.follower.applier.try_any_sqlite(tried);
        run.leader.sql("INSERT INTO nokey VALUES (random(), 1)");
        let mut records = run.leader.take();
        of_another_sqlite(&mut records[0].record.payload).seed ^= 1;
        run.follower.applier.apply(&records).unwrap();
        assert_same_rows(&run.leader, &run.follower);
        assert_eq!(run.follower.engine.layout(), Layout::Other);
    }
}

#[test]
fn rows_beside_pages_of_a_newer_file_format_are_applied() {
    let mut run = Run::with(Recording::new(LogFormat::Page).for_any_layout(true), 2);
    run.follow();
    run.leader.sql("CREATE TABLE t(x)");
    let mut records = run.leader.take();
    let Payload::WithRows(main, _) = &mut records[0].record.payload else { panic!("rows beside pages") };
    make_newer(main, 47);
    run.follower.applier.apply(&records).unwrap();
    assert_same_rows(&run.leader, &run.follower);
    assert_eq!(run.follower.engine.layout(), Layout::Other);
}

fn make_newer(pages: &mut Payload, offset: usize) {
    let Payload::Pages(group) = pages else { panic!("pages") };
    let (_, first) = group.pages.iter_mut().find(|(page, _)| *page == 1).unwrap();
    let mut image = first.to_vec();
    image[offset] = 5;
    *first = image.into();
}

#[test]
fn pages_of_a_newer_file_format_are_refused() {
    for (offset, says) in [(18, "file format 5"), (19, "file format 5"), (47, "schema format 5")] {
        let mut run = Run::new(LogFormat::Page, 2);
        run.follow();
        run.leader.sql("CREATE TABLE t(x)");
        let newer = |payload: &mut Payload| make_newer(payload, offset);
        assert_incompatible(&mut run, newer, &[says, "start this node with the leader's version"]);
    }
}
