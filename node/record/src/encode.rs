//! From record to bytes; the layout is in [`crate::codec`].

use bytes::{BufMut, Bytes};
use rdb_protocol::{Chain, Epoch, Position};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::codec::{
    CHAINED, FIRST_VERSION, HEADER_BYTES, MAX_CLIENT_BYTES, MAX_RECORD_BYTES, PAGES_HEADER, RECORD_VERSION,
    RecordError, SPARSE, TAG_HEADER, WITH_ROWS, checksum,
};
use crate::entry::Entry;
use crate::image;
use crate::record::{PageGroup, Payload, Record, RecordKind};
use crate::rows::RowGroup;
use crate::statements::StatementGroup;

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
        if self.clients.iter().any(|tag| tag.client.len() > MAX_CLIENT_BYTES) {
            return Err(RecordError::Malformed("client name too long"));
        }
        let pages = self.payload.pages();
        if let Some(group) = pages {
            check_images(group)?;
        }
        let index = previous.index.next();
        let kind = self.payload.kind();
        let mut bytes = Vec::with_capacity(length);
        bytes.put_u32_le(length as u32);
        bytes.put_bytes(0, 12);
        let plain = matches!(self.payload, Payload::Noop | Payload::EpochStart { .. } | Payload::Config(_));
        let rows = if matches!(self.payload, Payload::WithRows(..)) { WITH_ROWS } else { 0 };
        bytes.put_u8(if plain { FIRST_VERSION } else { RECORD_VERSION });
        bytes.put_u8(kind as u8);
        bytes.put_u8(rows | if pages.is_some() { SPARSE } else { 0 });
        bytes.put_u8(0);
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
        let chain = xxh3_64_with_seed(&bytes[CHAINED..], previous.chain.0);
        bytes[8..16].copy_from_slice(&chain.to_le_bytes());
        let crc = checksum(&bytes);
        bytes[4..8].copy_from_slice(&crc.to_le_bytes());
        let position = Position { epoch, index, chain: Chain(chain) };
        Ok(Entry { position, kind, bytes: Bytes::from(bytes) })
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
        self.clients.iter().map(|tag| TAG_HEADER + tag.client.len()).sum()
    }
}

/// Whoever reads the record has all images in memory, zeros included.
fn check_images(group: &PageGroup) -> Result<(), RecordError> {
    let size = group.page_size as usize;
    if group.pages.iter().any(|(_, image)| image.len() != size) {
        return Err(RecordError::Malformed("a page image has not the size of a page"));
    }
    match group.pages.len().saturating_mul(size) {
        bytes if bytes > MAX_RECORD_BYTES => Err(RecordError::TooLarge(bytes)),
        _ => Ok(()),
    }
}

/// A payload of known size on its way into the record's buffer; pages are not copied on the way.
enum EncodedPayload<'a> {
    Json(Vec<u8>),
    Pages(&'a PageGroup),
    Statements(&'a StatementGroup),
    Rows(&'a RowGroup),
    WithRows(&'a RowGroup, Box<EncodedPayload<'a>>),
}

impl Payload {
    /// The byte that names it.
    pub fn kind(&self) -> RecordKind {
        match self {
            Payload::Noop => RecordKind::Noop,
            Payload::EpochStart { .. } => RecordKind::EpochStart,
            Payload::Config(_) => RecordKind::Config,
            Payload::Pages(_) => RecordKind::Pages,
            Payload::Statements(_) => RecordKind::Statements,
            Payload::Rows(_) => RecordKind::Rows,
            Payload::Loss(_) => RecordKind::Loss,
            Payload::WithRows(main, _) => main.kind(),
        }
    }

    fn pages(&self) -> Option<&PageGroup> {
        match self {
            Payload::Pages(group) => Some(group),
            Payload::WithRows(main, _) => main.pages(),
            _ => None,
        }
    }

    fn encoded(&self) -> EncodedPayload<'_> {
        // Serialising these plain structs to memory has no way to fail; an empty payload would be refused on decode.
        EncodedPayload::Json(match self {
            Payload::Noop => Vec::new(),
            Payload::EpochStart { leader } => serde_json::to_vec(leader).unwrap_or_default(),
            Payload::Config(config) => serde_json::to_vec(config).unwrap_or_default(),
            Payload::Loss(mark) => serde_json::to_vec(mark).unwrap_or_default(),
            Payload::Pages(group) => return EncodedPayload::Pages(group),
            Payload::Statements(group) => return EncodedPayload::Statements(group),
            Payload::Rows(group) => return EncodedPayload::Rows(group),
            Payload::WithRows(main, rows) => return EncodedPayload::WithRows(rows, Box::new(main.encoded())),
        })
    }
}

impl EncodedPayload<'_> {
    fn len(&self) -> usize {
        match self {
            EncodedPayload::Json(json) => json.len(),
            EncodedPayload::Pages(group) => {
                let images: usize = group.pages.iter().map(|(_, image)| image::encoded_len(image)).sum();
                PAGES_HEADER + group.pages.len() * 4 + images
            }
            EncodedPayload::Statements(group) => group.encoded_len(),
            EncodedPayload::Rows(group) => group.encoded_len(),
            EncodedPayload::WithRows(rows, main) => 4 + rows.encoded_len() + main.len(),
        }
    }

    fn write(&self, bytes: &mut Vec<u8>) {
        match self {
            EncodedPayload::Json(json) => bytes.put_slice(json),
            EncodedPayload::Statements(group) => group.write(bytes),
            EncodedPayload::Rows(group) => group.write(bytes),
            EncodedPayload::WithRows(rows, main) => {
                bytes.put_u32_le(rows.encoded_len() as u32);
                rows.write(bytes);
                main.write(bytes);
            }
            EncodedPayload::Pages(group) => {
                bytes.put_u32_le(group.page_size);
                bytes.put_u32_le(group.database_pages);
                bytes.put_u32_le(group.pages.len() as u32);
                for (number, _) in &group.pages {
                    bytes.put_u32_le(*number);
                }
                for (_, image) in &group.pages {
                    image::write(image, bytes);
                }
            }
        }
    }
}
