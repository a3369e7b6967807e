//! The replication core with its log and control file behind one lock, and how its outputs are carried out.
//!
//! Any thread may give an input: it locks, steps, and carries out the outputs in order. Only flushing happens outside of the
//! lock, on the thread that gave the input, so that a write crosses as few threads as possible: the leader's writer
//! thread sends, appends and flushes itself, a follower's reader thread appends, flushes and acknowledges itself.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard};
use rdb_log::{Control, Log, SyncHandle};
use rdb_protocol::admin::AdminRefusal;
use rdb_protocol::status::Problem;
use rdb_protocol::{Index, Member, Position};
use rdb_replication::{
    AdminAnswer, Input, LogView, Output, PeerMessage, Persistent, ProposalRefusal, Replica, RoleView, Side, Time,
    Token, wire,
};
use tokio::sync::oneshot;

use super::Node;
use super::archive::Tail;
use super::disk::Needed;
use super::outputs::NoRoom;
use super::sends::Sends;
use super::verify::Unverified;
use crate::clock;
use crate::peer::Link;

/// Where an operator's call waits for its answer.
pub type Reply = oneshot::Sender<Result<AdminAnswer, AdminRefusal>>;

/// Everything under the lock.
pub struct Core {
    pub control: Control,
    /// `None`: no cluster yet, or the data cannot be used.
    pub running: Option<Running>,
    /// Grows whenever `running` is replaced, so that a late result of the old one is not given to the new one.
    pub generation: u64,
    pub links: BTreeMap<Member, (Side, Arc<Link>)>,
    pub replies: BTreeMap<Token, Reply>,
    pub next_token: u64,
    pub problems: BTreeMap<&'static str, Problem>,
    /// The log was cut below what the database shows: the data must not be read any more, and a base copy follows.
    pub given_up: bool,
    /// The database is still to be read before it may be used.
    pub unverified: Option<Unverified>,
    /// A divergent tail that the worker must turn into row changes before it applies anything else.
    pub tail: Option<Tail>,
    outputs: Vec<Output>,
    /// What [`Node::unlock`] sends.
    pub(super) sends: Sends<Link>,
}

/// Held while messages are sent, and taken before the core's lock is given back: so messages go out in the order of the steps
/// that made them, while other threads step on.
#[derive(Default)]
pub struct SendOrder(Mutex<Vec<(Arc<Link>, PeerMessage)>>);

/// Log and state machine of one incarnation.
pub struct Running {
    pub log: Log,
    pub replica: Replica,
}

/// What is left to do after a step, outside of the lock.
#[derive(Default)]
pub struct Effects {
    pub sync: Option<SyncHandle>,
    pub refused: Option<ProposalRefusal>,
    /// The first record that the log had no room for; those before it were taken.
    pub no_room_for: Option<Index>,
    /// The step committed something.
    pub(super) committed: bool,
    generation: u64,
}

/// The log as the core sees it.
pub struct LogRef<'a>(pub &'a Log);

impl LogView for LogRef<'_> {
    fn last(&self) -> Position {
        self.0.last()
    }

    fn base(&self) -> Position {
        self.0.base()
    }

    fn position(&self, index: Index) -> Option<Position> {
        self.0.position(index)
    }

    fn epochs(&self) -> Vec<Position> {
        let base = self.0.base().index;
        self.0.epochs().into_iter().filter(|position| position.index > base).collect()
    }
}

impl Core {
    pub fn new(control: Control) -> Core {
        Core {
            control,
            running: None,
            generation: 0,
            links: BTreeMap::new(),
            replies: BTreeMap::new(),
            next_token: 0,
            problems: BTreeMap::new(),
            given_up: false,
            unverified: None,
            tail: None,
            outputs: Vec::new(),
            sends: Sends::default(),
        }
    }

    pub fn problem(&mut self, code: &'static str, message: impl Into<String>) {
        let message = message.into();
        tracing::error!(code, message, "problem");
        self.problems.insert(code, Problem { code: code.to_owned(), message });
    }

    /// It refuses nothing that its leader has logged, or not any more.
    pub(super) fn accepts(&mut self) {
        self.problems.retain(|code, _| ![super::INCOMPATIBLE, super::OTHER_LAYOUT].contains(code));
    }

    /// It has records, and shows nothing of them.
    pub(super) fn is_refusing(&self) -> bool {
        [super::INCOMPATIBLE, super::OTHER_LAYOUT].iter().any(|code| self.problems.contains_key(code))
    }

    /// What the replication core must find in the control file.
    pub fn persistent(&self) -> Option<Persistent> {
        let state = self.control.state();
        Some(Persistent {
            member: state.member(),
            cluster: state.cluster?,
            promise: state.promise.clone(),
            led: state.led,
            opened: state.opened,
            lossy: state.lossy,
            config: state.config.clone(),
            committed: state.committed,
            acknowledged: state.acknowledged,
            loss_permitted: state.loss_permitted,
            peers: state.peers.clone(),
            settings: state.settings.clone(),
        })
    }

    pub(super) fn persist(&mut self, persistent: Persistent) -> Result<(), rdb_log::ControlError> {
        let Persistent {
            member: _,
            cluster: _,
            promise,
            led,
            opened,
            lossy,
            config,
            committed,
            acknowledged,
            loss_permitted,
            peers,
            settings,
        } = persistent;
        self.control.update(|state| {
            state.promise = promise;
            state.led = led;
            state.opened = opened;
            state.lossy = lossy;
            state.config = config;
            state.committed = committed;
            state.acknowledged = acknowledged;
            state.loss_permitted = loss_permitted;
            state.peers = peers;
            state.settings = settings;
        })
    }

    /// Writes the hints of the running core to the control file.
    pub fn persist_hints(&mut self) {
        let Some(persistent) = self.running.as_ref().map(|running| running.replica.persistent().clone()) else {
            return;
        };
        let state = self.control.state();
        if state.committed == persistent.committed && state.acknowledged == persistent.acknowledged {
            return;
        }
        if let Err(error) = self.persist(persistent) {
            tracing::warn!(%error, "cannot write the control file's hints");
        }
    }
}

impl Node {
    pub fn lock(&self) -> MutexGuard<'_, Core> {
        self.core.lock()
    }

    /// Gives the lock back and sends what the steps under it had to say. A socket takes tens of microseconds for a message, in
    /// which other threads may step. News of a commit alone wait while writes run, see [`Node::hold_news`]: on a machine with
    /// few processors followers would go about them while clients wait.
    pub fn unlock(&self, core: MutexGuard<'_, Core>) {
        if core.sends.is_urgent() || !self.holds_news() {
            self.unlock_and_send(core);
        }
    }

    /// As [`Node::unlock`], without waiting for anything.
    pub fn unlock_and_send(&self, mut core: MutexGuard<'_, Core>) {
        if core.sends.is_empty() {
            return;
        }
        let mut sends = self.send_order.0.lock();
        core.sends.take_into(&mut sends);
        drop(core);
        for (link, message) in sends.drain(..) {
            link.send([Bytes::from(wire::encode(&message))]);
        }
    }

    /// From now on news of a commit wait for the next record, which carries them, at most until the next tick.
    pub(super) fn hold_news(&self) {
        self.news_held.store(true, Ordering::Release);
    }

    pub(super) fn holds_news(&self) -> bool {
        self.news_held.load(Ordering::Acquire)
    }

    /// No record is to come soon: followers hear of the last commit.
    pub(super) fn release_news(&self) {
        self.news_held.store(false, Ordering::Release);
        self.unlock_and_send(self.lock());
    }

    /// Gives an input, and does what it leads to, flushing included.
    pub fn drive(&self, input: Input) -> Effects {
        let mut core = self.lock();
        let effects = self.step(&mut core, input);
        self.unlock(core);
        self.finish(effects)
    }

    /// As [`Node::drive`], but leaves flushing to the flusher thread: for threads that others wait for.
    pub fn drive_deferred(&self, input: Input) {
        let mut core = self.lock();
        let effects = self.step(&mut core, input);
        self.unlock(core);
        self.defer(effects);
    }

    /// Hands an unfinished flush to the flusher thread.
    pub fn defer(&self, effects: Effects) {
        if effects.sync.is_some() {
            self.tasks.flush(effects);
        }
    }

    /// Flushes what a step appended, and goes on from there.
    pub fn finish(&self, mut effects: Effects) -> Effects {
        while let Some(handle) = effects.sync.take() {
            if let Err(error) = handle.sync() {
                super::die("cannot flush the log", &error);
            }
            let mut core = self.lock();
            if core.generation != effects.generation {
                break;
            }
            let next = self.step(&mut core, Input::Persisted { upto: handle.upto() });
            self.unlock(core);
            effects.sync = next.sync;
        }
        effects
    }

    /// The database of this incarnation shows everything up to `index`.
    pub fn applied_in(&self, generation: u64, index: Index) {
        let mut core = self.lock();
        if core.generation == generation {
            core.accepts();
            self.disk.set_unfit(Needed::Pages, false);
            self.view.set_applied(index);
            let effects = self.step(&mut core, Input::Applied { index });
            self.unlock(core);
            self.finish(effects);
        }
    }

    /// A leader between two groups: all that is committed is in the database or changes nothing in it.
    pub fn settle_applied(&self) {
        let mut core = self.lock();
        let Some(running) = core.running.as_ref().filter(|running| running.replica.is_open()) else { return };
        let index = running.replica.committed();
        if index > self.view.applied() {
            self.view.set_applied(index);
            let effects = self.step(&mut core, Input::Applied { index });
            self.unlock(core);
            self.finish(effects);
        }
    }

    /// An input that belongs to one incarnation of the core; dropped, and false, when that has ended.
    pub fn drive_in(&self, generation: u64, input: Input) -> bool {
        let mut core = self.lock();
        if core.generation != generation {
            return false;
        }
        let effects = self.step(&mut core, input);
        self.unlock(core);
        self.finish(effects);
        true
    }

    /// Ends every connection: they were made by another incarnation, or for other data.
    pub fn disconnect(core: &mut Core) {
        for (_, link) in std::mem::take(&mut core.links).into_values() {
            link.close();
        }
    }

    /// First step of a core that has just been put in its place. Under the lock that put it there: a connection that came
    /// before it would not be noticed.
    pub fn start_core(&self, mut core: MutexGuard<'_, Core>) {
        let effects = self.step(&mut core, Input::Start);
        self.publish(&core);
        self.unlock(core);
        self.finish(effects);
    }

    /// Steps the core and carries out its outputs. The caller gives the lock back with [`Node::unlock`].
    pub fn step(&self, core: &mut Core, input: Input) -> Effects {
        let mut effects = Effects { generation: core.generation, ..Effects::default() };
        let mut outputs = std::mem::take(&mut core.outputs);
        let mut input = Some(input);
        while let (Some(next), Some(running)) = (input.take(), &mut core.running) {
            let now = Time(clock::boot_micros());
            running.replica.step_into(now, next, &LogRef(&running.log), &mut outputs);
            for output in outputs.drain(..) {
                if let Err(NoRoom(index)) = self.carry_out(core, output, &mut effects) {
                    effects.no_room_for.get_or_insert(index);
                    self.disk.ran_out();
                    // A leader refuses the write and goes on with smaller ones.
                    let follows = core.running.as_ref().is_some_and(|r| r.replica.role() == RoleView::Follower);
                    self.disk.set_unfit(Needed::Record, follows);
                    input = Some(Input::AppendRefused);
                    break;
                }
            }
            outputs.clear();
        }
        core.outputs = outputs;
        core.sends.end_step(effects.committed);
        effects
    }
}
