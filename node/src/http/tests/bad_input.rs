//! Bad requests: a stable code each, and nothing reaches the backend.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;

use rdb_protocol::api::ErrorCode::{self, *};

use super::super::backend::Place;
use super::super::{Secret, Token, Tokens};
use super::mock::Node;
use super::{Client, ask, get, post};

#[test]
fn bodies_that_are_not_what_the_call_takes_are_refused_with_their_place() {
    let node = Node::leader();
    let cases: &[(&str, &str, &str)] = &[
        ("/v1/execute", "{\n  \"sql\": \"x\",,\n}", "line 2 column"),
        ("/v1/execute", "", "EOF"),
        ("/v1/execute", "nonsense", "line 1 column"),
        ("/v1/execute", "\u{0}\u{1}", "line 1"),
        ("/v1/execute", "[]", "column"),
        ("/v1/execute", "{\"sql\": \"x\"} {", "trailing"),
        ("/v1/execute", "{\"args\": []}", "missing field `sql`"),
        ("/v1/execute", "{\"sql\": 1}", "expected a string"),
        ("/v1/execute", "{\"sql\": \"x\", \"params\": []}", "unknown field `params`"),
        ("/v1/execute", "{\"sql\": \"x\", \"args\": \"y\"}", "array of values"),
        ("/v1/execute", "{\"sql\": \"x\", \"args\": [[1]]}", "expected null, a number"),
        ("/v1/execute", "{\"sql\": \"x\", \"args\": [{\"hex\": \"0\"}]}", "base64"),
        ("/v1/execute", "{\"sql\": \"x\", \"args\": [{\"base64\": \"?\"}]}", "base64"),
        ("/v1/execute", "{\"sql\": \"x\", \"args\": [18446744073709551615]}", "64-bit"),
        ("/v1/execute", "{\"sql\": \"x\", \"deadline_ms\": -1}", "deadline_ms`|expected u64"),
        ("/v1/batch", "{\"statements\": {}}", "expected a sequence"),
        ("/v1/batch", "{\"statements\": [{\"sql\": \"x\", \"deadline_ms\": 1}]}", "unknown field"),
        ("/v1/query", "{\"sql\": \"x\", \"consistency\": \"strong\"}", "unknown variant `strong`"),
        ("/v1/query", "{\"sql\": \"x\", \"consistency\": \"session\"}", "needs `position`"),
        ("/v1/query", "{\"sql\": \"x\", \"consistency\": \"bounded\"}", "max_staleness_ms"),
        ("/v1/query", "{\"sql\": \"x\", \"position\": {\"epoch\": 1}}", "missing field `index`"),
        ("/v1/admin/fence", "{\"epoch\": \"one\"}", "invalid type"),
    ];
    for (path, body, part) in cases {
        let got = post(node.address, path, body);
        assert_eq!(got.code(), BadRequest, "{path} {body}");
        let message = got.json()["error"]["message"].as_str().unwrap().to_owned();
        assert!(part.split('|').any(|part| message.contains(part)), "{body}: {message}");
    }
    // Deep nesting must end in an error, not in a full stack.
    let deep = format!("{{\"sql\":\"x\",\"args\":{}", "[".repeat(100_000));
    assert_eq!(post(node.address, "/v1/execute", &deep).code(), BadRequest);
    assert!(node.writes().is_empty());
}

#[test]
fn invalid_utf8_is_refused() {
    let node = Node::leader();
    let mut client = Client::connect(node.address);
    client.send("POST", "/v1/execute", &[], b"{\"sql\": \"\xff\"}");
    assert_eq!(client.receive().code(), BadRequest);
}

#[test]
fn unknown_paths_and_methods_get_our_error_format() {
    let node = Node::leader();
    for path in ["/", "/v1", "/v1/executes", "/v1/execute/", "/v2/execute", "/v1/status/x", "/v1/outcome"] {
        let got = get(node.address, path);
        assert_eq!((got.status, got.code()), (404, NotFound), "{path}");
        assert_eq!(got.header("rdb-node"), Some("n-0"));
    }
    let unknown_call = post(node.address, "/v1/admin/explode", "{}");
    assert_eq!((unknown_call.status, unknown_call.code()), (404, NotFound));
    for (method, path) in [
        ("GET", "/v1/execute"),
        ("PUT", "/v1/query"),
        ("POST", "/v1/status"),
        ("DELETE", "/v1/snapshot"),
        ("GET", "/v1/admin/fence"),
        ("POST", "/readyz"),
    ] {
        let got = ask(node.address, method, path, &[], "");
        assert_eq!((got.status, got.code()), (405, NotFound), "{method} {path}");
    }
}

#[test]
fn bad_headers_and_queries_are_named() {
    let node = Node::leader();
    let body = "{\"sql\": \"x\"}";
    for (name, value) in [
        ("idempotency-key", "no-sequence"),
        ("idempotency-key", ":1"),
        ("idempotency-key", "a:-1"),
        ("rdb-deadline-ms", "soon"),
    ] {
        let got = ask(node.address, "POST", "/v1/execute", &[(name, value)], body);
        assert_eq!(got.code(), BadRequest, "{name}: {value}");
        assert!(got.text().contains(name), "{}", got.text());
    }
    assert_eq!(get(node.address, "/v1/status?whatch").code(), BadRequest);
    assert_eq!(get(node.address, "/v1/outcome/nothing").code(), BadRequest);
    assert_eq!(get(node.address, "/v1/outcome/%zz:1").code(), BadRequest);
    assert!(node.writes().is_empty());
}

#[test]
fn oversized_bodies_are_refused_whether_their_length_is_stated_or_not() {
    let node = Node::leader();
    node.mock.settings.lock().max_request_bytes = 1000;
    let body = |length: usize| {
        let frame = "{\"sql\":\"\"}".len();
        format!("{{\"sql\":\"{}\"}}", "x".repeat(length - frame))
    };
    assert_eq!(post(node.address, "/v1/execute", &body(1000)).status, 200);
    // A little too large, and so much that nobody wants to read the rest.
    for length in [1001, 3000, 5000] {
        let got = post(node.address, "/v1/execute", &body(length));
        assert_eq!(got.code(), RequestTooLarge, "{length}");
        assert_eq!(post(node.address, "/v1/admin/fence", &body(length)).code(), RequestTooLarge);
    }
    for (length, code) in [(990, None), (1001, Some(RequestTooLarge)), (9000, Some(RequestTooLarge))] {
        let text = body(length);
        let (first, second) = text.split_at(length / 2);
        let chunked = format!("{:x}\r\n{first}\r\n{:x}\r\n{second}\r\n0\r\n\r\n", first.len(), second.len());
        let mut client = Client::connect(node.address);
        let head = "POST /v1/execute HTTP/1.1\r\nhost: t\r\ntransfer-encoding: chunked\r\n\r\n";
        std::io::Write::write_all(client.stream.get_mut(), format!("{head}{chunked}").as_bytes()).unwrap();
        let got = client.receive();
        assert_eq!((got.status != 200).then(|| got.code()), code, "{length}");
    }
    assert_eq!(node.writes().len(), 2);
}

#[test]
fn a_body_that_never_comes_ends_with_a_timeout() {
    let node = Node::leader();
    node.mock.settings.lock().transaction_timeout_ms = 20;
    let mut client = Client::connect(node.address);
    client.send("POST", "/v1/execute", &[("content-length", "10")], b"");
    assert_eq!(client.receive().code(), Timeout);
}

#[test]
fn each_group_of_paths_wants_its_own_token() {
    let secret = |text: &str| Some(Token::new(Secret::new(text)));
    let tokens = Tokens { client: secret("client-secret"), peer: secret("peer-secret"), admin: secret("admin-secret") };
    let node = Node::start("n-0", Place::Here, tokens, Arc::default());
    let execute = "{\"sql\": \"x\"}";
    let paths = [
        ("POST", "/v1/execute", execute, "c"),
        ("POST", "/v1/query", execute, "c"),
        ("POST", "/v1/batch", "{\"statements\": []}", "c"),
        ("GET", "/v1/outcome/a:1", "", "c"),
        ("GET", "/v1/status", "", "ca"),
        ("GET", "/v1/snapshot", "", "ca"),
        ("POST", "/v1/admin/shutdown", "{}", "a"),
        ("GET", "/v1/peer", "", "p"),
        ("GET", "/v1/peer/seed", "", "p"),
        ("GET", "/livez", "", "cpa-"),
        ("GET", "/readyz", "", "cpa-"),
        ("GET", "/metrics", "", "cpa-"),
        ("GET", "/v1/openapi.json", "", "cpa-"),
    ];
    for (method, path, body, admitted) in paths {
        for (who, token) in [
            ('c', "Bearer client-secret"),
            ('p', "Bearer peer-secret"),
            ('a', "Bearer admin-secret"),
            ('-', "Bearer client-secre"),
            ('-', "Bearer client-secret0"),
            ('-', "Basic client-secret"),
            ('-', ""),
        ] {
            let got = ask(node.address, method, path, &[("authorization", token)], body);
            let refused = got.status == 401;
            assert_eq!(!refused, admitted.contains(who), "{method} {path} {token}");
            if refused {
                assert_eq!(got.code(), Unauthorized);
                assert!(!got.text().contains("secret"));
            }
        }
    }
    // Who may not call learns nothing about the body.
    assert_eq!(post(node.address, "/v1/execute", "nonsense").code(), Unauthorized);
}

#[test]
fn callers_from_elsewhere_need_a_token_that_is_configured() {
    // An address of this machine that is not loopback; nothing is sent to find it out. A machine without one cannot tell.
    let probe = UdpSocket::bind("0.0.0.0:0").unwrap();
    let Ok(()) = probe.connect("192.0.2.1:9") else { return };
    let ip = probe.local_addr().unwrap().ip();
    let tokens = Tokens { admin: Some(Token::new(Secret::new("a"))), ..Tokens::default() };
    let node = Node::start_at("0.0.0.0:0", tokens);
    let elsewhere = SocketAddr::new(ip, node.address.port());
    let here = SocketAddr::new([127, 0, 0, 1].into(), node.address.port());
    let body = "{\"sql\": \"x\"}";
    assert_eq!(post(here, "/v1/execute", body).status, 200);
    let got = ask(elsewhere, "POST", "/v1/execute", &[("authorization", "Bearer a")], body);
    assert_eq!(got.code(), Unauthorized);
    assert_eq!(get(elsewhere, "/v1/peer").code(), Unauthorized);
    let admin = ask(elsewhere, "POST", "/v1/admin/shutdown", &[("authorization", "Bearer a")], "{}");
    assert_eq!(admin.status, 200);
    assert_eq!(get(elsewhere, "/readyz").status, 200);
}

#[test]
fn every_code_of_the_backend_keeps_its_status() {
    let node = Node::leader();
    for &code in ErrorCode::ALL {
        if matches!(code, NoLeader | NotLeader | Unavailable) {
            continue; // Held: see `forwarding`.
        }
        node.next(super::mock::Mood::Refuse(code));
        let got = post(node.address, "/v1/execute", "{\"sql\": \"x\"}");
        assert_eq!((got.status, got.code()), (code.http_status(), code));
    }
}
