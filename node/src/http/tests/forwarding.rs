//! A follower brings requests to the leader, holds them while there is none, and repeats only what may be repeated.

use std::io::Read;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use rdb_protocol::Epoch;
use rdb_protocol::api::{ErrorCode, ErrorResponse, Outcome, Retry};
use serde_json::json;

use super::super::backend::Place;
use super::super::{Secret, Token, Tokens};
use super::mock::{Mood, Node};
use super::{Client, Got, ask, get, post};

const WRITE: &str = r#"{"sql": "w", "args": [1], "deadline_ms": 10000}"#;
const READ: &str = r#"{"sql": "r", "args": [2], "deadline_ms": 10000}"#;
const SHORT_WRITE: &str = r#"{"sql": "w", "deadline_ms": 60}"#;
const SHORT_READ: &str = r#"{"sql": "r", "deadline_ms": 60}"#;
const KEY: &[(&str, &str)] = &[("idempotency-key", "me:1")];

/// Asks in a thread of its own, for requests that are held.
fn ask_later(
    address: SocketAddr,
    path: &'static str,
    headers: &'static [(&str, &str)],
    body: &'static str,
) -> JoinHandle<Got> {
    std::thread::spawn(move || ask(address, "POST", path, headers, body))
}

/// A leader that takes connections and whole requests, and then does as it is told: close, or keep silent.
struct Broken {
    place: Place,
    requests: std::sync::mpsc::Receiver<TcpStream>,
}

impl Broken {
    fn start() -> Broken {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let place = Place::There(listener.local_addr().unwrap().to_string().into());
        let (send, requests) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                // A request is one write of the pool; the first bytes tell that it was sent.
                let mut bytes = [0; 4096];
                let read = stream.read(&mut bytes).unwrap();
                assert!(read > 0);
                if send.send(stream).is_err() {
                    return;
                }
            }
        });
        Broken { place, requests }
    }

    fn next(&self) -> TcpStream {
        self.requests.recv_timeout(super::PATIENCE).unwrap()
    }
}

#[track_caller]
fn error_of(got: &Got) -> (ErrorCode, Retry, Outcome) {
    let ErrorResponse { error } = serde_json::from_slice(&got.body).unwrap();
    (error.code, error.retry, error.outcome)
}

const UNKNOWN: (ErrorCode, Retry, Outcome) = (ErrorCode::UnknownOutcome, Retry::WithKey, Outcome::Unknown);

#[test]
fn a_follower_forwards_writes_and_linearizable_reads_and_serves_the_rest() {
    let leader = Node::leader();
    let follower = leader.beside("n-1", leader.place());
    for (path, body, by) in [
        ("/v1/execute", WRITE, "n-0"),
        ("/v1/batch", r#"{"statements": [{"sql": "b"}]}"#, "n-0"),
        ("/v1/query", READ, "n-0"),
        ("/v1/query", r#"{"sql": "r", "args": [2], "consistency": "any"}"#, "n-1"),
        ("/v1/query", r#"{"sql": "r", "consistency": "bounded", "max_staleness_ms": 5}"#, "n-1"),
        ("/v1/query", r#"{"sql": "r", "consistency": "session", "position": {"epoch": 1, "index": 1}}"#, "n-1"),
    ] {
        let got = post(follower.address, path, body);
        assert_eq!((got.status, got.header("rdb-node")), (200, Some(by)), "{path} {body}");
        assert_eq!(got.header("content-type"), Some("application/json"));
    }
    assert_eq!(leader.writes(), ["w", "b"]);
    let reused = ask(follower.address, "POST", "/v1/execute", KEY, WRITE);
    assert_eq!(reused.status, 200);
    assert_eq!(get(follower.address, "/v1/outcome/me:1").json()["results"][0]["rows"], json!([[1]]));
}

#[test]
fn errors_of_the_leader_are_passed_on() {
    let leader = Node::leader();
    let follower = leader.beside("n-1", leader.place());
    for code in [ErrorCode::Constraint, ErrorCode::DiskFull, ErrorCode::Overloaded] {
        leader.next(Mood::Refuse(code));
        assert_eq!(post(follower.address, "/v1/execute", WRITE).code(), code);
    }
    leader.next(Mood::Refuse(ErrorCode::UnknownOutcome));
    assert_eq!(error_of(&post(follower.address, "/v1/execute", WRITE)), UNKNOWN);
    assert!(leader.writes().is_empty());
}

#[test]
fn token_and_deadline_are_handed_on() {
    let tokens = Tokens { client: Some(Token::new(Secret::new("t"))), ..Tokens::default() };
    let leader = Node::start("n-0", Place::Here, tokens.clone(), Arc::default());
    let follower = Node::start("n-1", leader.place(), tokens, leader.store.clone());
    let got = ask(follower.address, "POST", "/v1/execute", &[("authorization", "Bearer t")], WRITE);
    assert_eq!(got.status, 200);
    let left = leader.mock.deadlines.lock()[0];
    assert!(left > Duration::from_secs(5) && left <= Duration::from_secs(10), "{left:?}");
}

#[test]
fn a_token_that_one_of_two_nodes_has_not_seen_yet_still_brings_requests_to_the_leader() {
    let tokens = |token: &Token| Tokens { client: Some(token.clone()), ..Tokens::default() };
    let (old, both, new) =
        (Token::new(Secret::new("old")), Token::new(Secret::new("old")), Token::new(Secret::new("new")));
    both.take_up(Secret::new("new"), 0, 1);
    for (at_leader, shown) in [(&old, "Bearer new"), (&new, "Bearer old"), (&both, "Bearer old")] {
        let leader = Node::start("n-0", Place::Here, tokens(at_leader), Arc::default());
        let follower = Node::start("n-1", leader.place(), tokens(&both), leader.store.clone());
        let got = ask(follower.address, "POST", "/v1/execute", &[("authorization", shown)], WRITE);
        assert_eq!(got.status, 200, "{shown}: {}", got.text());
        assert_eq!(leader.writes().len(), 1);
    }
    // A client that is not admitted here is not brought anywhere.
    let leader = Node::start("n-0", Place::Here, tokens(&both), Arc::default());
    let follower = Node::start("n-1", leader.place(), tokens(&new), leader.store.clone());
    let got = ask(follower.address, "POST", "/v1/execute", &[("authorization", "Bearer old")], WRITE);
    assert_eq!(got.code(), ErrorCode::Unauthorized);
    assert!(leader.writes().is_empty());
}

#[test]
fn without_a_leader_a_request_waits_until_its_deadline() {
    let node = Node::leader();
    node.lead_is(3, Place::Unknown);
    for (path, body) in [("/v1/execute", SHORT_WRITE), ("/v1/query", SHORT_READ)] {
        let got = post(node.address, path, body);
        assert_eq!(error_of(&got), (ErrorCode::NoLeader, Retry::Safe, Outcome::None));
    }
    assert!(node.writes().is_empty());
}

#[test]
fn a_held_request_runs_as_soon_as_there_is_a_leader() {
    let leader = Node::leader();
    let follower = leader.beside("n-1", Place::Unknown);
    let held =
        [ask_later(follower.address, "/v1/execute", &[], WRITE), ask_later(follower.address, "/v1/query", &[], READ)];
    follower.mock.wait_for_requests(2);
    follower.lead_is(4, leader.place());
    for held in held {
        assert_eq!(held.join().unwrap().status, 200);
    }
    let held = ask_later(follower.address, "/v1/execute", &[], WRITE);
    held.join().unwrap();
    // The new leader may be the node itself.
    follower.lead_is(5, Place::Unknown);
    let held = ask_later(follower.address, "/v1/execute", &[], WRITE);
    follower.mock.wait_for_requests(4);
    follower.lead_is(6, Place::Here);
    assert_eq!(held.join().unwrap().header("rdb-node"), Some("n-1"));
    assert_eq!(leader.writes().len(), 3);
}

#[test]
fn a_leader_that_refuses_connections_is_waited_out() {
    let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let leader = Node::leader();
    let follower = leader.beside("n-1", Place::There(gone.to_string().into()));
    let got = post(follower.address, "/v1/execute", SHORT_WRITE);
    assert_eq!(error_of(&got), (ErrorCode::NoLeader, Retry::Safe, Outcome::None));
    let held = ask_later(follower.address, "/v1/execute", &[], WRITE);
    follower.mock.wait_for_requests(2);
    follower.lead_is(4, leader.place());
    assert_eq!(held.join().unwrap().status, 200);
    assert_eq!(leader.writes(), ["w"]);
}

#[test]
fn what_surely_did_not_run_is_tried_again() {
    let leader = Node::leader();
    let follower = leader.beside("n-1", leader.place());
    for code in [ErrorCode::NotLeader, ErrorCode::NoLeader, ErrorCode::Unavailable] {
        for address in [leader.address, follower.address] {
            leader.next(Mood::Refuse(code));
            leader.next(Mood::Refuse(code));
            assert_eq!(post(address, "/v1/execute", WRITE).status, 200, "{code}");
            leader.next(Mood::Refuse(code));
            assert_eq!(post(address, "/v1/query", READ).status, 200, "{code}");
        }
    }
    assert_eq!(leader.writes().len(), 6);
}

#[test]
fn a_write_that_broke_off_after_it_was_sent_is_unknown_without_a_key() {
    let broken = Broken::start();
    let leader = Node::leader();
    let follower = leader.beside("n-1", broken.place.clone());
    let held = ask_later(follower.address, "/v1/execute", &[], WRITE);
    drop(broken.next());
    assert_eq!(error_of(&held.join().unwrap()), UNKNOWN);
    assert!(broken.requests.try_recv().is_err(), "it was sent twice");
    assert!(leader.writes().is_empty());
}

#[test]
fn a_write_that_broke_off_is_repeated_with_its_key_and_takes_effect_once() {
    let broken = Broken::start();
    let leader = Node::leader();
    let follower = leader.beside("n-1", broken.place.clone());
    // It did run at the old leader, whose records the new one has.
    leader.next(Mood::RunAndHang);
    let first = ask_later(leader.address, "/v1/execute", KEY, SHORT_WRITE_AS_WRITE);
    assert_eq!(error_of(&first.join().unwrap()), UNKNOWN);
    let held = ask_later(follower.address, "/v1/execute", KEY, WRITE);
    drop(broken.next());
    // Repeated at once, and again and again while nothing changes.
    drop(broken.next());
    follower.lead_is(4, leader.place());
    let got = held.join().unwrap();
    assert_eq!((got.status, got.json()["rows"].clone()), (200, json!([[1]])));
    assert_eq!(leader.writes(), ["w"]);
}

#[test]
fn an_error_settles_what_an_attempt_of_an_earlier_epoch_left_in_doubt_but_not_one_of_its_own() {
    for (epoch, heard) in [(3, UNKNOWN.0), (4, ErrorCode::Constraint)] {
        let broken = Broken::start();
        let leader = Node::leader();
        let follower = leader.beside("n-1", broken.place.clone());
        let held = ask_later(follower.address, "/v1/execute", KEY, WRITE);
        // The first attempt may lie unread at a leader of epoch 3.
        drop(broken.next());
        leader.next(Mood::Refuse(ErrorCode::Constraint));
        follower.lead_is(epoch, leader.place());
        assert_eq!(held.join().unwrap().code(), heard, "epoch {epoch}");
        assert!(leader.writes().is_empty());
    }
}

#[test]
fn a_forwarded_write_names_the_epoch_that_it_is_meant_for() {
    let leader = Node::leader();
    let follower = leader.beside("n-1", leader.place());
    follower.lead_is(7, leader.place());
    for (address, headers, epoch) in [
        (follower.address, &[][..], 7),
        (leader.address, &[], 3),
        (leader.address, &[("rdb-forwarded", "n-1"), ("rdb-epoch", "2")], 2),
        // Only nodes bind a request to an epoch.
        (leader.address, &[("rdb-epoch", "2")], 3),
    ] {
        assert_eq!(ask(address, "POST", "/v1/execute", headers, WRITE).status, 200);
        assert_eq!(leader.mock.epochs.lock().pop(), Some(Epoch(epoch)));
    }
}

/// [`WRITE`] with another deadline, which is not part of what a key stands for.
const SHORT_WRITE_AS_WRITE: &str = r#"{"sql": "w", "args": [1], "deadline_ms": 60}"#;

#[test]
fn a_read_that_broke_off_is_repeated() {
    let broken = Broken::start();
    let leader = Node::leader();
    let follower = leader.beside("n-1", broken.place.clone());
    let held = ask_later(follower.address, "/v1/query", &[], READ);
    drop(broken.next());
    drop(broken.next());
    follower.lead_is(4, leader.place());
    assert_eq!(held.join().unwrap().json()["rows"], json!([[2]]));
}

#[test]
fn a_frozen_leader_is_left_when_it_is_replaced() {
    let frozen = Broken::start();
    let leader = Node::leader();
    let follower = leader.beside("n-1", frozen.place.clone());
    let held = [
        ask_later(follower.address, "/v1/execute", KEY, WRITE),
        ask_later(follower.address, "/v1/query", &[], READ),
        ask_later(follower.address, "/v1/execute", &[], WRITE),
    ];
    let _kept: Vec<TcpStream> = held.iter().map(|_| frozen.next()).collect();
    follower.lead_is(4, Place::Unknown);
    follower.lead_is(4, leader.place());
    let [keyed, read, plain] = held.map(|held| held.join().unwrap());
    assert_eq!((keyed.status, read.status), (200, 200));
    assert_eq!(error_of(&plain), UNKNOWN);
    assert_eq!(leader.writes(), ["w"]);
}

#[test]
fn a_write_in_doubt_stays_unknown_when_no_leader_comes() {
    let broken = Broken::start();
    let leader = Node::leader();
    let follower = leader.beside("n-1", broken.place.clone());
    let body = r#"{"sql": "w", "args": [1], "deadline_ms": 300}"#;
    let held = ask_later(follower.address, "/v1/execute", KEY, body);
    drop(broken.next());
    follower.lead_is(4, Place::Unknown);
    assert_eq!(error_of(&held.join().unwrap()), UNKNOWN);
}

#[test]
fn at_the_deadline_a_write_is_unknown_and_a_read_has_timed_out() {
    let leader = Node::leader();
    let follower = leader.beside("n-1", leader.place());
    for address in [leader.address, follower.address] {
        leader.next(Mood::RunAndHang);
        assert_eq!(error_of(&post(address, "/v1/execute", SHORT_WRITE)), UNKNOWN);
        leader.next(Mood::Hang);
        let got = post(address, "/v1/query", SHORT_READ);
        assert_eq!(error_of(&got), (ErrorCode::Timeout, Retry::Safe, Outcome::None));
    }
}

#[test]
fn two_nodes_that_take_each_other_for_the_leader_do_not_play_ping_pong() {
    let one = Node::leader();
    let other = one.beside("n-1", one.place());
    one.lead_is(3, other.place());
    let got = post(one.address, "/v1/execute", SHORT_WRITE);
    assert_eq!(error_of(&got), (ErrorCode::NoLeader, Retry::Safe, Outcome::None));
    // A forwarded request is refused at once, so that the sender holds it and not two nodes.
    let forwarded = &[("rdb-forwarded", "n-9")];
    let got = ask(one.address, "POST", "/v1/execute", forwarded, WRITE);
    assert_eq!(got.code(), ErrorCode::NotLeader);
}

#[test]
fn a_node_without_data_lets_the_leader_serve_weak_reads() {
    let leader = Node::leader();
    let follower = leader.beside("n-1", leader.place());
    follower.next(Mood::Refuse(ErrorCode::Unavailable));
    let got = post(follower.address, "/v1/query", r#"{"sql": "r", "consistency": "any"}"#);
    assert_eq!((got.status, got.header("rdb-node")), (200, Some("n-0")));
}

#[test]
fn forwarded_requests_share_connections() {
    let leader = Node::leader();
    let follower = leader.beside("n-1", leader.place());
    let mut client = Client::connect(follower.address);
    for _ in 0..20 {
        client.send("POST", "/v1/execute", &[], WRITE.as_bytes());
        assert_eq!(client.receive().status, 200);
    }
    let metrics = get(leader.address, "/metrics").text();
    // One of the pool, and this one.
    assert!(metrics.contains("rdb_http_connections_total 2"), "{metrics}");
}
