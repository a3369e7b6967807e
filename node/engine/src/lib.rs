//! The SQLite engine of a node: one writer with one commit point, an applier for followers, readers, seeds.
//!
//! A database is written by exactly one connection at a time: by a [`Writer`] while its node leads, by an [`Applier`]
//! while it follows. Both keep the position of the last record in an internal row, in the same SQLite transaction as
//! the record's changes, so that every crash-consistent copy of the file states exactly what it holds.
//!
//! | module | holds |
//! | --- | --- |
//! | [`engine`] | [`Engine`]: opening, creating, and handing out the roles below |
//! | [`writer`] | [`Writer`]: groups of client transactions, the one commit point |
//! | [`applier`] | [`Applier`]: records of a leader, checksum verified |
//! | [`reader`] | [`Reader`]: read-only queries with instruction budgets |
//! | [`seed`] | page-exact base copies: [`SeedSession`] reads one, [`SeedWriter`] installs one |
//! | [`mod@diff`] | row changes between two databases, for the divergence archive |
//! | [`changes`] | records as row changes in JSON |
//! | [`value`], [`json`] | values, statements, results, and their JSON |
//! | [`error`] | what can go wrong, by what the caller must do |
//! | `vfs`, `capture` | the shim at SQLite's `-wal` file: where a commit becomes a record |
//! | `chance` | the pinned clock and the seeded random numbers of a transaction |
//! | `checksum` | the content checksum, page by page |
//! | `page_writer` | writes images of pages into the database |
//! | `rows` | row changes: watched, applied, summed up |
//! | `authorizer`, `pragma`, `progress` | what clients' SQL may do, and for how long |
//! | `checkpoint` | the background thread that empties `-wal` |
//! | `internal`, `kept` | the internal tables, and results kept under idempotency keys |
//! | `connection`, `sql` | connections by role; the thin layer over SQLite's C interface |

mod authorizer;
mod capture;
mod chance;
mod checkpoint;
mod checksum;
mod connection;
mod internal;
mod kept;
mod page_writer;
mod pragma;
mod progress;
mod rows;
mod sql;
mod vfs;

pub mod applier;
pub mod changes;
pub mod diff;
pub mod engine;
pub mod error;
mod json;
pub mod reader;
pub mod seed;
pub mod value;
pub mod writer;

pub use applier::{Applier, ApplyGroup};
pub use changes::{NO_CHANGES, Shown, changes_of, record_to_text};
pub use diff::{DiffSummary, diff};
pub use engine::{DbPosition, Engine, EngineOptions, EngineStats, Layout};
pub use error::{ApplyError, CommitError, EngineError, Fatal, QueryError, SeedError, SqlFailure};
pub use json::{SAFE_INTEGER, value_to_json};
pub use reader::{Answer, Reader};
pub use seed::{SeedInfo, SeedSession, SeedWriter, replace};
pub use value::{Args, Column, Limits, QueryResult, RequestKey, Statement, Transaction, Value};
pub use writer::{GroupResult, IDEMPOTENCY_TTL_MS, KeptOutcome, Recording, Slot, TransactionResult, Writer};
