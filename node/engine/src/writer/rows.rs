//! The group as row changes: watched while it runs, finished before COMMIT, installed after it.

use std::collections::BTreeSet;
use std::rc::Rc;

use rdb_protocol::api::ErrorCode;
use rdb_protocol::settings::LogFormat;
use rdb_record::RowGroup;

use super::{Slot, Writer};
use crate::authorizer::Effects;
use crate::chance;
use crate::error::SqlFailure;
use crate::rows::apply::RowSql;
use crate::rows::sequence::{self, Counters};
use crate::rows::shape;
use crate::rows::sums::RowSums;
use crate::rows::watch::{Mark, Mode, Watch};
use crate::sql::statement::{SqliteError, Stmt};
use crate::value::{Args, Statement};

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
    /// The connection is set up to apply rows as they are: no triggers, no foreign keys.
    pub(super) raw: bool,
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
            raw: false,
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
        self.rows.watch.reset(self.recording.old_values, self.recording.names);
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

    /// Before a statement that followers run themselves.
    pub(super) fn before_statement(&mut self, effects: Effects) -> Result<(), SqliteError> {
        if !self.rows.on {
            return Ok(());
        }
        self.fresh_shapes()?;
        if effects.changes_for_sure() {
            if self.buffers {
                self.flush_buffers()?;
            }
            self.rows.watch.mode.set(Mode::Sum);
        }
        Ok(())
    }

    /// Virtual tables write what they hold back.
    fn flush_buffers(&mut self) -> Result<(), SqliteError> {
        self.internal(|own| own.sql.savepoint.execute().and_then(|()| own.sql.release.execute()))
    }

    /// After a statement. The error is a refusal that comes after the fact.
    pub(super) fn after_statement(&mut self, effects: Effects, statement: &Statement) -> Result<(), SqlFailure> {
        if !self.rows.on {
            return Ok(());
        }
        if let Some(why) = self.rows.watch.take_failure() {
            return Err(not_carried(why));
        }
        if !effects.changes_for_sure() {
            return Ok(());
        }
        self.rows.watch.mode.set(Mode::Log);
        let (number, named) = (self.number, matches!(statement.args, Args::Named(_)));
        let args: Vec<(&str, rdb_record::CellRef<'_>)> = match &statement.args {
            Args::Positional(values) => values.iter().map(|value| ("", value.as_cell())).collect(),
            Args::Named(values) => values.iter().map(|(name, value)| (name.as_str(), value.as_cell())).collect(),
        };
        self.rows.watch.with_log(|log| log.statement(number, &statement.sql, named, &args));
        let touched = self.session.authorizer.take_touched();
        let refreshed = self.internal(|own| own.refresh_shapes());
        refreshed.map_err(|error| crate::sql::failure::failure(error, None))?;
        let unnameable = |name: &String| {
            self.rows.watch.with_shapes(|shapes| {
                shapes.values().any(|shape| shape.unnameable() && shape.table.name.eq_ignore_ascii_case(name))
            })
        };
        if let Some(name) = touched.iter().find(|name| unnameable(name)) {
            return Err(not_carried(format!(
                "rows of {name} could not be named: it has columns called rowid, _rowid_ and oid"
            )));
        }
        self.rows.ddl.get_or_insert_default().extend(touched);
        Ok(())
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

    /// Sets the connection up for applying rows as they are, or for running SQL as clients do.
    pub(super) fn set_raw(&mut self, raw: bool) -> Result<(), SqliteError> {
        use rusqlite::config::DbConfig as D;
        if self.rows.raw == raw {
            return Ok(());
        }
        for option in [D::SQLITE_DBCONFIG_DEFENSIVE, D::SQLITE_DBCONFIG_ENABLE_FKEY, D::SQLITE_DBCONFIG_ENABLE_TRIGGER]
        {
            self.session.connection.set_db_config(option, !raw).map_err(|error| SqliteError {
                code: rusqlite::ffi::SQLITE_MISUSE,
                message: error.to_string(),
                errno: 0,
            })?;
        }
        let checks = if raw { "PRAGMA ignore_check_constraints = ON" } else { "PRAGMA ignore_check_constraints = OFF" };
        self.internal(|own| Stmt::internal(own.session.db, checks)?.execute())?;
        self.rows.raw = raw;
        Ok(())
    }
}

fn not_carried(why: String) -> SqlFailure {
    let hint = "rename a column, or set replication.logFormat to page, statement or mixed and changeStream to false";
    SqlFailure::new(ErrorCode::Forbidden, format!("the log of row changes cannot carry this: {why}"), hint)
}
