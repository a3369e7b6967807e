//! rdb-node: a replicated SQLite server.

pub mod clock;
pub mod http;
pub mod peer;
