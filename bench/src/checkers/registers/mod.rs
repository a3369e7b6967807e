//! Is the history of a register linearizable? Each operation must seem to happen at one moment between its start and its
//! end, and a read must return the value of the last write before that moment.
//!
//! [`search`] looks for such an order; this module prepares the history for it:
//! - A write whose outcome its client does not know may take effect at any time later, or never. If no read returned its
//!   value, leaving it out changes nothing: in any valid order the next operation after it that looks at the value is
//!   none, for another write comes between. If some read returned it, it happened before the first of those reads ended.
//!   (Both need that no two writes carry the same value; the recorder takes care of that.)
//! - A read without an answer says nothing and is left out.
//!
//! After a failover that lost records by permission (async mode) the whole is not linearizable, but each epoch is, from
//! whatever value survived: [`check_by_epoch`].

mod search;

use std::collections::{BTreeMap, BTreeSet};

/// What a client asked a register for, and what it was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Unique among the writes of the register.
    Write(u64),
    Read(u64),
}

/// One operation of one client. Times in nanoseconds since some common moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operation {
    pub kind: Kind,
    pub start: u64,
    /// `None`: outcome unknown.
    pub end: Option<u64>,
    /// Epoch that the answer names; 0 with an unknown outcome.
    pub epoch: u64,
    /// It was sent more than once, so it may have taken effect in an earlier epoch than that of its answer.
    pub repeated: bool,
}

/// The value before the history began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Initial {
    Value(u64),
    /// Whatever the first read says.
    Any,
}

/// Why a history is not linearizable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Violation {
    /// Two writes of one value: the recorder is broken, and the check would mean nothing.
    SameValue(u64),
    /// A read returned what nobody wrote.
    Invented(Operation),
    /// However the operations before it are ordered, this one does not fit.
    NotLinearizable(Operation),
}

/// Checks the whole history of one register.
pub fn check(history: &[Operation], initial: Initial) -> Result<(), Violation> {
    let mut written = BTreeSet::new();
    for operation in history {
        if let Kind::Write(value) = operation.kind
            && !written.insert(value)
        {
            return Err(Violation::SameValue(value));
        }
    }
    if let Initial::Value(first) = initial {
        let invented = |operation: &&Operation| {
            matches!(operation.kind, Kind::Read(value) if operation.end.is_some()
                && value != first && !written.contains(&value))
        };
        if let Some(operation) = history.iter().find(invented) {
            return Err(Violation::Invented(*operation));
        }
    }
    search::linearize(&prepare(history), initial).map_err(Violation::NotLinearizable)
}

/// Checks each epoch for itself, from any first value: what still holds when failovers may lose writes.
pub fn check_by_epoch(history: &[Operation]) -> Result<(), Violation> {
    let epochs: BTreeSet<u64> = history.iter().filter(|o| o.end.is_some()).map(|o| o.epoch).collect();
    for epoch in epochs {
        let part: Vec<Operation> = history
            .iter()
            .filter(|o| o.epoch == epoch || o.end.is_none() || (o.epoch > epoch && matches!(o.kind, Kind::Write(_))))
            .map(|o| match o.kind {
                // It may have taken effect before this epoch, and been overwritten or lost there.
                Kind::Write(_) if o.repeated => Operation { end: None, ..*o },
                // It may have taken effect in this epoch already, been lost, and been repeated by a node under its key.
                Kind::Write(_) if o.epoch > epoch => Operation { end: None, ..*o },
                _ => *o,
            })
            .collect();
        check(&part, Initial::Any)?;
    }
    Ok(())
}

/// Leaves out what says nothing and bounds what is open, as the module header explains.
fn prepare(history: &[Operation]) -> Vec<search::Closed> {
    let mut first_read: BTreeMap<u64, u64> = BTreeMap::new();
    for operation in history {
        if let (Kind::Read(value), Some(end)) = (operation.kind, operation.end) {
            let earliest = first_read.entry(value).or_insert(end);
            *earliest = (*earliest).min(end);
        }
    }
    let close = |operation: &Operation| {
        let end = match (operation.kind, operation.end) {
            (_, Some(end)) => end,
            (Kind::Read(_), None) => return None,
            // A read that ended before the write began is left to the search, which will not find an order for it.
            (Kind::Write(value), None) => first_read.get(&value).copied()?.max(operation.start),
        };
        Some(search::Closed { operation: *operation, end })
    };
    history.iter().filter_map(close).collect()
}

#[cfg(test)]
mod tests;
