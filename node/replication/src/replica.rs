//! [`Replica`]: the entrance.

use std::collections::BTreeSet;

use rdb_protocol::settings::NodeSettings;
use rdb_protocol::status::{FollowerProgress, Promise, SettleReport};
use rdb_protocol::{ConfigPair, Epoch, Index, Member, Position};

use crate::io::{Input, LogView, Output, Persistent, StartError, Time};

/// Where the writer's next record goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    pub epoch: Epoch,
    /// The record before it.
    pub previous: Position,
}

/// The role as a driver sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RoleView {
    Follower,
    /// Leader whose `EpochStart` is not committed and applied, or which waits for an old lease to end.
    Opening,
    /// Leader, open for clients.
    Open,
    /// Leader that accepts no new writes for a switchover; reads go on.
    WritesStopped,
    /// See [`crate::Output::Halt`].
    Halted,
}

/// The replication state machine of one node.
#[derive(Debug)]
pub struct Replica {
    persistent: Persistent,
}

impl Replica {
    /// From the control file and the recovered log. `boot` is the start of this process: rule 16 counts it as an answer
    /// to the old leader. The first input must be [`Input::Start`].
    pub fn new(persistent: Persistent, _log: &dyn LogView, _boot: Time) -> Result<Replica, StartError> {
        Ok(Replica { persistent })
    }

    /// The only way in. `now` never steps back.
    pub fn step(&mut self, now: Time, input: Input, log: &dyn LogView) -> Vec<Output> {
        let mut out = Vec::new();
        self.step_into(now, input, log, &mut out);
        out
    }

    /// As [`Replica::step`], into a vector that the caller keeps.
    pub fn step_into(&mut self, _now: Time, _input: Input, _log: &dyn LogView, _out: &mut Vec<Output>) {}

    /// Takes the next place in the log for the writer: the core appends no record of its own until it is proposed to or
    /// released. `None`: not an open leader, writes stopped, no lease in async mode, or already reserved.
    pub fn reserve_slot(&mut self, _now: Time) -> Option<Slot> {
        None
    }

    /// The next place in the log, if this node would take a write now. Does not reserve it.
    pub fn next_slot(&self, _now: Time) -> Option<Slot> {
        None
    }

    /// When the next `Tick` is due at the latest.
    pub fn wake_at(&self) -> Time {
        Time::NEVER
    }

    pub fn role(&self) -> RoleView {
        RoleView::Follower
    }

    pub fn member(&self) -> &Member {
        &self.persistent.member
    }

    /// All that must survive a restart, with today's hints: the driver writes it now and then while idle.
    pub fn persistent(&self) -> &Persistent {
        &self.persistent
    }

    /// The highest epoch that this node knows.
    pub fn epoch(&self) -> Epoch {
        self.persistent.promise.epoch
    }

    pub fn promise(&self) -> &Promise {
        &self.persistent.promise
    }

    pub fn led(&self) -> Epoch {
        self.persistent.led
    }

    pub fn settings(&self) -> &NodeSettings {
        &self.persistent.settings
    }

    /// The leader of [`Replica::epoch`] as far as known; this node itself only while it leads.
    pub fn leader(&self) -> Option<&Member> {
        None
    }

    /// Leads, open for clients (rule 13); writes may be stopped.
    pub fn is_open(&self) -> bool {
        false
    }

    /// Rules 16 and 17: may this leader answer a linearizable read whose snapshot was taken before `now`?
    pub fn lease_valid(&self, _now: Time) -> bool {
        false
    }

    /// Async mode: the request that an operator's answer would renew the lease for.
    pub fn lease_request(&self) -> Option<u64> {
        None
    }

    pub fn committed(&self) -> Index {
        self.persistent.committed
    }

    /// End of the flushed log.
    pub fn flushed(&self) -> Position {
        Position::ZERO
    }

    pub fn applied(&self) -> Index {
        Index::ZERO
    }

    pub fn acknowledged(&self) -> Index {
        self.persistent.acknowledged
    }

    pub fn config(&self) -> Option<&ConfigPair> {
        self.persistent.config.as_ref()
    }

    pub fn settled(&self) -> Option<SettleReport> {
        None
    }

    /// Leader: one per follower that connected in this epoch.
    pub fn followers(&self, _now: Time) -> Vec<FollowerProgress> {
        Vec::new()
    }

    /// Members whose connections the leader holds open now.
    pub fn connected(&self) -> BTreeSet<Member> {
        BTreeSet::new()
    }

    /// Leader: the lowest index that a follower of this epoch has not acknowledged; the log keeps records from there on, as
    /// far as `logRetention` allows.
    pub fn needed_from(&self) -> Index {
        Index::ZERO
    }

    /// Leader: age of the oldest record that is not committed.
    pub fn uncommitted_ms(&self, _now: Time) -> Option<u64> {
        None
    }

    /// Follower: milliseconds since it last heard its leader; `None` = never in this epoch.
    pub fn leader_heard_ms_ago(&self, _now: Time) -> Option<u64> {
        None
    }

    /// Follower: connected to its leader, and has all that the leader had announced as committed when it last spoke.
    pub fn is_streaming(&self) -> bool {
        false
    }

    /// How old this node's answers may be at most: zero for a leader with a valid lease; for a follower, the time since it
    /// sent the last probe that was answered by a leader with a valid lease and whose committed index it has applied.
    pub fn staleness(&self, _now: Time) -> Option<std::time::Duration> {
        None
    }
}
