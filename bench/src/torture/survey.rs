//! Reads everything from every node, through the API that clients have: each node for itself, at whatever it has.

use std::collections::BTreeMap;
use std::time::Duration;

use rdb_protocol::api::Consistency;
use serde_json::{Value, json};
use xxhash_rust::xxh3::Xxh3;

use crate::checkers::content::Tables;
use crate::checkers::writes::{Rows, WriteId};
use crate::client::{CallError, Client};
use crate::cluster::Cluster;

/// Rows of one page of a table: some hundred kilobytes of JSON.
const PAGE: usize = 2_000;

/// For one page, an integrity check included.
const LIMIT: Duration = Duration::from_secs(60);

/// What one node holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeContent {
    pub tables: Tables,
    /// Hash of the whole database file as `GET /v1/snapshot` gives it, without the bytes that may differ.
    pub image: u64,
    /// What `PRAGMA integrity_check` said; `["ok"]` when all is well.
    pub integrity: Vec<String>,
    /// How often each write is in the ledger.
    pub ledger: Rows,
    /// Each client's numbers in the order of the ledger.
    pub order: BTreeMap<u64, Vec<u64>>,
    /// Each client's count of batches.
    pub counters: BTreeMap<u64, u64>,
    /// Each client's numbers in the order of its list.
    pub lists: BTreeMap<u64, Vec<u64>>,
}

/// Content of all nodes, by name.
pub type Survey = BTreeMap<String, NodeContent>;

/// Reads all nodes.
pub async fn read(cluster: &Cluster) -> Result<Survey, String> {
    let mut survey = Survey::new();
    for node in &cluster.nodes {
        let mut client = Client::new(&node.address, None);
        let content = read_node(&mut client).await.map_err(|error| format!("{}: {error}", node.name))?;
        survey.insert(node.name.clone(), content);
    }
    Ok(survey)
}

async fn read_node(client: &mut Client) -> Result<NodeContent, CallError> {
    let mut content = NodeContent {
        integrity: texts(&rows(client, "PRAGMA integrity_check", json!([])).await?),
        image: image(client).await?,
        ..NodeContent::default()
    };
    let schema = rows(client, "SELECT type, name, sql FROM sqlite_schema ORDER BY type, name", json!([])).await?;
    content.tables.insert("sqlite_schema".into(), hash(&schema));
    let tables: Vec<String> = schema
        .iter()
        .filter(|row| row.first().is_some_and(|kind| kind == "table"))
        .filter_map(|row| Some(row.get(1)?.as_str()?.to_owned()))
        .filter(|name| !name.starts_with("sqlite_") && !name.starts_with("_rdb_"))
        .collect();
    for table in tables {
        let all = whole_table(client, &table).await?;
        content.tables.insert(table.clone(), hash(&all));
        take(&mut content, &table, &all);
    }
    Ok(content)
}

/// Rows in the order of their first columns, which hold the key in all tables of the test.
async fn whole_table(client: &mut Client, table: &str) -> Result<Vec<Vec<Value>>, CallError> {
    let mut all = Vec::new();
    loop {
        let sql = format!("SELECT * FROM \"{table}\" ORDER BY 1, 2 LIMIT {PAGE} OFFSET {}", all.len());
        let page = rows(client, &sql, json!([])).await?;
        let is_last = page.len() < PAGE;
        all.extend(page);
        if is_last {
            return Ok(all);
        }
    }
}

async fn rows(client: &mut Client, sql: &str, args: Value) -> Result<Vec<Vec<Value>>, CallError> {
    Ok(client.query(sql, args, Consistency::Any, None, LIMIT).await?.rows().to_vec())
}

fn texts(rows: &[Vec<Value>]) -> Vec<String> {
    rows.iter().flatten().map(|value| value.as_str().map_or_else(|| value.to_string(), str::to_owned)).collect()
}

/// Of the rows as JSON text, which tells integers, reals and texts apart.
fn hash(rows: &[Vec<Value>]) -> u64 {
    let mut hash = Xxh3::new();
    for row in rows {
        hash.update(Value::from(row.clone()).to_string().as_bytes());
        hash.update(b"\n");
    }
    hash.digest()
}

/// Takes out of a table what the checks need.
fn take(content: &mut NodeContent, table: &str, rows: &[Vec<Value>]) {
    let number = |row: &[Value], column: usize| row.get(column).and_then(Value::as_u64).unwrap_or(u64::MAX);
    for row in rows {
        match table {
            "ledger" => {
                let (client, written) = (number(row, 1), number(row, 2));
                *content.ledger.entry(WriteId { client, number: written }).or_default() += 1;
                content.order.entry(client).or_default().push(written);
            }
            "counters" => {
                content.counters.insert(number(row, 0), number(row, 1));
            }
            "lists" => {
                let entries = row.get(2).and_then(Value::as_str).unwrap_or_default();
                let numbers = entries.split_terminator(',').map(|entry| entry.parse().unwrap_or(u64::MAX));
                content.lists.entry(number(row, 0)).or_default().extend(numbers);
            }
            _ => {}
        }
    }
}

/// Bytes of the first page that SQLite changes by itself and that say nothing about the content: the change counter, and
/// the counter and library version that it is valid for.
fn masked(offset: u64) -> bool {
    (24..28).contains(&offset) || (92..100).contains(&offset)
}

async fn image(client: &mut Client) -> Result<u64, CallError> {
    let mut hash = Xxh3::new();
    let mut offset = 0u64;
    let status = client
        .download("/v1/snapshot", |piece| {
            // Only the start of the file holds such bytes.
            let head = usize::try_from(100u64.saturating_sub(offset)).unwrap_or(0).min(piece.len());
            for (at, byte) in piece[..head].iter().enumerate() {
                hash.update(&[if masked(offset + at as u64) { 0 } else { *byte }]);
            }
            hash.update(&piece[head..]);
            offset += piece.len() as u64;
        })
        .await?;
    match status {
        200 => Ok(hash.digest()),
        status => Err(CallError::Strange { status, body: "GET /v1/snapshot".into() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ledger_counts_duplicates_and_keeps_the_order() {
        let mut content = NodeContent::default();
        take(&mut content, "ledger", &[json_row(json!([1, 7, 3, "x"])), json_row(json!([2, 7, 3, "x"]))]);
        assert_eq!(content.ledger[&WriteId { client: 7, number: 3 }], 2);
        take(&mut content, "lists", &[json_row(json!([7, 0, "1,2,"])), json_row(json!([7, 1, "3,"]))]);
        assert_eq!(content.lists[&7], [1, 2, 3]);
        take(&mut content, "counters", &[json_row(json!([7, 3]))]);
        assert_eq!(content.counters[&7], 3);
    }

    #[test]
    fn the_hash_tells_types_and_order_apart() {
        let of = |rows: Value| hash(&rows.as_array().unwrap().iter().cloned().map(json_row).collect::<Vec<_>>());
        assert_eq!(of(json!([[1, "a"], [2, null]])), of(json!([[1, "a"], [2, null]])));
        assert_ne!(of(json!([[1, "a"]])), of(json!([["1", "a"]])));
        assert_ne!(of(json!([[1], [2]])), of(json!([[2], [1]])));
        assert_ne!(of(json!([[1], [2]])), of(json!([[1, 2]])));
    }

    fn json_row(row: Value) -> Vec<Value> {
        row.as_array().unwrap().clone()
    }
}
