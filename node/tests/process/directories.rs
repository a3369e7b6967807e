//! Data directories that this node must not use: it says why, with a stable code, ends, and touches nothing.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::support::disk::{content, flip, newest_segment, overwrite};
use crate::support::{Cluster, Ledger, Node};

/// Exit code of a node that refuses to start (`EX_CONFIG` of sysexits.h).
const EXIT_REFUSED: i32 = 78;

/// Starts a node that must refuse to, with this code and words in its message.
#[track_caller]
fn refuses(node: &mut Node, code: &str, words: &str) {
    let before = node.output().len();
    node.spawn();
    assert_eq!(node.wait_exit().code(), Some(EXIT_REFUSED), "{}", node.output());
    let said = node.output().split_off(before);
    assert!(said.contains(code) && said.contains(words), "{said}");
}

/// What must not change: all but the lock, which is empty, and the space set aside for the next control file and the next
/// segment.
fn kept(data: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = content(data);
    files.retain(|path, _| !["lock", "control.spare", "next", "next.part"].iter().any(|name| path.ends_with(name)));
    files
}

/// A stopped cluster of one with some data.
fn stopped() -> (Cluster, Ledger) {
    let cluster = Cluster::start(1);
    let mut ledger = Ledger::create(cluster.leader());
    ledger.write_all(cluster.leader(), 20, 100);
    let mut cluster = cluster;
    cluster.nodes[0].shut_down();
    (cluster, ledger)
}

/// The directory as it should be serves everything again.
fn serves_again(mut cluster: Cluster, mut ledger: Ledger) {
    cluster.nodes[0].start();
    cluster.elect(0);
    ledger.check(cluster.leader());
    assert_eq!(ledger.write(cluster.leader()), None);
    ledger.check(cluster.leader());
}

#[test]
fn a_directory_of_something_else_is_left_alone() {
    let mut cluster = Cluster::prepare(1);
    let data = cluster.nodes[0].data.clone();
    std::fs::create_dir_all(data.join("base")).unwrap();
    std::fs::write(data.join("PG_VERSION"), "15\n").unwrap();
    std::fs::write(data.join("base/1"), "rows").unwrap();
    let before = content(&data);
    refuses(&mut cluster.nodes[0], "DATA_FOREIGN", "PG_VERSION");
    assert_eq!(content(&data), before);

    // A volume's own directory is nothing else's data.
    std::fs::remove_file(data.join("PG_VERSION")).unwrap();
    std::fs::remove_dir_all(data.join("base")).unwrap();
    std::fs::create_dir(data.join("lost+found")).unwrap();
    cluster.nodes[0].start();
}

#[test]
fn files_of_something_else_in_the_place_of_ours_are_left_alone() {
    let (mut cluster, ledger) = stopped();
    let data = cluster.nodes[0].data.clone();
    let segment = newest_segment(&data);
    let sqlite = {
        let path = cluster.path("other.sqlite");
        let other = rusqlite::Connection::open(&path).unwrap();
        other.execute_batch("CREATE TABLE theirs (x); INSERT INTO theirs VALUES (1)").unwrap();
        drop(other);
        std::fs::read(path).unwrap()
    };
    let text = b"some text, long enough to be taken for a header of a hundred bytes. ".repeat(200);
    for (path, other) in
        [(data.join("control"), &text), (segment, &text), (data.join("db"), &text), (data.join("db"), &sqlite)]
    {
        let ours = content(&data);
        for beside in ["db-wal", "db-shm"].map(|name| data.join(name)) {
            let _ = std::fs::remove_file(beside);
        }
        std::fs::write(&path, other).unwrap();
        let before = kept(&data);
        refuses(&mut cluster.nodes[0], "DATA_FOREIGN", &path.display().to_string());
        let after = kept(&data);
        let touched = |path: &&PathBuf| before.get(*path) != after.get(*path);
        let touched: Vec<_> = before.keys().chain(after.keys()).filter(touched).collect();
        assert!(touched.is_empty(), "{touched:?}");
        for (path, bytes) in ours {
            std::fs::write(path, bytes).unwrap();
        }
    }
    serves_again(cluster, ledger);
}

#[test]
fn files_of_a_newer_version_are_left_alone() {
    let (mut cluster, ledger) = stopped();
    let data = cluster.nodes[0].data.clone();
    for path in [data.join("control"), newest_segment(&data)] {
        overwrite(&path, 8, &2u32.to_le_bytes());
        let before = kept(&data);
        refuses(&mut cluster.nodes[0], "DATA_NEWER", "upgrade this node");
        assert!(kept(&data) == before, "{} was found, and something was touched", path.display());
        overwrite(&path, 8, &1u32.to_le_bytes());
    }
    serves_again(cluster, ledger);
}

#[test]
fn a_damaged_or_missing_control_file_ends_the_start() {
    let (mut cluster, ledger) = stopped();
    let data = cluster.nodes[0].data.clone();
    let control = data.join("control");
    let whole = std::fs::read(&control).unwrap();

    flip(&control, 60);
    let before = kept(&data);
    refuses(&mut cluster.nodes[0], "CONTROL_CORRUPT", "checksum");
    assert!(kept(&data) == before);
    std::fs::remove_file(&control).unwrap();
    let before = kept(&data);
    refuses(&mut cluster.nodes[0], "CONTROL_MISSING", "no control file");
    assert!(kept(&data) == before);

    std::fs::write(&control, whole).unwrap();
    serves_again(cluster, ledger);
}

#[test]
fn the_directory_of_another_node_is_left_alone() {
    let (mut cluster, ledger) = stopped();
    let data = cluster.nodes[0].data.clone();
    let before = kept(&data);
    let mut other = Node::new(&cluster.path(""), "somebody-else", data.clone());
    refuses(&mut other, "OTHER_NODE", "node-0");
    assert!(kept(&data) == before);
    serves_again(std::mem::replace(&mut cluster, Cluster::prepare(0)), ledger);
}

#[test]
fn a_second_process_on_the_same_directory_ends_at_once() {
    let cluster = Cluster::start(1);
    let mut ledger = Ledger::create(cluster.leader());
    let mut second = Node::new(&cluster.path(""), "node-0", cluster.nodes[0].data.clone());
    let before = cluster.nodes[0].output().len();
    second.spawn();
    assert_eq!(second.wait_exit().code(), Some(EXIT_REFUSED));
    assert!(second.output().split_off(before).contains("DATA_LOCKED"));
    ledger.write_all(cluster.leader(), 3, 100);
    ledger.check(cluster.leader());
    assert_eq!(cluster.leader().get("/readyz").body, json!("[+] data ok\n[+] leader ok\n[+] problems ok\n"));
}
