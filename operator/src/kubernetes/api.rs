//! A greatest time for every request, and what an error means for whoever made it.

use std::fmt::Debug;
use std::future::Future;
use std::time::Duration;

use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Api, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::crd::FIELD_MANAGER;

/// An API server answers a write within some ten milliseconds. One that hangs must not hold up a cluster's task for longer
/// than a lost leader takes to be noticed.
pub const PATIENCE: Duration = Duration::from_secs(2);

/// What went wrong, by what the caller must do.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// Somebody else wrote first, or a precondition does not hold: read again and decide again.
    #[error("conflict: {0}")]
    Conflict(String),
    #[error("not found")]
    NotFound,
    #[error("exists already")]
    Exists,
    /// Refused for good, as long as the request stays the same.
    #[error("refused: {0}")]
    Refused(String),
    /// Whether it was carried out is not known: read before anything is decided.
    #[error("{0}")]
    Unknown(String),
}

/// Waits for a request, at most [`PATIENCE`].
pub async fn within<T>(request: impl Future<Output = kube::Result<T>>) -> Result<T, ApiError> {
    match tokio::time::timeout(PATIENCE, request).await {
        Err(_) => Err(ApiError::Unknown(format!("no answer within {} ms", PATIENCE.as_millis()))),
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(classify(error)),
    }
}

fn classify(error: kube::Error) -> ApiError {
    match error {
        kube::Error::Api(status) => match (status.code, status.reason.as_str()) {
            (409, "AlreadyExists") => ApiError::Exists,
            (409, _) => ApiError::Conflict(status.message),
            (404, _) => ApiError::NotFound,
            (400..=499, _) if status.code != 429 && status.code != 408 => ApiError::Refused(status.message),
            _ => ApiError::Unknown(status.message),
        },
        other => ApiError::Unknown(other.to_string()),
    }
}

/// Creates an object. One that is there already is [`ApiError::Exists`].
pub async fn create<K>(api: &Api<K>, object: &K) -> Result<K, ApiError>
where
    K: Serialize + DeserializeOwned + Clone + Debug,
{
    within(api.create(&PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() }, object))
        .await
}

/// Makes an object be as given, field by field, by server-side apply.
pub async fn apply<K>(api: &Api<K>, name: &str, object: &K) -> Result<K, ApiError>
where
    K: Serialize + DeserializeOwned + Clone + Debug,
{
    within(api.patch(name, &PatchParams::apply(FIELD_MANAGER).force(), &Patch::Apply(object))).await
}

/// Changes single fields by a merge patch. With a `resourceVersion` in it, it is a compare-and-swap.
pub async fn merge<K>(api: &Api<K>, name: &str, patch: &serde_json::Value) -> Result<K, ApiError>
where
    K: DeserializeOwned + Clone + Debug,
{
    let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
    within(api.patch(name, &params, &Patch::Merge(patch))).await
}

/// Deletes the very object that was looked at, and none that was made under its name since. One that is gone is fine.
pub async fn delete<K>(api: &Api<K>, object: &K) -> Result<(), ApiError>
where
    K: Resource + DeserializeOwned + Clone + Debug,
{
    let (Some(name), Some(uid)) = (&object.meta().name, &object.meta().uid) else {
        return Err(ApiError::Refused("the object has no UID".to_owned()));
    };
    let preconditions = Preconditions { uid: Some(uid.clone()), resource_version: None };
    let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
    match within(api.delete(name, &params)).await {
        Ok(_) | Err(ApiError::NotFound) => Ok(()),
        Err(error) => Err(error),
    }
}
