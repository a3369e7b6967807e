//! Requests and answers as bytes.
//!
//! A request is built into a buffer that the caller keeps, sent with one `write`, and its answer usually arrives with one
//! `read`: two system calls per request and no allocation.

use std::io::Write as _;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Room for the head of an answer. Nodes send a handful of short headers; more means that this is not a node.
const MAX_HEAD: usize = 16 << 10;

/// Longest body that is read into memory: twice the default limit of a node's results.
const MAX_BODY: usize = 128 << 20;

/// First size of the read buffer: the answer to a point operation with room to spare.
const FIRST_BUFFER: usize = 4 << 10;

#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// Nobody listens, or the connection could not be made: nothing was sent.
    #[error("cannot connect to {address}: {source}")]
    Connect { address: String, source: std::io::Error },
    /// The connection broke after something may have been sent.
    #[error("connection broke: {0}")]
    Broken(#[from] std::io::Error),
    /// The peer closed the connection before a whole answer.
    #[error("connection closed before the answer was complete")]
    Closed,
    #[error("not an HTTP answer that this client understands: {0}")]
    Malformed(&'static str),
}

/// The heads of one caller's requests, with what they have in common prepared.
#[derive(Clone, Debug)]
pub struct RequestBuilder {
    head: Vec<u8>,
}

impl RequestBuilder {
    /// `path` such as `/v1/execute`; `token` is sent as a bearer token.
    pub fn post(path: &str, token: Option<&str>) -> RequestBuilder {
        RequestBuilder::new("POST", path, token)
    }

    pub fn get(path: &str, token: Option<&str>) -> RequestBuilder {
        RequestBuilder::new("GET", path, token)
    }

    fn new(method: &str, path: &str, token: Option<&str>) -> RequestBuilder {
        let mut head = format!("{method} {path} HTTP/1.1\r\nHost: node\r\n");
        if let Some(token) = token {
            head.push_str(&format!("Authorization: Bearer {token}\r\n"));
        }
        RequestBuilder { head: head.into_bytes() }
    }

    /// Writes a request with a JSON body into `buffer`, replacing what was there.
    pub fn write(&self, buffer: &mut Vec<u8>, key: Option<&str>, body: &[u8]) {
        buffer.clear();
        buffer.extend_from_slice(&self.head);
        if let Some(key) = key {
            let _ = write!(buffer, "Idempotency-Key: {key}\r\n"); // writing to a Vec does not fail
        }
        if !body.is_empty() {
            buffer.extend_from_slice(b"Content-Type: application/json\r\n");
        }
        let _ = write!(buffer, "Content-Length: {}\r\n\r\n", body.len());
        buffer.extend_from_slice(body);
    }
}

/// What the head of an answer says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Head {
    pub status: u16,
    /// Header `Rdb-Epoch`.
    pub epoch: Option<u64>,
    /// Header `Rdb-Index`.
    pub index: Option<u64>,
    /// The peer will close the connection after this answer.
    pub close: bool,
    length: Option<usize>,
    chunked: bool,
}

/// A kept-open connection to one node.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
    /// Bytes of `buffer` that hold data.
    filled: usize,
    /// The body of the last answer within `buffer`, when it was not chunked.
    body: std::ops::Range<usize>,
    closing: bool,
}

impl Connection {
    /// Connects to `host:port`.
    pub async fn open(address: &str) -> Result<Connection, WireError> {
        let failed = |source| WireError::Connect { address: address.to_owned(), source };
        let stream = TcpStream::connect(address).await.map_err(failed)?;
        stream.set_nodelay(true).map_err(failed)?;
        Ok(Connection { stream, buffer: vec![0; FIRST_BUFFER], filled: 0, body: 0..0, closing: false })
    }

    /// The peer said that it closes this connection; open another.
    pub fn is_closing(&self) -> bool {
        self.closing
    }

    /// Sends a request and reads the whole answer; its body is then in [`Connection::body`].
    pub async fn exchange(&mut self, request: &[u8]) -> Result<Head, WireError> {
        self.stream.write_all(request).await?;
        self.filled = 0;
        let (head, start) = self.read_head().await?;
        self.closing = head.close;
        if head.chunked {
            let body = self.read_chunked(start, |_| {}).await?;
            self.body = 0..body.len();
            self.filled = body.len();
            self.buffer.splice(0..body.len().min(self.buffer.len()), body);
            return Ok(head);
        }
        let length = head.length.unwrap_or(0);
        if length > MAX_BODY {
            return Err(WireError::Malformed("body too long"));
        }
        while self.filled < start + length {
            self.fill().await?;
        }
        self.body = start..start + length;
        Ok(head)
    }

    /// The body of the last answer.
    pub fn body(&self) -> &[u8] {
        &self.buffer[self.body.clone()]
    }

    /// Sends a request and hands the body of the answer to `take`, piece by piece, without keeping it. Bodies of
    /// answers other than 200 go to `take` too.
    pub async fn download(&mut self, request: &[u8], mut take: impl FnMut(&[u8])) -> Result<Head, WireError> {
        self.stream.write_all(request).await?;
        self.filled = 0;
        let (head, start) = self.read_head().await?;
        self.closing = head.close;
        if head.chunked {
            self.read_chunked(start, &mut take).await?;
            return Ok(head);
        }
        let mut left = head.length;
        take(&self.buffer[start..self.filled]);
        left = left.map(|left| left.saturating_sub(self.filled - start));
        while left != Some(0) {
            self.filled = 0;
            match self.fill().await {
                Ok(()) => take(&self.buffer[..self.filled]),
                // Without a length the end of the connection is the end of the body.
                Err(WireError::Closed) if left.is_none() => break,
                Err(error) => return Err(error),
            }
            left = left.map(|left| left.saturating_sub(self.filled));
        }
        Ok(head)
    }

    /// Reads up to the empty line; gives the head and where the body starts.
    async fn read_head(&mut self) -> Result<(Head, usize), WireError> {
        let mut searched = 0;
        loop {
            self.fill().await?;
            let from = searched;
            if let Some(end) = find(&self.buffer[from..self.filled], b"\r\n\r\n").map(|at| at + from) {
                return Ok((parse_head(&self.buffer[..end])?, end + 4));
            }
            // The empty line may lie across two reads.
            searched = self.filled.saturating_sub(3);
            if self.filled > MAX_HEAD {
                return Err(WireError::Malformed("head too long"));
            }
        }
    }

    /// Reads a chunked body that starts at `start` in the buffer. Gives it whole when `take` keeps nothing of it.
    async fn read_chunked(&mut self, start: usize, mut take: impl FnMut(&[u8])) -> Result<Vec<u8>, WireError> {
        let mut whole = Vec::new();
        let mut at = start;
        loop {
            let line = loop {
                if let Some(length) = find(&self.buffer[at..self.filled], b"\r\n") {
                    break at..at + length;
                }
                self.fill().await?;
            };
            let size = parse_chunk_size(&self.buffer[line.clone()])?;
            at = line.end + 2;
            while self.filled < at + size + 2 {
                self.fill().await?;
            }
            if size == 0 {
                return Ok(whole);
            }
            let chunk = &self.buffer[at..at + size];
            take(chunk);
            if whole.len() + size <= MAX_BODY {
                whole.extend_from_slice(chunk);
            }
            at += size + 2;
            self.buffer.copy_within(at..self.filled, 0);
            self.filled -= at;
            at = 0;
        }
    }

    async fn fill(&mut self) -> Result<(), WireError> {
        if self.filled == self.buffer.len() {
            self.buffer.resize(self.buffer.len() * 2, 0);
        }
        match self.stream.read(&mut self.buffer[self.filled..]).await? {
            0 => Err(WireError::Closed),
            got => {
                self.filled += got;
                Ok(())
            }
        }
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

fn parse_chunk_size(line: &[u8]) -> Result<usize, WireError> {
    let digits = line.split(|byte| *byte == b';').next().unwrap_or(line);
    let size = std::str::from_utf8(digits).ok().and_then(|text| usize::from_str_radix(text.trim(), 16).ok());
    size.filter(|size| *size <= MAX_BODY).ok_or(WireError::Malformed("chunk size"))
}

/// Parses the status line and the few headers that matter here.
fn parse_head(head: &[u8]) -> Result<Head, WireError> {
    let digits = |text: &[u8]| std::str::from_utf8(text).ok().and_then(|text| text.trim().parse::<u64>().ok());
    let mut lines = head.split(|byte| *byte == b'\n');
    let status_line = lines.next().unwrap_or_default();
    if !status_line.starts_with(b"HTTP/1.") || status_line.len() < 12 {
        return Err(WireError::Malformed("status line"));
    }
    let status = digits(&status_line[9..12]).ok_or(WireError::Malformed("status code"))? as u16;
    let mut parsed = Head { status, ..Head::default() };
    for line in lines {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else {
            continue;
        };
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        if name.eq_ignore_ascii_case(b"content-length") {
            parsed.length = Some(digits(value).ok_or(WireError::Malformed("content length"))? as usize);
        } else if name.eq_ignore_ascii_case(b"rdb-epoch") {
            parsed.epoch = digits(value);
        } else if name.eq_ignore_ascii_case(b"rdb-index") {
            parsed.index = digits(value);
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            parsed.chunked = value.eq_ignore_ascii_case(b"chunked");
        } else if name.eq_ignore_ascii_case(b"connection") {
            parsed.close = value.eq_ignore_ascii_case(b"close");
        }
    }
    Ok(parsed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_understood_in_any_letter_case() {
        let head =
            parse_head(b"HTTP/1.1 503 Busy\r\ncontent-LENGTH: 12\r\nRDB-epoch: 3\r\nrdb-index:99\r\nConnection: close")
                .unwrap();
        assert_eq!((head.status, head.length, head.epoch, head.index), (503, Some(12), Some(3), Some(99)));
        assert!(head.close && !head.chunked);
        assert!(parse_head(b"SSH-2.0-x").is_err());
        assert!(parse_head(b"HTTP/1.1 200 OK\r\nContent-Length: -5").is_err());
    }

    #[test]
    fn a_request_states_its_length_and_key() {
        let mut buffer = b"old".to_vec();
        RequestBuilder::post("/v1/execute", Some("t")).write(&mut buffer, Some("c:7"), b"{}");
        assert_eq!(
            String::from_utf8(buffer).unwrap(),
            "POST /v1/execute HTTP/1.1\r\nHost: node\r\nAuthorization: Bearer t\r\nIdempotency-Key: c:7\r\n\
             Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
        );
    }

    #[test]
    fn chunk_sizes_have_bounds() {
        assert_eq!(parse_chunk_size(b"1f;x=y").unwrap(), 31);
        assert!(parse_chunk_size(b"ffffffffffff").is_err());
        assert!(parse_chunk_size(b"").is_err());
    }
}
