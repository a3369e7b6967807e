//! What must hold for every plan, every swap and every open leader, whatever the scenario.

use std::collections::BTreeSet;

use rdb_control::{Action, AdminCall, ClusterStatus, Observed, Plan, Time};
use rdb_protocol::{BOOTSTRAP_VERSION, ClusterConfig, Epoch};

use super::node::{Node, Record};

#[derive(Default)]
pub struct Checker {
    acknowledged: BTreeSet<Record>,
    /// Acknowledged records that a permitted loss gave up.
    pub lost: BTreeSet<Record>,
    /// Epochs whose leader was chosen with permission to lose acknowledged records.
    lossy: BTreeSet<Epoch>,
    records: u64,
}

impl Checker {
    pub fn next_record(&mut self) -> u64 {
        self.records += 1;
        self.records
    }

    pub fn acknowledged(&mut self, records: &[Record]) {
        self.acknowledged.extend(records.iter().filter(|(_, id)| *id > 0));
    }

    pub fn opened(&mut self, leader: &Node, lossy: bool) {
        let log: BTreeSet<Record> = leader.log.iter().copied().collect();
        // One that was frozen while a later leader was chosen without it, by permission to lose what it has, opens alone,
        // and acknowledges nothing without a lease: what is acknowledged since that choice it can't have. Without such a
        // permission nobody can open when a later leader has opened.
        let passed_over = self.lossy.range(leader.led.next()..).next().copied();
        let due = |record: &&Record| passed_over.is_none_or(|epoch| record.0 < epoch);
        let missing: BTreeSet<Record> = self.acknowledged.difference(&log).filter(due).copied().collect();
        assert!(lossy || missing.is_empty(), "{} opened epoch {} without {missing:?}", leader.name, leader.led);
        self.acknowledged.retain(|record| !missing.contains(record));
        self.lost.extend(missing);
    }

    pub fn plan(&self, observed: &Observed, plan: &Plan, now: Time) {
        let swaps = plan.actions.iter().filter(|action| matches!(action, Action::SwapStatus(_))).count();
        assert!(swaps <= 1, "two swaps in a plan");
        if swaps == 1 {
            assert!(matches!(plan.actions.last(), Some(Action::SwapStatus(_))), "the swap is not the last action");
        }
        let wakes: Vec<Time> =
            plan.actions.iter().filter_map(|a| if let Action::WakeAt(time) = a { Some(*time) } else { None }).collect();
        assert!(wakes.len() <= 1 && wakes.iter().all(|time| *time > now), "wake-ups {wakes:?} at {now:?}");
        let stored = &observed.status;
        for action in &plan.actions {
            let Action::Call { to, call } = action else {
                if matches!(action, Action::AnswerLease { .. }) {
                    assert!(stored.has_leader(), "a lease is answered after rule 7");
                    assert!(plan.swap().is_none_or(|new| new.epoch == stored.epoch), "answered while electing");
                }
                continue;
            };
            self.call(stored, to, call);
        }
    }

    fn call(&self, stored: &ClusterStatus, to: &rdb_protocol::NodeName, call: &AdminCall) {
        let leader = stored.leader.as_ref().map(|leader| &leader.name);
        match call {
            AdminCall::Promote(promote) => {
                assert_eq!(Some(&promote.leader), stored.leader.as_ref(), "promoted before it was chosen");
                assert_eq!((promote.epoch, Some(to)), (stored.leader_epoch, leader));
                assert_eq!(stored.epoch, stored.leader_epoch, "promoted during an election");
            }
            AdminCall::Fence(fence) => {
                assert_eq!(fence.epoch, stored.epoch, "fenced for an epoch that is not stored");
                assert!(stored.leader_epoch < stored.epoch, "fenced after the choice");
            }
            AdminCall::Follow(follow) => {
                assert!(stored.has_leader() && Some(&follow.leader) == stored.leader.as_ref());
                assert_eq!(follow.epoch, stored.epoch);
                assert_ne!(Some(to), leader, "the leader is told to follow");
            }
            AdminCall::NextConfig(next) => {
                let pair = stored.config.as_ref().unwrap();
                assert_eq!(pair.next.as_ref(), Some(&next.next), "told of a config that is not stored");
                assert!(stored.has_leader() && Some(to) == leader && next.epoch == stored.epoch);
            }
            AdminCall::Settle(settle) => {
                let pair = stored.config.as_ref().unwrap();
                let stands =
                    |config: &ClusterConfig| (&config.cohort, config.acks) == (&settle.keep.cohort, settle.keep.acks);
                assert!(pair.standing().any(stands), "keeps what does not stand");
                assert_eq!(pair.next.as_ref().map(|next| next.version), Some(settle.version));
                assert!(stored.has_leader() && Some(to) == leader && settle.epoch == stored.epoch);
            }
            AdminCall::Init(init) => assert_eq!(Some(init.cluster), stored.cluster),
            AdminCall::StopWrites(stop) => assert_eq!(stop.epoch, stored.epoch),
            AdminCall::ResumeWrites(resume) => assert_eq!(resume.epoch, stored.epoch),
            AdminCall::Reseed(_) => assert_ne!(Some(to), leader, "the leader is re-seeded"),
        }
    }

    pub fn swap(&mut self, old: &ClusterStatus, new: &ClusterStatus) {
        assert!(new.epoch >= old.epoch, "the epoch went back");
        assert!(new.leader_epoch <= new.epoch);
        self.lossy.extend(new.loss_epoch);
        if new.epoch.0 >= old.epoch.0 + 1000 {
            // Rebuilt.
        } else if new.leader_epoch != old.leader_epoch {
            assert_eq!(new.epoch, old.epoch, "epoch and leader in one swap");
            assert!(old.leader_epoch < old.epoch && new.leader_epoch == old.epoch, "chosen twice");
            assert_eq!(new.config, old.config, "who leads never changes K");
        } else {
            assert_eq!(new.leader, old.leader, "another leader for the same epoch");
        }
        let Some(before) = &old.config else { return };
        let after = new.config.as_ref().unwrap();
        let forced = new.epoch > old.epoch && new.election.as_ref().is_some_and(|election| election.lossy);
        if before == after || new.epoch.0 >= old.epoch.0 + 1000 || forced {
            return;
        }
        if old.epoch.0 == 0 {
            assert_eq!(after.current.version, BOOTSTRAP_VERSION);
            return;
        }
        assert!(old.has_leader() && new.epoch == old.epoch, "a config change during an election");
        match (&before.next, &after.next) {
            (None, Some(next)) => {
                assert_eq!(before.current, after.current);
                assert!(next.version > old.config_version, "version {} was used before", next.version);
                assert_eq!(new.config_version, next.version);
            }
            (Some(next), None) => {
                let kept = (&after.current.cohort, after.current.acks);
                let known = [(&next.cohort, next.acks), (&before.current.cohort, before.current.acks)];
                assert!(known.contains(&kept), "settled on a third config");
                let bootstrapping = before.current.version == BOOTSTRAP_VERSION;
                let given_up = kept == (&before.current.cohort, before.current.acks) && after.current != *next;
                let version = if given_up && bootstrapping { BOOTSTRAP_VERSION } else { next.version };
                assert_eq!(
                    after.current.version, version,
                    "clients may write from the version after the bootstrap's on"
                );
            }
            (None, None) => panic!("current was rewritten without a change"),
            (Some(_), Some(_)) => panic!("next was rewritten while it stood"),
        }
    }
}
