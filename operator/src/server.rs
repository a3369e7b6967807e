//! The operator's own HTTP port: `/livez`, `/readyz`, `/metrics`. None of them asks the API server: an operator that
//! can't reach it is not helped by being restarted.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use warp::Filter;
use warp::http::StatusCode;
use warp::reply::with_status;

use crate::metrics::Metrics;

/// Serves until the process ends. `ready` becomes true when the caches have been read once.
pub async fn serve(listen: SocketAddr, metrics: Metrics, ready: Arc<AtomicBool>) {
    let live = warp::path!("livez").map(|| "ok\n".to_owned());
    let ready = warp::path!("readyz").map(move || {
        if ready.load(Ordering::Relaxed) {
            with_status("ok\n".to_owned(), StatusCode::OK)
        } else {
            with_status("reading the state of the cluster\n".to_owned(), StatusCode::SERVICE_UNAVAILABLE)
        }
    });
    let metrics = warp::path!("metrics").map(move || {
        let mut reply = warp::http::Response::new(metrics.text());
        let text = warp::http::HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
        reply.headers_mut().insert(warp::http::header::CONTENT_TYPE, text);
        reply
    });
    warp::serve(warp::get().and(live.or(ready).or(metrics))).run(listen).await;
}
