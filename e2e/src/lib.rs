//! Tests against a real Kubernetes cluster.
//!
//! - [`load`]: the program in the client pod: writes all the time, writes down what was acknowledged and when, checks in
//!   the end that all of it is there. Outages are measured here, where a client would feel them.
//! - [`harness`]: the API server, a namespace per test, a database, its client, waiting with deadlines, dumps on failure.
//! - [`faults`]: what can be done to a cluster; each fault undoes itself when its guard goes out of scope.
//! - [`scenarios`]: the tests.
//! - [`fleet`]: hundreds of databases of fake nodes, and what one operator costs that looks after them.
//! - [`suite`]: runs them one after the other. [`bench`]: failover times. [`demo`]: one failover after the other, told.

pub mod bench;
pub mod clock;
pub mod demo;
pub mod faults;
pub mod fleet;
pub mod harness;
pub mod load;
pub mod scenarios;
pub mod suite;
