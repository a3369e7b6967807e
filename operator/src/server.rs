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
    let live = warp::path!("livez").map(|| "ok\n");
    let ready = warp::path!("readyz").map(move || {
        if ready.load(Ordering::Relaxed) {
            with_status("ok\n", StatusCode::OK)
        } else {
            with_status("reading the state of the cluster\n", StatusCode::SERVICE_UNAVAILABLE)
        }
    });
    let text = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    let metrics = warp::path!("metrics")
        .map(move || warp::reply::with_header(metrics.text(), warp::http::header::CONTENT_TYPE, text));
    warp::serve(warp::get().and(live.or(ready).or(metrics))).run(listen).await;
}
