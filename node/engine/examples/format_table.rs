//! What each log format costs, in process: `cargo run --release -p rdb-engine --example format_table`. Prints the table of
//! docs/formats.md: for each kind of work and each format the record's bytes and the leader's processor time per transaction, and
//! the rows that a follower applies per second of processor time.

use std::path::Path;

use rdb_engine::{
    ApplyGroup, Engine, EngineOptions, Recording, SeedWriter, Slot, Statement, Transaction, Value, Writer,
};
use rdb_protocol::settings::LogFormat;
use rdb_protocol::{Chain, Epoch, Position};

type Failure = Box<dyn std::error::Error>;

/// Groups of one transaction, then groups of 64, as one client or many make them.
const GROUPS: [(usize, usize); 2] = [(1, 600), (64, 60)];

struct Work {
    name: &'static str,
    schema: &'static [&'static str],
    /// Rows that are there before.
    filled: i64,
    statement: fn(i64) -> Statement,
    /// Rows per transaction.
    rows: i64,
}

fn blob(n: i64, length: usize) -> Value {
    Value::Blob(n.to_le_bytes().iter().cycle().take(length).copied().collect())
}

const TABLE: &str = "CREATE TABLE t(id INTEGER PRIMARY KEY, k INTEGER, v BLOB)";

const WORKS: [Work; 6] = [
    Work {
        name: "insert, 100 bytes",
        schema: &[TABLE],
        filled: 0,
        statement: |n| Statement::with("INSERT INTO t(k, v) VALUES (?, ?)", vec![n.into(), blob(n, 100)]),
        rows: 1,
    },
    Work {
        name: "update one of 20,000",
        schema: &[TABLE],
        filled: 20_000,
        statement: |n| Statement::with("UPDATE t SET k = k + 1 WHERE id = ?", vec![(n * 7919 % 20_000 + 1).into()]),
        rows: 1,
    },
    Work {
        name: "delete one of 20,000",
        schema: &[TABLE],
        filled: 20_000,
        statement: |n| Statement::with("DELETE FROM t WHERE id = ?", vec![(n * 7 % 20_000 + 1).into()]),
        rows: 1,
    },
    Work {
        name: "change 1,000 rows",
        schema: &[TABLE],
        filled: 20_000,
        statement: |n| {
            let first = n * 1000 % 19_000 + 1;
            Statement::with(
                "UPDATE t SET k = ? WHERE id BETWEEN ? AND ?",
                vec![n.into(), first.into(), (first + 999).into()],
            )
        },
        rows: 1000,
    },
    Work {
        name: "insert, random index",
        schema: &[TABLE, "CREATE INDEX t_k ON t(k)"],
        filled: 20_000,
        statement: |n| {
            let k = n.wrapping_mul(0x9e37_79b9_7f4a_7c15_u64 as i64);
            Statement::with("INSERT INTO t(k, v) VALUES (?, ?)", vec![k.into(), blob(n, 100)])
        },
        rows: 1,
    },
    Work {
        name: "insert, 8 KiB",
        schema: &[TABLE],
        filled: 0,
        statement: |n| Statement::with("INSERT INTO t(k, v) VALUES (?, ?)", vec![n.into(), blob(n, 8192)]),
        rows: 1,
    },
];

fn main() -> Result<(), Failure> {
    println!("| work | group | format | bytes/txn | leader µs/txn | follower rows/s |");
    println!("| --- | --- | --- | --- | --- | --- |");
    for work in &WORKS {
        for (size, groups) in GROUPS {
            // Bulk work is large enough with fewer groups.
            let groups = if work.rows > 1 { groups / 6 } else { groups };
            for (name, format) in [
                ("page", LogFormat::Page),
                ("statement", LogFormat::Statement),
                ("mixed", LogFormat::Mixed),
                ("logical", LogFormat::Logical),
            ] {
                let line = measure(work, size, groups, Recording::new(format))?;
                println!("| {} | {size} | {name} | {line} |", work.name);
            }
        }
    }
    Ok(())
}

/// Two databases with the same content, one leading.
fn measure(work: &Work, size: usize, groups: usize, recording: Recording) -> Result<String, Failure> {
    let dir = std::env::temp_dir().join(format!("format-table-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&dir)?;
    let engine = Engine::create(EngineOptions::new(dir.join("leader")))?;
    let mut leader = Leader { writer: engine.writer()?, end: Position::ZERO, log: Vec::new(), bytes: 0 };
    for sql in work.schema {
        leader.group(vec![transaction(Statement::new(*sql))])?;
    }
    let fill = "WITH RECURSIVE c(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM c WHERE i < ?)
                INSERT INTO t(id, k, v) SELECT i, i * 31, randomblob(100) FROM c";
    if work.filled > 0 {
        leader.group(vec![transaction(Statement::with(fill, vec![work.filled.into()]))])?;
    }
    seed(&engine, &dir)?;
    (leader.bytes, leader.log) = (0, Vec::new());
    leader.writer.record_as(recording)?;
    let mut next = 0;
    let all: Vec<Vec<Transaction>> = (0..groups)
        .map(|_| {
            let one = |_| {
                next += 1;
                transaction((work.statement)(next))
            };
            (0..size).map(one).collect()
        })
        .collect();
    let start = cpu_seconds();
    all.into_iter().try_for_each(|group| leader.group(group))?;
    let transactions = (size * groups) as f64;
    let leading = (cpu_seconds() - start) * 1e6 / transactions;
    let follower = Engine::open(EngineOptions::new(dir.join("follower")))?;
    let mut applier = follower.applier()?;
    let start = cpu_seconds();
    for records in leader.log.chunks(16) {
        applier.apply(records)?;
    }
    let rate = transactions * work.rows as f64 / (cpu_seconds() - start);
    let bytes = leader.bytes as f64 / transactions;
    std::fs::remove_dir_all(&dir)?;
    Ok(format!("{bytes:.0} | {leading:.1} | {rate:.0}"))
}

fn transaction(statement: Statement) -> Transaction {
    Transaction { statements: vec![statement], ..Transaction::default() }
}

fn seed(engine: &Engine, dir: &Path) -> Result<(), Failure> {
    let mut session = engine.seed_session()?;
    let mut copy = SeedWriter::create(&dir.join("seed"), session.info())?;
    while copy.next_page() <= session.info().page_count {
        let first = copy.next_page();
        copy.write(first, &session.read_pages(first, 1000)?)?;
    }
    copy.install(&dir.join("follower"))?;
    Ok(())
}

struct Leader {
    writer: Writer,
    end: Position,
    log: Vec<ApplyGroup>,
    bytes: usize,
}

impl Leader {
    fn group(&mut self, group: Vec<Transaction>) -> Result<(), Failure> {
        let (log, bytes, end) = (&mut self.log, &mut self.bytes, &mut self.end);
        let slot = Slot { epoch: Epoch(1), previous: *end, unix_ms: 1, timestamp: 1 << 16 };
        let result = self.writer.run_group(slot, &group, &mut |record| {
            *end = Position { epoch: Epoch(1), index: end.index.next(), chain: Chain(1) };
            *bytes += record.encoded_len();
            log.push(ApplyGroup { position: *end, record });
            Ok(())
        })?;
        result.results.into_iter().try_for_each(|result| result.map(drop))?;
        Ok(())
    }
}

/// Of this thread.
fn cpu_seconds() -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is written by the call.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}
