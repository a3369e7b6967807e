//! What nodes say to each other. The follower dials its leader and says `Hello`; from then on the leader pushes.
//!
//! Messages may be lost with their connection, repeated or, over a reconnect, reordered; each is safe to get at any time.
//! Who sent it is known from the connection.

use rdb_protocol::status::Promise;
use rdb_protocol::{ClusterId, ConfigPair, Epoch, Index, Member, Position};
use rdb_record::Entry;

#[derive(Clone, Debug, PartialEq)]
pub enum PeerMessage {
    /// Follower to leader, first on every connection: who it is and what it has, so that the leader finds the last common
    /// record in one step. Within one epoch all logs are prefixes of each other, so the end of each epoch says it all.
    Hello {
        /// Whom the follower means to talk to: an address may have got another node.
        to: Member,
        cluster: ClusterId,
        promise: Promise,
        /// Before the follower's first record.
        base: Position,
        /// Last position of each epoch in the follower's log, oldest first (the newest [`crate::wire::MAX_BOUNDARIES`]).
        boundaries: Vec<Position>,
    },
    /// Leader to follower: records, heartbeat and news of commits in one. Without entries it is a heartbeat or a commit.
    Append {
        epoch: Epoch,
        /// The record before the first of `entries`. Index 0 matches any log.
        prev: Position,
        /// Contiguous, after `prev`.
        entries: Vec<Entry>,
        /// The leader's committed index. The follower may use it up to what it has verified in this epoch (rule 12).
        committed: Index,
        /// Heartbeat round (rule 16). A follower answers each round that is new to it at once.
        round: u64,
        /// The highest `probe` of this follower to which this message is the answer of a leader with a valid lease; 0 = none.
        /// All that was acknowledged before the probe was sent is at or below `committed`.
        answered_probe: u64,
    },
    /// Follower to leader: what counts towards a commit (rule 11), and the answer to a round.
    Ack {
        epoch: Epoch,
        /// min(verified in this epoch, flushed). `Position::ZERO` when nothing is.
        position: Position,
        /// Highest round seen in this epoch.
        round: u64,
        /// The follower's own clock when it sent this, to be given back as `answered_probe` (bounded staleness).
        probe: u64,
    },
    /// Follower to leader: it has no record `prev` of the append. It says again what it has.
    Mismatch { epoch: Epoch, base: Position, boundaries: Vec<Position> },
    /// To whoever spoke for a lower epoch, or said `Hello` to a node that does not lead: what was promised (rule 5).
    Refused { promise: Promise },
    /// Leader to follower: the log that it needs is gone.
    SeedRequired { epoch: Epoch, first_retained: Index },
    /// Leader to follower, after `Hello` and at every change: the configs that stand, so that every control file has them.
    Config { epoch: Epoch, config: ConfigPair },
}
