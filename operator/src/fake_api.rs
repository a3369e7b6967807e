//! A small API server in memory: objects by path, versions, compare-and-swap, merge patches, UID preconditions. It keeps a
//! log of what was written, and can be told to fail.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard};

use http_body_util::BodyExt;
use hyper::{Method, Request, Response, StatusCode};
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};

#[derive(Default)]
pub(crate) struct State {
    pub(crate) objects: BTreeMap<String, Value>,
    version: u64,
    /// Every write that was obeyed, as `METHOD path`.
    pub(crate) writes: Vec<String>,
    /// Writes to paths that end so are carried out and answered with an error.
    pub(crate) lose_answers_of: Option<&'static str>,
    /// The definition does not know this field of the status: it is not stored.
    pub(crate) unknown_field: Option<&'static str>,
}

#[derive(Clone, Default)]
pub(crate) struct FakeApi(Arc<Mutex<State>>);

impl FakeApi {
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    pub(crate) fn client(&self) -> Client {
        let this = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let this = this.clone();
            async move { Ok::<_, Infallible>(this.serve(request).await) }
        });
        Client::new(service, "default")
    }

    async fn serve(&self, request: Request<Body>) -> Response<Body> {
        let (parts, body) = request.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        let body: Value = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
        let path = parts.uri.path().to_owned();
        let mut state = self.state();
        let (status, answer) = match parts.method {
            Method::GET => state.get(&path),
            Method::POST => state.create(&path, body),
            Method::PUT => state.replace(&path, body),
            Method::PATCH => state.patch(&path, &body),
            Method::DELETE => state.delete(&path, &body),
            _ => (StatusCode::METHOD_NOT_ALLOWED, Value::Null),
        };
        let lost = state.lose_answers_of.is_some_and(|end| path.ends_with(end) && parts.method != Method::GET);
        let (status, answer) = if lost { failure(StatusCode::INTERNAL_SERVER_ERROR, "Lost") } else { (status, answer) };
        Response::builder().status(status).body(Body::from(answer.to_string().into_bytes())).unwrap()
    }

    /// Puts an object in without a trace.
    pub(crate) fn store(&self, path: &str, object: Value) -> Value {
        let mut state = self.state();
        let mut object = object;
        state.version += 1;
        object["metadata"]["resourceVersion"] = json!(state.version.to_string());
        state.objects.insert(path.to_owned(), object.clone());
        object
    }

    pub(crate) fn object(&self, path: &str) -> Value {
        self.state().objects.get(path).cloned().unwrap_or(Value::Null)
    }

    /// What was written since the last look.
    pub(crate) fn writes(&self) -> Vec<String> {
        std::mem::take(&mut self.state().writes)
    }
}

fn failure(code: StatusCode, reason: &str) -> (StatusCode, Value) {
    let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "message": reason,
        "code": code.as_u16()});
    (code, status)
}

impl State {
    fn get(&self, path: &str) -> (StatusCode, Value) {
        match self.objects.get(path) {
            Some(object) => (StatusCode::OK, object.clone()),
            None => failure(StatusCode::NOT_FOUND, "NotFound"),
        }
    }

    fn put(&mut self, how: &str, path: &str, mut object: Value) -> (StatusCode, Value) {
        if self.objects.get(path) != Some(&object) {
            self.version += 1;
            object["metadata"]["resourceVersion"] = json!(self.version.to_string());
            self.writes.push(format!("{how} {path}"));
            self.objects.insert(path.to_owned(), object.clone());
        }
        (StatusCode::OK, object)
    }

    fn create(&mut self, collection: &str, mut object: Value) -> (StatusCode, Value) {
        let path = format!("{collection}/{}", object["metadata"]["name"].as_str().unwrap());
        if self.objects.contains_key(&path) {
            return failure(StatusCode::CONFLICT, "AlreadyExists");
        }
        object["metadata"]["uid"] = json!(format!("uid-{}", self.version));
        object["metadata"]["creationTimestamp"] = json!("2026-01-01T00:00:00Z");
        self.put("POST", &path, object)
    }

    fn replace(&mut self, path: &str, object: Value) -> (StatusCode, Value) {
        let (path, is_status) = match path.strip_suffix("/status") {
            Some(path) => (path, true),
            None => (path, false),
        };
        let Some(stored) = self.objects.get(path).cloned() else { return failure(StatusCode::NOT_FOUND, "NotFound") };
        if stored["metadata"]["resourceVersion"] != object["metadata"]["resourceVersion"] {
            return failure(StatusCode::CONFLICT, "Conflict");
        }
        if is_status {
            let mut merged = stored;
            merged["status"] = object["status"].clone();
            if let (Some(field), Some(status)) = (self.unknown_field, merged["status"].as_object_mut()) {
                status.remove(field);
            }
            return self.put("STATUS", path, merged);
        }
        self.put("PUT", path, object)
    }

    fn patch(&mut self, path: &str, patch: &Value) -> (StatusCode, Value) {
        let mut object = self.objects.get(path).cloned().unwrap_or_else(|| json!({"metadata": {"uid": path}}));
        for key in ["resourceVersion", "uid"] {
            let wanted = &patch["metadata"][key];
            if !wanted.is_null() && *wanted != object["metadata"][key] {
                return failure(StatusCode::CONFLICT, "Conflict");
            }
        }
        merge(&mut object, patch);
        self.put("PATCH", path, object)
    }

    fn delete(&mut self, path: &str, options: &Value) -> (StatusCode, Value) {
        let Some(mut object) = self.objects.get(path).cloned() else {
            return failure(StatusCode::NOT_FOUND, "NotFound");
        };
        let uid = &options["preconditions"]["uid"];
        if !uid.is_null() && *uid != object["metadata"]["uid"] {
            return failure(StatusCode::CONFLICT, "Conflict");
        }
        // As for pods and claims in use: marked, and gone when whoever uses them has let go.
        object["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        self.put("DELETE", path, object)
    }
}

fn merge(object: &mut Value, patch: &Value) {
    let Some(patch) = patch.as_object() else { return };
    let Some(object) = object.as_object_mut() else { return };
    for (key, value) in patch {
        match value {
            Value::Null => {
                object.remove(key);
            }
            Value::Object(_) => merge(object.entry(key.clone()).or_insert_with(|| json!({})), value),
            other => {
                object.insert(key.clone(), other.clone());
            }
        }
    }
}
