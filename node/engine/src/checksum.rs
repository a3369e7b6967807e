//! The content checksum: one number that says whether two databases are equal, kept up to date page by page.
//!
//! It is the XOR over all pages of `xxh3_64(page, seed = page number)`. Left out (as zeros) are the bytes of page 1 that
//! SQLite counts differently on leader and follower: the change counter (24–27), the version that it is valid for
//! (92–95) and the library's version number (96–99). A page of zeros counts as 0, so that a page that the file has but
//! nobody ever wrote (a hole, the page of the lock bytes at 1 GiB) is the same whether it is read or not.
//!
//! One `u64` per page stays in memory (0.2 % of the database), so that changing a page costs one hash of it.

use rdb_record::PageGroup;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::engine::DbPosition;

/// Bytes of page 1 that are left out: [start, end).
const MASKED: [(usize, usize); 2] = [(24, 28), (92, 100)];

/// The hash of one page (1-based).
pub(crate) fn page_hash(page: u32, image: &[u8]) -> u64 {
    if page == 1 {
        let mut copy = image.to_vec();
        for (start, end) in MASKED {
            if let Some(bytes) = copy.get_mut(start..end) {
                bytes.fill(0);
            }
        }
        return xxh3_64_with_seed(&copy, 1);
    }
    // Nearly every page shows in its first bytes that it is not empty.
    if image.iter().all(|byte| *byte == 0) {
        return 0;
    }
    xxh3_64_with_seed(image, u64::from(page))
}

/// What a group does to the table.
#[derive(Debug)]
pub(crate) struct TableChange {
    hashes: Vec<(u32, u64)>,
    database_pages: u32,
    pub(crate) content: u64,
}

/// The hashes of a database's pages, and their XOR.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct PageTable {
    hashes: Vec<u64>,
    content: u64,
    /// The record after which this is the content.
    position: DbPosition,
}

impl PageTable {
    pub(crate) fn new(position: DbPosition) -> PageTable {
        PageTable { hashes: Vec::new(), content: 0, position }
    }

    /// Adds the next page while scanning.
    pub(crate) fn push(&mut self, image: &[u8]) {
        let hash = page_hash(self.pages() + 1, image);
        self.hashes.push(hash);
        self.content ^= hash;
    }

    pub(crate) fn pages(&self) -> u32 {
        u32::try_from(self.hashes.len()).unwrap_or(u32::MAX)
    }

    pub(crate) fn content(&self) -> u64 {
        self.content
    }

    pub(crate) fn position(&self) -> DbPosition {
        self.position
    }

    /// What the table would be after a group, computed from the images that the group carries.
    pub(crate) fn preview(&self, group: &PageGroup) -> TableChange {
        let hash_of = |page: u32| self.hashes.get(page as usize - 1).copied().unwrap_or(0);
        let mut content = self.content;
        let mut hashes = Vec::with_capacity(group.pages.len());
        for (page, image) in &group.pages {
            let hash = page_hash(*page, image);
            content ^= hash_of(*page) ^ hash;
            hashes.push((*page, hash));
        }
        for dropped in self.hashes.iter().skip(group.database_pages as usize) {
            content ^= dropped;
        }
        TableChange { hashes, database_pages: group.database_pages, content }
    }

    /// Makes a preview of this table true, once SQLite has committed.
    pub(crate) fn install(&mut self, change: &TableChange, position: DbPosition) {
        self.hashes.resize(change.database_pages as usize, 0);
        for (page, hash) in &change.hashes {
            if let Some(slot) = self.hashes.get_mut(*page as usize - 1) {
                *slot = *hash;
            }
        }
        self.content = change.content;
        self.position = position;
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn image(fill: u8) -> Bytes {
        Bytes::from(vec![fill; 512])
    }

    fn group(database_pages: u32, pages: &[(u32, u8)]) -> PageGroup {
        let pages = pages.iter().map(|(page, fill)| (*page, image(*fill))).collect();
        PageGroup { page_size: 512, database_pages, pages }
    }

    fn scan(fills: &[u8]) -> PageTable {
        let mut table = PageTable::new(DbPosition::default());
        fills.iter().for_each(|fill| table.push(&image(*fill)));
        table
    }

    #[test]
    fn changing_pages_one_by_one_equals_scanning_anew() {
        let mut table = scan(&[1, 2, 3]);
        for (change, after) in [
            (group(3, &[(2, 9)]), vec![1, 9, 3]),
            (group(6, &[(6, 5), (1, 7)]), vec![7, 9, 3, 0, 0, 5]),
            (group(2, &[(1, 8)]), vec![8, 9]),
            (group(3, &[(3, 0)]), vec![8, 9, 0]),
        ] {
            let change = table.preview(&change);
            table.install(&change, DbPosition::default());
            assert_eq!(table, scan(&after));
        }
    }

    #[test]
    fn counters_of_page_1_do_not_count_and_page_numbers_do() {
        let mut counted = vec![1; 512];
        counted[25] = 99;
        counted[99] = 99;
        assert_eq!(page_hash(1, &counted), page_hash(1, &[1; 512]));
        assert_ne!(page_hash(2, &counted), page_hash(2, &[1; 512]));
        assert_ne!(page_hash(2, &[1; 512]), page_hash(3, &[1; 512]));
        assert_eq!(page_hash(3, &[0; 512]), 0);
    }
}
