//! The spec parsed into a valid type. `decide` takes nothing else, so that no decision has to think about bounds again.

use std::time::Duration;

use rdb_protocol::NodeName;
use rdb_protocol::settings::{Mode, NodeSettings, SyncSet, WhenUnavailable};

use crate::spec::{ClusterSpec, DataLoss, Size, Span};

/// More members than this gain nothing: a write waits for the W fastest, and every one costs the leader bandwidth.
pub const MAX_INSTANCES: u32 = 15;

/// Rules 16 and 17: a successor waits 1.1 D, so that clocks may drift by 10 %.
const LEASE_MARGIN_PERCENT: u64 = 110;

/// A cluster as asked for, with every field within its bounds.
#[derive(Clone, Debug, PartialEq)]
pub struct Cluster {
    pub(crate) name: String,
    pub(crate) instances: u32,
    pub(crate) paused: bool,
    pub(crate) hibernated: bool,
    pub(crate) mode: Mode,
    pub(crate) sync_followers: u32,
    pub(crate) sync_set: SyncSet,
    pub(crate) when_unavailable: WhenUnavailable,
    pub(crate) min_sync_followers: u32,
    pub(crate) sync_timeout: Duration,
    pub(crate) failover_enabled: bool,
    pub(crate) detection_timeout: Duration,
    pub(crate) heartbeat_interval: Duration,
    pub(crate) lease_duration: Duration,
    pub(crate) progress_timeout: Duration,
    pub(crate) cooldown: Duration,
    /// `None` = as the mode implies.
    pub(crate) data_loss: Option<DataLoss>,
    pub(crate) maintenance: Maintenance,
    pub(crate) catch_up_timeout: Duration,
    pub(crate) settings: NodeSettings,
}

/// `spec.maintenance`, parsed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Maintenance {
    pub(crate) active: bool,
    pub(crate) until_unix_ms: Option<u64>,
}

/// Which field is out of its bounds, and what they are.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct InvalidSpec {
    /// Path below `spec`, such as `failover.leaseDuration`.
    pub field: &'static str,
    pub problem: String,
}

fn check(ok: bool, field: &'static str, problem: impl FnOnce() -> String) -> Result<(), InvalidSpec> {
    if ok { Ok(()) } else { Err(InvalidSpec { field, problem: problem() }) }
}

fn span(value: Span, low: Span, high: Span, field: &'static str) -> Result<Duration, InvalidSpec> {
    check(low <= value && value <= high, field, || format!("{value} is not within {low}–{high}"))?;
    Ok(value.0)
}

fn number(value: u32, low: u32, high: u32, field: &'static str) -> Result<u32, InvalidSpec> {
    check(low <= value && value <= high, field, || format!("{value} is not within {low}–{high}"))?;
    Ok(value)
}

impl Cluster {
    /// Takes the cluster's name (the prefix of its instances' names) and its spec. Errors: the first field that is out of
    /// its bounds.
    pub fn parse(name: &str, spec: &ClusterSpec) -> Result<Cluster, InvalidSpec> {
        // Instances are `<name>-<n>`, n of at most two digits, and must be DNS labels.
        let longest = NodeName::new(format!("{name}-{MAX_INSTANCES}"));
        check(longest.is_ok(), "metadata.name", || format!("{name:?} with a number behind it is no DNS label"))?;
        let instances = number(spec.instances, 1, MAX_INSTANCES, "instances")?;
        check_elsewhere(spec)?;
        let replication = &spec.replication;
        let sync_followers = match (replication.mode, instances) {
            (Mode::SemiSync, 2..) => number(replication.sync_followers, 1, instances - 1, "replication.syncFollowers")?,
            _ => number(replication.sync_followers, 1, MAX_INSTANCES - 1, "replication.syncFollowers")?,
        };
        let failover = &spec.failover;
        let lease = span(failover.lease_duration, MS200, Span::from_secs(60), "failover.leaseDuration")?;
        let heartbeat = span(
            failover.heartbeat_interval,
            Span::from_millis(50),
            Span::from_secs(10),
            "failover.heartbeatInterval",
        )?;
        check(heartbeat * 4 <= lease, "failover.heartbeatInterval", || {
            format!(
                "{} is more than a quarter of leaseDuration, {}",
                failover.heartbeat_interval, failover.lease_duration
            )
        })?;
        let detection = span(
            failover.detection_timeout,
            Span::from_millis(500),
            Span::from_secs(600),
            "failover.detectionTimeout",
        )?;
        check(lease < detection, "failover.leaseDuration", || {
            format!("{} is not less than detectionTimeout, {}", failover.lease_duration, failover.detection_timeout)
        })?;
        Ok(Cluster {
            name: name.to_owned(),
            instances,
            paused: spec.paused,
            hibernated: spec.hibernated,
            mode: replication.mode,
            sync_followers,
            sync_set: replication.sync_set,
            when_unavailable: replication.when_unavailable,
            min_sync_followers: number(
                replication.min_sync_followers,
                0,
                sync_followers,
                "replication.minSyncFollowers",
            )?,
            sync_timeout: span(replication.sync_timeout, SECOND, Span::from_secs(600), "replication.syncTimeout")?,
            failover_enabled: failover.enabled,
            detection_timeout: detection,
            heartbeat_interval: heartbeat,
            lease_duration: lease,
            progress_timeout: span(
                failover.progress_timeout,
                SECOND,
                Span::from_secs(600),
                "failover.progressTimeout",
            )?,
            cooldown: span(failover.cooldown, Span::from_secs(0), Span::from_secs(3600), "failover.cooldown")?,
            data_loss: failover.data_loss,
            maintenance: maintenance(spec)?,
            catch_up_timeout: span(
                spec.seeding.catch_up_timeout,
                SECOND,
                Span::from_secs(30 * 86_400),
                "seeding.catchUpTimeout",
            )?,
            settings: settings(spec),
        })
    }

    /// The cluster's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How many instances are asked for.
    pub fn instances(&self) -> u32 {
        self.instances
    }

    /// What its nodes are run with.
    pub fn settings(&self) -> &NodeSettings {
        &self.settings
    }

    /// 1.1 D.
    pub(crate) fn lease_wait(&self) -> Duration {
        let ms = u64::try_from(self.lease_duration.as_millis()).unwrap_or(u64::MAX);
        Duration::from_millis(ms.saturating_mul(LEASE_MARGIN_PERCENT).div_ceil(100))
    }
}

const SECOND: Span = Span::from_secs(1);
const MS200: Span = Span::from_millis(200);
const MIN_RETENTION: Size = Size(64 << 20);
/// A database of a few pages and two preallocated log segments.
const MIN_STORAGE: Size = Size(32 << 20);

/// Fields that only the drivers use.
fn check_elsewhere(spec: &ClusterSpec) -> Result<(), InvalidSpec> {
    let retention = &spec.replication.log_retention;
    check(retention.size >= MIN_RETENTION, "replication.logRetention.size", || {
        format!("{} is less than {MIN_RETENTION}", retention.size)
    })?;
    span(retention.age, Span::from_secs(60), Span::from_secs(30 * 86_400), "replication.logRetention.age")?;
    number(spec.snapshots.keep, 1, 100, "snapshots.keep")?;
    check(spec.storage.size >= MIN_STORAGE, "storage.size", || {
        format!("{} is less than {MIN_STORAGE}", spec.storage.size)
    })?;
    span(spec.seeding.catch_up_timeout, SECOND, Span::from_secs(30 * 86_400), "seeding.catchUpTimeout")?;
    let access = &spec.access;
    size(access.max_request_size, "access.maxRequestSize")?;
    size(access.max_result_size, "access.maxResultSize")?;
    span(access.transaction_timeout, Span::from_millis(100), Span::from_secs(600), "access.transactionTimeout")?;
    span(access.stream_idle_timeout, SECOND, Span::from_secs(3600), "access.streamIdleTimeout")?;
    Ok(())
}

/// A request or result: at least a short statement, at most what a node can hold in memory a few times.
fn size(value: Size, field: &'static str) -> Result<(), InvalidSpec> {
    let (low, high) = (Size(1 << 10), Size(1 << 30));
    check(low <= value && value <= high, field, || format!("{value} is not within {low}–{high}"))
}

fn maintenance(spec: &ClusterSpec) -> Result<Maintenance, InvalidSpec> {
    let until_unix_ms = match &spec.maintenance.until {
        None => None,
        Some(text) => Some(crate::time::parse_rfc3339(text).ok_or_else(|| InvalidSpec {
            field: "maintenance.until",
            problem: format!("{text:?} is no RFC 3339 time such as 2026-01-31T18:00:00Z"),
        })?),
    };
    Ok(Maintenance { active: spec.maintenance.active, until_unix_ms })
}

fn settings(spec: &ClusterSpec) -> NodeSettings {
    NodeSettings {
        mode: spec.replication.mode,
        log_format: spec.replication.log_format,
        change_stream: spec.replication.change_stream,
        // Depends on what the nodes report; see `View::settings`.
        rows_for_all: false,
        heartbeat_interval_ms: spec.failover.heartbeat_interval.millis(),
        lease_duration_ms: spec.failover.lease_duration.millis(),
        progress_timeout_ms: spec.failover.progress_timeout.millis(),
        log_retention_bytes: spec.replication.log_retention.size.0,
        log_retention_age_ms: spec.replication.log_retention.age.millis(),
        max_request_bytes: spec.access.max_request_size.0,
        max_result_bytes: spec.access.max_result_size.0,
        transaction_timeout_ms: spec.access.transaction_timeout.millis(),
        // Known only to who keeps the snapshots; see `Observed::snapshots`.
        retain_from: None,
    }
}
