//! How long a silent connection is believed in. Without this, one whose other end has vanished without a word (a lost machine, a
//! partition) stays until the kernel gives up after a quarter of an hour; and a peer connection that was cut for seconds comes
//! back only with the kernel's next retransmission, whose pauses double each time.

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use rustix::net::sockopt;

/// Limits of one kind of connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// Silence after which the other end is asked whether it is still there.
    pub idle: Duration,
    /// Pause between two such questions.
    pub interval: Duration,
    /// Without an answer, or with sent bytes that nobody confirmed or wanted, the connection ends after this.
    pub total: Duration,
}

/// Between nodes. Heartbeats pass every 250 ms, and who is dead is decided by their silence; this only says when it is better to
/// dial anew than to wait for a retransmission. Five seconds is the longest pause of the default `detectionTimeout` (3 s) and the
/// kernel's doubling (0.2 s, 0.4 s … 3.2 s) together, so that a shorter cut heals by itself and a longer one is redialled.
pub const PEER: Patience =
    Patience { idle: Duration::from_secs(2), interval: Duration::from_secs(1), total: Duration::from_secs(5) };

/// From clients. Idle connections end by the server's own sweep; this is for those with a request or an answer under way, whose
/// client is gone: the default `transactionTimeout` (30 s) has then passed twice.
pub const CLIENT: Patience =
    Patience { idle: Duration::from_secs(15), interval: Duration::from_secs(5), total: Duration::from_secs(60) };

/// Sets these limits for a TCP connection.
pub fn limit_silence(socket: impl AsFd, patience: Patience) -> io::Result<()> {
    let socket = socket.as_fd();
    sockopt::set_socket_keepalive(socket, true)?;
    sockopt::set_tcp_keepidle(socket, patience.idle)?;
    sockopt::set_tcp_keepintvl(socket, patience.interval)?;
    // The total below is what counts for keep-alive probes, too; this is for kernels that count them.
    let probes = patience.total.saturating_sub(patience.idle).as_secs() / patience.interval.as_secs().max(1);
    sockopt::set_tcp_keepcnt(socket, u32::try_from(probes.max(1)).unwrap_or(1))?;
    sockopt::set_tcp_user_timeout(socket, u32::try_from(patience.total.as_millis()).unwrap_or(u32::MAX))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn both_kinds_of_connections_are_limited() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        for patience in [PEER, CLIENT] {
            limit_silence(&stream, patience).unwrap();
            assert!(sockopt::socket_keepalive(&stream).unwrap());
            assert_eq!(sockopt::tcp_keepidle(&stream).unwrap(), patience.idle);
            assert_eq!(u128::from(sockopt::tcp_user_timeout(&stream).unwrap()), patience.total.as_millis());
        }
    }
}
