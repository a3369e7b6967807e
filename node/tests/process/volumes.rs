//! Copied volumes: a clone or a restored snapshot goes on from its content, as another member, and only when it is what was meant.

use std::path::Path;

use rdb_protocol::admin::{Done, Reseed};
use rdb_protocol::settings::LogFormat;
use rdb_protocol::status::{NodeState, RecordPlace, Role};
use rdb_protocol::{Chain, ClusterId, Index, Position};

use crate::support::disk::{copy, end_of_records, newest_segment, overwrite};
use crate::support::{Cluster, Ledger, wait_until};

/// Two nodes with some data, a third one whose volume is a copy of the second one's, and the position that was recorded before.
fn with_copy() -> (Cluster, Ledger, Position) {
    let mut cluster = Cluster::prepare(3);
    for (i, node) in cluster.nodes.iter_mut().enumerate() {
        node.set_environment("RDB_VOLUME_ID", &format!("volume-{i}"));
    }
    cluster.bootstrap(2);
    let mut ledger = Ledger::create(cluster.leader());
    ledger.write_all(cluster.leader(), 20, 2000);
    cluster.wait_same_log(1);
    let recorded = cluster.nodes[1].status().flushed;
    // The snapshot is taken a little later, without asking anybody.
    ledger.write_all(cluster.leader(), 5, 2000);
    cluster.wait_same_log(1);
    cluster.nodes[1].kill();
    copy(&cluster.nodes[1].data, &cluster.nodes[2].data);
    cluster.restart(1);
    (cluster, ledger, recorded)
}

fn expect(cluster: &mut Cluster, id: ClusterId, position: Position) {
    let text = format!("{}/{}/{}", position.epoch, position.index, position.chain);
    cluster.nodes[2].set_environment("RDB_SEED_CLUSTER", &id.to_string());
    cluster.nodes[2].set_environment("RDB_SEED_POSITION", &text);
}

/// Node 2 follows, counts, and can lead.
fn joins(cluster: &mut Cluster, ledger: &mut Ledger) {
    cluster.follow(2);
    cluster.wait_caught_up(2);
    cluster.reconfigure(&[0, 1, 2], 1);
    ledger.write_all(cluster.leader(), 3, 1000);
    cluster.assert_equal_content();
    cluster.elect(2);
    ledger.write_all(cluster.leader(), 3, 1000);
    ledger.check(cluster.leader());
}

#[test]
fn a_clone_goes_on_from_its_position_as_another_member() {
    let (mut cluster, mut ledger, recorded) = with_copy();
    let (id, copied) = (cluster.cluster, cluster.leader().status().flushed.index);
    expect(&mut cluster, id, recorded);
    // The image of a running volume: a record was being written.
    let segment = newest_segment(&cluster.nodes[2].data);
    overwrite(&segment, end_of_records(&segment).next_multiple_of(16), &[7; 10]);
    ledger.write_all(cluster.leader(), 5, 1000);
    cluster.nodes[2].start();
    assert!(cluster.nodes[2].output().contains("torn record"), "{}", cluster.nodes[2].output());
    let (copy, original) = (cluster.nodes[2].status(), cluster.nodes[1].status());
    assert_ne!(copy.incarnation, original.incarnation);
    assert_eq!((copy.name.as_str(), copy.cluster), ("node-2", Some(id)));
    // It may have found the leader by itself: the control file knows it.
    assert!(matches!(copy.state, NodeState::Searching | NodeState::CatchingUp | NodeState::Streaming), "{copy:?}");
    assert!(copy.problems.is_empty(), "{:?}", copy.problems);
    let seed = copy.seed.expect("where it started");
    assert_eq!(seed.method, "snapshot");
    assert!(seed.position.index >= recorded.index && seed.position.index <= copied, "{seed:?}");
    joins(&mut cluster, &mut ledger);
    // It streamed the rest only, and stays who it is.
    let before = cluster.nodes[2].status();
    assert_eq!(before.seed, Some(seed));
    cluster.nodes[2].kill();
    cluster.nodes[2].start();
    assert_eq!(cluster.nodes[2].status().incarnation, before.incarnation);
}

#[test]
fn a_restored_volume_keeps_its_name_and_earns_its_membership_again() {
    let (mut cluster, ledger, _) = with_copy();
    let before = cluster.nodes[1].member();
    cluster.nodes[1].kill();
    cluster.nodes[1].set_environment("RDB_VOLUME_ID", "volume-restored");
    cluster.nodes[1].start();
    assert_ne!(cluster.nodes[1].member(), before);
    cluster.follow(1);
    cluster.wait_caught_up(1);
    cluster.reconfigure(&[0, 1], 1);
    ledger.check(cluster.leader());
    cluster.assert_equal_content();
}

#[track_caller]
fn starts_empty_and_is_seeded(mut cluster: Cluster, mut ledger: Ledger, words: &str) {
    let gone = |data: &Path, name: &str| !data.join(name).exists();
    cluster.nodes[2].start();
    let status = cluster.nodes[2].status();
    assert_eq!((status.role, status.state, status.cluster), (Role::Empty, NodeState::Empty, None));
    assert_eq!(status.problems.len(), 1);
    assert_eq!(status.problems[0].code, "SEED_MISMATCH");
    assert!(status.problems[0].message.contains(words), "{}", status.problems[0].message);
    let data = cluster.nodes[2].data.clone();
    assert!(gone(&data, "db") && gone(&data, "log"));
    cluster.init(2, false);
    cluster.follow(2);
    cluster.nodes[2].wait_state(NodeState::Streaming);
    let status = cluster.nodes[2].status();
    assert_eq!((status.seed.unwrap().method.as_str(), status.problems.len()), ("stream", 0));
    joins(&mut cluster, &mut ledger);
}

#[test]
fn a_clone_with_another_history_is_not_used() {
    let (mut cluster, ledger, recorded) = with_copy();
    let id = cluster.cluster;
    expect(&mut cluster, id, Position { chain: Chain(recorded.chain.0 ^ 1), ..recorded });
    starts_empty_and_is_seeded(cluster, ledger, "does not contain position");
}

#[test]
fn a_clone_that_is_older_than_recorded_is_not_used() {
    let (mut cluster, ledger, recorded) = with_copy();
    let id = cluster.cluster;
    expect(&mut cluster, id, Position { index: Index(recorded.index.0 + 1000), ..recorded });
    starts_empty_and_is_seeded(cluster, ledger, "does not contain position");
}

#[test]
fn a_clone_of_another_cluster_is_not_used() {
    let (mut cluster, ledger, recorded) = with_copy();
    expect(&mut cluster, ClusterId(7), recorded);
    starts_empty_and_is_seeded(cluster, ledger, "is of cluster");
}

/// Ends the process between the new incarnation and the judgement of the content: the next start must still judge it.
#[test]
fn a_copy_is_judged_even_when_its_first_start_was_cut_short() {
    let (mut cluster, ledger, recorded) = with_copy();
    let name = cluster.nodes[2].name.clone();
    drop(rdb_log::Control::open_on_volume(&cluster.nodes[2].data, name, Some("volume-2")).unwrap());
    let id = cluster.cluster;
    expect(&mut cluster, id, Position { chain: Chain(recorded.chain.0 ^ 1), ..recorded });
    starts_empty_and_is_seeded(cluster, ledger, "does not contain position");
}

/// Row changes after which the pages of the leader are others than those of whoever applies them: it made its counters grow by turns,
/// the others write them once.
fn scatter(cluster: &Cluster, name: &str) {
    let create = |table| format!("CREATE TABLE {name}_{table}(id INTEGER PRIMARY KEY AUTOINCREMENT)");
    let insert = |table, id: u32| format!("INSERT INTO {name}_{table} VALUES ({id})");
    let mut statements = vec![create("a"), create("b")];
    statements.extend([1, 1000, 1_000_000].iter().flat_map(|id| [insert("a", *id), insert("b", *id)]));
    cluster.leader().batch(&statements.iter().map(String::as_str).collect::<Vec<_>>()).ok();
}

/// A snapshot from when row changes were logged has pages of its own: of a follower as of what was the leader.
#[test]
fn a_copy_from_when_row_changes_were_logged_waits_for_a_base_copy_when_pages_are() {
    for source in [0, 1] {
        let mut cluster = Cluster::prepare(3);
        for (i, node) in cluster.nodes.iter_mut().enumerate() {
            node.set_environment("RDB_VOLUME_ID", &format!("volume-{i}"));
        }
        cluster.settings.log_format = LogFormat::Logical;
        cluster.bootstrap(2);
        let mut ledger = Ledger::create(cluster.leader());
        ledger.write_all(cluster.leader(), 20, 2000);
        scatter(&cluster, "before");
        cluster.wait_applied(1);
        let recorded = cluster.nodes[source].status().flushed;
        cluster.nodes[source].kill();
        copy(&cluster.nodes[source].data, &cluster.nodes[2].data);
        cluster.nodes[source].start();
        let id = cluster.cluster;
        expect(&mut cluster, id, recorded);

        // Back to pages: first with rows beside them, until the only follower has a new copy.
        cluster.elect(0);
        scatter(&cluster, "after");
        cluster.settings.log_format = LogFormat::Page;
        cluster.settings.rows_for_all = true;
        cluster.elect(0);
        ledger.write_all(cluster.leader(), 3, 2000);
        let last_rows = cluster.leader().status().applied;
        let incarnation = cluster.nodes[1].status().incarnation;
        cluster.nodes[1].admin::<Done>("reseed", &Reseed { epoch: cluster.epoch, incarnation }).unwrap();
        wait_until("it has begun anew", || cluster.nodes[1].status().incarnation != incarnation);
        cluster.wait_caught_up(1);
        cluster.reconfigure(&[0, 1], 1);
        cluster.settings.rows_for_all = false;
        cluster.elect(0);
        ledger.write_all(cluster.leader(), 3, 2000);

        cluster.nodes[2].start();
        let member = cluster.nodes[2].member();
        assert!(cluster.nodes[2].status().other_layout, "its pages are its own, and it knows");
        cluster.follow(2);
        cluster.wait_same_log(2);
        wait_until("it says what it waits for", || cluster.nodes[2].problems() == ["OTHER_LAYOUT"]);
        let status = cluster.nodes[2].status();
        assert_eq!((status.member(), status.state), (member.clone(), NodeState::CatchingUp), "its copy counts");
        assert!(status.other_layout && status.exact == RecordPlace::default(), "{status:?}");
        assert_eq!(cluster.nodes[2].query_any("PRAGMA integrity_check").value(), "ok");
        assert_eq!(cluster.nodes[2].query_any("SELECT count(*) FROM after_a").value(), 3, "it has applied the rows");
        assert!(status.applied >= last_rows, "and says so");

        // So it does after a restart; then the operator gives it one.
        cluster.restart(2);
        wait_until("it still waits", || cluster.nodes[2].problems() == ["OTHER_LAYOUT"]);
        assert!(cluster.nodes[2].status().other_layout);
        let call = Reseed { epoch: cluster.epoch, incarnation: member.incarnation };
        cluster.nodes[2].admin::<Done>("reseed", &call).unwrap();
        wait_until("it has begun anew", || cluster.nodes[2].status().incarnation != member.incarnation);
        joins(&mut cluster, &mut ledger);
        let status = cluster.nodes[2].status();
        assert!(!status.other_layout && status.problems.is_empty(), "{status:?}");
        assert!(!cluster.nodes[2].output().contains("DIVERGED"), "nothing was wrong with its rows");
    }
}

#[test]
fn in_a_container_the_node_writes_to_its_volume_alone_and_leaves_its_boot_id() {
    let mut cluster = Cluster::prepare(1);
    let dir = cluster.path("");
    let boots = cluster.path("termination-log");
    std::fs::write(&boots, "of an earlier container, much longer than an id\n").unwrap();
    cluster.nodes[0].set_environment("RDB_BOOT_FILE", boots.to_str().unwrap());
    std::fs::create_dir_all(&cluster.nodes[0].data).unwrap();
    if rustix::process::geteuid().is_root() {
        for path in [&dir, &boots, &cluster.nodes[0].data] {
            std::os::unix::fs::chown(path, Some(65532), Some(65532)).unwrap();
        }
        cluster.nodes[0].run_as(65532);
    } else {
        println!("as this user: only root can be another one");
    }
    cluster.bootstrap(1);
    let boot = cluster.nodes[0].status().boot;
    assert_eq!(std::fs::read_to_string(&boots).unwrap(), format!("{boot}\n"));
    let mut ledger = Ledger::create(cluster.leader());
    ledger.write_all(cluster.leader(), 3, 100);
    let temporary = cluster.nodes[0].data.join("tmp");
    cluster.nodes[0].shut_down();
    std::fs::write(temporary.join("left-behind"), "").unwrap();
    cluster.nodes[0].start();
    assert!(!temporary.join("left-behind").exists() && temporary.is_dir());
    assert_ne!(std::fs::read_to_string(&boots).unwrap(), format!("{boot}\n"), "every start has an id of its own");
    // A boot file that cannot be written is no reason not to start.
    cluster.nodes[0].shut_down();
    cluster.nodes[0].set_environment("RDB_BOOT_FILE", "/proc/nowhere/boot");
    cluster.nodes[0].start();
    cluster.elect(0);
    ledger.check(cluster.leader());
}
