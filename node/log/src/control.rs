//! The control file and the data directory's lock.
//!
//! | offset | size | field (little-endian) |
//! | --- | --- | --- |
//! | 0 | 8 | magic `RDB-CTL\n` |
//! | 8 | 4 | format version, now 1 |
//! | 12 | 4 | CRC32C of everything from offset 16 on |
//! | 16 | 4 | length of the JSON |
//! | 20 | | [`ControlState`] as JSON; then anything |
//!
//! It is replaced as a whole: a new file is written, flushed and renamed over the old one, and the directory flushed. The
//! new file's space is set aside beforehand (`control.spare`), so that a full disk does not keep a node from making a
//! promise: without that it could be neither fenced nor promoted.
//!
//! A directory with files of something else is refused, and so is one with data but without a control file: what the node
//! had promised is unknown, and a node that forgets a promise loses acknowledged writes (rule 5).

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rdb_protocol::{Incarnation, NodeName};
use rustix::fs::FlockOperation;
use rustix::io::Errno;

use crate::error::ControlError;
use crate::segment::preallocate;
use crate::state::ControlState;

const MAGIC: [u8; 8] = *b"RDB-CTL\n";
const VERSION: u32 = 1;
const HEADER: usize = 20;
/// Space set aside for the next control file. A state with a hundred members, peers and archive names is some 30 KiB.
const SPARE_BYTES: u64 = 64 << 10;

const CONTROL: &str = "control";
const SPARE: &str = "control.spare";
const LOCK: &str = "lock";
/// What shows that a directory without a control file is not a new one.
const DATA: [&str; 2] = ["log", "db"];
/// What may be in a directory before its first control file: a first start that was cut short, and a volume's own.
const HARMLESS: [&str; 3] = [LOCK, SPARE, "lost+found"];

/// The data directory's control file, open and locked for this process.
#[derive(Debug)]
pub struct Control {
    dir: PathBuf,
    state: ControlState,
    /// Held, and with it the lock, as long as the process uses the directory.
    _lock: File,
}

impl Control {
    /// Locks the directory, and reads its control file or makes a new one with a fresh incarnation.
    pub fn open_or_create(dir: &Path, name: NodeName) -> Result<Control, ControlError> {
        Control::open_on_volume(dir, name, None)
    }

    /// As [`Control::open_or_create`], on the volume of this id. A directory that was last used on a volume of another id has
    /// been copied with it (a clone, a restored snapshot): it is another member from now on, durably on return (rule 18), and
    /// whoever opens it now may have another name. See [`ControlState::copied`].
    pub fn open_on_volume(dir: &Path, name: NodeName, volume: Option<&str>) -> Result<Control, ControlError> {
        std::fs::create_dir_all(dir).map_err(io_error("create", dir))?;
        let path = dir.join(CONTROL);
        if !path.exists() {
            // Before the lock, which would be the first file of ours in it.
            refuse_occupied(dir)?;
        }
        let lock = lock(&dir.join(LOCK))?;
        let state = match std::fs::read(&path) {
            Ok(bytes) => decode(&path, &bytes)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let state = ControlState::new(name.clone(), fresh_incarnation(dir)?);
                write(dir, &state)?;
                state
            }
            Err(error) => return Err(io_error("read", &path)(error)),
        };
        let state = on_volume(dir, state, name, volume)?;
        set_spare_aside(dir);
        Ok(Control { dir: dir.to_owned(), state, _lock: lock })
    }

    /// What is on disk.
    pub fn state(&self) -> &ControlState {
        &self.state
    }

    /// Changes the state and returns when the change is durable. On error the state is unchanged, in memory at least:
    /// see [`ControlError::Full`] and [`ControlError::Io`]. A change that changes nothing costs nothing.
    pub fn update<T>(&mut self, change: impl FnOnce(&mut ControlState) -> T) -> Result<T, ControlError> {
        let mut next = self.state.clone();
        let answer = change(&mut next);
        if next != self.state {
            write(&self.dir, &next)?;
            self.state = next;
            set_spare_aside(&self.dir);
        }
        Ok(answer)
    }

    /// Rule 18: from now on this data directory is another member. What the node promised stays promised.
    pub fn end_incarnation(&mut self) -> Result<Incarnation, ControlError> {
        let fresh = fresh_incarnation(&self.dir)?;
        self.update(|state| state.incarnation = fresh)?;
        Ok(fresh)
    }
}

/// The state as the node of this name goes on with it on this volume; durable on return.
fn on_volume(
    dir: &Path,
    state: ControlState,
    name: NodeName,
    volume: Option<&str>,
) -> Result<ControlState, ControlError> {
    let next = match (&state.volume, volume) {
        (Some(was), Some(is)) if was != is => state.clone().copied_to(name, is, fresh_incarnation(dir)?),
        _ if state.name != name => {
            return Err(ControlError::OtherNode { expected: name.to_string(), found: state.name.to_string() });
        }
        // Made before volumes had ids.
        (None, Some(is)) => ControlState { volume: Some(is.to_owned()), ..state.clone() },
        _ => return Ok(state),
    };
    if next != state {
        write(dir, &next)?;
    }
    Ok(next)
}

fn fresh_incarnation(dir: &Path) -> Result<Incarnation, ControlError> {
    let random = getrandom::u64().map_err(|error| io::Error::other(error.to_string()));
    // 0 reads as "none" to people.
    Ok(Incarnation(random.map_err(io_error("get a random number for", dir))?.max(1)))
}

/// Only an empty directory becomes ours.
fn refuse_occupied(dir: &Path) -> Result<(), ControlError> {
    if let Some(data) = DATA.iter().map(|name| dir.join(name)).find(|path| path.exists()) {
        return Err(ControlError::Missing(data));
    }
    for entry in std::fs::read_dir(dir).map_err(io_error("read", dir))? {
        let found = entry.map_err(io_error("read", dir))?.file_name();
        if !HARMLESS.iter().any(|name| found == *name) {
            let found = found.to_string_lossy().into_owned();
            return Err(ControlError::Occupied { dir: dir.to_owned(), found });
        }
    }
    Ok(())
}

fn lock(path: &Path) -> Result<File, ControlError> {
    let open = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
    let file = open.map_err(io_error("open", path))?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(Errno::WOULDBLOCK) => Err(ControlError::Locked(path.to_owned())),
        Err(error) => Err(io_error("lock", path)(error.into())),
    }
}

fn decode(path: &Path, bytes: &[u8]) -> Result<ControlState, ControlError> {
    let corrupt = |reason: String| ControlError::Corrupt { path: path.to_owned(), reason };
    if bytes.is_empty() {
        return Err(corrupt("it is empty".to_owned()));
    }
    let Some((header, body)) = bytes.split_at_checked(HEADER).filter(|(header, _)| header[..8] == MAGIC) else {
        return Err(ControlError::Foreign(path.to_owned()));
    };
    let u32_at = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    if u32_at(8) > VERSION {
        return Err(ControlError::NewerVersion { path: path.to_owned(), found: u32_at(8), known: VERSION });
    }
    let length = u32_at(16) as usize;
    let json = body.get(..length).ok_or_else(|| corrupt("it is shorter than it states".to_owned()))?;
    if u32_at(12) != crc32c::crc32c(&bytes[16..HEADER + length]) {
        return Err(corrupt("it has a wrong checksum".to_owned()));
    }
    serde_json::from_slice(json).map_err(|error| corrupt(error.to_string()))
}

fn encode(state: &ControlState) -> Result<Vec<u8>, io::Error> {
    let json = serde_json::to_vec(state)?;
    let mut bytes = vec![0; HEADER];
    bytes[..8].copy_from_slice(&MAGIC);
    bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
    bytes[16..20].copy_from_slice(&(json.len() as u32).to_le_bytes());
    bytes.extend_from_slice(&json);
    let crc = crc32c::crc32c(&bytes[16..]);
    bytes[12..16].copy_from_slice(&crc.to_le_bytes());
    Ok(bytes)
}

/// Replaces the control file; durable on return.
fn write(dir: &Path, state: &ControlState) -> Result<(), ControlError> {
    let (spare, control) = (dir.join(SPARE), dir.join(CONTROL));
    let bytes = encode(state).map_err(io_error("encode", &control))?;
    let open = OpenOptions::new().write(true).create(true).truncate(false).open(&spare);
    let written = open.and_then(|file| file.write_all_at(&bytes, 0).and_then(|()| file.sync_all()));
    written.map_err(io_error("write", &spare))?;
    // From here on the change may become visible, so that no error is harmless.
    let fatal = |action, path: &Path| {
        let path = path.to_owned();
        move |source| ControlError::Io { action, path, source }
    };
    std::fs::rename(&spare, &control).map_err(fatal("replace", &control))?;
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(fatal("flush", dir))
}

/// Takes space for the next control file. That there is none now is no error: the next write may find some.
fn set_spare_aside(dir: &Path) {
    let path = dir.join(SPARE);
    let open = OpenOptions::new().write(true).create(true).truncate(false).open(&path);
    if let Err(error) = open.and_then(|file| preallocate(&file, 0, SPARE_BYTES)) {
        tracing::warn!(path = %path.display(), %error, "no space set aside for the next control file");
    }
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ControlError {
    let path = path.to_owned();
    move |source| match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ControlError::Full(path),
        _ => ControlError::Io { action, path, source },
    }
}
