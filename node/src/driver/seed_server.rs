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

use super::{Node, boot};
use crate::clock;

pub const SEED_PATH: &str = "/v1/peer/seed";
/// Header of the answer with the [`SeedManifest`] as JSON.
pub const SEED_HEADER: &str = "Rdb-Seed";

/// While a session is held, SQLite's WAL cannot be reused and grows with every write: long enough for a reconnect.
const HOLD_MICROS: u64 = 30_000_000;
/// Sessions at once; each holds a read transaction.
const MAX_SESSIONS: usize = 4;
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
}

impl Seeds {
    /// Ends the sessions that nobody came back for.
    pub fn expire(&self) {
        let now = clock::boot_micros();
        self.held
            .lock()
            .retain(|_, held| Arc::strong_count(&held.session) > 1 || now.saturating_sub(held.used) < HOLD_MICROS);
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

/// A stream that has begun.
pub struct SeedStream {
    pub manifest: SeedManifest,
    pub chunks: mpsc::Receiver<std::io::Result<Bytes>>,
}

impl Node {
    /// Continues session `id` at page `from`, or begins a new one at its first page. Blocks on the disk.
    pub fn seed_stream(self: &Arc<Self>, id: u64, from: u32) -> Result<SeedStream, String> {
        let held = self.seeds.held.lock().get(&id).cloned();
        let (held, from) = match held {
            Some(held) => (held, from.max(1)),
            None => (self.open_session()?, 1),
        };
        let (sender, chunks) = mpsc::channel(CHUNKS_ON_THE_WAY);
        let manifest = held.manifest;
        let node = self.clone();
        let thread = std::thread::Builder::new().name("seed-send".into());
        thread.spawn(move || node.send_pages(&held, from, &sender)).map_err(|error| error.to_string())?;
        Ok(SeedStream { manifest, chunks })
    }

    fn open_session(&self) -> Result<Held, String> {
        self.seeds.expire();
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
        let manifest = SeedManifest { session: boot::random().max(1), cluster, position, info };
        let held = Held { manifest, session: Arc::new(Mutex::new(session)), used: clock::boot_micros() };
        self.seeds.held.lock().insert(manifest.session, held.clone());
        Ok(held)
    }

    fn send_pages(&self, held: &Held, from: u32, sender: &mpsc::Sender<std::io::Result<Bytes>>) {
        let count = (CHUNK_BYTES / held.manifest.info.page_size).max(1);
        let mut next = from;
        while next <= held.manifest.info.page_count {
            let chunk =
                held.session.lock().read_pages(next, count).map_err(|error| std::io::Error::other(error.to_string()));
            let failed = chunk.is_err();
            // The receiver may be gone: it comes back for the rest.
            if sender.blocking_send(chunk).is_err() || failed {
                break;
            }
            next += count;
        }
        let finished = next > held.manifest.info.page_count;
        let mut sessions = self.seeds.held.lock();
        if finished {
            sessions.remove(&held.manifest.session);
        } else if let Some(entry) = sessions.get_mut(&held.manifest.session) {
            entry.used = clock::boot_micros();
        }
    }
}
