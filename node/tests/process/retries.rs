//! Idempotency keys: a request that is sent again has its effect once.

use rdb_protocol::api::ErrorCode;
use serde_json::json;

use crate::support::Cluster;

const INSERT: &str = "INSERT INTO counted (v) VALUES (?1) RETURNING n, v";

fn with_table(size: usize) -> Cluster {
    let cluster = Cluster::start(size);
    cluster.leader().execute("CREATE TABLE counted (n INTEGER PRIMARY KEY, v UNIQUE)", json!([])).ok();
    cluster
}

#[test]
fn a_repeated_request_gets_the_first_answer_also_from_the_next_leader() {
    let mut cluster = with_table(3);
    let first = cluster.leader().keyed("client:7", INSERT, json!(["once"]));
    assert_eq!(first.ok()["rows"], json!([[1, "once"]]));
    let same = |cluster: &Cluster, i: usize| {
        let again = cluster.nodes[i].keyed("client:7", INSERT, json!(["once"]));
        assert_eq!(again.ok(), first.ok());
        let outcome = cluster.nodes[i].get("/v1/outcome/client:7");
        assert_eq!(outcome.ok()["position"], first.body["position"]);
        assert_eq!(outcome.body["results"][0]["rows"], first.body["rows"]);
    };
    same(&cluster, 0);
    same(&cluster, 1);

    cluster.elect(1);
    same(&cluster, 1);
    cluster.nodes[0].kill();
    cluster.elect(2);
    same(&cluster, 2);
    same(&cluster, 1);
    assert_eq!(cluster.leader().query("SELECT count(*) FROM counted").value(), 1);
    cluster.restart(0);
    cluster.wait_caught_up(0);
    same(&cluster, 0);
    cluster.assert_equal_content();
}

#[test]
fn another_request_under_a_used_key_is_refused() {
    let mut cluster = with_table(3);
    cluster.leader().keyed("client:1", INSERT, json!(["first"])).ok();
    for _ in 0..2 {
        let other = cluster.leader().keyed("client:1", INSERT, json!(["second"]));
        assert_eq!(other.error(), ErrorCode::KeyReused);
        cluster.elect((cluster.leader + 1) % 3);
    }
    // A request that failed used nothing up.
    assert_eq!(cluster.leader().keyed("client:2", INSERT, json!(["first"])).error(), ErrorCode::Constraint);
    assert_eq!(cluster.leader().get("/v1/outcome/client:2").error(), ErrorCode::OutcomeUnknownKey);
    cluster.leader().keyed("client:2", INSERT, json!(["second"])).ok();
    assert_eq!(cluster.leader().get("/v1/outcome/no-number").error(), ErrorCode::BadRequest);
    assert_eq!(cluster.leader().query("SELECT count(*) FROM counted").value(), 2);
}

#[test]
fn a_write_of_unknown_outcome_takes_effect_once_when_repeated() {
    // Once with the record in the next leader's log, once without.
    for keep_leader in [true, false] {
        let mut cluster = with_table(3);
        cluster.kill_followers();
        let body = json!({"sql": INSERT, "args": ["doubtful"], "deadline_ms": 300}).to_string();
        let lone =
            cluster.leader().call("POST", "/v1/execute", &[("Idempotency-Key", "c:1")], body.as_bytes()).unwrap();
        assert_eq!(lone.error(), ErrorCode::UnknownOutcome);
        if !keep_leader {
            cluster.nodes[0].kill();
        }
        cluster.nodes[1].start();
        cluster.nodes[2].start();
        if keep_leader {
            cluster.elect(0);
        } else {
            cluster.elect(1);
            cluster.restart(0);
        }
        let outcome = cluster.leader().get("/v1/outcome/c:1");
        if keep_leader {
            outcome.ok();
        } else {
            assert_eq!(outcome.error(), ErrorCode::OutcomeUnknownKey);
        }
        for i in 0..3 {
            let again = cluster.nodes[i].keyed("c:1", INSERT, json!(["doubtful"]));
            assert_eq!(again.ok()["rows"], json!([[1, "doubtful"]]));
        }
        assert_eq!(cluster.leader().query("SELECT count(*) FROM counted").value(), 1);
        cluster.wait_caught_up(0);
        cluster.assert_equal_content();
    }
}

/// As when it lay unread at a leader that was frozen and elected again, while the node that sent it has long given another answer.
#[test]
fn a_forwarded_write_of_another_epoch_does_not_run() {
    let mut cluster = with_table(2);
    cluster.elect(0);
    let body = json!({"sql": INSERT, "args": ["late"]}).to_string();
    let forward = |epoch: u64, key: &str| {
        let epoch = epoch.to_string();
        let headers = [("Rdb-Forwarded", "node-1"), ("Rdb-Epoch", epoch.as_str()), ("Idempotency-Key", key)];
        cluster.leader().call("POST", "/v1/execute", &headers, body.as_bytes()).unwrap()
    };
    for other in [cluster.epoch.0 - 1, cluster.epoch.0 + 1] {
        assert_eq!(forward(other, "late:1").error(), ErrorCode::NotLeader);
    }
    assert_eq!(cluster.leader().query("SELECT count(*) FROM counted").value(), 0);
    forward(cluster.epoch.0, "late:1").ok();
    assert_eq!(cluster.leader().query("SELECT count(*) FROM counted").value(), 1);
}
