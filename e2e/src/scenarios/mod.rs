//! The tests, each in its own namespace, each with a load running whose acknowledged writes are checked in the end.
//!
//! | module | about |
//! | --- | --- |
//! | [`basics`] | a new database, its objects, its documentation, what the API server refuses |
//! | [`failover`] | leaders that end, are deleted, hang or are cut off |
//! | [`machines`] | nodes that are drained, die, or lose their network |
//! | [`control_plane`] | no API server, no operator, two operators |
//! | [`changes`] | switchover, scaling, growth, rolling updates, deletion |
//! | [`volumes`] | snapshots, lost volumes, a restart of everything, full disks |
//! | [`modes`] | durability modes, degraded mode, maintenance, hibernation |
//! | [`requests`] | what is asked for by annotation, secrets that are replaced |
//! | [`mistakes`] | requests that are wrong or dangerous |

pub mod basics;
pub mod changes;
pub mod control_plane;
pub mod failover;
pub mod machines;
pub mod mistakes;
pub mod modes;
pub mod requests;
pub mod volumes;

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use anyhow::ensure;

use crate::clock::wall_ms;
use crate::harness::client::SUITE_INTERVAL;
use crate::harness::wait::scaled;
use crate::harness::{Case, Database, LoadPod};
use crate::load::Report;

/// When a test runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Tier {
    /// Does it work at all? A few minutes.
    Smoke,
    /// Everything else that `make e2e` runs.
    Faults,
    /// Takes minutes each: by hand.
    Long,
}

pub type Run = fn(Case) -> Pin<Box<dyn Future<Output = anyhow::Result<()>>>>;

pub struct Scenario {
    pub name: &'static str,
    pub tier: Tier,
    /// For the whole test.
    pub limit: Duration,
    pub run: Run,
}

macro_rules! scenarios {
    ($($tier:ident $seconds:literal $module:ident::$name:ident,)*) => {
        /// All tests, in the order in which they run: what fails early explains what fails late.
        pub const ALL: &[Scenario] = &[$(Scenario {
            name: stringify!($name),
            tier: Tier::$tier,
            limit: Duration::from_secs($seconds),
            run: |case| Box::pin($module::$name(case)),
        }),*];
    };
}

scenarios! {
    Smoke 240 basics::new_database_serves,
    Smoke 60 basics::wrong_manifests_are_refused_with_helpful_text,
    Smoke 180 failover::leader_process_killed,
    Smoke 240 changes::switchover_fails_no_request,
    Smoke 300 volumes::fourth_instance_is_seeded_from_a_snapshot,
    Faults 180 failover::leader_pod_deleted,
    Faults 180 failover::leader_pod_deleted_by_force,
    Faults 180 failover::leader_frozen,
    Faults 180 failover::leader_cut_off,
    Faults 180 failover::leader_and_one_follower_cut_apart,
    Faults 240 machines::node_drained,
    Faults 300 machines::node_frozen,
    Faults 300 machines::node_dies,
    Faults 240 control_plane::api_server_away_for_half_a_minute,
    Faults 240 control_plane::operator_killed_at_any_moment,
    Faults 180 control_plane::two_operators_at_once,
    Faults 300 changes::scaled_up_and_down,
    Faults 300 changes::volumes_grow,
    Faults 300 changes::rolling_update,
    Faults 240 changes::stuck_update_stops,
    Faults 240 changes::deletion_retains_or_deletes,
    Faults 240 volumes::follower_loses_its_volume,
    Faults 240 volumes::leader_loses_its_volume,
    Faults 240 volumes::everything_restarts,
    Faults 240 volumes::disk_full,
    Faults 240 modes::durability_changes_while_writes_go_on,
    Faults 240 modes::degraded_until_the_follower_is_back,
    Faults 240 modes::maintenance_holds_failover_back,
    Faults 240 modes::hibernates_and_wakes,
    Faults 180 modes::async_mode_accounts_for_what_it_loses,
    Faults 300 requests::annotations_are_carried_out,
    Faults 300 mistakes::dangerous_requests_lose_nothing,
    Faults 240 mistakes::broken_surroundings_are_named,
    Faults 240 mistakes::foreign_volumes_are_left_alone,
    Faults 240 mistakes::name_reused_over_old_volumes,
    Long 600 requests::tokens_are_replaced,
    Long 600 machines::node_unplugged,
    Long 900 control_plane::api_server_away_for_five_minutes,
    Long 600 control_plane::api_server_hangs,
}

/// A database of three with a load.
pub async fn database_with_load(case: &Case, spec: serde_json::Value) -> anyhow::Result<(Database, LoadPod)> {
    let database = Database::create(case, "db", spec).await?;
    let load = LoadPod::start(case, &database, SUITE_INTERVAL).await?;
    Ok((database, load))
}

/// The epoch that writes are acknowledged in now, and the moment.
pub async fn before(load: &LoadPod) -> anyhow::Result<(u64, u64)> {
    let epoch = load.report(wall_ms()).await?.last_epoch;
    Ok((epoch, wall_ms()))
}

/// Fails when clients waited longer than that; time in which the load itself did not run is told, and does not count.
pub fn within(report: &Report, limit: Duration) -> anyhow::Result<()> {
    let limit = u64::try_from(scaled(limit).as_millis())?;
    let outage = report.outage;
    ensure!(outage.ms() <= limit, "no write succeeded for {outage}, more than {limit} ms: {report:?}");
    if outage.stood_still_ms > 0 {
        println!("    no write succeeded for {outage}");
    }
    Ok(())
}
