//! Connections between nodes: WebSocket binary frames on the node's HTTP port. The follower dials the leader.

pub mod connect;
pub mod link;

pub use connect::{ConnectError, Connection, PEER_PATH, accept, dial};
pub use link::Link;
