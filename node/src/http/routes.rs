//! All paths as warp filters. The three calls that make up the load are found by one comparison of the whole path, before
//! any other filter is tried; the rest is boxed, since a filter is cloned for every request that tries it.

use std::convert::Infallible;
use std::future::ready;
use std::sync::Arc;

use warp::filters::BoxedFilter;
use warp::path::FullPath;
use warp::reply::Response;
use warp::{Filter, Rejection, Reply};

use super::app::App;
use super::auth::{Bearer, Caller, Elsewhere};
use super::backend::Backend;
use super::request::{Call, Head, KeyHeader};
use super::{admin, client, errors, node, openapi};

pub(crate) fn routes<B: Backend>(app: Arc<App<B>>) -> impl Filter<Extract = (impl Reply,), Error = Infallible> + Clone {
    calls(app.clone()).or(rest(app)).unify().recover(errors::recover)
}

fn calls<B: Backend>(app: Arc<App<B>>) -> impl Filter<Extract = (Response,), Error = Rejection> + Clone {
    warp::path::full()
        .and_then(|path: FullPath| ready(Call::of_path(path.as_str()).ok_or_else(warp::reject::not_found)))
        .and(warp::post())
        .and(head())
        .and(warp::header::optional("content-length"))
        .and(warp::body::stream())
        .then(move |call, head, length, body| {
            let app = app.clone();
            async move { client::call(&app, call, head, length, body).await }
        })
}

fn rest<B: Backend>(app: Arc<App<B>>) -> BoxedFilter<(Response,)> {
    let with = {
        let app = app.clone();
        move || {
            let app = app.clone();
            warp::any().map(move || app.clone())
        }
    };
    let query = warp::query::raw().or(warp::any().map(String::new)).unify();
    let changes = warp::path!("v1" / "changes").and(warp::get()).and(with()).and(caller()).and(query).then(
        |app: Arc<App<B>>, caller: Caller, query: String| async move { node::changes(&app, &caller, &query).await },
    );
    let divergence =
        warp::path!("v1" / "divergence" / String).and(warp::get()).and(with()).and(caller()).then(
            |archive: String, app: Arc<App<B>>, caller: Caller| async move {
                node::divergence(&app, &caller, archive).await
            },
        );
    let status = warp::path!("v1" / "status")
        .and(warp::get())
        .and(with())
        .and(caller())
        .and(query)
        .map(|app: Arc<App<B>>, caller: Caller, query: String| node::status(&app, &caller, &query));
    let snapshot = warp::path!("v1" / "snapshot")
        .and(warp::get())
        .and(with())
        .and(caller())
        .then(|app: Arc<App<B>>, caller: Caller| async move { node::snapshot(&app, &caller).await });
    let outcome = warp::path!("v1" / "outcome" / String)
        .and(warp::get())
        .and(with())
        .and(head())
        .then(|key: String, app: Arc<App<B>>, head: Head| async move { client::outcome(&app, &key, head).await });
    let admin = warp::path!("v1" / "admin" / String)
        .and(warp::post())
        .and(with())
        .and(caller())
        .and(warp::header::optional("content-length"))
        .and(warp::body::stream())
        .then(|name: String, app: Arc<App<B>>, caller: Caller, length, body| async move {
            admin::call(&app, &name, &caller, length, body).await
        });
    let describe = warp::path!("v1" / "openapi.json")
        .and(warp::get())
        .map(|| errors::json(hyper::StatusCode::OK, openapi::text().as_bytes().to_vec()));
    let live =
        warp::path!("livez").and(warp::get()).and(with()).map(|app: Arc<App<B>>| node::checks(&app.backend.liveness()));
    let ready = warp::path!("readyz")
        .and(warp::get())
        .and(with())
        .map(|app: Arc<App<B>>| node::checks(&app.backend.readiness()));
    let metrics = warp::path!("metrics").and(warp::get()).and(with()).map(|app: Arc<App<B>>| node::metrics(&app));
    let first =
        status.or(outcome).unify().or(snapshot).unify().or(changes).unify().or(divergence).unify().or(admin).unify();
    let second = live.or(ready).unify().or(metrics).unify().or(describe).unify();
    first.or(second).unify().boxed()
}

/// Who calls: the bearer token, and whether the connection comes from this machine.
fn caller() -> impl Filter<Extract = (Caller,), Error = Rejection> + Copy {
    warp::header::optional::<Bearer>("authorization")
        .and(warp::ext::optional::<Elsewhere>())
        .map(|bearer, elsewhere: Option<Elsewhere>| Caller { bearer, elsewhere: elsewhere.is_some() })
}

/// The headers of a client's call.
fn head() -> impl Filter<Extract = (Head,), Error = Rejection> + Copy {
    caller()
        .and(warp::header::optional::<KeyHeader>("idempotency-key"))
        .and(warp::header::optional::<u64>("rdb-deadline-ms"))
        .and(warp::header::optional::<String>("rdb-forwarded"))
        .and(warp::header::optional::<u64>("rdb-epoch"))
        .map(|caller, key: Option<KeyHeader>, deadline_ms, forwarded: Option<String>, epoch| Head {
            caller,
            key: key.map(|KeyHeader(tag)| tag),
            deadline_ms,
            forwarded: forwarded.is_some(),
            epoch,
        })
}
