//! Seeding, the receiving side: ends the incarnation, fetches a base copy from the leader, installs it, and lets the core
//! continue from the log.
//!
//! The order keeps rule 18 at every crash: the new incarnation is on disk before anything of the old data goes, and the data
//! is called ready only when database and log are there and belong together. Promises survive: they are in the control file.

use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use rdb_engine::SeedWriter;
use rdb_log::{DataState, Log};
use rdb_protocol::status::{DivergenceReport, SeedReport};
use rdb_protocol::{Incarnation, Index, Position};
use rdb_replication::{Input, Replica, RoleView, Time};

use super::core::Running;
use super::seed_server::{SEED_HEADER, SEED_PATH, SeedManifest};
use super::{Node, boot};
use crate::clock;

/// Pause between two attempts, unless something changes.
const RETRY: Duration = Duration::from_millis(500);
/// After failures: a disk that is too small for the copy is not helped by copying all the time.
const MAX_RETRY: Duration = Duration::from_secs(30);
/// One request for pages takes no longer; what is missing then is asked for again, from where it stopped. So a leader that
/// goes silent in the middle of a copy is noticed.
const STREAM_TIMEOUT: Duration = Duration::from_secs(30);
/// A leader that sends nothing for so long is gone.
const READ_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes taken from the network at once; a multiple of every page size.
const CHUNK_BYTES: usize = 1 << 20;

/// Orders for the seeding thread.
#[derive(Default)]
pub struct Seeding {
    order: Mutex<Option<Order>>,
    changed: Condvar,
}

/// The data of this generation are of no use any more.
struct Order {
    generation: u64,
    /// For people.
    reason: String,
}

impl Seeding {
    /// This node's data are of no use any more; `reason` is for people.
    pub fn request(&self, generation: u64, reason: String) {
        *self.order.lock() = Some(Order { generation, reason });
        self.changed.notify_all();
    }

    /// A leader or its address became known.
    pub fn retry(&self) {
        self.changed.notify_all();
    }

    fn wait(&self, pause: Duration) -> Option<Order> {
        let mut order = self.order.lock();
        if order.is_none() {
            self.changed.wait_for(&mut order, pause);
        }
        order.take()
    }
}

#[derive(Debug, thiserror::Error)]
enum SeedFailure {
    #[error("no leader is known to fetch a base copy from")]
    NoLeader,
    #[error("fetching the base copy: {0}")]
    Fetch(String),
    #[error("the leader belongs to another cluster")]
    OtherCluster,
    #[error(transparent)]
    Copy(#[from] rdb_engine::SeedError),
    #[error(transparent)]
    Engine(#[from] rdb_engine::EngineError),
    #[error(transparent)]
    Log(#[from] rdb_log::LogError),
    #[error(transparent)]
    Control(#[from] rdb_log::ControlError),
    #[error("the promise on disk does not fit the new copy: {0}")]
    Start(#[from] rdb_replication::StartError),
}

/// The seeding thread.
pub(super) fn seed_forever(node: &Arc<Node>) {
    let mut pause = RETRY;
    loop {
        if let Some(order) = node.seeding.wait(pause) {
            begin(node, &order);
        }
        if !wanted(node) {
            continue;
        }
        match fetch(node) {
            Ok(position) => {
                pause = RETRY;
                tracing::info!(%position, "seeded");
            }
            Err(SeedFailure::NoLeader) => pause = RETRY,
            Err(error) => {
                pause = (pause * 2).min(MAX_RETRY);
                tracing::warn!(%error, "seeding failed; it is tried again");
                node.lock().problem("SEEDING_FAILED", error.to_string());
                node.view.status_changed();
            }
        }
    }
}

fn wanted(node: &Node) -> bool {
    let core = node.lock();
    let state = core.control.state();
    state.cluster.is_some() && matches!(state.data, DataState::Seeding)
}

/// Ends the incarnation, then forgets the old data.
fn begin(node: &Arc<Node>, order: &Order) {
    node.archive_tail();
    {
        let mut core = node.lock();
        // The order may be late: the data are others already, or this node was made the leader meanwhile.
        let leads = core
            .running
            .as_ref()
            .is_some_and(|running| !matches!(running.replica.role(), RoleView::Follower | RoleView::Halted));
        if core.generation != order.generation || leads {
            return tracing::warn!(reason = order.reason, "a re-seed that is out of date is not carried out");
        }
        tracing::warn!(reason = order.reason, "the data of this node is given up; a base copy follows");
        let ended = core.control.update(|state| {
            state.incarnation = Incarnation(super::random());
            state.data = DataState::Seeding;
            state.committed = Index::ZERO;
            state.acknowledged = Index::ZERO;
            state.loss_permitted = false;
            state.seed = None;
        });
        if let Err(error) = ended {
            super::die("cannot end the incarnation", &error);
        }
        Node::disconnect(&mut core);
        core.replies.clear();
        if let Err(error) = boot::start_empty(node, &mut core) {
            super::die("cannot start without data", &error);
        }
        node.start_core(core);
    }
}

/// Fetches and installs a base copy.
fn fetch(node: &Arc<Node>) -> Result<Position, SeedFailure> {
    let lost = lost_tail(node);
    let (manifest, copy) = download(node, lost.as_ref().map(|report| report.from.index))?;
    let ready = node.paths.seed().join("ready");
    copy.install(&ready)?;
    let (resume, wait) = crossbeam_channel::bounded::<()>(1);
    node.worker.release(wait);
    node.set_engine(None);
    if let Some(report) = lost {
        node.compare_lost(&report, manifest.info.index, &ready);
    }
    let installed = rdb_engine::replace(&node.paths.database, &ready).map_err(SeedFailure::from).and_then(|()| {
        node.set_engine(Some(node.open_engine()?));
        adopt(node, &manifest)
    });
    drop(resume);
    installed?;
    if let Err(error) = boot::forget_given_up(node) {
        tracing::warn!(%error, "cannot remove the log that was set aside");
    }
    node.drive(Input::Applied { index: manifest.position.index });
    node.worker.wake();
    Ok(manifest.position)
}

/// A tail that was given up with its database, and is not readable yet.
fn lost_tail(node: &Node) -> Option<DivergenceReport> {
    let core = node.lock();
    core.control.state().divergences.iter().rev().find(|report| !report.complete).cloned()
}

/// Log and control file for the database that was just installed.
fn adopt(node: &Node, manifest: &SeedManifest) -> Result<(), SeedFailure> {
    let mut core = node.lock();
    core.running = None;
    Log::remove(&node.paths.log)?;
    let log = Log::create(&node.paths.log, manifest.position, boot::log_options())?;
    core.control.update(|state| {
        state.data = DataState::Ready;
        state.committed = manifest.position.index;
        state.seed = Some(SeedReport { method: "stream".to_owned(), position: manifest.position });
    })?;
    core.problems.clear();
    core.unverified = None;
    core.generation += 1;
    Node::disconnect(&mut core);
    let Some(persistent) = core.persistent() else { return Ok(()) };
    let replica = Replica::new(persistent, &super::core::LogRef(&log), Time(clock::boot_micros()))?;
    core.running = Some(Running { log, replica });
    node.view.set_committed(manifest.position.index);
    node.view.set_applied(manifest.position.index);
    node.start_core(core);
    Ok(())
}

/// Receives a copy into a directory of its own. A broken stream is continued where it stopped while the leader holds the
/// session, and begun again otherwise.
fn download(node: &Node, lost: Option<Index>) -> Result<(SeedManifest, SeedWriter), SeedFailure> {
    let mut under_way: Option<(SeedManifest, SeedWriter)> = None;
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .timeout_connect(Some(READ_TIMEOUT))
        .timeout_recv_response(Some(READ_TIMEOUT))
        .timeout_recv_body(Some(STREAM_TIMEOUT))
        .http_status_as_error(false)
        .build()
        .into();
    loop {
        let (address, cluster) = leader(node)?;
        let (session, from) =
            under_way.as_ref().map_or((0, 1), |(manifest, writer)| (manifest.session, writer.next_page()));
        let lost = lost.map(|lost| format!("&lost={lost}")).unwrap_or_default();
        let url = format!("http://{address}{SEED_PATH}?session={session}&from={from}{lost}");
        let response = ask(node, &agent, &url)?;
        let header = response.headers().get(SEED_HEADER).and_then(|value| value.to_str().ok());
        let manifest: SeedManifest = header
            .and_then(|text| serde_json::from_str(text).ok())
            .ok_or_else(|| SeedFailure::Fetch(format!("{address} answered {}", response.status())))?;
        if manifest.cluster != cluster {
            return Err(SeedFailure::OtherCluster);
        }
        let (manifest, mut writer) = match under_way.take() {
            Some((held, writer)) if held == manifest => (held, writer),
            _ => {
                let copy = SeedWriter::create(&node.paths.seed(), manifest.info)?;
                (manifest, copy)
            }
        };
        receive(&mut response.into_body().into_reader(), &manifest, &mut writer)?;
        if writer.next_page() > manifest.info.page_count {
            return Ok((manifest, writer));
        }
        tracing::info!(page = writer.next_page(), of = manifest.info.page_count, "the base copy broke off; continuing");
        under_way = Some((manifest, writer));
    }
}

/// Asks with the newest token, and with the one before while the leader may not have seen the change yet.
fn ask(node: &Node, agent: &ureq::Agent, url: &str) -> Result<ureq::http::Response<ureq::Body>, SeedFailure> {
    let mut refused = SeedFailure::Fetch("this node has no peer token".to_owned());
    for secret in node.tokens.peer.secrets() {
        let token = format!("Bearer {}", secret.expose());
        let sent = agent.get(url).header("Authorization", &token).call();
        let response = sent.map_err(|error| SeedFailure::Fetch(error.to_string()))?;
        if response.status() != ureq::http::StatusCode::UNAUTHORIZED {
            return Ok(response);
        }
        refused = SeedFailure::Fetch("the leader does not know this peer token".to_owned());
    }
    Err(refused)
}

/// Writes whole pages until the stream ends, well or not.
fn receive(body: &mut impl Read, manifest: &SeedManifest, writer: &mut SeedWriter) -> Result<(), SeedFailure> {
    let page = manifest.info.page_size as usize;
    let mut buffer = vec![0; CHUNK_BYTES];
    let mut filled = 0;
    loop {
        let read = match body.read(&mut buffer[filled..]) {
            Ok(0) | Err(_) => return Ok(()),
            Ok(read) => read,
        };
        filled += read;
        let whole = filled - filled % page;
        if whole > 0 {
            writer.write(writer.next_page(), &buffer[..whole])?;
            buffer.copy_within(whole..filled, 0);
            filled -= whole;
        }
    }
}

fn leader(node: &Node) -> Result<(String, rdb_protocol::ClusterId), SeedFailure> {
    let core = node.lock();
    let state = core.control.state();
    let leader = state.promise.leader.as_ref().filter(|leader| leader.name != state.name);
    let address = leader.and_then(|leader| state.peers.iter().find(|peer| peer.name == leader.name));
    match (address, state.cluster) {
        (Some(peer), Some(cluster)) => Ok((peer.address.clone(), cluster)),
        _ => Err(SeedFailure::NoLeader),
    }
}
