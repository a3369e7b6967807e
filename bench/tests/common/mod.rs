//! An HTTP server inside the test, answering as told: what the client must cope with, without a cluster.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// What to do with a request, given its head and body.
pub(crate) enum Reply {
    /// Send these bytes.
    Bytes(Vec<u8>),
    /// Send these bytes, then close the connection.
    BytesAndClose(Vec<u8>),
    /// Send these pieces, one after the other.
    Pieces(Vec<Vec<u8>>),
    /// Never answer.
    Silence,
}

pub(crate) struct FakeNode {
    pub(crate) address: String,
    connections: Arc<AtomicUsize>,
}

impl FakeNode {
    pub(crate) async fn start(answer: impl Fn(&str, &str) -> Reply + Send + Sync + 'static) -> FakeNode {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let connections = Arc::new(AtomicUsize::new(0));
        let counter = connections.clone();
        let answer = Arc::new(answer);
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                stream.set_nodelay(true).unwrap();
                counter.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(serve(stream, answer.clone()));
            }
        });
        FakeNode { address, connections }
    }

    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

async fn serve(mut stream: TcpStream, answer: Arc<impl Fn(&str, &str) -> Reply>) {
    let mut pending = Vec::new();
    loop {
        let Some((head, body)) = read_request(&mut stream, &mut pending).await else {
            return;
        };
        match answer(&head, &body) {
            Reply::Bytes(bytes) => stream.write_all(&bytes).await.unwrap(),
            Reply::BytesAndClose(bytes) => {
                stream.write_all(&bytes).await.unwrap();
                return;
            }
            Reply::Pieces(pieces) => {
                for piece in pieces {
                    stream.write_all(&piece).await.unwrap();
                    tokio::task::yield_now().await;
                }
            }
            Reply::Silence => std::future::pending().await,
        }
    }
}

async fn read_request(stream: &mut TcpStream, pending: &mut Vec<u8>) -> Option<(String, String)> {
    let end = loop {
        if let Some(end) = pending.windows(4).position(|w| w == b"\r\n\r\n") {
            break end + 4;
        }
        if stream.read_buf(pending).await.ok()? == 0 {
            return None;
        }
    };
    let head = String::from_utf8(pending[..end].to_vec()).unwrap();
    let length: usize =
        head.lines().find_map(|line| line.strip_prefix("Content-Length: ")).map_or(0, |text| text.parse().unwrap());
    while pending.len() < end + length {
        if stream.read_buf(pending).await.ok()? == 0 {
            return None;
        }
    }
    let body = String::from_utf8(pending[end..end + length].to_vec()).unwrap();
    pending.drain(..end + length);
    Some((head, body))
}

/// A whole answer with a length.
pub(crate) fn answer(status: u16, body: &str) -> Vec<u8> {
    format!(
        "HTTP/1.1 {status} X\r\ncontent-type: application/json\r\nrdb-epoch: 3\r\nrdb-index: 41\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}
