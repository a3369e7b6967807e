//! What clients were told, held against what is there.

use std::collections::BTreeSet;

use rdb_protocol::api::ErrorCode;
use serde_json::json;

use super::Node;

/// Numbers written to the table `ledger`, one row each.
#[derive(Default)]
pub struct Ledger {
    next: i64,
    acknowledged: BTreeSet<i64>,
    /// It was answered that the outcome is unknown, or nothing.
    unknown: BTreeSet<i64>,
}

impl Ledger {
    pub fn create(node: &Node) -> Ledger {
        node.execute("CREATE TABLE ledger (n INTEGER NOT NULL, filler BLOB)", json!([])).ok();
        Ledger::default()
    }

    /// Writes one row and notes the answer; `None` when it succeeded.
    #[track_caller]
    pub fn write(&mut self, node: &Node) -> Option<ErrorCode> {
        self.write_bytes(node, 0, 5000)
    }

    /// As [`Ledger::write`], with so many bytes of filler, and a deadline.
    #[track_caller]
    pub fn write_bytes(&mut self, node: &Node, filler: usize, deadline_ms: u64) -> Option<ErrorCode> {
        self.next += 1;
        let sql = "INSERT INTO ledger VALUES (?1, randomblob(?2))";
        let body = json!({"sql": sql, "args": [self.next, filler], "deadline_ms": deadline_ms}).to_string();
        let Some(reply) = node.call("POST", "/v1/execute", &[], body.as_bytes()) else {
            self.unknown.insert(self.next);
            return Some(ErrorCode::UnknownOutcome);
        };
        if reply.is_ok() {
            self.acknowledged.insert(self.next);
            return None;
        }
        if reply.body["error"]["outcome"] != "none" {
            self.unknown.insert(self.next);
        }
        Some(reply.error())
    }

    #[track_caller]
    pub fn write_all(&mut self, node: &Node, rows: usize, filler: usize) {
        for _ in 0..rows {
            assert_eq!(self.write_bytes(node, filler, 10_000), None);
        }
    }

    pub fn acknowledged(&self) -> usize {
        self.acknowledged.len()
    }

    /// Everything acknowledged is there once, and nothing that was refused.
    #[track_caller]
    pub fn check(&self, node: &Node) {
        self.compare(node, "linearizable");
    }

    /// As [`Ledger::check`], of what this very node has.
    #[track_caller]
    pub fn check_here(&self, node: &Node) {
        self.compare(node, "any");
    }

    #[track_caller]
    fn compare(&self, node: &Node, consistency: &str) {
        let reply = node.post(
            "/v1/query",
            &json!({"sql": "SELECT n FROM ledger ORDER BY n", "consistency": consistency, "deadline_ms": 10_000}),
        );
        let rows: Vec<i64> =
            reply.ok()["rows"].as_array().unwrap().iter().map(|row| row[0].as_i64().unwrap()).collect();
        let there: BTreeSet<i64> = rows.iter().copied().collect();
        assert_eq!(there.len(), rows.len(), "a row is there twice");
        let lost: Vec<_> = self.acknowledged.difference(&there).collect();
        assert!(lost.is_empty(), "acknowledged and lost: {lost:?}");
        let surplus: Vec<_> =
            there.iter().filter(|n| !self.acknowledged.contains(n) && !self.unknown.contains(n)).collect();
        assert!(surplus.is_empty(), "refused and there all the same: {surplus:?}");
    }
}
