//! CPU cost of the engine alone, without log and network: `cargo run --release -p rdb-engine --example engine_speed`.

use rdb_engine::*;
use rdb_protocol::{Chain, Epoch, Position};
use rdb_record::{ClientTag, Payload, Record};

/// Processor time of this thread: what the machine does besides does not count.
fn cpu_seconds() -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is written.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    let dir = std::env::temp_dir().join(format!("engine-speed-{}", std::process::id()));
    std::fs::create_dir_all(&dir)?;
    let engine = Engine::create(EngineOptions::new(dir.join("db")))?;
    let mut writer = engine.writer()?;
    let mut end = Position::ZERO;
    let mut log = Vec::new();
    let mut group = |group: &[Transaction]| -> Result<(), Failure> {
        let slot = Slot { epoch: Epoch(1), previous: end, unix_ms: 1, timestamp: 1 };
        let result = writer.run_group(slot, group, &mut |record| {
            end = Position { epoch: Epoch(1), index: end.index.next(), chain: Chain(1) };
            log.push(ApplyGroup { position: end, record });
            Ok(())
        })?;
        result.results.into_iter().try_for_each(|result| result.map(drop)).map_err(Failure::from)
    };
    let create = "CREATE TABLE t(id INTEGER PRIMARY KEY, k INTEGER, v BLOB)";
    group(&[Transaction { statements: vec![Statement::new(create)], ..Transaction::default() }])?;
    let mut session = engine.seed_session()?;
    let mut copy = SeedWriter::create(&dir.join("seed"), session.info())?;
    copy.write(1, &session.read_pages(1, 1000)?)?;
    copy.install(&dir.join("follower"))?;
    drop(session);

    let mut next = 0;
    for (size, groups, keyed) in [(1, 20_000, false), (64, 1000, false), (256, 400, false), (64, 300, true)] {
        let transactions = |next: &mut i64| -> Vec<Transaction> {
            (0..size)
                .map(|_| {
                    *next += 1;
                    let args = vec![(*next).into(), (*next * 7).into(), Value::Blob(vec![7; 100])];
                    let tag = ClientTag { client: "client".to_owned(), sequence: *next as u64 };
                    Transaction {
                        statements: vec![Statement::with("INSERT INTO t(id, k, v) VALUES (?, ?, ?)", args)],
                        key: keyed.then_some(RequestKey { tag, request_hash: 1 }),
                        ..Transaction::default()
                    }
                })
                .collect()
        };
        let all: Vec<Vec<Transaction>> = (0..groups).map(|_| transactions(&mut next)).collect();
        let start = cpu_seconds();
        all.iter().try_for_each(|transactions| group(transactions))?;
        let each = (cpu_seconds() - start) * 1e6 / f64::from(groups);
        println!(
            "groups of {size:>3}, keys {keyed:>5}: {each:7.1} us/group, {:5.2} us/transaction",
            each / f64::from(size)
        );
    }

    let mut reader = engine.reader()?;
    let reads = 300_000;
    let start = cpu_seconds();
    for n in 0..reads {
        let point = Statement::with("SELECT id, k, v FROM t WHERE id = ?", vec![(n % next + 1).into()]);
        reader.query(&point, &Limits::default(), Some(10_000), None)?;
    }
    println!("point read: {:5.2} us", (cpu_seconds() - start) * 1e6 / reads as f64);

    let follower = Engine::open(EngineOptions::new(dir.join("follower")))?;
    let mut applier = follower.applier()?;
    let (pages, start): (usize, _) = (log.iter().map(|group| pages(&group.record)).sum(), cpu_seconds());
    for records in log.chunks(16) {
        applier.apply(records)?;
    }
    let seconds = cpu_seconds() - start;
    println!(
        "apply, 16 records at once: {:.0} records/s, {:.0} pages/s",
        log.len() as f64 / seconds,
        pages as f64 / seconds
    );
    assert_eq!(follower.stats().content, engine.stats().content);
    let start = cpu_seconds();
    let checksum = follower.scan_checksum()?;
    let size = f64::from(follower.stats().database_pages) * 4096.0 / 1e6;
    println!("scan: {:.0} MB/s ({checksum:016x})", size / (cpu_seconds() - start));
    std::fs::remove_dir_all(&dir)?;
    Ok(())
}

fn pages(record: &Record) -> usize {
    if let Payload::Pages(group) = &record.payload { group.pages.len() } else { 0 }
}
