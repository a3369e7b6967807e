//! What `/metrics` shows: per cluster how it is, and how long the operator takes to deal with it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use rdb_control::ClusterStatus;

use crate::kubernetes::cache::ClusterKey;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ClusterLabels {
    namespace: String,
    cluster: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PhaseLabels {
    namespace: String,
    cluster: String,
    phase: String,
}

/// All that is counted. Labels are names of clusters only, and go with them.
#[derive(Clone)]
pub struct Metrics {
    registry: Arc<Mutex<Registry>>,
    holds_lease: Gauge,
    turn_seconds: Histogram,
    ready: Family<ClusterLabels, Gauge>,
    epoch: Family<ClusterLabels, Gauge>,
    lag: Family<ClusterLabels, Gauge>,
    at_risk: Family<ClusterLabels, Gauge>,
    phase: Family<PhaseLabels, Gauge>,
    failovers: Family<ClusterLabels, Counter>,
    /// Phase and last failover's epoch as they were counted last.
    counted: Arc<Mutex<std::collections::BTreeMap<ClusterKey, (String, u64)>>>,
}

fn histogram() -> Histogram {
    // From 50 µs, a decision that changes nothing, to 13 s.
    Histogram::new(exponential_buckets(50e-6, 4.0, 10))
}

impl Default for Metrics {
    fn default() -> Metrics {
        let mut registry = Registry::with_prefix("rdb_operator");
        let metrics = Metrics {
            registry: Arc::default(),
            holds_lease: Gauge::default(),
            turn_seconds: histogram(),
            ready: Family::default(),
            epoch: Family::default(),
            lag: Family::default(),
            at_risk: Family::default(),
            phase: Family::default(),
            failovers: Family::default(),
            counted: Arc::default(),
        };
        registry.register("holds_lease", "This replica decides", metrics.holds_lease.clone());
        let help = "Time to decide on a cluster and carry it out, requests to the API server included";
        registry.register("turn_seconds", help, metrics.turn_seconds.clone());
        registry.register("instances_ready", "Instances that serve", metrics.ready.clone());
        registry.register("epoch", "Number of the leadership term", metrics.epoch.clone());
        let help = "Records that the furthest behind of the sync set lacks";
        registry.register("lag_records", help, metrics.lag.clone());
        let help = "Acknowledged records that would be lost with the leader now";
        registry.register("acknowledged_at_risk", help, metrics.at_risk.clone());
        registry.register("phase", "1 for the phase that the cluster is in", metrics.phase.clone());
        registry.register("failovers", "Leaders replaced, planned or not", metrics.failovers.clone());
        *metrics.registry.lock().unwrap_or_else(PoisonError::into_inner) = registry;
        metrics
    }
}

impl Metrics {
    pub fn holds_lease(&self, holds: bool) {
        self.holds_lease.set(i64::from(holds));
    }

    /// A cluster was dealt with.
    pub fn turn(&self, cluster: &ClusterKey, status: &ClusterStatus, took: Duration) {
        self.turn_seconds.observe(took.as_secs_f64());
        let labels = labels(cluster);
        let number = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        self.ready.get_or_create(&labels).set(i64::from(status.ready_instances));
        self.epoch.get_or_create(&labels).set(number(status.epoch.0));
        let lag = status.instances.iter().filter(|row| row.sync).map(|row| row.lag_records).max();
        self.lag.get_or_create(&labels).set(number(lag.unwrap_or(0)));
        let at_risk = status.forecast.as_ref().map_or(0, |forecast| forecast.acknowledged_at_risk);
        self.at_risk.get_or_create(&labels).set(number(at_risk));
        self.count(cluster, labels, status);
    }

    fn count(&self, cluster: &ClusterKey, labels: ClusterLabels, status: &ClusterStatus) {
        let phase = format!("{:?}", status.phase);
        let failover = status.last_failover.as_ref().map_or(0, |receipt| receipt.epoch.0);
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        let old = counted.insert(cluster.clone(), (phase.clone(), failover));
        if let Some((old_phase, _)) = old.as_ref().filter(|(old, _)| *old != phase) {
            self.phase.remove(&phase_labels(cluster, old_phase));
        }
        self.phase.get_or_create(&phase_labels(cluster, &phase)).set(1);
        let failovers = self.failovers.get_or_create(&labels);
        // The first sight of a cluster tells nothing about when its last failover was.
        if old.is_some_and(|(_, old)| old < failover) {
            failovers.inc();
        }
    }

    /// The cluster is gone.
    pub fn forget(&self, cluster: &ClusterKey) {
        let labels = labels(cluster);
        for family in [&self.ready, &self.epoch, &self.lag, &self.at_risk] {
            family.remove(&labels);
        }
        self.failovers.remove(&labels);
        let old = self.counted.lock().unwrap_or_else(PoisonError::into_inner).remove(cluster);
        if let Some((phase, _)) = old {
            self.phase.remove(&phase_labels(cluster, &phase));
        }
    }

    /// In the text format of Prometheus.
    pub fn text(&self) -> String {
        let mut text = String::new();
        let registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        // Writing to a text can't fail.
        let _ = prometheus_client::encoding::text::encode(&mut text, &registry);
        text
    }
}

fn labels(cluster: &ClusterKey) -> ClusterLabels {
    ClusterLabels { namespace: cluster.namespace.clone(), cluster: cluster.name.clone() }
}

fn phase_labels(cluster: &ClusterKey, phase: &str) -> PhaseLabels {
    PhaseLabels { namespace: cluster.namespace.clone(), cluster: cluster.name.clone(), phase: phase.to_owned() }
}
