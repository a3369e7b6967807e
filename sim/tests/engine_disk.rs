//! The smaller simulation: the real engine, with real SQLite, over what a power loss or a bad disk leaves of its files.
//!
//! The engine syncs its `-wal` file only when it checkpoints, so a machine that loses power keeps the database as of the last
//! checkpoint and *any* sectors of what was written to `-wal` since. Whatever they are, the engine must open at the end of
//! some group, say which, hold exactly what that group's record states, and come to the leader's content again from the
//! records after it. A bit that turned over must be noticed, or have been of no meaning.

use std::path::Path;

use rdb_engine::{ApplyGroup, Engine, EngineOptions, Limits, Slot, Statement, Transaction, Value, Writer};
use rdb_protocol::{Chain, Epoch, Index, Position};
use sim::rng::Rng;
use tempfile::TempDir;

/// The unit in which a disk loses writes.
const SECTOR: usize = 512;

/// Bytes before the first frame of a `-wal` (SQLite's file format, section 4.1).
const WAL_HEADER: usize = 32;
const GROUPS: u64 = 12;

struct Leader {
    dir: TempDir,
    engine: Engine,
    writer: Writer,
    end: Position,
    /// All records, and the content that each states.
    log: Vec<ApplyGroup>,
    /// The files at the last checkpoint: that much is durable.
    durable: (Vec<u8>, Vec<u8>),
    durable_index: Index,
}

fn options(dir: &Path) -> EngineOptions {
    // Never reached: checkpoints only when the test says so. Room for the index of a `-wal` of four times this is set aside.
    EngineOptions { reserve_bytes: 0, checkpoint_bytes: 64 << 20, ..EngineOptions::new(dir.join("db")) }
}

fn files(dir: &Path) -> (Vec<u8>, Vec<u8>) {
    (std::fs::read(dir.join("db")).unwrap(), std::fs::read(dir.join("db-wal")).unwrap_or_default())
}

impl Leader {
    fn new() -> Leader {
        let dir = TempDir::new().unwrap();
        let engine = Engine::create(options(dir.path())).unwrap();
        let writer = engine.writer().unwrap();
        let durable = files(dir.path());
        let mut leader =
            Leader { dir, engine, writer, end: Position::ZERO, log: Vec::new(), durable, durable_index: Index::ZERO };
        leader.group("CREATE TABLE t (id INTEGER PRIMARY KEY, text TEXT)");
        leader.checkpoint();
        leader
    }

    fn group(&mut self, sql: &str) {
        let slot = Slot { epoch: Epoch(1), previous: self.end, unix_ms: 1_000_000, timestamp: 1_000_000 << 16 };
        let (end, log) = (&mut self.end, &mut self.log);
        let transaction = Transaction { statements: vec![Statement::new(sql)], ..Transaction::default() };
        let result = self.writer.run_group(slot, &[transaction], &mut |record| {
            let index = end.index.next();
            *end = Position { epoch: slot.epoch, index, chain: Chain(index.0) };
            log.push(ApplyGroup { position: *end, record });
            Ok(())
        });
        assert!(result.unwrap().results.iter().all(Result::is_ok), "{sql}");
    }

    fn checkpoint(&mut self) {
        self.engine.checkpoint().unwrap();
        self.durable = files(self.dir.path());
        self.durable_index = self.end.index;
    }

    fn stated(&self, index: Index) -> Option<u64> {
        self.log.get(index.0.checked_sub(1)? as usize).map(|group| group.record.content)
    }

    /// What is on the disk after the power came back.
    fn after_power_loss(&self, rng: &mut Rng) -> TempDir {
        let (_, live) = files(self.dir.path());
        let (db, mut wal) = self.durable.clone();
        if live.len() > wal.len() && rng.chance(800) {
            wal.resize(live.len(), 0);
        }
        let survives = rng.below(1001);
        for (at, sector) in live.chunks(SECTOR).enumerate() {
            let range = at * SECTOR..at * SECTOR + sector.len();
            if range.end <= wal.len() && rng.chance(survives) {
                wal[range].copy_from_slice(sector);
            }
        }
        // SQLite flushes the header of a `-wal` that begins anew before it writes the first frame behind it.
        let header = WAL_HEADER.min(live.len()).min(wal.len());
        wal[..header].copy_from_slice(&live[..header]);
        let image = TempDir::new().unwrap();
        std::fs::write(image.path().join("db"), db).unwrap();
        std::fs::write(image.path().join("db-wal"), wal).unwrap();
        image
    }
}

fn rows(engine: &Engine) -> Vec<Value> {
    let mut reader = engine.reader().unwrap();
    let sql = Statement::new("SELECT count(*), sum(id), group_concat(text) FROM t");
    reader.query(&sql, &Limits::default(), None, None).unwrap().result.values
}

fn change(rng: &mut Rng, number: u64) -> String {
    match rng.below(4) {
        0 => format!("DELETE FROM t WHERE id % 5 = {}", rng.below(5)),
        1 => format!("UPDATE t SET text = text || '{number}' WHERE id % 3 = {}", rng.below(3)),
        _ => format!(
            "INSERT INTO t (text) WITH RECURSIVE n(value) AS (SELECT 1 UNION ALL SELECT value + 1 FROM n LIMIT 9) \
             SELECT printf('%0{}d', value) FROM n",
            rng.between(1, 900)
        ),
    }
}

fn leader(rng: &mut Rng) -> Leader {
    let mut leader = Leader::new();
    for number in 0..GROUPS {
        if rng.chance(150) {
            leader.checkpoint();
        }
        let sql = change(rng, number);
        leader.group(&sql);
    }
    leader
}

#[test]
fn whatever_a_power_loss_leaves_opens_at_the_end_of_a_group_and_rolls_forward() {
    let mut lost = 0;
    for seed in 0..60 {
        let mut rng = Rng::new(seed, 9);
        let leader = leader(&mut rng);
        for _ in 0..4 {
            let image = leader.after_power_loss(&mut rng);
            let engine = Engine::open(options(image.path())).unwrap();
            let (position, content) = engine.verify().unwrap();
            assert!(position.index >= leader.durable_index, "seed {seed}: before the last checkpoint");
            assert_eq!(
                Some(content),
                leader.stated(position.index),
                "seed {seed}: other content at {}",
                position.index
            );
            lost += leader.end.index.0 - position.index.0;
            let mut applier = engine.applier().unwrap();
            let rest = &leader.log[position.index.0 as usize..];
            if !rest.is_empty() {
                applier.apply(rest).unwrap();
            }
            drop(applier);
            assert_eq!(engine.verify().unwrap().1, leader.log.last().unwrap().record.content, "seed {seed}");
            assert_eq!(rows(&engine), rows(&leader.engine), "seed {seed}");
        }
    }
    assert!(lost > 100, "the power losses lost only {lost} groups: they test nothing");
}

#[test]
fn a_bit_that_turned_over_is_noticed_or_means_nothing() {
    let mut noticed = 0;
    for seed in 0..60 {
        let mut rng = Rng::new(seed, 10);
        let mut leader = leader(&mut rng);
        leader.checkpoint();
        let image = TempDir::new().unwrap();
        let mut db = leader.durable.0.clone();
        let bit = rng.below(db.len() as u64 * 8);
        db[bit as usize / 8] ^= 1 << (bit % 8);
        std::fs::write(image.path().join("db"), db).unwrap();
        let verified = Engine::open(options(image.path())).and_then(|engine| {
            let found = engine.verify()?;
            Ok((engine, found))
        });
        match verified {
            Ok((engine, (position, content))) if Some(content) == leader.stated(position.index) => {
                assert_eq!(rows(&engine), rows(&leader.engine), "seed {seed}: bit {bit} went unnoticed");
            }
            _ => noticed += 1,
        }
    }
    assert!(noticed >= 30, "only {noticed} of 60 were noticed");
}
