//! The OpenAPI schema of the resource. Field names, types, descriptions and defaults are derived from the types of
//! `control`; bounds and CEL rules are put in from the tables of [`super::rules`].
//!
//! What is derived is made *structural*, as the API server demands: no references, no `additionalProperties: false` beside
//! properties, known number formats only.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::JSONSchemaProps;
use kube::core::schema::{OptionalEnum, OptionalIntOrString, StructuralSchemaRewriter};
use rdb_control::{ClusterSpec, ClusterStatus};
use schemars::generate::SchemaSettings;
use schemars::transform::AddNullable;
use serde_json::{Map, Value, json};

use super::rules::{BOUNDS, Bound, NAME_RULE, RULES, Rule};

/// Longest duration text: nine digits and a unit.
const MAX_SPAN_LENGTH: u32 = 11;
/// Longest size text: eighteen digits, below 2^63, and a unit.
const MAX_SIZE_LENGTH: u32 = 20;
/// A cron expression with long lists.
const MAX_CRON_LENGTH: u32 = 256;
/// More labels than this are no labels.
const MAX_LABELS: u32 = 64;
/// A label's value has at most 63 characters, an annotation's may be longer.
const MAX_LABEL_LENGTH: u32 = 4096;

/// Why the schema can't be made: a table names a field that the types do not have.
#[derive(Debug, thiserror::Error)]
pub enum SchemaError {
    #[error("the spec has no field {0}")]
    NoSuchField(String),
    #[error("the schema cannot be expressed: {0}")]
    Json(#[from] serde_json::Error),
}

/// The schema of the whole resource.
pub fn resource_schema() -> Result<JSONSchemaProps, SchemaError> {
    Ok(serde_json::from_value(resource_schema_json()?)?)
}

/// The same as plain JSON.
pub fn resource_schema_json() -> Result<Value, SchemaError> {
    Ok(json!({
        "type": "object",
        "description": "A replicated SQLite database: one leader that takes the writes, followers that hold copies, and \
                        an operator that replaces a lost leader without losing an acknowledged write.",
        "properties": {"spec": spec_schema()?, "status": status_schema()?},
        "x-kubernetes-validations": [validation(&NAME_RULE)],
    }))
}

fn derived<T: schemars::JsonSchema>() -> Result<Value, SchemaError> {
    let settings = SchemaSettings::openapi3().with(|settings| {
        settings.inline_subschemas = true;
        settings.meta_schema = None;
    });
    let mut generator = settings
        .with_transform(AddNullable::default())
        .with_transform(StructuralSchemaRewriter)
        .with_transform(OptionalEnum)
        .with_transform(OptionalIntOrString)
        .into_generator();
    let mut schema = serde_json::to_value(generator.root_schema_for::<T>())?;
    make_structural(&mut schema);
    Ok(schema)
}

fn make_structural(schema: &mut Value) {
    match schema {
        Value::Array(items) => items.iter_mut().for_each(make_structural),
        Value::Object(map) => {
            if map.get("additionalProperties") == Some(&Value::Bool(false)) {
                map.remove("additionalProperties");
            }
            map.remove("title");
            map.remove("uniqueItems");
            if map.get("default") == Some(&Value::Null) {
                map.remove("default");
            }
            // Written out in full: the API server holds a default against the rules as it stands.
            if let Some(Value::Object(default)) = map.get_mut("default") {
                remove_nulls(default);
            }
            match map.get("format").and_then(Value::as_str) {
                Some("uint32") => map.insert("format".to_owned(), json!("int32")),
                Some("uint64") => map.insert("format".to_owned(), json!("int64")),
                _ => None,
            };
            if let Some(Value::String(text)) = map.get_mut("description") {
                *text = one_line(text);
            }
            for (key, value) in map.iter_mut() {
                if key != "default" && key != "enum" && key != "required" {
                    make_structural(value);
                }
            }
        }
        _ => {}
    }
}

fn remove_nulls(map: &mut Map<String, Value>) {
    map.retain(|_, value| !value.is_null());
    map.values_mut().filter_map(Value::as_object_mut).for_each(remove_nulls);
}

/// Doc comments are wrapped for the editor; `kubectl explain` wraps by itself.
fn one_line(text: &str) -> String {
    let paragraphs = text.split("\n\n").map(|paragraph| paragraph.split_whitespace().collect::<Vec<_>>().join(" "));
    paragraphs.collect::<Vec<_>>().join("\n\n")
}

fn spec_schema() -> Result<Value, SchemaError> {
    let mut schema = derived::<ClusterSpec>()?;
    let root = object(&mut schema, "")?;
    root.remove("required");
    // A resource without a spec is one with all defaults.
    if let Value::Object(mut default) = serde_json::to_value(ClusterSpec::default())? {
        remove_nulls(&mut default);
        root.insert("default".to_owned(), Value::Object(default));
    }
    for (path, bound) in BOUNDS {
        apply_bound(object(&mut schema, path)?, *bound);
    }
    for rule in RULES {
        add_rule(object(&mut schema, rule.at)?, rule);
    }
    *object(&mut schema, "resources")? = resources();
    let tolerations = object(&mut schema, "placement.tolerations")?;
    tolerations.insert("items".to_owned(), toleration());
    tolerations.insert("maxItems".to_owned(), json!(32));
    Ok(schema)
}

/// The schema of the field at a dotted path.
fn object<'a>(schema: &'a mut Value, path: &str) -> Result<&'a mut Map<String, Value>, SchemaError> {
    let missing = || SchemaError::NoSuchField(path.to_owned());
    let mut at = schema;
    for field in path.split('.').filter(|field| !field.is_empty()) {
        at = at.get_mut("properties").and_then(|properties| properties.get_mut(field)).ok_or_else(missing)?;
    }
    at.as_object_mut().ok_or_else(missing)
}

fn validation(rule: &Rule) -> Value {
    json!({"rule": rule.rule, "message": rule.message})
}

fn add_rule(field: &mut Map<String, Value>, rule: &Rule) {
    add_validation(field, validation(rule));
}

fn add_validation(field: &mut Map<String, Value>, validation: Value) {
    let list = field.entry("x-kubernetes-validations").or_insert_with(|| json!([]));
    if let Some(list) = list.as_array_mut() {
        list.push(validation);
    }
}

fn apply_bound(field: &mut Map<String, Value>, bound: Bound) {
    let mut set = |key: &str, value: Value| {
        field.insert(key.to_owned(), value);
    };
    match bound {
        Bound::Span { low, high } => {
            set("pattern", json!("^[0-9]{1,9}(ms|s|m|h)$"));
            set("maxLength", json!(MAX_SPAN_LENGTH));
            // A rule is evaluated even where the pattern does not match, and an error in it hides the better message.
            let rule = format!(
                "!self.matches('^[0-9]{{1,9}}(ms|s|m|h)$') || (duration(self) >= duration('{low}') && duration(self) <= \
                 duration('{high}'))"
            );
            add_validation(field, json!({"rule": rule, "message": format!("must be a duration within {low}–{high}")}));
        }
        Bound::LongSpan { low, days } => {
            set("pattern", json!("^[0-9]{1,9}(ms|s|m|h|d)$"));
            set("maxLength", json!(MAX_SPAN_LENGTH));
            let hours = days * 24;
            let rule = format!(
                "!self.matches('^[0-9]{{1,9}}(ms|s|m|h|d)$') || (self.endsWith('d') ? \
                 int(self.substring(0, self.size() - 1)) >= 1 && int(self.substring(0, self.size() - 1)) <= {days} : \
                 duration(self) >= duration('{low}') && duration(self) <= duration('{hours}h'))"
            );
            let message = format!("must be a duration within {low}–{days}d");
            add_validation(field, json!({"rule": rule, "message": message}));
        }
        Bound::Size { low, high } => {
            set("pattern", json!("^[0-9]{1,18}(Ki|Mi|Gi|Ti)?$"));
            set("maxLength", json!(MAX_SIZE_LENGTH));
            let mut rule = format!("!isQuantity(self) || (quantity(self).compareTo(quantity('{low}')) >= 0");
            let mut message = format!("must be a size of at least {low}");
            if let Some(high) = high {
                rule.push_str(&format!(" && quantity(self).compareTo(quantity('{high}')) <= 0"));
                message.push_str(&format!(" and at most {high}"));
            }
            rule.push(')');
            add_validation(field, json!({"rule": rule, "message": message}));
        }
        Bound::Number { low, high } => {
            set("minimum", json!(low));
            set("maximum", json!(high));
        }
        Bound::Text { max_length } => set("maxLength", json!(max_length)),
        Bound::Cron => {
            set("pattern", json!(r"^\s*\S+(\s+\S+){4}\s*$"));
            set("maxLength", json!(MAX_CRON_LENGTH));
        }
        Bound::PointInTime => set("format", json!("date-time")),
        Bound::Labels => {
            set("maxProperties", json!(MAX_LABELS));
            set("additionalProperties", json!({"type": "string", "maxLength": MAX_LABEL_LENGTH}));
        }
    }
}

fn resources() -> Map<String, Value> {
    let amounts = |description: &str| {
        json!({
            "type": "object",
            "description": description,
            "maxProperties": MAX_LABELS,
            "additionalProperties": {
                "anyOf": [{"type": "integer"}, {"type": "string"}],
                "pattern": r"^(\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))(([KMGTPE]i)|[numkMGTPE]|([eE](\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))))?$",
                "x-kubernetes-int-or-string": true,
            },
        })
    };
    let schema = json!({
        "type": "object",
        "default": {},
        "description": "Requests and limits of the node container, as in a pod. A change restarts the instances one by \
                        one, the leader last.",
        "properties": {
            "requests": amounts("What the scheduler keeps free for each instance, such as cpu: 500m."),
            "limits": amounts("What an instance may use at most. A limit on cpu slows commits down under load."),
        },
    });
    match schema {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

fn toleration() -> Value {
    json!({
        "type": "object",
        "description": "As in a pod: lets instances run on nodes with this taint.",
        "properties": {
            "key": {"type": "string", "description": "Key of the taint; empty with operator Exists = every taint."},
            "operator": {"type": "string", "description": "Exists or Equal."},
            "value": {"type": "string", "description": "Value of the taint, for Equal."},
            "effect": {"type": "string", "description": "NoSchedule, PreferNoSchedule or NoExecute; empty = all."},
            "tolerationSeconds": {
                "type": "integer", "format": "int64",
                "description": "How long to stay on a node that gets the taint, for NoExecute.",
            },
        },
    })
}

/// The status is written by the operator alone: no defaults, nothing required, and what a newer operator adds is kept.
fn status_schema() -> Result<Value, SchemaError> {
    let mut schema = derived::<ClusterStatus>()?;
    loosen(&mut schema);
    let root = object(&mut schema, "")?;
    root.insert("x-kubernetes-preserve-unknown-fields".to_owned(), Value::Bool(true));
    root.insert(
        "description".to_owned(),
        json!(
            "What was decided and what is known. Written by the operator alone, by compare-and-swap: a change by hand can \
             cost acknowledged writes."
        ),
    );
    *object(&mut schema, "conditions")? = conditions();
    if let Some(properties) = object(&mut schema, "")?.get_mut("properties").and_then(Value::as_object_mut) {
        properties.insert("summary".to_owned(), summary());
    }
    Ok(schema)
}

fn loosen(schema: &mut Value) {
    match schema {
        Value::Array(items) => items.iter_mut().for_each(loosen),
        Value::Object(map) => {
            map.remove("default");
            map.remove("minimum");
            if map.get("required").is_some_and(Value::is_array) {
                map.remove("required");
            }
            // A word of a newer operator must not make the status unreadable for kubectl.
            if map.get("enum").is_some_and(Value::is_array) {
                map.remove("enum");
            }
            map.values_mut().for_each(loosen);
        }
        _ => {}
    }
}

fn conditions() -> Map<String, Value> {
    let schema = json!({
        "type": "array",
        "description": "Ready: a leader is open under the asked-for durability rule. Reconciling and Stalled: as kstatus \
                        has them. Degraded: less than asked for. SnapshotsHealthy. Divergence: writes that one instance \
                        had alone were cut and archived.",
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["type"],
        "items": {
            "type": "object",
            "required": ["type", "status", "lastTransitionTime", "reason", "message"],
            "properties": {
                "type": {"type": "string"},
                "status": {"type": "string", "enum": ["True", "False", "Unknown"]},
                "reason": {"type": "string", "description": "One word."},
                "message": {"type": "string", "description": "One sentence."},
                "lastTransitionTime": {
                    "type": "string", "format": "date-time", "description": "When its status changed last.",
                },
                "observedGeneration": {
                    "type": "integer", "format": "int64",
                    "description": "Generation of the spec that it was said of.",
                },
            },
        },
    });
    match schema {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

fn summary() -> Value {
    json!({
        "type": "object",
        "description": "What the columns of kubectl get show; derived from the other fields.",
        "properties": {
            "ready": {"type": "string", "description": "Ready instances of those asked for."},
            "leader": {"type": "string", "description": "Name of the leader; empty during an election."},
            "position": {"type": "string", "description": "The leader's position, epoch/index."},
            "lag": {"type": "string", "description": "Records that the furthest behind of the sync set lacks."},
            "sync": {"type": "string", "description": "Instances whose copies count, and how many a write needs."},
            "image": {"type": "string", "description": "The image that instances are made from."},
            "selector": {"type": "string", "description": "Selects the pods; for the scale subresource."},
        },
    })
}
