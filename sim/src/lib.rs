//! A deterministic simulator of ReplicatedDB: the real decision core and the real replication core in a simulated world, with
//! checkers that share no code with them.
//!
//! | module | holds |
//! | --- | --- |
//! | [`world`] | the world of one seed, and its loop |
//! | [`event`] | what can happen, and the queue of what will |
//! | [`profile`], [`plan`], [`fault`] | what kind of world a seed is; what is done to it |
//! | [`node`] | nodes: the real replication core over [`disk`], [`db`] and [`record`] |
//! | [`operator`] | operators: the real `decide`, and a driver's duties |
//! | [`api`], [`kube`] | API server and kubelets |
//! | [`net`], [`client`] | network and clients |
//! | [`check`] | what must hold |
//! | [`coverage`], [`trace`] | what was met; what happened |
//! | [`rng`] | the one source of randomness |
//! | [`runner`], [`shrink`], [`planted`], [`cli`] | many seeds; short stories; the simulator's own tests; the binary |

pub mod api;
pub mod check;
pub mod cli;
pub mod client;
pub mod coverage;
pub mod db;
pub mod disk;
pub mod event;
pub mod fault;
pub mod kube;
pub mod net;
pub mod node;
pub mod operator;
pub mod plan;
pub mod planted;
pub mod profile;
pub mod record;
pub mod rng;
pub mod runner;
pub mod shrink;
pub mod trace;
pub mod world;
