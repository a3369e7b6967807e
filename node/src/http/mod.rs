//! The node's HTTP port: clients, the operator, health, and the doorway for peers.
//!
//! A request's way: [`server`] (one task per connection) → `routes` (warp) → `client`, `admin` or `node` → `forward`, when
//! the leader must answer → [`backend`], the border to the driver. The bytes of an answer are written once, by [`values`].
//!
//! | module | holds |
//! | --- | --- |
//! | [`server`] | accept loop, connections, their end, the hook for peers |
//! | [`sockets`] | how long a silent connection is believed in |
//! | [`auth`], [`token`] | the three bearer tokens |
//! | `routes` | all paths, as warp filters |
//! | `request` | headers, body within limits, the call in it |
//! | `client` | `execute`, `query`, `batch`, `outcome` |
//! | `forward`, `pool` | to the leader, wherever it is; held during failover; what may be tried again |
//! | `admin` | the operator's calls |
//! | `node` | status and its stream, snapshot, health, metrics |
//! | [`values`] | SQL values in JSON |
//! | `errors` | everything that is not a success |
//! | [`openapi`] | the description of all this |
//! | [`backend`] | the border to the driver |

mod admin;
mod app;
pub mod auth;
pub mod backend;
mod client;
mod errors;
mod forward;
mod metrics;
mod node;
pub mod openapi;
mod pool;
mod request;
mod routes;
pub mod server;
pub mod sockets;
#[cfg(test)]
mod tests;
pub mod token;
pub mod values;

pub use auth::Tokens;
pub use backend::Backend;
pub use server::{PeerHook, Server};
pub use token::{Secret, Token};
