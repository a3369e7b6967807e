//! What all requests share.

use std::sync::Arc;

use hyper::StatusCode;
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use prometheus_client::registry::Registry;
use rdb_protocol::api::Token;
use tokio::sync::{Notify, watch};
use warp::reply::Response;

use super::auth::Tokens;
use super::backend::{Backend, Lead};
use super::errors;
use super::metrics::Metrics;
use super::pool::Pool;

pub(crate) const EPOCH: HeaderName = HeaderName::from_static("rdb-epoch");
pub(crate) const INDEX: HeaderName = HeaderName::from_static("rdb-index");
pub(crate) const NODE: HeaderName = HeaderName::from_static("rdb-node");

/// Headers of a leader's answer that a forwarding node passes on; `Rdb-Node` says who answered, not who passed it on.
pub(crate) const ANSWER_HEADERS: [HeaderName; 4] = [CONTENT_TYPE, EPOCH, INDEX, NODE];

pub(crate) struct App<B> {
    pub(crate) backend: Arc<B>,
    pub(crate) lead: watch::Receiver<Lead>,
    pub(crate) tokens: Tokens,
    pub(crate) pool: Pool,
    /// This node's name as a header.
    pub(crate) node: HeaderValue,
    pub(crate) metrics: Metrics,
    /// Set when the node is ending: whoever waits for a leader, or watches, is answered.
    leaving: watch::Sender<bool>,
    /// Told when what is under way is answered as it stands.
    pub(crate) given_up: Arc<Notify>,
    registry: Registry,
}

impl<B: Backend> App<B> {
    pub(crate) fn new(backend: Arc<B>, tokens: Tokens) -> App<B> {
        let mut registry = Registry::with_prefix("rdb");
        let metrics = Metrics::register(&mut registry);
        backend.register_metrics(&mut registry);
        // A node's name is a DNS label, which always fits into a header.
        let node = HeaderValue::from_str(backend.node().as_str()).unwrap_or(HeaderValue::from_static("unnamed"));
        let (leaving, given_up) = (watch::Sender::new(false), Arc::new(Notify::new()));
        App { lead: backend.lead(), backend, tokens, pool: Pool::default(), node, metrics, leaving, given_up, registry }
    }

    pub(crate) fn leave(&self) {
        self.leaving.send_replace(true);
    }

    /// Ends when the node is ending.
    pub(crate) fn left(&self) -> impl Future<Output = ()> + Send + use<B> {
        let mut leaving = self.leaving.subscribe();
        async move {
            // An error means that everything is over already.
            let _ = leaving.wait_for(|leaving| *leaving).await;
        }
    }

    /// A success with its position in the headers.
    pub(crate) fn answer(&self, body: Vec<u8>, position: Token) -> Response {
        let mut response = errors::json(StatusCode::OK, body);
        self.mark(response.headers_mut(), position);
        response
    }

    pub(crate) fn mark(&self, headers: &mut HeaderMap, position: Token) {
        headers.insert(EPOCH, HeaderValue::from(position.epoch.0));
        headers.insert(INDEX, HeaderValue::from(position.index.0));
        headers.insert(NODE, self.node.clone());
    }

    /// For answers that name no position of their own.
    pub(crate) fn mark_if_bare(&self, response: &mut Response) {
        if !response.headers().contains_key(NODE) {
            self.mark(response.headers_mut(), self.backend.here());
        }
    }

    /// All metrics in the text format of Prometheus.
    pub(crate) fn metrics_text(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry)?;
        Ok(text)
    }
}
