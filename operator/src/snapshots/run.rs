//! Snapshots against the API server.

use kube::api::{Api, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Client, Error};
use serde_json::json;

use super::keep::SnapshotAction;
use super::object::{CLASS_KIND, KIND, Listed, SnapshotClass, UNUSABLE, api_resource, read};
use crate::build::Owner;
use crate::crd::{FIELD_MANAGER, label};

const NOT_FOUND: u16 = 404;
const FORBIDDEN: u16 = 403;
const CONFLICT: u16 = 409;

fn snapshots(client: &Client, namespace: &str) -> Api<DynamicObject> {
    Api::namespaced_with(client.clone(), namespace, &api_resource(KIND))
}

/// What volume snapshots there are of this cluster's name, and whether its class exists.
pub async fn list(client: &Client, owner: &Owner<'_>) -> Result<Listed, Error> {
    let selector = format!("{}={}", label::CLUSTER, owner.name());
    let found = snapshots(client, owner.resource.namespace()).list(&ListParams::default().labels(&selector)).await;
    let objects = match found {
        Ok(list) => list.items,
        Err(Error::Api(status)) if status.code == NOT_FOUND => {
            return Ok(Listed { snapshots: Vec::new(), class: SnapshotClass::NoApi });
        }
        Err(error) => return Err(error),
    };
    let class = match owner.spec().snapshots.class_name.as_str() {
        "" => SnapshotClass::Unknown,
        name => class(client, name).await?,
    };
    Ok(Listed { snapshots: objects.iter().map(read).collect(), class })
}

/// Classes belong to no namespace: an operator that was let into a few namespaces only may not look.
pub async fn class(client: &Client, name: &str) -> Result<SnapshotClass, Error> {
    let api: Api<DynamicObject> = Api::all_with(client.clone(), &api_resource(CLASS_KIND));
    match api.get_opt(name).await {
        Ok(Some(_)) => Ok(SnapshotClass::Known),
        Ok(None) => Ok(SnapshotClass::Missing),
        Err(Error::Api(status)) if status.code == FORBIDDEN => Ok(SnapshotClass::Unknown),
        Err(error) => Err(error),
    }
}

/// Does one thing. What another operator has done already is done.
pub async fn carry_out(client: &Client, namespace: &str, action: &SnapshotAction) -> Result<(), Error> {
    let api = snapshots(client, namespace);
    let done = match action {
        SnapshotAction::Take(snapshot) => {
            let params = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
            api.create(&params, snapshot).await.map(|_| ())
        }
        SnapshotAction::Delete { name, uid } => {
            let same = Preconditions { uid: Some(uid.clone()), resource_version: None };
            let params = DeleteParams { preconditions: Some(same), ..DeleteParams::default() };
            api.delete(name, &params).await.map(|_| ())
        }
    };
    match done {
        Err(Error::Api(status)) if status.code == CONFLICT || status.code == NOT_FOUND => Ok(()),
        other => other,
    }
}

/// Notes that no volume could be made from a snapshot, so that neither this operator nor the next tries again.
pub async fn mark_unusable(client: &Client, namespace: &str, snapshot: &str, why: &str) -> Result<(), Error> {
    let note = json!({ "metadata": { "annotations": { UNUSABLE: why } } });
    let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
    match snapshots(client, namespace).patch(snapshot, &params, &Patch::Merge(&note)).await {
        Err(Error::Api(status)) if status.code == NOT_FOUND => Ok(()),
        other => other.map(|_| ()),
    }
}
