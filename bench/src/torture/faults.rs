//! Which fault comes next, and how it is done.

use std::time::Duration;

use crate::clock::pause;
use crate::cluster::{Cluster, ClusterError};
use crate::random::Random;

/// Whom a fault hits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Victim {
    Leader,
    /// The n-th of the others.
    Follower(usize),
}

/// What happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// SIGKILL; the supervisor starts it again after a second.
    Kill(Victim),
    /// SIGKILL of two at almost the same time. In no mode does this lose what was flushed: the disks stay.
    KillTwo(Victim, Victim),
    /// SIGSTOP, and SIGCONT after the time.
    Freeze(Victim, Duration),
    /// One is frozen while another is killed.
    FreezeAndKill(Victim, Victim, Duration),
    /// Planned.
    Switchover(Victim),
}

/// Shorter than a heartbeat's deadline up to longer than detection and the waits of an election: a leader that comes back
/// before, during and after its successor's promotion.
const FREEZE_MS: (u64, u64) = (100, 4_000);

/// Before a fault, so that it does not always hit at the same moment of the one before.
const SPACING_MS: (u64, u64) = (0, 700);

/// Draws a fault for a cluster of `nodes` nodes.
pub fn next(random: &mut Random, nodes: usize) -> Fault {
    let follower = Victim::Follower(random.below(nodes.max(2) as u64 - 1) as usize);
    let freeze = Duration::from_millis(random.between(FREEZE_MS.0, FREEZE_MS.1));
    match random.below(100) {
        0..35 => Fault::Kill(Victim::Leader),
        35..50 => Fault::Kill(follower),
        50..65 => Fault::Freeze(Victim::Leader, freeze),
        65..75 => Fault::Freeze(follower, freeze),
        75..83 => Fault::KillTwo(Victim::Leader, follower),
        83..87 => Fault::KillTwo(Victim::Follower(0), Victim::Follower(1)),
        87..93 => Fault::FreezeAndKill(follower, Victim::Leader, freeze),
        _ => Fault::Switchover(follower),
    }
}

/// Does it; false if the supervisor refused, because the node is down already or no switchover is safe now. A fault that
/// finds no leader hits whom it finds in the leader's place.
pub async fn carry_out(cluster: &Cluster, fault: &Fault, random: &mut Random) -> Result<bool, ClusterError> {
    pause(Duration::from_millis(random.between(SPACING_MS.0, SPACING_MS.1))).await;
    let leader = cluster.leader().await.unwrap_or(0);
    let name = |victim: Victim| {
        let others: Vec<usize> = (0..cluster.nodes.len()).filter(|at| *at != leader).collect();
        let at = match victim {
            Victim::Leader => leader,
            Victim::Follower(n) => others.get(n % others.len().max(1)).copied().unwrap_or(leader),
        };
        cluster.nodes[at].name.as_str()
    };
    match *fault {
        Fault::Kill(victim) => done(cluster.command("kill", &[name(victim)]).await),
        Fault::KillTwo(one, other) => {
            let (one, other) = ([name(one)], [name(other)]);
            let (a, b) = tokio::join!(cluster.command("kill", &one), cluster.command("kill", &other));
            Ok(done(a)? | done(b)?)
        }
        Fault::Freeze(victim, time) => {
            let frozen = done(cluster.command("freeze", &[name(victim)]).await)?;
            pause(if frozen { time } else { Duration::ZERO }).await;
            done(cluster.command("thaw", &[name(victim)]).await)?;
            Ok(frozen)
        }
        Fault::FreezeAndKill(victim, killed, time) => {
            let frozen = done(cluster.command("freeze", &[name(victim)]).await)?;
            let killed = done(cluster.command("kill", &[name(killed)]).await)?;
            pause(if frozen { time } else { Duration::ZERO }).await;
            done(cluster.command("thaw", &[name(victim)]).await)?;
            Ok(frozen || killed)
        }
        Fault::Switchover(target) => done(cluster.command("switchover", &[name(target)]).await),
    }
}

fn done(outcome: Result<String, ClusterError>) -> Result<bool, ClusterError> {
    match outcome {
        Ok(_) => Ok(true),
        Err(ClusterError::Command { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_plans_the_same_faults_and_in_time_every_kind() {
        let plan = |seed| {
            let mut random = Random::new(seed);
            (0..300).map(|_| next(&mut random, 3)).collect::<Vec<_>>()
        };
        assert_eq!(plan(1), plan(1));
        assert_ne!(plan(1), plan(2));
        let faults = plan(1);
        assert!(faults.contains(&Fault::Kill(Victim::Leader)));
        assert!(faults.contains(&Fault::Switchover(Victim::Follower(1))));
        assert!(faults.iter().any(|fault| matches!(fault, Fault::Freeze(Victim::Leader, _))));
        assert!(faults.iter().any(|fault| matches!(fault, Fault::KillTwo(Victim::Leader, _))));
        assert!(faults.iter().any(|fault| matches!(fault, Fault::FreezeAndKill(..))));
    }
}
