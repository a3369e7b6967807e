//! Planted bugs: each breaks one rule of `docs/protocol.md`, so that the simulator can be seen to find it. Compiled only
//! with the feature `planted`, which nothing but the simulator's own tests turns on; then one of them can be switched on
//! for the present thread.

use std::cell::Cell;

macro_rules! bugs {
    ($($(#[doc = $rule:literal])+ $name:ident,)*) => {
        /// What is broken.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Bug { $($(#[doc = $rule])+ $name,)* }

        impl Bug {
            pub const ALL: &[Bug] = &[$(Bug::$name,)*];

            /// The rule that it breaks, and how.
            pub fn rule(self) -> &'static str {
                match self { $(Bug::$name => concat!($($rule),+),)* }
            }
        }
    };
}

bugs! {
    /// rule 1: the status is written without compare-and-swap
    NoCompareAndSwap,
    /// rule 2: a choice takes the old leader out of K
    OldLeaderLeavesCohort,
    /// rule 2: a choice takes the new leader out of K
    NewLeaderLeavesCohort,
    /// rule 3: a copy of any follower counts
    AnyFollowerCounts,
    /// rule 4: one recruit too few is enough
    OneRecruitTooFew,
    /// rule 5: the promise is not persisted
    PromiseNotPersisted,
    /// rule 5: a message of a higher epoch does not raise the promise
    AppendDoesNotRaise,
    /// rule 6: a fence is answered before the flush, and the flush is acknowledged after it
    LateFlush,
    /// rule 8: the index alone decides who is ahead
    IndexComparedAlone,
    /// rule 8: another leader is chosen for the same epoch
    ChosenTwice,
    /// rule 8: any recruit becomes the leader
    AnyCandidate,
    /// rule 9: a leader that restarted is promoted again
    PromotedAgain,
    /// rule 10: a follower cuts whatever lies behind a message's records
    CutsAlways,
    /// rule 11: a follower acknowledges before it has flushed
    AcknowledgedBeforeFlush,
    /// rule 11: the position in a greeting is taken for an acknowledgement
    HelloCounts,
    /// rule 12: a follower applies what was not verified in this epoch
    UnmatchedApply,
    /// rule 13: records of older epochs advance the committed index by themselves
    NoEpochStart,
    /// rule 15: an election forgets the config that is to come
    NextDropped,
    /// rule 15: a change is reported as ended before its record is committed
    ReportedEarly,
    /// rule 15: the config is rewritten without a change that the leader knows of
    Rewritten,
    /// rule 15: a change is begun during an election
    ChangeDuringElection,
    /// rule 15: a report of an older change ends this one
    StaleReport,
    /// rule 15: a leader settles one change twice
    SettledTwice,
    /// rule 16: the lease counts from the receipt of the answers
    LeaseFromReceipt,
    /// rule 16: a restart does not count as an answer to the old leader
    ForgottenRestart,
    /// rule 16: any answer of the chosen leader's predecessor ends the wait
    Shortcut,
    /// rule 16: linearizable reads are answered without a lease
    ReadsWithoutLease,
    /// rule 17: an asynchronous leader acknowledges without a lease
    WritesWithoutLease,
    /// rule 18: a wiped disk keeps its incarnation
    WipedKeepsName,
    /// rule 18: a copied volume keeps its incarnation
    CloneKeepsName,
    /// rule 18: a damaged log is cut and used on
    DamagedLogIsCut,
    /// seeding: the copy is stated at a later position than its own
    SeedStalePosition,
    /// sessions: a token is compared by its index alone
    TokenByIndex,
    /// receipts: the tail of a lost leader counts as far as a hint on its disk goes
    ReceiptMissesRecords,
    /// groups: a group is visible and answered before it is committed
    GroupCommitsAlone,
    /// checksums: a follower swallows that its content is another one
    ChecksumSwallowed,
    /// keys: a repeated write is run again
    RepeatedWriteRuns,
}

thread_local! {
    static PLANTED: Cell<Option<Bug>> = const { Cell::new(None) };
}

/// Switches one on for this thread, or all off.
pub fn plant(bug: Option<Bug>) {
    PLANTED.set(bug);
}

pub fn is_planted(bug: Bug) -> bool {
    PLANTED.get() == Some(bug)
}
