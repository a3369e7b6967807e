//! The checksum of all rows: for each table the XOR of the hashes of its rows, so that a change costs the hashes of the row
//! before and after it. Two databases with equal sums hold equal rows, however their pages are laid out.
//!
//! A row's hash covers its table's name, its rowid and its values. A whole number counts the same as an integer and as a
//! real: a column of type REAL may store either.

use std::collections::{BTreeMap, BTreeSet};

use rdb_record::CellRef;
use xxhash_rust::xxh3::{Xxh3, xxh3_64_with_seed};

use super::shape::{POSITION_TABLE, Shape, Shapes};
use crate::sql::statement::{Handle, SqliteError, Stmt};

/// Integers up to here, of either sign, are exact as reals.
const EXACT: u64 = 1 << 53;

/// The hash of a row.
pub(crate) fn row_hash<'a>(table: &str, rowid: Option<i64>, cells: impl IntoIterator<Item = CellRef<'a>>) -> u64 {
    let mut hash = Xxh3::with_seed(xxh3_64_with_seed(table.as_bytes(), rowid.map_or(1, |rowid| rowid as u64)));
    for cell in cells {
        match cell {
            CellRef::Null => hash.update(&[0]),
            CellRef::Integer(value) if value.unsigned_abs() <= EXACT => real(&mut hash, value as f64),
            CellRef::Integer(value) => {
                hash.update(&[1]);
                hash.update(&value.to_le_bytes());
            }
            CellRef::Real(value) => real(&mut hash, value),
            CellRef::Text(bytes) => long(&mut hash, 3, bytes),
            CellRef::Blob(bytes) => long(&mut hash, 4, bytes),
        }
    }
    // A row's hash must not vanish in the sum.
    hash.digest().max(1)
}

fn real(hash: &mut Xxh3, value: f64) {
    hash.update(&[2]);
    // Both zeros are one.
    hash.update(&(value + 0.0).to_bits().to_le_bytes());
}

fn long(hash: &mut Xxh3, tag: u8, bytes: &[u8]) {
    hash.update(&[tag]);
    hash.update(&(bytes.len() as u64).to_le_bytes());
    hash.update(bytes);
}

/// The sums of a database's tables.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RowSums {
    tables: BTreeMap<String, u64>,
}

impl RowSums {
    /// Reads every row of every table.
    pub(crate) fn scan(db: Handle, shapes: &Shapes) -> Result<RowSums, SqliteError> {
        let mut sums = RowSums::default();
        sums.renew(db, shapes, &BTreeSet::new())?;
        Ok(sums)
    }

    /// The one number for all.
    pub(crate) fn content(&self) -> u64 {
        self.tables.values().fold(0, |content, sum| content ^ sum)
    }

    /// A row came, went, or (both together) changed. A table that is not known has been made or renamed in this group, and is
    /// read as a whole by [`RowSums::renew`]: entered here, it would pass for known with the rows of its changes alone.
    pub(crate) fn add(&mut self, table: &str, delta: u64) {
        if let Some(sum) = self.tables.get_mut(table) {
            *sum ^= delta;
        }
    }

    /// Replaces a table's sum.
    pub(crate) fn set(&mut self, table: &str, sum: u64) {
        self.tables.insert(table.to_owned(), sum);
    }

    /// After the schema has changed: forgets tables that are gone, reads those that are new or among `changed`.
    pub(crate) fn renew(&mut self, db: Handle, shapes: &Shapes, changed: &BTreeSet<String>) -> Result<(), SqliteError> {
        self.tables.retain(|name, _| shapes.contains_key(name.as_bytes()));
        for shape in shapes.values() {
            let name = &shape.table.name;
            let known = self.tables.contains_key(name) && !changed.contains(&name.to_ascii_lowercase());
            if name != POSITION_TABLE && !is_statistics(name) && !known {
                self.tables.insert(name.clone(), scan_table(db, shape)?);
            }
        }
        Ok(())
    }
}

/// What ANALYZE finds is the planner's business, and another version of SQLite may find otherwise.
fn is_statistics(table: &str) -> bool {
    table.starts_with("sqlite_stat")
}

fn scan_table(db: Handle, shape: &Shape) -> Result<u64, SqliteError> {
    if shape.refusal().is_some() {
        return Ok(0);
    }
    let rows = Stmt::internal(db, &shape.select())?;
    let first = usize::from(shape.rowid.is_some());
    let (mut sum, width) = (0, shape.table.columns.len());
    while rows.step()? {
        let rowid = shape.rowid.is_some().then(|| rows.integer(0));
        sum ^= row_hash(&shape.table.name, rowid, (first..first + width).map(|at| rows.cell(at)));
    }
    Ok(sum)
}
