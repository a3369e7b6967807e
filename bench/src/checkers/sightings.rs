//! No reader, on any node and at any level, has seen a write that was lost later.

use std::collections::{BTreeMap, BTreeSet};

use super::writes::{Ended, Rows, WriteId};
use super::{At, Receipt};

/// What readers saw, with the position that the reading node stated. The same write seen again later adds nothing: only
/// the earliest position is kept, which is the closest to where it was written.
#[derive(Clone, Debug, Default)]
pub struct Sightings {
    seen: BTreeMap<WriteId, At>,
    /// Rows seen, counting repeats: shows that readers did read.
    pub rows: u64,
}

impl Sightings {
    pub fn record(&mut self, id: WriteId, node_at: At) {
        self.rows += 1;
        let first = self.seen.entry(id).or_insert(node_at);
        *first = (*first).min(node_at);
    }

    pub fn merge(&mut self, other: Sightings) {
        self.rows += other.rows;
        for (id, at) in other.seen {
            let first = self.seen.entry(id).or_insert(at);
            *first = (*first).min(at);
        }
    }
}

/// Writes that were seen and are gone, unless a receipt covers them. A write whose client got no position is placed at
/// that of its sighting.
pub fn check(
    seen: &Sightings,
    writes: &BTreeMap<WriteId, Ended>,
    rows: &Rows,
    receipts: &[Receipt],
) -> BTreeSet<WriteId> {
    let covered = |id: &WriteId, sighted: At| {
        let at = match writes.get(id) {
            Some(Ended::Acknowledged(at)) => *at,
            _ => sighted,
        };
        receipts.iter().any(|receipt| receipt.covers(at))
    };
    seen.seen.iter().filter(|(id, at)| !rows.contains_key(id) && !covered(id, **at)).map(|(id, _)| *id).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: WriteId = WriteId { client: 3, number: 4 };
    const AT: At = At { epoch: 1, index: 20 };

    #[test]
    fn a_read_of_a_write_that_is_lost_later_is_found() {
        let mut seen = Sightings::default();
        seen.record(ID, AT);
        let unknown = BTreeMap::from([(ID, Ended::Unknown)]);
        assert!(check(&seen, &unknown, &Rows::from([(ID, 1)]), &[]).is_empty());
        assert_eq!(check(&seen, &unknown, &Rows::new(), &[]), BTreeSet::from([ID]));
    }

    #[test]
    fn only_a_receipt_excuses_it() {
        let mut seen = Sightings::default();
        seen.record(ID, At { epoch: 1, index: 25 });
        let mut other = Sightings::default();
        other.record(ID, AT);
        seen.merge(other);
        assert_eq!(seen.rows, 2);
        let unknown = BTreeMap::from([(ID, Ended::Unknown)]);
        let receipt = |promoted| Receipt { epoch: 2, promoted, acknowledged: 20 };
        assert!(check(&seen, &unknown, &Rows::new(), &[receipt(19)]).is_empty());
        assert_eq!(check(&seen, &unknown, &Rows::new(), &[receipt(20)]).len(), 1);
    }
}
