//! The one thread that changes the database: as leader it runs groups of client transactions, as follower it applies
//! committed records. Which of the two is asked anew before each piece of work.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender};
use rdb_engine::{
    Applier, ApplyError, ApplyGroup, Args, Engine, Statement, Transaction, TransactionResult, Value, Writer,
};
use rdb_protocol::api::{ApiError, ErrorCode};
use rdb_protocol::{Epoch, Index};
use rdb_record::{Entry, Payload, RecordError};
use rdb_replication::RoleView;
use tokio::sync::oneshot;

use super::group::Pace;
use super::queue::{Limit, Queue};
use super::{Node, group, loss};
use crate::clock;

/// Client transactions that may wait for the writer; more are refused with `OVERLOADED`. At the slowest disk that is still
/// of use, 100 groups a second of [`group::MAX_TRANSACTIONS`], this queue is drained within a second.
const MAX_QUEUED_JOBS: usize = 64 << 10;

/// Bytes of statements and arguments that may wait: sixteen of the largest requests that are allowed by default (16 MiB), an
/// eighth of the memory of a node that can take such requests.
const MAX_QUEUED_BYTES: usize = 256 << 20;

/// Log bytes applied in one SQLite transaction while catching up: large enough that one commit is cheap beside them, small
/// enough that readers see progress several times a second.
const APPLY_BYTES: usize = 4 << 20;

/// Pause between two transactions of a follower: two to four groups of one client on a fast disk. What it adds to the age of a
/// follower's reads is less than what a heartbeat's way adds.
const APPLY_PAUSE: Duration = Duration::from_millis(2);

/// After a group, news of its commit wait so long for the next one: twice what a client close by needs for its next request. A
/// reader at a follower that asks for its own last write waits longer by as much.
const NEWS_PAUSE: Duration = Duration::from_micros(300);

/// The first part of it is spent awake, if there is a second core: a lone client's next write then begins as it comes, which
/// shortens it by a tenth. Costs at most this much processor time for a group.
const LONE_CLIENT_SPIN: Duration = Duration::from_micros(150);

/// A client's transaction on its way through the writer.
pub struct WriteJob {
    pub transaction: Transaction,
    /// It is not begun in another one.
    pub epoch: Epoch,
    /// It is not begun any more after this.
    pub deadline: Instant,
    pub reply: oneshot::Sender<Result<TransactionResult, ApiError>>,
}

pub enum Job {
    Write(WriteJob),
    /// Role or committed index changed.
    Wake,
    /// Close the database's connections, answer, and take up the one that is there after the second message.
    Release {
        released: Sender<()>,
        resume: Receiver<()>,
    },
}

/// What a transaction holds in memory, about.
fn bytes(transaction: &Transaction) -> usize {
    let value = |value: &Value| {
        size_of::<Value>()
            + match value {
                Value::Null | Value::Integer(_) | Value::Real(_) => 0,
                Value::Text(text) => text.len(),
                Value::Blob(blob) => blob.len(),
            }
    };
    let statement = |statement: &Statement| {
        let args: usize = match &statement.args {
            Args::Positional(values) => values.iter().map(value).sum(),
            Args::Named(values) => values.iter().map(|(name, of)| name.len() + value(of)).sum(),
        };
        statement.sql.len() + args
    };
    transaction.statements.iter().map(statement).sum()
}

/// The way to the worker.
pub struct WorkerHandle {
    jobs: Queue<Job>,
    /// A `Wake` is in the queue; one is enough.
    woken: AtomicBool,
}

impl Default for WorkerHandle {
    fn default() -> WorkerHandle {
        WorkerHandle {
            jobs: Queue::bounded(Limit { items: MAX_QUEUED_JOBS, weight: MAX_QUEUED_BYTES }),
            woken: AtomicBool::new(false),
        }
    }
}

impl WorkerHandle {
    pub fn wake(&self) {
        if !self.woken.swap(true, Ordering::AcqRel) {
            self.jobs.push_anyway(Job::Wake);
        }
    }

    pub fn submit(&self, job: WriteJob) -> Result<(), ApiError> {
        let weight = bytes(&job.transaction);
        self.jobs.push(Job::Write(job), weight).map_err(|_| {
            ErrorCode::Overloaded.error("too many writes are waiting", "send fewer at a time, or try again later")
        })
    }

    /// Waits until the worker has closed its connections; it goes on when `resume`'s other end is dropped or sends.
    pub fn release(&self, resume: Receiver<()>) {
        let (released, wait) = crossbeam_channel::bounded(1);
        self.jobs.push_anyway(Job::Release { released, resume });
        // An error means that the worker has ended, which releases as well.
        let _ = wait.recv();
    }

    /// Waits until `count` jobs wait, or a short while: see [`group::gather`].
    pub(super) fn wait_for(&self, count: usize, limit: Duration) {
        self.jobs.wait_for(count, limit);
    }

    /// The write jobs that wait in front of any other, up to `limit`. Wakes among them are dropped: the worker looks at role
    /// and backlog after every group anyway.
    pub(super) fn take_writes(&self, limit: usize) -> Vec<WriteJob> {
        let mut jobs = Vec::new();
        let mut count = 0;
        let wanted = |job: &Job| {
            count += 1;
            count <= limit && !matches!(job, Job::Release { .. })
        };
        self.jobs.take_while(wanted, &mut jobs);
        let writes = jobs.into_iter().filter_map(|job| match job {
            Job::Write(job) => Some(job),
            Job::Wake | Job::Release { .. } => None,
        });
        writes.collect()
    }
}

/// The database as the present role holds it.
enum Hands {
    Empty,
    Writer(Box<Writer>),
    Applier(Box<Applier>),
}

pub(super) struct Worker {
    node: Arc<Node>,
    hands: Hands,
    pace: Pace,
    /// When records of a leader were last applied.
    applied_at: Option<Instant>,
    /// There is a core for others while this thread spins.
    may_spin: bool,
}

impl Worker {
    pub(super) fn start(node: Arc<Node>) -> std::io::Result<()> {
        let may_spin = std::thread::available_parallelism().is_ok_and(|cores| cores.get() > 1);
        let worker = Worker { node, hands: Hands::Empty, pace: Pace::default(), applied_at: None, may_spin };
        std::thread::Builder::new().name("database".into()).spawn(move || worker.run())?;
        Ok(())
    }

    fn run(mut self) {
        let node = self.node.clone();
        super::verify::finish(&node);
        loop {
            match self.next_job() {
                Job::Write(job) => self.write(job),
                Job::Wake => {
                    self.let_records_gather();
                    self.woken();
                }
                Job::Release { released, resume } => {
                    self.hands = Hands::Empty;
                    // Whoever asked may have given up; then there is nothing to wait for.
                    if released.send(()).is_ok() {
                        let _ = resume.recv();
                    }
                }
            }
        }
    }

    /// The news of a group of several are sent at once: its clients do not come all at the same time, and followers can begin
    /// meanwhile.
    fn next_job(&self) -> Job {
        let (node, jobs) = (&self.node, &self.node.worker.jobs);
        if node.holds_news() {
            if self.pace.transactions <= 1
                && let Some(job) = self.next_of_lone_client()
            {
                return job;
            }
            node.release_news();
        }
        jobs.pop()
    }

    fn next_of_lone_client(&self) -> Option<Job> {
        let jobs = &self.node.worker.jobs;
        let spin = if self.may_spin { LONE_CLIENT_SPIN } else { Duration::ZERO };
        jobs.spin_for(spin).or_else(|| jobs.pop_within(NEWS_PAUSE - spin))
    }

    /// A follower under load applies several records at once: one SQLite transaction for all of them takes hardly longer than one
    /// for each, and the leader's next write does not find every core of a small cluster busy with the last one. Readers see
    /// each of them by so much later, and none when writes are rare.
    fn let_records_gather(&mut self) {
        let since = clock::instant().saturating_duration_since(self.applied_at.unwrap_or_else(clock::instant));
        let just_applied = self.applied_at.is_some() && since < APPLY_PAUSE;
        if just_applied && self.node.view.role() == RoleView::Follower {
            // Only what must not wait ends this early: no second wake is in the queue before this one is over.
            self.node.worker.wait_for(usize::MAX, APPLY_PAUSE - since);
        }
    }

    fn woken(&mut self) {
        self.node.worker.woken.store(false, Ordering::Release);
        if self.node.view.is_open() {
            self.node.settle_applied();
            self.settle_loss();
        } else if matches!(self.node.view.role(), RoleView::Follower | RoleView::Opening) {
            self.apply_backlog();
        }
    }

    /// What could not be said now is said before the next write.
    fn settle_loss(&mut self) {
        let node = self.node.clone();
        if loss::is_owed(&node)
            && let Ok(writer) = self.writer()
        {
            loss::settle(&node, writer);
        }
    }

    /// Runs a group that begins with `first`.
    fn write(&mut self, first: WriteJob) {
        let node = self.node.clone();
        let jobs = group::gather(first, &node.worker, self.pace);
        let (transactions, begun) = (jobs.len(), clock::instant());
        if node.view.is_open() {
            match self.writer() {
                Ok(writer) => group::run(&node, writer, jobs),
                Err(error) => group::refuse(jobs, &error),
            }
        } else {
            group::refuse(jobs, &not_leader());
        }
        self.pace = Pace { transactions, took: clock::instant().saturating_duration_since(begun) };
        self.woken();
    }

    fn engine(&self) -> Result<Arc<Engine>, ApiError> {
        self.node
            .engine()
            .ok_or_else(|| ErrorCode::Unavailable.error("this node has no database now", "try another node"))
    }

    fn writer(&mut self) -> Result<&mut Writer, ApiError> {
        if !matches!(self.hands, Hands::Writer(_)) {
            self.hands = Hands::Empty;
            let writer = self.engine()?.writer().map_err(|error| {
                tracing::error!(%error, "cannot open the database for writing");
                ErrorCode::Unavailable.error("the database cannot be opened for writing", "see the node's log")
            })?;
            self.hands = Hands::Writer(Box::new(writer));
        }
        match &mut self.hands {
            Hands::Writer(writer) => Ok(writer),
            Hands::Empty | Hands::Applier(_) => Err(not_leader()),
        }
    }

    fn applier(&mut self) -> Option<&mut Applier> {
        if !matches!(self.hands, Hands::Applier(_)) {
            self.hands = Hands::Empty;
            match self.node.engine()?.applier() {
                Ok(applier) => self.hands = Hands::Applier(Box::new(applier)),
                Err(error) => {
                    tracing::error!(%error, "cannot open the database for applying");
                    return None;
                }
            }
        }
        match &mut self.hands {
            Hands::Applier(applier) => Some(applier),
            Hands::Empty | Hands::Writer(_) => None,
        }
    }

    /// Applies up to the committed index, in bounded steps, as long as this node follows or is about to open.
    fn apply_backlog(&mut self) {
        let node = self.node.clone();
        loop {
            if node.archive_tail() {
                continue;
            }
            let (generation, reader, committed) = {
                let core = node.lock();
                let Some(running) = &core.running else { return };
                if !matches!(core.control.state().data, rdb_log::DataState::Ready) || running.replica.is_open() {
                    return;
                }
                (core.generation, running.log.reader(), running.replica.committed())
            };
            let applied = node.view.applied();
            if applied >= committed {
                return;
            }
            let entries = match reader.read(applied.next(), APPLY_BYTES) {
                Ok(entries) => entries,
                Err(error) => return tracing::error!(%error, "cannot read the records to apply"),
            };
            let last = entries.iter().map(|entry| entry.position.index).take_while(|index| *index <= committed).last();
            let Some(last) = last else { return };
            match self.apply(&entries, last) {
                Ok(()) => {
                    self.applied_at = Some(clock::instant());
                    node.applied_in(generation, last);
                }
                Err(error) => {
                    self.tell_applied(generation);
                    return node.apply_failed(generation, &error);
                }
            }
        }
    }

    /// Records before the one that could not be applied.
    fn tell_applied(&self, generation: u64) {
        if let Hands::Applier(applier) = &self.hands
            && applier.position().index > self.node.view.applied()
        {
            self.node.applied_in(generation, applier.position().index);
        }
    }

    fn apply(&mut self, entries: &[Entry], last: Index) -> Result<(), ApplyError> {
        let groups = groups_of(entries.iter().take_while(|entry| entry.position.index <= last))?;
        if groups.is_empty() {
            return Ok(());
        }
        let opening = self.node.view.role() == RoleView::Opening;
        let applier = self.applier().ok_or_else(|| ApplyError::Io("the database cannot be opened".to_owned()))?;
        // A node that is to lead has nobody to fetch a copy from or to wait for.
        applier.try_any_sqlite(opening);
        applier.apply(&groups)
    }
}

/// The records among `entries` that change the database, decoded.
pub(super) fn groups_of<'a>(entries: impl IntoIterator<Item = &'a Entry>) -> Result<Vec<ApplyGroup>, ApplyError> {
    let mut groups = Vec::new();
    for entry in entries {
        let position = entry.position;
        let record = entry.decode().map_err(|error| match error {
            RecordError::Version(_) | RecordError::Kind(_) => {
                ApplyError::Incompatible(format!("record {}: {error}", position.index))
            }
            error => ApplyError::Malformed { index: position.index, what: error.to_string() },
        })?;
        if matches!(record.payload.main(), Payload::Pages(_) | Payload::Statements(_) | Payload::Rows(_)) {
            groups.push(ApplyGroup { position, record });
        }
    }
    Ok(groups)
}

pub(super) fn not_leader() -> ApiError {
    ErrorCode::NotLeader.error("this node does not lead", "any node forwards writes to the leader; try again")
}
