//! The group as row changes: watched while it runs, finished before COMMIT, installed after it.

use std::collections::{BTreeSet, HashSet};
use std::rc::Rc;

use rdb_protocol::api::ErrorCode;
use rdb_protocol::settings::LogFormat;
use rdb_record::RowGroup;

use super::conduct::Conduct;
use super::{Slot, Writer};
use crate::authorizer::Effects;
use crate::chance;
use crate::error::SqlFailure;
use crate::rows::apply::RowSql;
use crate::rows::sequence::{self, Counters};
use crate::rows::shape::{self, Shape};
use crate::rows::sums::RowSums;
use crate::rows::watch::{Mark, Mode, Watch};
use crate::sql::statement::{SqliteError, Stmt};
use crate::sql::text::contains_word_part;
use crate::value::{Args, Statement, Value};

/// What the writer keeps about rows.
pub(super) struct Rows {
    pub(super) watch: Rc<Watch>,
    /// The hook is on the connection.
    pub(super) on: bool,
    /// The shapes are those of another schema.
    pub(super) stale: bool,
    /// AUTOINCREMENT counters as of the last commit; `None`: to be read.
    pub(super) counters: Option<Counters>,
    /// Schema cookie when the group began.
    pub(super) cookie: u32,
    /// The group has changed the schema, and these tables (in lower case).
    pub(super) ddl: Option<BTreeSet<String>>,
    /// Before the present transaction.
    pub(super) mark: Option<Mark>,
    /// What a successful commit makes true.
    pub(super) pending: Pending,
    pub(super) sql: RowSql,
    /// What the connection is set up for.
    pub(super) conduct: Conduct,
}

impl Default for Rows {
    fn default() -> Rows {
        Rows {
            watch: Rc::default(),
            on: false,
            stale: true,
            counters: None,
            cookie: 0,
            ddl: None,
            mark: None,
            pending: Pending::default(),
            sql: RowSql::default(),
            conduct: Conduct::Client,
        }
    }
}

#[derive(Default)]
pub(super) struct Pending {
    pub(super) sums: Option<RowSums>,
    pub(super) counters: Option<Counters>,
}

/// The group's row changes for its record.
pub(super) struct RowsOffer {
    pub(super) group: RowGroup,
    /// They are the payload; otherwise they stand beside it.
    pub(super) alone: bool,
    pub(super) watch: Rc<Watch>,
}

impl RowsOffer {
    /// Nothing was written to a row since the offer was made.
    pub(super) fn is_whole(&self) -> bool {
        self.watch.with_log(|log| log.encoded_len()) == self.group.body.len() + log_header()
    }
}

fn log_header() -> usize {
    rdb_record::RowLog::default().encoded_len()
}

impl Writer {
    /// After BEGIN: everything that must be known before the first row changes.
    pub(super) fn begin_rows(&mut self) -> Result<(), SqliteError> {
        let db = self.session.db;
        self.rows.ddl = None;
        self.rows.pending = Pending::default();
        if !self.rows.on {
            return Ok(());
        }
        self.rows.cookie = self.read_cookie()?;
        self.internal(|own| {
            if own.rows.stale {
                own.refresh_shapes()?;
                own.rows.counters = None;
            }
            if own.rows.counters.is_none() {
                own.rows.counters = Some(own.read_counters()?);
            }
            let shared = std::sync::Arc::clone(&own.turn.0);
            let mut sums = shared.rows.lock();
            if own.recording.sums && sums.is_none() {
                *sums = Some(own.rows.watch.with_shapes(|shapes| RowSums::scan(db, shapes))?);
            }
            Ok(())
        })?;
        self.rows.watch.sums.set(self.recording.sums);
        let limit = self.turn.0.options.max_record_bytes;
        self.rows.watch.reset(self.recording.old_values, self.recording.names, limit);
        Ok(())
    }

    pub(super) fn read_cookie(&mut self) -> Result<u32, SqliteError> {
        self.internal(|own| {
            let cookie = own.sql.cookie.step().map(|_| own.sql.cookie.integer(0) as u32);
            own.sql.cookie.reset();
            cookie
        })
    }

    pub(super) fn refresh_shapes(&mut self) -> Result<(), SqliteError> {
        let shapes = shape::read(self.session.db)?;
        self.rows.watch.set_shapes(shapes);
        self.rows.stale = false;
        Ok(())
    }

    pub(super) fn read_counters(&self) -> Result<Counters, SqliteError> {
        match self.rows.watch.shape(sequence::TABLE) {
            Some(_) => sequence::read(self.session.db),
            None => Ok(Counters::new()),
        }
    }

    /// Before a client's transaction; `tag` is the place that its client tag would get.
    pub(super) fn watch_transaction(&mut self, number: u32, tag: Option<usize>) {
        self.number = number;
        if self.rows.on {
            self.rows.watch.with_log(|log| log.begin(number, tag));
            self.rows.watch.mode.set(Mode::Log);
            self.take_mark();
        }
    }

    /// What comes from here on is undone with the transaction.
    pub(super) fn take_mark(&mut self) {
        if self.rows.on {
            self.rows.mark = Some(self.rows.watch.mark());
        }
    }

    /// The transaction was undone.
    pub(super) fn unwatch(&mut self) {
        if let (true, Some(mark)) = (self.rows.on, &self.rows.mark) {
            self.rows.watch.back_to(mark);
            // With it, what it did to the schema.
            self.rows.stale |= self.group_changed_schema;
            // A statement that changes the schema may have failed.
            self.rows.watch.mode.set(Mode::Log);
        }
    }

    fn fresh_shapes(&mut self) -> Result<(), SqliteError> {
        if self.rows.stale { self.internal(|own| own.refresh_shapes()) } else { Ok(()) }
    }

    /// Before a statement. One that is replayed is not logged, but does what it did on the leader for being logged there.
    pub(super) fn before_statement(
        &mut self,
        effects: Effects,
        touched: &BTreeSet<String>,
        statement: &Statement,
    ) -> Result<(), SqliteError> {
        let schema = self.rows.on && effects.changes_for_sure();
        let anew = effects.all_tables() || self.buffers && begins_anew(statement);
        if self.buffers && (schema || anew) {
            self.flush_buffers()?;
        }
        if anew {
            self.order_tables()?;
        }
        if !self.rows.on || self.recording.replay {
            return Ok(());
        }
        self.fresh_shapes()?;
        if schema {
            self.rows.watch.begin_schema(touched.clone());
        }
        Ok(())
    }

    /// Virtual tables write what they hold back.
    fn flush_buffers(&mut self) -> Result<(), SqliteError> {
        self.internal(|own| own.sql.savepoint.execute().and_then(|()| own.sql.release.execute()))
    }

    /// After a statement; `inside`: a virtual table changed the schema while it ran. The error is a refusal that comes after
    /// the fact.
    pub(super) fn after_statement(
        &mut self,
        effects: Effects,
        inside: bool,
        statement: &Statement,
        touched: BTreeSet<String>,
    ) -> Result<(), SqlFailure> {
        if !self.rows.on || self.recording.replay {
            return Ok(());
        }
        self.log_rewritten().map_err(|error| crate::sql::failure::failure(error, None))?;
        if let Some(why) = self.rows.watch.take_failure() {
            return Err(not_carried(why));
        }
        if inside && self.recording.sums {
            return Err(not_carried("a virtual table makes a table of its own while it is written to".to_owned()));
        }
        if effects.changes_for_sure() {
            self.rows.watch.mode.set(Mode::Log);
            self.log_statement(effects, statement, touched)?;
        }
        if self.rows.watch.is_full() { Err(too_large(self.turn.0.options.max_record_bytes)) } else { Ok(()) }
    }

    /// Logs what has become of rows that the statement wrote in place.
    fn log_rewritten(&mut self) -> Result<(), SqliteError> {
        for row in self.rows.watch.take_rewritten() {
            let select = row.shape.select_one();
            let db = self.session.db;
            let read = self.internal(|_| Stmt::internal(db, &select))?;
            read.bind_integer(1, row.rowid)?;
            if read.step()? {
                let new: Vec<_> = (1..=row.shape.table.columns.len()).map(|at| read.cell(at)).collect();
                self.rows.watch.log_rewritten(&row, &new);
            }
        }
        Ok(())
    }

    /// Logs a statement that followers run themselves.
    fn log_statement(
        &mut self,
        effects: Effects,
        statement: &Statement,
        mut touched: BTreeSet<String>,
    ) -> Result<(), SqlFailure> {
        let (number, named) = (self.number, matches!(statement.args, Args::Named(_)));
        let args: Vec<(&str, rdb_record::CellRef<'_>)> = match &statement.args {
            Args::Positional(values) => values.iter().map(|value| ("", value.as_cell())).collect(),
            Args::Named(values) => values.iter().map(|(name, value)| (name.as_str(), value.as_cell())).collect(),
        };
        let failed = |error| crate::sql::failure::failure(error, None);
        touched.extend(self.session.authorizer.take_touched());
        let known = self.rows.watch.with_shapes(|shapes| shapes.keys().cloned().collect::<HashSet<_>>());
        self.internal(|own| own.refresh_shapes()).map_err(failed)?;
        let shapes = |found: &dyn Fn(&Shape) -> bool| {
            self.rows.watch.with_shapes(|shapes| shapes.values().find(|shape| found(shape)).cloned())
        };
        let refused = shapes(&|shape| shape.refusal().is_some() && touched.contains(&shape.lower_name()));
        if let Some(why) = refused.and_then(|shape| shape.refusal()) {
            return Err(not_carried(why));
        }
        let filled =
            |shape: &Shape| touched.contains(&shape.lower_name()) && !known.contains(shape.table.name.as_bytes());
        match effects.fills_table().then(|| shapes(&filled)).flatten() {
            Some(shape) => self.log_new_table(&shape).map_err(failed)?,
            None => self.rows.watch.with_log(|log| log.statement(number, &statement.sql, named, &args)),
        }
        self.rows.ddl.get_or_insert_default().extend(touched);
        Ok(())
    }

    /// Logs a table that a query has filled, and its rows: the query could find others elsewhere, or find them in another order.
    fn log_new_table(&mut self, shape: &Shape) -> Result<(), SqliteError> {
        let (number, db) = (self.number, self.session.db);
        let watch = Rc::clone(&self.rows.watch);
        self.internal(|_| {
            let name = Value::Text(shape.table.name.clone());
            let sql = Stmt::internal(db, "SELECT sql FROM sqlite_schema WHERE type = 'table' AND name = ?1")?;
            // SAFETY: `name` outlives the statement, which is dropped first.
            unsafe { sql.bind(1, &name)? };
            if let (true, Value::Text(sql)) = (sql.step()?, sql.value(0)) {
                watch.with_log(|log| log.statement(number, &sql, false, &[]));
            }
            let rows = Stmt::internal(db, &shape.select())?;
            while !watch.is_full() && rows.step()? {
                let new: Vec<_> = (1..=shape.table.columns.len()).map(|at| rows.cell(at)).collect();
                watch.with_log(|log| log.insert(&shape.table, rows.integer(0), &new));
            }
            Ok(())
        })
    }

    /// Before COMMIT, when everything else is written.
    pub(super) fn finish_rows(&mut self, slot: &Slot) -> Result<Option<RowsOffer>, SqliteError> {
        if !self.rows.on || self.recording.replay {
            return Ok(None);
        }
        self.fresh_shapes()?;
        if self.buffers {
            self.flush_buffers()?;
        }
        let counters = self.internal(|own| own.read_counters())?;
        if let Some(shape) = self.rows.watch.shape(sequence::TABLE) {
            let before = self.rows.counters.take().unwrap_or_default();
            self.rows.watch.with_log(|log| sequence::log(log, &shape, &before, &counters));
            self.rows.counters = Some(before);
        }
        let sums = self.settle_sums(&counters)?;
        let cookie_after = if self.rows.ddl.is_some() { self.read_cookie()? } else { self.rows.cookie };
        let content = sums.as_ref().map(RowSums::content);
        let cookies = (self.rows.cookie, cookie_after);
        let group = self.rows.watch.with_log(|log| log.group(cookies, slot.previous.chain, chance::seed(), content));
        self.rows.pending = Pending { sums, counters: Some(counters) };
        let alone = self.recording.format == LogFormat::Logical;
        Ok(Some(RowsOffer { group, alone, watch: Rc::clone(&self.rows.watch) }))
    }

    /// Of a group that changes the schema's version, and no row. Before it has begun.
    pub(super) fn no_rows(&mut self, slot: &Slot, cookie_after: u32) -> Result<Option<RowsOffer>, SqliteError> {
        self.begin_rows()?;
        if !self.rows.on {
            return Ok(None);
        }
        let cookies = (self.rows.cookie, cookie_after);
        let group = self.rows.watch.with_log(|log| log.group(cookies, slot.previous.chain, chance::seed(), None));
        Ok(Some(RowsOffer { group, alone: false, watch: Rc::clone(&self.rows.watch) }))
    }

    /// The sums after the group; `None` when they are not kept.
    pub(super) fn settle_sums(&mut self, counters: &Counters) -> Result<Option<RowSums>, SqliteError> {
        if !self.recording.sums {
            return Ok(None);
        }
        let db = self.session.db;
        let before = self.turn.0.rows.lock().clone();
        let mut sums = before.unwrap_or_default();
        self.rows.watch.settle(&mut sums);
        if let Some(touched) = &self.rows.ddl {
            let watch = Rc::clone(&self.rows.watch);
            let touched = touched.clone();
            self.internal(|_| watch.with_shapes(|shapes| sums.renew(db, shapes, &touched)))?;
        }
        if self.rows.watch.shape(sequence::TABLE).is_some() {
            sums.set(sequence::TABLE, sequence::sum(counters));
        }
        Ok(Some(sums))
    }

    /// The group is committed.
    pub(super) fn rows_committed(&mut self) {
        let pending = std::mem::take(&mut self.rows.pending);
        *self.turn.0.rows.lock() = pending.sums;
        self.rows.counters = pending.counters;
    }
}

/// Has it FTS5 write an index from the beginning? It then also writes down how often it has seen the settings change, which it knows
/// or not by what the connection did before, so it is to begin with knowing nothing.
fn begins_anew(statement: &Statement) -> bool {
    const COMMANDS: [&str; 2] = ["rebuild", "delete-all"];
    let named = |value: &Value| matches!(value, Value::Text(text) if COMMANDS.iter().any(|command| command.eq_ignore_ascii_case(text)));
    COMMANDS.iter().any(|command| contains_word_part(&statement.sql, command))
        || match &statement.args {
            Args::Positional(values) => values.iter().any(named),
            Args::Named(values) => values.iter().any(|(_, value)| named(value)),
        }
}

fn too_large(limit: u64) -> SqlFailure {
    let hint = "make several smaller transactions of it";
    SqlFailure::new(
        ErrorCode::RequestTooLarge,
        format!("the transaction's changes are larger than {limit} bytes"),
        hint,
    )
}

fn not_carried(why: String) -> SqlFailure {
    let hint = "rename a column, or set replication.logFormat to page, statement or mixed and changeStream to false";
    SqlFailure::new(ErrorCode::Forbidden, format!("the log of row changes cannot carry this: {why}"), hint)
}
