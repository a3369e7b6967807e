//! What must hold whatever happens. It sees logs, announcements and the clock, and nothing of how the core decides.

use std::collections::BTreeMap;

use rdb_protocol::{Epoch, Index, Member, Position};
use rdb_replication::{LogView, Replica, RoleView, Time};

use super::log::MemLog;

#[derive(Debug, Default)]
pub struct Checker {
    /// Everything that any node announced as committed.
    committed: BTreeMap<Index, Position>,
    /// Who committed as the leader of an epoch.
    leaders: BTreeMap<Epoch, Member>,
    /// (when, index) of what an open leader announced: clients have their answers.
    acknowledged: Vec<(Time, Index)>,
    /// A loss was permitted, or an operator broke its rules: what was committed may be gone, and two leaders may serve.
    pub loss_permitted: bool,
}

impl Checker {
    /// A node says that everything up to `index` is committed.
    pub fn committed(&mut self, replica: &Replica, log: &MemLog, index: Index, now: Time) {
        assert!(index <= log.flushed, "{} announced {index}, flushed {}", replica.member(), log.flushed);
        let leads = matches!(replica.role(), RoleView::Opening | RoleView::Open | RoleView::WritesStopped);
        for at in (log.base.index.0.max(1)..=index.0).map(Index) {
            let ours = log.position(at).expect("committed records are in the log");
            match self.committed.get(&at) {
                Some(known) if *known == ours || self.loss_permitted => {}
                Some(known) => panic!("{}: {ours} is committed, but {known:?} was, not {ours:?}", replica.member()),
                None => {
                    assert!(leads || self.loss_permitted, "{} announced {ours} before any leader", replica.member())
                }
            }
            self.committed.insert(at, ours);
        }
        if leads {
            let first = self.leaders.entry(replica.epoch()).or_insert_with(|| replica.member().clone());
            assert_eq!(first, replica.member(), "two nodes committed in epoch {}", replica.epoch());
        }
        if replica.is_open() {
            self.acknowledged.push((now, index));
        }
    }

    /// A leader opens: it must have all that earlier leaders committed. (One that opens late, after its successor, can do no
    /// harm: it cannot commit, and its lease is checked apart.)
    pub fn opened(&self, replica: &Replica, log: &MemLog) {
        let earlier = self.committed.iter().filter(|(_, position)| position.epoch <= replica.epoch());
        for (index, position) in earlier.filter(|(index, _)| **index > log.base.index) {
            let ours = log.position(*index);
            assert!(
                ours == Some(*position) || self.loss_permitted,
                "{} opened epoch {} without {position}: has {ours:?}",
                replica.member(),
                replica.epoch()
            );
        }
    }

    /// After every step.
    pub fn check<'a>(&self, now: Time, replicas: impl Iterator<Item = &'a Replica> + Clone) {
        let newest_open = replicas.clone().filter(|replica| replica.is_open()).map(Replica::epoch).max();
        for replica in replicas {
            // Rule 16: no lease outlives the opening of a later epoch.
            if replica.lease_valid(now) && !self.loss_permitted {
                let (epoch, name) = (replica.epoch(), replica.member());
                assert!(
                    newest_open <= Some(epoch),
                    "{name} has the lease of epoch {epoch}, but {newest_open:?} is open"
                );
            }
            // Bounded staleness: everything that was acknowledged so long ago is here. (A leader answers its clients only
            // once it has applied, which is later than its announcement.)
            if let Some(staleness) = replica.staleness(now).filter(|_| replica.role() == RoleView::Follower)
                && !self.loss_permitted
            {
                let since = Time(now.0 - staleness.as_micros() as u64);
                let missing = self.acknowledged.iter().find(|(at, index)| *at < since && *index > replica.applied());
                assert!(
                    missing.is_none(),
                    "{} claims to be {staleness:?} behind at most: {missing:?}",
                    replica.member()
                );
            }
        }
    }

    pub fn highest(&self) -> Index {
        self.committed.keys().next_back().copied().unwrap_or_default()
    }

    pub fn epochs_that_committed(&self) -> usize {
        self.leaders.len()
    }
}
