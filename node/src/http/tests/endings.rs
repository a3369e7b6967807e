//! Connections and the node itself end in good order: everybody gets an answer, and hears that it is the last.

use std::net::TcpStream;
use std::time::Duration;

use rdb_protocol::api::ErrorCode;

use super::super::backend::Place;
use super::super::server::LEADER_LINGER;
use super::mock::{Mood, Node};
use super::{Client, PATIENCE, get};

const WRITE: &[u8] = br#"{"sql": "w", "deadline_ms": 15000}"#;
const READ: &[u8] = br#"{"sql": "r", "deadline_ms": 15000}"#;

#[test]
fn a_demoted_leader_ends_connections_with_their_next_answer_and_idle_ones_soon() {
    let node = Node::leader();
    let mut idle = Client::connect(node.address);
    let mut active = Client::connect(node.address);
    for client in [&mut idle, &mut active] {
        client.send("GET", "/livez", &[], b"");
        client.receive();
    }
    let mut busy = Client::connect(node.address);
    node.lead_is(3, Place::Unknown);
    busy.send("POST", "/v1/execute", &[], WRITE);
    node.mock.wait_for_requests(1);
    node.server.close_clients();
    // Whoever goes on is answered, and told.
    active.send("GET", "/livez", &[], b"");
    let next = active.receive();
    assert_eq!((next.status, next.header("connection")), (200, Some("close")));
    assert_eq!(active.line(), None);
    node.lead_is(4, Place::Here);
    let last = busy.receive();
    assert_eq!((last.status, last.header("connection")), (200, Some("close")));
    assert_eq!(busy.line(), None);
    assert_eq!(idle.line(), None);
    // New connections are welcome.
    assert_eq!(get(node.address, "/livez").header("connection"), None);
}

#[test]
fn a_node_that_ends_answers_what_it_can() {
    let node = Node::leader();
    node.lead_is(3, Place::Unknown);
    let mut held = Client::connect(node.address);
    held.send("POST", "/v1/execute", &[], WRITE);
    node.mock.wait_for_requests(1);
    let mut watch = Client::connect(node.address);
    watch.send("GET", "/v1/status?watch", &[], b"");
    watch.head().unwrap();
    assert!(watch.chunk().unwrap().is_some());
    let mut idle = Client::connect(node.address);
    idle.send("GET", "/livez", &[], b"");
    idle.receive();
    // Nothing is under way that would need so long.
    node.drain(PATIENCE, Duration::ZERO);
    assert_eq!(held.receive().code(), ErrorCode::NoLeader);
    while let Some(_more) = watch.chunk().unwrap() {}
    assert_eq!(idle.line(), None);
    assert!(TcpStream::connect(node.address).is_err(), "a connection was taken");
    assert!(node.writes().is_empty());
}

#[test]
fn a_silent_client_of_a_node_that_ends_may_send_one_more_request_for_a_while() {
    let node = Node::leader();
    let mut silent = Client::connect(node.address);
    silent.send("GET", "/livez", &[], b"");
    silent.receive();
    // Longer than a leader's clients may be silent.
    node.drain(3 * LEADER_LINGER, PATIENCE);
    silent.send("GET", "/livez", &[], b"");
    let last = silent.receive();
    assert_eq!((last.status, last.header("connection")), (200, Some("close")));
    assert_eq!(silent.line(), None);
}

#[test]
fn what_does_not_end_in_time_is_answered_with_what_is_known() {
    let node = Node::leader();
    let mut clients = Vec::new();
    for (path, body, mood) in
        [("/v1/execute", WRITE, Mood::RunAndHang), ("/v1/batch", BATCH, Mood::Hang), ("/v1/query", READ, Mood::Hang)]
    {
        let mut client = Client::connect(node.address);
        node.next(mood);
        client.send("POST", path, &[], body);
        clients.push(client);
        node.mock.wait_for_requests(clients.len());
        node.wait_for_calls(clients.len());
    }
    node.drain(Duration::from_millis(10), PATIENCE);
    let codes: Vec<_> = clients.iter_mut().map(|client| client.receive().code()).collect();
    assert_eq!(codes, [ErrorCode::UnknownOutcome, ErrorCode::UnknownOutcome, ErrorCode::Unavailable]);
}

const BATCH: &[u8] = br#"{"statements": [{"sql": "w"}], "deadline_ms": 15000}"#;

#[test]
fn a_stopped_server_drops_connections_at_once() {
    let node = Node::leader();
    let mut held = Client::connect(node.address);
    node.next(Mood::Hang);
    held.send("POST", "/v1/execute", &[], WRITE);
    node.mock.wait_for_requests(1);
    node.server.stop();
    assert_eq!(held.line(), None);
}
