//! Statements and row changes as bytes: what was logged is read back, what was taken back is gone, and garbage is an error.

use bytes::Bytes;
use proptest::prelude::*;
use rdb_protocol::{Chain, Epoch, Index, Position};
use rdb_record::*;

fn any_cell() -> impl Strategy<Value = Cell> {
    prop_oneof![
        Just(Cell::Null),
        any::<i64>().prop_map(Cell::Integer),
        any::<u64>().prop_map(|bits| Cell::Real(f64::from_bits(bits))),
        prop::collection::vec(any::<u8>(), 0..200).prop_map(Cell::Text),
        prop::collection::vec(any::<u8>(), 0..200).prop_map(Cell::Blob),
    ]
}

/// Reals by their bits, for NaN.
fn shown(cell: CellRef<'_>) -> String {
    match cell {
        CellRef::Real(value) => format!("{:x}", value.to_bits()),
        other => format!("{other:?}"),
    }
}

fn entry(payload: Payload) -> Entry {
    Record { timestamp: 5, content: 6, clients: Vec::new(), payload }.encode(Position::ZERO, Epoch(1))
}

fn statements(body: Bytes) -> StatementGroup {
    StatementGroup { sqlite: 3_051_003, page_size: 4096, previous_chain: Chain(8), seed: 77, watched: true, body }
}

type Logged = (String, bool, Vec<Cell>);

fn any_transaction() -> impl Strategy<Value = (bool, Vec<Logged>)> {
    let statement = ("[a-c]{0,2}", any::<bool>(), prop::collection::vec(any_cell(), 0..4));
    (any::<bool>(), prop::collection::vec(statement, 0..4))
}

fn log(log: &mut StatementLog, number: u32, statements: &[Logged], keep: bool) {
    let mut draft = StatementDraft::default();
    log.begin(number, &mut draft);
    for (sql, named, args) in statements {
        log.statement(&mut draft, sql, *named, args.len());
        args.iter().for_each(|cell| draft.arg(named.then_some("n"), cell.as_ref()));
    }
    if keep { log.keep(&draft, Some((number as usize, 9))) } else { log.take_back() }
}

#[derive(Clone, Debug)]
enum Op {
    Insert(usize, i64, Vec<Cell>),
    Update(usize, i64, i64, Vec<Cell>, Vec<Cell>),
    Delete(usize, i64, Vec<Cell>),
    Statement(String),
}

fn shapes() -> [TableShape; 3] {
    let columns = vec!["a".to_owned(), "ö".to_owned(), String::new()];
    let shape = |name: &str, key, without_rowid| TableShape {
        name: name.to_owned(),
        columns: columns.clone(),
        key,
        without_rowid,
        internal: without_rowid,
    };
    [shape("hidden", vec![], false), shape("own", vec![1], false), shape("none", vec![2, 0], true)]
}

fn any_op() -> impl Strategy<Value = Op> {
    let row = || prop::collection::vec(any_cell(), 3);
    prop_oneof![
        (0..3usize, any::<i64>(), row()).prop_map(|(table, id, new)| Op::Insert(table, id, new)),
        (0..3usize, any::<i64>(), any::<i64>(), row(), row())
            .prop_map(|(t, a, b, old, new)| Op::Update(t, a, b, old, new)),
        (0..3usize, any::<i64>(), row()).prop_map(|(table, id, old)| Op::Delete(table, id, old)),
        "[a-z]{0,9}".prop_map(Op::Statement),
    ]
}

fn refs(cells: &[Cell]) -> Vec<CellRef<'_>> {
    cells.iter().map(Cell::as_ref).collect()
}

fn apply(log: &mut RowLog, op: &Op) {
    let shapes = shapes();
    match op {
        Op::Insert(table, id, new) => log.insert(&shapes[*table], *id, &refs(new)),
        Op::Update(table, a, b, old, new) => log.update(&shapes[*table], (*a, *b), &refs(old), &refs(new)),
        Op::Delete(table, id, old) => log.delete(&shapes[*table], *id, &refs(old)),
        Op::Statement(sql) => log.statement(3, sql, true, &[("x", CellRef::Integer(-1))]),
    }
}

fn check(op: &Op, item: &RowItem<'_>, tables: &[TableShape]) {
    let shapes = shapes();
    let all = |cells: &[CellRef<'_>]| cells.iter().map(|cell| shown(*cell)).collect::<Vec<_>>();
    match (op, item) {
        (Op::Statement(sql), RowItem::Statement { number: 3, sql: found, named: true, args }) => {
            assert_eq!((sql.as_str(), args.as_slice()), (*found, [("x", CellRef::Integer(-1))].as_slice()));
        }
        (
            Op::Insert(table, id, new),
            RowItem::Row(RowChange { table: at, kind: ChangeKind::Insert { rowid, new: found } }),
        ) => {
            assert_eq!(tables[*at], shapes[*table]);
            assert_eq!(*rowid, (*table == 0).then_some(*id));
            assert_eq!(all(found), all(&refs(new)));
        }
        (Op::Update(table, a, b, old, new), RowItem::Row(RowChange { table: at, kind })) => {
            let ChangeKind::Update { key, rowid, old: found_old, new: found } = kind else { panic!("{kind:?}") };
            assert_eq!(tables[*at], shapes[*table]);
            assert_eq!(*rowid, (*table == 0).then_some(*b));
            match key {
                RowKey::Rowid(rowid) => assert_eq!(rowid, a),
                RowKey::Columns(key) => assert_eq!(all(key), all(&[old[2].as_ref(), old[0].as_ref()])),
            }
            assert_eq!(all(found_old.as_ref().unwrap()), all(&refs(old)));
            let overlaid: Vec<CellRef<'_>> =
                found.iter().zip(old).map(|(new, old)| new.unwrap_or(old.as_ref())).collect();
            assert_eq!(all(&overlaid), all(&refs(new)));
        }
        (Op::Delete(table, ..), RowItem::Row(RowChange { table: at, kind: ChangeKind::Delete { old, .. } })) => {
            assert_eq!(tables[*at], shapes[*table]);
            assert!(old.is_some());
        }
        other => panic!("{other:?}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn statements_come_back_without_those_taken_back(transactions in prop::collection::vec(any_transaction(), 0..6)) {
        let mut written = StatementLog::default();
        for (number, (keep, statements)) in transactions.iter().enumerate() {
            log(&mut written, number as u32, statements, *keep);
        }
        let decoded = entry(Payload::Statements(statements(written.body()))).decode().unwrap();
        let Payload::Statements(group) = decoded.payload else { panic!("statements") };
        let found = group.transactions().unwrap();
        let kept: Vec<_> = transactions.iter().enumerate().filter(|(_, (keep, _))| *keep).collect();
        prop_assert_eq!(found.len(), kept.len());
        for (found, (number, (_, kept))) in found.iter().zip(kept) {
            prop_assert_eq!((found.number as usize, found.key), (number, Some((number, 9))));
            prop_assert_eq!(found.statements.len(), kept.len());
            for (found, (sql, named, args)) in found.statements.iter().zip(kept) {
                prop_assert_eq!((found.sql, found.named), (sql.as_str(), *named));
                let values: Vec<_> = found.args.iter().map(|(_, cell)| shown(*cell)).collect();
                prop_assert_eq!(values, args.iter().map(|cell| shown(cell.as_ref())).collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn row_changes_come_back_without_those_taken_back(
        kept in prop::collection::vec(any_op(), 0..8), lost in prop::collection::vec(any_op(), 0..8), at in 0..8usize,
    ) {
        let mut log = RowLog::default();
        log.reset(true, true);
        log.begin(1, Some(4));
        for (index, op) in kept.iter().enumerate() {
            if index == at {
                let mark = log.mark();
                lost.iter().for_each(|op| apply(&mut log, op));
                log.back_to(&mark);
            }
            apply(&mut log, op);
        }
        let pages = PageGroup { page_size: 512, database_pages: 1, pages: vec![(1, Bytes::from(vec![1; 512]))] };
        let payload = Payload::WithRows(Box::new(Payload::Pages(pages)), log.group((1, 2), Chain(5), 3, Some(4)));
        let decoded = entry(payload.clone()).decode().unwrap();
        prop_assert_eq!(&decoded.payload, &payload);
        let rows = decoded.payload.rows().unwrap();
        let items = rows.items().unwrap();
        let mut found = items.items.iter();
        if !kept.is_empty() {
            prop_assert_eq!(found.next(), Some(&RowItem::Begin { number: 1, tag: Some(4) }));
        }
        prop_assert_eq!(found.len(), kept.len());
        kept.iter().zip(found).for_each(|(op, item)| check(op, item, &items.tables));
    }

    #[test]
    fn garbage_in_a_payload_is_an_error_and_no_harm(body in prop::collection::vec(0u8..8, 0..300), flags in 0u8..4) {
        let group = statements(Bytes::from(body.clone()));
        let _ = group.transactions();
        let rows = RowGroup {
            old_values: flags & 1 != 0, names: flags & 2 != 0, cookie_before: 0, cookie_after: 0, previous_chain: Chain(0), seed: 0, content: None,
            body: Bytes::from(body),
        };
        let _ = rows.items();
    }
}

#[test]
fn a_newer_payload_asks_for_an_upgrade() {
    for payload in [
        Payload::Statements(statements(Bytes::new())),
        Payload::Rows(RowLog::default().group((0, 0), Chain(0), 0, None)),
    ] {
        let whole = entry(payload);
        let mut bytes = whole.bytes.to_vec();
        bytes[56] = 9;
        let crc = crc32c::crc32c_append(crc32c::crc32c(&bytes[..4]), &bytes[8..]);
        bytes[4..8].copy_from_slice(&crc.to_le_bytes());
        let error = Entry::read(&mut Bytes::from(bytes)).unwrap().decode().unwrap_err();
        assert!(error.to_string().contains("upgrade this node"), "{error}");
    }
}

#[test]
fn older_nodes_still_read_what_their_version_can_say() {
    let plain = entry(Payload::Noop);
    let loss = entry(Payload::Loss(LossMark { epoch: Epoch(2), after: Index(9) }));
    assert_eq!((plain.bytes[16], loss.bytes[16]), (1, 2));
    assert_eq!(loss.decode().unwrap().payload, Payload::Loss(LossMark { epoch: Epoch(2), after: Index(9) }));
}
