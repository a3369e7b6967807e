//! Volume snapshots: taken on a schedule, kept by count, and used as the first data of new instances.
//!
//! | module | holds |
//! | --- | --- |
//! | [`object`] | VolumeSnapshots as they are written and read: names, annotations, readiness |
//! | [`schedule`] | cron in UTC: what is due |
//! | [`keep`] | what to take, what to delete, and whether all is well: pure |
//! | [`seed`] | what a new instance starts from (the ladder of `seeding.method`): pure |
//! | [`run`] | the same against the API server |
//!
//! A snapshot is of one instance's volume, which holds database and log. Its annotations state the cluster and the position
//! that the instance had flushed just before it was taken; the volume may hold more by then, never less. The node that boots
//! from it checks both, and has to earn its place like any new member (rule 18).
//!
//! Snapshots are never owned by the resource and only those of this very cluster (by its identity, not its name) are ever
//! deleted: another cluster's of the same name are somebody's data.

pub mod keep;
pub mod object;
pub mod run;
pub mod schedule;
pub mod seed;

#[cfg(test)]
mod tests;

pub use keep::{Outcome, SnapshotAction, plan};
pub use object::{Listed, Snapshot, SnapshotClass};
pub use seed::{GiveUp, Seed, give_up, seed_for};
