//! Records as bytes: what goes in comes out, and nothing else passes for a record.

use bytes::{Bytes, BytesMut};
use proptest::prelude::*;
use proptest::sample::Index as Pick;
use rdb_protocol::{Chain, ClusterConfig, Epoch, Incarnation, Index, Member, NodeName, Position};
use rdb_record::codec::{HEADER_BYTES, RECORD_VERSION};
use rdb_record::{ClientTag, Entry, MAX_RECORD_BYTES, PageGroup, Payload, Record, RecordError};

fn member(n: u64) -> Member {
    Member { name: NodeName::new(format!("n-{n}")).unwrap(), incarnation: Incarnation(n) }
}

fn any_payload() -> impl Strategy<Value = Payload> {
    let pages = (9u32..13, any::<u32>(), prop::collection::vec((any::<u32>(), any::<u8>()), 0..6)).prop_map(
        |(shift, database_pages, pages)| {
            let page_size = 1 << shift;
            let image = |fill| Bytes::from(vec![fill; page_size as usize]);
            let pages = pages.into_iter().map(|(number, fill)| (number, image(fill))).collect();
            Payload::Pages(PageGroup { page_size, database_pages, pages })
        },
    );
    prop_oneof![
        Just(Payload::Noop),
        any::<u64>().prop_map(|n| Payload::EpochStart { leader: member(n) }),
        (any::<u64>(), any::<u32>(), prop::collection::btree_set(any::<u64>(), 0..6)).prop_map(
            |(version, acks, cohort)| {
                Payload::Config(ClusterConfig { version, cohort: cohort.into_iter().map(member).collect(), acks })
            }
        ),
        pages,
    ]
}

fn any_record() -> impl Strategy<Value = Record> {
    let tag = (".{0,40}", any::<u64>()).prop_map(|(client, sequence)| ClientTag { client, sequence });
    (any::<u64>(), any::<u64>(), prop::collection::vec(tag, 0..5), any_payload())
        .prop_map(|(timestamp, content, clients, payload)| Record { timestamp, content, clients, payload })
}

fn any_position() -> impl Strategy<Value = Position> {
    (any::<u64>(), 0..u64::MAX, any::<u64>()).prop_map(|(epoch, index, chain)| Position {
        epoch: Epoch(epoch),
        index: Index(index),
        chain: Chain(chain),
    })
}

fn read(bytes: &[u8]) -> Result<Entry, RecordError> {
    Entry::read(&mut Bytes::copy_from_slice(bytes))
}

fn noop() -> Record {
    Record { timestamp: 5 << 16, content: 0, clients: Vec::new(), payload: Payload::Noop }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_was_encoded_is_decoded(record in any_record(), previous in any_position(), more in 0u64..3) {
        let epoch = Epoch(previous.epoch.0.saturating_add(more));
        let entry = record.encode(previous, epoch);
        prop_assert_eq!(entry.bytes.len(), record.encoded_len());
        prop_assert_eq!((entry.position.epoch, entry.position.index), (epoch, previous.index.next()));
        prop_assert!(entry.follows(previous));
        prop_assert_eq!(entry.timestamp(), record.timestamp);
        prop_assert_eq!(entry.decode().unwrap(), record);
    }

    #[test]
    fn records_are_read_one_after_the_other(records in prop::collection::vec(any_record(), 0..5)) {
        let (mut last, mut entries, mut stream) = (Position::ZERO, Vec::new(), BytesMut::new());
        for record in records {
            let entry = record.encode(last, Epoch(1));
            stream.extend_from_slice(&entry.bytes);
            last = entry.position;
            entries.push(entry);
        }
        let mut stream = stream.freeze();
        for entry in entries {
            prop_assert_eq!(Entry::read(&mut stream).unwrap(), entry);
        }
        prop_assert!(stream.is_empty());
    }

    #[test]
    fn any_flipped_bit_is_noticed(record in any_record(), at in any::<Pick>(), bit in 0u8..8) {
        let mut bytes = record.encode(Position::ZERO, Epoch(3)).bytes.to_vec();
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        prop_assert!(read(&bytes).is_err());
    }

    #[test]
    fn a_record_that_ends_early_asks_for_more(record in any_record(), at in any::<Pick>()) {
        let bytes = record.encode(Position::ZERO, Epoch(3)).bytes;
        let have = at.index(bytes.len());
        let mut buffer = bytes.slice(..have);
        let incomplete = matches!(Entry::read(&mut buffer), Err(RecordError::Incomplete { have: h, .. }) if h == have);
        prop_assert!(incomplete);
        prop_assert_eq!(buffer.len(), have);
    }

    #[test]
    fn garbage_is_an_error(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(read(&bytes).is_err());
    }

    #[test]
    fn an_intact_header_with_garbage_behind_it_is_an_error_or_a_record(
        kind in 0u8..4, tags in 0u32..40, body in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        // As a faulty node would write it: the checksum is right.
        let entry = forge(|bytes| {
            bytes.extend_from_slice(&body);
            bytes[17] = kind;
            bytes[20..24].copy_from_slice(&tags.to_le_bytes());
        });
        if let Ok(entry) = read(&entry) {
            let _ = entry.decode();
        }
    }
}

/// A record changed after it was encoded, with the right length and checksum.
fn forge(change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut bytes = noop().encode(Position::ZERO, Epoch(1)).bytes.to_vec();
    change(&mut bytes);
    let length = bytes.len() as u32;
    bytes[..4].copy_from_slice(&length.to_le_bytes());
    let crc = crc32c::crc32c_append(crc32c::crc32c(&bytes[..4]), &bytes[8..]);
    bytes[4..8].copy_from_slice(&crc.to_le_bytes());
    bytes
}

#[test]
fn newer_versions_and_kinds_ask_for_an_upgrade() {
    assert_eq!(read(&forge(|bytes| bytes[16] = RECORD_VERSION + 1)), Err(RecordError::Version(RECORD_VERSION + 1)));
    assert_eq!(read(&forge(|bytes| bytes[17] = 9)), Err(RecordError::Kind(9)));
    assert!(RecordError::Kind(9).to_string().contains("upgrade this node"));
}

#[test]
fn only_the_right_predecessor_is_followed() {
    let first = noop().encode(Position::ZERO, Epoch(2));
    let second = noop().encode(first.position, Epoch(2));
    assert!(second.follows(first.position));
    let at = first.position;
    assert!(!second.follows(Position::ZERO), "gap");
    assert!(!second.follows(second.position), "itself");
    assert!(!second.follows(Position { epoch: Epoch(3), ..at }), "epoch goes down");
    assert!(!second.follows(Position { chain: Chain(at.chain.0 ^ 1), ..at }), "other history");
    assert!(!first.follows(Position { index: Index(u64::MAX), ..Position::ZERO }), "index overflows");
}

#[test]
fn equal_records_of_different_histories_have_different_chains() {
    let one = noop().encode(Position { chain: Chain(1), ..Position::ZERO }, Epoch(1));
    let other = noop().encode(Position { chain: Chain(2), ..Position::ZERO }, Epoch(1));
    assert_ne!(one.position.chain, other.position.chain);
}

#[test]
fn page_images_are_not_copied_on_decode() {
    let image = Bytes::from(vec![7; 4096]);
    let group = PageGroup { page_size: 4096, database_pages: 3, pages: vec![(3, image.clone()), (1, image)] };
    let entry = Record { payload: Payload::Pages(group), ..noop() }.encode(Position::ZERO, Epoch(1));
    let Payload::Pages(group) = entry.decode().unwrap().payload else { panic!("pages") };
    let memory = entry.bytes.as_ptr_range();
    assert!(group.pages.iter().all(|(_, image)| memory.contains(&image.as_ptr())));
}

#[test]
fn a_transaction_that_is_too_large_is_an_error() {
    // One image stands for all pages, so that the test needs no memory.
    let image = Bytes::from(vec![0; 65_536]);
    let pages = (0..=MAX_RECORD_BYTES as u32 / 65_536).map(|number| (number, image.clone())).collect();
    let group = PageGroup { page_size: 65_536, database_pages: 1, pages };
    let record = Record { payload: Payload::Pages(group), ..noop() };
    assert!(
        matches!(record.try_encode(Position::ZERO, Epoch(1)), Err(RecordError::TooLarge(n)) if n > MAX_RECORD_BYTES)
    );
}

#[test]
fn an_image_of_the_wrong_size_is_an_error() {
    let group = PageGroup { page_size: 512, database_pages: 1, pages: vec![(1, Bytes::from_static(&[1; 511]))] };
    let record = Record { payload: Payload::Pages(group), ..noop() };
    assert!(matches!(record.try_encode(Position::ZERO, Epoch(1)), Err(RecordError::Malformed(_))));
}

#[test]
fn the_layout_is_the_documented_one() {
    // A record of version 1, byte by byte: a change here breaks every existing log.
    let tag = ClientTag { client: "ab".to_owned(), sequence: 0x0102 };
    let record = Record { timestamp: 0x11, content: 0x22, clients: vec![tag], payload: Payload::Noop };
    let previous = Position { epoch: Epoch(4), index: Index(8), chain: Chain(0x33) };
    let bytes = record.encode(previous, Epoch(5)).bytes;
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(bytes.len(), HEADER_BYTES + 12);
    let fixed = "01000000\
                 0c000000\
                 0500000000000000\
                 0900000000000000\
                 1100000000000000\
                 2200000000000000\
                 0201000000000000\
                 02006162";
    assert_eq!(hex[32..], *fixed);
    // Length, CRC, chain.
    assert_eq!(hex[..32], *"44000000748edbad58ff64c1f820e2d2");
}

/// As version 1 wrote them: with their zeros.
#[test]
fn page_records_of_version_1_are_read() {
    let forged = |short: usize| {
        forge(|bytes| {
            bytes[17] = 3;
            for field in [512u32, 9, 2, 7, 1] {
                bytes.extend_from_slice(&field.to_le_bytes());
            }
            bytes.extend_from_slice(&[0; 512]);
            bytes.extend_from_slice(&vec![5; 512 - short]);
        })
    };
    let image = |byte| Bytes::from(vec![byte; 512]);
    let group = PageGroup { page_size: 512, database_pages: 9, pages: vec![(7, image(0)), (1, image(5))] };
    assert_eq!(read(&forged(0)).unwrap().decode().unwrap().payload, Payload::Pages(group));
    assert!(matches!(read(&forged(1)).unwrap().decode(), Err(RecordError::Malformed(_))));
}
