//! The small parts that payloads are made of: counts, texts, and SQLite's values.
//!
//! Counts are LEB128 (seven bits a byte, lowest first), signed integers zigzag over that. A value ([`Cell`]) is a tag byte
//! and its content: 0 NULL; 1 integer (zigzag); 2 real (8 bytes, little-endian); 3 text, 4 blob (count, bytes).

use crate::codec::RecordError;

/// A value as SQLite stores it. Text is bytes: SQLite does not promise that it is UTF-8.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Cell {
    #[default]
    Null,
    Integer(i64),
    Real(f64),
    Text(Vec<u8>),
    Blob(Vec<u8>),
}

/// A value that is somebody else's memory, on its way into a record.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum CellRef<'a> {
    Null,
    Integer(i64),
    Real(f64),
    Text(&'a [u8]),
    Blob(&'a [u8]),
}

impl Cell {
    pub fn as_ref(&self) -> CellRef<'_> {
        match self {
            Cell::Null => CellRef::Null,
            Cell::Integer(value) => CellRef::Integer(*value),
            Cell::Real(value) => CellRef::Real(*value),
            Cell::Text(text) => CellRef::Text(text),
            Cell::Blob(blob) => CellRef::Blob(blob),
        }
    }
}

impl CellRef<'_> {
    pub fn to_cell(self) -> Cell {
        match self {
            CellRef::Null => Cell::Null,
            CellRef::Integer(value) => Cell::Integer(value),
            CellRef::Real(value) => Cell::Real(value),
            CellRef::Text(text) => Cell::Text(text.to_vec()),
            CellRef::Blob(blob) => Cell::Blob(blob.to_vec()),
        }
    }
}

pub(crate) fn put_count(out: &mut Vec<u8>, mut count: u64) {
    while count >= 0x80 {
        out.push(count as u8 | 0x80);
        count >>= 7;
    }
    out.push(count as u8);
}

pub(crate) fn put_signed(out: &mut Vec<u8>, value: i64) {
    put_count(out, ((value << 1) ^ (value >> 63)) as u64);
}

pub(crate) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_count(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

pub(crate) fn put_cell(out: &mut Vec<u8>, cell: CellRef<'_>) {
    match cell {
        CellRef::Null => out.push(0),
        CellRef::Integer(value) => {
            out.push(1);
            put_signed(out, value);
        }
        CellRef::Real(value) => {
            out.push(2);
            out.extend_from_slice(&value.to_le_bytes());
        }
        CellRef::Text(text) => {
            out.push(3);
            put_bytes(out, text);
        }
        CellRef::Blob(blob) => {
            out.push(4);
            put_bytes(out, blob);
        }
    }
}

/// Reads what the functions above wrote, and never past the end.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cursor<'a>(pub(crate) &'a [u8]);

const SHORT: RecordError = RecordError::Malformed("a payload ends early");

impl<'a> Cursor<'a> {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn take(&mut self, length: usize) -> Result<&'a [u8], RecordError> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(SHORT)?;
        self.0 = rest;
        Ok(taken)
    }

    pub(crate) fn byte(&mut self) -> Result<u8, RecordError> {
        self.take(1)?.first().copied().ok_or(SHORT)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, RecordError> {
        self.take(4)?.try_into().map(u32::from_le_bytes).map_err(|_| SHORT)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, RecordError> {
        self.take(8)?.try_into().map(u64::from_le_bytes).map_err(|_| SHORT)
    }

    pub(crate) fn count(&mut self) -> Result<u64, RecordError> {
        let mut count = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let part = u64::from(byte & 0x7f);
            if shift == 63 && part > 1 {
                break;
            }
            count |= part << shift;
            if byte < 0x80 {
                return Ok(count);
            }
        }
        Err(RecordError::Malformed("a count does not fit 64 bits"))
    }

    /// A count of things that take `least` bytes each: a larger one is a lie about memory.
    pub(crate) fn count_of(&mut self, least: usize) -> Result<usize, RecordError> {
        let count = usize::try_from(self.count()?).map_err(|_| SHORT)?;
        if count.checked_mul(least).is_none_or(|bytes| bytes > self.0.len()) { Err(SHORT) } else { Ok(count) }
    }

    pub(crate) fn signed(&mut self) -> Result<i64, RecordError> {
        let zigzag = self.count()?;
        Ok((zigzag >> 1) as i64 ^ -((zigzag & 1) as i64))
    }

    pub(crate) fn bytes(&mut self) -> Result<&'a [u8], RecordError> {
        let length = self.count_of(1)?;
        self.take(length)
    }

    pub(crate) fn text(&mut self) -> Result<&'a str, RecordError> {
        std::str::from_utf8(self.bytes()?).map_err(|_| RecordError::Malformed("a text is not UTF-8"))
    }

    pub(crate) fn cell(&mut self) -> Result<CellRef<'a>, RecordError> {
        Ok(match self.byte()? {
            0 => CellRef::Null,
            1 => CellRef::Integer(self.signed()?),
            2 => CellRef::Real(f64::from_bits(self.u64()?)),
            3 => CellRef::Text(self.bytes()?),
            4 => CellRef::Blob(self.bytes()?),
            _ => return Err(RecordError::Malformed("unknown kind of value")),
        })
    }
}
