//! Failovers with permitted loss: what consumers of changes are told, which keys are given out, and what the archive has.

use std::io::{BufRead, BufReader};

use rdb_protocol::admin::{Done, Reseed};
use rdb_protocol::api::ErrorCode;
use serde_json::{Value, json};

use crate::support::{Cluster, Ledger, Node, wait_until};

/// A cluster whose leader, node 0, and node 1 have `sql` beyond what node 2 has. Nobody runs.
fn parted(sql: &[&str], more: &[&str]) -> (Cluster, u64) {
    let mut cluster = Cluster::prepare(3);
    cluster.settings.change_stream = true;
    cluster.bootstrap(3);
    for sql in sql {
        cluster.leader().batch(&[sql]).ok();
    }
    cluster.wait_same_log(2);
    cluster.wait_applied(2);
    let common = cluster.nodes[2].status().applied.0;
    cluster.nodes[2].kill();
    for sql in more {
        cluster.leader().batch(&[sql]).ok();
    }
    cluster.nodes.iter_mut().for_each(Node::kill);
    (cluster, common)
}

/// Node 2 leads, and node 1 gives up what node 2 has not.
fn lose(cluster: &mut Cluster) {
    for i in [2, 1] {
        if !cluster.nodes[i].is_running() {
            cluster.nodes[i].start();
        }
    }
    cluster.elect_with_loss(2);
}

/// The first `count` lines of a stream that has them; one that ends before is opened again.
fn lines(address: std::net::SocketAddr, from: &str, count: usize) -> Vec<Value> {
    let url = format!("http://{address}/v1/changes?from={from}");
    loop {
        let response = ureq::get(&url).call().unwrap();
        let read = BufReader::new(response.into_body().into_reader()).lines().take(count);
        let found: Vec<Value> = read.map_while(Result::ok).map(|line| serde_json::from_str(&line).unwrap()).collect();
        if found.len() == count {
            return found;
        }
    }
}

#[test]
fn no_position_is_too_large_to_ask_for() {
    let cluster = Cluster::start(1);
    for query in
        ["from=9/18446744073709551615", "from=1/18446744073709551615&records", "from=0/18446744073709551615&end"]
    {
        cluster.leader().get(&format!("/v1/changes?{query}"));
        assert_eq!(cluster.leader().query("SELECT 1").value(), 1, "{query}");
    }
}

#[test]
fn a_consumer_that_waits_where_its_record_never_came_hears_that_it_is_lost() {
    let (mut cluster, common) = parted(&["CREATE TABLE t(v)"], &["INSERT INTO t VALUES ('lost')"; 3]);
    cluster.nodes[2].start();
    let lost = common + 3;
    let address = cluster.nodes[2].address;
    let waiting = std::thread::scope(|scope| {
        let waiting = scope.spawn(move || lines(address, &format!("1/{lost}"), 2));
        lose(&mut cluster);
        for _ in 0..5 {
            cluster.leader().batch(&["INSERT INTO t VALUES ('kept')"]).ok();
        }
        waiting.join().unwrap()
    });
    let told = json!({"epoch": 1, "after": common, "through": lost});
    assert_eq!((&waiting[0]["lost"], &waiting[0]["position"]["index"]), (&told, &json!(common)));
    assert_eq!(waiting[1]["lost"], json!({"epoch": 1, "after": common}), "the mark, for those who had less");

    // Who is behind knows nothing of a loss: node 0 still has what was lost, and nothing else.
    cluster.nodes[0].start();
    assert_eq!(cluster.nodes[0].get(&format!("/v1/changes?from=2/{lost}")).ok(), "");
    // Nor does one whose log begins behind the place where they part.
    let call = Reseed { epoch: cluster.epoch, incarnation: cluster.nodes[1].member().incarnation };
    cluster.nodes[1].admin::<Done>("reseed", &call).unwrap();
    wait_until("node 1 is seeded", || cluster.nodes[1].status().first_retained.0 > lost);
    cluster.wait_caught_up(1);
    cluster.leader().batch(&["INSERT INTO t VALUES ('kept')"; 4]).ok();
    let base = cluster.nodes[1].status().first_retained.0 - 1;
    for index in [base - 1, base, base + 1] {
        let reply = cluster.nodes[1].get(&format!("/v1/changes?from=1/{index}"));
        assert_eq!(reply.error(), ErrorCode::PositionLost, "{index}");
    }
}

#[test]
fn a_record_whose_leader_may_be_elected_again_is_not_called_lost() {
    let (mut cluster, common) = parted(&["CREATE TABLE t(v)"], &["INSERT INTO t VALUES ('kept')"; 2]);
    cluster.nodes.iter_mut().for_each(Node::start);
    cluster.fence(None);
    let token = format!("1/{}", common + 2);
    assert_eq!(cluster.nodes[2].get(&format!("/v1/changes?from={token}")).ok(), "");
    cluster.promote(0, None, 0);
    let found = lines(cluster.nodes[2].address, &token, 1);
    assert_eq!((found[0].get("lost"), &found[0]["position"]["epoch"]), (None, &json!(2)));
}

#[test]
fn no_key_is_given_out_twice_though_nobody_writes_before_the_next_failover() {
    let (mut cluster, common) = parted(
        &[
            "CREATE TABLE empty(id INTEGER PRIMARY KEY AUTOINCREMENT, rowid)",
            "CREATE TABLE counted(\"the \"\"key\" INTEGER PRIMARY KEY AUTOINCREMENT)",
            "CREATE TABLE reset(id INTEGER PRIMARY KEY AUTOINCREMENT)",
            "CREATE TABLE full(id INTEGER PRIMARY KEY AUTOINCREMENT)",
            "CREATE TABLE other(a INTEGER, b, PRIMARY KEY (a, b)) /* AUTOINCREMENT */",
            "INSERT INTO counted VALUES (7)",
            "INSERT INTO reset VALUES (5000000)",
            "DELETE FROM sqlite_sequence WHERE name = 'reset'",
            "INSERT INTO full VALUES (9223372036854775000)",
        ],
        &["INSERT INTO empty DEFAULT VALUES", "INSERT INTO counted DEFAULT VALUES", "INSERT INTO reset DEFAULT VALUES"],
    );
    lose(&mut cluster);
    let counters = "SELECT group_concat(name || ' ' || typeof(seq) || ' ' || seq) FROM
                    (SELECT name, seq FROM sqlite_sequence ORDER BY name)";
    let wanted = "counted integer 1000007,empty integer 1000000,full integer 9223372036854775807,reset integer 6000000";
    wait_until("the counters are advanced", || cluster.leader().query(counters).value() == wanted);
    assert_eq!(lines(cluster.leader().address, &format!("1/{common}"), 1)[0]["lost"]["after"], common);
    cluster.reconfigure(&[1, 2], 1);
    cluster.elect(1);
    for (table, key) in [("empty", 1_000_001), ("counted", 1_000_008), ("reset", 6_000_001)] {
        let sql = format!("INSERT INTO {table} DEFAULT VALUES");
        assert_eq!(cluster.leader().execute(&sql, json!([])).ok()["last_insert_rowid"], key, "{table}");
    }
    assert!(!cluster.leader().execute("INSERT INTO full DEFAULT VALUES", json!([])).is_ok());
    cluster.leader().execute("INSERT INTO other VALUES (1, 2)", json!([])).ok();
    cluster.wait_applied(2);
    cluster.assert_equal_content();
}

#[test]
fn the_archive_has_what_a_log_held_and_its_database_did_not_show_yet() {
    let mut cluster = Cluster::start(3);
    let mut ledger = Ledger::create(cluster.leader());
    cluster.leader().batch(&["CREATE TABLE t(v)"]).ok();
    cluster.wait_same_log(2);
    cluster.nodes[2].kill();
    cluster.leader().batch(&["INSERT INTO t VALUES ('committed')"]).ok();
    cluster.nodes[1].kill();
    let doubtful = json!({"deadline_ms": 300, "sql": "INSERT INTO t VALUES ('flushed')"});
    assert_eq!(cluster.leader().post("/v1/execute", &doubtful).error(), ErrorCode::UnknownOutcome);
    cluster.nodes[0].kill();
    lose(&mut cluster);
    ledger.write_all(cluster.leader(), 1, 100);
    cluster.nodes[0].start();
    cluster.lossy = true;
    cluster.follow(0);
    cluster.wait_caught_up(0);
    cluster.lossy = false;
    let status = cluster.nodes[0].status();
    let [report] = &status.divergences[..] else { panic!("{:?}", status.divergences) };
    assert!(report.complete, "{report:?}");
    let rows = cluster.nodes[0].call("GET", &format!("/v1/divergence/{}", report.archive), &[], b"").unwrap();
    let text = rows.body.as_str().expect("lines").to_owned();
    assert!(text.contains("committed") && text.contains("flushed"), "{text}");
    ledger.check(cluster.leader());
}
