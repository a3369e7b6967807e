//! The follower's side of row changes: makes the same changes in the same order, runs what changes the schema as the leader
//! did, and makes the result visible only if all rows then sum up to what the leader's do.

use rdb_protocol::{Index, Position};
use rdb_record::{Cell, ChangeKind, Record, RowGroup, RowItem, RowItems, RowKey};

use super::commit::{CommitPoint, Decision};
use super::conduct::Conduct;
use super::replay::{args, environment};
use super::{Recording, Slot, Writer};
use crate::capture::Capture;
use crate::chance;
use crate::error::{ApplyError, SqlFailure};
use crate::rows::apply::RowError;
use crate::rows::sequence::{self, Counters};
use crate::rows::sums::RowSums;
use crate::rows::watch::Mode;
use crate::sql::run::{RunError, run};
use crate::value::Statement;
use crate::vfs;

impl Writer {
    /// Applies the row changes of the record at `position`. Nothing of it is visible after an error.
    pub(crate) fn apply_rows(
        &mut self,
        position: Position,
        record: &Record,
        rows: &RowGroup,
    ) -> Result<(), ApplyError> {
        let index = position.index;
        let items = rows.items().map_err(|error| ApplyError::Malformed { index, what: error.to_string() })?;
        let shared = std::sync::Arc::clone(&self.turn.0);
        let _gate = shared.gauge.gate.lock();
        let previous = Position { epoch: position.epoch, index: Index(index.0 - 1), chain: rows.previous_chain };
        let timestamp = record.timestamp;
        let slot = Slot { epoch: position.epoch, previous, unix_ms: timestamp >> 16, timestamp };
        self.set_recording(Recording { watched: true, sums: true, ..Recording::replay() }).map_err(environment)?;
        let empty = Capture::new(shared.page_size, 0);
        let capture = std::mem::replace(&mut self.capture, empty);
        let mut agree = |_| Ok(());
        let point = CommitPoint::new(&shared, capture, &mut agree, timestamp);
        chance::begin_group(slot.unix_ms, index.0, rows.seed);
        let ran = vfs::with_sink(&point, || self.apply_all(&slot, rows, &items, &point));
        chance::end_group();
        self.rows.watch.mode.set(Mode::Off);
        let (decision, frames) = (point.take_decision(), point.frames());
        self.capture = point.into_capture();
        match (ran, decision) {
            (Ok(()), Decision::Committed(change)) => {
                let position = slot.position();
                if let Some(table) = shared.table.lock().as_mut() {
                    table.install(&change, position);
                }
                shared.gauge.add(frames);
                self.position = position;
                self.rows_committed();
                Ok(())
            }
            (ran, _) => {
                self.roll_back();
                let what = "the commit point was not reached".to_owned();
                Err(ran.err().unwrap_or(ApplyError::Failed { index, what }))
            }
        }
    }

    fn apply_all(
        &mut self,
        slot: &Slot,
        rows: &RowGroup,
        items: &RowItems<'_>,
        point: &CommitPoint<'_>,
    ) -> Result<(), ApplyError> {
        let index = slot.position().index;
        let failed = |what: String| ApplyError::Failed { index, what };
        point.reset();
        self.session.progress.stop();
        self.internal(|own| own.sql.begin.execute()).map_err(environment)?;
        self.group_changed_schema = false;
        self.begin_rows().map_err(environment)?;
        if self.rows.cookie != rows.cookie_before {
            let (ours, theirs) = (self.rows.cookie, rows.cookie_before);
            return Err(failed(format!("the schema here has version {ours}, the leader's had {theirs}")));
        }
        let mut counters = self.rows.counters.clone().unwrap_or_default();
        for item in &items.items {
            match item {
                RowItem::Begin { .. } => {}
                RowItem::Statement { number, sql, named, args: values } => {
                    chance::begin_transaction(*number);
                    let statement = Statement { sql: (*sql).to_owned(), args: args(*named, values) };
                    self.run_logged(index, &statement)?;
                }
                RowItem::Row(change) => {
                    let theirs = items.tables.get(change.table).ok_or_else(|| failed("no table".to_owned()))?;
                    if theirs.name == sequence::TABLE {
                        count(&mut counters, &change.kind);
                        continue;
                    }
                    self.conduct_as(Conduct::Rows).map_err(environment)?;
                    self.rows.watch.mode.set(Mode::Sum);
                    let ours = self.rows.watch.shape(&theirs.name);
                    let ours = ours.ok_or_else(|| failed(format!("there is no table {} here", theirs.name)))?;
                    let db = self.session.db;
                    let applied = self.internal(|own| own.rows.sql.apply(db, &ours, theirs, &change.kind));
                    applied.map_err(|error| match error {
                        RowError::Sqlite(error) if error.is_full() => ApplyError::Full(error.message),
                        RowError::Sqlite(error) => failed(format!("a change of {}: {}", theirs.name, error.message)),
                        RowError::Differs(what) => failed(what),
                    })?;
                }
            }
        }
        self.conclude_rows(slot, rows, counters, point)
    }

    /// A statement of the record, run as a client's is.
    fn run_logged(&mut self, index: Index, statement: &Statement) -> Result<(), ApplyError> {
        self.conduct_as(Conduct::Schema).map_err(environment)?;
        self.rows.watch.mode.set(Mode::Sum);
        let failed = |what: String| ApplyError::Failed { index, what: format!("{}: {what}", statement.sql) };
        let refused = |failure: SqlFailure| failed(failure.api.message);
        let (session, sql) = (&self.session, &statement.sql);
        let compiled = self.cache.get(session.db, &session.authorizer, sql).map_err(refused)?;
        let mut touched = compiled.touched.clone();
        if compiled.effects.all_tables() {
            self.order_tables().map_err(environment)?;
        }
        let session = &self.session;
        let compiled = self.cache.get(session.db, &session.authorizer, sql).map_err(refused)?;
        match run(compiled, &statement.args, &mut u64::MAX.clone()) {
            Ok(_) => {}
            Err(RunError::Sqlite(error)) if error.is_full() => return Err(ApplyError::Full(error.message)),
            Err(RunError::Sqlite(error)) => return Err(failed(error.message)),
            Err(RunError::Refused(failure) | RunError::Late(failure)) => return Err(refused(failure)),
            Err(RunError::TooLarge) => return Err(failed("its result is too large".to_owned())),
        }
        self.group_changed_schema = true;
        self.forget_schema();
        self.rows.sql.clear();
        touched.extend(self.session.authorizer.take_touched());
        self.internal(|own| own.refresh_shapes()).map_err(environment)?;
        self.rows.ddl.get_or_insert_default().extend(touched);
        Ok(())
    }

    /// Counters, position, proof, COMMIT.
    fn conclude_rows(
        &mut self,
        slot: &Slot,
        rows: &RowGroup,
        counters: Counters,
        point: &CommitPoint<'_>,
    ) -> Result<(), ApplyError> {
        let index = slot.position().index;
        self.rows.watch.mode.set(Mode::Off);
        if self.rows.watch.shape(sequence::TABLE).is_some() {
            let db = self.session.db;
            self.internal(|_| sequence::store(db, &counters)).map_err(environment)?;
        }
        let sums = self.settle_sums(&counters).map_err(environment)?;
        let ours = sums.as_ref().map_or(0, RowSums::content);
        self.rows.pending = super::rows::Pending { sums, counters: Some(counters) };
        let leaders = rows.content.unwrap_or(0);
        if Some(ours) != rows.content {
            return Err(ApplyError::Diverged { epoch: slot.epoch, index, leaders, ours });
        }
        let cookie = self.read_cookie().map_err(environment)?;
        if cookie != rows.cookie_after {
            let what = format!("the schema has version {cookie} here, {} on the leader", rows.cookie_after);
            return Err(ApplyError::Failed { index, what });
        }
        self.write_position(slot, point).map_err(environment)?;
        self.ordered.store(true, std::sync::atomic::Ordering::Relaxed);
        let committed = self.internal(|own| own.sql.commit.execute());
        self.ordered.store(false, std::sync::atomic::Ordering::Relaxed);
        committed.map_err(environment)
    }
}

/// A change of `sqlite_sequence`.
fn count(counters: &mut Counters, change: &ChangeKind<'_>) {
    let cell = |cells: &[rdb_record::CellRef<'_>], at: usize| cells.get(at).map_or(Cell::Null, |cell| cell.to_cell());
    match change {
        ChangeKind::Insert { rowid, new } => {
            counters.insert(rowid.unwrap_or_default(), [cell(new, 0), cell(new, 1)]);
        }
        ChangeKind::Update { key: RowKey::Rowid(rowid), new, .. } => {
            let row = counters.entry(*rowid).or_default();
            for (place, new) in row.iter_mut().zip(new) {
                if let Some(new) = new {
                    *place = new.to_cell();
                }
            }
        }
        ChangeKind::Delete { key: RowKey::Rowid(rowid), .. } => drop(counters.remove(rowid)),
        ChangeKind::Update { .. } | ChangeKind::Delete { .. } => {}
    }
}
