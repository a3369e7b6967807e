//! The resource: its definition as committed, what the API server would refuse (with its own rules, evaluated here), and
//! its status to its stored form and back.

use std::collections::BTreeSet;

use kube_cel::{Validator, apply_defaults};
use rdb_control::status::{Condition, InstanceStatus, Reason, Receipt};
use rdb_control::{ClusterStatus, Phase};
use rdb_operator::crd::schema::resource_schema_json;
use rdb_operator::crd::status::{Shown, from_stored, to_stored};
use rdb_operator::crd::{RawReplicatedDB, definition};
use rdb_protocol::{ClusterConfig, ClusterId, ConfigPair, Epoch, Incarnation, Index, Member, NodeName};
use serde_json::{Map, Value, json};

#[test]
fn the_committed_definition_is_what_the_program_prints() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../crds/replicateddbs.yaml");
    let committed = std::fs::read_to_string(path).unwrap();
    let printed = definition::yaml().unwrap();
    assert_eq!(committed, printed, "run `cargo run -p rdb-operator -- crd > crds/replicateddbs.yaml`");
}

fn resource(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "replicateddb.io/v1alpha1", "kind": "ReplicatedDB", "metadata": {"name": name}, "spec": spec})
}

/// What the API server says to this spec.
fn refusals(name: &str, spec: &Value, old: Option<&Value>) -> Vec<String> {
    let schema = resource_schema_json().unwrap();
    let filled = |spec: &Value| apply_defaults(&schema, &resource(name, spec.clone()));
    let (new, old) = (filled(spec), old.map(filled));
    let mut found = Vec::new();
    check_structure(&schema, &new, "", &mut found);
    if let Err(errors) = Validator::new().validate(&schema, &new, old.as_ref()) {
        found.extend(errors.into_vec().into_iter().map(|error| error.to_string()));
    }
    found
}

/// The part of a schema's meaning that has no CEL in it, as far as ours uses it.
fn check_structure(schema: &Value, value: &Value, path: &str, found: &mut Vec<String>) {
    if value.is_null() && schema["nullable"] == json!(true) {
        return;
    }
    let mut refuse = |why: &str| found.push(format!("{path}: {why}"));
    if let (Some(low), Some(n)) = (schema["minimum"].as_f64(), value.as_f64())
        && n < low
    {
        refuse("below the minimum");
    }
    if let (Some(high), Some(n)) = (schema["maximum"].as_f64(), value.as_f64())
        && n > high
    {
        refuse("above the maximum");
    }
    if let Some(words) = schema["enum"].as_array()
        && !words.contains(value)
    {
        refuse("not one of the words");
    }
    if let (Some(max), Some(text)) = (schema["maxLength"].as_u64(), value.as_str())
        && text.len() as u64 > max
    {
        refuse("too long");
    }
    if let (Some(pattern), Some(text)) = (schema["pattern"].as_str(), value.as_str()) {
        let rule =
            json!({"type": "string", "x-kubernetes-validations": [{"rule": format!("self.matches(r'{pattern}')")}]});
        if Validator::new().validate(&rule, &json!(text), None).is_err() {
            refuse("does not match the pattern");
        }
    }
    let typed = match schema["type"].as_str() {
        Some("integer") => value.is_i64() || value.is_u64(),
        Some("string") => value.is_string(),
        Some("boolean") => value.is_boolean(),
        Some("object") => value.is_object(),
        Some("array") => value.is_array(),
        _ => true,
    };
    if !typed {
        refuse("of another type");
    }
    for (key, value) in value.as_object().into_iter().flatten() {
        match schema["properties"].get(key) {
            Some(schema) => check_structure(schema, value, &format!("{path}.{key}"), found),
            None if path.starts_with(".spec") && schema.get("additionalProperties").is_none() => {
                found.push(format!("{path}.{key}: unknown field"));
            }
            None => {}
        }
    }
}

/// A spec with one field, given by its dotted path, set.
fn with(fields: &[(&str, Value)]) -> Value {
    let mut spec = json!({});
    for (path, value) in fields {
        let mut at = &mut spec;
        for field in path.split('.') {
            at = at.as_object_mut().unwrap().entry(field).or_insert_with(|| Value::Object(Map::new()));
        }
        *at = value.clone();
    }
    spec
}

#[test]
fn the_api_server_and_the_operator_refuse_the_same() {
    let good: &[&[(&str, Value)]] = &[
        &[],
        &[("instances", json!(1))],
        &[("instances", json!(15)), ("replication.syncFollowers", json!(14))],
        &[("instances", json!(1)), ("replication.syncFollowers", json!(2))],
        &[("instances", json!(2)), ("replication.mode", json!("sync")), ("replication.syncFollowers", json!(5))],
        &[("replication.minSyncFollowers", json!(0))],
        &[("replication.syncTimeout", json!("10m"))],
        &[("replication.logRetention.age", json!("30d"))],
        &[("replication.logRetention.age", json!("720h"))],
        &[("replication.logRetention.size", json!("64Mi"))],
        &[("failover.detectionTimeout", json!("30s"))],
        &[("failover.heartbeatInterval", json!("50ms")), ("failover.leaseDuration", json!("200ms"))],
        &[("failover.cooldown", json!("0s"))],
        &[("failover.dataLoss", json!(null))],
        &[("failover.dataLoss", json!("allow"))],
        &[("maintenance.until", json!("2026-01-31T18:00:00Z")), ("maintenance.active", json!(true))],
        &[("seeding.catchUpTimeout", json!("2d"))],
        &[("storage.size", json!("1Ti"))],
        &[("storage.size", json!("100000000"))],
        &[("access.maxRequestSize", json!("1Gi"))],
        &[("reclaim", json!("Delete"))],
    ];
    for fields in good {
        let spec = with(fields);
        assert_eq!(refusals("orders", &spec, None), Vec::<String>::new(), "{spec}");
        RawReplicatedDB::new("orders", spec.clone()).parse().unwrap_or_else(|error| panic!("{spec}: {error}"));
    }
    let bad: &[&[(&str, Value)]] = &[
        &[("instances", json!(0))],
        &[("instances", json!(16))],
        &[("instances", json!("3"))],
        &[("instances", json!(2)), ("replication.syncFollowers", json!(2))],
        &[("replication.syncFollowers", json!(0))],
        &[("replication.minSyncFollowers", json!(2))],
        &[("replication.mode", json!("quorum"))],
        &[("replication.syncTimeout", json!("500ms"))],
        &[("replication.syncTimeout", json!("10"))],
        &[("replication.logRetention.age", json!("31d"))],
        &[("replication.logRetention.age", json!("721h"))],
        &[("replication.logRetention.age", json!("30s"))],
        &[("replication.logRetention.size", json!("63Mi"))],
        &[("replication.logRetention.size", json!("1GB"))],
        &[("failover.detectionTimeout", json!("11m"))],
        &[("failover.detectionTimeout", json!("400ms")), ("failover.leaseDuration", json!("300ms"))],
        &[("failover.heartbeatInterval", json!("300ms"))],
        &[("failover.leaseDuration", json!("3s"))],
        &[("failover.cooldown", json!("2h"))],
        &[("failover.dataLoss", json!("maybe"))],
        &[("snapshots.keep", json!(0))],
        &[("snapshots.keep", json!(101))],
        &[("storage.size", json!("1Mi"))],
        &[("storage.size", json!(-1))],
        &[("access.maxRequestSize", json!("2Gi"))],
        &[("access.transactionTimeout", json!("1ms"))],
        &[("reclaim", json!("Keep"))],
        &[("replicas", json!(3))],
    ];
    for fields in bad {
        let spec = with(fields);
        assert_ne!(refusals("orders", &spec, None), Vec::<String>::new(), "{spec}");
        assert!(RawReplicatedDB::new("orders", spec.clone()).parse().is_err(), "{spec}");
    }
    for (name, good) in
        [("orders", true), ("o", true), ("1orders", false), ("or.ders", false), (&"o".repeat(58), false)]
    {
        assert_eq!(refusals(name, &json!({}), None).is_empty(), good, "{name}");
        assert_eq!(RawReplicatedDB::new(name, json!({})).parse().is_ok(), good, "{name}");
    }
}

#[test]
fn refusals_say_what_to_do() {
    let said = |fields: &[(&str, Value)]| refusals("orders", &with(fields), None).join("\n");
    let text = said(&[("instances", json!(2)), ("replication.syncFollowers", json!(2))]);
    assert!(text.contains("Raise instances or lower syncFollowers"), "{text}");
    let text = said(&[("failover.heartbeatInterval", json!("1s"))]);
    assert!(text.contains("at most a quarter of leaseDuration"), "{text}");
    let text = said(&[("failover.detectionTimeout", json!("1h"))]);
    assert!(text.contains("must be a duration within 500ms–10m"), "{text}");
}

#[test]
fn what_can_not_be_taken_back_is_refused() {
    let change = |path: &str, old: Value, new: Value| {
        refusals("orders", &with(&[(path, new)]), Some(&with(&[(path, old)]))).join("\n")
    };
    assert_eq!(change("storage.size", json!("1Gi"), json!("2Gi")), "");
    assert_eq!(change("storage.size", json!("1Gi"), json!("1024Mi")), "");
    let text = change("storage.size", json!("1Gi"), json!("1000Mi"));
    assert!(text.contains("may only grow"), "{text}");
    assert_eq!(change("storage.storageClass", json!("fast"), json!("fast")), "");
    let text = change("storage.storageClass", json!(""), json!("fast"));
    assert!(text.contains("can't be changed"), "{text}");
}

fn full_status() -> ClusterStatus {
    let member = |n: u64| Member { name: NodeName::new(format!("orders-{n}")).unwrap(), incarnation: Incarnation(n) };
    let config = ClusterConfig { version: 7, cohort: BTreeSet::from([member(1), member(2)]), acks: 1 };
    let row = |n: u64| InstanceStatus {
        name: member(n).name,
        role: "follower".to_owned(),
        epoch: Epoch(4),
        index: Index(88_213),
        lag_records: 120 * n,
        state: "Streaming".to_owned(),
        sync: n < 3,
        ready: true,
        node: Some("worker-1".to_owned()),
    };
    ClusterStatus {
        observed_generation: 3,
        phase: Phase::Steady,
        message: "Cluster in healthy state".to_owned(),
        cluster: Some(ClusterId(u64::MAX)),
        epoch: Epoch(4),
        leader: Some(member(2)),
        leader_epoch: Epoch(4),
        config: Some(ConfigPair::settled(config)),
        config_version: 7,
        ready_instances: 3,
        instances: vec![row(1), row(2), row(3)],
        last_failover: Some(Receipt {
            epoch: Epoch(4),
            from: None,
            from_incarnation: Some(Incarnation(9)),
            from_epoch: Epoch(3),
            to: member(2).name,
            reason: Reason::ProcessExited,
            evidence: "the process of orders-1 ended".to_owned(),
            detected_ms: 180,
            opened_ms: 640,
            records_at_risk: 0,
            exact: true,
            incomplete: false,
            acknowledged: Index(5),
            promoted: Index(6),
            lossy: false,
            in_a_row: 1,
            at_unix_ms: 1_795_410_367_089,
        }),
        conditions: vec![
            Condition {
                kind: "Ready".to_owned(),
                status: true,
                reason: "Steady".to_owned(),
                message: String::new(),
                since_unix_ms: 1_795_410_367_089,
            },
            Condition {
                kind: "Stalled".to_owned(),
                status: false,
                reason: "Steady".to_owned(),
                message: "no".to_owned(),
                since_unix_ms: 1_795_410_367_000,
            },
        ],
        ..ClusterStatus::default()
    }
}

#[test]
fn a_status_survives_being_stored() {
    let shown = Shown { cluster: "orders", asked_instances: 3, image: "rdb-node:1" };
    for status in [ClusterStatus::default(), full_status()] {
        let stored = to_stored(&status, &shown).unwrap();
        assert_eq!(from_stored(Some(&stored)).unwrap(), status);
    }
    assert_eq!(from_stored(None).unwrap(), ClusterStatus::default());
    let stored = to_stored(&full_status(), &shown).unwrap();
    let ready = &stored["conditions"][0];
    assert_eq!(ready["status"], "True");
    assert_eq!(ready["lastTransitionTime"], "2026-11-23T05:06:07.089Z");
    assert_eq!(ready["observedGeneration"], 3);
    assert_eq!(stored["summary"]["ready"], "3/3");
    assert_eq!(stored["summary"]["lag"], "240");
    assert_eq!(stored["summary"]["selector"], "replicateddb.io/cluster=orders");
}

#[test]
fn a_status_that_can_not_be_read_is_not_taken_for_an_empty_one() {
    assert!(from_stored(Some(&json!({"epoch": "seven"}))).is_err());
    assert!(from_stored(Some(&json!({"conditions": [{"type": "Ready", "status": "True"}]}))).is_err());
    assert!(from_stored(Some(&json!("lost"))).is_err());
}

/// `kubectl explain` and the API server's pruning know every field that is stored.
#[test]
fn the_schema_names_every_stored_field() {
    let shown = Shown { cluster: "orders", asked_instances: 3, image: "rdb-node:1" };
    let stored = to_stored(&full_status(), &shown).unwrap();
    let schema = resource_schema_json().unwrap();
    let mut missing = Vec::new();
    unnamed(&schema["properties"]["status"], &stored, "status", &mut missing);
    assert_eq!(missing, Vec::<String>::new());
}

fn unnamed(schema: &Value, value: &Value, path: &str, missing: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                match schema["properties"].get(key) {
                    Some(schema) => unnamed(schema, value, &format!("{path}.{key}"), missing),
                    None => missing.push(format!("{path}.{key}")),
                }
            }
        }
        Value::Array(items) => {
            items.iter().for_each(|item| unnamed(&schema["items"], item, &format!("{path}[]"), missing))
        }
        _ => {}
    }
}
