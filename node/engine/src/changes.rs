//! Records as row changes for people and consumers: the JSON of `GET /v1/changes` and of `rdb log`.

use rdb_record::{CellRef, ChangeKind, Payload, Record, RowChange, RowItem, RowKey, TableShape};
use serde_json::{Map, Value as Json, json};

use crate::json::value_to_json;
use crate::value::Value;

/// Which changes are shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shown {
    /// Those of the node's own tables and of parts of virtual tables too.
    pub internal: bool,
}

/// The transactions of a record, each `{"key": "<client>:<sequence>"|absent, "changes": […]}`; a change is
/// `{"table", "op": "insert"|"update"|"delete", "key", "old", "new"}`, or `{"op": "statement", "sql"}` for what changes the
/// schema. `None`: the record carries no row changes.
///
/// An update's `new` holds the whole row where the record has old values, and the changed columns otherwise. Columns without a
/// name in the record are called by their places.
pub fn changes_of(record: &Record, shown: Shown) -> Result<Option<Vec<Json>>, rdb_record::RecordError> {
    let Some(rows) = record.payload.rows() else { return Ok(None) };
    let decoded = rows.items()?;
    let mut transactions = Vec::new();
    let mut present = Transaction::default();
    for item in &decoded.items {
        match item {
            RowItem::Begin { tag, .. } => {
                std::mem::take(&mut present).end(&mut transactions);
                let client = tag.and_then(|tag| record.clients.get(tag));
                present.key = client.map(|tag| format!("{}:{}", tag.client, tag.sequence));
            }
            RowItem::Statement { sql, .. } => present.changes.push(json!({ "op": "statement", "sql": sql })),
            RowItem::Row(change) => {
                if let Some(table) = decoded.tables.get(change.table).filter(|table| shown.internal || !table.internal)
                {
                    present.changes.push(change_to_json(table, change));
                }
            }
        }
    }
    present.end(&mut transactions);
    Ok(Some(transactions))
}

/// A record readably, whatever it holds: kind and content, without its position.
pub fn record_to_json(record: &Record) -> Json {
    let clients: Vec<String> = record.clients.iter().map(|tag| format!("{}:{}", tag.client, tag.sequence)).collect();
    let mut out = Map::new();
    let mut put = |name: &str, value: Json| drop(out.insert(name.to_owned(), value));
    put("time_ms", json!(record.timestamp >> 16));
    put("content", json!(format!("{:016x}", record.content)));
    if !clients.is_empty() {
        put("clients", json!(clients));
    }
    match record.payload.main() {
        Payload::Noop => put("kind", json!("noop")),
        Payload::EpochStart { leader } => {
            put("kind", json!("epochStart"));
            put("leader", json!(leader));
        }
        Payload::Config(config) => {
            put("kind", json!("config"));
            put("config", json!(config));
        }
        Payload::Loss(mark) => {
            put("kind", json!("loss"));
            put("lost", json!(mark));
        }
        Payload::Pages(pages) => {
            put("kind", json!("pages"));
            put("pages", json!(pages.pages.iter().map(|(page, _)| page).collect::<Vec<_>>()));
            put("database_pages", json!(pages.database_pages));
        }
        Payload::Statements(group) => {
            put("kind", json!("statements"));
            match group.transactions() {
                Ok(transactions) => put("transactions", transactions.iter().map(statements_to_json).collect()),
                Err(error) => put("error", json!(error.to_string())),
            }
        }
        Payload::Rows(_) | Payload::WithRows(..) => put("kind", json!("rows")),
    }
    match changes_of(record, Shown { internal: true }) {
        Ok(Some(changes)) => put("changes", json!(changes)),
        Ok(None) => {}
        Err(error) => put("error", json!(error.to_string())),
    }
    Json::Object(out)
}

fn statements_to_json(transaction: &rdb_record::StatementTransaction<'_>) -> Json {
    let statements = transaction.statements.iter().map(|statement| {
        let args: Vec<Json> = statement.args.iter().map(|(_, cell)| cell_to_json(*cell)).collect();
        if args.is_empty() { json!({ "sql": statement.sql }) } else { json!({ "sql": statement.sql, "args": args }) }
    });
    statements.collect()
}

#[derive(Default)]
struct Transaction {
    key: Option<String>,
    changes: Vec<Json>,
}

impl Transaction {
    fn end(self, into: &mut Vec<Json>) {
        if self.changes.is_empty() {
            return;
        }
        into.push(match self.key {
            Some(key) => json!({ "key": key, "changes": self.changes }),
            None => json!({ "changes": self.changes }),
        });
    }
}

fn cell_to_json(cell: CellRef<'_>) -> Json {
    value_to_json(&Value::from_cell(cell))
}

fn name(table: &TableShape, place: usize) -> String {
    match table.columns.get(place) {
        Some(name) if !name.is_empty() => name.clone(),
        _ => format!("#{place}"),
    }
}

fn row<'a>(table: &TableShape, cells: impl IntoIterator<Item = (usize, CellRef<'a>)>) -> Json {
    let named = cells.into_iter().map(|(place, cell)| (name(table, place), cell_to_json(cell)));
    Json::Object(named.collect::<Map<_, _>>())
}

fn key_to_json(table: &TableShape, key: &RowKey<'_>) -> Json {
    match key {
        RowKey::Rowid(rowid) => {
            let name = table.key.first().map_or_else(|| "rowid".to_owned(), |place| name(table, *place));
            Json::Object(Map::from_iter([(name, cell_to_json(CellRef::Integer(*rowid)))]))
        }
        RowKey::Columns(cells) => row(table, table.key.iter().copied().zip(cells.iter().copied())),
    }
}

fn change_to_json(table: &TableShape, change: &RowChange<'_>) -> Json {
    let whole = |cells: &[CellRef<'_>]| row(table, cells.iter().copied().enumerate());
    match &change.kind {
        ChangeKind::Insert { rowid, new } => {
            let key = match rowid {
                Some(rowid) => key_to_json(table, &RowKey::Rowid(*rowid)),
                None => row(table, table.key.iter().filter_map(|place| Some((*place, *new.get(*place)?)))),
            };
            json!({ "table": table.name, "op": "insert", "key": key, "new": whole(new) })
        }
        ChangeKind::Update { key, old, new, .. } => {
            let key = key_to_json(table, key);
            match old {
                Some(old) => {
                    let after = old.iter().zip(new).map(|(old, new)| new.unwrap_or(*old));
                    let after = row(table, after.enumerate());
                    json!({ "table": table.name, "op": "update", "key": key, "old": whole(old), "new": after })
                }
                None => {
                    let changed = new.iter().enumerate().filter_map(|(place, cell)| Some((place, (*cell)?)));
                    json!({ "table": table.name, "op": "update", "key": key, "new": row(table, changed) })
                }
            }
        }
        ChangeKind::Delete { key, old } => {
            let mut out = json!({ "table": table.name, "op": "delete", "key": key_to_json(table, key) });
            if let (Some(old), Some(object)) = (old, out.as_object_mut()) {
                object.insert("old".to_owned(), whole(old));
            }
            out
        }
    }
}
