//! HTTP/1.1 client for nodes.
//!
//! - [`wire`]: builds requests and reads answers on a kept-open connection, byte by byte ours, because a general client
//!   costs more than the node that it measures.
//! - [`call`]: typed calls on top (execute, batch, query, status), with the classification that every client needs: did
//!   the request surely not run, or is its outcome unknown?
//!
//! Caveat: answers are read in full into one buffer. Large downloads use [`wire::Connection::download`].

pub mod call;
pub mod wire;

pub use call::{Answer, CallError, Client};
pub use wire::{Connection, RequestBuilder, WireError};
