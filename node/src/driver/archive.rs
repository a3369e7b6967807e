//! The divergence archive: records that this node had and the cluster has not. They are cut from the log by rule 10 and
//! never served, but not lost: the raw records are copied aside before the cut, and then turned into row changes by
//! applying them to a copy of the database and comparing the two table by table.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use bytes::Bytes;
use rdb_engine::{Engine, EngineError, EngineOptions, SeedWriter};
use rdb_log::LogReader;
use rdb_protocol::status::DivergenceReport;
use rdb_protocol::{Epoch, Index, Position};
use rdb_record::Entry;

use super::Node;
use super::core::Core;
use super::worker::groups_of;

/// Log bytes read at once.
const READ_BYTES: usize = 4 << 20;
/// Pages copied at once.
const COPY_PAGES: u32 = 256;

/// A tail that was copied aside and waits to be made readable.
pub struct Tail {
    report: DivergenceReport,
    entries: Vec<Entry>,
    /// Of the log as it was; records up to the cut stay readable.
    reader: LogReader,
}

#[derive(Debug, thiserror::Error)]
enum ArchiveError {
    #[error("the database already shows records of the tail, up to {0}")]
    AlreadyApplied(Index),
    #[error("the database is at {0}/{1}, which is not in the tail")]
    NotInTail(Epoch, Index),
    #[error("the raw records: {0}")]
    Record(#[from] rdb_record::RecordError),
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error(transparent)]
    Seed(#[from] rdb_engine::SeedError),
    #[error(transparent)]
    Log(#[from] rdb_log::LogError),
    #[error(transparent)]
    Apply(#[from] rdb_engine::ApplyError),
    #[error(transparent)]
    Control(#[from] rdb_log::ControlError),
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

impl Node {
    /// Copies everything after `from` aside, durably. Called under the lock, before the cut.
    pub(super) fn keep_tail(&self, core: &mut Core, from: Position) {
        let Some(running) = &core.running else { return };
        let (reader, to) = (running.log.reader(), running.log.last());
        let kept = read_between(&reader, from.index, to.index)
            .and_then(|entries| write_records(&self.paths.archive, to, &entries).map(|archive| (entries, archive)));
        let (entries, archive) = match kept {
            Ok(kept) => kept,
            // Cutting without a copy would lose records for good.
            Err(error) => super::die("cannot archive a divergent tail", &error),
        };
        tracing::warn!(%from, %to, records = entries.len(), archive, "divergent tail archived");
        let state = core.control.state();
        // As the leader that wrote them, this node may have acknowledged all records of the last epoch that it opened in: the
        // hint on disk lags behind.
        let wrote = running.log.epochs().into_iter().find(|end| end.epoch == state.opened);
        let acknowledged = state.acknowledged.min(to.index).max(wrote.map_or(Index::ZERO, |end| end.index));
        let incarnation = state.incarnation;
        let report = DivergenceReport { archive, incarnation, acknowledged, from, to, complete: false };
        if let Err(error) = core.control.update(|state| state.divergences.push(report.clone())) {
            super::die("cannot note a divergent tail", &error);
        }
        core.tail = Some(Tail { report, entries, reader });
    }

    /// Turns the kept tail, if there is one, into row changes. Blocks for as long as copying the database takes.
    pub(super) fn archive_tail(&self) -> bool {
        let tail = self.lock().tail.take();
        let Some(tail) = tail else { return false };
        let work = self.paths.archive.join("work");
        let written = self.row_changes(&tail, &work);
        if let Err(error) = written {
            tracing::warn!(archive = tail.report.archive, %error, "the archive holds raw records only");
        }
        if let Err(error) = std::fs::remove_dir_all(&work)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(%error, "cannot remove the archive's working copies");
        }
        true
    }

    /// Compares the database that is about to be given up with `copy`, which holds the leader's records up to `index`. If
    /// those are all from before the lost tail, the difference is the tail. Nobody else may have the database open.
    pub(super) fn compare_lost(&self, report: &DivergenceReport, index: Index, copy: &Path) {
        if index > report.from.index {
            tracing::warn!(archive = report.archive, "the leader's state before the loss is gone: raw records only");
            return;
        }
        let whole = self.apply_rest(report);
        if let Err(error) = whole.and_then(|()| self.write_rows(report, copy, &self.paths.database)) {
            tracing::warn!(archive = report.archive, %error, "the archive holds raw records only");
        }
    }

    /// Brings the database to the end of the tail: its log may have held more than it showed when its process ended.
    fn apply_rest(&self, report: &DivergenceReport) -> Result<(), ArchiveError> {
        let engine = Engine::open(EngineOptions::new(&self.paths.database))?;
        let at = engine.position()?;
        // One that went on with the next leader's records holds others' changes.
        if at.index <= report.from.index || at.index > report.to.index || at.epoch > report.to.epoch {
            return Err(ArchiveError::NotInTail(at.epoch, at.index));
        }
        let mut records = Bytes::from(std::fs::read(self.paths.archive.join(format!("{}.records", report.archive)))?);
        let mut rest = Vec::new();
        while !records.is_empty() {
            let entry = Entry::read(&mut records)?;
            rest.extend((entry.position.index > at.index).then_some(entry));
        }
        Ok(engine.applier()?.apply(&groups_of(&rest)?)?)
    }

    fn row_changes(&self, tail: &Tail, work: &Path) -> Result<(), ArchiveError> {
        let Some(engine) = self.engine() else { return Ok(()) };
        let applied = engine.position()?.index;
        if applied > tail.report.from.index {
            return Err(ArchiveError::AlreadyApplied(applied));
        }
        let common = read_between(&tail.reader, applied, tail.report.from.index)?;
        let (before, after) = (work.join("before"), work.join("after"));
        copy_with(&engine, &before, &[&common])?;
        copy_with(&engine, &after, &[&common, &tail.entries])?;
        self.write_rows(&tail.report, &before.join("db"), &after.join("db"))
    }

    /// Writes what makes `after` of `before` beside the raw records, and says so in the report.
    fn write_rows(&self, report: &DivergenceReport, before: &Path, after: &Path) -> Result<(), ArchiveError> {
        // Under its own name only when it is whole.
        let part = self.paths.archive.join(format!("{}.rows.part", report.archive));
        let mut out = BufWriter::new(File::create(&part)?);
        let summary = rdb_engine::diff(before, after, &mut out)?;
        out.flush()?;
        out.get_ref().sync_all()?;
        std::fs::rename(part, self.paths.archive.join(format!("{}.rows.jsonl", report.archive)))?;
        File::open(&self.paths.archive)?.sync_all()?;
        tracing::warn!(archive = report.archive, ?summary, "divergent tail made readable");
        let mut core = self.lock();
        core.control.update(|state| {
            for kept in state.divergences.iter_mut().filter(|kept| kept.archive == report.archive) {
                kept.complete = true;
            }
        })?;
        drop(core);
        self.view.status_changed();
        Ok(())
    }
}

/// A copy of the database in `directory/db`, with the records of `parts` applied.
fn copy_with(engine: &Engine, directory: &Path, parts: &[&Vec<Entry>]) -> Result<(), ArchiveError> {
    let mut session = engine.seed_session()?;
    let info = session.info();
    let mut writer = SeedWriter::create(&directory.join("copy"), info)?;
    while writer.next_page() <= info.page_count {
        let first = writer.next_page();
        writer.write(first, &session.read_pages(first, COPY_PAGES)?)?;
    }
    let database = directory.join("db");
    writer.install(&database)?;
    let copy = Engine::open(EngineOptions::new(&database))?;
    let mut applier = copy.applier()?;
    for entries in parts {
        applier.apply(&groups_of(entries.iter())?)?;
    }
    Ok(())
}

/// The records after `from`, up to `to`.
fn read_between(reader: &LogReader, from: Index, to: Index) -> Result<Vec<Entry>, ArchiveError> {
    let mut entries = Vec::new();
    let mut next = from.next();
    while next <= to {
        let read = reader.read(next, READ_BYTES)?;
        let Some(last) = read.last() else { break };
        next = last.position.index.next();
        entries.extend(read.into_iter().filter(|entry| entry.position.index <= to));
    }
    Ok(entries)
}

/// Writes the raw records to `<epoch>-<index>.records` and returns the name without its ending.
fn write_records(archive: &Path, to: Position, entries: &[Entry]) -> Result<String, ArchiveError> {
    std::fs::create_dir_all(archive)?;
    let name = format!("{}-{}", to.epoch, to.index);
    let mut out = BufWriter::new(File::create(archive.join(format!("{name}.records")))?);
    for entry in entries {
        out.write_all(&entry.bytes)?;
    }
    out.flush()?;
    out.get_ref().sync_all()?;
    File::open(archive)?.sync_all()?;
    Ok(name)
}
