//! A leader's view of one follower: where their logs meet, what is on the way, what it has acknowledged.

use std::collections::VecDeque;

use rdb_protocol::{Index, Position};

use crate::io::Time;

/// Bytes on the way to one follower that it has not acknowledged. At 10 ms of round trip and flush together this is
/// 800 MB/s, more than a node writes; it is also what a frozen follower costs in socket buffers.
pub(crate) const MAX_IN_FLIGHT_BYTES: u64 = 8 << 20;
/// One read of older records for one follower: long enough to be worth a disk access, and several fit the bound above.
pub(crate) const FETCH_BYTES: u64 = 1 << 20;

#[derive(Debug, Default)]
pub(crate) struct Progress {
    /// It said `Hello`, and its connection has not ended since.
    pub(crate) connected: bool,
    /// The logs' last common record was found; `sent` is meaningful.
    pub(crate) matched: bool,
    /// Greatest index of an `Ack` of this epoch (rule 11).
    pub(crate) acknowledged: Index,
    /// Last record that was sent to it, or is known to be common.
    pub(crate) sent: Position,
    /// A read of older records is under way.
    pub(crate) fetching: bool,
    /// (last index, bytes) of each message that is not acknowledged.
    in_flight: VecDeque<(Index, u64)>,
    in_flight_bytes: u64,
    /// Highest heartbeat round that it answered.
    pub(crate) round: u64,
    /// Its newest staleness probe that is not answered; 0 = none.
    pub(crate) probe: u64,
    pub(crate) answered_at: Option<Time>,
    /// It is caught up once it has acknowledged this.
    pub(crate) joins_at: Index,
    /// When the logs were last compared, so that a follower that never matches costs little.
    pub(crate) compared_at: Time,
}

impl Progress {
    /// The next records go after `common`; what was on the way is lost or will be repeated.
    pub(crate) fn resume_after(&mut self, common: Position) {
        self.matched = true;
        self.sent = common;
        self.fetching = false;
        self.forget_in_flight();
    }

    pub(crate) fn disconnected(&mut self) {
        self.connected = false;
        self.matched = false;
        self.fetching = false;
        self.probe = 0;
        self.forget_in_flight();
    }

    fn forget_in_flight(&mut self) {
        self.in_flight.clear();
        self.in_flight_bytes = 0;
    }

    /// May a record be sent straight on after `prev`? One record always may, however large.
    pub(crate) fn is_live_at(&self, prev: Position, bytes: u64) -> bool {
        self.connected
            && self.matched
            && !self.fetching
            && self.sent == prev
            && (self.in_flight_bytes == 0 || self.in_flight_bytes + bytes <= MAX_IN_FLIGHT_BYTES)
    }

    /// How much may be read for it now; `None`: it has everything, is being read for, or must acknowledge first.
    pub(crate) fn wants(&self, last: Position) -> Option<u64> {
        let room = MAX_IN_FLIGHT_BYTES.saturating_sub(self.in_flight_bytes);
        let wants = self.connected && self.matched && !self.fetching && self.sent.index < last.index && room > 0;
        wants.then_some(room.min(FETCH_BYTES))
    }

    pub(crate) fn sent(&mut self, upto: Position, bytes: u64) {
        self.sent = upto;
        self.in_flight.push_back((upto.index, bytes));
        self.in_flight_bytes += bytes;
    }

    pub(crate) fn acknowledged(&mut self, index: Index) {
        self.acknowledged = self.acknowledged.max(index);
        while let Some((upto, bytes)) = self.in_flight.front().copied()
            && upto <= index
        {
            self.in_flight.pop_front();
            self.in_flight_bytes -= bytes;
        }
    }

    /// The leader's log ends at `last` after all; nothing beyond was sent, and reads that were ordered may not have been.
    pub(crate) fn clamp(&mut self, last: Position) {
        self.fetching = false;
        if self.sent.index > last.index {
            self.sent = last;
        }
    }

    pub(crate) fn caught_up(&self) -> bool {
        self.connected && self.matched && self.acknowledged >= self.joins_at
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rdb_protocol::{Chain, Epoch};

    fn at(index: u64) -> Position {
        Position { epoch: Epoch(1), index: Index(index), chain: Chain(index) }
    }

    #[test]
    fn bytes_on_the_way_are_bounded_but_one_record_always_fits() {
        let mut progress = Progress { connected: true, ..Progress::default() };
        progress.resume_after(at(1));
        assert!(progress.is_live_at(at(1), 2 * MAX_IN_FLIGHT_BYTES));
        progress.sent(at(2), 2 * MAX_IN_FLIGHT_BYTES);
        assert!(!progress.is_live_at(at(2), 1));
        assert_eq!(progress.wants(at(9)), None);
        progress.acknowledged(at(2).index);
        assert!(progress.is_live_at(at(2), 1));
        assert_eq!(progress.wants(at(9)), Some(FETCH_BYTES));
        progress.fetching = true;
        assert!(!progress.is_live_at(at(2), 1), "records that are read come first");
    }
}
