//! The spec of a local cluster: stored beside its data, changed by options and by `rdb local set`.

use rdb_control::{Cluster, ClusterSpec};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::LocalError;
use super::layout::{Layout, write_atomically};

/// First port of a new cluster, minus one.
pub const DEFAULT_PORT: u16 = 7400;

/// `spec.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct StoredSpec {
    pub name: String,
    /// Node i listens on `port` + i.
    pub port: u16,
    /// Grows with every change.
    pub generation: u64,
    pub spec: ClusterSpec,
}

impl StoredSpec {
    /// What is stored, or the defaults for a new cluster.
    pub fn read(layout: &Layout, name: &str) -> Result<StoredSpec, LocalError> {
        let path = layout.spec();
        match std::fs::read(&path) {
            Ok(text) => {
                serde_json::from_slice(&text).map_err(|error| LocalError::Spec(format!("{}: {error}", path.display())))
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(StoredSpec {
                name: name.to_owned(),
                port: DEFAULT_PORT,
                generation: 1,
                spec: ClusterSpec::default(),
            }),
            Err(error) => Err(LocalError::io(&path)(error)),
        }
    }

    pub fn write(&self, layout: &Layout) -> Result<(), LocalError> {
        let path = layout.spec();
        let text = serde_json::to_vec_pretty(self).map_err(|error| LocalError::Spec(error.to_string()))?;
        write_atomically(&path, &text).map_err(LocalError::io(&path))
    }

    /// The valid cluster that it describes.
    pub fn cluster(&self) -> Result<Cluster, LocalError> {
        Cluster::parse(&self.name, &self.spec).map_err(|error| LocalError::Spec(error.to_string()))
    }

    /// Changes one field. The result need not be a valid cluster: several changes may belong together.
    pub fn set(&mut self, path: &str, value: &str) -> Result<(), LocalError> {
        let changed = set_field(&self.spec, path, value).map_err(LocalError::Spec)?;
        if changed != self.spec {
            self.spec = changed;
            self.generation += 1;
        }
        Ok(())
    }

    /// Takes the spec of a YAML file: a whole resource, or only its spec.
    pub fn replace_from_yaml(&mut self, text: &str) -> Result<(), LocalError> {
        let mut document = crate::output::parse_yaml(text).map_err(LocalError::Spec)?;
        let spec = match document.get_mut("spec") {
            Some(spec) => spec.take(),
            None => document,
        };
        let spec = serde_json::from_value(spec).map_err(|error| LocalError::Spec(error.to_string()))?;
        if self.spec != spec {
            self.spec = spec;
            self.generation += 1;
        }
        Ok(())
    }
}

/// A copy of `spec` with the field at `path` changed. `value` is JSON, or else taken as a text.
fn set_field(spec: &ClusterSpec, path: &str, value: &str) -> Result<ClusterSpec, String> {
    let mut tree = serde_json::to_value(spec).map_err(|error| error.to_string())?;
    let pointer = resolve(&tree, path)?;
    let text = Value::String(value.to_owned());
    let parsed = serde_json::from_str(value).unwrap_or_else(|_| text.clone());
    let mut last = String::new();
    for candidate in [parsed, text] {
        let Some(field) = tree.pointer_mut(&pointer) else {
            return Err(format!("no field {path:?}"));
        };
        *field = candidate;
        match serde_json::from_value(tree.clone()) {
            Ok(spec) => return Ok(spec),
            Err(error) => last = error.to_string(),
        }
    }
    Err(format!("{path}: {last}"))
}

/// The JSON pointer of a dotted path; a single word may also name a field of a section, if only one section has it.
fn resolve(tree: &Value, path: &str) -> Result<String, String> {
    let pointer = format!("/{}", path.trim_start_matches("spec.").replace('.', "/"));
    if tree.pointer(&pointer).is_some() {
        return Ok(pointer);
    }
    let sections = tree.as_object().into_iter().flatten();
    let matches: Vec<String> = sections
        .filter(|(_, section)| !path.contains(['.', '/']) && section.get(path).is_some())
        .map(|(name, _)| format!("/{name}/{path}"))
        .collect();
    match matches.as_slice() {
        [one] => Ok(one.clone()),
        [] => Err(format!("the spec has no field {path:?}")),
        _ => Err(format!("{path:?} may be any of {}", matches.join(", "))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rdb_protocol::settings::Mode;

    #[test]
    fn fields_are_set_by_path_or_by_their_last_part() {
        let spec = ClusterSpec::default();
        let spec = set_field(&spec, "replication.mode", "sync").unwrap();
        let spec = set_field(&spec, "syncFollowers", "2").unwrap();
        let spec = set_field(&spec, "cooldown", "0s").unwrap();
        let spec = set_field(&spec, "maintenance.active", "true").unwrap();
        let spec = set_field(&spec, "failover.dataLoss", "allow").unwrap();
        let spec = set_field(&spec, "image", "7").unwrap();
        assert_eq!((spec.replication.mode, spec.replication.sync_followers), (Mode::Sync, 2));
        assert_eq!((spec.failover.cooldown.to_string().as_str(), spec.image.as_str()), ("0s", "7"));
        assert!(spec.maintenance.active && spec.failover.data_loss.is_some());
        assert!(set_field(&spec, "failover.dataLoss", "null").unwrap().failover.data_loss.is_none());
    }

    #[test]
    fn unknown_fields_and_wrong_values_are_refused() {
        let spec = ClusterSpec::default();
        for (path, value) in [("no.such", "1"), ("nope", "1"), ("instances", "many"), ("mode", "loose"), ("", "1")] {
            assert!(set_field(&spec, path, value).is_err(), "{path}={value}");
        }
    }

    #[test]
    fn a_resource_or_its_spec_is_read_from_yaml() {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::create(folder.path()).unwrap();
        let mut stored = StoredSpec::read(&layout, "local").unwrap();
        stored.replace_from_yaml("kind: ReplicatedDB\nspec: {instances: 5}\n").unwrap();
        assert_eq!((stored.spec.instances, stored.generation), (5, 2));
        stored.replace_from_yaml("replication: {mode: async}").unwrap();
        assert_eq!((stored.spec.instances, stored.generation), (3, 3));
        stored.write(&layout).unwrap();
        assert_eq!(StoredSpec::read(&layout, "other").unwrap(), stored);
        assert!(stored.replace_from_yaml("replicas: 3").is_err());
    }
}
