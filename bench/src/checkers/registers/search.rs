//! The search for an order: the algorithm of Wing and Gong ("Testing and verifying concurrent objects", 1993) with the
//! cache that Lowe added ("Testing for linearizability", 2017).
//!
//! Calls and returns are kept in one list, in the order of time. Any call before the first return may be the next to
//! take effect; one that fits is taken out together with its return, and the search goes on from the start of the list.
//! Meeting a return means that its operation should have been taken before: the last choice is undone and the next one
//! tried. A combination of operations taken and value reached that was seen before is not tried again, which keeps the
//! search linear in practice: only operations that overlap can be ordered in more than one way.

use std::collections::HashSet;

use super::{Initial, Kind, Operation};

/// An operation with an end, its own or one derived.
#[derive(Clone, Copy, Debug)]
pub(super) struct Closed {
    pub(super) operation: Operation,
    pub(super) end: u64,
}

/// The head of the list of events; events are numbered from 1.
const HEAD: usize = 0;

/// Calls and returns in the order of time, linked so that one can be taken out and put back at once.
struct Events {
    next: Vec<usize>,
    previous: Vec<usize>,
    /// For each event, which operation, and whether it is the call.
    what: Vec<(usize, bool)>,
    /// For each operation, its return.
    returns: Vec<usize>,
}

impl Events {
    fn new(history: &[Closed]) -> Events {
        let mut order: Vec<(u64, bool, usize)> = Vec::with_capacity(history.len() * 2);
        for (number, closed) in history.iter().enumerate() {
            // At the same time calls come first: such operations count as overlapping, which accuses nobody wrongly.
            order.push((closed.operation.start, false, number));
            order.push((closed.end, true, number));
        }
        order.sort_unstable();
        let count = order.len();
        let mut events = Events {
            next: (1..=count + 1).collect(),
            previous: std::iter::once(0).chain(0..=count).collect(),
            what: vec![(usize::MAX, false); count + 1],
            returns: vec![0; history.len()],
        };
        for (at, (_, is_return, number)) in order.into_iter().enumerate() {
            events.what[at + 1] = (number, !is_return);
            if is_return {
                events.returns[number] = at + 1;
            }
        }
        events
    }

    fn end(&self) -> usize {
        self.what.len()
    }

    fn unlink(&mut self, event: usize) {
        let (previous, next) = (self.previous[event], self.next[event]);
        self.next[previous] = next;
        self.previous[next] = previous;
    }

    fn relink(&mut self, event: usize) {
        let (previous, next) = (self.previous[event], self.next[event]);
        self.next[previous] = event;
        self.previous[next] = event;
    }

    /// Takes an operation out, call and return.
    fn lift(&mut self, call: usize) {
        self.unlink(call);
        self.unlink(self.returns[self.what[call].0]);
    }

    /// Puts it back; must be done in the reverse order of [`Events::lift`].
    fn unlift(&mut self, call: usize) {
        self.relink(self.returns[self.what[call].0]);
        self.relink(call);
    }
}

/// Which operations have been taken. Operations are numbered in the order of their start, so this is "all below `low`"
/// and a few above; that keeps the cache small in histories of hundreds of thousands of operations.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Taken {
    low: usize,
    above: Vec<usize>,
}

impl Taken {
    fn with(&self, number: usize) -> Taken {
        let mut with = self.clone();
        let at = with.above.partition_point(|other| *other < number);
        with.above.insert(at, number);
        let run = with.above.iter().enumerate().take_while(|(offset, number)| **number == with.low + offset).count();
        with.above.drain(..run);
        with.low += run;
        with
    }
}

/// The value after the operation, if it may happen at this value.
fn apply(value: Initial, kind: Kind) -> Option<Initial> {
    match (kind, value) {
        (Kind::Write(new), _) => Some(Initial::Value(new)),
        (Kind::Read(seen), Initial::Any) => Some(Initial::Value(seen)),
        (Kind::Read(seen), Initial::Value(is)) => (seen == is).then_some(value),
    }
}

/// Finds an order or names the operation at which the search got no further.
pub(super) fn linearize(history: &[Closed], initial: Initial) -> Result<(), Operation> {
    let mut history = history.to_vec();
    history.sort_by_key(|closed| (closed.operation.start, closed.end));
    let mut events = Events::new(&history);
    let mut seen: HashSet<(Taken, Option<u64>)> = HashSet::new();
    let mut choices: Vec<(usize, Initial, Taken)> = Vec::new();
    let (mut value, mut taken) = (initial, Taken::default());
    // The latest return that could not be passed, for the report.
    let mut stuck = 0;
    let mut event = events.next[HEAD];
    while events.next[HEAD] != events.end() {
        // A call is always met before its own return, so the list cannot end here without a choice or a return.
        let (number, is_call) = events.what[event];
        if is_call {
            let after = apply(value, history[number].operation.kind);
            let step = after.map(|after| (after, taken.with(number)));
            let key = |value| match value {
                Initial::Value(value) => Some(value),
                Initial::Any => None,
            };
            match step {
                Some((after, with)) if seen.insert((with.clone(), key(after))) => {
                    choices.push((event, value, std::mem::replace(&mut taken, with)));
                    value = after;
                    events.lift(event);
                    event = events.next[HEAD];
                }
                _ => event = events.next[event],
            }
            continue;
        }
        stuck = stuck.max(event);
        let Some((call, value_before, taken_before)) = choices.pop() else {
            return Err(history[events.what[stuck].0].operation);
        };
        (value, taken) = (value_before, taken_before);
        events.unlift(call);
        event = events.next[call];
    }
    Ok(())
}
