//! How the connections of the different roles are opened.
//!
//! | role | VFS | authorizer | notes |
//! | --- | --- | --- | --- |
//! | writer | the shim | yes | defensive; its commits make records |
//! | reader | default | yes | defensive, `query_only` |
//! | VACUUM's pages | the shim | no | as the applier, for one group |
//! | applier, checkpoint, seed, position | default | no | run the engine's own SQL only |
//!
//! On every one: no automatic checkpoints, none on close, `synchronous = NORMAL` (the log is the source of truth;
//! SQLite only has to keep its file consistent), foreign keys on.

use std::ffi::{CString, c_int};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::limits::Limit;
use rusqlite::{Connection, OpenFlags, ffi};

use crate::authorizer::Authorizer;
use crate::error::EngineError;
use crate::progress::Progress;
use crate::sql::statement::{Handle, SqliteError};
use crate::vfs;

/// SQLite's own locks are held for microseconds (recovery and checkpoints for longer), so waiting this long means
/// that something is broken.
const BUSY: Duration = Duration::from_secs(5);

/// Longest value or row that a client may make or read: bounds what one statement can take of the node's memory.
const LONGEST_VALUE: i32 = 256 << 20;

/// `-wal` is cut to this when it is used anew, so that one burst does not keep the space for good.
pub(crate) const WAL_SIZE_LIMIT: u64 = 64 << 20;

/// A connection with its handle.
pub(crate) struct Plain {
    pub(crate) connection: Connection,
    pub(crate) db: Handle,
}

/// A connection that runs clients' SQL.
pub(crate) struct Guarded {
    pub(crate) db: Handle,
    pub(crate) authorizer: Arc<Authorizer>,
    pub(crate) connection: Connection,
    // After the connection, which calls it.
    pub(crate) progress: Box<Progress>,
}

/// Opens an existing database for the engine's own work.
pub(crate) fn internal(path: &Path, cache_bytes: u64) -> Result<Plain, EngineError> {
    open(path, None, OpenFlags::empty(), cache_bytes)
}

/// Bytes by which the index of `-wal` (the file `-shm`) grows, and the frames that they are enough for; the first part, which
/// holds a header, is for 34 fewer.
const INDEX_PART: c_int = 32 << 10;
const INDEX_PART_FRAMES: u64 = 4096;

/// Has SQLite take the space that its index of `-wal` will need for so many frames. Otherwise it is taken after a group's commit
/// point, where a full disk ends the process: the group is committed and cannot be shown. False when it could not be taken.
/// The connection must have used the database before.
pub(crate) fn reserve_index(plain: &Plain, frames: u64) -> bool {
    let mut file: *mut ffi::sqlite3_file = std::ptr::null_mut();
    // SAFETY: the connection is open; this only asks for its file, which lives as long.
    let asked = unsafe {
        let place = std::ptr::from_mut(&mut file).cast();
        ffi::sqlite3_file_control(plain.db, c"main".as_ptr(), ffi::SQLITE_FCNTL_FILE_POINTER, place)
    };
    if asked != ffi::SQLITE_OK || file.is_null() {
        return false;
    }
    // SAFETY: an open file has a method table; one of version 2 has the methods of shared memory.
    let Some(map) = (unsafe {
        (*file).pMethods.as_ref().filter(|methods| methods.iVersion >= 2).and_then(|methods| methods.xShmMap)
    }) else {
        return false;
    };
    let parts = c_int::try_from(frames / INDEX_PART_FRAMES + 2).unwrap_or(c_int::MAX);
    (0..parts).all(|part| {
        let mut mapped = std::ptr::null_mut();
        // SAFETY: as SQLite itself calls it; what is mapped stays its own.
        let code = unsafe { map(file, part, INDEX_PART, 1, &mut mapped) };
        code == ffi::SQLITE_OK
    })
}

/// Creates the file.
pub(crate) fn create(path: &Path) -> Result<Plain, EngineError> {
    open(path, None, OpenFlags::SQLITE_OPEN_CREATE, 2 << 20)
}

pub(crate) fn writer(path: &Path, cache_bytes: u64) -> Result<Guarded, EngineError> {
    guarded(open(path, Some(vfs::NAME.into()), OpenFlags::empty(), cache_bytes)?)
}

/// For pages that make a record.
pub(crate) fn recorded(path: &Path, cache_bytes: u64) -> Result<Plain, EngineError> {
    open(path, Some(vfs::NAME.into()), OpenFlags::empty(), cache_bytes)
}

pub(crate) fn reader(path: &Path, cache_bytes: u64) -> Result<Guarded, EngineError> {
    let plain = open(path, None, OpenFlags::empty(), cache_bytes)?;
    plain.connection.pragma_update(None, "query_only", true).map_err(opening)?;
    guarded(plain)
}

fn open(path: &Path, shim: Option<CString>, extra: OpenFlags, cache_bytes: u64) -> Result<Plain, EngineError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX | extra;
    let connection = match shim {
        Some(name) => Connection::open_with_flags_and_vfs(path, flags, name.as_c_str()),
        None => Connection::open_with_flags(path, flags),
    };
    let connection = connection.map_err(opening)?;
    connection.busy_timeout(BUSY).map_err(opening)?;
    let config = |option, on| connection.set_db_config(option, on).map(drop);
    config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).map_err(opening)?;
    config(DbConfig::SQLITE_DBCONFIG_ENABLE_FKEY, true).map_err(opening)?;
    let settings = format!(
        "PRAGMA wal_autocheckpoint = 0; PRAGMA synchronous = NORMAL; PRAGMA cache_size = -{};
         PRAGMA journal_size_limit = {WAL_SIZE_LIMIT};",
        cache_bytes / 1024
    );
    connection.execute_batch(&settings).map_err(opening)?;
    // SAFETY: the handle is used beside `connection` by one thread, and not after it.
    let db = unsafe { connection.handle() };
    Ok(Plain { connection, db })
}

fn guarded(plain: Plain) -> Result<Guarded, EngineError> {
    let Plain { mut connection, db } = plain;
    let config = |option, on| connection.set_db_config(option, on).map(drop);
    config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true).map_err(opening)?;
    config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false).map_err(opening)?;
    for (limit, value) in [(Limit::SQLITE_LIMIT_LENGTH, LONGEST_VALUE), (Limit::SQLITE_LIMIT_ATTACHED, 0)] {
        connection.set_limit(limit, value).map_err(opening)?;
    }
    let authorizer = Authorizer::install(&mut connection).map_err(opening)?;
    Ok(Guarded { db, authorizer, connection, progress: Progress::install(db) })
}

fn opening(error: rusqlite::Error) -> EngineError {
    sqlite("opening the database", error)
}

/// An error of the engine's own SQL.
pub(crate) fn sqlite(doing: &'static str, error: rusqlite::Error) -> EngineError {
    match error.sqlite_error_code() {
        Some(ffi::ErrorCode::DiskFull) => EngineError::Full(error.to_string()),
        Some(ffi::ErrorCode::DatabaseCorrupt) => EngineError::Corrupt { doing, why: error.to_string() },
        Some(ffi::ErrorCode::SystemIoFailure) => EngineError::Io { doing, why: error.to_string() },
        _ => EngineError::Sqlite { doing, why: error.to_string() },
    }
}

/// As [`sqlite`], for errors of the thin layer.
pub(crate) fn internal_error(doing: &'static str, error: &SqliteError) -> EngineError {
    if error.is_full() {
        return EngineError::Full(error.message.clone());
    }
    let why = format!("{} (code {})", error.message, error.code);
    match error.primary() {
        ffi::SQLITE_CORRUPT => EngineError::Corrupt { doing, why },
        ffi::SQLITE_IOERR => EngineError::Io { doing, why },
        _ => EngineError::Sqlite { doing, why },
    }
}

/// An error of the file system.
pub(crate) fn io(doing: &'static str, error: &std::io::Error) -> EngineError {
    if error.kind() == std::io::ErrorKind::StorageFull {
        return EngineError::Full(error.to_string());
    }
    EngineError::Io { doing, why: error.to_string() }
}
