//! The driver: threads, files and sockets around the pure replication core.
//!
//! A write's way: HTTP task → [`worker`]'s queue → [`group`]: SQLite runs the transactions and calls back at its one commit
//! point → [`core`]: the record is sent to the followers, appended and flushed → wait until the durability rule is met →
//! SQLite makes the group visible → answers.
//!
//! | module | holds |
//! | --- | --- |
//! | [`core`] | the replication core, log and control file behind one lock |
//! | [`outputs`] | carrying out what the core orders |
//! | [`worker`], [`group`] | the one thread that changes the database: groups as leader, committed records as follower |
//! | [`queue`] | the queue in front of it |
//! | [`peers`] | connections between nodes |
//! | [`seeding`], [`seed_server`] | base copies: receiving and giving |
//! | [`archive`] | divergent tails, made readable |
//! | [`changes`] | the stream of row changes |
//! | [`scrub`] | the background check of the database |
//! | [`tasks`] | ticks, flushes and reads for others, retention, disk space |
//! | [`boot`], [`copied`] | opening a data directory, also one that came with a copied volume |
//! | [`verify`] | reading a large database before it is used |
//! | [`tokens`] | the token files, read again when they change |
//! | [`service`], [`reads`], [`report`] | what HTTP needs: calls, reads at each consistency level, status and health |
//! | [`view`] | what is published without the lock |
//! | [`disk`] | free space |

pub mod archive;
pub mod boot;
pub mod changes;
mod copied;
pub mod core;
pub mod disk;
pub mod group;
mod loss;
pub mod outputs;
pub mod peers;
pub mod queue;
pub mod reads;
pub mod report;
pub mod scrub;
pub mod seed_server;
pub mod seeding;
mod sends;
pub mod service;
pub mod tasks;
pub mod tokens;
mod verify;
pub mod view;
pub mod worker;

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use hyper::body::Incoming;
use hyper::{Request, StatusCode};
use parking_lot::{Condvar, Mutex, RwLock};
use rdb_engine::{ApplyError, Engine, EngineError, EngineOptions, Layout, Reader, Recording};
use rdb_log::{Control, DataState};
use rdb_protocol::settings::{LogFormat, NodeSettings};
use rdb_protocol::status::RecordPlace;
use rdb_protocol::{Incarnation, NodeName};
use rdb_replication::{Input, Time};
use tokio::sync::watch;
use warp::Reply as _;

use self::boot::{BootError, Paths};
use self::copied::Expected;
use self::core::Core;
use self::disk::{DiskSpace, Needed};
use self::worker::{Worker, WorkerHandle};
use crate::args::Args;
use crate::clock;
use crate::http::PeerHook;
use crate::peer;

/// Readers kept open per node: as many as point reads that run at once, which is the number of threads that serve HTTP plus
/// the long queries that have moved to the blocking pool.
const MAX_IDLE_READERS: usize = 16;

/// One node, shared by all its threads.
pub struct Node {
    pub name: NodeName,
    pub paths: Paths,
    pub tokens: tokens::TokenFiles,
    boot: Incarnation,
    core: Mutex<Core>,
    send_order: core::SendOrder,
    /// Wakes the ticker early.
    ticks: Condvar,
    view: view::View,
    worker: WorkerHandle,
    tasks: tasks::Tasks,
    dialer: peers::Dialer,
    seeding: seeding::Seeding,
    seeds: seed_server::Seeds,
    disk: DiskSpace,
    engine: RwLock<Option<Arc<Engine>>>,
    readers: Mutex<Vec<Reader>>,
    last_growth: Mutex<tasks::Growth>,
    hybrid_clock: AtomicU64,
    /// Epoch in which this node leads after a failover with loss and has not written yet; 0 = none.
    lossy_epoch: AtomicU64,
    /// The lossy epoch whose beginning is held for those who come back.
    held_epoch: AtomicU64,
    /// The last lossy epoch whose mark for consumers of changes is written.
    marked_epoch: AtomicU64,
    /// [`clock::boot_micros`] when the group that is running began; 0 = none.
    group_since: AtomicU64,
    /// News of commits wait for a record.
    news_held: AtomicBool,
    /// `access.maxResultSize`.
    result_limit: AtomicU64,
    limits: RwLock<crate::http::backend::Limits>,
    /// What this node's records carry when it leads.
    recording: RwLock<Recording>,
    /// The record since which all that it logged as the leader of that epoch carry pages or statements.
    exact_since: Mutex<RecordPlace>,
    /// Told to end the process in good order.
    pub shutdown: watch::Sender<bool>,
    /// Client connections should end: this node has been demoted.
    pub demoted: watch::Sender<u64>,
}

impl Node {
    /// Does this node lead, open for clients?
    pub fn is_leader(&self) -> bool {
        self.view.is_open()
    }

    /// Opens the data directory and starts the node's threads.
    pub fn start(args: &Args) -> Result<Arc<Node>, BootError> {
        let tokens = tokens::TokenFiles::read(args)?;
        std::fs::create_dir_all(&args.data).map_err(|error| BootError::Io("create the data directory", error))?;
        let control = Control::open_on_volume(&args.data, args.name.clone(), args.volume_id.as_deref())?;
        boot::empty_temporary(&args.data);
        let this_boot = Incarnation(random());
        if let Some(path) = &args.boot_file {
            state_boot(path, this_boot);
        }
        let (tasks, queues) = tasks::Tasks::new();
        let control_settings = control.state().settings.clone();
        let node = Arc::new(Node {
            name: args.name.clone(),
            paths: Paths::new(&args.data),
            tokens,
            boot: this_boot,
            core: Mutex::new(Core::new(control)),
            send_order: core::SendOrder::default(),
            ticks: Condvar::new(),
            view: view::View::default(),
            worker: WorkerHandle::default(),
            tasks,
            dialer: peers::Dialer::default(),
            seeding: seeding::Seeding::default(),
            seeds: seed_server::Seeds::default(),
            disk: DiskSpace::new(&args.data),
            engine: RwLock::new(None),
            readers: Mutex::default(),
            last_growth: Mutex::default(),
            hybrid_clock: AtomicU64::new(0),
            lossy_epoch: AtomicU64::new(0),
            held_epoch: AtomicU64::new(0),
            marked_epoch: AtomicU64::new(0),
            group_since: AtomicU64::new(0),
            news_held: AtomicBool::new(false),
            result_limit: AtomicU64::new(control_settings.max_result_bytes),
            limits: RwLock::new(crate::http::backend::Limits::of(&control_settings)),
            recording: RwLock::new(recording(&control_settings)),
            exact_since: Mutex::default(),
            shutdown: watch::Sender::new(false),
            demoted: watch::Sender::new(0),
        });
        node.disk.refresh();
        boot::boot(&node, Expected::of(args))?;
        Worker::start(node.clone()).map_err(|error| BootError::Io("start a thread", error))?;
        tasks::start(&node, queues, args.scrub_interval()).map_err(|error| BootError::Io("start a thread", error))?;
        node.publish(&node.lock());
        node.drive(Input::Start);
        if node.view.applied().0 > 0 {
            node.drive(Input::Applied { index: node.view.applied() });
        }
        node.worker.wake();
        Ok(node)
    }

    /// Takes over the requests of peers; their token was checked.
    pub fn peer_hook(self: &Arc<Self>) -> PeerHook {
        let node = self.clone();
        Arc::new(move |request| node.peer_request(request))
    }

    fn peer_request(self: &Arc<Self>, request: Request<Incoming>) -> warp::reply::Response {
        let node = self.clone();
        match request.uri().path() {
            peer::PEER_PATH => peer::accept(request, move |connection, member| {
                peers::serve(&node, connection, &member, peers::Dialler::Peer);
            })
            .map(Into::into),
            seed_server::SEED_PATH => node.seed_answer(request.uri().query().unwrap_or_default()),
            _ => StatusCode::NOT_FOUND.into_response(),
        }
    }

    /// A timestamp for a record: wall clock in milliseconds, counting on where that stands still or steps back.
    fn timestamp(&self) -> u64 {
        let wall = clock::unix_millis() << 16;
        let before = self.hybrid_clock.fetch_max(wall, Ordering::AcqRel);
        if before < wall { wall } else { self.hybrid_clock.fetch_add(1, Ordering::AcqRel) + 1 }
    }

    fn engine(&self) -> Option<Arc<Engine>> {
        self.engine.read().clone()
    }

    /// Puts another database in the place of the present one. Its connections must have been released.
    fn set_engine(&self, engine: Option<Engine>) {
        self.seeds.clear();
        self.disk.set_unfit(Needed::Record, false);
        self.disk.set_unfit(Needed::Pages, false);
        let mut place = self.engine.write();
        self.readers.lock().clear();
        *place = engine.map(Arc::new);
    }

    fn engine_options(&self) -> EngineOptions {
        EngineOptions::new(&self.paths.database)
    }

    fn open_engine(&self) -> Result<Engine, EngineError> {
        Engine::open(self.engine_options())
    }

    /// Are the pages here others than those that a follower of pages would need?
    fn other_layout(&self, leads: bool) -> bool {
        if leads {
            self.recording.read().format == LogFormat::Logical
        } else {
            self.engine().is_some_and(|engine| engine.layout() == Layout::Other)
        }
    }

    /// [`rdb_protocol::status::NodeStatus::exact`].
    fn exact(&self, leads: bool) -> RecordPlace {
        if leads {
            return *self.exact_since.lock();
        }
        match self.engine().map(|engine| engine.layout()) {
            Some(Layout::Same { epoch, index }) => RecordPlace { epoch, index },
            _ => RecordPlace::default(),
        }
    }

    /// May this leader answer a linearizable read whose snapshot was taken before this call?
    fn lease_valid(&self) -> bool {
        let core = self.lock();
        let now = Time(clock::boot_micros());
        core.running.as_ref().is_some_and(|running| running.replica.is_open() && running.replica.lease_valid(now))
    }

    fn disk_changed(&self) {
        let mut core = self.lock();
        if self.disk.lacks_space() {
            core.problem(
                "DISK_FULL",
                "too little disk space for what has to be written next, which waits; reads go on; free space or grow the volume",
            );
        } else {
            core.problems.remove("DISK_FULL");
        }
        drop(core);
        self.view.status_changed();
        self.worker.wake();
    }

    /// It cannot read or apply what the leader logs, and nothing is wrong with its data: it keeps them and waits, for other software
    /// or for a base copy. Each attempt says so again; the newest words count, and new ones alone are news.
    fn refuses(&self, generation: u64, code: &'static str, error: &dyn fmt::Display) {
        let (mut core, message) = (self.lock(), error.to_string());
        let known = core.problems.get(code).is_some_and(|problem| problem.message == message);
        if core.generation == generation && !known {
            core.accepts();
            core.problem(code, message);
            drop(core);
            self.view.status_changed();
        }
    }

    /// The worker could not apply committed records.
    fn apply_failed(&self, generation: u64, error: &ApplyError) {
        match error {
            ApplyError::Full(_) => {
                tracing::warn!(%error, "cannot apply records");
                // The ticker says so, and housekeeping tries again: to wake the worker from here would be to turn in a circle.
                self.disk.ran_out();
                self.disk.set_unfit(Needed::Pages, true);
            }
            ApplyError::Incompatible(_) => self.refuses(generation, INCOMPATIBLE, error),
            ApplyError::OtherLayout { .. } => self.refuses(generation, OTHER_LAYOUT, error),
            ApplyError::Diverged { .. }
            | ApplyError::PageSize { .. }
            | ApplyError::Malformed { .. }
            | ApplyError::Failed { .. } => self.diverged(generation, error.to_string()),
            ApplyError::Order { .. } | ApplyError::Io(_) => die("cannot apply committed records", error),
        }
    }

    /// The database is not the leader's: it is not served any more, and fetched anew.
    fn diverged(&self, generation: u64, reason: String) {
        let mut core = self.lock();
        if core.generation != generation {
            return;
        }
        core.problem("DIVERGED", reason.clone());
        let noted = core.control.update(|state| state.data = DataState::Diverged { reason: reason.clone() });
        if let Err(error) = noted {
            die("cannot note a divergence", &error);
        }
        self.publish(&core);
        drop(core);
        self.seeding.request(generation, reason);
    }
}

/// Problem: its software does not read or apply what the leader logs.
pub(crate) const INCOMPATIBLE: &str = "INCOMPATIBLE";
/// Problem: the leader logs pages, and those here are laid out otherwise.
pub(crate) const OTHER_LAYOUT: &str = "OTHER_LAYOUT";

/// What a leader with these settings logs.
pub(crate) fn recording(settings: &NodeSettings) -> Recording {
    Recording::new(settings.log_format).with_changes(settings.change_stream).for_any_layout(settings.rows_for_all)
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Node").field("name", &self.name).finish_non_exhaustive()
    }
}

/// A random number for identities.
pub(crate) fn random() -> u64 {
    // Without randomness two nodes could take each other's name; ending is the only safe answer.
    getrandom::u64().unwrap_or_else(|error| die("the system has no randomness", &error))
}

/// Leaves the id of this process where whoever supervises it will find it when it has ended. The file stays the same one: it may
/// be mounted. That it cannot be written costs the proof, not the data.
fn state_boot(path: &Path, boot: Incarnation) {
    if let Err(error) = std::fs::write(path, format!("{boot}\n")) {
        tracing::warn!(path = %path.display(), %error, "cannot write the boot file");
    }
}

/// Ends the process at once: what is not on disk is unknown, and a restart rolls forward from what is.
pub fn die(doing: &str, error: &dyn fmt::Display) -> ! {
    tracing::error!(%error, "{doing}: ending the process");
    // Without destructors: nothing may touch the files any more.
    unsafe { libc::_exit(EXIT_STORAGE) }
}

/// Exit code when the disk failed (`EX_IOERR` of sysexits.h).
const EXIT_STORAGE: i32 = 74;
