//! Tokens that are replaced while nodes run.

use rdb_protocol::status::NodeState;
use serde_json::json;

use crate::support::{Cluster, Ledger, Node, wait_until};

/// Calls with this client token; the HTTP status.
fn try_token(node: &Node, token: &str) -> u16 {
    let authorization = format!("Bearer {token}");
    let body = json!({"sql": "SELECT 1", "consistency": "any"}).to_string();
    let reply = node.call("POST", "/v1/query", &[("Authorization", &authorization)], body.as_bytes());
    reply.expect("an answer").status
}

#[test]
fn a_replaced_token_counts_at_once_and_the_one_before_for_a_while() {
    let mut cluster = Cluster::prepare(1);
    cluster.nodes[0].require_client_token();
    cluster.bootstrap(1);
    let node = &cluster.nodes[0];
    assert_eq!((try_token(node, "token-of-the-clients"), try_token(node, "second")), (200, 401));
    node.replace_token("client", "second");
    wait_until("the new token counts", || try_token(node, "second") == 200);
    assert_eq!(try_token(node, "token-of-the-clients"), 200);
    // Files that hold none change nothing.
    std::fs::write(cluster.path("client.second"), "").unwrap();
    node.replace_token("client", "third");
    wait_until("the newest token counts", || try_token(node, "third") == 200);
    assert_eq!((try_token(node, "second"), try_token(node, "token-of-the-clients")), (200, 401));
    assert!(!node.output().contains("third"), "the log tells a token");
}

#[test]
fn nodes_connect_whichever_of_them_has_seen_the_new_token() {
    let mut cluster = Cluster::prepare(2);
    // Files of its own for the follower.
    let apart = cluster.path("apart");
    std::fs::create_dir(&apart).unwrap();
    cluster.nodes[1] = Node::new(&apart, "node-1", apart.join("data"));
    cluster.bootstrap(2);
    let mut ledger = Ledger::create(cluster.leader());

    // The leader first: the follower shows it the one before.
    cluster.nodes[0].replace_token("peer", "second");
    wait_until("the leader has seen it", || cluster.nodes[0].output().contains("the token was replaced"));
    cluster.restart(1);
    cluster.nodes[1].wait_state(NodeState::Streaming);
    ledger.write_all(cluster.leader(), 1, 10);

    // Then the follower alone knows a newer one.
    cluster.nodes[1].replace_token("peer", "second");
    wait_until("the follower has seen it", || cluster.nodes[1].output().contains("the token was replaced"));
    let seen = cluster.nodes[1].output().len();
    cluster.nodes[1].replace_token("peer", "third");
    wait_until("the follower has seen it", || cluster.nodes[1].output()[seen..].contains("the token was replaced"));
    cluster.nodes[0].kill();
    cluster.nodes[0].start();
    cluster.elect(0);
    cluster.nodes[1].wait_state(NodeState::Streaming);
    ledger.write_all(cluster.leader(), 1, 10);
    ledger.check(cluster.leader());
}
