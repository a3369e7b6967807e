//! One attempt at a group: run, write what belongs to the record, commit.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use rdb_protocol::api::ErrorCode;
use rdb_protocol::settings::LogFormat;
use rdb_record::StatementGroup;
use rusqlite::ffi;

use super::commit::{CommitPoint, Decision, Statements};
use super::execute::{Done, Stop};
use super::plan::{Attempt, Plan, all_failed, all_failed_anew, not_run};
use super::{MAX_BREAKS, Slot, Writer, space};
use crate::chance;
use crate::error::{Fatal, SqlFailure};
use crate::rows::watch::Mode;
use crate::sql::failure::failure;
use crate::sql::statement::SqliteError;
use crate::value::Transaction;

/// What the transactions of an attempt did.
struct RanGroup {
    results: Vec<Result<Done, SqlFailure>>,
    /// Statements that write were run.
    wrote: bool,
    /// Something changed for sure.
    changed: bool,
    /// Another node can repeat all of it from its text.
    exact: bool,
    /// Something that failed may have left bytes behind.
    soiled: bool,
}

impl Writer {
    pub(super) fn attempt(
        &mut self,
        slot: Slot,
        group: &[Transaction],
        plan: &mut Plan,
        point: &CommitPoint<'_>,
    ) -> Result<Attempt, Fatal> {
        point.reset();
        self.session.progress.stop();
        if let [only] = group
            && only.is_vacuum()
        {
            return self.vacuum(&slot, only, plan, point);
        }
        if let Err(error) = self.internal(|own| own.sql.begin.execute()) {
            return Ok(Attempt::Done(all_failed(plan, &failure(error, None))));
        }
        self.group_changed_schema = false;
        if let Err(error) = self.begin_rows() {
            self.roll_back();
            return Ok(Attempt::Done(all_failed(plan, &failure(error, None))));
        }
        let ran = match self.run_all(&slot, group, plan, point) {
            Ok(ran) => ran,
            Err(attempt) => return Ok(attempt),
        };
        self.conclude_group(&slot, ran, plan, point)
    }

    /// Runs the transactions that are not settled. `Err`: the attempt has ended.
    fn run_all(
        &mut self,
        slot: &Slot,
        group: &[Transaction],
        plan: &mut Plan,
        point: &CommitPoint<'_>,
    ) -> Result<RanGroup, Attempt> {
        let results = Vec::with_capacity(group.len());
        let mut ran = RanGroup { results, wrote: false, changed: plan.force_record, exact: true, soiled: false };
        self.statements.reset();
        for (index, transaction) in group.iter().enumerate() {
            if let Some(Some(settled)) = plan.settled.get(index) {
                ran.results.push(Err(settled.clone()));
                continue;
            }
            chance::begin_transaction(index as u32);
            self.statements.begin(index as u32, &mut self.draft);
            self.watch_transaction(index as u32, transaction.key.as_ref().map(|_| point.clients()));
            match self.execute(transaction, slot) {
                Ok(done) => {
                    ran.wrote |= done.wrote;
                    ran.changed |= done.changed;
                    ran.exact &= !done.unrepeatable;
                    let key = transaction.key.as_ref().filter(|_| done.keyed);
                    let key = key.map(|key| (point.add_client(key.tag.clone()), key.request_hash));
                    if done.wrote {
                        self.statements.keep(&self.draft, key);
                    } else {
                        self.statements.take_back();
                    }
                    ran.results.push(Ok(done));
                }
                Err(stop) => {
                    self.statements.take_back();
                    self.unwatch();
                    ran.soiled |= self.may_soil();
                    match self.stopped(stop, index, plan, point) {
                        Some(attempt) => return Err(attempt),
                        None => match plan.settled.get_mut(index).and_then(Option::take) {
                            Some(undone) => ran.results.push(Err(undone)),
                            None => ran.results.push(Err(not_run("its failure was lost"))),
                        },
                    }
                }
            }
        }
        self.session.progress.stop();
        Ok(ran)
    }

    /// Writes what belongs to the record, and commits.
    fn conclude_group(
        &mut self,
        slot: &Slot,
        ran: RanGroup,
        plan: &mut Plan,
        point: &CommitPoint<'_>,
    ) -> Result<Attempt, Fatal> {
        let RanGroup { results, wrote, changed, exact, soiled } = ran;
        if !wrote {
            self.roll_back();
            return Ok(Attempt::Done(self.finished(results, None)));
        }
        if soiled && self.recording.format == LogFormat::Statement {
            self.roll_back();
            plan.settle(&results);
            return Ok(Attempt::Again);
        }
        if changed && let Err(error) = self.order_record(slot, point) {
            self.roll_back();
            if point.too_large() {
                plan.shrink(self.turn.0.options.max_record_bytes);
                return Ok(Attempt::Again);
            }
            return Ok(Attempt::Done(all_failed(plan, &failure(error, None))));
        }
        if changed && let Err(full) = space::check(&self.turn.0.options, 0) {
            self.roll_back();
            return Ok(Attempt::Done(all_failed(plan, &full)));
        }
        if changed {
            match self.finish_rows(slot) {
                Ok(_) if self.rows.watch.is_full() => {
                    self.roll_back();
                    plan.shrink(self.turn.0.options.max_record_bytes);
                    return Ok(Attempt::Again);
                }
                Ok(rows) => point.offer_rows(rows),
                Err(error) => {
                    self.roll_back();
                    return Ok(Attempt::Done(all_failed(plan, &failure(error, None))));
                }
            }
        }
        if changed && exact && !soiled {
            point.offer(self.statement_group(slot));
        }
        self.commit(slot, results, plan, point)
    }

    /// May a transaction that was undone have left something in the file? SQLite does not restore the content of free pages
    /// that it had used and gave back, for nobody reads it; but followers, which never run what failed, would not have it.
    fn may_soil(&mut self) -> bool {
        self.recording.statements()
            && self.in_transaction()
            && self.internal(|own| {
                let found = own.sql.free_pages.step().map(|row| row && own.sql.free_pages.integer(0) > 0);
                own.sql.free_pages.reset();
                found.unwrap_or(true)
            })
    }

    /// The group as statements, if records may carry it so.
    fn statement_group(&self, slot: &Slot) -> Option<Statements> {
        let at_most = match self.recording.format {
            LogFormat::Statement => usize::MAX,
            LogFormat::Mixed => 0,
            LogFormat::Page | LogFormat::Logical => return None,
        };
        let group = StatementGroup {
            // SAFETY: a plain question to the library.
            sqlite: unsafe { ffi::sqlite3_libversion_number() } as u32,
            page_size: self.turn.0.page_size,
            previous_chain: slot.previous.chain,
            seed: chance::seed(),
            watched: self.recording.watched,
            body: self.statements.body(),
        };
        Some(Statements { group, at_most })
    }

    /// Deals with a transaction that did not end well. `None`: it was undone alone (its failure lies in the plan until
    /// the caller takes it), and the group goes on.
    fn stopped(&mut self, stop: Stop, index: usize, plan: &mut Plan, point: &CommitPoint<'_>) -> Option<Attempt> {
        let too_large = point.too_large() || self.rows.watch.is_full();
        match stop {
            _ if too_large => {
                self.roll_back();
                plan.shrink(self.turn.0.options.max_record_bytes);
                Some(Attempt::Again)
            }
            Stop::Undone(failure) => {
                if let Some(settled) = plan.settled.get_mut(index) {
                    *settled = Some(failure);
                }
                None
            }
            Stop::Full(failure) => {
                self.roll_back();
                Some(Attempt::Done(all_failed(plan, &failure)))
            }
            Stop::Broken(failure) => {
                self.roll_back();
                if let Some(settled) = plan.settled.get_mut(index) {
                    *settled = Some(failure);
                }
                plan.breaks += 1;
                if plan.breaks >= MAX_BREAKS {
                    let rest = plan.settled.iter_mut().skip(index).filter(|settled| settled.is_none());
                    rest.for_each(|settled| {
                        *settled = Some(not_run("too many transactions of its group rolled everything back"));
                    });
                }
                Some(Attempt::Again)
            }
        }
    }

    /// Writes what belongs to the record besides the clients' changes.
    pub(super) fn order_record(&mut self, slot: &Slot, point: &CommitPoint<'_>) -> Result<(), SqliteError> {
        self.internal(|own| {
            if point.has_clients() {
                own.keys.expire(slot.unix_ms)?;
            }
            Ok(())
        })?;
        self.write_position(slot, point)
    }

    pub(super) fn write_position(&mut self, slot: &Slot, point: &CommitPoint<'_>) -> Result<(), SqliteError> {
        let position = slot.position();
        self.internal(|own| own.sql.position.write(&position))?;
        point.arm();
        Ok(())
    }

    fn commit(
        &mut self,
        slot: &Slot,
        results: Vec<Result<Done, SqlFailure>>,
        plan: &mut Plan,
        point: &CommitPoint<'_>,
    ) -> Result<Attempt, Fatal> {
        self.ordered.store(true, Ordering::Relaxed);
        let committed = self.internal(|own| own.sql.commit.execute());
        self.ordered.store(false, Ordering::Relaxed);
        self.settle(committed, slot, results, plan, point)
    }

    /// What COMMIT and the commit point together mean.
    pub(super) fn settle(
        &mut self,
        committed: Result<(), SqliteError>,
        slot: &Slot,
        results: Vec<Result<Done, SqlFailure>>,
        plan: &mut Plan,
        point: &CommitPoint<'_>,
    ) -> Result<Attempt, Fatal> {
        self.rows.watch.mode.set(Mode::Off);
        let decision = point.take_decision();
        let error = match (committed, decision) {
            (Ok(()), Decision::Committed(change)) => {
                let position = slot.position();
                let shared = Arc::clone(&self.turn.0);
                if let Some(table) = shared.table.lock().as_mut() {
                    table.install(&change, position);
                }
                shared.gauge.add(point.frames());
                self.position = position;
                self.rows_committed();
                return Ok(Attempt::Done(self.finished(results, Some(position))));
            }
            (Ok(()), Decision::None) if !point.armed() => {
                return Ok(Attempt::Done(self.finished(results, None)));
            }
            (Ok(()), _) => return Err(Fatal("COMMIT succeeded past its commit point".to_owned())),
            (Err(error), Decision::Committed(_)) => return Err(Fatal(error.message)),
            (Err(_), Decision::Called) => return Err(Fatal("the commit callback panicked".to_owned())),
            (Err(_), Decision::Refused(refused)) => {
                self.roll_back();
                let failure = SqlFailure { api: refused.0, sqlite_code: None };
                return Ok(Attempt::Done(all_failed_anew(plan.settled.len(), &failure)));
            }
            (Err(_), Decision::Unordered) => {
                self.roll_back();
                plan.force_record = true;
                return Ok(Attempt::Again);
            }
            (Err(_), Decision::TooLarge) => {
                self.roll_back();
                plan.shrink(self.turn.0.options.max_record_bytes);
                return Ok(Attempt::Again);
            }
            // Before the commit point SQLite only flushes the header of `-wal`, and a failed flush is not tried again.
            (Err(error), Decision::None) if error.primary() == ffi::SQLITE_IOERR && !error.is_full() => {
                return Err(Fatal(error.message));
            }
            (Err(error), Decision::None) => failure(error, None),
            (Err(_), Decision::Stray) => {
                SqlFailure::new(ErrorCode::Unavailable, "a write to -wal was not understood", "see the node's log")
            }
        };
        self.roll_back();
        Ok(Attempt::Done(all_failed(plan, &error)))
    }
}
