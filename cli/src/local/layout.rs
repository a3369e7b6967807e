//! What lies where in the data directory of a local cluster.
//!
//! ```text
//!     spec.json         generation and spec, as last changed
//!     status.json       the stored status with its version ([`super::store`])
//!     events.jsonl      what happened, one JSON object a line
//!     supervisor.lock   held by the running supervisor
//!     control.sock      its socket for the other `rdb local` commands
//!     tokens/           bearer tokens of peers and admin calls, mode 0600
//!     <name>/           the data directory of a node
//!     <name>.log        what its processes print
//! ```

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rdb_protocol::NodeName;

use super::LocalError;

/// Paths below one data directory.
#[derive(Clone, Debug)]
pub struct Layout {
    root: PathBuf,
}

impl Layout {
    /// Makes the directory if needed. The path becomes absolute, so that nodes may be started from anywhere.
    pub fn create(root: &Path) -> Result<Layout, LocalError> {
        std::fs::create_dir_all(root).map_err(LocalError::io(root))?;
        Layout::existing(root)
    }

    /// Of a directory that is there.
    pub fn existing(root: &Path) -> Result<Layout, LocalError> {
        let root = root.canonicalize().map_err(LocalError::io(root))?;
        Ok(Layout { root })
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    pub fn spec(&self) -> PathBuf {
        self.root.join("spec.json")
    }

    pub fn status(&self) -> PathBuf {
        self.root.join("status.json")
    }

    pub fn events(&self) -> PathBuf {
        self.root.join("events.jsonl")
    }

    pub fn supervisor_lock(&self) -> PathBuf {
        self.root.join("supervisor.lock")
    }

    pub fn socket(&self) -> PathBuf {
        self.root.join("control.sock")
    }

    pub fn node_data(&self, name: &NodeName) -> PathBuf {
        self.root.join(name.as_str())
    }

    pub fn node_log(&self, name: &NodeName) -> PathBuf {
        self.root.join(format!("{name}.log"))
    }

    pub fn peer_token(&self) -> PathBuf {
        self.root.join("tokens/peer")
    }

    pub fn admin_token(&self) -> PathBuf {
        self.root.join("tokens/admin")
    }

    /// Generates the tokens that are not there yet.
    pub fn ensure_tokens(&self) -> Result<(), LocalError> {
        let folder = self.root.join("tokens");
        match std::fs::DirBuilder::new().mode(0o700).create(&folder) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(LocalError::io(&folder)(error)),
            _ => {}
        }
        for path in [self.peer_token(), self.admin_token()] {
            match OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path) {
                Ok(mut file) => {
                    let random = || crate::text::random_hex().map_err(LocalError::io(&path));
                    let token = format!("{}{}\n", random()?, random()?);
                    file.write_all(token.as_bytes()).and_then(|()| file.sync_all()).map_err(LocalError::io(&path))?;
                }
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) => return Err(LocalError::io(&path)(error)),
            }
        }
        Ok(())
    }
}

/// Replaces a file so that a crash leaves either the old or the new content.
pub fn write_atomically(path: &Path, content: &[u8]) -> std::io::Result<()> {
    let folder = path.parent().ok_or(ErrorKind::InvalidInput)?;
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".tmp");
    let mut file = File::create(&temporary)?;
    file.write_all(content)?;
    file.sync_all()?;
    std::fs::rename(&temporary, path)?;
    File::open(folder)?.sync_all()
}
