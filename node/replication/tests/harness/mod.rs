//! A cluster of real [`rdb_replication::Replica`]s over logs in memory and a network that does what the test says.
//!
//! | module | holds |
//! | --- | --- |
//! | [`log`] | a log in memory that loses what is not flushed |
//! | [`cluster`] | nodes, network and clock; carries out outputs as a driver must |
//! | [`checker`] | what must hold whatever happens; knows nothing of how the core works |
//! | [`show`] | outputs and messages as short lines |

// Two test binaries share this; neither uses all of it.
#![allow(dead_code, unreachable_pub)]

pub mod checker;
pub mod cluster;
pub mod log;
pub mod show;
