//! `rdb sql` and `rdb load` as programs, against a small server of the client API: one SQLite database in memory, exactly-once
//! by key, and faults on demand.

#[path = "support/http.rs"]
mod http;

use std::collections::{BTreeMap, VecDeque};
use std::io::BufReader;
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rdb_protocol::api::{
    ApiError, Args, BatchRequest, BatchResponse, Column, ErrorCode, ErrorResponse, ExecuteRequest, ExecuteResponse,
    QueryRequest, StatementResult, Token,
};
use rdb_protocol::{Epoch, Index};
use rusqlite::Connection;
use rusqlite::config::DbConfig;
use rusqlite::types::Value as Sql;
use serde::Serialize;
use serde_json::Value;

/// What goes wrong with a request.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    None,
    /// It is carried out, and the connection breaks before the answer.
    LoseAnswer,
    /// Refused before anything is done.
    NoLeader,
}

struct Server {
    db: Connection,
    answers: BTreeMap<String, (Vec<u8>, Vec<u8>)>,
    faults: VecDeque<Fault>,
    batches: usize,
}

struct Api {
    url: String,
    server: Arc<Mutex<Server>>,
    folder: tempfile::TempDir,
}

fn error(code: ErrorCode, message: &str) -> ApiError {
    code.error(message, "do something else")
}

fn sql_error(failure: rusqlite::Error) -> ApiError {
    let message = failure.to_string();
    let constraint = failure.sqlite_error_code() == Some(rusqlite::ErrorCode::ConstraintViolation);
    error(if constraint { ErrorCode::Constraint } else { ErrorCode::SqlError }, &message)
}

impl Server {
    fn run(&self, sql: &str, args: &Args) -> Result<StatementResult, ApiError> {
        let Args::Positional(args) = args else { return Err(error(ErrorCode::BadRequest, "named arguments")) };
        let value = |value: &Value| match value {
            Value::Null => Sql::Null,
            Value::Number(n) => n.as_i64().map_or_else(|| Sql::Real(n.as_f64().unwrap()), Sql::Integer),
            Value::String(text) => Sql::Text(text.clone()),
            blob => Sql::Blob(STANDARD.decode(blob["base64"].as_str().unwrap()).unwrap()),
        };
        let mut statement = self.db.prepare(sql).map_err(sql_error)?;
        let columns = statement.column_names().map(|name| Column { name: name.to_owned(), declared: None });
        let mut result = StatementResult { columns: columns.collect(), ..StatementResult::default() };
        let width = result.columns.len();
        let mut rows = statement.query(rusqlite::params_from_iter(args.iter().map(value))).map_err(sql_error)?;
        while let Some(row) = rows.next().map_err(sql_error)? {
            let cell = |n| match row.get::<_, Sql>(n).unwrap() {
                Sql::Null | Sql::Blob(_) => Value::Null,
                Sql::Integer(n) => n.into(),
                Sql::Real(n) => n.into(),
                Sql::Text(text) => text.into(),
            };
            result.rows.push((0..width).map(cell).collect());
        }
        drop(rows);
        result.rows_affected = if width == 0 { self.db.changes() } else { 0 };
        Ok(result)
    }

    fn transaction<A>(&self, work: impl FnOnce() -> Result<A, ApiError>) -> Result<A, ApiError> {
        self.db.execute_batch("BEGIN").unwrap();
        let outcome = work().and_then(|answer| self.db.execute_batch("COMMIT").map(|()| answer).map_err(sql_error));
        if outcome.is_err() && !self.db.is_autocommit() {
            self.db.execute_batch("ROLLBACK").unwrap();
        }
        outcome
    }

    fn handle(&mut self, request: &http::Request) -> Result<Vec<u8>, ApiError> {
        let key = request.headers.get("idempotency-key");
        if let Some((body, answer)) = key.and_then(|key| self.answers.get(key)) {
            assert_eq!(*body, request.body, "one key for two requests");
            return Ok(answer.clone());
        }
        let answer = match request.path.as_str() {
            "/v1/batch" => {
                let call: BatchRequest = serde_json::from_slice(&request.body).unwrap();
                self.batches += 1;
                let run = || call.statements.iter().map(|s| self.run(&s.sql, &s.args)).collect::<Result<Vec<_>, _>>();
                json(&BatchResponse { results: self.transaction(run)?, position: position() })
            }
            "/v1/execute" => {
                let call: ExecuteRequest = serde_json::from_slice(&request.body).unwrap();
                let result = self.transaction(|| self.run(&call.sql, &call.args))?;
                json(&ExecuteResponse { result, position: position() })
            }
            "/v1/query" => {
                let call: QueryRequest = serde_json::from_slice(&request.body).unwrap();
                if !self.db.prepare(&call.sql).map_err(sql_error)?.readonly() {
                    return Err(error(ErrorCode::ReadOnly, "it writes"));
                }
                json(&ExecuteResponse { result: self.run(&call.sql, &call.args)?, position: position() })
            }
            other => return Err(error(ErrorCode::NotFound, other)),
        };
        if let Some(key) = key {
            self.answers.insert(key.clone(), (request.body.clone(), answer.clone()));
        }
        Ok(answer)
    }
}

fn json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).unwrap()
}

fn position() -> Token {
    Token { epoch: Epoch(1), index: Index(1) }
}

fn serve(stream: TcpStream, server: &Mutex<Server>) -> std::io::Result<()> {
    let mut writer = stream.try_clone()?;
    let mut reader = BufReader::new(stream);
    while let Some(request) = http::read(&mut reader)? {
        let mut server = server.lock().unwrap();
        let fault = server.faults.pop_front().unwrap_or(Fault::None);
        let outcome = match fault {
            Fault::NoLeader => Err(error(ErrorCode::NoLeader, "nobody leads")),
            Fault::None | Fault::LoseAnswer => server.handle(&request),
        };
        if fault == Fault::LoseAnswer {
            return Ok(());
        }
        match outcome {
            Ok(answer) => http::answer(&mut writer, 200, &answer)?,
            Err(error) => http::answer(&mut writer, error.code.http_status(), &json(&ErrorResponse { error }))?,
        }
    }
    Ok(())
}

impl Api {
    fn new() -> Api {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let db = Connection::open_in_memory().unwrap();
        db.execute_batch("PRAGMA foreign_keys=ON").unwrap();
        db.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true).unwrap();
        let server = Server { db, answers: BTreeMap::new(), faults: VecDeque::new(), batches: 0 };
        let server = Arc::new(Mutex::new(server));
        let shared = Arc::clone(&server);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = Arc::clone(&shared);
                std::thread::spawn(move || serve(stream, &shared));
            }
        });
        Api { url, server, folder: tempfile::tempdir().unwrap() }
    }

    fn faults(&self, faults: &[Fault]) {
        self.server.lock().unwrap().faults.extend(faults);
    }

    fn number(&self, sql: &str) -> i64 {
        self.server.lock().unwrap().db.query_row(sql, [], |row| row.get(0)).unwrap()
    }

    fn file(&self, text: &str) -> PathBuf {
        let path = self.folder.path().join("dump.sql");
        std::fs::write(&path, text).unwrap();
        path
    }

    fn rdb(&self, command: &str, arguments: &[&str]) -> Output {
        let mut rdb = Command::new(env!("CARGO_BIN_EXE_rdb"));
        rdb.args([command, &self.url]).args(arguments).stdin(Stdio::null()).output().unwrap()
    }

    fn load(&self, text: &str, options: &[&str]) -> Output {
        let file = self.file(text);
        self.rdb("load", &[&[file.to_str().unwrap()], options].concat())
    }
}

fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn err(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// 2500 rows, so three batches.
fn rows() -> String {
    let rows: String = (1..=2500).map(|n| format!("INSERT INTO t VALUES({n});\n")).collect();
    format!("BEGIN;\nCREATE TABLE t(x INTEGER);\n{rows}COMMIT;\n")
}

#[test]
fn a_load_through_lost_answers_and_a_failover_puts_every_row_in_once() {
    let api = Api::new();
    api.faults(&[Fault::None, Fault::LoseAnswer, Fault::NoLeader, Fault::NoLeader, Fault::LoseAnswer, Fault::None]);
    let output = api.load(&rows(), &[]);
    assert!(output.status.success(), "{}", err(&output));
    assert_eq!(out(&output), "2501 statements loaded\n");
    assert_eq!((api.number("SELECT count(*) FROM t"), api.number("SELECT sum(x) FROM t")), (2500, 3_126_250));
}

#[test]
fn a_bad_statement_is_named_by_its_line_and_the_load_goes_on_behind_it() {
    let api = Api::new();
    let text = rows().replace("VALUES(1234)", "VALUES(1234, 'too many')");
    let output = api.load(&text, &[]);
    assert_eq!(output.status.code(), Some(1));
    let message = err(&output);
    // Line 1 is BEGIN, line 2 the table, row n is in line n + 2; units count from the table.
    assert!(message.contains("line 1236: SQL_ERROR") && message.contains("--start-at 1235"), "{message}");
    assert!(message.contains("hint: do something else"), "{message}");
    assert_eq!(api.number("SELECT max(x) FROM t"), 1233);
    let output = api.load(&rows(), &["--start-at", "1235"]);
    assert!(output.status.success(), "{}", err(&output));
    assert_eq!((api.number("SELECT count(*) FROM t"), api.number("SELECT sum(x) FROM t")), (2500, 3_126_250));
}

#[test]
fn an_interrupted_load_says_how_to_resume_and_then_repeats_nothing() {
    let api = Api::new();
    // The second batch is carried out, but nobody hears of it.
    api.faults(&[Fault::None, Fault::LoseAnswer]);
    let output = api.load(&rows(), &["--patience", "0"]);
    assert_eq!(output.status.code(), Some(4), "unknown outcome");
    let message = err(&output);
    let resume = message.rsplit("--resume ").next().unwrap().trim().to_owned();
    assert!(resume.ends_with("@1001+1000"), "{message}");
    let output = api.load(&rows(), &["--resume", &resume]);
    assert!(output.status.success(), "{}", err(&output));
    assert_eq!((api.number("SELECT count(*) FROM t"), api.number("SELECT sum(x) FROM t")), (2500, 3_126_250));
}

#[test]
fn rows_whose_parents_come_batches_later_are_loaded() {
    let api = Api::new();
    let children: String = (1..=1500).map(|n| format!("INSERT INTO child VALUES({n});\n")).collect();
    let parents: String = (1..=1500).map(|n| format!("INSERT INTO parent VALUES({n});\n")).collect();
    let text = format!(
        "PRAGMA foreign_keys=OFF;\nBEGIN;\nCREATE TABLE child(x REFERENCES parent(id));\n{children}\
         CREATE TABLE parent(id INTEGER PRIMARY KEY);\n{parents}COMMIT;\n"
    );
    let output = api.load(&text, &[]);
    assert!(output.status.success(), "{}", err(&output));
    assert_eq!(api.number("SELECT count(*) FROM child JOIN parent ON x = id"), 1500);
    let output = api.load("CREATE TABLE other(x REFERENCES parent(id));\nINSERT INTO other VALUES(-1);", &[]);
    assert!(err(&output).contains("CONSTRAINT"), "{}", err(&output));
}

#[test]
fn a_sqlite_file_is_loaded_whole() {
    let api = Api::new();
    let path = api.folder.path().join("file.db");
    let db = Connection::open(&path).unwrap();
    db.execute_batch(
        "CREATE TABLE a(id INTEGER PRIMARY KEY AUTOINCREMENT, t TEXT); CREATE INDEX i ON a(t);
         INSERT INTO a(t) VALUES('x'), ('y'); CREATE VIRTUAL TABLE f USING fts5(t); INSERT INTO f VALUES('red apple');",
    )
    .unwrap();
    drop(db);
    let output = api.rdb("load", &[path.to_str().unwrap()]);
    assert!(output.status.success(), "{}", err(&output));
    assert_eq!(api.number("SELECT group_concat(t, '') = 'xy' FROM a INDEXED BY i"), 1);
    assert_eq!(api.number("SELECT seq FROM sqlite_sequence WHERE name = 'a'"), 2);
    assert_eq!(api.number("SELECT count(*) FROM f WHERE f MATCH 'apple'"), 1);
}

#[test]
fn statements_print_their_rows_and_errors_their_hints() {
    let api = Api::new();
    let output =
        api.rdb("sql", &["CREATE TABLE t(a, b); INSERT INTO t VALUES(1, 'x;y'); SELECT * FROM t", "-m", "csv"]);
    assert_eq!(out(&output), "a,b\n1,x;y\n".replacen('\n', "\r\n", 1), "{}", err(&output));
    let output = api.rdb("sql", &["SELECT * FROM t WHERE a = 1", "--mode", "json"]);
    assert_eq!(out(&output), "[{\"a\":1,\"b\":\"x;y\"}]\n");
    let output = api.rdb("sql", &["BEGIN; INSERT INTO t VALUES(2, 2); INSERT INTO nope VALUES(1); COMMIT"]);
    assert_eq!((output.status.code(), api.number("SELECT count(*) FROM t")), (Some(1), 1));
    assert!(err(&output).contains("SQL_ERROR") && err(&output).contains("hint: do something else"), "{}", err(&output));
    let output = api.rdb("sql", &["WITH n(x) AS (SELECT 5) INSERT INTO t SELECT x, x FROM n"]);
    assert!(output.status.success() && api.number("SELECT count(*) FROM t") == 2, "{}", err(&output));
    let output = api.rdb("sql", &[".tables"]);
    assert_eq!(out(&output), "t\n");
}

#[test]
fn a_write_whose_answer_is_lost_is_done_once() {
    let api = Api::new();
    api.rdb("sql", &["CREATE TABLE t(a)"]);
    api.faults(&[Fault::LoseAnswer, Fault::NoLeader]);
    let output = api.rdb("sql", &["INSERT INTO t VALUES(1)"]);
    assert!(output.status.success(), "{}", err(&output));
    assert_eq!(api.number("SELECT count(*) FROM t"), 1);
}

#[test]
fn an_unreachable_node_and_a_bad_token_file_are_told_apart() {
    let rdb = |arguments: &[&str]| Command::new(env!("CARGO_BIN_EXE_rdb")).args(arguments).output().unwrap();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let url = format!("http://127.0.0.1:{port}");
    assert_eq!(rdb(&["sql", &url, "SELECT 1"]).status.code(), Some(3));
    assert_eq!(rdb(&["status", &url]).status.code(), Some(3));
    assert_eq!(rdb(&["status", &url, "--token-file", "/does/not/exist"]).status.code(), Some(1));
    assert_eq!(rdb(&["sql"]).status.code(), Some(2));
}

#[test]
fn a_frozen_node_does_not_hold_up_a_client_that_knows_another() {
    let api = Api::new();
    // It completes handshakes, as a stopped process does, and nothing else.
    let frozen = TcpListener::bind("127.0.0.1:0").unwrap();
    let urls = format!("http://{},{}", frozen.local_addr().unwrap(), api.url);
    let sql = "CREATE TABLE t(a); INSERT INTO t VALUES(7); SELECT a FROM t";
    let mut rdb = Command::new(env!("CARGO_BIN_EXE_rdb"));
    let output = rdb.args(["sql", &urls, sql, "--deadline-ms", "100", "--mode", "json"]).output().unwrap();
    assert_eq!(out(&output), "[{\"a\":7}]\n", "{}", err(&output));
}
