//! Figures about HTTP itself. Everything that a request touches is made beforehand: counting is two atomic additions.

use std::time::Duration;

use hyper::StatusCode;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

/// What was asked for. Paths that do not exist are not labels of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub(crate) enum Kind {
    Execute,
    Query,
    Batch,
    Outcome,
    Snapshot,
    Status,
    Admin,
    Other,
}

const KINDS: [Kind; 8] =
    [Kind::Execute, Kind::Query, Kind::Batch, Kind::Outcome, Kind::Snapshot, Kind::Status, Kind::Admin, Kind::Other];

impl Kind {
    pub(crate) fn of_path(path: &str) -> Kind {
        match path.strip_prefix("/v1/") {
            Some("execute") => Kind::Execute,
            Some("query") => Kind::Query,
            Some("batch") => Kind::Batch,
            Some("snapshot") => Kind::Snapshot,
            Some("status") => Kind::Status,
            Some(path) if path.starts_with("outcome/") => Kind::Outcome,
            Some(path) if path.starts_with("admin/") => Kind::Admin,
            _ => Kind::Other,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
enum Class {
    Success,
    ClientError,
    ServerError,
}

const CLASSES: [Class; 3] = [Class::Success, Class::ClientError, Class::ServerError];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    call: Kind,
    result: Class,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CallLabel {
    call: Kind,
}

pub(crate) struct Metrics {
    /// By `Kind` and `Class`, in their order.
    requests: Vec<Counter>,
    /// Of the first three kinds; the others are rare or last as long as the client wants.
    durations: Vec<Histogram>,
    pub(crate) connections: Counter,
}

impl Metrics {
    pub(crate) fn register(registry: &mut Registry) -> Metrics {
        let requests = Family::<Labels, Counter>::default();
        registry.register("http_requests", "Requests by call and result", requests.clone());
        // 50 µs, doubled 16 times: from the fastest read to the default deadline of a transaction.
        let histogram = || Histogram::new(exponential_buckets(50e-6, 2.0, 17));
        let durations = Family::<CallLabel, Histogram, fn() -> Histogram>::new_with_constructor(histogram);
        registry.register_with_unit(
            "http_request_duration",
            "Time from the head of a request to its answer",
            Unit::Seconds,
            durations.clone(),
        );
        let connections = Counter::default();
        registry.register("http_connections", "Connections accepted", connections.clone());
        let counters = KINDS
            .iter()
            .flat_map(|&call| CLASSES.map(|result| requests.get_or_create(&Labels { call, result }).clone()));
        let timed = [Kind::Execute, Kind::Query, Kind::Batch];
        Metrics {
            requests: counters.collect(),
            durations: timed.map(|call| durations.get_or_create(&CallLabel { call }).clone()).to_vec(),
            connections,
        }
    }

    pub(crate) fn count(&self, kind: Kind, status: StatusCode, took: Duration) {
        let class = match status.as_u16() {
            500.. => Class::ServerError,
            400.. => Class::ClientError,
            _ => Class::Success,
        };
        if let Some(counter) = self.requests.get(kind as usize * CLASSES.len() + class as usize) {
            counter.inc();
        }
        if let Some(histogram) = self.durations.get(kind as usize) {
            histogram.observe(took.as_secs_f64());
        }
    }
}
