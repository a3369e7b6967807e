//! Closed-loop load: each of N clients has one connection and sends its next request when the last one is answered.
//!
//! All clients share one thread. Requests are made into a buffer that is kept, and answers are looked at no further than
//! their status code, so that the client costs a few microseconds per request: it runs on the same cores as the nodes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::client::{Connection, RequestBuilder};
use crate::clock::{now, pause, thread_cpu};
use crate::histogram::Histogram;

/// Makes the bodies of one client's requests.
pub trait Bodies: Send + 'static {
    /// Writes the next body into the empty buffer.
    fn next(&mut self, body: &mut Vec<u8>);
}

impl<F: FnMut(&mut Vec<u8>) + Send + 'static> Bodies for F {
    fn next(&mut self, body: &mut Vec<u8>) {
        self(body);
    }
}

/// What to run.
#[derive(Clone, Debug)]
pub struct Plan {
    pub clients: usize,
    /// `host:port`; clients are spread over them in turn.
    pub addresses: Vec<String>,
    pub path: String,
    pub token: Option<String>,
    /// Before measuring: connections open, caches fill.
    pub warm_up: Duration,
    pub measure: Duration,
}

/// What came out.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    pub latencies: Histogram,
    /// Answers other than 200, broken connections included.
    pub failures: u64,
    /// The first failure, for the report.
    pub first_failure: Option<String>,
    pub elapsed: Duration,
    /// Processor time of the clients' thread while it measured; meaningful when they have one to themselves.
    pub client_cpu: Duration,
}

impl Outcome {
    /// Successful requests per second.
    pub fn rate(&self) -> f64 {
        self.latencies.count() as f64 / self.elapsed.as_secs_f64().max(1e-9)
    }
}

/// Shared by all clients of a run.
#[derive(Debug, Default)]
struct Switch {
    measuring: AtomicBool,
    stop: AtomicBool,
    done: AtomicU64,
}

/// Runs the load until its time is over.
pub async fn run<B: Bodies>(plan: &Plan, mut bodies: impl FnMut(usize) -> B) -> Outcome {
    let switch = Arc::new(Switch::default());
    let mut clients = tokio::task::JoinSet::new();
    for number in 0..plan.clients {
        let address = plan.addresses[number % plan.addresses.len()].clone();
        let builder = RequestBuilder::post(&plan.path, plan.token.as_deref());
        clients.spawn(client(address, builder, bodies(number), switch.clone()));
    }
    pause(plan.warm_up).await;
    let (start, cpu) = (now(), thread_cpu());
    switch.measuring.store(true, Ordering::Relaxed);
    pause(plan.measure).await;
    switch.measuring.store(false, Ordering::Relaxed);
    let elapsed = now() - start;
    let client_cpu = thread_cpu().saturating_sub(cpu);
    switch.stop.store(true, Ordering::Relaxed);
    let mut outcome = Outcome { elapsed, client_cpu, ..Outcome::default() };
    while let Some(one) = clients.join_next().await {
        match one {
            Ok(one) => {
                outcome.latencies.merge(&one.latencies);
                outcome.failures += one.failures;
                outcome.first_failure = outcome.first_failure.or(one.first_failure);
            }
            Err(error) => outcome.first_failure = Some(error.to_string()),
        }
    }
    outcome
}

/// A load that goes on until told to stop, counting as it goes: for scenarios that look at the rate over time.
#[derive(Debug)]
pub struct Background {
    switch: Arc<Switch>,
    clients: tokio::task::JoinSet<Outcome>,
}

impl Background {
    pub fn start<B: Bodies>(plan: &Plan, mut bodies: impl FnMut(usize) -> B) -> Background {
        let switch = Arc::new(Switch::default());
        switch.measuring.store(true, Ordering::Relaxed);
        let mut clients = tokio::task::JoinSet::new();
        for number in 0..plan.clients {
            let address = plan.addresses[number % plan.addresses.len()].clone();
            let builder = RequestBuilder::post(&plan.path, plan.token.as_deref());
            clients.spawn(client(address, builder, bodies(number), switch.clone()));
        }
        Background { switch, clients }
    }

    /// Successful requests so far.
    pub fn done(&self) -> u64 {
        self.switch.done.load(Ordering::Relaxed)
    }

    /// Stops after the requests in flight.
    pub async fn stop(mut self) -> Outcome {
        self.switch.stop.store(true, Ordering::Relaxed);
        let mut outcome = Outcome::default();
        while let Some(one) = self.clients.join_next().await {
            let Ok(one) = one else { continue };
            outcome.latencies.merge(&one.latencies);
            outcome.failures += one.failures;
            outcome.first_failure = outcome.first_failure.or(one.first_failure);
        }
        outcome
    }
}

/// How long a client waits after a failure: a refused connection costs nothing and would otherwise be repeated 50,000
/// times a second.
const AFTER_FAILURE: Duration = Duration::from_millis(20);

async fn client(address: String, builder: RequestBuilder, mut bodies: impl Bodies, switch: Arc<Switch>) -> Outcome {
    let mut outcome = Outcome::default();
    let mut connection: Option<Connection> = None;
    let mut body = Vec::new();
    let mut request = Vec::new();
    while !switch.stop.load(Ordering::Relaxed) {
        body.clear();
        bodies.next(&mut body);
        builder.write(&mut request, None, &body);
        let start: Instant = now();
        match one_request(&mut connection, &address, &request).await {
            Ok(()) if switch.measuring.load(Ordering::Relaxed) => {
                outcome.latencies.record(now() - start);
                switch.done.fetch_add(1, Ordering::Relaxed);
            }
            Ok(()) => {}
            Err(failure) => {
                outcome.failures += 1;
                outcome.first_failure.get_or_insert(failure);
                pause(AFTER_FAILURE).await;
            }
        }
    }
    outcome
}

async fn one_request(connection: &mut Option<Connection>, address: &str, request: &[u8]) -> Result<(), String> {
    let open = match connection {
        Some(open) if !open.is_closing() => open,
        _ => connection.insert(Connection::open(address).await.map_err(|error| error.to_string())?),
    };
    match open.exchange(request).await {
        Ok(head) if head.status == 200 => Ok(()),
        Ok(head) => Err(format!("status {}: {}", head.status, String::from_utf8_lossy(open.body()))),
        Err(error) => {
            *connection = None;
            Err(error.to_string())
        }
    }
}
