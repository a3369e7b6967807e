//! The thin layer over SQLite's C interface that the hot paths use: prepared statements without borrowed lifetimes, a
//! cache of them, argument binding, and the classification of errors.
//!
//! | module | holds |
//! | --- | --- |
//! | [`statement`] | [`statement::Stmt`]: one prepared statement |
//! | [`cache`] | [`cache::StatementCache`]: clients' statements by their text |
//! | [`run`] | binding, stepping and collecting rows under a result limit |
//! | [`text`] | what must be known about SQL text before SQLite sees it |
//! | [`failure`] | result codes to [`crate::SqlFailure`] |

pub(crate) mod cache;
pub(crate) mod failure;
pub(crate) mod run;
pub(crate) mod statement;
pub(crate) mod text;
