//! A leader and a follower in one process: records go from one to the other as a log would carry them.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part")]

use std::path::{Path, PathBuf};

use rdb_engine::*;
use rdb_protocol::api::ErrorCode;
use rdb_protocol::{Chain, Epoch, Index, Position};
use rdb_record::{PageGroup, Payload, Record};
use tempfile::TempDir;

pub struct Leader {
    pub dir: TempDir,
    pub engine: Engine,
    pub writer: Writer,
    /// End of the log.
    pub end: Position,
    /// Records since they were last taken.
    pub log: Vec<ApplyGroup>,
    pub last: Option<Record>,
}

pub fn options(dir: &Path) -> EngineOptions {
    EngineOptions { reserve_bytes: 0, ..EngineOptions::new(dir.join("db")) }
}

/// A folder in memory where there is room for hundreds of databases, so that thousands of cases take a minute: nothing here
/// depends on what a disk does.
pub fn folder() -> TempDir {
    const MEMORY: &str = "/dev/shm";
    const ROOM: u64 = 512 << 20;
    let free = rustix::fs::statvfs(MEMORY).map_or(0, |disk| disk.f_bavail * disk.f_frsize);
    if free >= ROOM { TempDir::new_in(MEMORY).unwrap() } else { TempDir::new().unwrap() }
}

impl Leader {
    pub fn new() -> Leader {
        Leader::with(|_| {})
    }

    pub fn with(change: impl FnOnce(&mut EngineOptions)) -> Leader {
        let dir = folder();
        let mut options = options(dir.path());
        change(&mut options);
        let engine = Engine::create(options).unwrap();
        let writer = engine.writer().unwrap();
        Leader { dir, engine, writer, end: Position::ZERO, log: Vec::new(), last: None }
    }

    pub fn path(&self) -> PathBuf {
        self.dir.path().join("db")
    }

    pub fn slot(&self) -> Slot {
        Slot { epoch: Epoch(1), previous: self.end, unix_ms: 1_000_000, timestamp: 1_000_000 << 16 }
    }

    pub fn group(&mut self, group: &[Transaction]) -> Vec<Result<TransactionResult, SqlFailure>> {
        let slot = self.slot();
        self.group_at(slot, group)
    }

    pub fn group_at(&mut self, slot: Slot, group: &[Transaction]) -> Vec<Result<TransactionResult, SqlFailure>> {
        let mut calls = 0;
        let (end, log, last) = (&mut self.end, &mut self.log, &mut self.last);
        let result = self
            .writer
            .run_group(slot, group, &mut |record| {
                calls += 1;
                let index = end.index.next();
                *end = Position { epoch: slot.epoch, index, chain: Chain(end.chain.0.wrapping_mul(31) + 1) };
                log.push(ApplyGroup { position: *end, record: record.clone() });
                *last = Some(record);
                Ok(())
            })
            .unwrap();
        assert_eq!(result.record.is_some(), calls == 1);
        assert!(calls <= 1);
        if let Some(record) = result.record {
            assert_eq!(record.index, self.end.index);
        }
        result.results
    }

    pub fn run(&mut self, transaction: Transaction) -> Result<TransactionResult, SqlFailure> {
        self.group(&[transaction]).remove(0)
    }

    /// One statement as one transaction in one group.
    pub fn try_sql(&mut self, sql: &str) -> Result<QueryResult, SqlFailure> {
        self.run(tx(&[sql])).map(|mut result| result.results.remove(0))
    }

    pub fn sql(&mut self, sql: &str) -> QueryResult {
        self.try_sql(sql).unwrap_or_else(|error| panic!("{sql}: {error}"))
    }

    pub fn code(&mut self, sql: &str) -> ErrorCode {
        self.try_sql(sql).map(|_| sql).expect_err(sql).code()
    }

    pub fn take(&mut self) -> Vec<ApplyGroup> {
        std::mem::take(&mut self.log)
    }

    /// A follower made from a base copy of the present state.
    pub fn seed(&mut self) -> Follower {
        self.log.clear();
        let dir = folder();
        let mut session = self.engine.seed_session().unwrap();
        let mut copy = SeedWriter::create(&dir.path().join("seed"), session.info()).unwrap();
        copy_all(&mut session, &mut copy, 7);
        copy.install(&dir.path().join("db")).unwrap();
        Follower::open(dir)
    }
}

/// The pages of a record that carries pages.
pub fn pages(group: &mut ApplyGroup) -> &mut PageGroup {
    let Payload::Pages(pages) = &mut group.record.payload else { panic!("pages") };
    pages
}

pub fn copy_all(session: &mut SeedSession, copy: &mut SeedWriter, at_once: u32) {
    while copy.next_page() <= session.info().page_count {
        let pages = session.read_pages(copy.next_page(), at_once).unwrap();
        copy.write(copy.next_page(), &pages).unwrap();
    }
    assert!(session.read_pages(copy.next_page(), at_once).unwrap().is_empty());
}

pub struct Follower {
    pub dir: TempDir,
    pub engine: Engine,
    pub applier: Applier,
}

impl Follower {
    pub fn open(dir: TempDir) -> Follower {
        let engine = Engine::open(options(dir.path())).unwrap();
        let applier = engine.applier().unwrap();
        Follower { dir, engine, applier }
    }

    /// Its directory, closed.
    pub fn into_dir(self) -> TempDir {
        self.dir
    }

    pub fn path(&self) -> PathBuf {
        self.dir.path().join("db")
    }

    pub fn query(&self, sql: &str) -> QueryResult {
        query(&self.engine, sql)
    }
}

pub fn query(engine: &Engine, sql: &str) -> QueryResult {
    let mut reader = engine.reader().unwrap();
    let answer = reader.query(&Statement::new(sql), &Limits::default(), None, None);
    answer.unwrap_or_else(|error| panic!("{sql}: {error}")).result
}

pub fn tx(statements: &[&str]) -> Transaction {
    Transaction { statements: statements.iter().map(|sql| Statement::new(*sql)).collect(), ..Transaction::default() }
}

pub fn integer(result: &QueryResult) -> i64 {
    match result.values.as_slice() {
        [Value::Integer(value)] => *value,
        other => panic!("one integer expected, got {other:?}"),
    }
}

/// The file after a checkpoint, without the counters of page 1 that may differ between nodes.
pub fn file(engine: &Engine, path: &Path) -> Vec<u8> {
    engine.checkpoint().unwrap();
    let mut bytes = std::fs::read(path).unwrap();
    bytes[24..28].fill(0);
    bytes[92..100].fill(0);
    bytes
}

/// Leader and follower hold the same bytes, and both are sound.
pub fn assert_equal(leader: &Leader, follower: &Follower) {
    let (ours, theirs) = (file(&leader.engine, &leader.path()), file(&follower.engine, &follower.path()));
    assert_eq!(ours.len(), theirs.len());
    let size = leader.engine.stats().page_size as usize;
    for (index, (ours, theirs)) in ours.chunks(size).zip(theirs.chunks(size)).enumerate() {
        assert!(ours == theirs, "page {} differs", index + 1);
    }
    for engine in [&leader.engine, &follower.engine] {
        assert_eq!(query(engine, "PRAGMA integrity_check").values, [Value::from("ok")]);
        assert_eq!(engine.scan_checksum().unwrap(), engine.stats().content);
    }
    assert_eq!(leader.engine.stats().content, follower.engine.stats().content);
    let (ours, theirs) = (leader.engine.position().unwrap(), follower.engine.position().unwrap());
    assert_eq!(ours, theirs);
    assert_eq!(ours.index, leader.end.index);
    assert_ne!(leader.end.index, Index(0));
}
