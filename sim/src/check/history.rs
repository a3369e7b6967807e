//! The committed history, and what a database must show at any point of it: an interpreter of its own.

use std::collections::BTreeMap;

use rdb_protocol::{Chain, Epoch, Index, Position};
use rdb_record::Entry;

use crate::client::{Key, Value};
use crate::record::{self, Change, Op};

#[derive(Debug, Default)]
pub struct History {
    positions: Vec<Position>,
    /// Effects in order; several may have one index.
    effects: Vec<(Index, Op)>,
    /// Where each operation took effect.
    took_effect: BTreeMap<(u64, u64), Index>,
    /// Indexes of the records that change the database.
    groups: Vec<Index>,
    /// Every record that was ever announced, with the one before it: also those of branches that were given up.
    announced: BTreeMap<Place, (Position, Entry)>,
}

/// A position as a key.
type Place = (Epoch, Index, Chain);

fn place(position: Position) -> Place {
    (position.epoch, position.index, position.chain)
}

impl History {
    pub fn end(&self) -> Index {
        Index(self.positions.len() as u64)
    }

    /// Position 0 is in every history.
    pub fn position(&self, index: Index) -> Option<Position> {
        match index.0.checked_sub(1) {
            None => Some(Position::ZERO),
            Some(at) => self.positions.get(at as usize).copied(),
        }
    }

    /// The next committed record. Err: an operation takes effect twice.
    pub fn push(&mut self, entry: Entry) -> Result<(), String> {
        let index = entry.position.index;
        let before = self.position(self.end()).unwrap_or_default();
        self.announced.insert(place(entry.position), (before, entry.clone()));
        self.positions.push(entry.position);
        let Some((ops, _)) = record::decode(&entry) else { return Ok(()) };
        self.groups.push(index);
        for op in ops {
            self.effects.push((index, op));
            if let Some(first) = self.took_effect.insert((op.client, op.sequence), index) {
                return Err(format!("{}:{} takes effect at {first} and again at {index}", op.client, op.sequence));
            }
        }
        Ok(())
    }

    /// The branch that ends with `position` goes on after all. The end of what it shares with the present one; `None`: some
    /// record of it was never announced.
    pub fn go_back_to(&mut self, position: Position) -> Option<Index> {
        let (mut records, mut at) = (Vec::new(), position);
        while self.position(at.index) != Some(at) {
            let (before, entry) = self.announced.get(&place(at))?.clone();
            records.push(entry);
            at = before;
        }
        self.truncate_after(at.index);
        for entry in records.into_iter().rev() {
            self.push(entry).ok()?;
        }
        Some(at.index)
    }

    /// Everything after `index` was given up.
    pub fn truncate_after(&mut self, index: Index) {
        self.positions.truncate(index.0 as usize);
        self.effects.retain(|(at, _)| *at <= index);
        self.took_effect.retain(|_, at| *at <= index);
        self.groups.retain(|at| *at <= index);
    }

    pub fn effect(&self, client: u64, sequence: u64) -> Option<Index> {
        self.took_effect.get(&(client, sequence)).copied()
    }

    /// A record between the two, the first excluded, changes the database.
    pub fn changes_between(&self, low: Index, high: Index) -> bool {
        let first = self.groups.partition_point(|at| *at <= low);
        self.groups.get(first).is_some_and(|at| *at <= high)
    }

    /// What a database that stands at `index` shows.
    pub fn value(&self, key: Key, index: Index) -> Value {
        let until = self.effects.partition_point(|(at, _)| *at <= index);
        let effects = &self.effects[..until];
        match key {
            Key::Register(wanted) => {
                let last = effects.iter().rev().find_map(|(_, op)| match op.change {
                    Change::Set { register, value } if register == wanted => Some(value),
                    _ => None,
                });
                Value::Register(last.unwrap_or(0))
            }
            Key::List(wanted) => {
                let items = effects.iter().filter_map(|(_, op)| match op.change {
                    Change::Append { list, value } if list == wanted => Some(value),
                    _ => None,
                });
                Value::List(items.collect())
            }
        }
    }
}
