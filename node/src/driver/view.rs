//! What the node publishes of itself without its lock: read on every request.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use rdb_protocol::api::Token;
use rdb_protocol::{Epoch, Index};
use rdb_replication::RoleView;
use tokio::sync::watch;

use crate::http::backend::Lead;

/// Written only by the thread that holds the core's lock.
pub struct View {
    role: AtomicU8,
    epoch: AtomicU64,
    committed: AtomicU64,
    /// Highest index that the database shows; also wakes session reads that wait for it.
    applied: watch::Sender<Index>,
    /// The database may be read at all: not while seeding, diverged or halted.
    serving: AtomicBool,
    pub lead: watch::Sender<Lead>,
    pub status: watch::Sender<()>,
    decision: Mutex<()>,
    decided: Condvar,
}

impl Default for View {
    fn default() -> View {
        View {
            role: AtomicU8::new(encode(RoleView::Follower)),
            epoch: AtomicU64::new(0),
            committed: AtomicU64::new(0),
            applied: watch::Sender::new(Index::ZERO),
            serving: AtomicBool::new(false),
            lead: watch::Sender::new(Lead::default()),
            status: watch::Sender::new(()),
            decision: Mutex::new(()),
            decided: Condvar::new(),
        }
    }
}

impl View {
    pub fn role(&self) -> RoleView {
        decode(self.role.load(Ordering::Acquire))
    }

    /// True when role or epoch are others than before.
    pub fn set_role(&self, role: RoleView, epoch: Epoch) -> bool {
        let before = self.role.swap(encode(role), Ordering::AcqRel);
        let epoch_before = self.epoch.swap(epoch.0, Ordering::AcqRel);
        before != encode(role) || epoch_before != epoch.0
    }

    /// A commit, or a change of role or epoch: whoever waits looks again.
    pub fn notify(&self) {
        // Under the lock, so that nobody who has just looked misses it.
        let _guard = self.decision.lock();
        self.decided.notify_all();
    }

    /// Waits until `done`, without the core's lock: a writer is woken while the thread that brought the commit still tells the
    /// followers of it.
    pub fn wait_until(&self, mut done: impl FnMut() -> bool) {
        let mut guard = self.decision.lock();
        while !done() {
            self.decided.wait(&mut guard);
        }
    }

    /// Waits for the next notification, at most for `limit`.
    pub fn wait_for(&self, limit: Duration) {
        let mut guard = self.decision.lock();
        self.decided.wait_for(&mut guard, limit);
    }

    /// Does this node lead, open for clients?
    pub fn is_open(&self) -> bool {
        matches!(self.role(), RoleView::Open | RoleView::WritesStopped)
    }

    /// Does this node lead `epoch`, open for clients?
    pub fn leads(&self, epoch: Epoch) -> bool {
        self.is_open() && self.epoch() == epoch
    }

    pub fn epoch(&self) -> Epoch {
        Epoch(self.epoch.load(Ordering::Acquire))
    }

    pub fn committed(&self) -> Index {
        Index(self.committed.load(Ordering::Acquire))
    }

    pub fn set_committed(&self, index: Index) {
        self.committed.store(index.0, Ordering::Release);
    }

    pub fn applied(&self) -> Index {
        *self.applied.borrow()
    }

    pub fn set_applied(&self, index: Index) {
        self.applied.send_replace(index);
    }

    /// Waits until the database shows `index`; false when that did not happen in time. The channel's own answer is a
    /// guard, which would block [`View::set_applied`], and with it whoever holds the core's lock, for as long as it lives:
    /// so it does not leave this function.
    pub async fn wait_applied(&self, index: Index, deadline: tokio::time::Instant) -> bool {
        let mut applied = self.applied.subscribe();
        let reached = tokio::time::timeout_at(deadline, applied.wait_for(|applied| *applied >= index)).await;
        matches!(reached, Ok(Ok(_)))
    }

    pub fn serving(&self) -> bool {
        self.serving.load(Ordering::Acquire)
    }

    pub fn set_serving(&self, serving: bool) {
        self.serving.store(serving, Ordering::Release);
    }

    pub fn here(&self) -> Token {
        Token { epoch: self.epoch(), index: self.applied() }
    }

    /// Somebody who watches the status should look at once.
    pub fn status_changed(&self) {
        self.status.send_replace(());
    }
}

fn encode(role: RoleView) -> u8 {
    match role {
        RoleView::Follower => 0,
        RoleView::Opening => 1,
        RoleView::Open => 2,
        RoleView::WritesStopped => 3,
        RoleView::Halted => 4,
    }
}

fn decode(byte: u8) -> RoleView {
    match byte {
        1 => RoleView::Opening,
        2 => RoleView::Open,
        3 => RoleView::WritesStopped,
        4 => RoleView::Halted,
        _ => RoleView::Follower,
    }
}
