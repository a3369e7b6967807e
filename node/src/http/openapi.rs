//! The OpenAPI document of the port. Served at `/v1/openapi.json` and committed as `docs/openapi.json`; a test fails when
//! the two differ (`RDB_BLESS=1 cargo test -p rdb-node openapi` writes the file).

use std::sync::LazyLock;

use rdb_protocol::api::ErrorCode;
use serde_json::{Value, json};

use super::admin;

/// The document as text, ending in a newline.
pub fn text() -> &'static str {
    static TEXT: LazyLock<String> = LazyLock::new(|| format!("{:#}\n", document()));
    &TEXT
}

/// The whole document. Keys are in alphabetical order, so that the file is always the same.
pub fn document() -> Value {
    let mut paths = json!({
        "/v1/execute": post("Run one statement, in a transaction of its own", "ExecuteRequest", "ExecuteResponse"),
        "/v1/query": post("Run one read-only statement at a consistency level", "QueryRequest", "ExecuteResponse"),
        "/v1/batch": post("Run statements in one transaction, all or none", "BatchRequest", "BatchResponse"),
        "/v1/outcome/{key}": outcome(),
        "/v1/status": status(),
        "/v1/snapshot": get("The database file as of the position in the headers", "application/vnd.sqlite3"),
        "/v1/changes": get("Row changes behind the position `from=<epoch>/<index>`, a line of JSON per record", "application/x-ndjson"),
        "/v1/divergence/{archive}": get("Row changes of a divergent tail that the node's status names", "application/x-ndjson"),
        "/v1/openapi.json": open(get("This document", "application/json")),
        "/livez": open(get("200 while the process can go on; a line per check", "text/plain")),
        "/readyz": open(get("200 while the node can serve clients; a line per check", "text/plain")),
        "/metrics": open(get("Metrics for Prometheus", "application/openmetrics-text")),
    });
    for name in admin::NAMES {
        paths[format!("/v1/admin/{name}")] = admin_call(name);
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "ReplicatedDB node",
            "version": "1",
            "description": "SQL over HTTP. Any node takes any request: writes and linearizable reads are forwarded to the leader and held while there is none, until their deadline.",
            "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
        },
        "paths": paths,
        "components": {
            "schemas": schemas(),
            "securitySchemes": {
                "client": { "type": "http", "scheme": "bearer" },
                "admin": { "type": "http", "scheme": "bearer" },
            },
        },
    })
}

fn post(summary: &str, request: &str, response: &str) -> Value {
    let mut parameters = vec![];
    if request != "QueryRequest" {
        parameters.push(json!({
            "name": "Idempotency-Key",
            "in": "header",
            "description": "`<client>:<sequence>`: a retry with the same key takes effect once and gets the first result",
            "schema": { "type": "string", "pattern": "^[!-~]{1,64}:[0-9]+$" },
        }));
    }
    json!({ "post": {
        "summary": summary,
        "parameters": parameters,
        "security": [{ "client": [] }],
        "requestBody": { "required": true, "content": content(request) },
        "responses": responses(json!({
            "description": "Done", "headers": headers(), "content": content(response),
        })),
    }})
}

fn get(summary: &str, media: &str) -> Value {
    json!({ "get": {
        "summary": summary,
        "security": [{ "client": [] }, { "admin": [] }],
        "responses": responses(json!({
            "description": "Done", "headers": headers(), "content": { media: {} },
        })),
    }})
}

/// Wants no token.
fn open(mut path: Value) -> Value {
    path["get"]["security"] = json!([]);
    path
}

fn outcome() -> Value {
    let mut path = get("The kept result of a request, by its idempotency key", "application/json");
    path["get"]["security"] = json!([{ "client": [] }]);
    path["get"]["parameters"] = json!([
        { "name": "key", "in": "path", "required": true, "schema": { "type": "string" } }
    ]);
    path["get"]["responses"]["200"]["content"] = content("Outcome");
    path
}

fn status() -> Value {
    let mut path = get("What the node says about itself", "application/json");
    path["get"]["parameters"] = json!([{
        "name": "watch", "in": "query", "allowEmptyValue": true, "schema": { "type": "string" },
        "description": "Stream JSON lines: one at once, one on every change, one per heartbeat interval",
    }]);
    path
}

fn admin_call(name: &str) -> Value {
    json!({ "post": {
        "summary": format!("The operator's call `{name}`"),
        "security": [{ "admin": [] }],
        "requestBody": { "required": true, "content": { "application/json": { "schema": { "type": "object" } } } },
        "responses": {
            "200": { "description": "Obeyed", "headers": headers() },
            "409": { "description": "Refused: a higher epoch was promised, or the call does not fit the node's state" },
            "default": { "description": "Error", "content": content("ErrorResponse") },
        },
    }})
}

fn content(schema: &str) -> Value {
    json!({ "application/json": { "schema": reference(schema) } })
}

fn reference(schema: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{schema}") })
}

fn responses(done: Value) -> Value {
    let error = json!({ "description": "Error", "headers": headers(), "content": content("ErrorResponse") });
    json!({ "200": done, "default": error })
}

fn headers() -> Value {
    let header = |text: &str, kind: &str| json!({ "description": text, "schema": { "type": kind } });
    json!({
        "Rdb-Epoch": header("Epoch of the position", "integer"),
        "Rdb-Index": header("Index of the position", "integer"),
        "Rdb-Node": header("Name of the node that answered", "string"),
    })
}

fn object(required: &[&str], properties: Value) -> Value {
    json!({ "type": "object", "required": required, "properties": properties, "additionalProperties": false })
}

fn schemas() -> Value {
    let milliseconds = json!({ "type": "integer", "minimum": 0 });
    let statement = json!({ "sql": { "type": "string" }, "args": reference("Args") });
    let with = |mut base: Value, more: Value| {
        if let (Some(base), Value::Object(more)) = (base.as_object_mut(), more) {
            base.extend(more);
        }
        base
    };
    let result = json!({
        "columns": { "type": "array", "items": object(&["name", "type"], json!({
            "name": { "type": "string" },
            "type": { "type": ["string", "null"], "description": "Declared type; null for an expression" },
        })) },
        "rows": { "type": "array", "items": { "type": "array", "items": reference("Value") } },
        "rows_affected": { "type": "integer" },
        "last_insert_rowid": reference("Value"),
    });
    let result_fields = ["columns", "rows", "rows_affected", "last_insert_rowid"];
    let answer_fields = ["columns", "rows", "rows_affected", "last_insert_rowid", "position"];
    let position = json!({ "position": reference("Position") });
    let deadline = json!({ "deadline_ms": milliseconds });
    let results = |kind: Value| {
        object(
            &["results", "position"],
            json!({
                "results": { "type": kind, "items": reference("StatementResult") },
                "position": reference("Position"),
            }),
        )
    };
    json!({
        "Value": {
            "description": "NULL, INTEGER (text beyond 2^53 in results), REAL, TEXT or BLOB",
            "oneOf": [
                { "type": ["null", "number", "string", "boolean"] },
                object(&["base64"], json!({ "base64": { "type": "string", "contentEncoding": "base64" } })),
            ],
        },
        "Args": { "oneOf": [
            { "type": "array", "items": reference("Value") },
            { "type": "object", "additionalProperties": reference("Value") },
        ] },
        "Position": object(&["epoch", "index"], json!({
            "epoch": { "type": "integer" }, "index": { "type": "integer" },
        })),
        "Statement": object(&["sql"], statement.clone()),
        "StatementResult": object(&result_fields, result.clone()),
        "ExecuteRequest": object(&["sql"], with(statement.clone(), deadline.clone())),
        "ExecuteResponse": object(&answer_fields, with(result, position)),
        "QueryRequest": object(&["sql"], with(with(statement, deadline.clone()), json!({
            "consistency": { "enum": ["linearizable", "session", "bounded", "any"], "default": "linearizable" },
            "position": reference("Position"),
            "max_staleness_ms": milliseconds,
        }))),
        "BatchRequest": object(&["statements"], with(deadline, json!({
            "statements": { "type": "array", "items": reference("Statement") },
        }))),
        "BatchResponse": results(json!("array")),
        "Outcome": results(json!(["array", "null"])),
        "ErrorResponse": object(&["error"], json!({ "error": object(
            &["code", "message", "hint", "retry", "outcome"],
            json!({
                "code": { "enum": ErrorCode::ALL.iter().map(|code| code.as_str()).collect::<Vec<_>>() },
                "message": { "type": "string" },
                "hint": { "type": "string", "description": "What to do about it" },
                "retry": { "enum": ["safe", "with-key", "never"] },
                "outcome": { "enum": ["none", "unknown"] },
            }),
        ) })),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_committed_document_is_the_served_one() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/openapi.json");
        if std::env::var_os("RDB_BLESS").is_some() {
            std::fs::write(path, text()).unwrap();
        }
        let committed = std::fs::read_to_string(path).unwrap_or_default();
        assert!(committed == text(), "docs/openapi.json has drifted; see the header of this module");
    }

    #[test]
    fn every_reference_has_a_schema() {
        fn walk(value: &Value, found: &mut Vec<String>) {
            match value {
                Value::Object(map) => {
                    if let Some(Value::String(target)) = map.get("$ref") {
                        found.push(target.clone());
                    }
                    map.values().for_each(|value| walk(value, found));
                }
                Value::Array(values) => values.iter().for_each(|value| walk(value, found)),
                _ => {}
            }
        }
        let document = document();
        let mut found = Vec::new();
        walk(&document, &mut found);
        assert!(found.len() > 20);
        for target in found {
            let pointer = target.trim_start_matches('#');
            assert!(document.pointer(pointer).is_some(), "{target}");
        }
    }
}
