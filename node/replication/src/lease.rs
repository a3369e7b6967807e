//! Rules 16 and 17: until when a leader may answer linearizable reads, and in async mode acknowledge writes.
//!
//! A lease starts when the round was *sent*: an answer says that its sender had promised nothing higher at some time after
//! that. Nothing here is kept per config; each question is answered from the rounds that the followers answered, so that a
//! lease which was not earned under the config that stays is gone with the other config.

use std::collections::VecDeque;
use std::time::Duration;

use rdb_protocol::{ClusterConfig, ConfigPair, Member};

use crate::io::Time;

/// Heartbeat rounds whose send time is kept: those younger than D. At the shortest heartbeat (10 ms) and the longest lease
/// (30 s) these are 3000; beyond the bound the oldest are forgotten, which can only shorten a lease.
const MAX_ROUNDS: usize = 4096;

#[derive(Debug, Default)]
pub(crate) struct Rounds {
    /// Number of the newest round; 0 = none yet.
    newest: u64,
    /// Send times of the rounds up to `newest`, oldest first.
    sent: VecDeque<Time>,
}

impl Rounds {
    pub(crate) fn begin(&mut self, now: Time, lease: Duration) {
        self.newest += 1;
        self.sent.push_back(now);
        let is_useless = |sent: &Time| sent.after(lease) <= now;
        while self.sent.len() > MAX_ROUNDS || self.sent.front().is_some_and(is_useless) {
            self.sent.pop_front();
        }
    }

    pub(crate) fn newest(&self) -> u64 {
        self.newest
    }

    fn sent_at(&self, round: u64) -> Option<Time> {
        let age = self.newest.checked_sub(round)?;
        let from_the_end = usize::try_from(age).ok()?.checked_add(1)?;
        self.sent.get(self.sent.len().checked_sub(from_the_end)?).copied()
    }
}

/// What a leader's lease follows from.
pub(crate) struct Evidence<'a, F: Fn(&Member) -> u64> {
    pub(crate) leader: &'a Member,
    pub(crate) rounds: &'a Rounds,
    /// Highest round that a follower answered.
    pub(crate) answered: F,
    /// Highest request that the operator answered (rule 17); requests have the numbers of rounds.
    pub(crate) operator: u64,
    pub(crate) duration: Duration,
    #[cfg(feature = "planted")]
    pub(crate) now: Time,
}

/// Async mode for more than the leader alone: writes too are acknowledged only within the lease (rule 17).
pub(crate) fn is_async(config: &ClusterConfig, leader: &Member) -> bool {
    config.acks == 0 && config.cohort.iter().any(|member| member != leader)
}

impl<F: Fn(&Member) -> u64> Evidence<'_, F> {
    /// End of the lease: a round under either config suffices while two stand.
    pub(crate) fn until(&self, pair: &ConfigPair) -> Time {
        pair.standing().map(|config| self.under(config)).max().unwrap_or_default()
    }

    fn under(&self, config: &ClusterConfig) -> Time {
        if is_async(config, self.leader) {
            let others = config.cohort.iter().filter(|member| *member != self.leader);
            let by_all = others.map(&self.answered).min().unwrap_or(0);
            return self.from(by_all.max(self.operator));
        }
        if config.acks == 0 && config.cohort.contains(self.leader) {
            return Time::NEVER;
        }
        let held = |member: &Member| match member == self.leader {
            true => self.rounds.newest(),
            false => (self.answered)(member),
        };
        self.from(config.held_by_enough(held))
    }

    fn from(&self, round: u64) -> Time {
        rdb_protocol::if_planted!(LeaseFromReceipt => {
            // As if the answer had taken no time at all.
            return self.rounds.sent_at(round).map_or(Time(0), |_| self.now.after(self.duration));
        });
        self.rounds.sent_at(round).map_or(Time(0), |sent| sent.after(self.duration))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn send_times_are_found_by_round_and_forgotten_when_useless() {
        let mut rounds = Rounds::default();
        let lease = Duration::from_micros(100);
        for round in 1..=5 {
            rounds.begin(Time(round * 30), lease);
        }
        assert_eq!(rounds.newest(), 5);
        assert_eq!(rounds.sent_at(5), Some(Time(150)));
        assert_eq!(rounds.sent_at(2), Some(Time(60)));
        assert_eq!(rounds.sent_at(1), None, "too old");
        assert_eq!(rounds.sent_at(6), None, "not sent");
        assert_eq!(rounds.sent_at(0), None);
    }
}
