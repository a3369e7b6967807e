//! `rdb-operator check`: asks an operator whether it is ready. For `helm test`, whose pod has the operator's image, and that
//! has no other program.

use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

use anyhow::{Context, bail};

/// An operator answers in milliseconds; a service without endpoints refuses or is silent.
const PATIENCE: Duration = Duration::from_secs(10);

/// `/readyz` has a line per check.
const MAX_ANSWER: u64 = 64 << 10;

/// Succeeds if the address answers 200; prints what it says.
pub fn check(url: &str) -> anyhow::Result<()> {
    let rest = url.strip_prefix("http://").with_context(|| format!("{url:?} does not begin with http://"))?;
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    let address = host.to_socket_addrs().with_context(|| format!("{host}: no such address"))?.next();
    let address = address.with_context(|| format!("{host}: no such address"))?;
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE).with_context(|| format!("{host} is not there"))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "GET /{path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.take(MAX_ANSWER).read_to_end(&mut answer).with_context(|| format!("{host} does not answer"))?;
    let answer = String::from_utf8_lossy(&answer);
    println!("{}", answer.trim_end());
    let status = answer.lines().next().unwrap_or_default();
    if status.split(' ').nth(1) != Some("200") {
        bail!("{url}: {status}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn answering(answer: &'static str) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            // It may come in several pieces.
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                let mut piece = [0; 1024];
                let length = stream.read(&mut piece).unwrap();
                assert!(length > 0, "the request ended early");
                request.extend_from_slice(&piece[..length]);
            }
            assert!(request.starts_with(b"GET /readyz HTTP/1.1\r\n"));
            stream.write_all(answer.as_bytes()).unwrap();
        });
        format!("http://{address}/readyz")
    }

    #[test]
    fn ready_is_200_and_nothing_else() {
        check(&answering("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")).unwrap();
        let error = check(&answering("HTTP/1.1 503 Service Unavailable\r\n\r\n[-] lease")).unwrap_err();
        assert!(error.to_string().contains("503"), "{error}");
        assert!(check(&answering("")).is_err());
        assert!(check("https://127.0.0.1:1/").is_err());
    }
}
