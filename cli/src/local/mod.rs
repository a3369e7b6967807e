//! `rdb local`: a cluster of processes on this machine, run by the same decisions as one on Kubernetes.
//!
//! ```text
//!     watch threads ──lines──┐                      ┌── admin calls (threads)
//!     wait threads ──ends────┤   supervisor loop    ├── processes (start, signal)
//!     control socket ────────┼─► observe → decide ──┼── status store (compare-and-swap)
//!     signals ───────────────┘        → act         └── journal (log lines, events.jsonl)
//! ```
//!
//! | module | holds |
//! | --- | --- |
//! | [`supervisor`] | the loop: the only place where state changes |
//! | [`carry_out`] | one decision and its actions |
//! | [`requests`] | what the other commands ask for |
//! | [`input`] | what the loop takes in |
//! | [`instance`] | a node: process, stream, observation |
//! | [`process`] | starting, signalling and waiting for node processes |
//! | [`watch`] | status streams |
//! | [`act`] | admin calls |
//! | [`store`] | the status with compare-and-swap |
//! | [`spec`] | the spec and its changes |
//! | [`journal`] | what happened |
//! | [`control_socket`] | requests of the other commands |
//! | [`commands`] | those commands |
//! | [`layout`] | what lies where |

pub mod act;
pub mod carry_out;
pub mod commands;
pub mod control_socket;
pub mod input;
pub mod instance;
pub mod journal;
pub mod layout;
pub mod process;
pub mod requests;
pub mod signals;
pub mod spec;
pub mod store;
pub mod supervisor;
pub mod watch;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::Failure;
use crate::args::LocalCommand;

/// Why a local cluster can't be run or asked.
#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: std::io::Error },
    #[error("no cluster runs in {}; start it with: rdb local up --data {}", .0.display(), .0.display())]
    NotRunning(PathBuf),
    #[error("a supervisor already runs in {}", .0.display())]
    AlreadyRunning(PathBuf),
    #[error("port {0} is in use by another program; choose others with --port")]
    PortInUse(String),
    #[error("invalid spec: {0}")]
    Spec(String),
    #[error("supervisor: {0}")]
    Supervisor(String),
    #[error(transparent)]
    Store(#[from] store::StoreError),
    #[error(transparent)]
    Client(#[from] crate::client::ClientError),
}

impl LocalError {
    pub fn io(path: impl AsRef<Path>) -> impl FnOnce(std::io::Error) -> LocalError {
        let path = path.as_ref().to_owned();
        move |source| LocalError::Io { path, source }
    }
}

/// Runs one of the commands.
pub fn run(command: LocalCommand) -> Result<ExitCode, Failure> {
    match command {
        LocalCommand::Up(options) => commands::up(&options),
        other => commands::other(other),
    }
}
