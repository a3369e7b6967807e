//! Mutations of valid bytes into every decoder: records of each kind, messages between nodes, manifests of base copies. What
//! is not valid any more must be an error, never a panic, a hang or a heap of memory.
//!
//! A short run is part of the tests; `RDB_FUZZ_ROUNDS=100000000 cargo test --release -p rdb-node --test fuzz` is a long one.

use bytes::Bytes;
use rdb_engine::{SeedInfo, SeedWriter, record_to_text};
use rdb_node::driver::seed_server::SeedManifest;
use rdb_protocol::{
    Chain, ClusterConfig, ClusterId, ConfigPair, Epoch, Incarnation, Index, Member, NodeName, Position,
};
use rdb_record::*;
use rdb_replication::{PeerMessage, wire};

fn rounds() -> u64 {
    std::env::var("RDB_FUZZ_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(30_000)
}

/// SplitMix64.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit.max(1) as u64) as usize
    }

    /// A few random edits, behind the first `keep` bytes.
    fn mutate(&mut self, bytes: &mut Vec<u8>, keep: usize) {
        for _ in 0..1 + self.below(4) {
            let length = bytes.len().max(keep);
            let at = keep + self.below(length - keep + 1);
            let interesting = [0, 1, 0x7f, 0x80, 0xff, self.next() as u8];
            let value = interesting[self.below(interesting.len())];
            match self.below(6) {
                0 | 1 if at < bytes.len() => bytes[at] = value,
                2 if at < bytes.len() => bytes[at] ^= 1 << self.below(8),
                3 => bytes.insert(at.min(bytes.len()), value),
                4 if at < bytes.len() => drop(bytes.remove(at)),
                _ => bytes.truncate(at),
            }
        }
    }
}

fn member() -> Member {
    Member { name: NodeName::new("orders-2").unwrap(), incarnation: Incarnation(7) }
}

fn row_group() -> RowGroup {
    let shape = |name: &str, key, without_rowid| TableShape {
        name: name.to_owned(),
        columns: vec!["id".to_owned(), "v".to_owned()],
        key,
        without_rowid,
        internal: false,
    };
    let cells = [CellRef::Integer(-5), CellRef::Text(b"text")];
    let other = [CellRef::Integer(-5), CellRef::Blob(&[1, 2, 3])];
    let mut log = RowLog::default();
    log.reset(true, true);
    log.begin(0, Some(0));
    for table in [shape("a", vec![0], false), shape("b", vec![], false), shape("c", vec![1, 0], true)] {
        log.insert(&table, 7, &cells);
        log.update(&table, (7, 8), &cells, &other);
        log.delete(&table, 8, &other);
    }
    log.statement(1, "CREATE TABLE d(x)", true, &[("x", CellRef::Real(0.5))]);
    log.group((1, 2), Chain(3), 4, Some(5))
}

fn statement_group() -> StatementGroup {
    let (mut log, mut draft) = (StatementLog::default(), StatementDraft::default());
    for number in 0..3 {
        log.begin(number, &mut draft);
        log.statement(&mut draft, "INSERT INTO t VALUES (?, ?)", number == 1, 2);
        draft.arg((number == 1).then_some("a"), CellRef::Null);
        draft.arg((number == 1).then_some("b"), CellRef::Integer(1 << 40));
        log.keep(&draft, Some((0, 9)));
    }
    StatementGroup {
        sqlite: 3_054_001,
        page_size: 4096,
        previous_chain: Chain(1),
        seed: 2,
        watched: true,
        body: log.body(),
    }
}

fn corpus() -> Vec<Entry> {
    let pages = PageGroup { page_size: 512, database_pages: 2, pages: vec![(2, Bytes::from(vec![7; 512]))] };
    let config = ClusterConfig { version: 4, cohort: [member()].into(), acks: 1 };
    let payloads = [
        Payload::Noop,
        Payload::EpochStart { leader: member() },
        Payload::Config(config),
        Payload::Pages(pages.clone()),
        Payload::Statements(statement_group()),
        Payload::Rows(row_group()),
        Payload::Loss(LossMark { epoch: Epoch(1), after: Index(9) }),
        Payload::WithRows(Box::new(Payload::Pages(pages)), row_group()),
        Payload::WithRows(Box::new(Payload::Statements(statement_group())), row_group()),
    ];
    let clients = vec![ClientTag { client: "c".to_owned(), sequence: 1 }];
    let record = |payload| Record { timestamp: 1 << 16, content: 2, clients: clients.clone(), payload };
    payloads.into_iter().map(|payload| record(payload).encode(Position::ZERO, Epoch(1))).collect()
}

/// Gives mutated bytes the length and checksum that they need to be looked into.
fn seal(bytes: &mut [u8]) {
    if bytes.len() >= 8 {
        let length = (bytes.len() as u32).to_le_bytes();
        bytes[..4].copy_from_slice(&length);
        let crc = crc32c::crc32c_append(crc32c::crc32c(&bytes[..4]), &bytes[8..]);
        bytes[4..8].copy_from_slice(&crc.to_le_bytes());
    }
}

#[test]
fn records() {
    let (corpus, mut dice, mut understood) = (corpus(), Dice(1), 0_u64);
    for round in 0..rounds() {
        let mut bytes = corpus[round as usize % corpus.len()].bytes.to_vec();
        dice.mutate(&mut bytes, 16);
        seal(&mut bytes);
        if let Ok(entry) = Entry::read(&mut Bytes::from(bytes))
            && let Ok(record) = entry.decode()
        {
            // Walks through statements and row changes, lazily decoded.
            let line: serde_json::Value =
                serde_json::from_str(&record_to_text(&record, serde_json::Map::new())).unwrap();
            understood += u64::from(line.get("error").is_none());
        }
    }
    assert!(understood > 0 && understood < rounds(), "{understood}");
}

#[test]
fn messages() {
    let (entries, mut dice, mut understood) = (corpus(), Dice(2), 0_u64);
    let promise = rdb_protocol::status::Promise { epoch: Epoch(3), leader: Some(member()) };
    let config = ClusterConfig { version: 4, cohort: [member()].into(), acks: 0 };
    let position = entries[0].position;
    let corpus: Vec<Vec<u8>> = [
        PeerMessage::Hello {
            to: member(),
            cluster: ClusterId(9),
            promise: promise.clone(),
            base: Position::ZERO,
            boundaries: vec![position; 3],
        },
        PeerMessage::Append {
            epoch: Epoch(3),
            prev: Position::ZERO,
            entries,
            committed: Index(1),
            round: 5,
            answered_probe: 6,
        },
        PeerMessage::Ack { epoch: Epoch(3), position, round: 5, probe: 6 },
        PeerMessage::Mismatch { epoch: Epoch(3), base: position, boundaries: vec![position] },
        PeerMessage::Refused { promise },
        PeerMessage::SeedRequired { epoch: Epoch(3), first_retained: Index(77) },
        PeerMessage::Config { epoch: Epoch(3), config: ConfigPair::settled(config) },
    ]
    .iter()
    .map(wire::encode)
    .collect();
    for round in 0..rounds() {
        let mut bytes = corpus[round as usize % corpus.len()].clone();
        dice.mutate(&mut bytes, 0);
        understood += u64::from(wire::decode(Bytes::from(bytes)).is_ok());
    }
    assert!(understood < rounds(), "{understood}");
}

#[test]
fn manifests() {
    let mut dice = Dice(3);
    let dir = tempfile::tempdir().unwrap();
    let info = SeedInfo {
        epoch: Epoch(1),
        index: Index(2),
        previous_chain: Chain(3),
        page_size: 4096,
        page_count: 2,
        content: Chain(4),
    };
    let manifest = SeedManifest { session: 1, cluster: ClusterId(2), position: Position::ZERO, info };
    let text = serde_json::to_vec(&manifest).unwrap();
    for round in 0..rounds() {
        let mut bytes = text.clone();
        dice.mutate(&mut bytes, 0);
        let Ok(manifest) = serde_json::from_slice::<SeedManifest>(&bytes) else { continue };
        // What it states is believed only after the pages have been counted and summed up; files are slow, so not each time.
        if round % 50 == 0
            && let Ok(mut copy) = SeedWriter::create(&dir.path().join("copy"), manifest.info)
            && copy.write(1, &[0; 512]).is_ok()
        {
            assert!(copy.install(&dir.path().join("db")).is_err());
        }
    }
}
