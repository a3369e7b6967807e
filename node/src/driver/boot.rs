//! Opening a data directory: which of it can be used, and what the core starts from.

use std::path::{Path, PathBuf};

use rdb_engine::{Engine, EngineError};
use rdb_log::{ControlError, DataState, Log, LogError, LogOptions};
use rdb_protocol::admin::{AdminRefusal, Init};
use rdb_protocol::status::SeedReport;
use rdb_protocol::{Incarnation, Index, Position};
use rdb_replication::{Replica, StartError, Time};

use super::copied::{self, Expected};
use super::core::{Core, LogRef, Running};
use super::verify::{self, Stated, Unverified};
use super::{Node, random};
use crate::clock;

/// Where things are in a data directory.
#[derive(Clone, Debug)]
pub struct Paths {
    pub data: PathBuf,
    pub log: PathBuf,
    pub database: PathBuf,
    pub archive: PathBuf,
}

impl Paths {
    pub fn new(data: &Path) -> Paths {
        Paths { data: data.to_owned(), log: data.join("log"), database: data.join("db"), archive: data.join("archive") }
    }

    /// A log that could not be used any more, until a seed has taken its place.
    pub fn given_up(&self) -> PathBuf {
        self.data.join("log.given-up")
    }

    /// A base copy on its way in.
    pub fn seed(&self) -> PathBuf {
        self.data.join("seed")
    }

    /// What SQLite makes beside the database while it runs, such as sorters: emptied at every start.
    pub fn temporary(data: &Path) -> PathBuf {
        data.join("tmp")
    }

    pub fn database_files(&self) -> [PathBuf; 3] {
        ["db", "db-wal", "db-shm"].map(|name| self.data.join(name))
    }
}

/// Why a node does not start. What a re-seed heals is not among it.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    #[error(transparent)]
    Control(#[from] rdb_log::ControlError),
    #[error(transparent)]
    Log(#[from] LogError),
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error(transparent)]
    Token(#[from] crate::http::token::TokenError),
    #[error("the promise on disk does not fit an empty log: {0}")]
    Start(#[from] StartError),
    #[error("cannot {0}: {1}")]
    Io(&'static str, std::io::Error),
}

impl BootError {
    /// Stable, for scripts and alerts. The text says which file, and what to do.
    pub fn code(&self) -> &'static str {
        match self {
            BootError::Control(error) => match error {
                ControlError::Locked(_) => "DATA_LOCKED",
                ControlError::Foreign(_) | ControlError::Occupied { .. } => "DATA_FOREIGN",
                ControlError::NewerVersion { .. } => "DATA_NEWER",
                ControlError::Missing(_) => "CONTROL_MISSING",
                ControlError::Corrupt { .. } => "CONTROL_CORRUPT",
                ControlError::OtherNode { .. } => "OTHER_NODE",
                ControlError::Full(_) => "DISK_FULL",
                ControlError::Io { .. } => "DISK_FAILED",
            },
            BootError::Log(error) => match error {
                LogError::Foreign(_) => "DATA_FOREIGN",
                LogError::NewerVersion { .. } | LogError::Record(_) => "DATA_NEWER",
                LogError::Full(_) => "DISK_FULL",
                LogError::Io { .. } => "DISK_FAILED",
                _ => "LOG_UNUSABLE",
            },
            BootError::Engine(error) => match error {
                EngineError::Foreign { .. } => "DATA_FOREIGN",
                EngineError::Full(_) => "DISK_FULL",
                EngineError::Io { .. } => "DISK_FAILED",
                EngineError::Build(_) => "BUILD",
                _ => "DATABASE_UNUSABLE",
            },
            BootError::Token(_) => "TOKEN_FILE",
            BootError::Start(_) => "LOG_UNUSABLE",
            BootError::Io(..) => "DISK_FAILED",
        }
    }
}

/// Why data that is there cannot be used: it is given up under a new incarnation (rule 18), visibly.
#[derive(Debug)]
struct Unusable {
    code: &'static str,
    reason: String,
}

/// How this node keeps its log.
pub(super) fn log_options() -> LogOptions {
    LogOptions { zeros_ahead: true, ..LogOptions::default() }
}

/// An empty directory for what SQLite puts aside while it runs. Without one, on a full disk say, it takes another.
pub(super) fn empty_temporary(data: &Path) {
    let path = Paths::temporary(data);
    let emptied = match std::fs::remove_dir_all(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => std::fs::create_dir(&path),
    };
    if let Err(error) = emptied {
        tracing::warn!(path = %path.display(), %error, "cannot empty the directory for temporary files");
    }
}

/// Brings up whatever the directory holds; `expected` is for one that came with a copied volume.
pub(super) fn boot(node: &Node, expected: Option<Expected>) -> Result<(), BootError> {
    let mut core = node.lock();
    let copied = core.control.state().copied;
    if copied && copied::judge_state(node, &mut core, expected)? {
        return Ok(());
    }
    let state = core.control.state();
    if state.cluster.is_none() {
        if copied {
            core.control.update(|state| state.copied = false)?;
        }
        return copied::remove_content(node);
    }
    match state.data.clone() {
        DataState::Ready => match open(node, &mut core)? {
            Ok(()) if copied => return copied::judge_log(node, &mut core, expected).map(drop),
            Ok(()) => return Ok(()),
            Err(unusable) => give_up(node, &mut core, unusable)?,
        },
        // The process ended between noting this and ending the incarnation.
        DataState::Diverged { reason } => give_up(node, &mut core, Unusable { code: "DIVERGED", reason })?,
        DataState::DatabaseCorrupt { reason } => {
            give_up(node, &mut core, Unusable { code: "DATABASE_CORRUPT", reason })?;
        }
        DataState::Corrupt { reason } => give_up(node, &mut core, Unusable { code: "LOG_CORRUPT", reason })?,
        DataState::Empty | DataState::Seeding => core.control.update(|state| state.copied = false)?,
    }
    start_empty(node, &mut core)
}

/// Opens log and database and checks them against each other and the control file.
fn open(node: &Node, core: &mut Core) -> Result<Result<(), Unusable>, BootError> {
    let unusable = |code, reason: String| Ok(Err(Unusable { code, reason }));
    let (log, recovery) = match Log::open(&node.paths.log, log_options()) {
        Ok(opened) => opened,
        Err(error @ (LogError::Corrupt { .. } | LogError::Missing(_))) => {
            return unusable("LOG_CORRUPT", error.to_string());
        }
        Err(error @ LogError::BadRecord(_)) => return unusable("LOG_CORRUPT", error.to_string()),
        Err(error) => return Err(error.into()),
    };
    if let Some(cut) = recovery.cut {
        tracing::warn!(?cut, "torn record at the end of the log cut");
    }
    let engine = match node.open_engine() {
        Ok(engine) => engine,
        Err(error @ EngineError::Missing(_)) => return unusable("DATABASE_MISSING", error.to_string()),
        Err(error @ EngineError::Corrupt { .. }) => return unusable("DATABASE_CORRUPT", error.to_string()),
        Err(error) => return Err(error.into()),
    };
    let position = match engine.position() {
        Ok(found) => found,
        Err(error @ EngineError::Corrupt { .. }) => return unusable("DATABASE_CORRUPT", error.to_string()),
        Err(error) => return Err(error.into()),
    };
    let fits = log.position(position.index).is_some_and(|at| at.epoch == position.epoch);
    if !fits {
        let reason = format!("the database is at {}, the log ends at {}", position.index, log.last());
        return unusable("LOG_BEHIND", reason);
    }
    let stated = Stated::at(&log, position.index)?;
    let put_off = verify::is_put_off(&node.paths);
    if !put_off && let Some(reason) = verify::damage(&engine, stated)? {
        return unusable("DATABASE_CORRUPT", reason);
    }
    if let Some(last) =
        log.read(log.last().index, 1).ok().and_then(|entries| entries.last().map(|last| last.timestamp()))
    {
        node.hybrid_clock.fetch_max(last, std::sync::atomic::Ordering::AcqRel);
    }
    let Some(mut persistent) = core.persistent() else { return Ok(Ok(())) };
    persistent.committed = persistent.committed.max(position.index);
    let committed = persistent.committed;
    match Replica::new(persistent, &LogRef(&log), Time(clock::boot_micros())) {
        Ok(replica) => core.running = Some(Running { log, replica }),
        Err(error) => return unusable("LOG_BEHIND", error.to_string()),
    }
    core.unverified = put_off.then_some(Unverified { stated });
    node.view.set_committed(committed);
    node.view.set_applied(position.index);
    node.set_engine(Some(engine));
    Ok(Ok(()))
}

fn give_up(node: &Node, core: &mut Core, unusable: Unusable) -> Result<(), BootError> {
    let Unusable { code, reason } = unusable;
    core.problem(
        code,
        format!("{reason}; this node starts anew under a new incarnation and is re-seeded from the leader"),
    );
    core.control.update(|state| {
        state.incarnation = Incarnation(random());
        state.data = DataState::Seeding;
        state.committed = Index::ZERO;
        state.acknowledged = Index::ZERO;
        state.copied = false;
    })?;
    node.view.status_changed();
    Ok(())
}

/// An empty log for a node that waits for its seed: promises can be given, nothing can be followed or led. The old log is
/// kept aside once, for whoever wants to look into it; the old database stays until the seed takes its place.
pub(super) fn start_empty(node: &Node, core: &mut Core) -> Result<(), BootError> {
    core.running = None;
    core.generation += 1;
    core.given_up = false;
    core.unverified = None;
    let log = match empty_log(node) {
        Some(log) => log,
        None => {
            set_log_aside(node).map_err(|error| BootError::Io("move the old log aside", error))?;
            Log::create(&node.paths.log, Position::ZERO, log_options())?
        }
    };
    node.view.set_committed(Index::ZERO);
    node.view.set_applied(Index::ZERO);
    let Some(persistent) = core.persistent() else { return Ok(()) };
    let replica = Replica::new(persistent, &LogRef(&log), Time(clock::boot_micros()))?;
    core.running = Some(Running { log, replica });
    Ok(())
}

/// The log of an earlier start that waited for its seed: it must not take the place of one with records.
fn empty_log(node: &Node) -> Option<Log> {
    let (log, _) = Log::open(&node.paths.log, log_options()).ok()?;
    (log.base() == Position::ZERO && log.last() == Position::ZERO).then_some(log)
}

fn set_log_aside(node: &Node) -> std::io::Result<()> {
    if !node.paths.log.exists() {
        return Ok(());
    }
    forget_given_up(node)?;
    std::fs::rename(&node.paths.log, node.paths.given_up())
}

/// Removes the log that was set aside: a newer one takes its place, or the node has been seeded since.
pub(super) fn forget_given_up(node: &Node) -> std::io::Result<()> {
    match std::fs::remove_dir_all(node.paths.given_up()) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn remove_file(path: &Path) -> Result<(), BootError> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(BootError::Io("remove an old database", error))
        }
        _ => Ok(()),
    }
}

impl Node {
    /// `init`: gives an empty node its cluster.
    pub(super) fn init(&self, init: &Init) -> Result<(), AdminRefusal> {
        let refuse = |reason: String| AdminRefusal::State { reason };
        let mut core = self.lock();
        let state = core.control.state();
        if state.incarnation != init.incarnation {
            return Err(refuse(format!("this is incarnation {}, not {}", state.incarnation, init.incarnation)));
        }
        match state.cluster {
            Some(cluster) if cluster == init.cluster => return Ok(()),
            Some(cluster) => return Err(refuse(format!("this node belongs to cluster {cluster}"))),
            None => {}
        }
        self.take_up(&mut core, init).map_err(|error| refuse(format!("cannot initialise: {error}")))?;
        self.start_core(core);
        Ok(())
    }

    fn take_up(&self, core: &mut Core, init: &Init) -> Result<(), BootError> {
        if init.create {
            // What a crash between an earlier attempt and its last step left behind belongs to no cluster.
            for file in self.paths.database_files() {
                remove_file(&file)?;
            }
            self.set_engine(Some(Engine::create(self.engine_options())?));
        }
        start_empty(self, core)?;
        core.problems.remove("SEED_MISMATCH");
        core.control.update(|state| {
            state.cluster = Some(init.cluster);
            if init.create {
                state.data = DataState::Ready;
                state.seed = Some(SeedReport { method: "empty".to_owned(), position: Position::ZERO });
            } else {
                state.data = DataState::Seeding;
            }
        })?;
        let Some(persistent) = core.persistent() else { return Ok(()) };
        if let Some(running) = core.running.take() {
            let replica = Replica::new(persistent, &LogRef(&running.log), Time(clock::boot_micros()))?;
            core.running = Some(Running { replica, ..running });
        } else {
            let (log, _) = Log::open(&self.paths.log, log_options())?;
            let replica = Replica::new(persistent, &LogRef(&log), Time(clock::boot_micros()))?;
            core.running = Some(Running { log, replica });
        }
        Ok(())
    }
}
