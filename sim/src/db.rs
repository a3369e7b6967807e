//! The simulated database: registers, lists and the outcomes of keyed operations, with a content hash that is kept up by
//! every change (as the engine's checksum is) and can be computed anew from what is there.

use std::collections::BTreeMap;

use rdb_protocol::status::RecordPlace;
use rdb_protocol::{Epoch, Index};
use xxhash_rust::xxh3::xxh3_64;

use crate::record::{Change, Op};

/// What an operation gave: for a set, the value before; for an append, the length after.
pub type Outcome = u64;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Db {
    /// Of the last group that changed it.
    pub epoch: Epoch,
    pub index: Index,
    registers: BTreeMap<u64, u64>,
    lists: BTreeMap<u64, Vec<u64>>,
    /// Per client its last operation: a client has one under way at a time.
    outcomes: BTreeMap<u64, (u64, Outcome)>,
    /// Kept up to date by every change.
    pub stated: u64,
    /// How rows lie on pages: the same in all copies that were made from each other, until row changes are applied.
    pub layout: u64,
    /// The leader's layout, as its last record said, is another one.
    pub other_layout: bool,
    /// The last record that was applied as pages that fit.
    pub exact: RecordPlace,
}

fn hash(kind: u64, key: u64, a: u64, b: u64) -> u64 {
    let mut bytes = [0; 32];
    for (at, word) in [kind, key, a, b].into_iter().enumerate() {
        bytes[8 * at..8 * at + 8].copy_from_slice(&word.to_le_bytes());
    }
    xxh3_64(&bytes)
}

impl Db {
    pub fn register(&self, key: u64) -> u64 {
        self.registers.get(&key).copied().unwrap_or(0)
    }

    pub fn list(&self, key: u64) -> &[u64] {
        self.lists.get(&key).map_or(&[], Vec::as_slice)
    }

    /// The outcome of this very operation, if it took effect.
    pub fn outcome(&self, client: u64, sequence: u64) -> Option<Outcome> {
        self.outcomes.get(&client).filter(|(last, _)| *last == sequence).map(|(_, outcome)| *outcome)
    }

    /// Later than the client's last operation?
    pub fn is_new(&self, op: &Op) -> bool {
        self.outcomes.get(&op.client).is_none_or(|(last, _)| *last < op.sequence)
    }

    pub fn run(&mut self, op: &Op) -> Outcome {
        let outcome = match op.change {
            Change::Set { register, value } => {
                let before = self.registers.insert(register, value);
                self.stated ^= before.map_or(0, |old| hash(0, register, old, 0)) ^ hash(0, register, value, 0);
                before.unwrap_or(0)
            }
            Change::Append { list, value } => {
                let items = self.lists.entry(list).or_default();
                items.push(value);
                let length = items.len() as u64;
                self.stated ^= hash(1, list, value, length);
                length
            }
        };
        let before = self.outcomes.insert(op.client, (op.sequence, outcome));
        self.stated ^= before.map_or(0, |(sequence, old)| hash(2, op.client, sequence, old));
        self.stated ^= hash(2, op.client, op.sequence, outcome);
        outcome
    }

    pub fn apply(&mut self, ops: &[Op], epoch: Epoch, index: Index) {
        for op in ops {
            self.run(op);
        }
        (self.epoch, self.index) = (epoch, index);
    }

    /// Hash of what is really there.
    pub fn computed(&self) -> u64 {
        let registers = self.registers.iter().fold(0, |sum, (key, value)| sum ^ hash(0, *key, *value, 0));
        let items = |(key, items): (&u64, &Vec<u64>)| {
            (1..).zip(items).fold(0, |sum, (n, value): (u64, &u64)| sum ^ hash(1, *key, *value, n))
        };
        let lists = self.lists.iter().map(items).fold(0, |sum, one| sum ^ one);
        let outcomes = self.outcomes.iter().fold(0, |sum, (client, (s, o))| sum ^ hash(2, *client, *s, *o));
        registers ^ lists ^ outcomes
    }

    /// A bit of some value turns over on the disk. False: there is nothing to damage.
    pub fn flip_bit(&mut self, which: u64) -> bool {
        let at = which as usize % self.registers.len().max(1);
        match self.registers.values_mut().nth(at) {
            Some(value) => {
                *value ^= 1 << (which % 7);
                true
            }
            None => false,
        }
    }
}
