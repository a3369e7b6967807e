//! How a driver keeps its [`Observed`] up to date where every driver must do the same: calls and their answers, processes
//! that ended, swaps of the status, and observations that it keeps in instances of its own.

use std::collections::VecDeque;
use std::fmt;

use rdb_protocol::admin::Recruit;
use rdb_protocol::{Epoch, Incarnation, NodeName};

use crate::observed::{CallKey, CallOutcome, CallRecord, FenceAnswer, InstanceObservation, Observed};
use crate::plan::AdminCall;
use crate::status::ClusterStatus;
use crate::time::Time;

/// A call whose answer is awaited.
#[derive(Clone, Debug)]
pub struct CallInFlight {
    pub key: CallKey,
    pub sent_at: Time,
}

/// A swap of the status that is under way. One whose end is never known is dropped.
#[derive(Clone, Copy, Debug)]
pub struct SwapInFlight {
    before: Option<Epoch>,
    after: Option<Epoch>,
}

/// The last processes of an instance that ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExitedBoots(VecDeque<Incarnation>);

impl ExitedBoots {
    /// `decide` needs the leader's last one, and a leader's boot id is settled long before it could have been restarted so
    /// often.
    const REMEMBERED: usize = 32;

    /// Notes that this process surely ended; in place of the oldest one, if there are many.
    pub fn insert(&mut self, boot: Incarnation) {
        if self.contains(&boot) {
            return;
        }
        self.0.push_back(boot);
        if self.0.len() > ExitedBoots::REMEMBERED {
            self.0.pop_front();
        }
    }

    pub fn contains(&self, boot: &Incarnation) -> bool {
        self.0.contains(boot)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl InstanceObservation {
    /// Takes a recruit's answer, which counts even if the call's slot is taken by a later call; an answer of a higher epoch
    /// stays.
    pub fn take_fence_answer(&mut self, recruit: Recruit, received_at: Time) {
        if self.fence_answer.as_ref().is_none_or(|held| held.recruit.epoch <= recruit.epoch) {
            self.fence_answer = Some(FenceAnswer { recruit, received_at });
        }
    }
}

fn is_same_promotion(earlier: &AdminCall, call: &AdminCall) -> bool {
    matches!((earlier, call), (AdminCall::Promote(earlier), AdminCall::Promote(call)) if earlier.epoch == call.epoch)
}

impl Observed {
    /// Notes a call that is started now. `boot` is the process that the instance reports, if known.
    pub fn note_call(&mut self, to: NodeName, call: AdminCall, boot: Option<Incarnation>, at: Time) -> CallInFlight {
        let key = CallKey { to, kind: call.kind() };
        let earlier =
            self.calls.get(&key).filter(|earlier| earlier.boot == boot && is_same_promotion(&earlier.call, &call));
        let first_sent_at = earlier.map_or(at, |earlier| earlier.first_sent_at);
        let record = CallRecord { call, sent_at: at, first_sent_at, boot, outcome: None, finished_at: None };
        self.calls.insert(key.clone(), record);
        CallInFlight { key, sent_at: at }
    }

    /// Notes how a call ended, unless a later one is in its slot.
    pub fn note_outcome(&mut self, call: &CallInFlight, outcome: CallOutcome, at: Time) {
        let record = self.calls.get_mut(&call.key).filter(|record| record.sent_at == call.sent_at);
        if let Some(record) = record {
            record.outcome = Some(outcome);
            record.finished_at = Some(at);
        }
    }

    /// Takes the status as it is stored.
    pub fn take_status(&mut self, status: ClusterStatus, at: Time) {
        if status.epoch != self.status.epoch || self.elections.highest < status.epoch {
            self.elections.since = at;
        }
        self.elections.highest = self.elections.highest.max(status.epoch);
        self.status = status;
    }

    /// Notes that this status is about to be swapped in. Until the swap is known to have ended, no election counts as begun
    /// here: the leader may have been chosen.
    pub fn begin_swap(&mut self, status: &ClusterStatus) -> SwapInFlight {
        let before = self.elections.own.take();
        let after = if status.has_leader() {
            None
        } else if status.epoch > self.status.epoch {
            Some(status.epoch)
        } else {
            before
        };
        SwapInFlight { before, after }
    }

    /// The swap was stored.
    pub fn swap_stored(&mut self, swap: SwapInFlight) {
        self.elections.own = swap.after;
    }

    /// The swap was surely not stored.
    pub fn swap_refused(&mut self, swap: SwapInFlight) {
        self.elections.own = swap.before;
    }

    /// Takes the observations out of a driver's own instances, for one decision. Moving them costs a few pointers; copying
    /// every report for each decision would not.
    pub fn borrow_instances<'a>(
        &mut self,
        owned: impl IntoIterator<Item = (&'a NodeName, &'a mut InstanceObservation)>,
    ) {
        let take = |observed| std::mem::replace(observed, InstanceObservation::unknown(Time::default()));
        self.instances = owned.into_iter().map(|(name, observed)| (name.clone(), take(observed))).collect();
    }

    /// Gives back what [`Observed::borrow_instances`] took.
    pub fn return_instances<'a>(
        &mut self,
        owned: impl IntoIterator<Item = (&'a NodeName, &'a mut InstanceObservation)>,
    ) {
        for (name, observed) in owned {
            if let Some(borrowed) = self.instances.remove(name) {
                *observed = borrowed;
            }
        }
        self.instances.clear();
    }
}

impl fmt::Display for CallOutcome {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            CallOutcome::Done => write!(f, "done"),
            CallOutcome::Refused(refusal) => write!(f, "refused: {refusal}"),
            CallOutcome::Failed(message) => write!(f, "failed: {message}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use rdb_protocol::admin::Fence;
    use rdb_protocol::{Index, Member, Position};

    use super::*;

    fn name() -> NodeName {
        NodeName::new("db-1").unwrap()
    }

    fn fence(epoch: u64) -> AdminCall {
        AdminCall::Fence(Fence { epoch: Epoch(epoch) })
    }

    fn recruit(epoch: u64) -> Recruit {
        Recruit {
            epoch: Epoch(epoch),
            member: Member { name: name(), incarnation: Incarnation(1) },
            position: Position::ZERO,
            committed: Index::ZERO,
            answered_ms_ago: 0,
            had_opened: false,
            acknowledged: Index::ZERO,
            config: None,
        }
    }

    #[test]
    fn the_answer_to_a_call_that_was_replaced_is_not_taken_for_that_of_the_later_one() {
        let mut observed = Observed::default();
        let first = observed.note_call(name(), fence(1), None, Time::from_millis(1));
        let second = observed.note_call(name(), fence(2), None, Time::from_millis(2));
        observed.note_outcome(&first, CallOutcome::Done, Time::from_millis(3));
        assert_eq!(observed.calls[&second.key].outcome, None);
        observed.note_outcome(&second, CallOutcome::Done, Time::from_millis(4));
        let record = &observed.calls[&second.key];
        assert_eq!((&record.outcome, record.finished_at), (&Some(CallOutcome::Done), Some(Time::from_millis(4))));
    }

    #[test]
    fn a_late_fence_answer_of_a_lower_epoch_is_dropped() {
        let mut instance = InstanceObservation::unknown(Time::default());
        let epochs = [1, 3, 2].map(|epoch| {
            instance.take_fence_answer(recruit(epoch), Time::default());
            instance.fence_answer.as_ref().map(|answer| answer.recruit.epoch.0)
        });
        assert_eq!(epochs, [Some(1), Some(3), Some(3)]);
    }

    #[test]
    fn the_last_ended_processes_are_remembered() {
        let mut ended = ExitedBoots::default();
        let count = ExitedBoots::REMEMBERED as u64;
        (0..=count).for_each(|boot| ended.insert(Incarnation(boot)));
        ended.insert(Incarnation(count));
        let held: Vec<u64> = (0..=count).filter(|boot| ended.contains(&Incarnation(*boot))).collect();
        assert_eq!(held, (1..=count).collect::<Vec<_>>());
    }

    #[test]
    fn borrowed_observations_go_back_to_those_that_are_still_there() {
        let since = |ms| InstanceObservation::unknown(Time::from_millis(ms));
        let names = ["db-1", "db-2"].map(|name| NodeName::new(name).unwrap());
        let mut owned = [since(1), since(2)];
        let mut observed = Observed::default();
        observed.borrow_instances(names.iter().zip(&mut owned));
        assert_eq!(observed.instances.values().cloned().collect::<Vec<_>>(), [since(1), since(2)]);
        observed.return_instances(names.iter().zip(&mut owned).skip(1));
        assert_eq!((owned, observed.instances.len()), ([since(0), since(2)], 0));
    }
}
