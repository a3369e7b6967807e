//! What a healthy node answers.

use std::sync::Arc;
use std::time::Duration;

use rdb_protocol::admin::{AdminRefusal, Done, Recruit};
use rdb_protocol::api::{BatchResponse, ErrorCode, ExecuteResponse};
use rdb_protocol::status::NodeStatus;
use rdb_protocol::{Epoch, Index};
use serde_json::json;

use super::super::Tokens;
use super::super::backend::Place;
use super::mock::{HERE, Node};
use super::{Client, ask, get, post};

#[test]
fn values_come_back_as_they_were_sent() {
    let node = Node::leader();
    let args = r#"[null, true, 1, -9223372036854775808, 9007199254740993, 1.5, "é\n\"", {"base64": "AP8="}]"#;
    for (path, kind) in [("/v1/execute", ""), ("/v1/query", r#", "consistency": "any""#)] {
        let body = format!(r#"{{"sql": "x", "args": {args}{kind}}}"#);
        let got = post(node.address, path, &body);
        let answer: ExecuteResponse = serde_json::from_slice(&got.body).unwrap();
        let expected =
            json!([null, 1, 1, "-9223372036854775808", "9007199254740993", 1.5, "é\n\"", {"base64": "AP8="}]);
        assert_eq!(json!(answer.result.rows), json!([expected]));
        assert_eq!(answer.result.last_insert_rowid, json!("1152921504606846976"));
        assert_eq!(answer.position, HERE);
        assert_eq!(answer.result.columns[0].declared, None);
    }
    let named = post(node.address, "/v1/execute", r#"{"sql": "x", "args": {"a": 7}}"#);
    assert_eq!(named.json()["rows"], json!([[7]]));
}

#[test]
fn a_batch_has_a_result_per_statement() {
    let node = Node::leader();
    let got = post(
        node.address,
        "/v1/batch",
        r#"{"statements": [{"sql": "a", "args": [1]}, {"sql": "b"}], "deadline_ms": 1000}"#,
    );
    let answer: BatchResponse = serde_json::from_slice(&got.body).unwrap();
    assert_eq!(answer.results.len(), 2);
    assert_eq!(answer.results[0].rows, [[json!(1)]]);
    assert_eq!(answer.position, HERE);
    let empty = post(node.address, "/v1/batch", r#"{"statements": []}"#);
    assert_eq!(empty.json()["results"], json!([]));
    assert_eq!(node.writes(), ["a", "b"]);
}

#[test]
fn every_answer_names_epoch_index_and_node() {
    let node = Node::leader();
    for got in [
        post(node.address, "/v1/execute", r#"{"sql": "x"}"#),
        post(node.address, "/v1/execute", "?"),
        get(node.address, "/nowhere"),
        get(node.address, "/v1/status"),
        get(node.address, "/readyz"),
    ] {
        let header = |name| got.header(name);
        assert_eq!((header("rdb-epoch"), header("rdb-index")), (Some("3"), Some("7")));
        assert_eq!(header("rdb-node"), Some("n-0"));
    }
}

#[test]
fn a_connection_is_kept_for_many_requests_even_after_errors() {
    let node = Node::leader();
    let mut client = Client::connect(node.address);
    for _ in 0..3 {
        for (path, body, status) in
            [("/v1/execute", r#"{"sql": "x"}"#, 200), ("/v1/execute", "{", 400), ("/v1/nothing", "{}", 404)]
        {
            client.send("POST", path, &[], body.as_bytes());
            assert_eq!(client.receive().status, status);
        }
    }
}

#[test]
fn a_repeated_key_gets_the_first_result_and_its_outcome_can_be_asked_for() {
    let node = Node::leader();
    let execute = |sql: &str| {
        let body = format!(r#"{{"sql": "{sql}", "args": [5]}}"#);
        ask(node.address, "POST", "/v1/execute", &[("idempotency-key", "me/1:1")], &body)
    };
    let first = execute("x");
    assert_eq!(execute("x").body, first.body);
    assert_eq!(execute("y").code(), ErrorCode::KeyReused);
    assert_eq!(node.writes(), ["x"]);
    let outcome = get(node.address, "/v1/outcome/me%2F1:1").json();
    assert_eq!(outcome["results"][0]["rows"], json!([[5]]));
    assert_eq!(outcome["position"], json!({"epoch": 3, "index": 7}));
    assert_eq!(get(node.address, "/v1/outcome/me:2").code(), ErrorCode::OutcomeUnknownKey);
}

#[test]
fn a_status_stream_tells_of_changes_at_once_and_otherwise_at_every_interval() {
    let node = Node::leader();
    // No line may come by itself during this part.
    node.mock.settings.lock().heartbeat_interval_ms = 3_600_000;
    let mut client = Client::connect(node.address);
    client.send("GET", "/v1/status?watch", &[], b"");
    let head = client.head().unwrap();
    assert_eq!(head.header("content-type"), Some("application/x-ndjson"));
    let mut next = |expected| {
        let line = client.chunk().unwrap().unwrap();
        assert_eq!(line.last(), Some(&b'\n'));
        let status: NodeStatus = serde_json::from_slice(&line).unwrap();
        assert_eq!(status.committed, Index(expected));
    };
    next(0);
    for committed in 1..=3 {
        *node.mock.committed.lock() = committed;
        node.mock.changed.send_replace(());
        next(committed);
    }
    // The interval is read anew with every line.
    node.mock.settings.lock().heartbeat_interval_ms = 5;
    node.mock.changed.send_replace(());
    (0..3).for_each(|_| next(3));
    let plain: NodeStatus = serde_json::from_slice(&get(node.address, "/v1/status").body).unwrap();
    assert_eq!(plain.committed, Index(3));
}

#[test]
fn a_snapshot_is_streamed_and_a_broken_one_is_not_taken_for_a_whole_one() {
    let node = Node::leader();
    let got = get(node.address, "/v1/snapshot");
    assert_eq!(got.body, b"SQLite format 3");
    assert_eq!(got.header("rdb-index"), Some("7"));
    assert!(got.header("content-disposition").unwrap().contains("n-0-3-7.db"));
    *node.mock.problem.lock() = Some("disk".into());
    let mut client = Client::connect(node.address);
    client.send("GET", "/v1/snapshot", &[], b"");
    assert_eq!(client.head().unwrap().status, 200);
    while let Ok(chunk) = client.chunk() {
        assert!(chunk.is_some(), "the stream ended as if it were whole");
    }
}

#[test]
fn health_has_a_line_per_check() {
    let node = Node::leader();
    let ready = get(node.address, "/readyz");
    assert_eq!((ready.status, ready.text().as_str()), (200, "[+] log ok\n[+] disk ok\n"));
    *node.mock.problem.lock() = Some("full\nvery".into());
    let ready = get(node.address, "/readyz");
    assert_eq!((ready.status, ready.text().as_str()), (503, "[+] log ok\n[-] disk: full very\n"));
    assert_eq!(get(node.address, "/livez").status, 200);
}

#[test]
fn metrics_count_requests_and_hold_the_nodes_own() {
    let node = Node::leader();
    post(node.address, "/v1/execute", r#"{"sql": "x"}"#);
    post(node.address, "/v1/execute", "{");
    let text = get(node.address, "/metrics").text();
    for line in [
        "rdb_log_records 42",
        "rdb_http_requests_total{call=\"Execute\",result=\"Success\"} 1",
        "rdb_http_requests_total{call=\"Execute\",result=\"ClientError\"} 1",
        "rdb_http_request_duration_seconds_count{call=\"Execute\"} 2",
        "# EOF",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
    }
}

#[test]
fn admin_calls_are_answered_and_refusals_are_conflicts() {
    let node = Node::leader();
    let got = post(node.address, "/v1/admin/fence", r#"{"epoch": 4}"#);
    let recruit: Recruit = serde_json::from_slice(&got.body).unwrap();
    assert_eq!(recruit.epoch, Epoch(4));
    let got = post(node.address, "/v1/admin/fence", r#"{"epoch": 3}"#);
    assert_eq!(got.status, 409);
    let refusal: AdminRefusal = serde_json::from_slice(&got.body).unwrap();
    assert!(matches!(refusal, AdminRefusal::Fenced { .. }));
    for (name, body) in [
        ("resume-writes", r#"{"epoch": 1}"#),
        ("stop-writes", r#"{"epoch": 1, "deadline_ms": 5}"#),
        ("lease", r#"{"epoch": 1, "request": 5}"#),
        ("probe", r#"{"epoch": 1, "deadline_ms": 5}"#),
        ("shutdown", "{}"),
    ] {
        let got = post(node.address, &format!("/v1/admin/{name}"), body);
        assert_eq!(serde_json::from_slice::<Done>(&got.body).unwrap(), Done {}, "{name}");
    }
}

#[test]
fn the_description_is_served() {
    let node = Node::leader();
    let document = get(node.address, "/v1/openapi.json").json();
    assert!(document["paths"]["/v1/execute"]["post"].is_object());
}

#[test]
fn peers_are_handed_to_the_driver() {
    let node = Node::leader();
    for path in ["/v1/peer", "/v1/peer/seed?from=1"] {
        assert_eq!(get(node.address, path).text(), "a peer");
    }
    assert_eq!(get(node.address, "/v1/peers").status, 404);
}

#[test]
fn idle_connections_are_ended_and_working_ones_are_not() {
    let sweep = Duration::from_millis(5);
    let node = Node::start_with("n-0", Place::Unknown, Tokens::default(), Arc::default(), sweep);
    node.mock.settings.lock().heartbeat_interval_ms = 50;
    let mut watch = Client::connect(node.address);
    watch.send("GET", "/v1/status?watch", &[], b"");
    assert_eq!(watch.head().unwrap().header("connection"), Some("close"));
    let mut held = Client::connect(node.address);
    held.send("POST", "/v1/execute", &[], br#"{"sql": "x", "deadline_ms": 200}"#);
    let mut dribbling = Client::connect(node.address);
    std::io::Write::write_all(dribbling.stream.get_mut(), b"GET /livez HT").unwrap();
    assert_eq!(dribbling.line(), None);
    assert_eq!(Client::connect(node.address).line(), None);
    (0..4).for_each(|_| assert!(watch.chunk().unwrap().is_some()));
    assert_eq!(held.receive().code(), ErrorCode::NoLeader);
    assert_eq!(held.line(), None);
}
