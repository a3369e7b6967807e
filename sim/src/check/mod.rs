//! What must hold, whatever happens. The checkers see what nodes announce, what clients are told and what is swapped into the
//! status; they share no code with the cores, and know nothing of how those decide.
//!
//! | module | holds |
//! | --- | --- |
//! | this | committed prefixes, leaders, acknowledged writes, the status |
//! | [`history`] | the committed history, and what a database must show at any point of it |
//! | [`oracle`] | copies, choices and leases, with a view of every disk at once |
//! | [`reads`] | linearizable, session and bounded reads |
//! | [`export`] | small histories for a checker outside |
//! | [`settle`] | is the cluster back in order, and does everything agree then? |

pub mod export;
pub mod history;
pub mod oracle;
pub mod reads;
pub mod settle;

use std::collections::{BTreeMap, BTreeSet};

use rdb_control::ClusterStatus;
use rdb_protocol::{Epoch, Incarnation, Index, Member, Position};
use rdb_replication::{LogView as _, Replica, RoleView};

use crate::client::Token;
use crate::disk::SimLog;
use crate::event::{At, NodeId};
use crate::record::Op;

use history::History;

/// A client was told that its write took effect.
#[derive(Clone, Copy, Debug)]
struct Acknowledged {
    at: At,
    op: Op,
    epoch: Epoch,
    index: Index,
}

#[derive(Debug, Default)]
pub struct Checks {
    violation: Option<String>,
    pub(crate) history: History,
    /// Who led an epoch, as which process.
    leaders: BTreeMap<Epoch, (Member, Incarnation)>,
    /// Who committed in an epoch.
    committers: BTreeMap<Epoch, Member>,
    /// Epochs whose election was permitted to lose acknowledged records.
    lossy: BTreeSet<Epoch>,
    pub(crate) opened_max: Epoch,
    acknowledged: Vec<Acknowledged>,
    /// Acknowledged writes that a permitted loss gave up: by the epoch that lost them.
    lost: Vec<(Epoch, Acknowledged)>,
    /// Content of databases by the position that they stand at.
    contents: BTreeMap<(Epoch, Index), u64>,
    /// What every operation that begins now must see.
    floor: Token,
    chosen: BTreeMap<Epoch, Member>,
    /// The status was restored from a backup: what it decides may repeat what was decided before.
    pub(crate) restored: bool,
    pub(crate) operations: Vec<reads::Operation>,
}

impl Checks {
    pub fn violation(&self) -> Option<&str> {
        self.violation.as_deref()
    }

    /// The first one counts; what follows may follow from it.
    pub fn violate(&mut self, message: String) {
        self.violation.get_or_insert(message);
    }

    pub fn committed(&self) -> u64 {
        self.history.end().0
    }

    pub fn acknowledged(&self) -> u64 {
        self.acknowledged.len() as u64 + self.lost.len() as u64
    }

    /// Was a loss permitted by an election after `low`, up to `high`?
    pub(crate) fn loss_between(&self, low: Epoch, high: Epoch) -> bool {
        self.lossy.range((std::ops::Bound::Excluded(low), std::ops::Bound::Included(high.max(low)))).next().is_some()
    }

    // --- nodes ---

    /// Rule 9: an epoch has one leader, and one process of it.
    pub(crate) fn leads(&mut self, core: &Replica, boot: Incarnation) {
        let epoch = core.epoch();
        let known = self.leaders.entry(epoch).or_insert_with(|| (core.member().clone(), boot));
        if known.0 != *core.member() || known.1 != boot {
            let message = format!(
                "{} leads epoch {epoch} as process {boot}, which {} led as {}",
                core.member(),
                known.0,
                known.1
            );
            self.violate(message);
        }
    }

    /// A node says that everything up to `index` is committed.
    pub(crate) fn committed_by(&mut self, core: &Replica, log: &SimLog, index: Index) {
        let leads = matches!(core.role(), RoleView::Opening | RoleView::Open | RoleView::WritesStopped);
        if index > log.flushed_position().index {
            let flushed = log.flushed_position();
            self.violate(format!("{} announced {index}, but has flushed {flushed}", core.member()));
        }
        if leads {
            let first = self.committers.entry(core.epoch()).or_insert_with(|| core.member().clone());
            if first != core.member() {
                let message = format!("{} and {} committed in epoch {}", core.member(), first, core.epoch());
                self.violate(message);
            }
        }
        let who = core.member().clone();
        self.agree(&who, leads, log, index);
    }

    /// Committed prefixes agree, but for what a permitted loss gave up.
    fn agree(&mut self, who: &Member, leads: bool, log: &SimLog, index: Index) {
        let end = self.history.end();
        let (Some(said), Some(known)) = (log.position(index), self.history.position(end)) else {
            return self.violate(format!("{who} announced {index} as committed without its record"));
        };
        // The greatest place that both can show. The history may end below the log's base: then the base has to do.
        let meet = index.min(end).max(log.base().index);
        let parts = log.position(meet) != self.history.position(meet);
        if parts && (meet <= end || said.epoch != known.epoch) {
            let (low, high) = (said.epoch.min(known.epoch), said.epoch.max(known.epoch));
            if !self.loss_between(low, high) {
                return self.violate(format!("{who} has {said} as committed, where {known} was: two histories"));
            }
            if said.epoch < known.epoch {
                // What is left of a branch that was given up.
                return;
            }
            if !self.take_branch(log, meet) {
                return self
                    .violate(format!("{who} announced {index} as committed, but {} is in no history", log.base()));
            }
        }
        let end = self.history.end();
        if index <= end {
            return;
        }
        if !leads && self.lossy.is_empty() {
            return self.violate(format!("{who} announced {index} as committed before any leader, who were at {end}"));
        }
        for at in (end.0 + 1..=index.0).map(Index) {
            let Some(entry) = log.entry(at) else {
                return self.violate(format!("{who} announced {index} as committed without the record {at}"));
            };
            if let Err(message) = self.history.push(entry.clone()) {
                return self.violate(format!("{who}: {message}"));
            }
        }
    }

    /// A loss was permitted, and this log's branch goes on: the history is what both have, and what this one had below its
    /// base. False: nobody ever announced that.
    fn take_branch(&mut self, log: &SimLog, meet: Index) -> bool {
        let base = log.base();
        let mut common = meet;
        while common > base.index && log.position(common) != self.history.position(common) {
            common = common.previous();
        }
        let shared = match log.position(common) == self.history.position(common) {
            true => Some(common),
            false => self.history.go_back_to(base),
        };
        let Some(shared) = shared else { return false };
        self.history.truncate_after(common);
        let back = Token { epoch: self.history.position(shared).unwrap_or_default().epoch, index: shared };
        self.floor = self.floor.min_by_index(back);
        true
    }

    /// A leader opens: it has all that was acknowledged and committed before.
    pub(crate) fn opened(&mut self, core: &Replica, log: &SimLog, _status: &ClusterStatus, _now: At) {
        let epoch = core.epoch();
        let base = log.base().index;
        // A loss after a loss may bring back what the first one gave up.
        // What its log does not reach is as the history has it, which went over to this leader's by now.
        let position = |index: Index| if index > base { log.position(index) } else { self.history.position(index) };
        let is_here = |ack: &Acknowledged| position(ack.index).is_some_and(|at| at.epoch == ack.epoch);
        let (back, lost): (Vec<_>, Vec<_>) = self.lost.drain(..).partition(|(_, ack)| is_here(ack));
        self.lost = lost;
        let mut kept: Vec<Acknowledged> = back.into_iter().map(|(_, ack)| ack).collect();
        let mut missing = None;
        for ack in std::mem::take(&mut self.acknowledged) {
            if ack.epoch >= epoch || is_here(&ack) {
                kept.push(ack);
            } else if self.loss_between(ack.epoch, epoch) {
                self.lost.push((epoch, ack));
            } else {
                missing.get_or_insert(ack);
            }
        }
        self.acknowledged = kept;
        if let Some(ack) = missing {
            let at = Token { epoch: ack.epoch, index: ack.index };
            self.violate(format!(
                "{} opens epoch {epoch} without the write {}:{} that was acknowledged at {}/{}",
                core.member(),
                ack.op.client,
                ack.op.sequence,
                at.epoch,
                at.index
            ));
        }
        let end = self.history.end();
        if let Some(known) = self.history.position(end).filter(|known| known.epoch < epoch && end > base)
            && log.position(end) != Some(known)
            && !self.loss_between(known.epoch, epoch)
        {
            self.violate(format!("{} opens epoch {epoch} without the committed {known}", core.member()));
        }
        self.opened_max = self.opened_max.max(epoch);
    }

    /// A leader is promoted: by then nobody else can commit, so that it has all that ever was.
    pub(crate) fn promoted(&mut self, core: &Replica, log: &SimLog) {
        let (epoch, end) = (core.epoch(), self.history.end());
        let Some(known) = self.history.position(end).filter(|known| known.epoch < epoch) else { return };
        let there = end <= log.base().index || log.position(end) == Some(known);
        if !there && !self.loss_between(known.epoch, epoch) {
            self.violate(format!("{} leads epoch {epoch} without the committed {known}", core.member()));
        }
    }

    pub(crate) fn halted(&mut self, node: NodeId, reason: &str) {
        if self.lossy.is_empty() {
            self.violate(format!("db-{node} halted: {reason}"));
        }
    }

    /// Equal content at equal position.
    pub(crate) fn applied(&mut self, node: NodeId, epoch: Epoch, index: Index, content: u64) {
        let known = *self.contents.entry((epoch, index)).or_insert(content);
        if known != content {
            self.violate(format!("db-{node} holds {content:016x} at {epoch}/{index}, others {known:016x}"));
        }
    }

    pub(crate) fn seeded(&mut self, node: NodeId, position: Position) {
        if let Some(known) = self.history.position(position.index)
            && known != position
            && self.lossy.is_empty()
        {
            self.violate(format!("db-{node} was seeded at {position}, which is not in the history: {known}"));
        }
    }

    // --- clients' writes ---

    /// A leader tells a client that its write took effect. `unfenced`: see [`World::is_unfenced`](crate::world::World).
    pub(crate) fn acknowledged_by(
        &mut self,
        (node, core): (NodeId, &Replica),
        unfenced: bool,
        op: &Op,
        index: Index,
        now: At,
    ) {
        let epoch = core.epoch();
        let known = self.history.position(index);
        let held = known.is_some_and(|known| known.epoch == epoch);
        let alone = core.config().is_some_and(|pair| pair.standing().all(|config| config.acks == 0));
        let ack = Acknowledged { at: now, op: *op, epoch, index };
        if !held {
            // A successor may commit before it opens: then the history has gone on with its records, and may be shorter.
            let end = self.history.position(self.history.end()).unwrap_or_default();
            let high = known.unwrap_or(end).epoch.max(self.opened_max);
            let permitted = self.loss_between(epoch, high);
            // Without follower copies the lease ends before a successor opens (rule 17), whatever may be lost; unless a
            // person permitted just that: that nobody is asked who could end it.
            let in_time = self.lossy.range(epoch.next()..).next().is_none_or(|lossy| self.opened_max < *lossy);
            if !permitted || (alone && !in_time && !unfenced) {
                return self.violate(format!(
                    "db-{node} acknowledged {}:{} at {epoch}/{index}, which is not in the history: {known:?}",
                    op.client, op.sequence
                ));
            }
            self.lost.push((high, ack));
            return;
        }
        self.acknowledged.push(ack);
    }

    // --- the status ---

    /// A swap was stored.
    pub(crate) fn swapped(&mut self, old: &ClusterStatus, new: &ClusterStatus) {
        if let Some(epoch) = new.loss_epoch {
            self.lossy.insert(epoch);
        }
        if new.election.as_ref().is_some_and(|election| election.lossy) {
            self.lossy.insert(new.epoch);
        }
        if new.epoch < old.epoch {
            self.violate(format!("the status went back from epoch {} to {}", old.epoch, new.epoch));
        }
        if let Some(leader) = new.leader.as_ref().filter(|_| new.leader_epoch == new.epoch && !self.restored) {
            let first = self.chosen.entry(new.epoch).or_insert_with(|| leader.clone());
            if first != leader {
                let message = format!("{leader} was chosen for epoch {}, which {first} has", new.epoch);
                self.violate(message);
            }
        }
        self.receipts(new);
    }

    /// An exact receipt counts every acknowledged record that was lost.
    fn receipts(&mut self, status: &ClusterStatus) {
        for receipt in status.last_failover.iter().chain(&status.earlier_losses) {
            if !receipt.exact || self.restored {
                continue;
            }
            let indexes: BTreeSet<Index> = self
                .lost
                .iter()
                .filter(|(epoch, ack)| *epoch == receipt.epoch && ack.epoch == receipt.from_epoch)
                .map(|(_, ack)| ack.index)
                .collect();
            if (indexes.len() as u64) > receipt.records_at_risk {
                let message = format!(
                    "the exact receipt of epoch {} says {} lost records, but {} acknowledged ones are",
                    receipt.epoch,
                    receipt.records_at_risk,
                    indexes.len()
                );
                return self.violate(message);
            }
        }
    }

    pub(crate) fn restored(&mut self, _status: &ClusterStatus) {
        self.restored = true;
    }
}
