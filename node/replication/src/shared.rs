//! What a node knows in every role: its durable state, where its log ends, and what waits for a flush.

use rdb_protocol::admin::{AdminRefusal, Recruit};
use rdb_protocol::status::Promise;
use rdb_protocol::{Epoch, Index, Member, Position};
use rdb_record::Entry;

use crate::io::{AdminAnswer, LogView, Output, Persistent, Time, Token};

/// A `fence` that is answered when everything that was appended before it is flushed (rule 6).
#[derive(Clone, Copy, Debug)]
struct PendingFence {
    token: Token,
    epoch: Epoch,
    had_opened: bool,
    /// End of the log when it came. A cut since then brings the end nearer.
    until: Index,
}

#[derive(Debug)]
pub(crate) struct Shared {
    /// The control file as of the last `PersistControl`, with fresher hints.
    pub(crate) durable: Persistent,
    /// End of the log, appends of the running step included. Outside of a step the same as [`LogView::last`].
    pub(crate) last: Position,
    pub(crate) flushed: Position,
    pub(crate) applied: Index,
    /// Greatest hybrid timestamp known; for records that the core makes.
    pub(crate) timestamp: u64,
    /// When this node last answered a leader, or started (rule 16).
    pub(crate) answered_at: Time,
    /// When the promise was last raised: did this node lead the epoch promised before, and had it opened there? Then and
    /// only then rule 16's shortcut may make a successor's wait zero.
    pub(crate) had_opened: bool,
    /// Whom the driver was told to keep a connection to, and whether it stands. Outlives a change of epoch.
    pub(crate) dialled: Option<Member>,
    pub(crate) link_up: bool,
    /// After [`Output::Halt`].
    pub(crate) halted: bool,
    fences: Vec<PendingFence>,
    #[cfg(feature = "planted")]
    pub(crate) now: Time,
    /// An old leader's epoch, and up to where its records were verified.
    #[cfg(feature = "planted")]
    pub(crate) late: Option<(Epoch, Member, Index)>,
}

impl Shared {
    pub(crate) fn new(durable: Persistent, log: &dyn LogView, boot: Time) -> Shared {
        Shared {
            durable,
            last: log.last(),
            // What recovery found may stand in the page cache only; `Start` flushes it before it counts.
            flushed: log.base(),
            applied: Index::ZERO,
            timestamp: 0,
            answered_at: first_answer(boot),
            had_opened: false,
            dialled: None,
            link_up: false,
            halted: false,
            fences: Vec::new(),
            #[cfg(feature = "planted")]
            now: boot,
            #[cfg(feature = "planted")]
            late: None,
        }
    }

    pub(crate) fn member(&self) -> &Member {
        &self.durable.member
    }

    pub(crate) fn promised(&self) -> Epoch {
        self.durable.promise.epoch
    }

    pub(crate) fn is_self(&self, member: &Member) -> bool {
        *member == self.durable.member
    }

    pub(crate) fn persist(&self, out: &mut Vec<Output>) {
        out.push(Output::PersistControl(Box::new(self.durable.clone())));
    }

    /// Rule 5: a higher epoch's promise, on disk before anything else is said or done. The caller steps down first if it led.
    pub(crate) fn raise(&mut self, promise: Promise, loss_permitted: bool, out: &mut Vec<Output>) {
        assert!(promise.epoch > self.promised(), "a promise only grows");
        let durable = &mut self.durable;
        let led = durable.led > Epoch::ZERO && durable.led == durable.promise.epoch;
        self.had_opened = led && durable.opened == durable.led;
        durable.promise = promise;
        durable.loss_permitted = loss_permitted;
        rdb_protocol::if_planted!(PromiseNotPersisted => { return; });
        self.persist(out);
    }

    /// Names the leader of the promised epoch, once.
    pub(crate) fn name_leader(&mut self, leader: &Member, out: &mut Vec<Output>) {
        if self.durable.promise.leader.is_none() {
            self.durable.promise.leader = Some(leader.clone());
            self.persist(out);
        }
    }

    pub(crate) fn refusal(&self) -> AdminRefusal {
        AdminRefusal::Fenced { promise: self.durable.promise.clone() }
    }

    pub(crate) fn append(&mut self, entry: Entry, out: &mut Vec<Output>) {
        self.last = entry.position;
        self.timestamp = self.timestamp.max(entry.timestamp());
        out.push(Output::Append(entry));
    }

    /// Position of a record of the log as it is after the outputs so far. Index 0 is in every log.
    pub(crate) fn at(&self, index: Index, log: &dyn LogView) -> Option<Position> {
        match index {
            Index::ZERO => Some(Position::ZERO),
            index if index == self.last.index => Some(self.last),
            index if index > self.last.index => None,
            index => log.position(index),
        }
    }

    /// The disk has everything up to `upto`. False for news of a tail that was cut meanwhile, or old news.
    pub(crate) fn flush_done(&mut self, upto: Position, log: &dyn LogView) -> bool {
        if upto.index <= self.flushed.index || self.at(upto.index, log) != Some(upto) {
            return false;
        }
        self.flushed = upto;
        true
    }

    /// Announces a higher committed index. True if it is one.
    pub(crate) fn commit_to(&mut self, index: Index, out: &mut Vec<Output>) -> bool {
        if index <= self.durable.committed {
            return false;
        }
        assert!(index <= self.flushed.index, "committed records are flushed here");
        self.durable.committed = index;
        out.push(Output::Committed { index });
        true
    }

    /// The driver could not append: the log ends where it says.
    pub(crate) fn append_refused(&mut self, log: &dyn LogView) {
        self.last = log.last();
    }

    /// Rule 6: answers now or after the flush of what was appended before.
    pub(crate) fn fence(&mut self, token: Token, epoch: Epoch, now: Time, out: &mut Vec<Output>) {
        #[allow(unused_mut, reason = "changed by a planted bug")]
        let mut pending = PendingFence { token, epoch, had_opened: self.had_opened, until: self.last.index };
        rdb_protocol::if_planted!(LateFlush => { pending.until = Index::ZERO; });
        if self.flushed.index < self.last.index {
            out.push(Output::Sync);
        }
        self.fences.push(pending);
        self.answer_fences(now, out);
    }

    /// Answers the fences whose flush is done.
    pub(crate) fn answer_fences(&mut self, now: Time, out: &mut Vec<Output>) {
        let (flushed, last) = (self.flushed.index, self.last.index);
        let (ready, waiting) = self.fences.drain(..).partition(|fence| flushed >= fence.until.min(last));
        self.fences = waiting;
        for PendingFence { token, epoch, had_opened, until: _ } in ready {
            let reply = if epoch < self.promised() {
                Err(self.refusal())
            } else {
                Ok(AdminAnswer::Recruit(self.recruit(epoch, had_opened, now)))
            };
            out.push(Output::AdminReply { token, reply });
        }
    }

    fn recruit(&self, epoch: Epoch, had_opened: bool, now: Time) -> Recruit {
        Recruit {
            epoch,
            member: self.member().clone(),
            position: self.flushed,
            committed: self.durable.committed,
            answered_ms_ago: now.millis_since(self.answered_at),
            had_opened,
            acknowledged: self.durable.acknowledged,
            config: self.durable.config.clone(),
        }
    }
}

/// Rule 16: a restart counts as an answer to the old leader.
fn first_answer(boot: Time) -> Time {
    rdb_protocol::if_planted!(ForgottenRestart => { return Time(0); });
    boot
}
