//! The fake node's process: its HTTP port and its follower's pulling.

use std::collections::BTreeMap;
use std::io::{BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use rdb_protocol::NodeName;

use crate::fake_node::{Durable, Node, PULL_TIMEOUT, Pull, Pulled, random};
use crate::http;

/// How often a follower pulls.
const PULL_PAUSE: Duration = Duration::from_millis(5);

struct Process {
    node: Mutex<Node>,
    changed: Condvar,
    /// The header that an admin sends.
    token: String,
}

type Shared = Arc<Process>;

/// Runs until killed, with the arguments of the real node.
pub(crate) fn run(arguments: &BTreeMap<String, String>) {
    let data = PathBuf::from(&arguments["--data"]);
    std::fs::create_dir_all(&data).unwrap();
    let path = data.join("fake.json");
    let durable = match std::fs::read(&path) {
        Ok(text) => serde_json::from_slice(&text).unwrap(),
        Err(_) => Durable { incarnation: random(), ..Durable::default() },
    };
    let node = Node {
        name: NodeName::new(&arguments["--name"]).unwrap(),
        path,
        boot: random(),
        durable,
        leads: false,
        opened: false,
        open_at: Instant::now(),
        writes_stopped: false,
        settled: None,
        followers: BTreeMap::new(),
        heard: None,
        peers: Vec::new(),
    };
    node.save();
    let token = format!("Bearer {}", std::fs::read_to_string(&arguments["--admin-token-file"]).unwrap().trim());
    let shared: Shared = Arc::new(Process { node: Mutex::new(node), changed: Condvar::new(), token });
    let listener = TcpListener::bind(&arguments["--listen"]).unwrap();
    let puller = Arc::clone(&shared);
    std::thread::spawn(move || pull_forever(&puller));
    for stream in listener.incoming().flatten() {
        let shared = Arc::clone(&shared);
        // A broken connection is the other side's business.
        std::thread::spawn(move || drop(serve(stream, &shared)));
    }
}

fn serve(mut stream: TcpStream, shared: &Shared) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream.try_clone()?);
    while let Some(http::Request { path, body, headers }) = http::read(&mut reader)? {
        if headers.get("authorization") != Some(&shared.token) && path.starts_with("/v1/admin") {
            http::answer(&mut stream, 401, b"{}")?;
            continue;
        }
        if path == "/v1/status?watch" {
            return stream_status(stream, shared);
        }
        let outcome = {
            let mut node = shared.node.lock();
            let outcome = node.handle(&path, &body);
            node.advance();
            outcome
        };
        shared.changed.notify_all();
        let (status, answer) = match outcome {
            Ok(answer) => (200, answer),
            Err(refusal) => (409, serde_json::to_value(refusal).unwrap()),
        };
        http::answer(&mut stream, status, answer.to_string().as_bytes())?;
    }
    Ok(())
}

fn stream_status(mut stream: TcpStream, shared: &Shared) -> std::io::Result<()> {
    write!(stream, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")?;
    loop {
        let mut line = {
            let mut node = shared.node.lock();
            node.advance();
            serde_json::to_string(&node.status()).unwrap()
        };
        line.push('\n');
        write!(stream, "{:x}\r\n{line}\r\n", line.len())?;
        // Pulls change the state all the time; a line every few milliseconds is about what a node under load sends.
        shared.changed.wait_for(&mut shared.node.lock(), Duration::from_millis(50));
    }
}

fn pull_forever(shared: &Shared) {
    let agent = ureq::Agent::config_builder()
        .timeout_global(Some(PULL_TIMEOUT))
        .http_status_as_error(false)
        .max_idle_connections(0)
        .build()
        .new_agent();
    loop {
        std::thread::park_timeout(PULL_PAUSE);
        let (address, request) = {
            let node = shared.node.lock();
            let leader = node.durable.promise.leader.as_ref().filter(|_| !node.leads);
            let address = leader.and_then(|leader| node.peers.iter().find(|peer| peer.name == leader.name));
            let Some(address) = address.map(|peer| peer.address.clone()) else { continue };
            let position = node.durable.flushed;
            (address, Pull { member: node.member(), epoch: node.durable.promise.epoch, position })
        };
        let response = agent.post(format!("http://{address}/v1/fake/pull")).send_json(&request);
        let Ok(mut response) = response else { continue };
        let Ok(pulled) = response.body_mut().read_json::<Pulled>() else { continue };
        let mut node = shared.node.lock();
        if node.durable.promise.epoch != request.epoch || node.leads {
            continue;
        }
        let fresh = node.durable.flushed != pulled.flushed || node.durable.committed != pulled.committed;
        let fresh = fresh || node.durable.config != pulled.config || !node.durable.seeded;
        node.heard = Some(Instant::now());
        if fresh {
            node.durable.flushed = pulled.flushed;
            node.durable.committed = pulled.committed;
            node.durable.config = pulled.config;
            node.durable.seeded = true;
            node.save();
            shared.changed.notify_all();
        }
    }
}
