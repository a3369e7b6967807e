//! From bytes to record; the layout is in [`crate::codec`].

use bytes::Bytes;
use rdb_protocol::{ClusterConfig, Member, Position};

use crate::codec::{
    HEADER_BYTES, Header, MAX_RECORD_BYTES, PAGE_SIZES, PAGES_HEADER, RecordError, TAG_HEADER, follows, u32_at, u64_at,
};
use crate::entry::Entry;
use crate::image;
use crate::record::{ClientTag, LossMark, PageGroup, Payload, Record, RecordKind};
use crate::rows::RowGroup;
use crate::statements::StatementGroup;

impl Entry {
    /// Takes the record at the front of `buffer` off it and verifies its checksum; the entry shares the buffer's memory.
    /// The buffer is unchanged on error; [`RecordError::Incomplete`] asks for more bytes.
    pub fn read(buffer: &mut Bytes) -> Result<Entry, RecordError> {
        let header = Header::verify(buffer)?;
        let bytes = buffer.split_to(header.length as usize);
        Ok(Entry { position: header.position, kind: header.kind, bytes })
    }

    /// Does this entry continue a log that ends at `previous`: index contiguous, epoch not lower, chain right?
    pub fn follows(&self, previous: Position) -> bool {
        follows(self.position, &self.bytes, previous)
    }

    /// The hybrid timestamp, without decoding.
    pub fn timestamp(&self) -> u64 {
        self.bytes.get(40..HEADER_BYTES).map_or(0, |rest| u64_at(rest, 0))
    }

    /// Decodes the payload; page images share the entry's memory.
    pub fn decode(&self) -> Result<Record, RecordError> {
        let header = Header::verify(&self.bytes)?;
        let tags_end = HEADER_BYTES + header.tags as usize;
        let clients = decode_tags(&self.bytes[HEADER_BYTES..tags_end])?;
        let mut body = self.bytes.slice(tags_end..);
        let beside = if header.rows { Some(take_rows(&mut body)?) } else { None };
        let payload = match header.kind {
            RecordKind::Noop => Payload::Noop,
            RecordKind::EpochStart => Payload::EpochStart { leader: from_json::<Member>(&body)? },
            RecordKind::Config => Payload::Config(from_json::<ClusterConfig>(&body)?),
            RecordKind::Pages => Payload::Pages(decode_pages(&body, header.sparse)?),
            RecordKind::Statements => Payload::Statements(StatementGroup::read(&body)?),
            RecordKind::Rows => Payload::Rows(RowGroup::read(&body)?),
            RecordKind::Loss => Payload::Loss(from_json::<LossMark>(&body)?),
        };
        let payload = match beside {
            Some(rows) => Payload::WithRows(Box::new(payload), rows),
            None => payload,
        };
        Ok(Record { timestamp: header.timestamp, content: header.content, clients, payload })
    }
}

/// Takes the row changes off the front of a payload.
fn take_rows(body: &mut Bytes) -> Result<RowGroup, RecordError> {
    const BAD: RecordError = RecordError::Malformed("row changes exceed the record");
    if body.len() < 4 {
        return Err(BAD);
    }
    let length = u32_at(body, 0) as usize;
    if length > body.len() - 4 {
        return Err(BAD);
    }
    let rows = RowGroup::read(&body.slice(4..4 + length))?;
    *body = body.slice(4 + length..);
    Ok(rows)
}

fn decode_tags(mut bytes: &[u8]) -> Result<Vec<ClientTag>, RecordError> {
    const SHORT: RecordError = RecordError::Malformed("client tags end early");
    let mut tags = Vec::new();
    while !bytes.is_empty() {
        let (head, rest) = bytes.split_at_checked(TAG_HEADER).ok_or(SHORT)?;
        let length = usize::from(u16::from_le_bytes([head[8], head[9]]));
        let (name, rest) = rest.split_at_checked(length).ok_or(SHORT)?;
        let client = std::str::from_utf8(name).map_err(|_| RecordError::Malformed("client name is not UTF-8"))?;
        tags.push(ClientTag { client: client.to_owned(), sequence: u64_at(head, 0) });
        bytes = rest;
    }
    Ok(tags)
}

fn decode_pages(body: &Bytes, sparse: bool) -> Result<PageGroup, RecordError> {
    const BAD: RecordError = RecordError::Malformed("page group has not the size that it states");
    if body.len() < PAGES_HEADER {
        return Err(BAD);
    }
    let (page_size, database_pages, count) = (u32_at(body, 0), u32_at(body, 4), u32_at(body, 8) as usize);
    if !page_size.is_power_of_two() || !PAGE_SIZES.contains(&page_size) {
        return Err(RecordError::Malformed("impossible page size"));
    }
    let size = page_size as usize;
    if count.saturating_mul(size) > MAX_RECORD_BYTES {
        return Err(BAD);
    }
    let images = PAGES_HEADER + count * 4;
    if body.len() < images {
        return Err(BAD);
    }
    let mut rest = body.slice(images..);
    let mut pages = Vec::with_capacity(count);
    for i in 0..count {
        let image = match sparse {
            true => image::read(&mut rest, size)?,
            false if rest.len() < size => return Err(BAD),
            false => rest.split_to(size),
        };
        pages.push((u32_at(body, PAGES_HEADER + 4 * i), image));
    }
    if !rest.is_empty() {
        return Err(BAD);
    }
    Ok(PageGroup { page_size, database_pages, pages })
}

fn from_json<T: serde::de::DeserializeOwned>(body: &[u8]) -> Result<T, RecordError> {
    serde_json::from_slice(body).map_err(|_| RecordError::Malformed("payload is not the JSON of its kind"))
}
