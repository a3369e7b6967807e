//! What HTTP asks of a node: [`Backend`] for [`Service`].

use std::sync::Arc;

use bytes::Bytes;
use prometheus_client::registry::Registry;
use rdb_engine::{KeptOutcome, Limits as RequestLimits, Transaction};
use rdb_protocol::NodeName;
use rdb_protocol::admin::{AdminRefusal, Probe};
use rdb_protocol::api::{ApiError, ErrorCode, Token};
use rdb_protocol::status::NodeStatus;
use rdb_record::ClientTag;
use rdb_replication::{self as replication, Input};
use tokio::sync::{mpsc, oneshot, watch};

use super::seed_server::SEED_HEADER;
use super::worker::WriteJob;
use super::{Node, report};
use crate::http::Backend;
use crate::http::backend::{
    AdminAnswer, AdminCall, Answer, ChangesCall, Check, Deadline, Lead, Limits, ReadCall, Snapshot, WriteCall,
};

/// A handle to the node, for HTTP.
#[derive(Clone)]
pub struct Service(pub Arc<Node>);

impl Backend for Service {
    fn node(&self) -> &NodeName {
        &self.0.name
    }

    fn here(&self) -> Token {
        self.0.view.here()
    }

    fn limits(&self) -> Limits {
        *self.0.limits.read()
    }

    fn lead(&self) -> watch::Receiver<Lead> {
        self.0.view.lead.subscribe()
    }

    async fn write(&self, call: WriteCall) -> Result<Answer, ApiError> {
        if self.0.disk.is_full() {
            return Err(ErrorCode::DiskFull
                .error("too little disk space to accept writes", "free space or grow the volume; reads go on"));
        }
        let (reply, answer) = oneshot::channel();
        let transaction = Transaction {
            statements: call.statements,
            key: call.key,
            limits: RequestLimits { max_result_bytes: self.0.max_result_bytes() },
            deadline: Some(call.deadline.0),
        };
        self.0.worker.submit(WriteJob { transaction, epoch: call.epoch, deadline: call.deadline.0, reply })?;
        // The worker always answers; a dropped channel means that the process is ending.
        let result = answer.await.unwrap_or_else(|_| {
            Err(ErrorCode::UnknownOutcome.error("the node is stopping", "send it again with the same Idempotency-Key"))
        })?;
        let position = Token { epoch: result.position.epoch, index: result.position.index };
        Ok(Answer { results: result.results, position })
    }

    async fn read(&self, call: ReadCall) -> Result<Answer, ApiError> {
        self.0.read_at(call).await
    }

    async fn outcome(&self, tag: ClientTag, _deadline: Deadline) -> Result<Option<KeptOutcome>, ApiError> {
        self.0.kept_outcome(tag).await
    }

    fn status(&self) -> NodeStatus {
        report::status(&self.0)
    }

    fn status_changed(&self) -> watch::Receiver<()> {
        self.0.view.status.subscribe()
    }

    async fn admin(&self, call: AdminCall) -> Result<AdminAnswer, AdminRefusal> {
        let call = match call {
            AdminCall::Init(init) => {
                let node = self.0.clone();
                return blocking(move || node.init(&init).map(|()| AdminAnswer::Done)).await;
            }
            AdminCall::Reseed(reseed) => return self.reseed(&reseed),
            AdminCall::Probe(probe) => return self.probe(&probe).await,
            AdminCall::Shutdown(_) => {
                self.0.shutdown.send_replace(true);
                return Ok(AdminAnswer::Done);
            }
            AdminCall::Fence(call) => replication::AdminCall::Fence(call),
            AdminCall::Promote(call) => replication::AdminCall::Promote(call),
            AdminCall::Follow(call) => replication::AdminCall::Follow(call),
            AdminCall::NextConfig(call) => replication::AdminCall::NextConfig(call),
            AdminCall::Settle(call) => replication::AdminCall::Settle(call),
            AdminCall::StopWrites(call) => replication::AdminCall::StopWrites(call),
            AdminCall::ResumeWrites(call) => replication::AdminCall::ResumeWrites(call),
            AdminCall::LeaseAnswer(call) => replication::AdminCall::Lease(call),
        };
        self.replicated(call).await
    }

    async fn snapshot(&self) -> Result<Snapshot, ApiError> {
        let node = self.0.clone();
        let begun = tokio::task::spawn_blocking(move || node.seed_stream(0, 1, None)).await;
        let stream = begun.map_err(|error| error.to_string()).and_then(|begun| begun);
        let stream = stream.map_err(|reason| ErrorCode::Unavailable.error(reason, "try another node, or later"))?;
        let info = stream.manifest.info;
        Ok(Snapshot {
            position: Token { epoch: info.epoch, index: info.index },
            length: Some(u64::from(info.page_count) * u64::from(info.page_size)),
            chunks: stream.chunks,
        })
    }

    async fn archived(&self, archive: String) -> Result<mpsc::Receiver<std::io::Result<Bytes>>, ApiError> {
        self.0.archived_rows(&archive)
    }

    async fn changes(&self, call: ChangesCall) -> Result<mpsc::Receiver<std::io::Result<Bytes>>, ApiError> {
        self.0.change_stream(call)
    }

    fn readiness(&self) -> Vec<Check> {
        report::readiness(&self.0)
    }

    fn liveness(&self) -> Vec<Check> {
        // Every failure that a restart would heal ends the process at once.
        vec![Check { name: "process", result: Ok(()) }]
    }

    fn register_metrics(&self, registry: &mut Registry) {
        registry.register_collector(Box::new(report::Metrics(self.0.clone())));
    }
}

impl Service {
    /// Gives a call to the replication core and waits for its answer.
    async fn replicated(&self, call: replication::AdminCall) -> Result<AdminAnswer, AdminRefusal> {
        let (reply, answer) = oneshot::channel();
        let node = self.0.clone();
        // Stepping may write the control file.
        let stepped = blocking(move || {
            let mut core = node.lock();
            if core.running.is_none() {
                return Err(refused("this node belongs to no cluster yet: call init first"));
            }
            if let replication::AdminCall::Promote(promote) = &call {
                if core.given_up || !matches!(core.control.state().data, rdb_log::DataState::Ready) {
                    return Err(refused("this node has no usable data to lead with"));
                }
                let begins = core.running.as_ref().is_some_and(|running| running.replica.led() < promote.epoch);
                if promote.lossy && begins {
                    node.lossy_epoch.store(promote.epoch.0, std::sync::atomic::Ordering::Release);
                }
            }
            core.next_token += 1;
            let token = replication::Token(core.next_token);
            core.replies.insert(token, reply);
            let input = Input::Admin { token, call, timestamp: node.timestamp() };
            let effects = node.step(&mut core, input);
            node.unlock(core);
            node.defer(effects);
            node.dialer.retry();
            node.seeding.retry();
            Ok(())
        });
        stepped.await?;
        match answer.await {
            Ok(Ok(replication::AdminAnswer::Done)) => Ok(AdminAnswer::Done),
            Ok(Ok(replication::AdminAnswer::Recruit(recruit))) => Ok(AdminAnswer::Recruit(recruit)),
            Ok(Err(refusal)) => Err(refusal),
            Err(_) => Err(refused("this node began anew meanwhile")),
        }
    }

    fn reseed(&self, reseed: &rdb_protocol::admin::Reseed) -> Result<AdminAnswer, AdminRefusal> {
        let core = self.0.lock();
        let state = core.control.state();
        if state.promise.epoch > reseed.epoch {
            return Err(AdminRefusal::Fenced { promise: state.promise.clone() });
        }
        if state.incarnation != reseed.incarnation {
            return Err(refused("this is another incarnation already"));
        }
        if core.running.as_ref().is_some_and(|running| running.replica.is_open()) {
            return Err(refused("this node leads; switch over first"));
        }
        let generation = core.generation;
        drop(core);
        self.0.seeding.request(generation, "asked for by the operator".to_owned());
        Ok(AdminAnswer::Done)
    }

    /// Waits until a record that is appended now is committed.
    async fn probe(&self, probe: &Probe) -> Result<AdminAnswer, AdminRefusal> {
        let node = self.0.clone();
        let epoch = probe.epoch;
        let appended = blocking(move || {
            let mut core = node.lock();
            let promise = core.control.state().promise.clone();
            if promise.epoch > epoch {
                return Err(AdminRefusal::Fenced { promise });
            }
            let effects = node.step(&mut core, Input::Noop);
            let last = core.running.as_ref().map(|running| running.log.last().index);
            node.unlock(core);
            node.defer(effects);
            last.ok_or_else(|| refused("this node has no log"))
        });
        let index = appended.await?;
        let deadline = tokio::time::Instant::now() + std::time::Duration::from_millis(probe.deadline_ms);
        match self.0.view.wait_applied(index, deadline).await {
            true => Ok(AdminAnswer::Done),
            false => Err(refused("the probe was not committed in time")),
        }
    }
}

impl Node {
    /// `GET /v1/peer/seed?session=…&from=…&lost=…`.
    pub(super) fn seed_answer(self: &Arc<Self>, query: &str) -> warp::reply::Response {
        use warp::Reply as _;
        let parameter = |name: &str| {
            query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('=')).map(str::to_owned)
        };
        let session = parameter("session").and_then(|text| text.parse().ok()).unwrap_or(0);
        let from = parameter("from").and_then(|text| text.parse().ok()).unwrap_or(1);
        let lost = parameter("lost").and_then(|text| text.parse().ok()).map(rdb_protocol::Index);
        let begun = tokio::task::block_in_place(|| self.seed_stream(session, from, lost));
        let stream = match begun {
            Ok(stream) => stream,
            Err(reason) => {
                tracing::warn!(reason, "a base copy was asked for in vain");
                return warp::reply::with_status(reason, hyper::StatusCode::SERVICE_UNAVAILABLE).into_response();
            }
        };
        let manifest = serde_json::to_string(&stream.manifest).ok().and_then(|text| text.parse().ok());
        let mut chunks = stream.chunks;
        let body = futures_util::stream::poll_fn(move |context| chunks.poll_recv(context));
        let mut response = warp::reply::stream(body).into_response();
        if let Some(manifest) = manifest {
            response.headers_mut().insert(SEED_HEADER, manifest);
        }
        response
    }
}

fn refused(reason: &str) -> AdminRefusal {
    AdminRefusal::State { reason: reason.to_owned() }
}

async fn blocking<T: Send + 'static>(
    run: impl FnOnce() -> Result<T, AdminRefusal> + Send + 'static,
) -> Result<T, AdminRefusal> {
    tokio::task::spawn_blocking(run).await.unwrap_or_else(|error| Err(refused(&error.to_string())))
}
