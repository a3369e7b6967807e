//! What a driver may ask a [`Replica`]. Nothing here changes anything.

use std::collections::BTreeSet;
use std::time::Duration;

use rdb_protocol::settings::NodeSettings;
use rdb_protocol::status::{FollowerProgress, Promise, SettleReport};
use rdb_protocol::{ConfigPair, Epoch, Index, Member, Position};

use crate::io::{Persistent, Time};
use crate::progress::Progress;
use crate::replica::{Replica, Role};

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

impl Replica {
    pub fn role(&self) -> RoleView {
        match &self.role {
            Role::Follower(_) if self.shared.halted => RoleView::Halted,
            Role::Follower(_) => RoleView::Follower,
            Role::Leader(leader) if !leader.opened => RoleView::Opening,
            Role::Leader(leader) if leader.writes_stopped_until.is_some() => RoleView::WritesStopped,
            Role::Leader(_) => RoleView::Open,
        }
    }

    pub fn member(&self) -> &Member {
        self.shared.member()
    }

    /// All that must survive a restart, with today's hints: the driver writes it now and then while idle.
    pub fn persistent(&self) -> &Persistent {
        &self.shared.durable
    }

    /// The highest epoch that this node knows.
    pub fn epoch(&self) -> Epoch {
        self.shared.promised()
    }

    pub fn promise(&self) -> &Promise {
        &self.shared.durable.promise
    }

    pub fn led(&self) -> Epoch {
        self.shared.durable.led
    }

    pub fn lossy(&self) -> Epoch {
        self.shared.durable.lossy
    }

    pub fn settings(&self) -> &NodeSettings {
        &self.shared.durable.settings
    }

    /// The leader of [`Replica::epoch`] as far as known; this node itself only while it leads.
    pub fn leader(&self) -> Option<&Member> {
        let named = self.shared.durable.promise.leader.as_ref()?;
        let leads = self.as_leader().is_some();
        (leads || !self.shared.is_self(named)).then_some(named)
    }

    /// Leads, open for clients (rule 13); writes may be stopped.
    pub fn is_open(&self) -> bool {
        self.as_leader().is_some_and(|leader| leader.opened)
    }

    /// Rules 16 and 17: may this leader answer a linearizable read whose snapshot was taken before `now`? Only when open.
    pub fn lease_valid(&self, now: Time) -> bool {
        self.as_leader().is_some_and(|leader| leader.opened && leader.lease_valid(now))
    }

    /// Async mode: the request that an operator's answer would renew the lease for.
    pub fn lease_request(&self) -> Option<u64> {
        self.as_leader()?.lease_request(&self.shared)
    }

    pub fn committed(&self) -> Index {
        self.shared.durable.committed
    }

    /// End of the flushed log.
    pub fn flushed(&self) -> Position {
        self.shared.flushed
    }

    pub fn applied(&self) -> Index {
        self.shared.applied
    }

    pub fn acknowledged(&self) -> Index {
        self.shared.durable.acknowledged
    }

    pub fn config(&self) -> Option<&ConfigPair> {
        self.shared.durable.config.as_ref()
    }

    pub fn settled(&self) -> Option<SettleReport> {
        let leader = self.as_leader()?;
        Some(leader.settled.as_ref()?.report(leader.epoch, self.committed()))
    }

    /// Leader: one per follower that connected in this epoch.
    pub fn followers(&self, now: Time) -> Vec<FollowerProgress> {
        let Some(leader) = self.as_leader() else { return Vec::new() };
        let view = |(member, progress): (&Member, &Progress)| FollowerProgress {
            member: member.clone(),
            connected: progress.connected,
            acknowledged: progress.acknowledged,
            answered_ms_ago: leader.answered_ms_ago(member, now),
            caught_up: progress.caught_up(),
        };
        leader.followers.iter().map(view).collect()
    }

    /// Members whose connections the leader holds open now.
    pub fn connected(&self) -> BTreeSet<Member> {
        let all = self.as_leader().into_iter().flat_map(|leader| &leader.followers);
        all.filter(|(_, progress)| progress.connected).map(|(member, _)| member.clone()).collect()
    }

    /// Leader: the lowest index that a member still needs, which the log keeps as far as `logRetention` allows. 0 if one that
    /// counts was never seen in this epoch. Follower: nobody needs its log.
    pub fn needed_from(&self) -> Index {
        self.as_leader().map_or(Index(u64::MAX), |leader| leader.needed_from(self.member()))
    }

    /// Leader: age of the oldest record of its epoch that is not committed.
    pub fn uncommitted_ms(&self, now: Time) -> Option<u64> {
        self.as_leader()?.oldest_uncommitted().map(|since| now.millis_since(since))
    }

    /// Follower: milliseconds since it last heard its leader; `None` = never in this epoch.
    pub fn leader_heard_ms_ago(&self, now: Time) -> Option<u64> {
        match &self.role {
            Role::Follower(follower) => follower.heard_at().map(|at| now.millis_since(at)),
            Role::Leader(_) => None,
        }
    }

    /// Follower: connected, and has all that the leader had committed when it last spoke.
    pub fn is_streaming(&self) -> bool {
        match &self.role {
            Role::Follower(follower) => self.shared.link_up && follower.has_all(),
            Role::Leader(_) => false,
        }
    }

    /// Follower: the connection that was dialled stands.
    pub fn is_connected(&self) -> bool {
        self.shared.link_up
    }

    /// How old this node's answers may be at most: zero for a leader with a valid lease; for a follower, the time since it
    /// sent the last probe that was answered by a leader with a valid lease and whose committed index it has applied.
    pub fn staleness(&self, now: Time) -> Option<Duration> {
        match &self.role {
            Role::Follower(follower) => follower.staleness(now),
            Role::Leader(_) => self.lease_valid(now).then_some(Duration::ZERO),
        }
    }
}
