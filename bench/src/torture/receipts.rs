//! Collects `status.lastFailover` and `status.earlierLosses` while faults go on: the status keeps only so many, and makes each
//! exact when the old leader's log has been read.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::Value;

use crate::checkers::Receipt;
use crate::clock::{pause, until};
use crate::cluster::Cluster;

/// Between two looks: well below the time that two failovers need.
const INTERVAL: Duration = Duration::from_millis(25);

/// Until the operator has written what the nodes, which have come together, report: some heartbeats.
const SETTLE_LIMIT: Duration = Duration::from_secs(10);

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

    /// The receipts in the order of their epochs, each as it was last seen. Waits until they are final; one that does not
    /// become so counts as it stands.
    pub async fn finish(self, cluster: &Cluster) -> Vec<Receipt> {
        until(SETTLE_LIMIT, async || settled(&cluster.stored_status()).then_some(())).await;
        keep(&self.collected, &cluster.stored_status());
        self.collected.lock().unwrap_or_else(PoisonError::into_inner).values().copied().collect()
    }
}

fn keep(collected: &Collected, status: &Value) {
    let mut collected = collected.lock().unwrap_or_else(PoisonError::into_inner);
    for receipt in receipts(status).filter_map(parse) {
        collected.insert(receipt.epoch, receipt);
    }
}

fn receipts(status: &Value) -> impl Iterator<Item = &Value> {
    let earlier = status["earlierLosses"].as_array().into_iter().flatten();
    earlier.chain(std::iter::once(&status["lastFailover"]))
}

/// Is every number final? The old leaders are back, so each log can be read.
fn settled(status: &Value) -> bool {
    let open = |receipt: &Value| receipt["exact"] == false && receipt["incomplete"] != true;
    !receipts(status).any(open)
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
        let exact = json!({"epoch": 2, "promoted": 10, "acknowledged": 15, "exact": true});
        let open = json!({"epoch": 4, "promoted": 20, "acknowledged": 21, "exact": false});
        let later = json!({"earlierLosses": [exact], "lastFailover": open});
        keep(&collected, &later);
        let kept: Vec<_> = collected.lock().unwrap().values().map(|r| (r.epoch, r.acknowledged)).collect();
        assert_eq!(kept, [(2, 15), (3, 10), (4, 21)]);
        assert!(!settled(&later) && settled(&json!({"earlierLosses": [exact], "lastFailover": null})));
    }
}
