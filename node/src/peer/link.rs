//! One WebSocket connection between two nodes, split into a reading and a sending half.
//!
//! Sending is on the path of every write: the thread that steps the core writes the frame to the socket itself, without
//! blocking; only what the socket does not take at once is left to the link's own thread. So a slow peer costs the leader
//! nothing but the bytes queued here, which the core's flow control bounds.

use std::collections::VecDeque;
use std::io;
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};
use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendFlags};
use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::{Data, OpCode};

use crate::http::sockets::{PEER, limit_silence};

/// Bytes that may wait for a peer that does not read. The core bounds unacknowledged records per follower; this is a multiple
/// of that bound, so that it is only reached when something is broken, and then the connection is dropped.
pub const MAX_QUEUED_BYTES: usize = 512 << 20;

/// Buffers handed to the kernel in one call; Linux takes up to 1024 (IOV_MAX).
const MAX_SLICES: usize = 64;

/// The sending half; shared by all threads.
pub struct Link {
    stream: TcpStream,
    /// Clients mask their frames (RFC 6455, 5.3). The mask is zero: masking protects proxies from scripts in browsers, and
    /// there are neither here.
    masked: bool,
    queue: Mutex<Queue>,
    wake: Condvar,
    closed: AtomicBool,
}

#[derive(Default)]
struct Queue {
    chunks: VecDeque<Bytes>,
    bytes: usize,
}

impl Link {
    /// `client`: this side dialled. Starts the link's thread.
    pub fn start(stream: TcpStream, client: bool) -> io::Result<Arc<Link>> {
        stream.set_nodelay(true)?;
        limit_silence(&stream, PEER)?;
        let link = Arc::new(Link {
            stream,
            masked: client,
            queue: Mutex::default(),
            wake: Condvar::new(),
            closed: AtomicBool::new(false),
        });
        let drained = link.clone();
        std::thread::Builder::new().name("peer-send".into()).spawn(move || drained.drain())?;
        Ok(link)
    }

    /// Sends one binary message made of `chunks`, in order with all others. Never blocks. A broken or overfull link is
    /// closed, which its reader reports.
    pub fn send(&self, chunks: impl IntoIterator<Item = Bytes>) {
        let mut message: VecDeque<Bytes> = chunks.into_iter().filter(|chunk| !chunk.is_empty()).collect();
        let length: usize = message.iter().map(Bytes::len).sum();
        let header = FrameHeader {
            opcode: OpCode::Data(Data::Binary),
            mask: self.masked.then_some([0; 4]),
            ..FrameHeader::default()
        };
        let mut head = Vec::with_capacity(14);
        if header.format(length as u64, &mut head).is_err() {
            return self.close();
        }
        message.push_front(head.into());
        let mut queue = self.queue.lock();
        if self.closed.load(Ordering::Relaxed) {
            return;
        }
        if queue.chunks.is_empty() && self.write_some(&mut message, SendFlags::DONTWAIT).is_err() {
            drop(queue);
            return self.close();
        }
        if message.is_empty() {
            return;
        }
        queue.bytes += message.iter().map(Bytes::len).sum::<usize>();
        let overfull = queue.bytes > MAX_QUEUED_BYTES;
        queue.chunks.append(&mut message);
        drop(queue);
        if overfull {
            self.close();
        } else {
            self.wake.notify_one();
        }
    }

    /// Ends the connection for both halves. May be called more than once.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
        // Already disconnected is what we want.
        let _ = self.stream.shutdown(Shutdown::Both);
        let _guard = self.queue.lock();
        self.wake.notify_all();
    }

    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    /// Writes from the front of `chunks` what the socket takes, and removes it.
    fn write_some(&self, chunks: &mut VecDeque<Bytes>, flags: SendFlags) -> io::Result<()> {
        while !chunks.is_empty() {
            let slices: Vec<io::IoSlice<'_>> = chunks.iter().take(MAX_SLICES).map(|c| io::IoSlice::new(c)).collect();
            let mut ancillary = SendAncillaryBuffer::default();
            let sent = rustix::net::sendmsg(&self.stream, &slices, &mut ancillary, flags | SendFlags::NOSIGNAL);
            match sent {
                Ok(sent) => advance(chunks, sent),
                Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// The link's thread: writes what was queued, blocking.
    fn drain(&self) {
        loop {
            let mut batch = VecDeque::new();
            {
                let mut queue = self.queue.lock();
                while queue.chunks.is_empty() {
                    if self.closed.load(Ordering::Relaxed) {
                        return;
                    }
                    self.wake.wait(&mut queue);
                }
                // The chunks stay at the front of the queue while they are written, so that no other thread overtakes them.
                batch.extend(queue.chunks.iter().take(MAX_SLICES).cloned());
            }
            let (count, bytes) = (batch.len(), batch.iter().map(Bytes::len).sum::<usize>());
            if self.write_some(&mut batch, SendFlags::empty()).is_err() || self.closed.load(Ordering::Relaxed) {
                return self.close();
            }
            let mut queue = self.queue.lock();
            queue.chunks.drain(..count);
            queue.bytes -= bytes;
        }
    }
}

fn advance(chunks: &mut VecDeque<Bytes>, mut sent: usize) {
    while let Some(front) = chunks.front_mut() {
        if sent < front.len() {
            let _ = front.split_to(sent);
            return;
        }
        sent -= front.len();
        chunks.pop_front();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;
    use tungstenite::protocol::Role;
    use tungstenite::{Message, WebSocket};

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (client, listener.accept().unwrap().0)
    }

    #[test]
    fn messages_arrive_whole_and_in_order_though_the_peer_reads_late() {
        let (client, server) = pair();
        let link = Link::start(client, true).unwrap();
        let big = Bytes::from(vec![7u8; 3 << 20]);
        for n in 0..8u8 {
            link.send([Bytes::from(vec![n]), big.clone()]);
        }
        let mut socket = WebSocket::from_raw_socket(server, Role::Server, None);
        for n in 0..8u8 {
            let Message::Binary(message) = socket.read().unwrap() else { panic!("binary expected") };
            assert_eq!((message[0], message.len()), (n, big.len() + 1));
        }
    }

    #[test]
    fn a_closed_link_ends_the_readers_wait() {
        let (client, server) = pair();
        let link = Link::start(client, false).unwrap();
        let reader = std::thread::spawn(move || WebSocket::from_raw_socket(server, Role::Client, None).read().is_err());
        link.close();
        assert!(reader.join().unwrap());
        assert!(link.is_closed());
    }
}
