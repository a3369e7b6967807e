//! The resource `ReplicatedDB` (`replicateddb.io/v1alpha1`): its Rust type, its schema, and its status as it is stored.
//!
//! | module | holds |
//! | --- | --- |
//! | this one | [`ReplicatedDB`], names of the API group, labels and annotations |
//! | [`definition`] | the CustomResourceDefinition: columns, short name, scale subresource |
//! | [`schema`] | the OpenAPI schema, derived from the types of `control` |
//! | [`rules`] | bounds and CEL rules: what `kubectl apply` refuses, and in which words |
//! | [`status`] | `control`'s status to and from its stored form |
//!
//! The spec is `control::ClusterSpec` itself. It is watched untyped, as `ReplicatedDB<Value>`: a manifest that an older
//! schema let through must not keep the operator from reading all the others.

pub mod definition;
pub mod rules;
pub mod schema;
pub mod status;

use std::borrow::Cow;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::Resource;
use rdb_control::{Cluster, ClusterSpec, InvalidSpec};
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub const GROUP: &str = "replicateddb.io";
pub const VERSION: &str = "v1alpha1";
pub const API_VERSION: &str = "replicateddb.io/v1alpha1";
pub const KIND: &str = "ReplicatedDB";
pub const PLURAL: &str = "replicateddbs";

/// Who writes our objects by server-side apply, and who reports events.
pub const FIELD_MANAGER: &str = "replicateddb.io/operator";
pub const FINALIZER: &str = "replicateddb.io/finalizer";

/// Labels of every object that belongs to a cluster.
pub mod label {
    pub const NAME: &str = "app.kubernetes.io/name";
    pub const NAME_VALUE: &str = "replicateddb";
    pub const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
    pub const MANAGED_BY_VALUE: &str = "rdb-operator";
    pub const CLUSTER: &str = "replicateddb.io/cluster";
    pub const INSTANCE: &str = "replicateddb.io/instance";
    /// Informative only: `leader` or `follower`, on pods.
    pub const ROLE: &str = "replicateddb.io/role";
}

/// Annotations by which people ask for something.
pub mod annotation {
    /// Act once, value = instance.
    pub const SWITCHOVER: &str = "replicateddb.io/switchover";
    /// A changed value restarts all instances one by one.
    pub const RESTART: &str = "replicateddb.io/restart";
    /// Act once, value = instance.
    pub const RESEED: &str = "replicateddb.io/reseed";
    /// Act once, value = epoch.
    pub const ACCEPT_DATA_LOSS: &str = "replicateddb.io/accept-data-loss";
    /// While present, value = instances, separated by commas.
    pub const FENCE: &str = "replicateddb.io/fence";
}

/// The longest name that leaves room for the longest suffix of an object that must be a DNS label, `-nodes`.
pub const MAX_NAME_LENGTH: usize = 63 - "-nodes".len();

/// A replicated SQLite database: one leader, its followers, and what is known of them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReplicatedDB<S = ClusterSpec> {
    #[serde(default = "api_version")]
    pub api_version: String,
    #[serde(default = "kind")]
    pub kind: String,
    pub metadata: ObjectMeta,
    #[serde(default)]
    pub spec: S,
    /// As stored; see [`status`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<Value>,
}

/// As it is read from the API server.
pub type RawReplicatedDB = ReplicatedDB<Value>;

fn api_version() -> String {
    API_VERSION.to_owned()
}

fn kind() -> String {
    KIND.to_owned()
}

impl<S> ReplicatedDB<S> {
    pub fn new(name: &str, spec: S) -> ReplicatedDB<S> {
        let metadata = ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() };
        ReplicatedDB { api_version: api_version(), kind: kind(), metadata, spec, status: None }
    }

    /// The cluster's name; empty in an object that no API server has seen.
    pub fn name(&self) -> &str {
        self.metadata.name.as_deref().unwrap_or_default()
    }

    pub fn namespace(&self) -> &str {
        self.metadata.namespace.as_deref().unwrap_or_default()
    }

    pub fn uid(&self) -> &str {
        self.metadata.uid.as_deref().unwrap_or_default()
    }

    pub fn resource_version(&self) -> &str {
        self.metadata.resource_version.as_deref().unwrap_or_default()
    }

    pub fn annotation(&self, key: &str) -> Option<&str> {
        self.metadata.annotations.as_ref()?.get(key).map(String::as_str)
    }

    pub fn is_being_deleted(&self) -> bool {
        self.metadata.deletion_timestamp.is_some()
    }

    /// For objects that are to go with this one.
    pub fn owner_reference(&self) -> OwnerReference {
        OwnerReference {
            api_version: API_VERSION.to_owned(),
            kind: KIND.to_owned(),
            name: self.name().to_owned(),
            uid: self.uid().to_owned(),
            controller: Some(true),
            block_owner_deletion: Some(true),
        }
    }
}

impl RawReplicatedDB {
    /// The spec, typed and within its bounds.
    pub fn parse(&self) -> Result<(ReplicatedDB, Cluster), InvalidResource> {
        let spec: ClusterSpec = match &self.spec {
            Value::Null => ClusterSpec::default(),
            spec => {
                serde_json::from_value(spec.clone()).map_err(|error| InvalidResource::Unreadable(error.to_string()))?
            }
        };
        check_name(self.name())?;
        let cluster = Cluster::parse(self.name(), &spec)?;
        let typed = ReplicatedDB {
            api_version: self.api_version.clone(),
            kind: self.kind.clone(),
            metadata: self.metadata.clone(),
            spec,
            status: self.status.clone(),
        };
        Ok((typed, cluster))
    }
}

/// Why there is nothing to decide for a resource.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidResource {
    #[error(
        "metadata.name: {0:?} must be at most {MAX_NAME_LENGTH} characters of a-z, 0-9 and '-', starting with a letter"
    )]
    Name(String),
    #[error("spec: {0}")]
    Unreadable(String),
    #[error("spec.{0}")]
    OutOfBounds(#[from] InvalidSpec),
}

/// Services are named after the cluster, and a service's name starts with a letter.
fn check_name(name: &str) -> Result<(), InvalidResource> {
    let letter = name.bytes().next().is_some_and(|b| b.is_ascii_lowercase());
    let good = letter && name.len() <= MAX_NAME_LENGTH && rdb_protocol::NodeName::new(name).is_ok();
    if good { Ok(()) } else { Err(InvalidResource::Name(name.to_owned())) }
}

impl<S> Resource for ReplicatedDB<S> {
    type DynamicType = ();
    type Scope = NamespaceResourceScope;

    fn kind((): &()) -> Cow<'_, str> {
        KIND.into()
    }

    fn group((): &()) -> Cow<'_, str> {
        GROUP.into()
    }

    fn version((): &()) -> Cow<'_, str> {
        VERSION.into()
    }

    fn plural((): &()) -> Cow<'_, str> {
        PLURAL.into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}
