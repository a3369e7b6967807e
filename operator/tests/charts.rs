//! What is generated for the charts has not drifted from what the code says, and every example is a good manifest.
//! `UPDATE_GOLDEN=1 cargo test -p rdb-operator --test charts` writes the generated files anew.

use std::path::{Path, PathBuf};

use rdb_operator::crd::{RawReplicatedDB, definition};
use rdb_operator::snapshots::schedule::Schedule;
use serde_json::{Map, Value, json};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Compares a file with what it should hold, or writes it.
fn generated(path: &str, expected: &str) {
    let file = root().join(path);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&file, expected).unwrap();
    }
    let found = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(found == expected, "{path} has drifted: run this test with UPDATE_GOLDEN=1");
}

#[test]
fn the_charts_copy_of_the_definition_is_current() {
    generated("charts/replicateddb-operator/files/replicateddbs.yaml", &definition::yaml().unwrap());
}

#[test]
fn the_cluster_charts_values_are_checked_against_the_resource_itself() {
    let definition = serde_json::to_value(definition::definition().unwrap()).unwrap();
    let resource = &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
    let spec = resource["properties"]["spec"].clone();
    assert!(spec["properties"]["instances"].is_object(), "{spec}");
    let strings = json!({"type": "object", "additionalProperties": {"type": "string"}});
    let schema = json!({
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "Values of replicateddb-cluster",
        "type": "object",
        "additionalProperties": false,
        "required": ["spec"],
        "properties": {
            "name": {"type": "string"},
            "labels": strings,
            "annotations": strings,
            "global": {"type": "object"},
            "spec": json_schema(spec),
        },
    });
    let text = serde_json::to_string_pretty(&schema).unwrap() + "\n";
    generated("charts/replicateddb-cluster/values.schema.json", &text);
}

/// The part of a resource's schema that JSON Schema knows, in its words; and unlike the API server, which drops a field
/// that it does not know, a chart refuses it.
fn json_schema(schema: Value) -> Value {
    match schema {
        Value::Object(map) => Value::Object(object_schema(map)),
        Value::Array(items) => Value::Array(items.into_iter().map(json_schema).collect()),
        Value::Number(number) => match number.as_f64() {
            Some(float) if !number.is_i64() && float.fract() == 0.0 && float.abs() < 1e15 => json!(float as i64),
            _ => Value::Number(number),
        },
        other => other,
    }
}

fn object_schema(map: Map<String, Value>) -> Map<String, Value> {
    let is_schema = map.get("type").is_some_and(Value::is_string) || map.contains_key("x-kubernetes-int-or-string");
    let open = map.contains_key("x-kubernetes-preserve-unknown-fields") || map.contains_key("additionalProperties");
    let nullable = map.get("nullable") == Some(&Value::Bool(true));
    let either = map.get("x-kubernetes-int-or-string") == Some(&Value::Bool(true));
    let mut out: Map<String, Value> = map
        .into_iter()
        .filter(|(key, _)| !is_schema || !(key.starts_with("x-kubernetes-") || key == "nullable" || key == "format"))
        .map(|(key, value)| if key == "default" || key == "enum" { (key, value) } else { (key, json_schema(value)) })
        .collect();
    if is_schema && either {
        out.insert("type".to_owned(), json!(["integer", "string"]));
        out.remove("anyOf");
    }
    if is_schema && out.contains_key("properties") && !open {
        out.insert("additionalProperties".to_owned(), Value::Bool(false));
    }
    if is_schema && nullable {
        if let Some(kind) = out.get("type").cloned() {
            out.insert("type".to_owned(), json!([kind, "null"]));
        }
        if let Some(Value::Array(values)) = out.get_mut("enum")
            && !values.contains(&Value::Null)
        {
            values.push(Value::Null);
        }
    }
    out
}

/// All manifests below docs/examples.
fn examples() -> Vec<(String, Value)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(root().join("docs/examples")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "yaml") {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        for document in serde_yaml::Deserializer::from_str(&text) {
            let value: Value = serde::Deserialize::deserialize(document).unwrap();
            found.push((path.file_name().unwrap().to_string_lossy().into_owned(), value));
        }
    }
    found
}

#[test]
fn every_example_is_a_good_manifest() {
    let examples = examples();
    assert!(examples.len() >= 5, "{}", examples.len());
    for (file, manifest) in examples {
        if manifest["kind"] != "ReplicatedDB" {
            assert!(manifest["apiVersion"].is_string() && manifest["metadata"]["name"].is_string(), "{file}");
            continue;
        }
        let resource: RawReplicatedDB = serde_json::from_value(manifest).unwrap();
        let (typed, _) = resource.parse().unwrap_or_else(|error| panic!("{file}: {error}"));
        Schedule::parse(&typed.spec.snapshots.schedule).unwrap_or_else(|error| panic!("{file}: {error}"));
    }
}

#[test]
fn a_wrong_manifest_would_be_noticed() {
    let wrong = json!({"metadata": {"name": "orders"}, "spec": {"replication": {"syncFollowers": 3}}});
    let resource: RawReplicatedDB = serde_json::from_value(wrong).unwrap();
    assert!(resource.parse().unwrap_err().to_string().contains("syncFollowers"));
}
