//! One group of client transactions: gather, run, log, replicate, then make visible and answer.

use std::sync::Arc;

use rdb_engine::{CommitError, GroupResult, Slot, SqlFailure, Transaction, TransactionResult, Writer};
use rdb_protocol::Epoch;
use rdb_protocol::api::{ApiError, ErrorCode};
use rdb_record::Record;
use rdb_replication::{Input, ProposalRefusal, RoleView, Time};
use tokio::sync::oneshot;

use super::Node;
use super::worker::{WorkerHandle, WriteJob, not_leader};
use crate::clock;

/// Client transactions in one group: four times the clients of the largest benchmark, so that a group takes all that waits;
/// beyond this, waiting for the group costs more than its share of the flush saves.
pub const MAX_TRANSACTIONS: usize = 1024;

/// A writer that may not begin looks again after so long, for deadlines that pass meanwhile.
const RECHECK: std::time::Duration = std::time::Duration::from_millis(50);

type Replies = Vec<oneshot::Sender<Result<TransactionResult, ApiError>>>;

/// Takes what waits behind `first`. Jobs whose deadline has passed are answered at once: they surely did not run.
pub(super) fn gather(first: WriteJob, queue: &WorkerHandle) -> Vec<WriteJob> {
    let mut jobs = vec![first];
    jobs.extend(queue.take_writes(MAX_TRANSACTIONS - 1));
    answer_late(jobs)
}

/// Answers the jobs whose deadline has passed and returns the others.
fn answer_late(jobs: Vec<WriteJob>) -> Vec<WriteJob> {
    let now = clock::instant();
    let (late, jobs) = jobs.into_iter().partition::<Vec<_>, _>(|job| now >= job.deadline);
    for job in late {
        let message = "the deadline passed before the write was begun";
        let error = ErrorCode::Timeout.error(message, "try again, or allow more time");
        // A client that has gone away needs no answer; the same below.
        let _ = job.reply.send(Err(error));
    }
    jobs
}

pub(super) fn refuse(jobs: Vec<WriteJob>, error: &ApiError) {
    for job in jobs {
        let _ = job.reply.send(Err(error.clone()));
    }
}

/// Runs a group to its end.
pub(super) fn run(node: &Arc<Node>, writer: &mut Writer, jobs: Vec<WriteJob>) {
    if jobs.is_empty() {
        return;
    }
    let Some((slot, jobs)) = reserve(node, jobs) else { return };
    let (transactions, replies): (Vec<Transaction>, Replies) =
        jobs.into_iter().map(|job| (job.transaction, job.reply)).unzip();
    let slot =
        Slot { epoch: slot.epoch, previous: slot.previous, unix_ms: clock::unix_millis(), timestamp: node.timestamp() };
    let mut proposed = false;
    let outcome = writer.run_group(slot, &transactions, &mut |record| {
        proposed = true;
        commit(node, slot, record)
    });
    if !proposed {
        let effects = node.drive(Input::ReleaseSlot);
        debug_assert!(effects.refused.is_none());
    }
    match outcome {
        Ok(result) => answer(node, result, replies),
        Err(fatal) => super::die("a committed group is not visible", &fatal),
    }
}

/// Waits for the right to write: while writes are stopped, or without a lease in async mode, the group waits.
fn reserve(node: &Node, mut jobs: Vec<WriteJob>) -> Option<(rdb_replication::Slot, Vec<WriteJob>)> {
    let mut core = node.lock();
    loop {
        if node.disk.is_full() {
            drop(core);
            refuse(jobs, &disk_full());
            return None;
        }
        let role = core.running.as_ref().map(|running| running.replica.role());
        if !matches!(role, Some(RoleView::Open | RoleView::WritesStopped)) {
            drop(core);
            refuse(jobs, &not_leader());
            return None;
        }
        let now = Time(clock::boot_micros());
        if let Some(slot) = core.running.as_mut().and_then(|running| running.replica.reserve_slot(now)) {
            return Some((slot, jobs));
        }
        node.decided.wait_for(&mut core, RECHECK);
        jobs = answer_late(jobs);
        if jobs.is_empty() {
            return None;
        }
    }
}

/// The commit point: called by SQLite when all pages of the group are known and nothing is visible yet. Returns when the
/// durability rule is met.
fn commit(node: &Node, slot: Slot, record: Record) -> Result<(), CommitError> {
    let entry = record.try_encode(slot.previous, slot.epoch).map_err(|error| {
        node.drive(Input::ReleaseSlot);
        CommitError(ErrorCode::RequestTooLarge.error(error.to_string(), "write less in one transaction"))
    })?;
    let index = entry.position.index;
    let effects = node.drive(Input::Propose { entry });
    if let Some(refusal) = effects.refused {
        return Err(CommitError(refused(refusal)));
    }
    if effects.full {
        return Err(CommitError(disk_full()));
    }
    let mut core = node.lock();
    while node.view.committed() < index {
        if !leads(&core, slot.epoch) {
            return Err(CommitError(unknown()));
        }
        node.decided.wait(&mut core);
    }
    // Committed under another leader's epoch is not ours to show: the record at this index may be another one.
    if leads(&core, slot.epoch) { Ok(()) } else { Err(CommitError(unknown())) }
}

fn leads(core: &super::core::Core, epoch: Epoch) -> bool {
    core.running.as_ref().is_some_and(|running| running.replica.is_open() && running.replica.epoch() == epoch)
}

fn answer(node: &Node, result: GroupResult, replies: Replies) {
    let error = match result.record {
        Some(position) => {
            node.view.set_applied(position.index);
            node.drive(Input::Applied { index: position.index });
            None
        }
        // Nobody has confirmed that this node still leads.
        None => (!node.lease_valid()).then(not_leader),
    };
    for (reply, result) in replies.into_iter().zip(result.results) {
        let answer = match &error {
            Some(error) => Err(error.clone()),
            None => result.map_err(|failure: SqlFailure| failure.api),
        };
        let _ = reply.send(answer);
    }
}

fn refused(refusal: ProposalRefusal) -> ApiError {
    match refusal {
        // Both mean "not now, and surely not run": held and retried by whoever forwards.
        ProposalRefusal::NotOpen | ProposalRefusal::WritesStopped | ProposalRefusal::DoesNotFollow => not_leader(),
        ProposalRefusal::NoLease => ErrorCode::NoLeader
            .error("the leader has no lease: it hears neither the operator nor all followers", "try again"),
    }
}

fn disk_full() -> ApiError {
    ErrorCode::DiskFull.error("too little disk space to accept writes", "free space or grow the volume; reads go on")
}

fn unknown() -> ApiError {
    ErrorCode::UnknownOutcome.error(
        "the leader was replaced while the write waited for its followers",
        "send it again with the same Idempotency-Key, or read whether it took effect",
    )
}
