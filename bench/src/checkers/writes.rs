//! Every acknowledged write exactly once; no write that surely failed.

use std::collections::BTreeMap;

use super::{At, Receipt};

/// Names a write: the client and its number there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct WriteId {
    pub client: u64,
    pub number: u64,
}

/// How a write ended for its client, all retries included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Answered with success, at this position.
    Acknowledged(At),
    /// It may have taken effect, once.
    Unknown,
    /// The system said that it did not take effect.
    Failed,
}

/// Rows that a write left, by write: the content of a table without any constraint that could hide a duplicate.
pub type Rows = BTreeMap<WriteId, u64>;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    pub acknowledged: u64,
    /// Acknowledged, not there, and no receipt says so.
    pub lost: Vec<WriteId>,
    /// Acknowledged, not there, named by a receipt.
    pub accounted: Vec<WriteId>,
    /// There more than once.
    pub duplicated: Vec<WriteId>,
    /// There although the system said that it did not run, or nobody ever sent it.
    pub phantom: Vec<WriteId>,
}

impl Verdict {
    pub fn is_clean(&self) -> bool {
        self.lost.is_empty() && self.duplicated.is_empty() && self.phantom.is_empty()
    }
}

/// Compares what clients were told with what is there.
pub fn check(writes: &BTreeMap<WriteId, Ended>, rows: &Rows, receipts: &[Receipt]) -> Verdict {
    let mut verdict = Verdict::default();
    for (id, ended) in writes {
        let count = rows.get(id).copied().unwrap_or(0);
        if count > 1 {
            verdict.duplicated.push(*id);
        }
        match ended {
            Ended::Acknowledged(at) => {
                verdict.acknowledged += 1;
                if count == 0 && receipts.iter().any(|receipt| receipt.covers(*at)) {
                    verdict.accounted.push(*id);
                } else if count == 0 {
                    verdict.lost.push(*id);
                }
            }
            Ended::Failed if count > 0 => verdict.phantom.push(*id),
            Ended::Failed | Ended::Unknown => {}
        }
    }
    verdict.phantom.extend(rows.keys().filter(|id| !writes.contains_key(id)));
    verdict
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u64) -> WriteId {
        WriteId { client: 1, number }
    }

    fn acknowledged(index: u64) -> Ended {
        Ended::Acknowledged(At { epoch: 1, index })
    }

    #[test]
    fn a_clean_history_is_clean() {
        let writes = BTreeMap::from([
            (id(1), acknowledged(10)),
            (id(2), Ended::Unknown),
            (id(3), Ended::Unknown),
            (id(4), Ended::Failed),
        ]);
        let verdict = check(&writes, &Rows::from([(id(1), 1), (id(2), 1)]), &[]);
        assert!(verdict.is_clean());
        assert_eq!(verdict.acknowledged, 1);
    }

    #[test]
    fn a_lost_write_is_found() {
        let writes = BTreeMap::from([(id(1), acknowledged(10)), (id(2), acknowledged(11))]);
        let verdict = check(&writes, &Rows::from([(id(1), 1)]), &[]);
        assert_eq!(verdict.lost, [id(2)]);
        assert!(!verdict.is_clean());
    }

    #[test]
    fn a_duplicate_is_found_whatever_the_client_was_told() {
        let writes = BTreeMap::from([(id(1), acknowledged(10)), (id(2), Ended::Unknown)]);
        let verdict = check(&writes, &Rows::from([(id(1), 2), (id(2), 2)]), &[]);
        assert_eq!(verdict.duplicated, [id(1), id(2)]);
    }

    #[test]
    fn a_write_that_was_called_failed_must_not_be_there() {
        let writes = BTreeMap::from([(id(1), Ended::Failed)]);
        let verdict = check(&writes, &Rows::from([(id(1), 1), (id(9), 1)]), &[]);
        assert_eq!(verdict.phantom, [id(1), id(9)]);
    }

    #[test]
    fn a_receipt_accounts_for_its_own_records_only() {
        let receipt = Receipt { epoch: 2, promoted: 10, acknowledged: 12 };
        let writes = BTreeMap::from([(id(1), acknowledged(10)), (id(2), acknowledged(12)), (id(3), acknowledged(13))]);
        let verdict = check(&writes, &Rows::new(), &[receipt]);
        assert_eq!(verdict.accounted, [id(2)]);
        assert_eq!(verdict.lost, [id(1), id(3)]);
    }
}
