//! A write that fails half-way though its space was preallocated, as on a full file system that copies on write. Alone in
//! its file, because the means, the limit on file sizes, holds for the whole process.

mod common;

use common::{Fixture, noop, page, segments, small};
use rdb_log::{LogError, LogOptions};
use rustix::process::{Resource, Rlimit, setrlimit};

fn limit_file_size(bytes: Option<u64>) {
    setrlimit(Resource::Fsize, Rlimit { current: bytes, maximum: None }).unwrap();
}

#[test]
fn a_half_written_record_leaves_no_trace() {
    // SAFETY: sets a signal to be ignored; no handler runs. Otherwise the limit would end the process.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
    let mut log = Fixture::new(small());
    log.fill(5, 1);
    let tail = std::fs::read(log.newest()).unwrap().iter().rposition(|byte| *byte != 0).unwrap() + 1;
    limit_file_size(Some(tail as u64 + 700));
    let refused = page(log.log.last(), 1, 1024, 9);
    assert!(matches!(log.log.append(&refused), Err(LogError::Full(_))));
    assert!(matches!(log.log.append(&refused), Err(LogError::Full(_))));
    limit_file_size(None);
    assert_eq!(std::fs::read(&segments(&log.path())[0]).unwrap().len(), tail, "nothing stays behind the tail");
    log.check();
    log.append(noop(log.log.last(), 1));
    log.fill(20, 1);
    log.check();
    let (log, recovery) = log.reopen(LogOptions { cache_bytes: 0, ..small() }).unwrap();
    assert_eq!(recovery.cut, None);
    log.check();
}
