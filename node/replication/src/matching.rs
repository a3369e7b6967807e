//! Where two logs part (rule 10). Within one epoch all logs are prefixes of each other, since one leader wrote them, so the
//! end of each epoch tells all: the last common record is the nearer end of the newest epoch that both have.

use rdb_protocol::Position;

use crate::io::LogView;
use crate::wire::MAX_BOUNDARIES;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Match {
    /// The last common record. The follower verifies it by its chain.
    At(Position),
    /// It is not in the leader's log any more, or below the follower's first record.
    SeedRequired,
}

/// A node's epoch ends as it states them.
pub(crate) fn boundaries(log: &dyn LogView) -> Vec<Position> {
    let mut ends = log.epochs();
    ends.drain(..ends.len().saturating_sub(MAX_BOUNDARIES));
    ends
}

/// The last record that the leader's `log` shares with a follower that stated `base` and `boundaries`.
pub(crate) fn last_common(log: &dyn LogView, base: Position, boundaries: &[Position]) -> Match {
    let ours = log.epochs();
    let our_end = |theirs: &Position| {
        let same_epoch = |ours: &&Position| ours.epoch == theirs.epoch;
        ours.iter().chain([&log.base()]).filter(same_epoch).map(|end| end.index).max()
    };
    for theirs in boundaries.iter().rev().chain([&base]) {
        if log.position(theirs.index) == Some(*theirs) {
            return Match::At(*theirs);
        }
        // Ours is the shorter one in this epoch: our end is within theirs, unless that is below their first record.
        if let Some(end) = our_end(theirs)
            && end < theirs.index
            && end >= base.index
            && let Some(position) = log.position(end)
        {
            return Match::At(position);
        }
    }
    Match::SeedRequired
}

#[cfg(test)]
mod tests {
    use super::*;
    use rdb_protocol::{Chain, Epoch, Index};

    /// A log given by the epochs of its records; the chain is a digest of them, as in the real one.
    struct Epochs(u64, Vec<u64>);

    impl Epochs {
        fn at(&self, index: u64) -> Position {
            if index == 0 {
                return Position::ZERO;
            }
            let records = &self.1[..index as usize];
            let chain = records.iter().fold(1, |chain: u64, epoch| chain.wrapping_mul(31).wrapping_add(*epoch));
            Position { epoch: Epoch(records[records.len() - 1]), index: Index(index), chain: Chain(chain) }
        }
    }

    impl LogView for Epochs {
        fn last(&self) -> Position {
            self.at(self.1.len() as u64)
        }
        fn base(&self) -> Position {
            self.at(self.0)
        }
        fn position(&self, index: Index) -> Option<Position> {
            (self.0..=self.1.len() as u64).contains(&index.0).then(|| self.at(index.0))
        }
        fn epochs(&self) -> Vec<Position> {
            let ends = self.0 + 1..=self.1.len() as u64;
            let is_end = |i: &u64| self.1.get(*i as usize).is_none_or(|next| *next != self.at(*i).epoch.0);
            ends.filter(is_end).map(|i| self.at(i)).collect()
        }
    }

    fn common(leader: (u64, &[u64]), follower: (u64, &[u64])) -> Option<u64> {
        let follower = Epochs(follower.0, follower.1.to_vec());
        let leader = Epochs(leader.0, leader.1.to_vec());
        match last_common(&leader, follower.base(), &boundaries(&follower)) {
            Match::At(position) => {
                assert_eq!(leader.position(position.index), Some(position));
                Some(position.index.0)
            }
            Match::SeedRequired => None,
        }
    }

    #[test]
    fn finds_the_last_common_record() {
        assert_eq!(common((0, &[1, 1, 2]), (0, &[])), Some(0));
        assert_eq!(common((0, &[1, 1, 2]), (0, &[1])), Some(1));
        assert_eq!(common((0, &[1, 1, 2]), (0, &[1, 1, 1, 1])), Some(2));
        assert_eq!(common((0, &[1, 1, 3, 3]), (0, &[1, 1, 2, 2])), Some(2));
        assert_eq!(common((0, &[1, 3, 3]), (0, &[1, 3, 3, 3])), Some(3));
        assert_eq!(common((0, &[2]), (0, &[1, 1])), Some(0));
    }

    #[test]
    fn asks_for_a_seed_where_the_logs_do_not_meet() {
        assert_eq!(common((2, &[1, 1, 2]), (0, &[])), None);
        assert_eq!(common((2, &[1, 1, 2]), (0, &[1])), None);
        assert_eq!(common((2, &[1, 1, 2]), (0, &[1, 1])), Some(2));
        assert_eq!(common((2, &[1, 1, 2]), (0, &[1, 1, 1])), Some(2), "our base ends epoch 1");
        assert_eq!(common((2, &[1, 1, 2]), (2, &[1, 1])), Some(2));
        assert_eq!(common((0, &[1, 3]), (2, &[1, 1, 2])), None, "they part below its base");
    }

    #[test]
    fn agrees_with_a_search_record_by_record() {
        // All pairs of logs that leaders of epochs 1 to 3 can make: each continues a prefix of an earlier one.
        let mut logs: Vec<Vec<u64>> = vec![vec![], vec![1], vec![1, 1]];
        for epoch in 2..=3 {
            // One history per epoch: its leader continued one of the logs, and others have prefixes of that.
            let start = logs[logs.len() - 1 - usize::from(epoch == 3)].clone();
            for more in 1..=2 {
                logs.push([start.clone(), vec![epoch; more]].concat());
            }
        }
        for leader in &logs {
            for follower in &logs {
                let expected = leader.iter().zip(follower).take_while(|(a, b)| a == b).count() as u64;
                assert_eq!(common((0, leader), (0, follower)), Some(expected), "{leader:?} {follower:?}");
            }
        }
    }
}
