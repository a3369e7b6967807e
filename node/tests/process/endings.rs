//! Nodes that are told to end: whoever waits is answered, and the process is gone within seconds.

use rdb_protocol::admin::{Done, Probe};
use rdb_protocol::api::ErrorCode;
use serde_json::json;

use crate::support::{Cluster, Ledger, Node, wait_until};

fn write(node: &Node, deadline_ms: u64) -> Option<ErrorCode> {
    let body = json!({"sql": "INSERT INTO ledger (n) VALUES (1000)", "deadline_ms": deadline_ms}).to_string();
    let reply = node.call("POST", "/v1/execute", &[], body.as_bytes()).expect("an answer");
    (!reply.is_ok()).then(|| reply.error())
}

#[test]
fn a_leader_that_is_told_to_end_answers_the_writes_that_wait() {
    let mut cluster = Cluster::start(2);
    let mut ledger = Ledger::create(cluster.leader());
    ledger.write_all(cluster.leader(), 3, 100);
    cluster.nodes[1].kill();
    std::thread::scope(|scope| {
        let node = &cluster.nodes[0];
        let waiting = scope.spawn(|| write(node, 25_000));
        wait_until("the write waits for its copy", || node.status().uncommitted_ms.is_some());
        node.signal(libc::SIGTERM);
        assert_eq!(waiting.join().unwrap(), Some(ErrorCode::UnknownOutcome));
    });
    assert!(cluster.nodes[0].wait_exit().success());
}

#[test]
fn a_node_that_is_told_to_end_answers_those_who_wait_for_a_leader() {
    let mut cluster = Cluster::start(3);
    let mut ledger = Ledger::create(cluster.leader());
    ledger.write_all(cluster.leader(), 3, 100);
    cluster.nodes[0].kill();
    std::thread::scope(|scope| {
        let node = &cluster.nodes[1];
        let before = node.connections();
        let waiting = scope.spawn(|| write(node, 25_000));
        // Its connection, and the one of this question.
        wait_until("the write is held", || node.connections() > before + 1);
        node.signal(libc::SIGTERM);
        let heard = waiting.join().unwrap();
        assert!(matches!(heard, Some(ErrorCode::NoLeader | ErrorCode::UnknownOutcome)), "{heard:?}");
    });
    assert!(cluster.nodes[1].wait_exit().success());
    cluster.nodes[2].shut_down();
}

#[test]
fn a_probe_of_an_idle_leader_is_answered_when_it_is_committed() {
    let cluster = Cluster::start(2);
    let mut ledger = Ledger::create(cluster.leader());
    ledger.write_all(cluster.leader(), 1, 100);
    for _ in 0..8 {
        // A tenth of the time after which housekeeping would notice.
        let probe = Probe { epoch: cluster.epoch, deadline_ms: 200 };
        cluster.leader().admin::<Done>("probe", &probe).unwrap();
    }
}
