//! The command line: everything a person does to a cluster by hand.
//!
//! | module | holds |
//! | --- | --- |
//! | [`args`] | the commands and their options |
//! | [`client`] | requests to nodes: token, endpoints, errors with code and hint |
//! | [`output`] | tables, JSON and YAML |
//! | [`status`] | `rdb status`: one line for each node |
//! | [`sql`] | `rdb sql`: one statement, a script, or an interactive session |
//! | [`script`] | SQL text as statements |
//! | [`load`] | `rdb load`: a SQL dump or a SQLite file, batch by batch, each batch exactly once |
//! | [`catalog`] | the tables of a SQLite file |
//! | [`dump`] | a SQLite database as SQL text |
//! | [`log`], [`divergence`] | a node's records, and those that a failover took back |
//! | [`local`] | `rdb local`: a cluster of processes and its supervisor |
//!
//! Exit codes: 0 done; 1 refused or failed, nothing happened; 2 wrong use (from the argument parser); 3 no node could be
//! reached; 4 it is not known whether the request took effect.

pub mod args;
pub mod catalog;
pub mod client;
pub mod clock;
pub mod divergence;
pub mod dump;
pub mod load;
pub mod local;
pub mod log;
pub mod output;
pub mod script;
pub mod sql;
pub mod status;
pub mod text;

use std::process::ExitCode;

use args::{Arguments, Command};
use client::ClientError;

/// Why a command failed, with what the shell gets to see of it.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error(transparent)]
    Local(#[from] local::LocalError),
    #[error(transparent)]
    Load(#[from] load::LoadError),
    #[error("{0}")]
    Other(String),
    #[error("{context}: {source}")]
    Io { context: String, source: std::io::Error },
}

impl Failure {
    pub fn io(context: impl Into<String>) -> impl FnOnce(std::io::Error) -> Failure {
        let context = context.into();
        move |source| Failure::Io { context, source }
    }

    /// The exit codes of the module header.
    pub fn exit_code(&self) -> ExitCode {
        let client = match self {
            Failure::Client(error) => Some(error),
            Failure::Load(error) => error.client_error(),
            Failure::Local(_) | Failure::Other(_) | Failure::Io { .. } => None,
        };
        ExitCode::from(client.map_or(1, ClientError::exit_code))
    }
}

/// Runs one command.
pub fn run(arguments: Arguments) -> Result<ExitCode, Failure> {
    match arguments.command {
        Command::Local(command) => local::run(command),
        Command::Status(options) => status::run(&options),
        Command::Sql(options) => sql::run(&options),
        Command::Load(options) => load::run(&options),
        Command::Log(options) => log::run(&options),
        Command::Divergence(command) => divergence::run(&command),
    }
}
