//! The commit point: sees the group's pages come by, makes the record when the commit frame does, and asks the driver.
//!
//! The same for every log format: what differs between them is only the payload that is built here.

use std::cell::{Cell, RefCell};

use rdb_protocol::api::ErrorCode;
use rdb_record::{ClientTag, PageGroup, Payload, Record, StatementGroup};

use crate::capture::{Capture, Seen};
use crate::checksum::TableChange;
use crate::engine::Shared;
use crate::error::CommitError;
use crate::vfs::WalSink;
use crate::writer::rows::RowsOffer;

/// What happened at the commit point of an attempt.
pub(super) enum Decision {
    /// It was not reached.
    None,
    /// Pages would have been committed without a position row; refused.
    Unordered,
    /// The pages are larger than a record may be; refused.
    TooLarge,
    /// SQLite wrote something that is not understood; refused.
    Stray,
    /// The driver was called and has not returned.
    Called,
    Refused(CommitError),
    /// Logged and durable under the cluster's rule. From here on the group must become visible.
    Committed(TableChange),
}

type Commit<'a> = &'a mut dyn FnMut(Record) -> Result<(), CommitError>;

/// What the record may carry instead of pages.
pub(super) struct Statements {
    pub(super) group: StatementGroup,
    /// Encoded bytes from which on pages are preferred.
    pub(super) at_most: usize,
}

pub(super) struct CommitPoint<'a> {
    shared: &'a Shared,
    capture: RefCell<Capture>,
    commit: RefCell<Commit<'a>>,
    timestamp: u64,
    clients: RefCell<Vec<ClientTag>>,
    /// The group as statements, if it may go so.
    statements: RefCell<Option<Statements>>,
    /// Its row changes, alone or beside.
    rows: RefCell<Option<RowsOffer>>,
    /// The position row is written: a commit frame makes a record.
    armed: Cell<bool>,
    frames: Cell<u64>,
    decision: RefCell<Decision>,
}

impl<'a> CommitPoint<'a> {
    pub(super) fn new(shared: &'a Shared, capture: Capture, commit: Commit<'a>, timestamp: u64) -> Self {
        CommitPoint {
            shared,
            capture: RefCell::new(capture),
            commit: RefCell::new(commit),
            timestamp,
            clients: RefCell::default(),
            statements: RefCell::new(None),
            rows: RefCell::new(None),
            armed: Cell::new(false),
            frames: Cell::new(0),
            decision: RefCell::new(Decision::None),
        }
    }

    /// Before an attempt.
    pub(super) fn reset(&self) {
        self.capture.borrow_mut().reset();
        self.clients.borrow_mut().clear();
        self.statements.replace(None);
        self.rows.replace(None);
        self.armed.set(false);
        self.frames.set(0);
        self.decision.replace(Decision::None);
    }

    /// Gives the tag's place in the record.
    pub(super) fn add_client(&self, tag: ClientTag) -> usize {
        let mut clients = self.clients.borrow_mut();
        clients.push(tag);
        clients.len() - 1
    }

    pub(super) fn clients(&self) -> usize {
        self.clients.borrow().len()
    }

    pub(super) fn offer_rows(&self, rows: Option<RowsOffer>) {
        self.rows.replace(rows);
    }

    pub(super) fn offer(&self, statements: Option<Statements>) {
        self.statements.replace(statements);
    }

    pub(super) fn has_clients(&self) -> bool {
        !self.clients.borrow().is_empty()
    }

    pub(super) fn arm(&self) {
        self.armed.set(true);
    }

    pub(super) fn armed(&self) -> bool {
        self.armed.get()
    }

    /// Frames that the transaction added to `-wal`.
    pub(super) fn frames(&self) -> u64 {
        self.frames.get()
    }

    pub(super) fn too_large(&self) -> bool {
        matches!(*self.decision.borrow(), Decision::TooLarge)
    }

    pub(super) fn take_decision(&self) -> Decision {
        self.decision.replace(Decision::None)
    }

    /// Gives the buffers back for the next group.
    pub(super) fn into_capture(self) -> Capture {
        self.capture.into_inner()
    }

    /// The smaller one where both are exact.
    fn payload(&self, pages: PageGroup) -> Payload {
        let size = pages.pages.len() * (4 + pages.page_size as usize);
        match self.statements.take() {
            Some(Statements { group, at_most }) if group.body.len() <= at_most.max(size) => Payload::Statements(group),
            _ => Payload::Pages(pages),
        }
    }

    fn refuse(&self, decision: Decision) -> bool {
        self.decision.replace(decision);
        false
    }
}

impl WalSink for CommitPoint<'_> {
    fn write(&self, offset: i64, bytes: &[u8]) -> Seen {
        let seen = self.capture.borrow_mut().write(offset, bytes);
        match seen {
            Seen::Part | Seen::Held | Seen::Commit(_) => {}
            Seen::TooLarge => drop(self.decision.replace(Decision::TooLarge)),
            Seen::Stray => drop(self.decision.replace(Decision::Stray)),
        }
        seen
    }

    fn commit(&self) -> bool {
        if !self.armed.get() {
            return self.refuse(Decision::Unordered);
        }
        let group = self.capture.borrow_mut().take();
        self.frames.set(group.pages.len() as u64);
        // The lock ends before the driver waits for followers: seeds and status must not wait with it.
        let change = self.shared.table.lock().as_ref().map(|table| table.preview(&group));
        let Some(change) = change else {
            return self.refuse(Decision::Refused(table_missing()));
        };
        let rows = self.rows.take();
        if rows.as_ref().is_some_and(|rows| !rows.is_whole()) {
            return self.refuse(Decision::Refused(written_late()));
        }
        let content = match &rows {
            Some(rows) if rows.alone => rows.group.content.unwrap_or(0),
            _ => change.content,
        };
        let payload = match rows {
            Some(RowsOffer { group: rows, alone: true, .. }) => Payload::Rows(rows),
            Some(RowsOffer { group: rows, .. }) => Payload::WithRows(Box::new(self.payload(group)), rows),
            None => self.payload(group),
        };
        let record = Record { timestamp: self.timestamp, content, clients: self.clients.take(), payload };
        self.decision.replace(Decision::Called);
        match (self.commit.borrow_mut())(record) {
            Ok(()) => {
                self.decision.replace(Decision::Committed(change));
                true
            }
            Err(refused) => self.refuse(Decision::Refused(refused)),
        }
    }

    fn has_space(&self, end: i64) -> bool {
        self.shared.gauge.has_space(end)
    }
}

/// A virtual table that writes rows while SQLite commits: they would be missing in the record.
fn written_late() -> CommitError {
    CommitError(ErrorCode::Forbidden.error(
        "a virtual table writes rows during COMMIT, which the log of row changes cannot carry",
        "set replication.logFormat to page, statement or mixed and changeStream to false",
    ))
}

/// The table lives as long as a writer does, so this is a defect; refusing is safe.
fn table_missing() -> CommitError {
    CommitError(ErrorCode::Unavailable.error("the page table is missing", "restart the node"))
}
