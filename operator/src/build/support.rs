//! Secrets and the disruption budget.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::{Owner, TOKEN_KEY};

/// Whom a token lets in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TokenKind {
    Client,
    /// The nodes among themselves.
    Peer,
    /// The operator.
    Admin,
}

impl TokenKind {
    pub const ALL: [TokenKind; 3] = [TokenKind::Client, TokenKind::Peer, TokenKind::Admin];

    /// Name of the volume in a pod.
    pub(super) fn volume(self) -> &'static str {
        match self {
            TokenKind::Client => "client-token",
            TokenKind::Peer => "peer-token",
            TokenKind::Admin => "admin-token",
        }
    }

    /// Where it is mounted.
    pub(super) fn path(self) -> &'static str {
        match self {
            TokenKind::Client => "/etc/rdb/client",
            TokenKind::Peer => "/etc/rdb/peer",
            TokenKind::Admin => "/etc/rdb/admin",
        }
    }

    pub(super) fn variable(self) -> &'static str {
        match self {
            TokenKind::Client => "RDB_CLIENT_TOKEN_FILE",
            TokenKind::Peer => "RDB_PEER_TOKEN_FILE",
            TokenKind::Admin => "RDB_ADMIN_TOKEN_FILE",
        }
    }

    /// The secret that holds it: ours, or the one that the user names for clients.
    pub fn secret_name(self, owner: &Owner) -> String {
        let named = &owner.spec().access.client_token_secret;
        match self {
            TokenKind::Client if !named.is_empty() => named.clone(),
            TokenKind::Client => format!("{}-client", owner.name()),
            TokenKind::Peer => format!("{}-peer", owner.name()),
            TokenKind::Admin => format!("{}-admin", owner.name()),
        }
    }

    /// Is it ours to make when it is absent?
    pub fn is_generated(self, owner: &Owner) -> bool {
        self != TokenKind::Client || owner.spec().access.client_token_secret.is_empty()
    }
}

/// A token secret that we generate.
pub fn secret(owner: &Owner, kind: TokenKind, token: &str) -> Secret {
    let data = BTreeMap::from([(TOKEN_KEY.to_owned(), ByteString(token.as_bytes().to_vec()))]);
    Secret {
        metadata: owner.owned(kind.secret_name(owner), owner.labels()),
        data: Some(data),
        type_: Some("Opaque".to_owned()),
        ..Secret::default()
    }
}

/// Machines are drained one at a time. A single instance has nothing to be spared for: a budget would only hold up the
/// drain for good.
pub fn disruption_budget(owner: &Owner) -> Option<PodDisruptionBudget> {
    (owner.spec().instances > 1).then(|| PodDisruptionBudget {
        metadata: owner.owned(owner.name(), owner.labels()),
        spec: Some(PodDisruptionBudgetSpec {
            max_unavailable: Some(IntOrString::Int(1)),
            selector: Some(owner.selector()),
            // A pod that does not even start protects nothing.
            unhealthy_pod_eviction_policy: Some("AlwaysAllow".to_owned()),
            ..PodDisruptionBudgetSpec::default()
        }),
        status: None,
    })
}
