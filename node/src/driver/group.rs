//! One group of client transactions: gather, run, log, replicate, then make visible and answer.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use rdb_engine::{CommitError, GroupResult, Slot, SqlFailure, Transaction, TransactionResult, Writer};
use rdb_protocol::BOOTSTRAP_VERSION;
use rdb_protocol::api::{ApiError, ErrorCode, Outcome};
use rdb_protocol::settings::LogFormat;
use rdb_protocol::status::RecordPlace;
use rdb_record::Record;
use rdb_replication::{Input, ProposalRefusal, Time};
use tokio::sync::oneshot;

use super::worker::{WorkerHandle, WriteJob, not_leader};
use super::{Node, loss};
use crate::clock;

/// Client transactions in one group: four times the clients of the largest benchmark, so that a group takes all that waits;
/// beyond this, waiting for the group costs more than its share of the flush saves.
pub const MAX_TRANSACTIONS: usize = 1024;

/// The longest wait for more of a group. Clients on the same machine come back within this.
const MAX_GATHERING: std::time::Duration = std::time::Duration::from_micros(300);
/// Gathering takes at most this share of what the last group took: a third, so that it can cost a third of the throughput
/// when nobody comes, and nearly doubles it when all do.
const GATHERING_SHARE: u32 = 3;

/// How the last group went.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pace {
    pub transactions: usize,
    pub took: std::time::Duration,
}

/// A writer that may not begin looks again after so long, for deadlines that pass meanwhile.
const RECHECK: std::time::Duration = std::time::Duration::from_millis(50);

type Replies = Vec<oneshot::Sender<Result<TransactionResult, ApiError>>>;

/// Takes what waits behind `first`. Jobs whose deadline has passed are answered at once: they surely did not run.
///
/// The clients of the group before, just answered, are about to write again. Where others wait already, it pays to wait for
/// them too: otherwise the clients part into two crowds that take turns, each group with half of them.
pub(super) fn gather(first: WriteJob, queue: &WorkerHandle, last: Pace) -> Vec<WriteJob> {
    let mut jobs = vec![first];
    jobs.extend(queue.take_writes(MAX_TRANSACTIONS - 1));
    if jobs.len() > 1 && last.transactions > 1 && jobs.len() < MAX_TRANSACTIONS {
        queue.wait_for(last.transactions, MAX_GATHERING.min(last.took / GATHERING_SHARE));
        jobs.extend(queue.take_writes(MAX_TRANSACTIONS - jobs.len()));
    }
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
    if loss::is_owed(node) && !loss::settle(node, writer) {
        let reason = if node.disk.is_full() { disk_full() } else { not_leader() };
        return refuse(jobs, &reason);
    }
    for group in groups(jobs) {
        run_group(node, writer, group);
    }
}

/// In order; VACUUM is a group of its own, all others stay together.
fn groups(jobs: Vec<WriteJob>) -> Vec<Vec<WriteJob>> {
    let mut groups: Vec<Vec<WriteJob>> = Vec::new();
    let mut after_vacuum = true;
    for job in jobs {
        let vacuum = job.transaction.is_vacuum();
        match groups.last_mut().filter(|_| !vacuum && !after_vacuum) {
            Some(group) => group.push(job),
            None => groups.push(vec![job]),
        }
        after_vacuum = vacuum;
    }
    groups
}

/// False when the group could not begin, or was not committed here.
pub(super) fn run_group(node: &Arc<Node>, writer: &mut Writer, jobs: Vec<WriteJob>) -> bool {
    let Some((slot, jobs)) = reserve(node, jobs) else { return false };
    // Whoever sent the others may rely on their not running any more.
    let (jobs, late) = jobs.into_iter().partition::<Vec<_>, _>(|job| job.epoch == slot.epoch);
    refuse(late, &not_leader());
    if jobs.is_empty() {
        node.drive(Input::ReleaseSlot);
        return false;
    }
    node.group_since.store(clock::boot_micros(), Ordering::Release);
    node.hold_news();
    let done = run_reserved(node, writer, slot, jobs);
    node.group_since.store(0, Ordering::Release);
    done
}

fn run_reserved(node: &Arc<Node>, writer: &mut Writer, slot: rdb_replication::Slot, jobs: Vec<WriteJob>) -> bool {
    let (transactions, replies): (Vec<Transaction>, Replies) =
        jobs.into_iter().map(|job| (job.transaction, job.reply)).unzip();
    let timestamp = node.timestamp();
    // The time of records never steps back, whoever leads, so that idempotency keys do not expire early.
    let slot = Slot { epoch: slot.epoch, previous: slot.previous, unix_ms: timestamp >> 16, timestamp };
    let recording = {
        // A report that speaks of other settings must not speak of earlier records.
        let wanted = node.recording.read();
        if wanted.format == LogFormat::Logical {
            *node.exact_since.lock() = RecordPlace::default();
        }
        *wanted
    };
    let mut exact = recording.format != LogFormat::Logical;
    if let Err(error) = writer.record_as(recording) {
        tracing::error!(%error, ?recording, "cannot change the log format; the records stay as they were");
        exact = false;
        *node.exact_since.lock() = RecordPlace::default();
    }
    writer.limit_vacuum(vacuum_until(node, &transactions));
    let mut proposed = false;
    let outcome = writer.run_group(slot, &transactions, &mut |record| {
        proposed = true;
        let mut since = node.exact_since.lock();
        if exact && since.epoch != slot.epoch {
            *since = RecordPlace { epoch: slot.epoch, index: slot.previous.index.next() };
        }
        drop(since);
        commit(node, slot, record)
    });
    if !proposed {
        let effects = node.drive(Input::ReleaseSlot);
        debug_assert!(effects.refused.is_none());
    }
    match outcome {
        Ok(result) => {
            let done = !proposed || result.record.is_some();
            answer(node, result, replies);
            done
        }
        Err(fatal) => super::die("a committed group is not visible", &fatal),
    }
}

/// VACUUM may not take the leader's place away, and the next leader's when its client tries again: by then it must be ready for
/// the log and the followers, which have the rest of `progressTimeout`.
fn vacuum_until(node: &Node, transactions: &[Transaction]) -> Option<std::time::Instant> {
    transactions.first().filter(|first| first.is_vacuum())?;
    let timeout = node.lock().running.as_ref().map(|running| running.replica.settings().progress_timeout_ms)?;
    Some(clock::instant() + std::time::Duration::from_millis(timeout / VACUUM_SHARE))
}

/// The part of `progressTimeout` for what VACUUM does before its record is there; the log and the followers write as much again,
/// at the same time.
const VACUUM_SHARE: u64 = 3;

/// Waits for the right to write: while writes are stopped, or without a lease in async mode, the group waits.
pub(super) fn reserve(node: &Node, mut jobs: Vec<WriteJob>) -> Option<(rdb_replication::Slot, Vec<WriteJob>)> {
    loop {
        if node.disk.is_full() {
            refuse(jobs, &disk_full());
            return None;
        }
        if !node.view.is_open() {
            refuse(jobs, &not_leader());
            return None;
        }
        let now = Time(clock::boot_micros());
        let slot = node.lock().running.as_mut().and_then(|running| {
            // Until the rule that was asked for holds, a write would be acknowledged by one copy alone.
            let asked = running.replica.config().is_some_and(|config| config.current.version > BOOTSTRAP_VERSION);
            if asked { running.replica.reserve_slot(now) } else { None }
        });
        if let Some(slot) = slot {
            return Some((slot, jobs));
        }
        node.view.wait_for(RECHECK);
        jobs = answer_late(jobs);
        if jobs.is_empty() {
            return None;
        }
    }
}

/// The commit point: called by SQLite when all pages of the group are known and nothing is visible yet. Returns when the
/// durability rule is met.
pub(super) fn commit(node: &Node, slot: Slot, record: Record) -> Result<(), CommitError> {
    let entry = record.try_encode(slot.previous, slot.epoch).map_err(|error| {
        node.drive(Input::ReleaseSlot);
        CommitError(ErrorCode::RequestTooLarge.error(error.to_string(), "write less in one transaction"))
    })?;
    let index = entry.position.index;
    let effects = node.drive(Input::Propose { entry });
    if let Some(refusal) = effects.refused {
        return Err(CommitError(refused(refusal)));
    }
    // A record of the core's own may have found no room behind this one, which is then on its way all the same.
    if effects.no_room_for.is_some_and(|first| first <= index) {
        return Err(CommitError(disk_full()));
    }
    node.view.wait_until(|| node.view.committed() >= index || !node.view.leads(slot.epoch));
    // Committed under another leader's epoch is not ours to show: the record at this index may be another one.
    if node.view.leads(slot.epoch) { Ok(()) } else { Err(CommitError(unknown())) }
}

fn answer(node: &Node, result: GroupResult, replies: Replies) {
    let applied = result.record.map(|position| position.index);
    if let Some(index) = applied {
        node.view.set_applied(index);
    }
    // Without a record, nobody has confirmed that this node still leads.
    let confirmed = applied.is_some() || node.lease_valid();
    for (reply, result) in replies.into_iter().zip(result.results) {
        let _ = reply.send(verdict(result, confirmed));
    }
    if let Some(index) = applied {
        node.drive(Input::Applied { index });
    }
}

/// What a client hears. Results and failures that nobody has confirmed may be those of a leader that was replaced, so they
/// are taken back; but not that the outcome is unknown: the record may be in the logs, and "did not run" would let
/// somebody run it twice.
fn verdict(result: Result<TransactionResult, SqlFailure>, confirmed: bool) -> Result<TransactionResult, ApiError> {
    match result {
        Err(failure) if failure.api.outcome == Outcome::Unknown => Err(failure.api),
        _ if !confirmed => Err(not_leader()),
        result => result.map_err(|failure| failure.api),
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

#[cfg(test)]
mod tests {
    use super::*;
    use rdb_engine::Statement;
    use rdb_protocol::api::Token;
    use rdb_protocol::{Epoch, Index};

    fn failure(api: ApiError) -> Result<TransactionResult, SqlFailure> {
        Err(SqlFailure { api, sqlite_code: None })
    }

    #[test]
    fn vacuum_is_a_group_of_its_own() {
        let job = |sql: &str| {
            let transaction = Transaction { statements: vec![Statement::new(sql)], ..Transaction::default() };
            let (reply, _nobody) = oneshot::channel();
            WriteJob { transaction, epoch: Epoch(1), deadline: clock::instant(), reply }
        };
        for (jobs, sizes) in [
            (&["a", "b"][..], &[2][..]),
            (&["a", "VACUUM", "b", "c"], &[1, 1, 2]),
            (&["vacuum", "-- x\nVacuum;", "c"], &[1, 1, 1]),
            (&[], &[]),
        ] {
            let made: Vec<usize> = groups(jobs.iter().map(|sql| job(sql)).collect()).iter().map(Vec::len).collect();
            assert_eq!(made, sizes, "{jobs:?}");
        }
    }

    #[test]
    fn a_replaced_leader_does_not_call_a_logged_write_not_run() {
        for confirmed in [false, true] {
            let heard = verdict(failure(unknown()), confirmed).unwrap_err();
            assert_eq!(heard.outcome, Outcome::Unknown);
        }
    }

    #[test]
    fn what_nobody_confirmed_is_taken_back() {
        let position = Token { epoch: Epoch(1), index: Index(1) };
        let read = || Ok(TransactionResult { results: Vec::new(), position, replayed: false });
        assert!(verdict(read(), true).is_ok());
        assert_eq!(verdict(read(), false).unwrap_err().code, ErrorCode::NotLeader);
        let constraint = || failure(ErrorCode::Constraint.error("UNIQUE", ""));
        assert_eq!(verdict(constraint(), true).unwrap_err().code, ErrorCode::Constraint);
        assert_eq!(verdict(constraint(), false).unwrap_err().code, ErrorCode::NotLeader);
    }
}
