//! What every test needs.
//!
//! - [`kube`]: objects by kind and name, applied and read as JSON.
//! - [`case`]: one test: its namespace, and what is kept of it when it fails.
//! - [`database`]: a ReplicatedDB and its instances.
//! - [`client`]: the pod that writes to it.
//! - [`renewals`]: in which order its pods are renewed.
//! - [`wait`]: conditions with deadlines.
//! - [`shell`]: programs of this machine: docker, kubectl.

pub mod case;
pub mod client;
pub mod database;
pub mod kube;
pub mod renewals;
pub mod shell;
pub mod wait;

pub use case::Case;
pub use client::LoadPod;
pub use database::Database;
pub use kube::Kube;
pub use renewals::Renewals;
pub use wait::{eventually, until};
