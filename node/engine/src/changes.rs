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

/// The transactions of a record as the text of a JSON array, each `{"changes": […], "key": "<client>:<sequence>"|absent}`; a
/// change is `{"table", "op": "insert"|"update"|"delete", "key", "old", "new"}`, with `"new_key"` when a hidden rowid changes, or
/// `{"op": "statement", "sql"}` for what changes the schema. `None`: the record carries no row changes.
///
/// An update's `new` holds the whole row where the record has old values, and the changed columns otherwise. Columns without a
/// name in the record are called by their places.
///
/// Written change by change: a tree of the changes of one large transaction would take gigabytes.
pub fn changes_of(record: &Record, shown: Shown) -> Result<Option<String>, rdb_record::RecordError> {
    let Some(rows) = record.payload.rows() else { return Ok(None) };
    let mut out = Transactions { text: "[".to_owned(), key: None, is_open: false };
    rows.each_item(|tables, item| match item {
        RowItem::Begin { tag, .. } => {
            out.end();
            let client = tag.and_then(|tag| record.clients.get(tag));
            out.key = client.map(|tag| format!("{}:{}", tag.client, tag.sequence));
        }
        RowItem::Statement { sql, .. } => out.push(&json!({ "op": "statement", "sql": sql })),
        RowItem::Row(change) => {
            if let Some(table) = tables.get(change.table).filter(|table| shown.internal || !table.internal) {
                out.push(&change_to_json(table, &change));
            }
        }
    })?;
    out.end();
    out.text.push(']');
    Ok(Some(out.text))
}

/// What [`changes_of`] writes for a record whose changes are none of a consumer's.
pub const NO_CHANGES: &str = "[]";

/// A record readably, whatever it holds, as the text of a JSON object: kind and content, and what is in `out` already.
pub fn record_to_text(record: &Record, mut out: Map<String, Json>) -> String {
    let clients: Vec<String> = record.clients.iter().map(|tag| format!("{}:{}", tag.client, tag.sequence)).collect();
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
    let changes = changes_of(record, Shown { internal: true }).unwrap_or_else(|error| {
        put("error", json!(error.to_string()));
        None
    });
    let mut text = Json::Object(out).to_string();
    if let (Some(changes), true) = (changes, text.ends_with('}')) {
        text.truncate(text.len() - 1);
        text.push_str(&format!(",\"changes\":{changes}}}"));
    }
    text
}

fn statements_to_json(transaction: &rdb_record::StatementTransaction<'_>) -> Json {
    let statements = transaction.statements.iter().map(|statement| {
        let args: Vec<Json> = statement.args.iter().map(|(_, cell)| cell_to_json(*cell)).collect();
        if args.is_empty() { json!({ "sql": statement.sql }) } else { json!({ "sql": statement.sql, "args": args }) }
    });
    statements.collect()
}

/// Writes transactions; those without changes are left out.
struct Transactions {
    text: String,
    /// Of the present one.
    key: Option<String>,
    /// The present one has a change.
    is_open: bool,
}

impl Transactions {
    fn push(&mut self, change: &Json) {
        let before = match (self.is_open, self.text.len()) {
            (true, _) => ",",
            (false, 1) => "{\"changes\":[",
            (false, _) => ",{\"changes\":[",
        };
        self.is_open = true;
        self.text.push_str(before);
        self.text.push_str(&change.to_string());
    }

    fn end(&mut self) {
        let key = self.key.take();
        if std::mem::take(&mut self.is_open) {
            self.text.push(']');
            if let Some(key) = key {
                self.text.push_str(&format!(",\"key\":{}", Json::from(key)));
            }
            self.text.push('}');
        }
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
            let name = table.key.first().map_or_else(|| hidden_rowid(table), |place| name(table, *place));
            Json::Object(Map::from_iter([(name, cell_to_json(CellRef::Integer(*rowid)))]))
        }
        RowKey::Columns(cells) => row(table, table.key.iter().copied().zip(cells.iter().copied())),
    }
}

/// A hidden rowid by a name that no column has.
fn hidden_rowid(table: &TableShape) -> String {
    let is_column = |name: &&str| table.columns.iter().any(|column| column.eq_ignore_ascii_case(name));
    ["rowid", "_rowid_", "oid"].into_iter().find(|name| !is_column(name)).unwrap_or("rowid").to_owned()
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
        ChangeKind::Update { key, rowid, old, new } => {
            let mut out = json!({ "table": table.name, "op": "update", "key": key_to_json(table, key) });
            let Some(object) = out.as_object_mut() else { return out };
            // The columns do not show it.
            if let Some(rowid) = rowid.filter(|rowid| *key != RowKey::Rowid(*rowid)) {
                object.insert("new_key".to_owned(), key_to_json(table, &RowKey::Rowid(rowid)));
            }
            let after = match old {
                Some(old) => {
                    object.insert("old".to_owned(), whole(old));
                    let after = old.iter().zip(new).map(|(old, new)| new.unwrap_or(*old));
                    row(table, after.enumerate())
                }
                None => row(table, new.iter().enumerate().filter_map(|(place, cell)| Some((place, (*cell)?)))),
            };
            object.insert("new".to_owned(), after);
            out
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
