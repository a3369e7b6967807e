//! The replication core: a synchronous, pure state machine. Input in, outputs out; no clock, randomness, socket, thread or
//! file. The rules that it keeps are numbered in `docs/protocol.md`; comments here name them by number.
//!
//! | module | holds |
//! | --- | --- |
//! | [`io`] | everything that goes in and comes out: [`Input`], [`Output`], [`LogView`], [`Persistent`] |
//! | [`message`] | [`PeerMessage`], the one enum of what nodes say to each other |
//! | [`wire`] | its binary form |
//! | [`replica`] | [`Replica`]: the entrance `step`, admission of messages |
//! | `view` | what a driver may ask |
//! | `shared` | what a node knows in every role: promise, log ends, committed index |
//! | `follower` | the follower role: rules 10, 11 and 12 |
//! | `leader` | the leader role: rules 3, 9 and 13, heartbeats |
//! | `streams` | a leader and its followers: `Hello`, match point, records, acknowledgements |
//! | `progress` | one follower as its leader sees it: flow control, caught up |
//! | `matching` | where two logs part |
//! | `lease` | rules 16 and 17 |
//! | `config_change` | rule 15 |
//! | `admin` | the operator's calls: rules 5, 6 and 9 |
//!
//! # How a driver runs it
//!
//! One lock around the [`Replica`] and the log. Any thread may lock, call [`Replica::step`], and carry out the outputs **in
//! order** before it unlocks, but for [`Output::Sync`] (and reading for [`Output::Fetch`]), which happen outside the lock
//! and come back as [`Input::Persisted`] and [`Input::Fetched`]. *Persist before you speak*: whatever must be durable first
//! is an [`Output::PersistControl`] in front of the outputs that rely on it, so carrying them out in order suffices.
//!
//! Wall-clock time and failure detection are not here: the operator decides who leads, and this crate obeys.

mod admin;
mod config_change;
mod follower;
pub mod io;
mod leader;
mod lease;
mod matching;
pub mod message;
mod progress;
pub mod replica;
mod shared;
mod step;
mod streams;
mod view;
pub mod wire;

pub use io::{
    AdminAnswer, AdminCall, HaltCode, Input, LogView, Output, Persistent, ProposalRefusal, RoleChange, SeedReason,
    Side, StartError, Time, Token,
};
pub use message::PeerMessage;
pub use replica::{Replica, Slot};
pub use view::RoleView;
