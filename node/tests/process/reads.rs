//! What reads may see at each consistency level, and requests during a change of the leader.

use rdb_protocol::api::ErrorCode;
use serde_json::{Value, json};

use crate::support::{Cluster, Ledger, Node, Reply, wait_until};

/// `failover.leaseDuration`: so long a leader that nobody hears may answer.
const LEASE_MS: u64 = 1000;

const COUNT: &str = "SELECT count(*) FROM ledger";

fn read(node: &Node, level: Value) -> Reply {
    let mut body = json!({"sql": COUNT, "deadline_ms": 400});
    body.as_object_mut().unwrap().extend(level.as_object().unwrap().clone());
    node.post("/v1/query", &body)
}

#[test]
fn sessions_read_their_own_writes_on_every_node() {
    let cluster = Cluster::start(3);
    let mut ledger = Ledger::create(cluster.leader());
    for n in 1..=50 {
        ledger.write_all(cluster.leader(), 1, 10);
        // An index that is surely not older than the write.
        let position = cluster.leader().query(COUNT).ok()["position"].clone();
        for node in &cluster.nodes {
            let seen = read(node, json!({"consistency": "session", "position": position}));
            assert_eq!(seen.value(), n);
            assert!(seen.index() >= position["index"].as_u64().unwrap(), "the token never goes back");
        }
    }
    let position = cluster.leader().query(COUNT).ok()["position"].clone();
    let (epoch, index) = (position["epoch"].as_u64().unwrap(), position["index"].as_u64().unwrap());
    for node in &cluster.nodes {
        let future = json!({"consistency": "session", "position": {"epoch": epoch, "index": index + 1_000_000}});
        assert_eq!(read(node, future).error(), ErrorCode::NotYet);
        let lost = json!({"consistency": "session", "position": {"epoch": epoch + 7, "index": index}});
        assert_eq!(read(node, lost).error(), ErrorCode::PositionLost);
    }
}

#[test]
fn a_position_that_a_failover_lost_is_named() {
    let mut cluster = Cluster::start(3);
    let mut ledger = Ledger::create(cluster.leader());
    ledger.write_all(cluster.leader(), 3, 10);
    let common = cluster.leader().query(COUNT).ok()["position"].clone();
    cluster.kill_followers();
    assert_eq!(ledger.write_bytes(cluster.leader(), 10, 300), Some(ErrorCode::UnknownOutcome));
    let lost = cluster.leader().status().flushed;
    cluster.nodes[0].kill();
    cluster.nodes[1].start();
    cluster.nodes[2].start();
    cluster.elect(1);
    ledger.write_all(cluster.leader(), 5, 10);
    for node in cluster.nodes.iter().filter(|node| node.is_running()) {
        let token = json!({"epoch": lost.epoch, "index": lost.index});
        assert_eq!(read(node, json!({"consistency": "session", "position": token})).error(), ErrorCode::PositionLost);
        read(node, json!({"consistency": "session", "position": common})).ok();
    }
}

#[test]
fn a_frozen_leader_leaves_bounded_and_any_reads_and_never_answers_stale() {
    let mut cluster = Cluster::start(3);
    let mut ledger = Ledger::create(cluster.leader());
    ledger.write_all(cluster.leader(), 3, 10);
    (0..3).for_each(|i| cluster.wait_applied(i));
    for node in cluster.followers() {
        wait_until("it knows how far it is behind", || {
            read(node, json!({"consistency": "bounded", "max_staleness_ms": 5000})).is_ok()
        });
        assert_eq!(read(node, json!({"consistency": "linearizable"})).value(), 3, "forwarded");
    }

    cluster.nodes[0].signal(libc::SIGSTOP);
    for node in &cluster.nodes[1..] {
        let bounded = || read(node, json!({"consistency": "bounded", "max_staleness_ms": 300}));
        wait_until("it says that it may be too far behind", || !bounded().is_ok());
        assert_eq!(bounded().error(), ErrorCode::NotYet);
        assert_eq!(read(node, json!({"consistency": "any"})).value(), 3);
        let read = read(node, json!({"consistency": "linearizable"}));
        assert_eq!(read.error(), ErrorCode::Timeout);
    }
    // The two others go on without it.
    let recruits = cluster.fence(Some(0));
    let ahead = usize::from(recruits[1].position.rank() > recruits[0].position.rank());
    cluster.promote(1 + ahead, Some(0), LEASE_MS + LEASE_MS / 10);
    ledger.write_all(cluster.leader(), 2, 10);
    cluster.nodes[0].signal(libc::SIGCONT);
    for _ in 0..20 {
        let answer = read(&cluster.nodes[0], json!({"consistency": "linearizable"}));
        if answer.is_ok() {
            assert_eq!(answer.value(), 5, "a deposed leader answered from its past");
        }
        ledger.write_bytes(&cluster.nodes[0], 10, 300);
    }
    cluster.follow(0);
    cluster.wait_caught_up(0);
    ledger.check(&cluster.nodes[0]);
    cluster.assert_equal_content();
}

#[test]
fn requests_are_held_while_nobody_leads_and_forwarded_to_the_next_leader() {
    let mut cluster = Cluster::start(3);
    let mut ledger = Ledger::create(cluster.leader());
    ledger.write_all(cluster.leader(), 3, 10);
    (1..3).for_each(|i| cluster.wait_same_log(i));
    cluster.nodes[0].kill();
    assert_eq!(ledger.write_bytes(&cluster.nodes[2], 10, 300), Some(ErrorCode::NoLeader), "surely not run");
    assert_eq!(read(&cluster.nodes[2], json!({})).error(), ErrorCode::NoLeader);

    let body = |n: i64| json!({"sql": "INSERT INTO held VALUES (?1)", "args": [n], "deadline_ms": 20_000}).to_string();
    let address = cluster.nodes[2].address;
    let clients: Vec<_> = (0..8)
        .map(|n| {
            let body = body(n);
            std::thread::spawn(move || {
                let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
                let url = format!("http://{address}/v1/execute");
                agent.post(url).send(body).map(|response| response.status().as_u16()).unwrap_or(0)
            })
        })
        .collect();
    cluster.elect(1);
    cluster.leader().execute("CREATE TABLE IF NOT EXISTS held (n INTEGER PRIMARY KEY)", json!([])).ok();
    let answers: Vec<u16> = clients.into_iter().map(|client| client.join().unwrap()).collect();
    // Those that came before the table were refused by SQLite, and nobody was left without an answer.
    let good = answers.iter().filter(|status| **status == 200).count();
    assert!(answers.iter().all(|status| [200, 400].contains(status)), "{answers:?}");
    assert_eq!(cluster.leader().query("SELECT count(*) FROM held").value(), good as u64);
    ledger.check(&cluster.nodes[2]);
}

#[test]
fn a_leader_that_has_lost_its_followers_answers_no_linearizable_read() {
    let mut cluster = Cluster::start(3);
    let mut ledger = Ledger::create(cluster.leader());
    ledger.write_all(cluster.leader(), 3, 10);
    cluster.kill_followers();
    let leader = cluster.leader();
    wait_until("its lease has ended", || !leader.status().lease_valid);
    assert_eq!(read(leader, json!({"consistency": "linearizable"})).error(), ErrorCode::NoLeader);
    assert_eq!(leader.get("/v1/outcome/client:1").error(), ErrorCode::NoLeader);
    let bounded = json!({"consistency": "bounded", "max_staleness_ms": 300});
    wait_until("it may be replaced by now", || !read(leader, bounded.clone()).is_ok());
    assert_eq!(read(leader, bounded).error(), ErrorCode::NotYet);
    assert_eq!(read(leader, json!({"consistency": "any"})).value(), 3);
    assert_eq!(ledger.write_bytes(leader, 10, 300), Some(ErrorCode::UnknownOutcome));

    // One follower is enough for everything, the write in doubt included.
    cluster.restart(1);
    cluster.wait_caught_up(1);
    wait_until("it has its lease again", || cluster.leader().status().lease_valid);
    ledger.write_all(cluster.leader(), 2, 10);
    ledger.check(cluster.leader());
    assert_eq!(read(cluster.leader(), json!({})).value(), 6);
}

#[test]
fn a_session_goes_on_at_a_node_that_was_seeded_after_later_elections() {
    let mut cluster = Cluster::prepare(3);
    cluster.bootstrap(2);
    let mut ledger = Ledger::create(cluster.leader());
    ledger.write_all(cluster.leader(), 3, 100);
    let old = cluster.leader().execute("INSERT INTO ledger (n) VALUES (-1)", json!([])).ok()["position"].clone();
    cluster.elect(1);
    cluster.leader().execute("INSERT INTO ledger (n) VALUES (-2)", json!([])).ok();
    cluster.nodes[2].start();
    cluster.init(2, false);
    cluster.follow(2);
    cluster.wait_caught_up(2);
    let seed = cluster.nodes[2].status().seed.expect("a base copy").position;
    assert!(seed.epoch.0 > old["epoch"].as_u64().unwrap(), "{seed:?}");
    let read = |position: &serde_json::Value| {
        let body =
            json!({"sql": "SELECT count(*) FROM ledger WHERE n = -1", "consistency": "session", "position": position});
        cluster.nodes[2].post("/v1/query", &body)
    };
    assert_eq!(read(&old).value(), 1);
    // One that is not part of the history is not taken for one that is.
    let lost = json!({"epoch": 1, "index": seed.index.0 + 1});
    assert_eq!(read(&lost).error(), ErrorCode::PositionLost);
}
