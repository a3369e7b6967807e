//! Bad input from clients.

use rdb_protocol::admin::AdminRefusal;
use rdb_protocol::api::ErrorCode;
use serde_json::json;

use crate::support::process::ADMIN;
use crate::support::{Cluster, Ledger};

#[test]
fn bad_statements_have_codes_and_change_nothing() {
    let cluster = Cluster::start(1);
    let node = cluster.leader();
    let mut ledger = Ledger::create(node);
    assert_eq!(ledger.write(node), None);
    node.execute(
        "CREATE TABLE strict_one (id INTEGER PRIMARY KEY, n INTEGER NOT NULL CHECK (n > 0)) STRICT",
        json!([]),
    )
    .ok();

    let refused = [
        ("SELEC 1", json!([]), ErrorCode::SqlError),
        ("INSERT INTO nowhere VALUES (1)", json!([]), ErrorCode::SqlError),
        ("INSERT INTO ledger VALUES (1)", json!([]), ErrorCode::SqlError),
        ("INSERT INTO ledger VALUES (?1, ?2)", json!([1]), ErrorCode::SqlError),
        ("INSERT INTO ledger VALUES (1, 2); DELETE FROM ledger", json!([]), ErrorCode::SqlError),
        ("", json!([]), ErrorCode::SqlError),
        ("INSERT INTO strict_one VALUES (1, 'text')", json!([]), ErrorCode::Constraint),
        ("INSERT INTO strict_one VALUES (1, -1)", json!([]), ErrorCode::Constraint),
        ("INSERT INTO ledger VALUES (NULL, 1)", json!([]), ErrorCode::Constraint),
        ("DELETE FROM _rdb_position", json!([]), ErrorCode::Forbidden),
        ("ATTACH DATABASE '/etc/passwd' AS other", json!([]), ErrorCode::Forbidden),
        ("PRAGMA journal_mode = DELETE", json!([]), ErrorCode::Forbidden),
        ("UPDATE sqlite_schema SET sql = ''", json!([]), ErrorCode::SqlError),
    ];
    for (sql, args, expected) in refused {
        assert_eq!(node.execute(sql, args).error(), expected, "{sql}");
    }
    assert_eq!(node.query("INSERT INTO ledger VALUES (9, NULL)").error(), ErrorCode::ReadOnly);
    assert_eq!(node.query("SELECT * FROM nowhere").error(), ErrorCode::SqlError);
    // One bad statement undoes its whole batch.
    let batch = node.batch(&["INSERT INTO ledger VALUES (77, NULL)", "INSERT INTO nowhere VALUES (1)"]);
    assert_eq!(batch.error(), ErrorCode::SqlError);

    assert_eq!(ledger.write(node), None);
    ledger.check(node);
    assert_eq!(node.query("SELECT count(*) FROM strict_one").value(), 0);
}

#[test]
fn malformed_requests_have_codes_and_change_nothing() {
    let cluster = Cluster::start(1);
    let node = cluster.leader();
    let mut ledger = Ledger::create(node);
    let bodies: [(&str, &str); 11] = [
        ("/v1/execute", ""),
        ("/v1/execute", "{"),
        ("/v1/execute", "[]"),
        ("/v1/execute", "\u{0}\u{1}"),
        ("/v1/execute", r#"{"sql": 1}"#),
        ("/v1/execute", r#"{"sql": "SELECT 1", "surprise": true}"#),
        ("/v1/execute", r#"{"sql": "SELECT ?1", "args": [[1]]}"#),
        ("/v1/execute", r#"{"sql": "SELECT ?1", "args": [{"base64": "no base64!"}]}"#),
        ("/v1/query", r#"{"sql": "SELECT 1", "consistency": "maybe"}"#),
        ("/v1/query", r#"{"sql": "SELECT 1", "consistency": "session"}"#),
        ("/v1/batch", r#"{"statements": {}}"#),
    ];
    for (path, body) in bodies {
        let reply = node.call("POST", path, &[], body.as_bytes()).unwrap();
        assert_eq!(reply.error(), ErrorCode::BadRequest, "{path} {body:?}");
    }
    let key = node.call("POST", "/v1/execute", &[("Idempotency-Key", "no-number")], br#"{"sql": "SELECT 1"}"#).unwrap();
    assert_eq!(key.error(), ErrorCode::BadRequest);
    assert_eq!(node.get("/v1/nowhere").error(), ErrorCode::NotFound);
    assert_eq!(node.get("/").error(), ErrorCode::NotFound);
    assert_eq!(node.get("/v1/status?surprise").error(), ErrorCode::BadRequest);
    // A wrong method is its own HTTP status under the same code.
    let wrong = node.get("/v1/execute");
    assert_eq!((wrong.status, &wrong.body["error"]["code"]), (405, &json!("NOT_FOUND")));
    assert_eq!(ledger.write(node), None);
    ledger.check(node);
}

#[test]
fn oversized_requests_and_results_are_refused_whole() {
    let mut cluster = Cluster::prepare(1);
    cluster.settings.max_request_bytes = 256 << 10;
    cluster.settings.max_result_bytes = 64 << 10;
    cluster.bootstrap(1);
    let node = cluster.leader();
    let mut ledger = Ledger::create(node);
    assert_eq!(ledger.write(node), None);

    // Over the limit, and so far over it that the body is not even read.
    for size in [300 << 10, 4 << 20] {
        let body = json!({"sql": "INSERT INTO ledger VALUES (88, ?1)", "args": ["x".repeat(size)]});
        let reply = node.call("POST", "/v1/execute", &[], body.to_string().as_bytes());
        // In the second case the connection may break while the client still sends.
        let code = reply.map_or(ErrorCode::RequestTooLarge, |reply| reply.error());
        assert_eq!(code, ErrorCode::RequestTooLarge, "{size}");
    }
    let large = "SELECT zeroblob(100000)";
    assert_eq!(node.query(large).error(), ErrorCode::ResultTooLarge);
    let returning = node.execute("INSERT INTO ledger VALUES (89, zeroblob(100000)) RETURNING filler", json!([]));
    assert_eq!(returning.error(), ErrorCode::ResultTooLarge);
    let rows = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n";
    assert_eq!(node.query(rows).error(), ErrorCode::ResultTooLarge, "an endless result ends at the limit");

    // Within the limits all is well.
    assert_eq!(ledger.write(node), None);
    ledger.check(node);
}

/// An operator that was replaced still tells nodes what it wants.
#[test]
fn a_refused_call_changes_no_settings() {
    let mut cluster = Cluster::start(1);
    let old = cluster.epoch;
    cluster.elect(0);
    let now = std::mem::replace(&mut cluster.epoch, old);
    cluster.settings.max_result_bytes = 1 << 10;
    assert!(matches!(cluster.try_follow(0), Err(AdminRefusal::Fenced { .. })));
    let answer = cluster.leader().query("SELECT zeroblob(10000)");
    assert_eq!(answer.status, 200, "{:?}", answer.body);
    // The present one is obeyed.
    cluster.epoch = now;
    cluster.elect(0);
    assert_eq!(cluster.leader().query("SELECT zeroblob(10000)").error(), ErrorCode::ResultTooLarge);
}

#[test]
fn statements_that_do_not_end_are_undone_at_their_deadline() {
    let cluster = Cluster::start(1);
    let node = cluster.leader();
    let mut ledger = Ledger::create(node);
    let endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n)";
    let read = json!({"sql": format!("{endless} SELECT count(*) FROM n"), "deadline_ms": 200});
    assert_eq!(node.post("/v1/query", &read).error(), ErrorCode::Timeout);
    let write = json!({"sql": format!("INSERT INTO ledger {endless} SELECT i, NULL FROM n"), "deadline_ms": 200});
    assert_eq!(node.post("/v1/execute", &write).error(), ErrorCode::Timeout);
    assert_eq!(ledger.write(node), None, "the writer is free again");
    ledger.check(node);
}

#[test]
fn wrong_and_missing_tokens_are_refused_before_the_body_is_looked_at() {
    let mut cluster = Cluster::prepare(1);
    cluster.nodes[0].require_client_token();
    cluster.bootstrap(1);
    let node = cluster.leader();
    let body = br#"{"sql": "CREATE TABLE t (x)"}"#;
    let with = |path: &str, token: &str, body: &[u8]| {
        let authorization = format!("Bearer {token}");
        node.call("POST", path, &[("Authorization", &authorization)], body).unwrap()
    };
    for body in [&body[..], b"not even JSON"] {
        let missing = node.call("POST", "/v1/execute", &[], body).unwrap();
        assert_eq!(missing.error(), ErrorCode::Unauthorized);
        // Each token opens its own door only.
        for token in ["wrong", ADMIN, crate::support::process::PEER, ""] {
            assert_eq!(with("/v1/execute", token, body).error(), ErrorCode::Unauthorized, "{token}");
        }
        assert_eq!(with("/v1/admin/fence", "token-of-the-clients", body).error(), ErrorCode::Unauthorized);
    }
    let peer = |token: &str| node.call("GET", "/v1/peer/seed", &[("Authorization", token)], b"").unwrap();
    assert_eq!(peer(&format!("Bearer {ADMIN}")).error(), ErrorCode::Unauthorized);
    assert_eq!(peer("").error(), ErrorCode::Unauthorized);
    assert_eq!(node.get("/v1/snapshot").error(), ErrorCode::Unauthorized);
    with("/v1/execute", "token-of-the-clients", body).ok();
}

#[test]
fn calls_of_the_operator_that_do_not_fit_are_refused() {
    let cluster = Cluster::start(1);
    let node = cluster.leader();
    let admin = format!("Bearer {ADMIN}");
    let call = |name: &str, body: &str| {
        node.call("POST", &format!("/v1/admin/{name}"), &[("Authorization", &admin)], body.as_bytes()).unwrap()
    };
    assert_eq!(call("nonsense", "{}").error(), ErrorCode::NotFound);
    assert_eq!(call("fence", "{").error(), ErrorCode::BadRequest);
    assert_eq!(call("fence", r#"{"epoch": "two"}"#).error(), ErrorCode::BadRequest);
    let old = call("fence", r#"{"epoch": 0}"#);
    assert_eq!((old.status, &old.body["refused"]), (409, &json!("fenced")));
    let other = call("reseed", r#"{"epoch": 1, "incarnation": "0000000000000001"}"#);
    assert_eq!((other.status, &other.body["refused"]), (409, &json!("state")));
    let init = call("init", r#"{"cluster": "0000000000000001", "incarnation": "0000000000000001", "create": true}"#);
    assert_eq!((init.status, &init.body["refused"]), (409, &json!("state")));
    assert!(node.status().opened, "none of these had an effect");
}
