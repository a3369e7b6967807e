//! A TCP proxy in front of a node, which can break connections off.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// What happened to one connection to the base copy.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// First line of the request.
    pub request: String,
    /// Bytes of the answer that went through.
    pub bytes: u64,
}

/// Breaks the first connection that asks for a base copy off after some bytes; lets everything else through.
pub struct Proxy {
    pub address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Proxy {
    pub fn start(target: SocketAddr, break_after: u64) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let noted = seen.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let noted = noted.clone();
                std::thread::spawn(move || forward(client, target, break_after, &noted));
            }
        });
        Proxy { address, seen }
    }

    /// The connections so far that asked for a base copy.
    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }
}

fn forward(client: TcpStream, target: SocketAddr, break_after: u64, seen: &Mutex<Vec<Seen>>) -> Option<()> {
    let server = TcpStream::connect(target).ok()?;
    let mut head = [0; 4096];
    let read = (&client).read(&mut head).ok()?;
    (&server).write_all(&head[..read]).ok()?;
    let request = String::from_utf8_lossy(&head[..read]).lines().next().unwrap_or_default().to_owned();
    let place = request.contains("/v1/peer/seed").then(|| {
        let mut seen = seen.lock().unwrap();
        seen.push(Seen { request, bytes: 0 });
        seen.len() - 1
    });
    let (from, to) = (client.try_clone().ok()?, server.try_clone().ok()?);
    std::thread::spawn(move || copy(&from, &to, |_| true));
    copy(&server, &client, |bytes| match place {
        Some(place) => {
            let mut seen = seen.lock().unwrap();
            seen[place].bytes += bytes;
            place > 0 || seen[place].bytes < break_after
        }
        None => true,
    });
    Some(())
}

/// Copies until one side ends or `goes_on` says no; then both sides end.
fn copy(mut from: &TcpStream, mut to: &TcpStream, mut goes_on: impl FnMut(u64) -> bool) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(read @ 1..) = from.read(&mut buffer) {
        if to.write_all(&buffer[..read]).is_err() || !goes_on(read as u64) {
            break;
        }
    }
    // An error means that it is closed already.
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}
