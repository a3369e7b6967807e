//! What this machine itself allows a lone client: the least that a write costs which is flushed by a leader and one of two
//! followers.
//!
//! Threads that know no SQL, no HTTP and no protocol do what any such system must do: the client sends a request, the leader
//! sends a record to two followers over loopback, everybody writes and flushes it, the first acknowledgement and the leader's
//! own flush make the answer. What a node takes beyond this is its own; what this takes, no node can save.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};

use super::report::Line;
use super::{ScenarioError, Settings};
use crate::clock::{now, thread_cpu};
use crate::load::Outcome;

/// Bytes on the wire of the insert scenario with one client: request, answer, and the record of a group.
const REQUEST: usize = 266;
const ANSWER: usize = 262;
const RECORD: usize = 800;

const FOLLOWERS: usize = 2;

/// Size of each log, filled with zeros first, so that a flush changes no metadata; at its end it begins again.
const LOG_BYTES: u64 = 16 << 20;

/// Measures as often and as long as the other scenarios.
pub async fn run(settings: &Settings) -> Result<Vec<Line>, ScenarioError> {
    let settings = settings.clone();
    let measured = tokio::task::spawn_blocking(move || {
        let dir = settings.data.join("floor");
        std::fs::create_dir_all(&dir)?;
        measure(&dir, settings.warm_up)?;
        let outcomes: io::Result<Vec<Outcome>> = (0..settings.runs).map(|_| measure(&dir, settings.measure)).collect();
        std::fs::remove_dir_all(&dir)?;
        outcomes
    });
    let failed = |error: &dyn std::fmt::Display| ScenarioError::Failed(format!("the machine's floor: {error}"));
    let outcomes = measured.await.map_err(|error| failed(&error))?.map_err(|error| failed(&error))?;
    Ok(vec![Line::of_runs("machine-floor", 1, outcomes)])
}

fn measure(dir: &Path, length: Duration) -> io::Result<Outcome> {
    let mut links = Vec::new();
    let mut threads: Vec<JoinHandle<io::Result<()>>> = Vec::new();
    for n in 1..=FOLLOWERS {
        let (link, leader) = connected()?;
        let log = Log::create(&dir.join(format!("follower-{n}")))?;
        threads.push(thread::spawn(move || follow(leader, log)));
        links.push(link);
    }
    let (mut server, client) = connected()?;
    let log = Log::create(&dir.join("leader"))?;
    threads.push(thread::spawn(move || lead(client, links, log)));

    let (begun, cpu) = (now(), thread_cpu());
    let mut outcome = Outcome::default();
    while begun.elapsed() < length {
        let sent = now();
        server.write_all(&[1; REQUEST])?;
        server.read_exact(&mut [0; ANSWER])?;
        outcome.latencies.record(sent.elapsed());
    }
    (outcome.elapsed, outcome.client_cpu) = (begun.elapsed(), thread_cpu() - cpu);
    // The leader ends with its client, and the followers with their leader.
    drop(server);
    for thread in threads {
        thread.join().map_err(|_| io::Error::other("a thread panicked"))??;
    }
    Ok(outcome)
}

fn lead(mut client: TcpStream, mut followers: Vec<TcpStream>, mut log: Log) -> io::Result<()> {
    let mut acknowledged = [0; FOLLOWERS];
    let mut written = 0;
    while receive(&mut client, &mut [0; REQUEST])? {
        for follower in &mut followers {
            follower.write_all(&[1; RECORD])?;
        }
        log.append()?;
        written += 1;
        while acknowledged.iter().all(|count| *count < written) {
            let mut wanted: Vec<PollFd<'_>> =
                followers.iter().map(|follower| PollFd::new(follower, PollFlags::IN)).collect();
            poll(&mut wanted, None)?;
            let readable: Vec<bool> = wanted.iter().map(|fd| !fd.revents().is_empty()).collect();
            for ((follower, count), _) in
                followers.iter_mut().zip(&mut acknowledged).zip(readable).filter(|(_, readable)| *readable)
            {
                match follower.read(&mut [0; 64])? {
                    0 => return Err(ErrorKind::UnexpectedEof.into()),
                    more => *count += more,
                }
            }
        }
        client.write_all(&[1; ANSWER])?;
    }
    Ok(())
}

fn follow(mut leader: TcpStream, mut log: Log) -> io::Result<()> {
    while receive(&mut leader, &mut [0; RECORD])? {
        log.append()?;
        match leader.write_all(&[1]) {
            // It may have had enough from the other, and ended.
            Err(error) if matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => break,
            written => written?,
        }
    }
    Ok(())
}

/// A whole message; false when the other side has ended.
fn receive(stream: &mut TcpStream, message: &mut [u8]) -> io::Result<bool> {
    match stream.read_exact(message) {
        Ok(()) => Ok(true),
        Err(error) if matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset) => Ok(false),
        Err(error) => Err(error),
    }
}

fn connected() -> io::Result<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let one = TcpStream::connect(listener.local_addr()?)?;
    let (other, _) = listener.accept()?;
    one.set_nodelay(true)?;
    other.set_nodelay(true)?;
    Ok((one, other))
}

/// Records one behind the other, each flushed.
struct Log {
    file: File,
    at: u64,
}

impl Log {
    fn create(path: &Path) -> io::Result<Log> {
        let mut file = File::create(path)?;
        io::copy(&mut io::repeat(0).take(LOG_BYTES), &mut file)?;
        file.sync_all()?;
        Ok(Log { file, at: 0 })
    }

    fn append(&mut self) -> io::Result<()> {
        if self.at + RECORD as u64 > LOG_BYTES {
            self.at = 0;
        }
        self.file.write_all_at(&[1; RECORD], self.at)?;
        self.at += RECORD as u64;
        self.file.sync_data()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_answered_is_in_the_leaders_log_and_in_a_followers() {
        let dir = tempfile::tempdir().unwrap();
        let outcome = measure(dir.path(), Duration::from_millis(20)).unwrap();
        let answered = outcome.latencies.count() as usize;
        assert!(answered > 0);
        let records = |name: &str| {
            let log = std::fs::read(dir.path().join(name)).unwrap();
            assert_eq!(log.len() as u64, LOG_BYTES);
            log.iter().take_while(|byte| **byte == 1).count() / RECORD
        };
        assert_eq!(records("leader"), answered);
        assert!((1..=FOLLOWERS).any(|n| records(&format!("follower-{n}")) == answered));
    }
}
