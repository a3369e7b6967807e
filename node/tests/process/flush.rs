//! A disk that fails to flush: what is in memory then is worth nothing, and asking again lies.

use std::path::PathBuf;
use std::process::Command;

use serde_json::json;

use crate::support::{Cluster, Ledger};

/// Takes the place of `fsync` and `fdatasync`: fails for paths with `RDB_TEST_FAIL_PATH` in them (or at their
/// end, before a `$`) as long as the file
/// `RDB_TEST_FAIL_WHEN` exists, and notes every failure in it.
const SHIM: &str = r#"
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static int named(const char *path, const char *part) {
    size_t whole = strlen(path), length = strlen(part) - 1;
    if (part[length] != '$') return strstr(path, part) != 0;
    return whole >= length && strncmp(path + whole - length, part, length) == 0;
}

static int fails(int fd) {
    const char *when = getenv("RDB_TEST_FAIL_WHEN"), *part = getenv("RDB_TEST_FAIL_PATH");
    if (!when || !part || access(when, F_OK) != 0) return 0;
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    if (!named(path, part)) return 0;
    int note = open(when, O_WRONLY | O_APPEND);
    if (note >= 0) { if (write(note, "x", 1) < 0) {} close(note); }
    errno = EIO;
    return 1;
}

int fsync(int fd) { return fails(fd) ? -1 : syscall(SYS_fsync, fd); }
int fdatasync(int fd) { return fails(fd) ? -1 : syscall(SYS_fdatasync, fd); }
"#;

/// Exit code of a node whose disk failed (`EX_IOERR` of sysexits.h).
const EXIT_STORAGE: i32 = 74;

struct Shim {
    library: PathBuf,
    /// While this file exists, flushes fail.
    when: PathBuf,
}

impl Shim {
    /// `None`, with the reason printed, without a C compiler.
    fn build(cluster: &Cluster) -> Option<Shim> {
        let (source, library) = (cluster.path("shim.c"), cluster.path("shim.so"));
        std::fs::write(&source, SHIM).unwrap();
        let mut compiler = Command::new("cc");
        let built = compiler.args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(&source).output();
        match built {
            Ok(output) => {
                assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
                Some(Shim { library, when: cluster.path("fail-flush") })
            }
            Err(error) => {
                println!("skipped: no C compiler to make a failing fsync with: {error}");
                None
            }
        }
    }

    fn load(&self, cluster: &mut Cluster, i: usize, part: &str) {
        let node = &mut cluster.nodes[i];
        node.set_environment("LD_PRELOAD", &self.library.display().to_string());
        node.set_environment("RDB_TEST_FAIL_WHEN", &self.when.display().to_string());
        node.set_environment("RDB_TEST_FAIL_PATH", part);
    }

    fn fail(&self) {
        std::fs::write(&self.when, "").unwrap();
    }

    /// Ends the failures; returns how many there were.
    fn heal(&self) -> usize {
        let noted = std::fs::read(&self.when).unwrap().len();
        std::fs::remove_file(&self.when).unwrap();
        noted
    }
}

#[test]
fn a_lone_leader_that_cannot_flush_its_log_ends_and_keeps_what_it_acknowledged() {
    let mut cluster = Cluster::prepare(1);
    let Some(shim) = Shim::build(&cluster) else { return };
    shim.load(&mut cluster, 0, ".seg");
    cluster.bootstrap(1);
    let mut ledger = Ledger::create(cluster.leader());
    ledger.write_all(cluster.leader(), 20, 100);
    shim.fail();
    assert!(ledger.write(cluster.leader()).is_some(), "not acknowledged");
    assert_eq!(cluster.nodes[0].wait_exit().code(), Some(EXIT_STORAGE));
    assert_eq!(shim.heal(), 1, "a failed flush is never tried again");
    cluster.nodes[0].start();
    cluster.elect(0);
    ledger.check(cluster.leader());
    ledger.write_all(cluster.leader(), 3, 100);
    ledger.check(cluster.leader());
}

#[test]
fn a_follower_that_cannot_flush_its_log_ends_and_the_others_go_on() {
    let mut cluster = Cluster::prepare(3);
    let Some(shim) = Shim::build(&cluster) else { return };
    shim.load(&mut cluster, 1, ".seg");
    cluster.bootstrap(3);
    let mut ledger = Ledger::create(cluster.leader());
    ledger.write_all(cluster.leader(), 5, 100);
    shim.fail();
    assert_eq!(ledger.write(cluster.leader()), None, "the other follower's copy is enough");
    assert_eq!(cluster.nodes[1].wait_exit().code(), Some(EXIT_STORAGE));
    assert_eq!(shim.heal(), 1);
    ledger.write_all(cluster.leader(), 5, 100);
    cluster.restart(1);
    cluster.wait_caught_up(1);
    cluster.elect(1);
    ledger.check(cluster.leader());
    cluster.assert_equal_content();
}

#[test]
fn a_promise_that_cannot_be_flushed_is_not_given() {
    let mut cluster = Cluster::prepare(3);
    let Some(shim) = Shim::build(&cluster) else { return };
    shim.load(&mut cluster, 2, "/control.spare");
    cluster.bootstrap(3);
    let mut ledger = Ledger::create(cluster.leader());
    ledger.write_all(cluster.leader(), 5, 100);
    shim.fail();
    let token = format!("Bearer {}", crate::support::process::ADMIN);
    let fence = json!({"epoch": cluster.epoch.next()}).to_string();
    let answer = cluster.nodes[2].call("POST", "/v1/admin/fence", &[("Authorization", &token)], fence.as_bytes());
    assert!(answer.is_none(), "{answer:?}");
    assert_eq!(cluster.nodes[2].wait_exit().code(), Some(EXIT_STORAGE));
    assert_eq!(shim.heal(), 1);
    ledger.write_all(cluster.leader(), 3, 100);
    cluster.nodes[2].start();
    assert_eq!(cluster.nodes[2].status().promise.epoch, cluster.epoch);
    cluster.follow(2);
    cluster.wait_caught_up(2);
    ledger.check(cluster.leader());
    cluster.assert_equal_content();
}

#[test]
fn a_database_that_cannot_be_flushed_ends_the_node_at_its_next_checkpoint() {
    // The database file of a follower, and SQLite's own log of the leader.
    for (i, part) in [(1, "/node-1/db$"), (0, "/node-0/db-wal$")] {
        let mut cluster = Cluster::prepare(3);
        let Some(shim) = Shim::build(&cluster) else { return };
        shim.load(&mut cluster, i, part);
        cluster.bootstrap(3);
        let mut ledger = Ledger::create(cluster.leader());
        ledger.write_all(cluster.leader(), 3, 1000);
        shim.fail();
        // More than what wakes the checkpoint thread.
        for _ in 0..24 {
            ledger.write_bytes(cluster.leader(), 1 << 20, 1000);
        }
        assert_eq!(cluster.nodes[i].wait_exit().code(), Some(EXIT_STORAGE));
        assert!(cluster.nodes[i].output().contains("the database cannot be written"));
        assert_eq!(shim.heal(), 1, "a failed flush is never tried again");
        cluster.nodes[i].start();
        let recruits = cluster.fence(None);
        let best = (0..3).max_by_key(|i| recruits[*i].position.rank()).unwrap();
        cluster.promote(best, None, 0);
        ledger.check(cluster.leader());
        ledger.write_all(cluster.leader(), 3, 1000);
        cluster.assert_equal_content();
    }
}
