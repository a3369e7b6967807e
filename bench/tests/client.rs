//! The client against a server that behaves well, badly, or not at all.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use common::{FakeNode, Reply, answer};
use rdb_bench::client::{CallError, Client, Connection, RequestBuilder, WireError};
use rdb_bench::load;
use rdb_protocol::api::{Consistency, ErrorCode};
use serde_json::json;

const DEADLINE: Duration = Duration::from_millis(100);

fn row(value: u64) -> String {
    json!({
        "columns": [{"name": "v", "type": null}], "rows": [[value]], "rows_affected": 1, "last_insert_rowid": 1,
        "position": {"epoch": 3, "index": 41},
    })
    .to_string()
}

#[tokio::test]
async fn one_connection_carries_many_requests() {
    let node = FakeNode::start(|_, _| Reply::Bytes(answer(200, &row(7)))).await;
    let mut client = Client::new(&node.address, None);
    for _ in 0..5 {
        let got = client.execute("x", json!([]), Some("a:1"), DEADLINE).await.unwrap();
        assert_eq!(got.rows(), [vec![json!(7)]]);
        assert_eq!((got.position.epoch.0, got.position.index.0), (3, 41));
    }
    assert_eq!(node.connections(), 1);
}

#[tokio::test]
async fn the_request_names_statement_consistency_key_and_token() {
    let node = FakeNode::start(|head, body| {
        let fits = head.starts_with("POST /v1/query HTTP/1.1\r\n")
            && head.contains("\r\nAuthorization: Bearer secret\r\n")
            && body.contains("\"consistency\":\"linearizable\"")
            && body.contains("\"deadline_ms\":100");
        Reply::Bytes(if fits { answer(200, &row(1)) } else { answer(400, head) })
    })
    .await;
    let mut client = Client::new(&node.address, Some("secret"));
    client.query("SELECT ?1", json!([5]), Consistency::Linearizable, None, DEADLINE).await.unwrap();
}

#[tokio::test]
async fn an_answer_in_many_small_pieces_is_put_together() {
    let node =
        FakeNode::start(|_, _| Reply::Pieces(answer(200, &row(7)).chunks(3).map(<[u8]>::to_vec).collect())).await;
    let mut client = Client::new(&node.address, None);
    for _ in 0..3 {
        client.execute("x", json!([]), None, DEADLINE).await.unwrap();
    }
}

#[tokio::test]
async fn a_chunked_body_and_a_long_one_are_read_whole() {
    let long = "x".repeat(100_000);
    let chunked = format!(
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n{:x}\r\n{long}\r\n0\r\n\r\n",
        long.len()
    );
    let plain = answer(200, &long);
    let node = FakeNode::start(move |head, _| {
        Reply::Bytes(if head.contains("/chunked") { chunked.clone().into_bytes() } else { plain.clone() })
    })
    .await;
    let mut connection = Connection::open(&node.address).await.unwrap();
    let mut request = Vec::new();
    for _ in 0..2 {
        RequestBuilder::get("/chunked", None).write(&mut request, None, &[]);
        connection.exchange(&request).await.unwrap();
        assert_eq!(connection.body().len(), 100_005);
        assert!(connection.body().starts_with(b"helloxx"));
        RequestBuilder::get("/plain", None).write(&mut request, None, &[]);
        let head = connection.exchange(&request).await.unwrap();
        assert_eq!((head.epoch, head.index, connection.body().len()), (Some(3), Some(41), 100_000));
    }
    for path in ["/chunked", "/plain"] {
        let mut got = 0;
        RequestBuilder::get(path, None).write(&mut request, None, &[]);
        connection.download(&request, |piece| got += piece.len()).await.unwrap();
        assert_eq!(got, if path == "/plain" { 100_000 } else { 100_005 });
    }
}

#[tokio::test]
async fn errors_say_whether_the_request_may_have_run() {
    let node = FakeNode::start(|_, body| {
        let code = if body.contains("unknown") { ErrorCode::UnknownOutcome } else { ErrorCode::NoLeader };
        let error = json!({"error": code.error("m", "h")}).to_string();
        Reply::Bytes(answer(code.http_status(), &error))
    })
    .await;
    let mut client = Client::new(&node.address, None);
    let unknown = client.execute("unknown", json!([]), None, DEADLINE).await.unwrap_err();
    assert!(unknown.may_have_run() && !unknown.is_final());
    let refused = client.execute("none", json!([]), None, DEADLINE).await.unwrap_err();
    assert!(!refused.may_have_run());
    assert_eq!(node.connections(), 1, "an error answer leaves the connection usable");
}

#[tokio::test]
async fn a_broken_connection_is_an_unknown_outcome_and_is_not_used_again() {
    let count = Arc::new(AtomicU64::new(0));
    let node = FakeNode::start(move |_, _| match count.fetch_add(1, Ordering::SeqCst) {
        0 => Reply::BytesAndClose(answer(200, &row(7))[..40].to_vec()),
        _ => Reply::Bytes(answer(200, &row(8))),
    })
    .await;
    let mut client = Client::new(&node.address, None);
    let error = client.execute("x", json!([]), None, DEADLINE).await.unwrap_err();
    assert!(matches!(error, CallError::Wire(WireError::Closed)) && error.may_have_run(), "{error}");
    assert_eq!(client.execute("x", json!([]), None, DEADLINE).await.unwrap().rows(), [vec![json!(8)]]);
    assert_eq!(node.connections(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_frozen_node_is_an_unknown_outcome() {
    let node = FakeNode::start(|_, _| Reply::Silence).await;
    let mut client = Client::new(&node.address, None);
    let error = client.execute("x", json!([]), None, DEADLINE).await.unwrap_err();
    assert!(matches!(error, CallError::Silent) && error.may_have_run());
}

#[tokio::test]
async fn a_refused_connection_surely_ran_nothing() {
    let mut client = Client::new("127.0.0.1:1", None);
    let error = client.execute("x", json!([]), None, DEADLINE).await.unwrap_err();
    assert!(!error.may_have_run(), "{error}");
}

#[tokio::test]
async fn the_load_counts_successes_and_failures_apart() {
    let count = Arc::new(AtomicU64::new(0));
    let node = FakeNode::start(move |_, body| {
        assert_eq!(body, "{}");
        let status = if count.fetch_add(1, Ordering::SeqCst) % 100 == 99 { 503 } else { 200 };
        Reply::Bytes(answer(status, "{}"))
    })
    .await;
    let plan = load::Plan {
        clients: 4,
        addresses: vec![node.address.clone()],
        path: "/v1/execute".into(),
        token: None,
        warm_up: Duration::from_millis(20),
        measure: Duration::from_millis(200),
    };
    let outcome = load::run(&plan, |_| |body: &mut Vec<u8>| body.extend_from_slice(b"{}")).await;
    assert!(outcome.latencies.count() > 100 && outcome.failures > 0, "{outcome:?}");
    assert!(outcome.first_failure.as_deref().is_some_and(|text| text.starts_with("status 503")));
    assert_eq!(node.connections(), 4);
}
