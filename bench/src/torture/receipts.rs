//! Collects `status.lastFailover` while faults go on: the status keeps only the last one, and makes it exact when the old
//! leader's log has been read.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::Value;

use crate::checkers::Receipt;
use crate::clock::pause;
use crate::cluster::Cluster;

/// Between two looks: well below the time that two failovers need.
const INTERVAL: Duration = Duration::from_millis(25);

type Collected = Arc<Mutex<BTreeMap<u64, Receipt>>>;

/// Reads the status file from time to time until it is finished or dropped.
#[derive(Debug)]
pub struct Collector {
    collected: Collected,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Collector {
    /// For the cluster with this data directory.
    pub fn start(data: &Path) -> Collector {
        let path: PathBuf = data.join("status.json");
        let collected = Collected::default();
        let into = collected.clone();
        let task = tokio::spawn(async move {
            loop {
                let text = std::fs::read(&path).unwrap_or_default();
                if let Ok(stored) = serde_json::from_slice::<Value>(&text) {
                    keep(&into, &stored["status"]);
                }
                pause(INTERVAL).await;
            }
        });
        Collector { collected, task }
    }

    /// The receipts in the order of their epochs, each as it was last seen.
    pub async fn finish(self, cluster: &Cluster) -> Vec<Receipt> {
        keep(&self.collected, &cluster.stored_status());
        self.collected.lock().unwrap_or_else(PoisonError::into_inner).values().copied().collect()
    }
}

fn keep(collected: &Collected, status: &Value) {
    if let Some(receipt) = parse(&status["lastFailover"]) {
        collected.lock().unwrap_or_else(PoisonError::into_inner).insert(receipt.epoch, receipt);
    }
}

fn parse(receipt: &Value) -> Option<Receipt> {
    Some(Receipt {
        epoch: receipt["epoch"].as_u64()?,
        promoted: receipt["promoted"].as_u64()?,
        acknowledged: receipt["acknowledged"].as_u64()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_receipt_is_kept_as_it_was_last_seen() {
        let collected = Collected::default();
        let status = |epoch, acknowledged| json!({"lastFailover": {"epoch": epoch, "promoted": 10, "acknowledged": acknowledged, "exact": false}});
        for status in [json!({}), json!({"lastFailover": null}), status(2, 10), status(2, 12), status(3, 10)] {
            keep(&collected, &status);
        }
        let kept: Vec<_> = collected.lock().unwrap().values().map(|r| (r.epoch, r.acknowledged)).collect();
        assert_eq!(kept, [(2, 12), (3, 10)]);
    }
}
