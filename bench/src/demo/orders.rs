//! Clients that place orders in the shop, and what they were told.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rdb_protocol::api::Consistency;
use serde_json::{Value, json};

use crate::client::{CallError, Client};
use crate::clock::{now, pause};

/// Each attempt's deadline: shorter than an outage, so that the clients show what a client does about one.
const DEADLINE: Duration = Duration::from_secs(1);

/// Between attempts and between orders: the shop is busy, not a benchmark.
const PAUSE: Duration = Duration::from_millis(2);

const NEW_ORDER: &str = "INSERT INTO orders (customer, reference) \
     VALUES ((SELECT id FROM customers ORDER BY id LIMIT 1 OFFSET ?1 % (SELECT count(*) FROM customers)), ?2)";
const NEW_ITEM: &str = "INSERT INTO order_items (order_id, line, sku, quantity, price) \
     SELECT o.id, ?1, p.sku, 1, p.price FROM orders o, products p WHERE o.reference = ?2 \
     ORDER BY p.sku LIMIT 1 OFFSET ?3";

/// An order that was acknowledged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    pub reference: String,
    /// Of the answer.
    pub epoch: u64,
}

/// What all clients were told.
#[derive(Debug, Default)]
pub struct Journal {
    stop: AtomicBool,
    entries: Mutex<Entries>,
}

#[derive(Debug, Default)]
struct Entries {
    orders: Vec<Order>,
    /// When each epoch first acknowledged a write.
    first: BTreeMap<u64, Instant>,
}

impl Journal {
    fn entries(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn record(&self, order: Order) {
        let mut entries = self.entries();
        entries.first.entry(order.epoch).or_insert_with(now);
        entries.orders.push(order);
    }

    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    pub fn latest_epoch(&self) -> u64 {
        self.entries().first.keys().next_back().copied().unwrap_or(0)
    }

    /// When a write was first acknowledged in an epoch after this one.
    pub fn first_after(&self, epoch: u64) -> Option<Instant> {
        self.entries().first.range(epoch + 1..).next().map(|(_, at)| *at)
    }

    pub fn acknowledged(&self) -> Vec<Order> {
        self.entries().orders.clone()
    }
}

/// Places one order after the other, each until it is acknowledged: with the same idempotency key at whatever node
/// answers, as a client library would.
pub async fn place(journal: Arc<Journal>, addresses: Vec<String>, client: u64) {
    let mut nodes: Vec<Client> = addresses.iter().map(|address| Client::new(address, None)).collect();
    let mut at = client as usize % nodes.len();
    let mut number = 0u64;
    while !journal.stop.load(Ordering::Relaxed) {
        number += 1;
        let reference = format!("web-{client}-{number}");
        let key = format!("shop-{client}:{number}");
        let item = |line: u64| (NEW_ITEM, json!([line, reference, (client * 7 + number * line) % 200]));
        let order = [(NEW_ORDER, json!([client * 31 + number, reference])), item(1), item(2)];
        while !journal.stop.load(Ordering::Relaxed) {
            match nodes[at].batch(&order, Some(&key), DEADLINE).await {
                Ok(answer) => {
                    journal.record(Order { reference: reference.clone(), epoch: answer.position.epoch.0 });
                    break;
                }
                Err(error) if error.is_final() => {
                    println!("  client {client}: {error}");
                    break;
                }
                Err(_) => at = (at + 1) % nodes.len(),
            }
            pause(PAUSE).await;
        }
        pause(PAUSE).await;
    }
}

/// How much the shop holds.
#[derive(Clone, Copy, Debug, Default)]
pub struct Totals {
    pub customers: u64,
    pub orders: u64,
    pub items: u64,
}

/// Counts rows, and reads a view on the way.
pub async fn totals(address: &str) -> Result<Totals, CallError> {
    let sql = "SELECT (SELECT count(*) FROM customers), (SELECT count(*) FROM order_totals), \
         (SELECT count(*) FROM order_items)";
    let answer =
        Client::new(address, None).query(sql, json!([]), Consistency::Linearizable, None, DEADLINE * 10).await?;
    let number = |column: usize| answer.rows().first().and_then(|row| row.get(column)?.as_u64()).unwrap_or(0);
    Ok(Totals { customers: number(0), orders: number(1), items: number(2) })
}

/// References of all orders of the load at one node, each with how often it is there.
pub async fn references(node: &mut Client) -> Result<BTreeMap<String, u64>, CallError> {
    /// Of one page: a few hundred kilobytes of JSON.
    const PAGE: usize = 5_000;
    let sql = "SELECT id, reference FROM orders WHERE id > ?1 ORDER BY id LIMIT ?2";
    let mut found = BTreeMap::new();
    let mut last = json!(0);
    loop {
        let answer = node.query(sql, json!([last, PAGE]), Consistency::Any, None, DEADLINE * 30).await?;
        for row in answer.rows() {
            if let Some(reference) = row.get(1).and_then(Value::as_str) {
                *found.entry(reference.to_owned()).or_default() += 1;
            }
        }
        match answer.rows().last().and_then(|row| row.first()) {
            Some(id) if answer.rows().len() == PAGE => last = id.clone(),
            _ => return Ok(found),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_journal_tells_epochs_apart() {
        let journal = Journal::default();
        assert_eq!(journal.latest_epoch(), 0);
        journal.record(Order { reference: "a".into(), epoch: 2 });
        assert_eq!((journal.latest_epoch(), journal.first_after(2)), (2, None));
        journal.record(Order { reference: "b".into(), epoch: 4 });
        assert!(journal.first_after(2).is_some() && journal.first_after(4).is_none());
        assert_eq!(journal.acknowledged().len(), 2);
    }
}
