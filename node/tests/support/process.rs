//! One `rdb-node` process.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::JoinHandle;
use std::time::Duration;

use rdb_protocol::admin::AdminRefusal;
use rdb_protocol::api::ErrorCode;
use rdb_protocol::status::{NodeState, NodeStatus};
use rdb_protocol::{Member, NodeName};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::{random, wait_for, wait_until};

pub const ADMIN: &str = "token-of-the-operator";
pub const PEER: &str = "token-of-the-peers";

/// Every node has a loopback address of its own, so that its port is free whatever else runs on the machine.
const PORT: u16 = 7700;

/// Longer than any deadline that a test asks for.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);

/// An answer of a node.
#[derive(Clone, Debug)]
pub struct Reply {
    pub status: u16,
    pub body: Value,
}

impl Reply {
    /// The stable code of an error, which must come with its HTTP status, what to do, and what is known.
    #[track_caller]
    pub fn error(&self) -> ErrorCode {
        let error = &self.body["error"];
        let error: rdb_protocol::api::ApiError =
            serde_json::from_value(error.clone()).unwrap_or_else(|_| panic!("no error: {self:?}"));
        assert!(!error.message.is_empty() && !error.hint.is_empty(), "{error:?}");
        assert_eq!(self.status, error.code.http_status(), "{error:?}");
        error.code
    }

    #[track_caller]
    pub fn ok(&self) -> &Value {
        assert_eq!(self.status, 200, "{:?}", self.body);
        &self.body
    }

    pub fn is_ok(&self) -> bool {
        self.status == 200
    }

    /// The only value of the only row.
    #[track_caller]
    pub fn value(&self) -> &Value {
        &self.ok()["rows"][0][0]
    }

    #[track_caller]
    pub fn index(&self) -> u64 {
        self.ok()["position"]["index"].as_u64().expect("a position")
    }
}

pub struct Node {
    pub name: NodeName,
    pub address: SocketAddr,
    pub data: PathBuf,
    /// Files with the tokens.
    tokens: PathBuf,
    log: PathBuf,
    /// What is run; ours, unless a test has another build of it.
    pub program: PathBuf,
    child: Option<Child>,
    environment: Vec<(String, String)>,
    with_client_token: bool,
    user: Option<u32>,
    agent: ureq::Agent,
}

impl Node {
    /// Prepares a node within `dir`; it does not run yet.
    pub fn new(dir: &Path, name: &str, data: PathBuf) -> Node {
        for (file, token) in [("admin", ADMIN), ("peer", PEER), ("client", "token-of-the-clients")] {
            std::fs::write(dir.join(format!("{file}.token")), format!("{token}\n")).unwrap();
        }
        let agent = ureq::Agent::config_builder()
            .timeout_global(Some(CALL_TIMEOUT))
            .http_status_as_error(false)
            .max_idle_connections(0)
            .build();
        Node {
            name: NodeName::new(name).unwrap(),
            address: free_address(),
            data,
            tokens: dir.to_owned(),
            log: dir.join(format!("{name}.stderr")),
            program: PathBuf::from(env!("CARGO_BIN_EXE_rdb-node")),
            child: None,
            environment: Vec::new(),
            with_client_token: false,
            user: None,
            agent: agent.into(),
        }
    }

    pub fn require_client_token(&mut self) {
        self.with_client_token = true;
    }

    pub fn set_environment(&mut self, name: &str, value: &str) {
        self.environment.push((name.to_owned(), value.to_owned()));
    }

    /// Runs as the user of this number, as in a container: without a home, from a directory that is not its own. Only root may.
    pub fn run_as(&mut self, user: u32) {
        self.user = Some(user);
    }

    /// Replaces a token as a kubelet does in a secret's volume: all files change at once, by a link.
    pub fn replace_token(&self, file: &str, token: &str) {
        let (name, next) = (self.tokens.join(format!("{file}.token")), self.tokens.join("next"));
        std::fs::write(self.tokens.join(format!("{file}.{token}")), format!("{token}\n")).unwrap();
        std::os::unix::fs::symlink(format!("{file}.{token}"), &next).unwrap();
        std::fs::rename(next, name).unwrap();
    }

    /// Starts the process without waiting for anything.
    pub fn spawn(&mut self) {
        assert!(self.child.is_none(), "{} runs already", self.name);
        let log = File::options().create(true).append(true).open(&self.log).unwrap();
        let mut command = Command::new(&self.program);
        command.arg("--name").arg(self.name.to_string()).arg("--data").arg(&self.data);
        command.arg("--listen").arg(self.address.to_string());
        command.arg("--admin-token-file").arg(self.tokens.join("admin.token"));
        command.arg("--peer-token-file").arg(self.tokens.join("peer.token"));
        if self.with_client_token {
            command.arg("--client-token-file").arg(self.tokens.join("client.token"));
        }
        if let Some(user) = self.user {
            command.uid(user).gid(user).current_dir("/").env_remove("HOME");
        }
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        self.child = Some(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap());
    }

    /// Starts the process and waits until it answers.
    pub fn start(&mut self) {
        self.spawn();
        wait_for("the node answers", || {
            assert_eq!(self.exited(), None, "{} ended: {}", self.name, self.output());
            self.try_status()
        });
    }

    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // An error means that it has ended by itself.
            let _ = child.kill();
            child.wait().unwrap();
        }
    }

    /// Ends the process in good order.
    pub fn shut_down(&mut self) {
        let authorization = format!("Bearer {ADMIN}");
        let reply = self.call("POST", "/v1/admin/shutdown", &[("Authorization", &authorization)], b"{}");
        assert_eq!(reply.expect("an answer before the end").status, 200);
        assert!(self.wait_exit().success());
    }

    pub fn signal(&self, signal: i32) {
        let id = self.child.as_ref().expect("it runs").id();
        // SAFETY: the process is ours and not waited for yet, so that its number is still its own.
        assert_eq!(unsafe { libc::kill(id as i32, signal) }, 0);
    }

    /// All of it stands still after `SIGSTOP`.
    pub fn is_stopped(&self) -> bool {
        let tasks = format!("/proc/{}/task", self.child.as_ref().expect("it runs").id());
        let stat = |task: std::fs::DirEntry| std::fs::read_to_string(task.path().join("stat")).unwrap_or_default();
        // The state comes after the name, which stands in brackets.
        let stopped = |stat: String| stat.rsplit_once(") ").is_none_or(|(_, state)| state.starts_with('T'));
        std::fs::read_dir(tasks).unwrap().flatten().all(|task| stopped(stat(task)))
    }

    pub fn is_running(&self) -> bool {
        self.child.is_some()
    }

    fn exited(&mut self) -> Option<ExitStatus> {
        self.child.as_mut().and_then(|child| child.try_wait().unwrap())
    }

    /// Waits until the process has ended by itself.
    pub fn wait_exit(&mut self) -> ExitStatus {
        let status = wait_for("the process ends", || self.exited());
        self.child = None;
        status
    }

    /// What it has printed so far, over all its starts.
    pub fn output(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    pub fn call(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Option<Reply> {
        call(&self.agent, method, &format!("http://{}{path}", self.address), headers, body)
    }

    /// A write with an idempotency key whose answer is not waited for.
    pub fn begin(&self, key: &str, sql: &str) -> JoinHandle<Option<Reply>> {
        let (agent, url) = (self.agent.clone(), format!("http://{}/v1/execute", self.address));
        let (key, body) = (key.to_owned(), json!({"sql": sql, "deadline_ms": 20_000}).to_string());
        std::thread::spawn(move || call(&agent, "POST", &url, &[("Idempotency-Key", &key)], body.as_bytes()))
    }

    #[track_caller]
    pub fn get(&self, path: &str) -> Reply {
        self.call("GET", path, &[], b"").expect("an answer")
    }

    #[track_caller]
    pub fn post(&self, path: &str, body: &Value) -> Reply {
        self.call("POST", path, &[], body.to_string().as_bytes()).expect("an answer")
    }

    #[track_caller]
    pub fn execute(&self, sql: &str, args: Value) -> Reply {
        self.post("/v1/execute", &json!({"sql": sql, "args": args}))
    }

    #[track_caller]
    pub fn batch(&self, statements: &[&str]) -> Reply {
        let statements: Vec<Value> = statements.iter().map(|sql| json!({"sql": sql})).collect();
        self.post("/v1/batch", &json!({"statements": statements}))
    }

    /// A write with an idempotency key.
    #[track_caller]
    pub fn keyed(&self, key: &str, sql: &str, args: Value) -> Reply {
        let body = json!({"sql": sql, "args": args}).to_string();
        self.call("POST", "/v1/execute", &[("Idempotency-Key", key)], body.as_bytes()).expect("an answer")
    }

    /// A linearizable read.
    #[track_caller]
    pub fn query(&self, sql: &str) -> Reply {
        self.post("/v1/query", &json!({"sql": sql}))
    }

    /// A read of what this node has.
    #[track_caller]
    pub fn query_any(&self, sql: &str) -> Reply {
        self.post("/v1/query", &json!({"sql": sql, "consistency": "any"}))
    }

    /// Connections accepted so far, that of this very question included.
    pub fn connections(&self) -> u64 {
        let Value::String(text) = self.get("/metrics").body else { panic!("no metrics") };
        let line = text.lines().find_map(|line| line.strip_prefix("rdb_http_connections_total "));
        line.expect("the number of connections").parse().unwrap()
    }

    /// The database file as the node serves it.
    pub fn snapshot(&self) -> Vec<u8> {
        let request = ureq::http::Request::get(format!("http://{}/v1/snapshot", self.address));
        let mut response = self.agent.run(request.body(()).unwrap()).unwrap();
        assert_eq!(response.status().as_u16(), 200);
        response.body_mut().with_config().limit(1 << 30).read_to_vec().unwrap()
    }

    pub fn try_status(&self) -> Option<NodeStatus> {
        let authorization = format!("Bearer {ADMIN}");
        let reply = self.call("GET", "/v1/status", &[("Authorization", &authorization)], b"")?;
        serde_json::from_value(reply.body).ok()
    }

    #[track_caller]
    pub fn status(&self) -> NodeStatus {
        self.try_status().expect("a status")
    }

    pub fn member(&self) -> Member {
        self.status().member()
    }

    /// Says that its disk is full.
    pub fn is_full(&self) -> bool {
        self.problems().contains(&"DISK_FULL".to_owned())
    }

    /// Codes of the problems that it reports.
    pub fn problems(&self) -> Vec<String> {
        self.status().problems.into_iter().map(|problem| problem.code).collect()
    }

    #[track_caller]
    pub fn wait_state(&self, state: NodeState) {
        wait_until(&format!("{} is {state:?}", self.name), || self.try_status().is_some_and(|now| now.state == state));
    }

    /// An operator's call.
    #[track_caller]
    pub fn admin<T: DeserializeOwned>(&self, name: &str, call: &impl Serialize) -> Result<T, AdminRefusal> {
        let body = serde_json::to_vec(call).unwrap();
        let authorization = format!("Bearer {ADMIN}");
        let headers = [("Authorization", authorization.as_str())];
        let reply = self.call("POST", &format!("/v1/admin/{name}"), &headers, &body).expect("an answer");
        match reply.status {
            200 => Ok(serde_json::from_value(reply.body).unwrap()),
            409 => Err(serde_json::from_value(reply.body).unwrap()),
            _ => panic!("{name}: {reply:?}"),
        }
    }
}

fn call(agent: &ureq::Agent, method: &str, url: &str, headers: &[(&str, &str)], body: &[u8]) -> Option<Reply> {
    let mut request = ureq::http::Request::builder().method(method).uri(url);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let mut response = agent.run(request.body(body).unwrap()).ok()?;
    let status = response.status().as_u16();
    let text = response.body_mut().with_config().limit(256 << 20).read_to_string().ok()?;
    Some(Reply { status, body: serde_json::from_str(&text).unwrap_or(Value::String(text)) })
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let output = self.output();
            let lines: Vec<&str> = output.lines().collect();
            eprintln!("--- {} ---\n{}", self.name, lines[lines.len().saturating_sub(40)..].join("\n"));
        }
    }
}

/// All of 127.0.0.0/8 is this machine.
fn free_address() -> SocketAddr {
    wait_for("a free address", || {
        let [a, b, c, ..] = random().to_le_bytes();
        let address = SocketAddr::from((Ipv4Addr::new(127, a.max(1), b, c.clamp(1, 254)), PORT));
        TcpListener::bind(address).ok().map(|_| address)
    })
}
