//! Is there room on the disk? Asked before a group commits, so that a full disk is a clean refusal: after the commit
//! point a failed write would end the process.

use std::ffi::CString;
use std::mem::MaybeUninit;
use std::os::unix::ffi::OsStrExt;

use crate::engine::EngineOptions;
use crate::error::SqlFailure;
use crate::writer::full;

/// Refuses when less than the reserve is left beside what is still `needed`. A file system that cannot say how much is left has enough.
pub(super) fn check(options: &EngineOptions, needed: u64) -> Result<(), SqlFailure> {
    if options.reserve_bytes == 0 {
        return Ok(());
    }
    let Ok(path) = CString::new(options.path.as_os_str().as_bytes()) else {
        return Ok(());
    };
    let mut stats = MaybeUninit::<libc::statvfs>::uninit();
    // SAFETY: `path` is a C string, and `stats` is written when the call succeeds.
    let stats = unsafe {
        if libc::statvfs(path.as_ptr(), stats.as_mut_ptr()) != 0 {
            return Ok(());
        }
        stats.assume_init()
    };
    let free = stats.f_bavail as u64 * stats.f_frsize as u64;
    let reserve = options.reserve_bytes;
    if free < reserve.saturating_add(needed) {
        let needs = if needed > 0 { format!(" and this needs {needed}") } else { String::new() };
        return Err(full(format!("{free} bytes are free on the disk, {reserve} are kept in reserve{needs}")));
    }
    Ok(())
}
