//! rdb-node: a replicated SQLite server. Reading order: [`driver`] (what happens to a write), then the crates it drives:
//! `rdb-replication` (the protocol), `rdb-engine` (SQLite), `rdb-log` (the log), and [`http`].

pub mod args;
pub mod clock;
pub mod driver;
pub mod http;
pub mod peer;
pub mod run;
