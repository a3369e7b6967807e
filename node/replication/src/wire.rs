//! Binary form of [`PeerMessage`], one per WebSocket binary frame. Integers are little-endian.
//!
//! | offset | size | field |
//! | --- | --- | --- |
//! | 0 | 1 | format version, now 1 |
//! | 1 | 1 | kind of message |
//! | 2 | 2 | zero |
//! | 4 | 4 | CRC32C of everything else in the frame but the records, which carry their own |
//! | 8 | | fields in the order of the enum |
//! | | | `Append`: the records, raw, to the end |
//!
//! A position is epoch (8), index (8), chain (8). A list is its length (4) and its items. What is rare and small (promise,
//! config, member) is JSON behind its length (4). Version and checksum keep their places in every later version.

use bytes::{Buf, BufMut, Bytes};
use rdb_protocol::{Chain, ClusterId, Epoch, Index, Position};
use rdb_record::Entry;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::message::PeerMessage;

/// Version of the layout above.
pub const WIRE_VERSION: u8 = 1;
/// Epoch ends that a `Hello` carries at most: 96 KiB of them. A log with more elections in it than that matches by its
/// newest ones; a follower that is further back needs a seed anyway.
pub const MAX_BOUNDARIES: usize = 4096;
/// Longest JSON field; a config of hundreds of members is below it.
const MAX_JSON: usize = 1 << 20;
/// Bytes before the fields.
const HEADER: usize = 8;
/// Bytes of the fields of an `Append` before its records.
const APPEND_FIELDS: usize = 8 + 24 + 8 + 8 + 8 + 4;

const HELLO: u8 = 1;
const APPEND: u8 = 2;
const ACK: u8 = 3;
const MISMATCH: u8 = 4;
const REFUSED: u8 = 5;
const SEED_REQUIRED: u8 = 6;
const CONFIG: u8 = 7;

/// Why bytes are not a message. The connection that brought them is closed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    #[error("message ends early")]
    Short,
    #[error("{0} bytes too many")]
    Long(usize),
    #[error("message format {0} is unknown to this node, which knows {WIRE_VERSION}: upgrade it")]
    Version(u8),
    #[error("message kind {0} is unknown to this node: upgrade it")]
    Kind(u8),
    #[error("checksum of the message differs")]
    Checksum,
    #[error("list of {0} items is too long")]
    List(usize),
    #[error("malformed field: {0}")]
    Field(String),
    #[error("record in the message: {0}")]
    Record(#[from] rdb_record::RecordError),
}

/// Encodes one message (one WebSocket binary frame).
pub fn encode(message: &PeerMessage) -> Vec<u8> {
    let mut to = Vec::with_capacity(size_hint(message));
    to.extend_from_slice(&[WIRE_VERSION, 0, 0, 0, 0, 0, 0, 0]);
    let kind = put_fields(&mut to, message);
    to[1] = kind;
    let crc = checksum(&to);
    to[4..HEADER].copy_from_slice(&crc.to_le_bytes());
    if let PeerMessage::Append { entries, .. } = message {
        entries.iter().for_each(|entry| to.extend_from_slice(&entry.bytes));
    }
    to
}

fn size_hint(message: &PeerMessage) -> usize {
    match message {
        PeerMessage::Append { entries, .. } => {
            HEADER + APPEND_FIELDS + entries.iter().map(|entry| entry.bytes.len()).sum::<usize>()
        }
        PeerMessage::Hello { boundaries, .. } | PeerMessage::Mismatch { boundaries, .. } => 512 + 24 * boundaries.len(),
        PeerMessage::Ack { .. } => HEADER + 48,
        PeerMessage::Refused { .. } | PeerMessage::SeedRequired { .. } | PeerMessage::Config { .. } => 256,
    }
}

/// Writes everything but header and records; gives the kind.
fn put_fields(to: &mut Vec<u8>, message: &PeerMessage) -> u8 {
    match message {
        PeerMessage::Hello { to: member, cluster, promise, base, boundaries } => {
            put_json(to, member);
            to.put_u64_le(cluster.0);
            put_json(to, promise);
            put_position(to, base);
            put_positions(to, boundaries);
            HELLO
        }
        PeerMessage::Append { epoch, prev, entries, committed, round, answered_probe } => {
            to.put_u64_le(epoch.0);
            put_position(to, prev);
            to.put_u64_le(committed.0);
            to.put_u64_le(*round);
            to.put_u64_le(*answered_probe);
            to.put_u32_le(entries.len() as u32);
            APPEND
        }
        PeerMessage::Ack { epoch, position, round, probe } => {
            to.put_u64_le(epoch.0);
            put_position(to, position);
            to.put_u64_le(*round);
            to.put_u64_le(*probe);
            ACK
        }
        PeerMessage::Mismatch { epoch, base, boundaries } => {
            to.put_u64_le(epoch.0);
            put_position(to, base);
            put_positions(to, boundaries);
            MISMATCH
        }
        PeerMessage::Refused { promise } => {
            put_json(to, promise);
            REFUSED
        }
        PeerMessage::SeedRequired { epoch, first_retained } => {
            to.put_u64_le(epoch.0);
            to.put_u64_le(first_retained.0);
            SEED_REQUIRED
        }
        PeerMessage::Config { epoch, config } => {
            to.put_u64_le(epoch.0);
            put_json(to, config);
            CONFIG
        }
    }
}

/// Decodes one frame. Entries share the frame's buffer.
pub fn decode(frame: Bytes) -> Result<PeerMessage, WireError> {
    let (version, kind) = match frame.get(..2) {
        Some(head) => (head[0], head[1]),
        None => return Err(WireError::Short),
    };
    if version != WIRE_VERSION {
        return Err(WireError::Version(version));
    }
    // Only an append has something behind its checksummed part.
    let summed = if kind == APPEND { HEADER + APPEND_FIELDS } else { frame.len() };
    let head = frame.get(..summed.max(HEADER)).ok_or(WireError::Short)?;
    if head[4..HEADER] != checksum(head).to_le_bytes() {
        return Err(WireError::Checksum);
    }
    let mut from = frame.slice(HEADER..);
    let message = get_fields(&mut from, kind)?;
    if from.has_remaining() { Err(WireError::Long(from.remaining())) } else { Ok(message) }
}

fn get_fields(from: &mut Bytes, kind: u8) -> Result<PeerMessage, WireError> {
    Ok(match kind {
        HELLO => PeerMessage::Hello {
            to: get_json(from)?,
            cluster: ClusterId(get_u64(from)?),
            promise: get_json(from)?,
            base: get_position(from)?,
            boundaries: get_positions(from)?,
        },
        APPEND => {
            let epoch = Epoch(get_u64(from)?);
            let prev = get_position(from)?;
            let committed = Index(get_u64(from)?);
            let (round, answered_probe) = (get_u64(from)?, get_u64(from)?);
            let count = from.try_get_u32_le().map_err(|_| WireError::Short)?;
            // Grows as records are really there: the count alone must not reserve memory.
            let mut entries = Vec::with_capacity(count.min(1024) as usize);
            for _ in 0..count {
                entries.push(Entry::read(from)?);
            }
            PeerMessage::Append { epoch, prev, entries, committed, round, answered_probe }
        }
        ACK => PeerMessage::Ack {
            epoch: Epoch(get_u64(from)?),
            position: get_position(from)?,
            round: get_u64(from)?,
            probe: get_u64(from)?,
        },
        MISMATCH => PeerMessage::Mismatch {
            epoch: Epoch(get_u64(from)?),
            base: get_position(from)?,
            boundaries: get_positions(from)?,
        },
        REFUSED => PeerMessage::Refused { promise: get_json(from)? },
        SEED_REQUIRED => {
            PeerMessage::SeedRequired { epoch: Epoch(get_u64(from)?), first_retained: Index(get_u64(from)?) }
        }
        CONFIG => PeerMessage::Config { epoch: Epoch(get_u64(from)?), config: get_json(from)? },
        other => return Err(WireError::Kind(other)),
    })
}

/// Of a frame without its records; the checksum's own place counts as absent.
fn checksum(head: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&head[..4]), &head[HEADER..])
}

fn put_position(to: &mut Vec<u8>, position: &Position) {
    let Position { epoch, index, chain } = position;
    [epoch.0, index.0, chain.0].into_iter().for_each(|field| to.put_u64_le(field));
}

fn get_position(from: &mut Bytes) -> Result<Position, WireError> {
    Ok(Position { epoch: Epoch(get_u64(from)?), index: Index(get_u64(from)?), chain: Chain(get_u64(from)?) })
}

fn put_positions(to: &mut Vec<u8>, positions: &[Position]) {
    to.put_u32_le(positions.len() as u32);
    positions.iter().for_each(|position| put_position(to, position));
}

fn get_positions(from: &mut Bytes) -> Result<Vec<Position>, WireError> {
    let count = from.try_get_u32_le().map_err(|_| WireError::Short)? as usize;
    if count > MAX_BOUNDARIES {
        return Err(WireError::List(count));
    }
    (0..count).map(|_| get_position(from)).collect()
}

fn get_u64(from: &mut Bytes) -> Result<u64, WireError> {
    from.try_get_u64_le().map_err(|_| WireError::Short)
}

fn put_json(to: &mut Vec<u8>, value: &impl Serialize) {
    // Plain structs of strings and numbers: serialising to memory has no way to fail; an empty field is refused on decode.
    let json = serde_json::to_vec(value).unwrap_or_default();
    to.put_u32_le(json.len() as u32);
    to.put_slice(&json);
}

fn get_json<T: DeserializeOwned>(from: &mut Bytes) -> Result<T, WireError> {
    let length = from.try_get_u32_le().map_err(|_| WireError::Short)? as usize;
    if length > MAX_JSON {
        return Err(WireError::List(length));
    }
    if length > from.remaining() {
        return Err(WireError::Short);
    }
    let json = from.split_to(length);
    serde_json::from_slice(&json).map_err(|error| WireError::Field(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rdb_protocol::status::Promise;
    use rdb_protocol::{ClusterConfig, ConfigPair, Incarnation, Member, NodeName};
    use rdb_record::{Payload, Record};

    fn member() -> Member {
        Member { name: NodeName::new("orders-2").unwrap(), incarnation: Incarnation(u64::MAX) }
    }

    fn samples() -> Vec<PeerMessage> {
        let record = Record { timestamp: 7, content: 8, clients: Vec::new(), payload: Payload::Noop };
        let one = record.encode(Position::ZERO, Epoch(3));
        let two = record.encode(one.position, Epoch(3));
        let promise = Promise { epoch: Epoch(3), leader: Some(member()) };
        let current = ClusterConfig { version: 4, cohort: [member()].into(), acks: 0 };
        let boundaries = vec![one.position, two.position];
        let (epoch, position) = (Epoch(3), two.position);
        vec![
            PeerMessage::Hello {
                to: member(),
                cluster: ClusterId(9),
                promise: promise.clone(),
                base: Position::ZERO,
                boundaries: boundaries.clone(),
            },
            PeerMessage::Append {
                epoch,
                prev: Position::ZERO,
                entries: vec![one, two],
                committed: Index(1),
                round: 5,
                answered_probe: u64::MAX,
            },
            PeerMessage::Ack { epoch, position, round: 5, probe: 6 },
            PeerMessage::Mismatch { epoch, base: position, boundaries },
            PeerMessage::Refused { promise },
            PeerMessage::SeedRequired { epoch, first_retained: Index(77) },
            PeerMessage::Config { epoch, config: ConfigPair::settled(current) },
        ]
    }

    #[test]
    fn messages_survive_the_wire() {
        for message in samples() {
            assert_eq!(decode(encode(&message).into()), Ok(message));
        }
    }

    #[test]
    fn no_damage_passes_or_panics() {
        for message in samples() {
            let frame = encode(&message);
            for length in 0..frame.len() {
                assert!(decode(Bytes::copy_from_slice(&frame[..length])).is_err(), "{message:?} cut at {length}");
            }
            for at in 0..frame.len() {
                let mut bad = frame.clone();
                bad[at] ^= 0x41;
                assert!(decode(bad.into()).is_err(), "{message:?} damaged at {at}");
            }
        }
    }
}
