//! Tests of the port over real sockets, with a small backend in place of the driver.
//!
//! | file | shows |
//! | --- | --- |
//! | `bad_input` | every kind of bad request gets its stable code and runs nothing |
//! | `answers` | values, headers, status stream, snapshot, health, admin |
//! | `endings` | connections and the node end in good order |
//! | `forwarding` | to the leader, held without one, tried again only when that is harmless |

mod answers;
mod bad_input;
mod endings;
mod forwarding;
mod mock;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use rdb_protocol::api::{ErrorCode, ErrorResponse};
use serde_json::Value;

/// A test that waits longer than this has failed.
const PATIENCE: Duration = Duration::from_secs(20);

/// A request as bytes, and the answer taken apart: nothing between the test and the port.
struct Client {
    stream: BufReader<TcpStream>,
}

#[derive(Debug)]
struct Got {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Got {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("not JSON: {}", self.text()))
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    fn header(&self, name: &str) -> Option<&str> {
        let mut found = self.headers.iter().filter(|(key, _)| key == name);
        found.next().map(|(_, value)| value.as_str())
    }

    /// The code of an error answer; checks that its status is the code's.
    #[track_caller]
    fn code(&self) -> ErrorCode {
        let response: ErrorResponse = serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{}: {error}: {}", self.status, self.text()));
        let code = response.error.code;
        assert!(self.status == code.http_status() || self.status == 405, "{self:?}");
        assert!(!response.error.hint.is_empty());
        code
    }
}

impl Client {
    fn connect(address: SocketAddr) -> Client {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Client { stream: BufReader::new(stream) }
    }

    fn send(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) {
        let mut bytes = format!("{method} {path} HTTP/1.1\r\nhost: test\r\n").into_bytes();
        for (name, value) in headers {
            bytes.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
        }
        if !body.is_empty() {
            bytes.extend_from_slice(format!("content-length: {}\r\n", body.len()).as_bytes());
        }
        bytes.extend_from_slice(b"\r\n");
        bytes.extend_from_slice(body);
        self.stream.get_mut().write_all(&bytes).unwrap();
    }

    /// One line without its end; `None` at the end of the connection.
    fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        let read = self.stream.read_line(&mut line).unwrap();
        (read > 0).then(|| line.trim_end().to_owned())
    }

    fn head(&mut self) -> Option<Got> {
        let status = self.line()?;
        let status = status.split(' ').nth(1).unwrap().parse().unwrap();
        let mut headers = Vec::new();
        while let Some(line) = self.line().filter(|line| !line.is_empty()) {
            let (name, value) = line.split_once(": ").unwrap();
            headers.push((name.to_lowercase(), value.to_owned()));
        }
        Some(Got { status, headers, body: Vec::new() })
    }

    /// The next chunk of a streamed body; `None` at its end, `Err` when it broke off.
    fn chunk(&mut self) -> Result<Option<Vec<u8>>, ()> {
        let size = usize::from_str_radix(&self.line().ok_or(())?, 16).map_err(|_| ())?;
        let mut chunk = vec![0; size + 2];
        self.stream.read_exact(&mut chunk).map_err(|_| ())?;
        chunk.truncate(size);
        Ok((size > 0).then_some(chunk))
    }

    fn receive(&mut self) -> Got {
        let mut got = self.head().expect("an answer");
        if let Some(length) = got.header("content-length") {
            got.body = vec![0; length.parse().unwrap()];
            self.stream.read_exact(&mut got.body).unwrap();
        } else {
            while let Some(chunk) = self.chunk().expect("a whole body") {
                got.body.extend_from_slice(&chunk);
            }
        }
        got
    }
}

fn ask(address: SocketAddr, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Got {
    let mut client = Client::connect(address);
    client.send(method, path, headers, body.as_bytes());
    client.receive()
}

fn get(address: SocketAddr, path: &str) -> Got {
    ask(address, "GET", path, &[], "")
}

fn post(address: SocketAddr, path: &str, body: &str) -> Got {
    ask(address, "POST", path, &[], body)
}
