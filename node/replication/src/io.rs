//! Everything that goes into [`crate::Replica::step`] and comes out of it.

use std::time::Duration;

use rdb_protocol::admin::{
    AdminRefusal, Fence, Follow, LeaseAnswer, NextConfig, PeerAddress, Promote, Recruit, ResumeWrites, Settle,
    StopWrites,
};
use rdb_protocol::settings::NodeSettings;
use rdb_protocol::status::Promise;
use rdb_protocol::{ClusterId, ConfigPair, Epoch, Index, Member, Position};
use rdb_record::Entry;

use crate::message::PeerMessage;

/// Microseconds of a clock that never steps back and counts suspended time (CLOCK_BOOTTIME). Never compared between nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(pub u64);

impl Time {
    /// Later than any time that comes.
    pub const NEVER: Time = Time(u64::MAX);

    pub fn after(self, duration: Duration) -> Time {
        Time(self.0.saturating_add(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)))
    }

    /// Time since `earlier`, zero if that is later.
    pub fn since(self, earlier: Time) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }

    /// Whole milliseconds since `earlier`, rounded down.
    pub fn millis_since(self, earlier: Time) -> u64 {
        self.0.saturating_sub(earlier.0) / 1000
    }
}

/// What a node must find again after a restart: the core's part of the control file. [`Output::PersistControl`] always
/// carries all of it, so the driver replaces these fields as a whole and never merges.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Persistent {
    pub member: Member,
    /// The core exists once the node belongs to a cluster; an empty node has none.
    pub cluster: ClusterId,
    /// Rule 5.
    pub promise: Promise,
    /// Highest epoch that this node has led (rule 9).
    pub led: Epoch,
    /// Highest epoch in which this node opened for clients (rule 16's shortcut).
    pub opened: Epoch,
    /// Highest epoch that this node was promoted to with permission to lose records.
    pub lossy: Epoch,
    pub config: Option<ConfigPair>,
    /// Known committed index. A hint: the file may lag behind, never run ahead.
    pub committed: Index,
    /// Highest index that this node, as a leader, may have acknowledged to a client. A hint in the same sense.
    pub acknowledged: Index,
    /// `follow` of the promised epoch said that records were lost by permission.
    pub loss_permitted: bool,
    pub peers: Vec<PeerAddress>,
    pub settings: NodeSettings,
}

/// The log as the core sees it: what is appended, flushed or not. All from memory, no disk access.
pub trait LogView {
    /// Position of the last record; [`LogView::base`] when the log is empty.
    fn last(&self) -> Position;
    /// Position before the first retained record.
    fn base(&self) -> Position;
    /// Position of the record at `index`, for base.index..=last.index (base included).
    fn position(&self, index: Index) -> Option<Position>;
    /// Last position of each epoch in the log, oldest first. Without the base, even when the log is empty.
    fn epochs(&self) -> Vec<Position>;
}

/// Names a call of the operator, chosen by the driver, so that the reply finds its caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(pub u64);

/// Who opened a peer connection. The follower dials.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// This node dialled it, as told by [`Output::Dial`].
    Dialled,
    /// The peer dialled; it speaks first, with a `Hello`.
    Accepted,
}

/// What happens to a node.
#[derive(Clone, Debug)]
pub enum Input {
    /// First input after [`crate::Replica::new`]: says whom to dial and what to apply, and flushes what recovery found.
    Start,
    /// Time passed. Call it at least at [`crate::Replica::wake_at`]. `timestamp` is a hybrid timestamp that is not below that
    /// of any record in the log; the records that the core makes itself carry the greatest one it was told.
    Tick {
        timestamp: u64,
    },
    /// A connection is ready. A new one to the same member replaces the old: give `PeerDown` of the old one first.
    PeerUp {
        member: Member,
        side: Side,
    },
    PeerDown {
        member: Member,
        side: Side,
    },
    Peer {
        from: Member,
        message: PeerMessage,
    },
    /// The writer's next record, encoded on top of the slot that [`crate::Replica::reserve_slot`] gave. Frees the slot.
    Propose {
        entry: Entry,
    },
    /// The reserved slot is not used: the group failed or changed nothing.
    ReleaseSlot,
    /// A leader makes a `Noop` record: a timed probe of disk and followers, or a commit for an idle cluster.
    Noop,
    /// Everything up to here is on disk. The position of the log's end when the flush began, taken under the lock.
    Persisted {
        upto: Position,
    },
    /// The database shows everything up to here.
    Applied {
        index: Index,
    },
    /// Answer to [`Output::Fetch`]: records after `prev`. Empty when they could not be read.
    Fetched {
        to: Member,
        prev: Position,
        entries: Vec<Entry>,
    },
    /// The log had no room for an [`Output::Append`] of the last step. The driver dropped it and *all later outputs of that
    /// step*; outputs before it were carried out.
    AppendRefused,
    Admin {
        token: Token,
        call: AdminCall,
        timestamp: u64,
    },
}

/// The operator's calls that concern the core. `init`, `reseed` and `shutdown` are the driver's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AdminCall {
    Fence(Fence),
    Promote(Promote),
    Follow(Follow),
    NextConfig(NextConfig),
    Settle(Settle),
    StopWrites(StopWrites),
    ResumeWrites(ResumeWrites),
    Lease(LeaseAnswer),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AdminAnswer {
    Done,
    /// To `fence`.
    Recruit(Recruit),
}

/// What the driver must do, in this order.
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    /// Must be durable before any later output is carried out.
    PersistControl(Box<Persistent>),
    /// Put the record at the end of the log, without flushing. If there is no room, see [`Input::AppendRefused`].
    Append(Entry),
    /// The records after `from` are about to be cut, or left behind by a re-seed: copy them to the divergence archive.
    ArchiveTail {
        from: Position,
    },
    /// Cut every record after `after`, durably (rule 10). None of them is committed as far as this node knows.
    Truncate {
        after: Index,
    },
    /// Flush what is appended, outside the lock, then give [`Input::Persisted`].
    Sync,
    Send {
        to: Member,
        message: PeerMessage,
    },
    /// Read records after `prev`, outside the lock, at least one and about `max_bytes`; then [`Input::Fetched`].
    Fetch {
        to: Member,
        prev: Position,
        max_bytes: u64,
    },
    /// Everything up to here is committed: a leader answers its clients, a follower applies.
    Committed {
        index: Index,
    },
    /// The proposal was not taken and nothing of it is logged or sent.
    ProposalRefused {
        position: Position,
        reason: ProposalRefusal,
    },
    AdminReply {
        token: Token,
        reply: Result<AdminAnswer, AdminRefusal>,
    },
    Became(RoleChange),
    /// Keep a connection to this leader, dialling again when it ends, until `Hangup` or another `Dial`.
    Dial {
        leader: Member,
    },
    Hangup,
    /// Close the connection that this peer opened: it is of another cluster or meant someone else.
    Disconnect {
        member: Member,
    },
    /// This node cannot go on from its log; it needs a base copy (from `leader`) and a new incarnation (rule 18). Said once.
    SeedNeeded {
        leader: Member,
        reason: SeedReason,
    },
    /// A broken invariant: serve nothing, change nothing, tell the operator. The core answers `fence` and `follow` still.
    Halt {
        code: HaltCode,
        reason: String,
    },
}

/// Why a proposal was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProposalRefusal {
    /// Not the leader any more, or not open yet.
    NotOpen,
    /// Writes are stopped for a switchover.
    WritesStopped,
    /// Async mode without a lease (rule 17).
    NoLease,
    /// The record does not continue the log: another was appended since. Run the group again on a new slot.
    DoesNotFollow,
}

/// A change that clients or the database must know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RoleChange {
    /// Follows (or waits for) `leader`. If it led before, undecided clients get *unknown outcome*.
    Follower {
        leader: Option<Member>,
    },
    /// Leads, not open yet.
    Leader {
        epoch: Epoch,
    },
    /// Open for clients (rule 13).
    Opened {
        epoch: Epoch,
    },
    WritesStopped,
    WritesResumed,
}

/// Why a follower cannot go on from its log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SeedReason {
    /// The leader's log starts after this node's log ends.
    Behind { first_retained: Index },
    /// The logs part below this node's own first record.
    PartsBelowBase,
    /// Records that this node knows as committed were lost by permission; `ArchiveTail` came before.
    LostByPermission { from: Position, committed: Index },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HaltCode {
    /// The leader's log differs at or below this node's known committed index (rule 10).
    CutBelowCommitted,
}

impl HaltCode {
    /// The stable code for `problems` in the status.
    pub fn as_str(self) -> &'static str {
        match self {
            HaltCode::CutBelowCommitted => "CUT_BELOW_COMMITTED",
        }
    }
}

/// Why a core cannot start from what the disk holds.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StartError {
    /// Rule 18: the incarnation ends; re-seed under a new one.
    #[error(
        "the log ends at {last}, but {known} was acknowledged or known to be committed here: this is not the whole disk"
    )]
    LogBehind { last: Position, known: Index },
}
