//! The bytes of a record, the same in the log and on the wire. Integers are little-endian.
//!
//! | offset | size | field |
//! | --- | --- | --- |
//! | 0 | 4 | length of the whole record, this field included |
//! | 4 | 4 | CRC32C of the length field and of everything from offset 8 on |
//! | 8 | 8 | chain: xxh3-64 of everything from offset 16 on, seeded with the previous record's chain |
//! | 16 | 1 | record version, now 1 |
//! | 17 | 1 | kind, see [`RecordKind`] |
//! | 18 | 2 | zero |
//! | 20 | 4 | bytes of client tags |
//! | 24 | 8 | epoch |
//! | 32 | 8 | index |
//! | 40 | 8 | hybrid timestamp |
//! | 48 | 8 | content checksum |
//! | 56 | | client tags: for each its sequence (8), length of the name (2), name |
//! | | | payload, to the end |
//!
//! Payloads: `Noop` is empty; `EpochStart` and `Config` are JSON, for they are rare and small; `Pages` is page size (4),
//! database size in pages (4), number of pages (4), the page numbers (4 each), then the images.
//!
//! Length, CRC and version keep their places in every later version, so that an older node can tell "newer than I am"
//! from "damaged". The CRC finds damage. The chain finds a record that is intact but stands behind the wrong predecessor.

use bytes::{BufMut, Bytes};
use rdb_protocol::{Chain, ClusterConfig, Epoch, Index, Member, Position};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::entry::Entry;
use crate::record::{ClientTag, PageGroup, Payload, Record, RecordKind};

/// Version of the layout above.
pub const RECORD_VERSION: u8 = 1;
/// Bytes in front of the client tags.
pub const HEADER_BYTES: usize = 56;
/// Longest record: the pages of one group. 1 GiB is 262,144 pages of 4 KiB; several copies of a record are in memory at
/// once (engine, log, one per network buffer), so that more would endanger the node. A larger transaction is refused.
pub const MAX_RECORD_BYTES: usize = 1 << 30;
/// Longest client name; the length field has 16 bits, and the API allows less.
pub const MAX_CLIENT_BYTES: usize = u16::MAX as usize;
/// SQLite's limits.
const PAGE_SIZES: std::ops::RangeInclusive<u32> = 512..=65_536;

/// Fixed part of a pages payload: page size, database size, count.
const PAGES_HEADER: usize = 12;
/// Fixed part of a client tag: sequence and length of the name.
const TAG_HEADER: usize = 10;
/// Where the chained part begins.
const CHAINED: usize = 16;

/// Why bytes are not a record.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// The buffer ends before the record does. Not an error of the record; more bytes may complete it.
    #[error("incomplete record: {have} of {needed} bytes")]
    Incomplete { needed: usize, have: usize },
    #[error("impossible record length {0}")]
    Length(u32),
    #[error("record checksum is {found:08x} but its bytes give {computed:08x}")]
    Checksum { found: u32, computed: u32 },
    #[error(
        "record version {0} is newer than this node understands ({RECORD_VERSION}): upgrade this node"
    )]
    Version(u8),
    #[error("record kind {0} is unknown to this node: upgrade this node")]
    Kind(u8),
    /// The checksum is right but the content makes no sense: written so by a faulty node.
    #[error("malformed record: {0}")]
    Malformed(&'static str),
    #[error("record of {0} bytes exceeds the limit of {MAX_RECORD_BYTES}")]
    TooLarge(usize),
}

/// The fixed part of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Length of the whole record.
    pub length: u32,
    pub crc: u32,
    pub position: Position,
    pub kind: RecordKind,
    pub timestamp: u64,
    pub content: u64,
    /// Bytes of client tags behind the header.
    pub tags: u32,
}

impl Header {
    /// Reads the header of the record at the front of `bytes` and verifies the checksum of the whole record, which may be
    /// followed by other bytes. Does not know the previous record, so it can't check the chain: see [`follows`].
    pub fn verify(bytes: &[u8]) -> Result<Header, RecordError> {
        let length = declared_length(bytes)?;
        let Some(record) = bytes.get(..length) else {
            return Err(RecordError::Incomplete {
                needed: length,
                have: bytes.len(),
            });
        };
        let (found, computed) = (u32_at(record, 4), checksum(record));
        if found != computed {
            return Err(RecordError::Checksum { found, computed });
        }
        if record[16] != RECORD_VERSION {
            return Err(RecordError::Version(record[16]));
        }
        let kind = RecordKind::from_byte(record[17]).ok_or(RecordError::Kind(record[17]))?;
        let tags = u32_at(record, 20);
        if tags as usize > length - HEADER_BYTES {
            return Err(RecordError::Malformed("client tags exceed the record"));
        }
        let position = Position {
            epoch: Epoch(u64_at(record, 24)),
            index: Index(u64_at(record, 32)),
            chain: Chain(u64_at(record, 8)),
        };
        let (timestamp, content) = (u64_at(record, 40), u64_at(record, 48));
        Ok(Header {
            length: length as u32,
            crc: found,
            position,
            kind,
            timestamp,
            content,
            tags,
        })
    }
}

/// Length that the record at the front of `bytes` claims to have, checked for sense alone.
pub fn declared_length(bytes: &[u8]) -> Result<usize, RecordError> {
    if bytes.len() < 4 {
        return Err(RecordError::Incomplete {
            needed: HEADER_BYTES,
            have: bytes.len(),
        });
    }
    let length = u32_at(bytes, 0);
    if (HEADER_BYTES..=MAX_RECORD_BYTES).contains(&(length as usize)) {
        Ok(length as usize)
    } else {
        Err(RecordError::Length(length))
    }
}

/// Does the record `bytes` at `position` continue a log that ends at `previous`?
pub fn follows(position: Position, bytes: &[u8], previous: Position) -> bool {
    previous.index.0.checked_add(1) == Some(position.index.0)
        && position.epoch >= previous.epoch
        && bytes
            .get(CHAINED..)
            .is_some_and(|rest| Chain(xxh3_64_with_seed(rest, previous.chain.0)) == position.chain)
}

impl Record {
    /// Bytes that [`Record::encode`] will produce; JSON payloads are serialised to know it.
    pub fn encoded_len(&self) -> usize {
        HEADER_BYTES + self.tag_bytes() + self.payload.encoded().len()
    }

    /// Encodes the record as the one after `previous`. One allocation (JSON payloads apart).
    /// Errors: [`RecordError::TooLarge`], which a client's transaction can cause; [`RecordError::Malformed`].
    pub fn try_encode(&self, previous: Position, epoch: Epoch) -> Result<Entry, RecordError> {
        let payload = self.payload.encoded();
        let tags = self.tag_bytes();
        let length = HEADER_BYTES + tags + payload.len();
        if length > MAX_RECORD_BYTES {
            return Err(RecordError::TooLarge(length));
        }
        if self
            .clients
            .iter()
            .any(|tag| tag.client.len() > MAX_CLIENT_BYTES)
        {
            return Err(RecordError::Malformed("client name too long"));
        }
        let index = previous.index.next();
        let kind = self.payload.kind();
        let mut bytes = Vec::with_capacity(length);
        bytes.put_u32_le(length as u32);
        bytes.put_bytes(0, 12);
        bytes.put_u8(RECORD_VERSION);
        bytes.put_u8(kind as u8);
        bytes.put_u16_le(0);
        bytes.put_u32_le(tags as u32);
        for field in [epoch.0, index.0, self.timestamp, self.content] {
            bytes.put_u64_le(field);
        }
        for tag in &self.clients {
            bytes.put_u64_le(tag.sequence);
            bytes.put_u16_le(tag.client.len() as u16);
            bytes.put_slice(tag.client.as_bytes());
        }
        payload.write(&mut bytes);
        if bytes.len() != length {
            return Err(RecordError::Malformed(
                "a page image has not the size of a page",
            ));
        }
        let chain = xxh3_64_with_seed(&bytes[CHAINED..], previous.chain.0);
        bytes[8..16].copy_from_slice(&chain.to_le_bytes());
        let crc = checksum(&bytes);
        bytes[4..8].copy_from_slice(&crc.to_le_bytes());
        let position = Position {
            epoch,
            index,
            chain: Chain(chain),
        };
        Ok(Entry {
            position,
            kind,
            bytes: Bytes::from(bytes),
        })
    }

    /// [`Record::try_encode`] for records whose size the caller has bounded.
    ///
    /// # Panics
    /// When the record exceeds [`MAX_RECORD_BYTES`] or is inconsistent, both mistakes of the caller.
    pub fn encode(&self, previous: Position, epoch: Epoch) -> Entry {
        match self.try_encode(previous, epoch) {
            Ok(entry) => entry,
            Err(error) => panic!("unbounded or inconsistent record: {error}"),
        }
    }

    fn tag_bytes(&self) -> usize {
        self.clients
            .iter()
            .map(|tag| TAG_HEADER + tag.client.len())
            .sum()
    }
}

/// A payload of known size on its way into the record's buffer; pages are not copied on the way.
enum EncodedPayload<'a> {
    Json(Vec<u8>),
    Pages(&'a PageGroup),
}

impl Payload {
    /// The byte that names it.
    pub fn kind(&self) -> RecordKind {
        match self {
            Payload::Noop => RecordKind::Noop,
            Payload::EpochStart { .. } => RecordKind::EpochStart,
            Payload::Config(_) => RecordKind::Config,
            Payload::Pages(_) => RecordKind::Pages,
        }
    }

    fn encoded(&self) -> EncodedPayload<'_> {
        // Serialising these plain structs to memory has no way to fail; an empty payload would be refused on decode.
        EncodedPayload::Json(match self {
            Payload::Noop => Vec::new(),
            Payload::EpochStart { leader } => serde_json::to_vec(leader).unwrap_or_default(),
            Payload::Config(config) => serde_json::to_vec(config).unwrap_or_default(),
            Payload::Pages(group) => return EncodedPayload::Pages(group),
        })
    }
}

impl EncodedPayload<'_> {
    fn len(&self) -> usize {
        match self {
            EncodedPayload::Json(json) => json.len(),
            EncodedPayload::Pages(group) => {
                PAGES_HEADER + group.pages.len() * (4 + group.page_size as usize)
            }
        }
    }

    fn write(&self, bytes: &mut Vec<u8>) {
        match self {
            EncodedPayload::Json(json) => bytes.put_slice(json),
            EncodedPayload::Pages(group) => {
                bytes.put_u32_le(group.page_size);
                bytes.put_u32_le(group.database_pages);
                bytes.put_u32_le(group.pages.len() as u32);
                for (number, _) in &group.pages {
                    bytes.put_u32_le(*number);
                }
                for (_, image) in &group.pages {
                    bytes.put_slice(image);
                }
            }
        }
    }
}

impl Entry {
    /// Takes the record at the front of `buffer` off it and verifies its checksum; the entry shares the buffer's memory.
    /// The buffer is unchanged on error; [`RecordError::Incomplete`] asks for more bytes.
    pub fn read(buffer: &mut Bytes) -> Result<Entry, RecordError> {
        let header = Header::verify(buffer)?;
        let bytes = buffer.split_to(header.length as usize);
        Ok(Entry {
            position: header.position,
            kind: header.kind,
            bytes,
        })
    }

    /// Does this entry continue a log that ends at `previous`: index contiguous, epoch not lower, chain right?
    pub fn follows(&self, previous: Position) -> bool {
        follows(self.position, &self.bytes, previous)
    }

    /// The hybrid timestamp, without decoding.
    pub fn timestamp(&self) -> u64 {
        self.bytes
            .get(40..HEADER_BYTES)
            .map_or(0, |rest| u64_at(rest, 0))
    }

    /// Decodes the payload; page images share the entry's memory.
    pub fn decode(&self) -> Result<Record, RecordError> {
        let header = Header::verify(&self.bytes)?;
        let tags_end = HEADER_BYTES + header.tags as usize;
        let clients = decode_tags(&self.bytes[HEADER_BYTES..tags_end])?;
        let body = self.bytes.slice(tags_end..);
        let payload = match header.kind {
            RecordKind::Noop => Payload::Noop,
            RecordKind::EpochStart => Payload::EpochStart {
                leader: from_json::<Member>(&body)?,
            },
            RecordKind::Config => Payload::Config(from_json::<ClusterConfig>(&body)?),
            RecordKind::Pages => Payload::Pages(decode_pages(&body)?),
        };
        Ok(Record {
            timestamp: header.timestamp,
            content: header.content,
            clients,
            payload,
        })
    }
}

fn decode_tags(mut bytes: &[u8]) -> Result<Vec<ClientTag>, RecordError> {
    const SHORT: RecordError = RecordError::Malformed("client tags end early");
    let mut tags = Vec::new();
    while !bytes.is_empty() {
        let (head, rest) = bytes.split_at_checked(TAG_HEADER).ok_or(SHORT)?;
        let length = usize::from(u16::from_le_bytes([head[8], head[9]]));
        let (name, rest) = rest.split_at_checked(length).ok_or(SHORT)?;
        let client = std::str::from_utf8(name)
            .map_err(|_| RecordError::Malformed("client name is not UTF-8"))?;
        tags.push(ClientTag {
            client: client.to_owned(),
            sequence: u64_at(head, 0),
        });
        bytes = rest;
    }
    Ok(tags)
}

fn decode_pages(body: &Bytes) -> Result<PageGroup, RecordError> {
    const BAD: RecordError = RecordError::Malformed("page group has not the size that it states");
    if body.len() < PAGES_HEADER {
        return Err(BAD);
    }
    let (page_size, database_pages, count) =
        (u32_at(body, 0), u32_at(body, 4), u32_at(body, 8) as usize);
    if !page_size.is_power_of_two() || !PAGE_SIZES.contains(&page_size) {
        return Err(RecordError::Malformed("impossible page size"));
    }
    let size = page_size as usize;
    let images = PAGES_HEADER + count.checked_mul(4).ok_or(BAD)?;
    if count
        .checked_mul(size)
        .and_then(|bytes| bytes.checked_add(images))
        != Some(body.len())
    {
        return Err(BAD);
    }
    let pages = (0..count)
        .map(|i| {
            (
                u32_at(body, PAGES_HEADER + 4 * i),
                body.slice(images + i * size..images + (i + 1) * size),
            )
        })
        .collect();
    Ok(PageGroup {
        page_size,
        database_pages,
        pages,
    })
}

fn from_json<T: serde::de::DeserializeOwned>(body: &[u8]) -> Result<T, RecordError> {
    serde_json::from_slice(body)
        .map_err(|_| RecordError::Malformed("payload is not the JSON of its kind"))
}

/// CRC32C of a record with its own field left out.
fn checksum(record: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&record[..4]), &record[8..])
}

/// Callers have checked the bounds.
fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    let mut field = [0; 4];
    field.copy_from_slice(&bytes[offset..offset + 4]);
    u32::from_le_bytes(field)
}

fn u64_at(bytes: &[u8], offset: usize) -> u64 {
    let mut field = [0; 8];
    field.copy_from_slice(&bytes[offset..offset + 8]);
    u64::from_le_bytes(field)
}
