//! From SQLite's writes to its `-wal` file to the images of the pages that a transaction changed.
//!
//! SQLite writes a frame as two writes: 24 bytes of header (page number; database size if it is the commit frame) and
//! the page. When its cache spills it writes frames early, and later overwrites such a page in place, without a
//! header; after a savepoint's rollback it reuses offsets. Hence: images are kept by offset; a header drops what was
//! recorded at its offset and behind; of several images of a page the last one counts. The commit frame is always the
//! last one appended, and when its page is written everything is known and nothing is visible yet. Its header is kept
//! back until then, because a file that is used anew may hold the page already: header and old page would be a valid
//! frame. What SQLite writes after it (headers with new checksums) changes no page.
//!
//! Pure: bytes in, [`Seen`] out. [`crate::vfs`] feeds it.

use bytes::{Bytes, BytesMut};
use rdb_record::PageGroup;

/// Bytes of a frame's header, by SQLite's file format.
pub(crate) const FRAME_HEADER: usize = 24;

/// Bytes of the header of the file, which is rewritten when the file is used anew.
pub(crate) const FILE_HEADER: usize = 32;

/// What a write meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    /// Part of a transaction, or nothing of interest.
    Part,
    /// The header of the commit frame: must not reach the file before the commit point.
    Held,
    /// The page of the commit frame, whose header was held.
    Commit([u8; FRAME_HEADER]),
    /// The transaction's pages are larger than a record may be.
    TooLarge,
    /// Not understood: the transaction must not commit.
    Stray,
}

struct Header {
    offset: i64,
    page: u32,
    /// Not 0: the commit frame.
    database_pages: u32,
    bytes: [u8; FRAME_HEADER],
}

struct Frame {
    offset: i64,
    page: u32,
    /// Start of its image in `images`.
    at: usize,
}

pub(crate) struct Capture {
    page_size: usize,
    max_bytes: usize,
    frames: Vec<Frame>,
    images: BytesMut,
    /// Header that waits for its page.
    pending: Option<Header>,
    database_pages: u32,
    committed: bool,
}

impl Capture {
    pub(crate) fn new(page_size: u32, max_bytes: u64) -> Capture {
        Capture {
            page_size: page_size as usize,
            max_bytes: usize::try_from(max_bytes).unwrap_or(usize::MAX),
            frames: Vec::new(),
            images: BytesMut::new(),
            pending: None,
            database_pages: 0,
            committed: false,
        }
    }

    /// Before a transaction.
    pub(crate) fn reset(&mut self) {
        self.frames.clear();
        self.images.clear();
        self.pending = None;
        self.database_pages = 0;
        self.committed = false;
    }

    /// One write to the `-wal` file.
    pub(crate) fn write(&mut self, offset: i64, bytes: &[u8]) -> Seen {
        if self.committed {
            return Seen::Part;
        }
        let pending = self.pending.take();
        // Only its page can follow a header that was held: anything else would leave it out of the file.
        let held = pending.as_ref().filter(|header| header.database_pages != 0);
        if held.is_some_and(|header| offset != header.offset + FRAME_HEADER as i64 || bytes.len() != self.page_size) {
            return Seen::Stray;
        }
        match bytes.len() {
            length if length == self.page_size => self.page(pending, offset, bytes),
            FILE_HEADER if offset == 0 => Seen::Part,
            _ => match bytes.try_into() {
                Ok(header) => self.header(offset, header),
                Err(_) => Seen::Stray,
            },
        }
    }

    fn header(&mut self, offset: i64, bytes: [u8; FRAME_HEADER]) -> Seen {
        while let Some(frame) = self.frames.pop_if(|frame| frame.offset >= offset) {
            self.images.truncate(frame.at);
        }
        let word =
            |at: usize| bytes.get(at..at + 4).and_then(|word| word.try_into().ok()).map_or(0, u32::from_be_bytes);
        let (page, database_pages) = (word(0), word(4));
        self.pending = Some(Header { offset, page, database_pages, bytes });
        if database_pages == 0 { Seen::Part } else { Seen::Held }
    }

    fn page(&mut self, pending: Option<Header>, offset: i64, bytes: &[u8]) -> Seen {
        let header = offset - FRAME_HEADER as i64;
        match pending {
            Some(Header { offset: at, page, database_pages, bytes: frame_header }) if at == header => {
                if self.images.len() + bytes.len() > self.max_bytes {
                    return Seen::TooLarge;
                }
                self.frames.push(Frame { offset: at, page, at: self.images.len() });
                self.images.extend_from_slice(bytes);
                if database_pages == 0 {
                    return Seen::Part;
                }
                self.database_pages = database_pages;
                self.committed = true;
                Seen::Commit(frame_header)
            }
            // A page written over in place.
            _ => match self.frames.binary_search_by_key(&header, |frame| frame.offset) {
                Ok(index) => self.overwrite(index, bytes),
                Err(_) => Seen::Stray,
            },
        }
    }

    fn overwrite(&mut self, index: usize, bytes: &[u8]) -> Seen {
        let at = self.frames.get(index).map_or(0, |frame| frame.at);
        match self.images.get_mut(at..at + bytes.len()) {
            Some(image) => {
                image.copy_from_slice(bytes);
                Seen::Part
            }
            None => Seen::Stray,
        }
    }

    /// The committed transaction's pages: each once, none beyond the database, page 1 last. Takes the images with it.
    pub(crate) fn take(&mut self) -> PageGroup {
        let images = self.images.split().freeze();
        let mut pages: Vec<(u32, Bytes)> = Vec::with_capacity(self.frames.len());
        for frame in self.frames.drain(..) {
            if frame.page <= self.database_pages {
                pages.push((frame.page, images.slice(frame.at..frame.at + self.page_size)));
            }
        }
        // Stable: images of one page stay in the order in which they were written. Page 1 goes last because writing it
        // changes the schema cookie, and a follower must have the pages that the new schema names by then.
        pages.sort_by_key(|(page, _)| if *page == 1 { u32::MAX } else { *page });
        pages.reverse();
        pages.dedup_by_key(|(page, _)| *page);
        pages.reverse();
        PageGroup { page_size: self.page_size as u32, database_pages: self.database_pages, pages }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: usize = 512;

    fn header(page: u32, database_pages: u32) -> [u8; FRAME_HEADER] {
        let mut bytes = [0; FRAME_HEADER];
        bytes[..4].copy_from_slice(&page.to_be_bytes());
        bytes[4..8].copy_from_slice(&database_pages.to_be_bytes());
        bytes
    }

    fn offset(frame: i64) -> i64 {
        32 + frame * (SIZE as i64 + 24)
    }

    fn frame(capture: &mut Capture, at: i64, page: u32, fill: u8, database_pages: u32) -> Seen {
        let expected = if database_pages == 0 { Seen::Part } else { Seen::Held };
        assert_eq!(capture.write(offset(at), &header(page, database_pages)), expected);
        capture.write(offset(at) + 24, &[fill; SIZE])
    }

    fn fills(group: &PageGroup) -> Vec<(u32, u8)> {
        group.pages.iter().map(|(page, image)| (*page, image[0])).collect()
    }

    #[test]
    fn a_commit_has_each_page_once_and_page_1_last() {
        let mut capture = Capture::new(SIZE as u32, 1 << 20);
        assert_eq!(capture.write(0, &[0; 32]), Seen::Part);
        assert_eq!(frame(&mut capture, 0, 1, 10, 0), Seen::Part);
        assert_eq!(frame(&mut capture, 1, 7, 11, 0), Seen::Part);
        assert_eq!(frame(&mut capture, 2, 3, 12, 0), Seen::Part);
        assert_eq!(frame(&mut capture, 3, 7, 13, 5), Seen::Commit(header(7, 5)));
        // Page 7 lies beyond the database of 5 pages.
        assert_eq!(fills(&capture.take()), [(3, 12), (1, 10)]);
    }

    #[test]
    fn spilled_pages_are_overwritten_in_place() {
        let mut capture = Capture::new(SIZE as u32, 1 << 20);
        frame(&mut capture, 4, 2, 1, 0);
        frame(&mut capture, 5, 3, 2, 0);
        assert_eq!(capture.write(offset(4) + 24, &[9; SIZE]), Seen::Part);
        assert_eq!(frame(&mut capture, 6, 3, 3, 8), Seen::Commit(header(3, 8)));
        // Checksums are rewritten after the commit frame.
        assert_eq!(capture.write(offset(4), &header(2, 0)), Seen::Part);
        assert_eq!(fills(&capture.take()), [(2, 9), (3, 3)]);
    }

    #[test]
    fn a_rolled_back_savepoint_reuses_offsets() {
        let mut capture = Capture::new(SIZE as u32, 1 << 20);
        frame(&mut capture, 0, 2, 1, 0);
        frame(&mut capture, 1, 3, 2, 0);
        frame(&mut capture, 2, 4, 3, 0);
        assert_eq!(frame(&mut capture, 1, 5, 4, 9), Seen::Commit(header(5, 9)));
        assert_eq!(fills(&capture.take()), [(2, 1), (5, 4)]);
    }

    #[test]
    fn only_its_page_may_follow_a_header_that_is_held() {
        for (at, length) in [(offset(1), 24), (0, 32), (offset(0) + 24, SIZE), (offset(2) + 24, SIZE)] {
            let mut capture = Capture::new(SIZE as u32, 1 << 20);
            frame(&mut capture, 0, 2, 1, 0);
            assert_eq!(capture.write(offset(1), &header(3, 9)), Seen::Held);
            assert_eq!(capture.write(at, &vec![0; length]), Seen::Stray);
        }
    }

    #[test]
    fn what_is_not_understood_or_too_large_is_said() {
        let mut capture = Capture::new(SIZE as u32, SIZE as u64);
        assert_eq!(capture.write(offset(3) + 24, &[0; SIZE]), Seen::Stray);
        assert_eq!(capture.write(100, &[0; 77]), Seen::Stray);
        assert_eq!(frame(&mut capture, 0, 2, 1, 0), Seen::Part);
        assert_eq!(frame(&mut capture, 1, 3, 1, 9), Seen::TooLarge);
    }
}
