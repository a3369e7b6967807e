//! The CustomResourceDefinition. `rdb-operator crd` prints it; `crds/` holds what it printed last.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceColumnDefinition, CustomResourceDefinition, CustomResourceDefinitionNames,
    CustomResourceDefinitionSpec, CustomResourceDefinitionVersion, CustomResourceSubresourceScale,
    CustomResourceSubresourceStatus, CustomResourceSubresources, CustomResourceValidation,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::schema::{SchemaError, resource_schema};
use super::{GROUP, KIND, PLURAL, VERSION};

/// The definition as it is installed.
pub fn definition() -> Result<CustomResourceDefinition, SchemaError> {
    let names = CustomResourceDefinitionNames {
        kind: KIND.to_owned(),
        list_kind: Some("ReplicatedDBList".to_owned()),
        plural: PLURAL.to_owned(),
        singular: Some("replicateddb".to_owned()),
        short_names: Some(vec!["rdb".to_owned()]),
        categories: Some(vec!["all".to_owned(), "database".to_owned()]),
    };
    Ok(CustomResourceDefinition {
        metadata: ObjectMeta { name: Some(format!("{PLURAL}.{GROUP}")), ..ObjectMeta::default() },
        spec: CustomResourceDefinitionSpec {
            group: GROUP.to_owned(),
            names,
            scope: "Namespaced".to_owned(),
            versions: vec![version()?],
            ..CustomResourceDefinitionSpec::default()
        },
        status: None,
    })
}

/// The definition as YAML, for `crds/` and the chart.
pub fn yaml() -> Result<String, SchemaError> {
    // By way of JSON: the numbers of a schema are typed as floating point, and `14.0` is no good minimum to read.
    let mut json = serde_json::to_value(definition()?)?;
    whole_numbers(&mut json);
    serde_yaml::to_string(&json).map_err(|error| SchemaError::Json(serde::de::Error::custom(error)))
}

fn whole_numbers(value: &mut serde_json::Value) {
    match value {
        serde_json::Value::Array(items) => items.iter_mut().for_each(whole_numbers),
        serde_json::Value::Object(map) => map.values_mut().for_each(whole_numbers),
        serde_json::Value::Number(number) => {
            if let Some(float) = number.as_f64()
                && !number.is_i64()
                && float.fract() == 0.0
                && float.abs() < 1e15
            {
                *value = serde_json::json!(float as i64);
            }
        }
        _ => {}
    }
}

fn version() -> Result<CustomResourceDefinitionVersion, SchemaError> {
    Ok(CustomResourceDefinitionVersion {
        name: VERSION.to_owned(),
        served: true,
        storage: true,
        schema: Some(CustomResourceValidation { open_api_v3_schema: Some(resource_schema()?) }),
        subresources: Some(CustomResourceSubresources {
            status: Some(CustomResourceSubresourceStatus(serde_json::json!({}))),
            scale: Some(CustomResourceSubresourceScale {
                spec_replicas_path: ".spec.instances".to_owned(),
                status_replicas_path: ".status.readyInstances".to_owned(),
                label_selector_path: Some(".status.summary.selector".to_owned()),
            }),
        }),
        additional_printer_columns: Some(columns()),
        ..CustomResourceDefinitionVersion::default()
    })
}

/// Columns with a priority are shown by `-o wide` only.
fn columns() -> Vec<CustomResourceColumnDefinition> {
    [
        ("Ready", "string", ".status.summary.ready", "Ready instances of those asked for", 0),
        ("Status", "string", ".status.phase", "Where the cluster is in its life", 0),
        ("Leader", "string", ".status.summary.leader", "The instance that takes the writes", 0),
        ("Epoch", "integer", ".status.epoch", "Number of the leadership term", 0),
        ("Mode", "string", ".spec.replication.mode", "Durability mode", 0),
        ("Age", "date", ".metadata.creationTimestamp", "", 0),
        ("Position", "string", ".status.summary.position", "The leader's epoch/index", 1),
        ("Lag", "string", ".status.summary.lag", "Records that the furthest behind of the sync set lacks", 1),
        ("Sync", "string", ".status.summary.sync", "Instances whose copies count, and how many a write needs", 1),
        ("Image", "string", ".status.summary.image", "The image that instances are made from", 1),
        ("Message", "string", ".status.message", "What is going on", 1),
    ]
    .into_iter()
    .map(|(name, type_, path, description, priority)| CustomResourceColumnDefinition {
        name: name.to_owned(),
        type_: type_.to_owned(),
        json_path: path.to_owned(),
        description: (!description.is_empty()).then(|| description.to_owned()),
        priority: (priority > 0).then_some(priority),
        ..CustomResourceColumnDefinition::default()
    })
    .collect()
}
