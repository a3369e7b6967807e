//! From recorded histories to violations. Pure and independent of the system under test: no type of the nodes is used
//! here but plain numbers, so a mistake there cannot hide behind the same mistake here.
//!
//! - [`writes`]: every acknowledged write is there exactly once; nothing is there that surely failed.
//! - [`sightings`]: nobody has read a write that was lost later.
//! - [`registers`]: reads and writes of registers are linearizable.
//! - [`content`]: all nodes hold the same.
//!
//! Losses that are permitted (async mode) are those which a [`Receipt`] covers, record by record; everything else counts.

pub mod content;
pub mod registers;
pub mod sightings;
pub mod writes;

/// Where a record lies: the epoch that it was written in, and its index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct At {
    pub epoch: u64,
    pub index: u64,
}

/// What a failover said about the records that it may have lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// The epoch that began with this failover.
    pub epoch: u64,
    /// Index of the last record that survived.
    pub promoted: u64,
    /// Index of the last record known to have been acknowledged before it.
    pub acknowledged: u64,
}

impl Receipt {
    /// Does this receipt say that the record may be lost? It must have been written in an epoch before the new one and lie
    /// behind the promoted index, but not beyond what the receipt calls acknowledged: a receipt that names too little is
    /// as wrong as none.
    pub fn covers(&self, record: At) -> bool {
        record.epoch < self.epoch && record.index > self.promoted && record.index <= self.acknowledged
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_receipt_covers_what_it_names_and_no_more() {
        let at = |epoch, index| At { epoch, index };
        let receipt = Receipt { epoch: 4, promoted: 100, acknowledged: 105 };
        assert!(receipt.covers(at(3, 101)) && receipt.covers(at(3, 105)));
        assert!(!receipt.covers(at(3, 100)), "it was promoted");
        assert!(!receipt.covers(at(3, 106)), "the receipt does not know of it");
        assert!(!receipt.covers(at(4, 101)), "it was written after the failover");
    }
}
