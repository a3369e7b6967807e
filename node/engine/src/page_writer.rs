//! Writes images of pages into the database, through `sqlite_dbpage`: page 1 last (it may name a new schema, whose pages must
//! be there), after it a cut of the file (any later page would cancel it).
//!
//! The connection writes beneath its own caches and must not be asked anything in between. A cut together with a change of the
//! schema needs a detour: the statement that cuts would find the new schema cookie in page 1 and read the schema through those
//! caches. So page 1 goes in with the old cookie, the file is cut, and a pragma sets the new cookie at the end.

use crate::sql::statement::{Handle, SqliteError, Stmt};

/// Where page 1 holds the schema cookie.
const COOKIE: std::ops::Range<usize> = 40..44;

/// The page that holds the byte of SQLite's locks, and is never used.
pub(crate) fn lock_page(page_size: u32) -> u32 {
    const LOCK_BYTE: u32 = 0x4000_0000;
    LOCK_BYTE / page_size.max(1) + 1
}

/// The schema cookie that an image of page 1 holds.
pub(crate) fn cookie_of(first: &[u8]) -> u32 {
    first.get(COOKIE).and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_be_bytes)
}

pub(crate) struct PageWriter {
    pub(crate) begin: Stmt,
    pub(crate) commit: Stmt,
    pub(crate) rollback: Stmt,
    page: Stmt,
    cut: Stmt,
    db: Handle,
}

impl PageWriter {
    pub(crate) fn new(db: Handle) -> Result<PageWriter, SqliteError> {
        let stmt = |sql| Stmt::internal(db, sql);
        Ok(PageWriter {
            begin: stmt("BEGIN IMMEDIATE")?,
            commit: stmt("COMMIT")?,
            rollback: stmt("ROLLBACK")?,
            page: stmt("INSERT INTO sqlite_dbpage(pgno, data) VALUES (?1, ?2)")?,
            cut: stmt("INSERT INTO sqlite_dbpage(pgno, data) VALUES (?1, NULL)")?,
            db,
        })
    }

    /// Writes one page; [`PageWriter::finish`] writes page 1.
    pub(crate) fn insert(&self, page: u32, image: &[u8]) -> Result<(), SqliteError> {
        self.page.bind_integer(1, i64::from(page))?;
        // SAFETY: `image` lives until the bindings are cleared below.
        let done = unsafe { self.page.bind_blob(2, image) }.and_then(|()| self.page.execute());
        self.page.clear();
        done
    }

    /// After all other pages: page 1, and a cut of the file to so many pages. `cookie` is that of the present page 1; gives that
    /// of the new one.
    pub(crate) fn finish(&self, first: Option<&[u8]>, cut: Option<u32>, cookie: u32) -> Result<u32, SqliteError> {
        let new = first.map_or(cookie, cookie_of);
        match first {
            Some(image) if cut.is_some() && new != cookie => {
                let mut old = image.to_vec();
                if let Some(bytes) = old.get_mut(COOKIE) {
                    bytes.copy_from_slice(&cookie.to_be_bytes());
                }
                self.insert(1, &old)?;
            }
            Some(image) => self.insert(1, image)?,
            None => {}
        }
        if let Some(pages) = cut {
            self.cut.bind_integer(1, i64::from(pages) + 1)?;
            self.cut.execute()?;
            if new != cookie {
                Stmt::internal(self.db, &format!("PRAGMA schema_version = {}", new as i32))?.execute()?;
            }
        }
        Ok(new)
    }
}
