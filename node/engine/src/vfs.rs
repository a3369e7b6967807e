//! The shim between SQLite and its `-wal` file: where a group's one commit point is. It also tells the writer the time,
//! which is the record's.
//!
//! A second VFS, [`NAME`], is the system's default one except that for a `-wal` file every write first goes to the
//! [`WalSink`] of the present thread. Only the writer's connection is opened through it, and only while a group runs
//! does its thread have a sink ([`with_sink`]): a write without one is refused. All other connections (readers,
//! applier, checkpoints, seeds) use the default VFS and never come here.
//!
//! The commit frame reaches the file only after the sink's yes, header and page: SQLite reads `-wal` back no earlier than
//! when it has written all frames, and adds them to the index (where others find them) after that. A process that is
//! killed before leaves nothing that recovery would take for a commit.
//!
//! The file objects are the default VFS's own; only their method table is exchanged for a copy with another `xWrite`.
//! Locks and shared memory are therefore shared with the other connections of the process as usual.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::ffi::{CStr, c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;
use std::sync::{Mutex, OnceLock, PoisonError};

use rusqlite::ffi;

use crate::capture::{FRAME_HEADER, Seen};
use crate::chance;

/// The VFS of the writer's connection.
pub(crate) const NAME: &CStr = c"rdb-writer";

/// Who is asked about writes to the `-wal` file.
pub(crate) trait WalSink {
    /// A write that SQLite is about to make.
    fn write(&self, offset: i64, bytes: &[u8]) -> Seen;

    /// The commit frame is about to be written: log, replicate, wait. `false` makes COMMIT fail.
    fn commit(&self) -> bool;

    /// Whether the file is known to reach to `end`.
    fn has_space(&self, end: i64) -> bool;
}

thread_local! {
    static SINK: Cell<Option<*const dyn WalSink>> = const { Cell::new(None) };
}

/// Runs `body` with `sink` for the writes of this thread.
pub(crate) fn with_sink<T>(sink: &dyn WalSink, body: impl FnOnce() -> T) -> T {
    struct Restore(Option<*const dyn WalSink>);
    impl Drop for Restore {
        fn drop(&mut self) {
            SINK.set(self.0);
        }
    }
    // SAFETY: only the lifetime is erased; `Restore` takes the pointer away before the borrow ends, by unwinding too.
    let pointer = unsafe { std::mem::transmute::<*const (dyn WalSink + '_), *const (dyn WalSink + 'static)>(sink) };
    let _restore = Restore(SINK.replace(Some(pointer)));
    body()
}

/// A method table with the one that it was copied from. SQLite sees a pointer to the first field.
#[repr(C)]
struct Shim {
    methods: ffi::sqlite3_io_methods,
    original: *const ffi::sqlite3_io_methods,
}

/// A pointer to something that is never changed or freed.
#[derive(Clone, Copy)]
struct Fixed<T>(*const T);
// SAFETY: what it points to is immutable and lives as long as the process.
unsafe impl<T> Send for Fixed<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for Fixed<T> {}

static DEFAULT: OnceLock<Option<Fixed<ffi::sqlite3_vfs>>> = OnceLock::new();

/// One shim per method table that was met: the default VFS has a few, by file system.
static SHIMS: Mutex<BTreeMap<usize, Fixed<Shim>>> = Mutex::new(BTreeMap::new());

/// Registers the VFS once per process. `false`: SQLite would not take it.
pub(crate) fn register() -> bool {
    DEFAULT.get_or_init(register_once).is_some()
}

fn register_once() -> Option<Fixed<ffi::sqlite3_vfs>> {
    // SAFETY: the default VFS lives as long as the process; its copy is leaked on purpose, once.
    unsafe {
        if ffi::sqlite3_initialize() != ffi::SQLITE_OK {
            return None;
        }
        let default = ffi::sqlite3_vfs_find(ptr::null());
        if default.is_null() {
            return None;
        }
        let mut copy = *default;
        copy.zName = NAME.as_ptr();
        copy.pNext = ptr::null_mut();
        copy.xOpen = Some(open);
        copy.xCurrentTime = Some(current_time);
        copy.xCurrentTimeInt64 = Some(current_time_int64);
        let registered = ffi::sqlite3_vfs_register(Box::leak(Box::new(copy)), 0);
        (registered == ffi::SQLITE_OK).then_some(Fixed(default.cast_const()))
    }
}

/// The pinned time of the present group, or the system's.
unsafe extern "C" fn current_time_int64(_vfs: *mut ffi::sqlite3_vfs, now: *mut i64) -> c_int {
    let time = match (chance::now(), DEFAULT.get()) {
        (Some(time), _) => time,
        (None, Some(Some(default))) => {
            // SAFETY: the default VFS lives as long as the process.
            return unsafe {
                (*default.0).xCurrentTimeInt64.map_or(ffi::SQLITE_ERROR, |ask| ask(default.0.cast_mut(), now))
            };
        }
        (None, _) => return ffi::SQLITE_ERROR,
    };
    // SAFETY: SQLite passes a place for the time.
    unsafe { *now = time };
    ffi::SQLITE_OK
}

/// As above, in days: the older way to ask.
unsafe extern "C" fn current_time(vfs: *mut ffi::sqlite3_vfs, now: *mut f64) -> c_int {
    let mut time = 0;
    // SAFETY: SQLite's own arguments, and a place of ours.
    let code = unsafe { current_time_int64(vfs, &mut time) };
    // SAFETY: SQLite passes a place for the time.
    unsafe { *now = time as f64 / 86_400_000.0 };
    code
}

unsafe extern "C" fn open(
    _vfs: *mut ffi::sqlite3_vfs,
    name: ffi::sqlite3_filename,
    file: *mut ffi::sqlite3_file,
    flags: c_int,
    out_flags: *mut c_int,
) -> c_int {
    let Some(Some(default)) = DEFAULT.get() else {
        return ffi::SQLITE_CANTOPEN;
    };
    // SAFETY: SQLite's arguments are passed on to the VFS that they are meant for; `file` is valid once opened.
    unsafe {
        let Some(open) = (*default.0).xOpen else {
            return ffi::SQLITE_CANTOPEN;
        };
        let code = open(default.0.cast_mut(), name, file, flags, out_flags);
        if code == ffi::SQLITE_OK && flags & ffi::SQLITE_OPEN_WAL != 0 {
            (*file).pMethods = &(*shim((*file).pMethods)).methods;
        }
        code
    }
}

/// # Safety
/// `original` is the method table of an open file.
unsafe fn shim(original: *const ffi::sqlite3_io_methods) -> *const Shim {
    let mut shims = SHIMS.lock().unwrap_or_else(PoisonError::into_inner);
    let shim = shims.entry(original as usize).or_insert_with(|| {
        // SAFETY: method tables are static data.
        let mut methods = unsafe { *original };
        methods.xWrite = Some(write);
        Fixed(Box::leak(Box::new(Shim { methods, original })))
    });
    shim.0
}

unsafe extern "C" fn write(file: *mut ffi::sqlite3_file, data: *const c_void, length: c_int, offset: i64) -> c_int {
    // SAFETY: `open` gave this file a shim's table, and SQLite passes `length` readable bytes.
    let (original, bytes) = unsafe {
        let shim = (*file).pMethods.cast::<Shim>();
        let length = usize::try_from(length).unwrap_or(0);
        ((*shim).original, std::slice::from_raw_parts(data.cast::<u8>(), length))
    };
    // SAFETY: the original table belongs to this file.
    let Some(write) = (unsafe { (*original).xWrite }) else {
        return ffi::SQLITE_IOERR_WRITE;
    };
    // The sink runs foreign code (logging, replication), and nothing may unwind into SQLite.
    let verdict = catch_unwind(AssertUnwindSafe(|| {
        let Some(sink) = SINK.get() else {
            return Verdict::Done(ffi::SQLITE_IOERR_WRITE);
        };
        // SAFETY: `with_sink` keeps the sink alive while it is set.
        let sink = unsafe { &*sink };
        match sink.write(offset, bytes) {
            Seen::Part => Verdict::Write(None),
            Seen::Held => Verdict::Done(ffi::SQLITE_OK),
            Seen::TooLarge | Seen::Stray => Verdict::Done(ffi::SQLITE_IOERR_WRITE),
            Seen::Commit(header) => {
                let reserved = match sink.has_space(offset + i64::from(length)) {
                    true => ffi::SQLITE_OK,
                    // SAFETY: the file is open.
                    false => unsafe { reserve(file, original, &header, bytes, offset) },
                };
                match reserved {
                    ffi::SQLITE_OK if sink.commit() => Verdict::Write(Some(header)),
                    ffi::SQLITE_OK => Verdict::Done(ffi::SQLITE_IOERR_WRITE),
                    code => Verdict::Done(code),
                }
            }
        }
    }));
    let header = match verdict {
        Ok(Verdict::Write(header)) => header,
        Ok(Verdict::Done(code)) => return code,
        Err(_) => return ffi::SQLITE_IOERR_WRITE,
    };
    // SAFETY: SQLite's own arguments; the held header belongs right before its page.
    unsafe {
        match (write(file, data, length, offset), header) {
            (ffi::SQLITE_OK, Some(header)) => {
                write(file, header.as_ptr().cast(), FRAME_HEADER as c_int, offset - FRAME_HEADER as i64)
            }
            (code, _) => code,
        }
    }
}

/// What becomes of a write.
enum Verdict {
    /// It goes to the file, and the header that was held after it.
    Write(Option<[u8; FRAME_HEADER]>),
    /// SQLite is told this, and the file is left alone.
    Done(c_int),
}

/// Makes sure that the commit frame finds its space on the disk, before the group is committed: afterwards a full disk
/// would end the process. When the file has to grow, the inverse of the frame is written there first: its salt is not
/// that of the file, so it is no frame.
///
/// # Safety
/// `file` is open and `original` is its method table.
unsafe fn reserve(
    file: *mut ffi::sqlite3_file,
    original: *const ffi::sqlite3_io_methods,
    header: &[u8],
    page: &[u8],
    offset: i64,
) -> c_int {
    // SAFETY: by the contract of this function.
    unsafe {
        let (Some(size_of), Some(write)) = ((*original).xFileSize, (*original).xWrite) else {
            return ffi::SQLITE_IOERR_WRITE;
        };
        let mut size = 0;
        let code = size_of(file, &mut size);
        if code != ffi::SQLITE_OK || size >= offset + page.len() as i64 {
            return code;
        }
        let filler: Vec<u8> = header.iter().chain(page).map(|byte| !byte).collect();
        write(file, filler.as_ptr().cast(), filler.len() as c_int, offset - header.len() as i64)
    }
}
