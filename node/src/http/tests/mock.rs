//! A backend of a few lines: a statement's arguments come back as its only row, writes are counted, and kept by their key.

use std::collections::{BTreeMap, VecDeque};
use std::future::pending;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};
use prometheus_client::registry::Registry;
use rdb_engine::{Args, Column, KeptOutcome, QueryResult, Statement};
use rdb_protocol::admin::{AdminRefusal, Recruit};
use rdb_protocol::api::{ApiError, ErrorCode, Token};
use rdb_protocol::settings::NodeSettings;
use rdb_protocol::status::{NodeState, NodeStatus, Promise, Role};
use rdb_protocol::{Epoch, Incarnation, Index, Member, NodeName, Position};
use rdb_record::ClientTag;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, watch};

use super::super::Tokens;
use super::super::backend::*;
use super::super::server::{PeerHook, SWEEP_INTERVAL, Server};
use super::PATIENCE;

pub(super) const HERE: Token = Token { epoch: Epoch(3), index: Index(7) };

/// What several nodes share, as the replicated database would.
#[derive(Default)]
pub(super) struct Store {
    pub(super) writes: Vec<String>,
    kept: BTreeMap<(String, u64), (u64, Answer)>,
}

/// How a backend treats its next call.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Mood {
    Refuse(ErrorCode),
    /// Never answers, and has not run it.
    Hang,
    /// Runs it and never says so.
    RunAndHang,
}

pub(super) struct Mock {
    name: NodeName,
    pub(super) lead: watch::Sender<Lead>,
    pub(super) changed: watch::Sender<()>,
    pub(super) settings: Mutex<NodeSettings>,
    pub(super) moods: Mutex<VecDeque<Mood>>,
    pub(super) deadlines: Mutex<Vec<Duration>>,
    /// That writes were bound to.
    pub(super) epochs: Mutex<Vec<Epoch>>,
    pub(super) problem: Mutex<Option<String>>,
    pub(super) committed: Mutex<u64>,
    store: Arc<Mutex<Store>>,
    calls: Mutex<usize>,
    called: Condvar,
}

impl Mock {
    /// Waits until so many requests have come as far as the backend's limits, which is before anything is tried.
    pub(super) fn wait_for_requests(&self, count: usize) {
        let mut calls = self.calls.lock();
        while *calls < count {
            assert!(!self.called.wait_for(&mut calls, PATIENCE).timed_out());
        }
    }

    fn arrived(&self) {
        *self.calls.lock() += 1;
        self.called.notify_all();
    }

    fn run(&self, call: WriteCall) -> Result<Answer, ApiError> {
        let mut store = self.store.lock();
        let name = call.key.as_ref().map(|key| (key.tag.client.clone(), key.tag.sequence));
        let hash = call.key.as_ref().map_or(0, |key| key.request_hash);
        if let Some((kept, answer)) = name.as_ref().and_then(|name| store.kept.get(name)) {
            return if *kept == hash {
                Ok(answer.clone())
            } else {
                Err(ErrorCode::KeyReused.error("used", "Take another."))
            };
        }
        store.writes.extend(call.statements.iter().map(|statement| statement.sql.clone()));
        let answer = Answer { results: call.statements.into_iter().map(echo).collect(), position: HERE };
        if let Some(name) = name {
            store.kept.insert(name, (hash, answer.clone()));
        }
        Ok(answer)
    }
}

fn echo(statement: Statement) -> QueryResult {
    let values = match statement.args {
        Args::Positional(values) => values,
        Args::Named(values) => values.into_iter().map(|(_, value)| value).collect(),
    };
    let column = |nth| Column { name: format!("c{nth}"), declared: None };
    QueryResult {
        columns: (0..values.len()).map(column).collect(),
        values,
        rows_affected: 1,
        last_insert_rowid: 1 << 60,
    }
}

impl Backend for Mock {
    fn node(&self) -> &NodeName {
        &self.name
    }

    fn here(&self) -> Token {
        HERE
    }

    fn limits(&self) -> Limits {
        self.arrived();
        Limits::of(&self.settings.lock())
    }

    fn lead(&self) -> watch::Receiver<Lead> {
        self.lead.subscribe()
    }

    async fn write(&self, call: WriteCall) -> Result<Answer, ApiError> {
        self.epochs.lock().push(call.epoch);
        self.deadlines.lock().push(call.deadline.remaining());
        let mood = self.moods.lock().pop_front();
        match mood {
            None => self.run(call),
            Some(Mood::Refuse(code)) => Err(code.error("refused", "Go away.")),
            Some(Mood::Hang) => pending().await,
            Some(Mood::RunAndHang) => {
                self.run(call)?;
                pending().await
            }
        }
    }

    async fn read(&self, call: ReadCall) -> Result<Answer, ApiError> {
        self.deadlines.lock().push(call.deadline.remaining());
        let mood = self.moods.lock().pop_front();
        match mood {
            None => Ok(Answer { results: vec![echo(call.statement)], position: HERE }),
            Some(Mood::Refuse(code)) => Err(code.error("refused", "Go away.")),
            Some(_) => pending().await,
        }
    }

    async fn outcome(&self, tag: ClientTag, _deadline: Deadline) -> Result<Option<KeptOutcome>, ApiError> {
        let store = self.store.lock();
        let kept = store.kept.get(&(tag.client, tag.sequence));
        Ok(kept.map(|(request_hash, answer)| KeptOutcome {
            position: answer.position,
            request_hash: *request_hash,
            results: Some(answer.results.clone()),
        }))
    }

    fn status(&self) -> NodeStatus {
        NodeStatus {
            name: self.name.clone(),
            incarnation: Incarnation(1),
            cluster: None,
            boot: Incarnation(2),
            version: "test".into(),
            role: Role::Follower,
            state: NodeState::Streaming,
            promise: Promise::default(),
            led: Epoch(0),
            lossy: Epoch(0),
            flushed: Position::ZERO,
            committed: Index(*self.committed.lock()),
            applied: Index(0),
            first_retained: Index(0),
            config: None,
            opened: false,
            settled: None,
            followers: vec![],
            peers: vec![],
            leader_heard_ms_ago: None,
            lease_valid: false,
            lease_request: None,
            uncommitted_ms: None,
            acknowledged: Index(0),
            seed: None,
            other_layout: false,
            exact: Default::default(),
            divergences: vec![],
            problems: vec![],
        }
    }

    fn status_changed(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    async fn admin(&self, call: AdminCall) -> Result<AdminAnswer, AdminRefusal> {
        match call {
            AdminCall::Fence(fence) if fence.epoch > Epoch(3) => Ok(AdminAnswer::Recruit(Recruit {
                epoch: fence.epoch,
                member: Member { name: self.name.clone(), incarnation: Incarnation(1) },
                position: Position::ZERO,
                committed: Index(0),
                answered_ms_ago: 0,
                had_opened: false,
                acknowledged: Index(0),
                config: None,
            })),
            AdminCall::Fence(_) => Err(AdminRefusal::Fenced { promise: Promise::default() }),
            _ => Ok(AdminAnswer::Done),
        }
    }

    async fn archived(&self, archive: String) -> Result<mpsc::Receiver<std::io::Result<Bytes>>, ApiError> {
        let (send, lines) = mpsc::channel(1);
        let _ = send.try_send(Ok(Bytes::from(archive)));
        Ok(lines)
    }

    async fn changes(&self, call: ChangesCall) -> Result<mpsc::Receiver<std::io::Result<Bytes>>, ApiError> {
        let (send, lines) = mpsc::channel(1);
        let _ = send.try_send(Ok(Bytes::from(format!("{call:?}\n"))));
        Ok(lines)
    }

    async fn snapshot(&self) -> Result<Snapshot, ApiError> {
        let (send, chunks) = mpsc::channel(4);
        let broken = self.problem.lock().clone();
        tokio::spawn(async move {
            send.send(Ok(Bytes::from_static(b"SQLite "))).await.ok();
            let last = match broken {
                None => Ok(Bytes::from_static(b"format 3")),
                Some(problem) => Err(std::io::Error::other(problem)),
            };
            send.send(last).await.ok();
        });
        Ok(Snapshot { position: HERE, length: None, chunks })
    }

    fn readiness(&self) -> Vec<Check> {
        let result = self.problem.lock().clone().map_or(Ok(()), Err);
        let log = Check { name: "log", result: Ok(()) };
        vec![log, Check { name: "disk", result }]
    }

    fn liveness(&self) -> Vec<Check> {
        vec![Check { name: "writer", result: Ok(()) }]
    }

    fn register_metrics(&self, registry: &mut Registry) {
        let gauge = prometheus_client::metrics::gauge::Gauge::<i64>::default();
        gauge.set(42);
        registry.register("log_records", "Records", gauge);
    }
}

/// A server with its backend.
pub(super) struct Node {
    pub(super) address: SocketAddr,
    pub(super) mock: Arc<Mock>,
    pub(super) store: Arc<Mutex<Store>>,
    pub(super) server: Server,
    runtime: Runtime,
}

impl Node {
    /// Leads, and admits everybody on this machine.
    pub(super) fn leader() -> Node {
        Node::start("n-0", Place::Here, Tokens::default(), Arc::default())
    }

    /// Another node of the same cluster.
    pub(super) fn beside(&self, name: &str, place: Place) -> Node {
        Node::start(name, place, Tokens::default(), self.store.clone())
    }

    pub(super) fn start(name: &str, place: Place, tokens: Tokens, store: Arc<Mutex<Store>>) -> Node {
        Node::start_with(name, place, tokens, store, SWEEP_INTERVAL)
    }

    /// Leads, on an address of choice.
    pub(super) fn start_at(listen: &'static str, tokens: Tokens) -> Node {
        Node::serve("n-0", Place::Here, tokens, Arc::default(), SWEEP_INTERVAL, listen)
    }

    pub(super) fn start_with(
        name: &str,
        place: Place,
        tokens: Tokens,
        store: Arc<Mutex<Store>>,
        sweep_interval: Duration,
    ) -> Node {
        Node::serve(name, place, tokens, store, sweep_interval, "127.0.0.1:0")
    }

    fn serve(
        name: &str,
        place: Place,
        tokens: Tokens,
        store: Arc<Mutex<Store>>,
        sweep_interval: Duration,
        listen: &'static str,
    ) -> Node {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let mock = Arc::new(Mock {
            name: NodeName::new(name).unwrap(),
            lead: watch::Sender::new(Lead { epoch: Epoch(3), place }),
            changed: watch::Sender::new(()),
            settings: Mutex::default(),
            moods: Mutex::default(),
            deadlines: Mutex::default(),
            epochs: Mutex::default(),
            problem: Mutex::default(),
            committed: Mutex::new(0),
            store: store.clone(),
            calls: Mutex::new(0),
            called: Condvar::new(),
        });
        let peer: PeerHook = Arc::new(|_| {
            let mut response = warp::reply::Response::new("a peer".into());
            *response.status_mut() = hyper::StatusCode::IM_A_TEAPOT;
            response
        });
        let backend = mock.clone();
        let server = runtime.block_on(async move {
            let listener = TcpListener::bind(listen).await.unwrap();
            Server::start_with(listener, backend, tokens, peer, sweep_interval).unwrap()
        });
        Node { address: server.local_address(), mock, store, server, runtime }
    }

    /// Waits until the backend has been given so many calls.
    pub(super) fn wait_for_calls(&self, count: usize) {
        while self.mock.deadlines.lock().len() < count {
            std::thread::yield_now();
        }
    }

    /// As at the end of the process, but with limits of choice.
    pub(super) fn drain(&self, limit: Duration, linger: Duration) {
        self.runtime.block_on(self.server.drain(limit, linger));
    }

    pub(super) fn place(&self) -> Place {
        Place::There(self.address.to_string().into())
    }

    pub(super) fn lead_is(&self, epoch: u64, place: Place) {
        self.mock.lead.send_replace(Lead { epoch: Epoch(epoch), place });
    }

    pub(super) fn next(&self, mood: Mood) {
        self.mock.moods.lock().push_back(mood);
    }

    pub(super) fn writes(&self) -> Vec<String> {
        self.store.lock().writes.clone()
    }
}
