//! Puts what clients saw and what nodes hold before the checkers.

use std::collections::{BTreeMap, BTreeSet};

use super::survey::{NodeContent, Survey};
use crate::checkers::registers::{Initial, Violation};
use crate::checkers::writes::WriteId;
use crate::checkers::{Receipt, content, registers, sightings, writes};
use crate::workload::{Log, ledger};

/// How many violations of a kind are printed.
const SHOWN: usize = 10;

/// Everything that the checkers found.
#[derive(Debug, Default)]
pub struct Verdict {
    /// Against each node's ledger; violations of all nodes together.
    pub writes: writes::Verdict,
    /// Seen by a reader, gone at the end.
    pub vanished: BTreeSet<WriteId>,
    pub rows_read: u64,
    /// By register.
    pub registers: BTreeMap<u64, Violation>,
    pub register_operations: u64,
    /// Tables (or the whole file) that are not the same on all nodes, and integrity checks that failed.
    pub differences: Vec<String>,
    /// Batches that are there in part, or out of order.
    pub torn: Vec<String>,
    pub anomalies: Vec<String>,
    pub receipts: usize,
}

/// Judges one run. `receipts` are empty where nothing may be lost.
pub fn judge(log: &Log, survey: &Survey, receipts: &[Receipt]) -> Verdict {
    let mut verdict = Verdict {
        rows_read: log.sightings.rows,
        register_operations: log.registers.values().map(|history| history.len() as u64).sum(),
        anomalies: log.anomalies.clone(),
        receipts: receipts.len(),
        ..Verdict::default()
    };
    for (name, node) in survey {
        judge_node(&mut verdict, name, node, log, receipts);
    }
    let tables = survey.iter().map(|(name, node)| (name.clone(), node.tables.clone())).collect();
    for (table, hashes) in content::differences(&tables) {
        verdict.differences.push(format!("table {table}: {hashes:x?}"));
    }
    let images: BTreeSet<u64> = survey.values().map(|node| node.image).collect();
    if images.len() > 1 {
        verdict.differences.push(format!("database files: {images:x?}"));
    }
    // A failover that lost something undoes what a register's clients saw, as the receipts say; each epoch still holds.
    let lossy = receipts.iter().any(|receipt| receipt.acknowledged > receipt.promoted);
    for (register, history) in &log.registers {
        let outcome = match lossy {
            true => registers::check_by_epoch(history),
            false => registers::check(history, Initial::Value(0)),
        };
        if let Err(violation) = outcome {
            verdict.registers.insert(*register, violation);
        }
    }
    verdict
}

fn judge_node(verdict: &mut Verdict, name: &str, node: &NodeContent, log: &Log, receipts: &[Receipt]) {
    if node.integrity != ["ok"] {
        verdict.differences.push(format!("{name}: integrity_check says {:?}", node.integrity));
    }
    let found = writes::check(&log.writes, &node.ledger, receipts);
    verdict.writes.acknowledged = found.acknowledged;
    merge(&mut verdict.writes.lost, found.lost);
    merge(&mut verdict.writes.accounted, found.accounted);
    merge(&mut verdict.writes.duplicated, found.duplicated);
    merge(&mut verdict.writes.phantom, found.phantom);
    verdict.vanished.extend(sightings::check(&log.sightings, &log.writes, &node.ledger, receipts));
    // Clients that send batches repeat each until it is answered, so theirs are there in the order of their numbers. The
    // others may leave one whose outcome they do not know, which may then be late.
    for (client, numbers) in node.order.iter().filter(|(client, _)| ledger::sends_batches(**client)) {
        if !numbers.is_sorted_by(|a, b| a < b) {
            verdict.torn.push(format!("{name}: writes of client {client} are out of order"));
        }
        let count = node.counters.get(client).copied().unwrap_or(0);
        let list = node.lists.get(client).map_or(&[][..], Vec::as_slice);
        if count != numbers.len() as u64 || list != numbers.as_slice() {
            verdict.torn.push(format!(
                "{name}: client {client} has {} rows, a count of {count} and a list of {}",
                numbers.len(),
                list.len()
            ));
        }
    }
}

fn merge(into: &mut Vec<WriteId>, more: Vec<WriteId>) {
    into.extend(more);
    into.sort_unstable();
    into.dedup();
}

impl Verdict {
    /// Acknowledged or seen, and gone.
    pub fn lost(&self) -> u64 {
        let gone: BTreeSet<&WriteId> = self.writes.lost.iter().chain(&self.vanished).collect();
        gone.len() as u64
    }

    pub fn diverged(&self) -> u64 {
        self.differences.len() as u64
    }

    /// What the last line has no word of its own for.
    pub fn other(&self) -> u64 {
        (self.registers.len() + self.torn.len() + self.anomalies.len() + self.writes.phantom.len()) as u64
    }

    pub fn is_clean(&self) -> bool {
        self.lost() + self.diverged() + self.other() == 0 && self.writes.duplicated.is_empty()
    }

    /// The first violations of each kind.
    pub fn details(&self) -> Vec<String> {
        let mut lines = Vec::new();
        let mut add = |kind: &str, found: Vec<String>| {
            lines.extend(found.iter().take(SHOWN).map(|text| format!("{kind}: {text}")));
            if found.len() > SHOWN {
                lines.push(format!("{kind}: {} more", found.len() - SHOWN));
            }
        };
        let ids = |found: &[WriteId]| found.iter().map(|id| format!("{id:?}")).collect::<Vec<_>>();
        add("lost", ids(&self.writes.lost));
        add("read and lost", self.vanished.iter().map(|id| format!("{id:?}")).collect());
        add("duplicated", ids(&self.writes.duplicated));
        add("there although it failed", ids(&self.writes.phantom));
        add("not linearizable", self.registers.iter().map(|(name, why)| format!("register {name}: {why:?}")).collect());
        add("torn", self.torn.clone());
        add("diverged", self.differences.clone());
        add("unexpected", self.anomalies.clone());
        lines
    }
}

impl std::fmt::Display for Verdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} acknowledged writes, {} lost, {} lost as receipts say, {} duplicated; {} register operations, {} \
             registers not linearizable; {} rows read on the way, {} of them gone; {} differences between nodes; {} other",
            self.writes.acknowledged,
            self.writes.lost.len(),
            self.writes.accounted.len(),
            self.writes.duplicated.len(),
            self.register_operations,
            self.registers.len(),
            self.rows_read,
            self.vanished.len(),
            self.differences.len(),
            self.other() - self.registers.len() as u64,
        )
    }
}

#[cfg(test)]
mod tests;
