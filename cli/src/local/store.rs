//! The status store of a local cluster: one JSON file with a version, replaced only by compare-and-swap (rule 1), as an API
//! server does it. Any number of supervisors may share one: a swap holds an exclusive lock on a file beside it, reads the
//! version again under the lock, and fails if that is not the one on which the decision was made. Readers need no lock,
//! since the file is replaced by rename.

use std::fs::{File, OpenOptions};
use std::io::ErrorKind;
use std::marker::PhantomData;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::layout::write_atomically;

/// A value as it was stored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Stored<T> {
    /// "0" before the first swap.
    pub resource_version: String,
    pub status: T,
}

/// Why a store could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Somebody else swapped first: read again and decide again.
    #[error("the stored status has version {found}, the decision was made on {expected}")]
    Conflict { expected: String, found: String },
    /// The file holds something else. A status is never guessed: restore it, or remove the file to make the supervisor
    /// rebuild it from the nodes.
    #[error("{} is not a stored status: {message}", path.display())]
    Corrupt { path: PathBuf, message: String },
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: std::io::Error },
}

/// A file with compare-and-swap.
#[derive(Clone, Debug)]
pub struct StatusStore<T> {
    path: PathBuf,
    lock: PathBuf,
    value: PhantomData<fn() -> T>,
}

impl<T: Clone + Default + Serialize + DeserializeOwned> StatusStore<T> {
    pub fn new(path: &Path) -> StatusStore<T> {
        let mut lock = path.as_os_str().to_owned();
        lock.push(".lock");
        StatusStore { path: path.to_owned(), lock: lock.into(), value: PhantomData }
    }

    /// The stored value; the default if there is none.
    pub fn read(&self) -> Result<Stored<T>, StoreError> {
        let text = match std::fs::read(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Ok(Stored { resource_version: "0".to_owned(), status: T::default() });
            }
            Err(source) => return Err(self.io(source)),
        };
        serde_json::from_slice(&text)
            .map_err(|error| StoreError::Corrupt { path: self.path.clone(), message: error.to_string() })
    }

    /// Stores `status` if the stored version still is `expected`; the new version is durable when this returns.
    pub fn swap(&self, expected: &str, status: &T) -> Result<Stored<T>, StoreError> {
        let _locked = self.locked().map_err(|source| self.io(source))?;
        let found = self.read()?.resource_version;
        if found != expected {
            return Err(StoreError::Conflict { expected: expected.to_owned(), found });
        }
        let number: u64 = found.parse().map_err(|_| StoreError::Corrupt {
            path: self.path.clone(),
            message: format!("resourceVersion {found:?} is not a number"),
        })?;
        let stored = Stored { resource_version: (number + 1).to_string(), status: status.clone() };
        let text = serde_json::to_vec_pretty(&stored)
            .map_err(|error| StoreError::Corrupt { path: self.path.clone(), message: error.to_string() })?;
        write_atomically(&self.path, &text).map_err(|source| self.io(source))?;
        Ok(stored)
    }

    /// The lock ends with the file handle.
    fn locked(&self) -> std::io::Result<File> {
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(&self.lock)?;
        flock(&file, FlockOperation::LockExclusive)?;
        Ok(file)
    }

    fn io(&self, source: std::io::Error) -> StoreError {
        StoreError::Io { path: self.path.clone(), source }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store(folder: &Path) -> StatusStore<u64> {
        StatusStore::new(&folder.join("status.json"))
    }

    #[test]
    fn a_swap_on_an_old_version_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(folder.path());
        let first = store.swap("0", &7).unwrap();
        assert!(matches!(store.swap("0", &8), Err(StoreError::Conflict { .. })));
        assert_eq!(store.read().unwrap(), first);
        assert_eq!(store.swap(&first.resource_version, &9).unwrap().status, 9);
    }

    #[test]
    fn of_many_swaps_at_once_on_one_version_exactly_one_wins() {
        let folder = tempfile::tempdir().unwrap();
        let mut version = "0".to_owned();
        for round in 0..20 {
            let winners: Vec<u64> = std::thread::scope(|scope| {
                let threads: Vec<_> = (0..4u64)
                    .map(|n| {
                        let (store, version) = (store(folder.path()), version.clone());
                        scope.spawn(move || store.swap(&version, &n).ok().map(|stored| stored.status))
                    })
                    .collect();
                threads.into_iter().filter_map(|thread| thread.join().unwrap()).collect()
            });
            assert_eq!(winners.len(), 1, "round {round}");
            let stored = store(folder.path()).read().unwrap();
            assert_eq!(stored.status, winners[0]);
            version = stored.resource_version;
        }
    }

    #[test]
    fn a_broken_file_is_an_error_and_not_an_empty_status() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("status.json"), "{").unwrap();
        assert!(matches!(store(folder.path()).read(), Err(StoreError::Corrupt { .. })));
        assert!(matches!(store(folder.path()).swap("0", &1), Err(StoreError::Corrupt { .. })));
    }
}
