//! Seeding, the giving side: `GET /v1/peer/seed` streams the pages of one read transaction, which never blocks the writer.
//! A session is held for a while after a stream ends, so that a broken one can go on where it stopped.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use rdb_engine::{SeedInfo, SeedSession};
use rdb_protocol::{ClusterId, Index, Position};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use super::Node;
use crate::clock;

pub const SEED_PATH: &str = "/v1/peer/seed";
/// Header of the answer with the [`SeedManifest`] as JSON.
pub const SEED_HEADER: &str = "Rdb-Seed";

/// While a session is held, SQLite's WAL cannot be reused and grows with every write: long enough for a reconnect.
const HOLD_MICROS: u64 = 30_000_000;
/// The state at which a leader took over with loss is held for the old leader to compare with, when it comes back: as long
/// as a machine takes to restart, and while SQLite's WAL, which cannot shrink meanwhile, stays below [`MAX_HELD_WAL_BYTES`];
/// and longer while hardly anything is written.
const HOLD_FOR_LOST_MICROS: u64 = 600_000_000;
const MIN_HELD_WAL_BYTES: u64 = 1 << 20;
/// A quarter of the default volume.
const MAX_HELD_WAL_BYTES: u64 = 256 << 20;
/// Sessions at once; each holds a read transaction.
const MAX_SESSIONS: usize = 4;
/// Least time for a chunk while clients write: 48 MiB a second. Unhindered, a copy of 220 MiB a second took more than half of a
/// writing leader's throughput on two processors and one disk; 64 MiB a second took up to a third of it.
const CHUNK_PAUSE: std::time::Duration = std::time::Duration::from_micros(20_833);
/// A receiver that takes nothing for so long has stalled.
const STALLED: std::time::Duration = std::time::Duration::from_secs(30);
/// Bytes per chunk, and chunks on their way: 4 MiB per stream.
const CHUNK_BYTES: u32 = 1 << 20;
pub const CHUNKS_ON_THE_WAY: usize = 4;

/// What is being sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeedManifest {
    pub session: u64,
    pub cluster: ClusterId,
    /// Where the log continues.
    pub position: Position,
    pub info: SeedInfo,
}

/// The sessions that are open or held.
#[derive(Default)]
pub struct Seeds {
    held: Mutex<BTreeMap<u64, Held>>,
}

#[derive(Clone)]
struct Held {
    manifest: SeedManifest,
    session: Arc<Mutex<SeedSession>>,
    used: u64,
    /// Of the moment before this leader's first write after a failover with loss.
    before_loss: bool,
}

impl Held {
    fn expired(&self, now: u64, wal_bytes: u64) -> bool {
        let age = now.saturating_sub(self.used);
        if self.before_loss {
            let limit = if age >= HOLD_FOR_LOST_MICROS { MIN_HELD_WAL_BYTES } else { MAX_HELD_WAL_BYTES };
            return wal_bytes > limit;
        }
        Arc::strong_count(&self.session) == 1 && age >= HOLD_MICROS
    }
}

impl Seeds {
    /// Ends the sessions that nobody came back for.
    pub fn expire(&self, wal_bytes: u64) {
        let now = clock::boot_micros();
        self.held.lock().retain(|_, held| !held.expired(now, wal_bytes));
    }

    /// The state before this leader's first write, if it has no record after `lost` but those without changes.
    fn before_loss(&self, lost: Index) -> Option<Held> {
        let held = self.held.lock();
        held.values().find(|held| held.before_loss && held.manifest.info.index <= lost).cloned()
    }

    /// The log is needed from after this index on.
    pub fn oldest(&self) -> Option<Index> {
        self.held.lock().values().map(|held| held.manifest.position.index).min()
    }

    /// Ends all sessions: the database is about to be replaced.
    pub fn clear(&self) {
        self.held.lock().clear();
    }
}

/// Slows a stream down while clients write.
struct Pace {
    committed: Index,
    since: std::time::Instant,
}

impl Pace {
    /// Waits until the chunk that was just sent has taken its time, if anything was committed meanwhile.
    async fn keep(&mut self, node: &Node) {
        let committed = node.view.committed();
        if committed != self.committed {
            let until = self.since + CHUNK_PAUSE;
            // The time passing is what is waited for.
            tokio::time::timeout_at(until.into(), std::future::pending::<()>()).await.ok();
        }
        *self = Pace { committed, since: clock::instant() };
    }
}

/// A stream that has begun.
pub struct SeedStream {
    pub manifest: SeedManifest,
    pub chunks: mpsc::Receiver<std::io::Result<Bytes>>,
}

impl Node {
    /// Continues session `id` at page `from`, or begins a new one at its first page. A node that lost records after `lost`
    /// gets the state of then, if it is still held. Blocks on the disk.
    pub fn seed_stream(self: &Arc<Self>, id: u64, from: u32, lost: Option<Index>) -> Result<SeedStream, String> {
        let held = self.seeds.held.lock().get(&id).cloned();
        let (held, from) = match (held, lost.and_then(|lost| self.seeds.before_loss(lost))) {
            (Some(held), _) => (held, from.max(1)),
            (None, Some(held)) => (held, 1),
            (None, None) => (self.open_session(false)?, 1),
        };
        let (sender, chunks) = mpsc::channel(CHUNKS_ON_THE_WAY);
        let manifest = held.manifest;
        let node = self.clone();
        let thread = std::thread::Builder::new().name("seed-send".into());
        let runtime = tokio::runtime::Handle::try_current().map_err(|error| error.to_string())?;
        let send = move || node.send_pages(&held, from, &sender, &runtime);
        thread.spawn(send).map_err(|error| error.to_string())?;
        Ok(SeedStream { manifest, chunks })
    }

    /// Holds the present state for nodes that come back with records that were lost by permission. Called before the first
    /// write of the epoch.
    pub(super) fn hold_for_lost(&self) {
        match self.open_session(true) {
            Ok(held) => {
                tracing::info!(position = %held.manifest.position, "holding the state before this epoch's writes")
            }
            Err(reason) => tracing::warn!(reason, "divergent tails of this failover will not be readable"),
        }
    }

    /// Bytes in SQLite's write-ahead log.
    pub(super) fn wal_bytes(&self) -> u64 {
        let stats = self.engine().map(|engine| engine.stats()).unwrap_or_default();
        stats.wal_frames * u64::from(stats.page_size)
    }

    fn open_session(&self, before_loss: bool) -> Result<Held, String> {
        self.seeds.expire(self.wal_bytes());
        if self.seeds.held.lock().len() >= MAX_SESSIONS {
            return Err("too many base copies are being sent".to_owned());
        }
        let engine = self.engine().filter(|_| self.view.serving()).ok_or("this node has no usable database")?;
        let session = engine.seed_session().map_err(|error| error.to_string())?;
        let info = session.info();
        let core = self.lock();
        let cluster = core.control.state().cluster.ok_or("this node has no cluster")?;
        let running = core.running.as_ref().ok_or("this node has no log")?;
        let position = running.log.position(info.index).ok_or("the log does not reach back to the copy's position")?;
        drop(core);
        let manifest = SeedManifest { session: super::random().max(1), cluster, position, info };
        let held = Held { manifest, session: Arc::new(Mutex::new(session)), used: clock::boot_micros(), before_loss };
        self.seeds.held.lock().insert(manifest.session, held.clone());
        Ok(held)
    }

    fn send_pages(
        &self,
        held: &Held,
        from: u32,
        sender: &mpsc::Sender<std::io::Result<Bytes>>,
        runtime: &tokio::runtime::Handle,
    ) {
        let count = (CHUNK_BYTES / held.manifest.info.page_size).max(1);
        let mut next = from;
        let mut pace = Pace { committed: self.view.committed(), since: clock::instant() };
        while next <= held.manifest.info.page_count {
            let chunk =
                held.session.lock().read_pages(next, count).map_err(|error| std::io::Error::other(error.to_string()));
            let failed = chunk.is_err();
            // The receiver may be gone, and comes back for the rest; or it does not read, and must not hold the snapshot.
            let sent = runtime.block_on(async { tokio::time::timeout(STALLED, sender.send(chunk)).await });
            if !matches!(sent, Ok(Ok(()))) || failed {
                break;
            }
            next += count;
            runtime.block_on(pace.keep(self));
        }
        let finished = next > held.manifest.info.page_count;
        let mut sessions = self.seeds.held.lock();
        if finished && !held.before_loss {
            sessions.remove(&held.manifest.session);
        } else if held.before_loss {
            // Held from when it was taken.
        } else if let Some(entry) = sessions.get_mut(&held.manifest.session) {
            entry.used = clock::boot_micros();
        }
    }
}
