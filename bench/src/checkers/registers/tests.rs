use proptest::prelude::*;

use super::*;

fn op(kind: Kind, start: u64, end: u64) -> Operation {
    Operation { kind, start, end: Some(end), epoch: 1, repeated: false }
}

fn unknown(kind: Kind, start: u64) -> Operation {
    Operation { kind, start, end: None, epoch: 0, repeated: true }
}

use Kind::{Read, Write};

const FROM_ZERO: Initial = Initial::Value(0);

#[test]
fn overlapping_operations_may_take_either_order() {
    let write = op(Write(1), 10, 20);
    for seen in [0, 1] {
        assert_eq!(check(&[write, op(Read(seen), 12, 18)], FROM_ZERO), Ok(()));
    }
}

#[test]
fn a_stale_read_is_found() {
    let read = op(Read(0), 21, 30);
    assert_eq!(check(&[op(Write(1), 10, 20), read], FROM_ZERO), Err(Violation::NotLinearizable(read)));
}

#[test]
fn reads_that_go_back_are_found_though_each_alone_would_fit() {
    // The write overlaps both reads, so each value is possible; but not the new one first and then the old one.
    let history = [op(Write(1), 10, 100), op(Read(1), 20, 30), op(Read(0), 40, 50)];
    assert!(matches!(check(&history, FROM_ZERO), Err(Violation::NotLinearizable(_))));
    assert_eq!(check(&[history[0], op(Read(0), 20, 30), op(Read(1), 40, 50)], FROM_ZERO), Ok(()));
}

#[test]
fn a_lost_write_is_found() {
    let history = [op(Write(1), 1, 2), op(Write(2), 3, 4), op(Read(1), 5, 6)];
    assert!(matches!(check(&history, FROM_ZERO), Err(Violation::NotLinearizable(_))));
}

#[test]
fn an_unknown_write_may_take_effect_late_or_never_but_not_twice() {
    let late = [unknown(Write(1), 1), op(Read(0), 10, 11), op(Write(2), 12, 13), op(Read(1), 20, 21)];
    assert_eq!(check(&late, FROM_ZERO), Ok(()));
    assert_eq!(check(&late[..3], FROM_ZERO), Ok(()));
    let twice =
        [unknown(Write(1), 1), op(Read(1), 10, 11), op(Write(2), 12, 13), op(Read(2), 14, 15), op(Read(1), 20, 21)];
    assert!(matches!(check(&twice, FROM_ZERO), Err(Violation::NotLinearizable(_))));
}

#[test]
fn a_read_from_the_future_is_found() {
    let history = [op(Read(1), 1, 2), unknown(Write(1), 5)];
    assert!(matches!(check(&history, FROM_ZERO), Err(Violation::NotLinearizable(_))));
}

#[test]
fn values_that_nobody_wrote_and_values_written_twice_are_found() {
    let read = op(Read(9), 1, 2);
    assert_eq!(check(&[read], FROM_ZERO), Err(Violation::Invented(read)));
    assert_eq!(check(&[op(Write(1), 1, 2), op(Write(1), 3, 4)], FROM_ZERO), Err(Violation::SameValue(1)));
}

#[test]
fn epochs_are_checked_apart_when_failovers_may_lose() {
    let in_epoch = |epoch, operation| Operation { epoch, ..operation };
    let lost = [
        in_epoch(1, op(Write(1), 1, 2)),
        in_epoch(1, op(Write(2), 3, 4)),
        in_epoch(2, op(Read(1), 10, 11)),
        in_epoch(2, op(Write(3), 12, 13)),
        in_epoch(2, op(Read(3), 14, 15)),
    ];
    assert!(check(&lost, FROM_ZERO).is_err());
    assert_eq!(check_by_epoch(&lost), Ok(()));
    let mut stale = lost;
    stale[4].kind = Read(1);
    assert!(check_by_epoch(&stale).is_err(), "within an epoch nothing is excused");
}

#[test]
fn a_repeated_write_may_belong_to_the_epoch_before() {
    let in_epoch = |epoch, operation| Operation { epoch, ..operation };
    let repeated = Operation { repeated: true, ..in_epoch(2, op(Write(1), 1, 20)) };
    let history = [repeated, in_epoch(1, op(Write(2), 3, 4)), in_epoch(2, op(Read(2), 30, 31))];
    assert_eq!(check_by_epoch(&history), Ok(()));
}

/// Plays operations against a real register: each takes effect at one moment within its interval.
fn real_history(moves: &[(bool, u64, u64, bool)]) -> Vec<Operation> {
    // (moment, is_write, start, end, known), moments distinct by construction
    let mut points: Vec<(u64, Operation)> = Vec::new();
    for (number, (is_write, before, after, known)) in moves.iter().enumerate() {
        let moment = 1000 + number as u64 * 10;
        let kind = if *is_write { Write(number as u64 + 1) } else { Read(0) };
        let known = *known || !is_write;
        let end = known.then_some(moment + 1 + after);
        points.push((moment, Operation { kind, start: moment - before, end, epoch: 1, repeated: false }));
    }
    let mut value = 0;
    for (_, operation) in &mut points {
        match &mut operation.kind {
            Write(new) => value = *new,
            Read(seen) => *seen = value,
        }
    }
    points.into_iter().map(|(_, operation)| operation).collect()
}

/// By brute force over all orders: the reference for short histories without unknown outcomes.
fn any_order_fits(left: &[Operation], value: u64) -> bool {
    if left.is_empty() {
        return true;
    }
    let first_end = left.iter().filter_map(|o| o.end).min().unwrap_or(u64::MAX);
    (0..left.len()).any(|at| {
        let operation = left[at];
        let mut rest = left.to_vec();
        rest.remove(at);
        operation.start <= first_end
            && match operation.kind {
                Write(new) => any_order_fits(&rest, new),
                Read(seen) => seen == value && any_order_fits(&rest, value),
            }
    })
}

proptest! {
    #[test]
    fn real_histories_pass(moves in prop::collection::vec((any::<bool>(), 0u64..40, 0u64..40, prop::bool::weighted(0.9)), 1..200)) {
        prop_assert_eq!(check(&real_history(&moves), FROM_ZERO), Ok(()));
    }

    #[test]
    fn the_search_agrees_with_brute_force(
        moves in prop::collection::vec((any::<bool>(), 0u64..40, 0u64..40), 1..7),
        swap in any::<prop::sample::Index>(), other in 0u64..7,
    ) {
        let moves: Vec<_> = moves.into_iter().map(|(w, b, a)| (w, b, a, true)).collect();
        let mut history = real_history(&moves);
        let at = swap.index(history.len());
        let written: Vec<u64> = history.iter().filter_map(|o| match o.kind { Write(v) => Some(v), Read(_) => None }).collect();
        if let Read(seen) = &mut history[at].kind
            && (other == 0 || written.contains(&other))
        {
            *seen = other;
        }
        prop_assert_eq!(check(&history, FROM_ZERO).is_ok(), any_order_fits(&history, 0));
    }
}

#[test]
fn a_write_that_a_node_repeated_may_have_been_read_before_it_was_lost() {
    let in_epoch = |epoch, operation| Operation { epoch, ..operation };
    let read_early = [
        in_epoch(1, op(Write(1), 1, 2)),
        in_epoch(2, op(Write(2), 3, 20)),
        in_epoch(1, op(Read(2), 5, 6)),
        in_epoch(2, op(Read(2), 30, 31)),
    ];
    assert_eq!(check_by_epoch(&read_early), Ok(()));
    // But not before it was sent, and within the first epoch it is not taken back.
    let before = [read_early[0], in_epoch(2, op(Write(2), 7, 20)), in_epoch(1, op(Read(2), 5, 6))];
    assert!(check_by_epoch(&before).is_err());
    let back = [read_early[0], read_early[1], read_early[2], in_epoch(1, op(Read(1), 7, 8))];
    assert!(check_by_epoch(&back).is_err());
}
