//! The operator: keeps `ReplicatedDB` resources of a Kubernetes cluster as they are asked to be.
//!
//! ```text
//! observe (API objects + node reports) → cluster (valid spec) → decide (pure) → plan → act
//! ```
//!
//! | module | holds |
//! | --- | --- |
//! | [`build`] | the objects of a cluster, as they should be |
//! | [`snapshots`] | scheduled volume snapshots, and seeding from them |
//! | [`crd`] | the resource: type, schema, stored status |
//! | [`cluster`] | one `ReplicatedDB`: observe, decide, act |
//! | [`monitor`] | status streams and admin calls to nodes |
//! | [`kubernetes`] | watches and caches, the operator's Lease, events |
//! | [`fleet`], [`context`], [`run`] | one task per cluster, what they share, the wiring |
//! | [`server`], [`metrics`], [`check`], [`args`], [`clock`] | HTTP port, figures, `helm test`, command line, time |
//!
//! `docs/operator.md` tells how it behaves.

pub mod args;
pub mod build;
pub mod check;
pub mod clock;
pub mod cluster;
pub mod context;
pub mod crd;
pub mod fleet;
pub mod kubernetes;
pub mod metrics;
pub mod monitor;
pub mod run;
pub mod server;
pub mod snapshots;

#[cfg(test)]
mod fake_api;
