//! The accept loop: one task per connection, HTTP/1.1 with keep-alive. Requests go to the driver's peer hook or to warp.

use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use hyper::body::{Body, Incoming};
use hyper::header::{AUTHORIZATION, CONNECTION, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use rdb_protocol::api::ApiError;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::Instant;

use super::app::App;
use super::auth::{Bearer, Caller, Elsewhere, Tokens};
use super::backend::Backend;
use super::metrics::Kind;
use super::sockets::{CLIENT, limit_silence};
use super::{errors, routes};

/// How often connections are looked through for those that have done nothing since the last look: an idle one ends after one
/// to two of these, and so does one that dribbles the head of a request. Longer than our own pool keeps connections, so that
/// it is not us who closes one with a request on its way. One sweep for all instead of a timer for every request, which
/// would cost each of them two locks.
pub const SWEEP_INTERVAL: Duration = Duration::from_secs(30);

/// Answers that are larger, or of unknown length, end their connection: they take as long as the client wants, so that the
/// sweep must not count them as idle, and afterwards nothing is to be left that it overlooks.
const LONG_ANSWER_BYTES: u64 = 1 << 20;

/// Connections at once. Each costs 10 to 20 KiB and one of the usual 65,536 file descriptors of a container.
const MAX_CONNECTIONS: u32 = 8192;

/// Buffer of a connection: large enough for bodies to arrive in few reads, small enough for thousands of connections.
const MAX_BUFFER_BYTES: usize = 256 << 10;

/// Pause after a failed accept: the usual reason, no free file descriptor, does not pass within microseconds.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A connection that is to end is given so long to send one more request, which is answered with the word that it ends. A client
/// that writes all the time hears that word at once; one that is silent for so long is cut with hardly a request on its way.
const DEMOTION_LINGER: Duration = Duration::from_secs(2);
/// The same at a leader that is ending: what keeps it keeps the next leader waiting.
pub const LEADER_LINGER: Duration = Duration::from_millis(100);
/// And at any other node, for which nobody waits: a third of [`DRAIN_LIMIT`], so that a client whose machine stands still for a
/// moment is not cut with a request on its way.
pub const FOLLOWER_LINGER: Duration = Duration::from_secs(1);

/// A node that is ending waits so long for what is under way: many times what a write takes, and half of what is left of a pod's
/// 15 seconds, most of which the operator's switchover may have taken.
pub const DRAIN_LIMIT: Duration = Duration::from_secs(3);
/// And so long for the answers that say that the outcome is unknown.
const LAST_ANSWERS: Duration = Duration::from_millis(200);

/// Takes over requests to `/v1/peer…`, whose peer token was checked: the WebSocket upgrade of a peer, or a seed session.
pub type PeerHook = Arc<dyn Fn(Request<Incoming>) -> warp::reply::Response + Send + Sync>;

impl Order {
    /// How long a connection that was told `before` may go on, if it is to end now.
    fn linger(self, before: Order) -> Option<Duration> {
        match (self.leaving.filter(|_| before.leaving.is_none()), self.closes != before.closes) {
            (Some(linger), _) => Some(linger),
            (None, true) => Some(DEMOTION_LINGER),
            (None, false) => None,
        }
    }
}

/// A running server. Dropping it stops accepting and ends every connection but the ones that peers took over.
pub struct Server {
    local_address: SocketAddr,
    orders: Arc<watch::Sender<Order>>,
    /// One per connection that may be opened yet.
    free: Arc<Semaphore>,
    given_up: Arc<Notify>,
}

/// What all connections are told. Peer connections are out of reach: they are the driver's after their upgrade.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Order {
    /// Counts [`Server::close_clients`].
    closes: u64,
    /// Counts the sweeps for idle connections.
    sweeps: u64,
    /// The node is ending: no more connections, and no more requests on those that stand, which may be silent for so long.
    leaving: Option<Duration>,
    stop: bool,
}

impl Server {
    /// Serves `listener` on the current tokio runtime.
    pub fn start<B: Backend>(
        listener: TcpListener,
        backend: Arc<B>,
        tokens: Tokens,
        peer: PeerHook,
    ) -> io::Result<Server> {
        Server::start_with(listener, backend, tokens, peer, SWEEP_INTERVAL)
    }

    pub(super) fn start_with<B: Backend>(
        listener: TcpListener,
        backend: Arc<B>,
        tokens: Tokens,
        peer: PeerHook,
        sweep_interval: Duration,
    ) -> io::Result<Server> {
        let local_address = listener.local_addr()?;
        let orders = Arc::new(watch::Sender::new(Order::default()));
        let app = Arc::new(App::new(backend, tokens));
        let server = Server {
            local_address,
            orders: orders.clone(),
            free: Arc::new(Semaphore::new(MAX_CONNECTIONS as usize)),
            given_up: app.given_up.clone(),
        };
        tokio::spawn(accept(listener, app, peer, orders.clone(), server.free.clone()));
        tokio::spawn(sweep(orders, sweep_interval));
        Ok(server)
    }

    pub fn local_address(&self) -> SocketAddr {
        self.local_address
    }

    /// Ends the connections that stand, each with the answer to the request that it is at or to its next: a leader that was
    /// demoted calls this, since clients would stay with it although the routes have moved. New connections are served, and
    /// forwarded.
    pub fn close_clients(&self) {
        self.orders.send_modify(|order| order.closes += 1);
    }

    /// Takes no more connections, answers what is under way, and ends the connections that stand. What is not done after
    /// `limit` is answered with what is known of it, which for a write is nothing. Connections that are silent for `linger` are
    /// ended. [`Server::stop`] is still to be called.
    pub async fn drain(&self, limit: Duration, linger: Duration) {
        self.orders.send_modify(|order| order.leaving = Some(linger));
        if self.all_ended(limit).await {
            return;
        }
        tracing::warn!("requests were under way for too long: they are answered as they stand");
        self.given_up.notify_waiters();
        self.all_ended(LAST_ANSWERS).await;
    }

    /// Waits until no connection is left, but those that peers took over; false when that takes longer.
    async fn all_ended(&self, limit: Duration) -> bool {
        tokio::time::timeout(limit, self.free.acquire_many(MAX_CONNECTIONS)).await.is_ok()
    }

    /// Stops accepting and drops all connections at once.
    pub fn stop(&self) {
        self.orders.send_modify(|order| order.stop = true);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

async fn accept<B: Backend>(
    listener: TcpListener,
    app: Arc<App<B>>,
    peer: PeerHook,
    orders: Arc<watch::Sender<Order>>,
    free: Arc<Semaphore>,
) {
    let mut end = orders.subscribe();
    loop {
        let next = async {
            let slot = free.clone().acquire_owned().await;
            (slot, listener.accept().await)
        };
        let (slot, accepted) = tokio::select! {
            next = next => next,
            _ = end.wait_for(|order| order.leaving.is_some() || order.stop) => {
                app.leave();
                return;
            }
        };
        match accepted {
            Ok((stream, remote)) => {
                app.metrics.connections.inc();
                let mut orders = orders.subscribe();
                // From here on, no order is missed.
                let done = *orders.borrow_and_update();
                let connection = serve(stream, remote, app.clone(), peer.clone(), orders, done);
                tokio::spawn(async move {
                    connection.await;
                    drop(slot);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a connection was not accepted");
                let pause = std::future::pending::<()>();
                tokio::time::timeout(ACCEPT_PAUSE, pause).await.ok();
            }
        }
    }
}

/// Tells all connections to look whether they are idle.
async fn sweep(orders: Arc<watch::Sender<Order>>, interval: Duration) {
    let mut stop = orders.subscribe();
    while tokio::time::timeout(interval, stop.wait_for(|order| order.stop)).await.is_err() {
        orders.send_modify(|order| order.sweeps += 1);
    }
}

/// What a connection shares with the requests on it.
struct Connection<B> {
    app: Arc<App<B>>,
    peer: PeerHook,
    elsewhere: bool,
    /// Requests begun.
    begun: AtomicU64,
    /// A request is being worked on, or its long answer is on its way.
    busy: AtomicBool,
    orders: watch::Receiver<Order>,
    /// What was ordered before the connection began.
    done: Order,
}

impl<B: Backend> Connection<B> {
    /// Counts an answer and makes it complete.
    fn finish(&self, response: &mut warp::reply::Response, kind: Kind, begun: Instant) {
        self.app.mark_if_bare(response);
        self.app.metrics.count(kind, response.status(), begun.elapsed());
        if response.body().size_hint().upper().is_some_and(|length| length <= LONG_ANSWER_BYTES) {
            self.busy.store(false, Ordering::Relaxed);
        } else if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        // An order counts from the moment at which it was given, also where the connection has not come to it yet.
        let is_last = self.orders.borrow().linger(self.done).is_some();
        if is_last && response.status() != StatusCode::SWITCHING_PROTOCOLS {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
    }

    /// Nothing was asked since `seen` requests had begun, and nothing is under way.
    fn is_idle(&self, seen: &mut u64) -> bool {
        let begun = self.begun.load(Ordering::Relaxed);
        let idle = begun == std::mem::replace(seen, begun);
        idle && !self.busy.load(Ordering::Relaxed)
    }
}

/// One connection, until its end.
async fn serve<B: Backend>(
    stream: TcpStream,
    remote: SocketAddr,
    app: Arc<App<B>>,
    peer: PeerHook,
    orders: watch::Receiver<Order>,
    done: Order,
) {
    // Answers are small and written at once: waiting for more to send would only delay them.
    if stream.set_nodelay(true).is_err() || limit_silence(&stream, CLIENT).is_err() {
        return;
    }
    let elsewhere = !remote.ip().to_canonical().is_loopback();
    let warp = TowerToHyperService::new(warp::service(routes::routes(app.clone())));
    let (begun, busy) = (AtomicU64::new(0), AtomicBool::new(false));
    let shared = Arc::new(Connection { app, peer, elsewhere, begun, busy, orders: orders.clone(), done });
    let state = shared.clone();
    let service = service_fn(move |mut request: Request<Incoming>| {
        let begun = Instant::now();
        let shared = shared.clone();
        shared.begun.fetch_add(1, Ordering::Relaxed);
        shared.busy.store(true, Ordering::Relaxed);
        let kind = Kind::of_path(request.uri().path());
        if elsewhere {
            request.extensions_mut().insert(Elsewhere);
        }
        let answer = if kind == Kind::Other && is_peer(request.uri().path()) {
            Err(to_peer(&shared, request))
        } else {
            Ok(warp.call(request))
        };
        async move {
            let mut response = match answer {
                Ok(answer) => tokio::select! {
                    biased;
                    response = answer => response?,
                    () = shared.app.given_up.notified() => errors::stopping(kind),
                },
                Err(response) => response,
            };
            shared.finish(&mut response, kind, begun);
            Ok::<_, std::convert::Infallible>(response)
        }
    });
    let connection = http1::Builder::new()
        .header_read_timeout(None)
        .max_buf_size(MAX_BUFFER_BYTES)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    obey(pin!(connection), |connection| connection.graceful_shutdown(), &state, orders, done).await;
}

/// Drives a connection until it ends, by itself or by order; `end` lets it take no further request; `done` is what it was told
/// before it began.
async fn obey<B: Backend, F: Future<Output = hyper::Result<()>>>(
    mut connection: Pin<&mut F>,
    end: impl Fn(Pin<&mut F>),
    state: &Connection<B>,
    mut orders: watch::Receiver<Order>,
    mut done: Order,
) {
    // The first sweep only looks: it may come right after the connection.
    let mut seen = u64::MAX;
    let mut patience = done.leaving.map(|_| Instant::now());
    loop {
        let impatient = async {
            match patience {
                Some(end) => tokio::time::sleep_until(end).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            ended = &mut connection => {
                if let Err(error) = ended {
                    tracing::debug!(%error, "a connection broke");
                }
                return;
            }
            changed = orders.changed() => {
                let order = *orders.borrow_and_update();
                let idle = order.sweeps != done.sweeps && state.is_idle(&mut seen);
                if changed.is_err() || order.stop || idle {
                    return;
                }
                if let Some(linger) = order.linger(done) {
                    patience = Some(Instant::now() + linger);
                }
                done = order;
            }
            () = impatient => {
                patience = None;
                end(connection.as_mut());
            }
        }
    }
}

fn is_peer(path: &str) -> bool {
    path == "/v1/peer" || path.starts_with("/v1/peer/")
}

fn to_peer<B>(connection: &Connection<B>, request: Request<Incoming>) -> warp::reply::Response {
    match check_peer(&connection.app.tokens, &request, connection.elsewhere) {
        Ok(()) => (connection.peer)(request),
        Err(error) => errors::error(error),
    }
}

fn check_peer(tokens: &Tokens, request: &Request<Incoming>, elsewhere: bool) -> Result<(), ApiError> {
    let header = request.headers().get(AUTHORIZATION);
    let header = header.and_then(|header| header.to_str().ok());
    let bearer = header.map(|header| Bearer { header: header.to_owned() });
    tokens.peer(&Caller { bearer, elsewhere })
}
