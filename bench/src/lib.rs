//! Everything that treats a cluster as a stranger would: over HTTP only, with processes started by `rdb local up`.
//!
//! Reading order:
//! - [`client`]: a lean HTTP/1.1 client. Client and nodes share two cores in the benchmarks, so what the client costs is
//!   taken from what it measures.
//! - [`cluster`]: starts a local cluster, kills and freezes its nodes, reads their status.
//! - [`load`], [`histogram`]: closed-loop load and its latencies.
//! - [`checkers`]: pure functions from recorded histories to violations. They know nothing of the system under test and
//!   are themselves tested with histories that hold planted violations.
//! - [`demo`], [`torture`], [`formats`], [`scenarios`]: the programs, `make demo`, `make torture`, `make test-formats`, `make
//!   bench`.
//!
//! Nothing here is part of a running cluster.

pub mod checkers;
pub mod client;
pub mod clock;
pub mod cluster;

pub mod demo;
pub mod formats;
pub mod histogram;
pub mod load;
pub mod random;
pub mod scenarios;
pub mod torture;
pub mod workload;
