//! The admin token of a cluster. When it is changed, the kubelets bring the new one to the nodes within about a minute,
//! each at its own time; until then some know only the one before.

use std::sync::{Arc, Mutex, PoisonError};

/// Shared by the streams and calls of one cluster.
#[derive(Clone, Debug, Default)]
pub struct Tokens(Arc<Mutex<Pair>>);

#[derive(Default)]
struct Pair {
    newest: Option<Arc<str>>,
    before: Option<Arc<str>>,
}

impl std::fmt::Debug for Pair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Pair {{ newest: {}, before: {} }}", self.newest.is_some(), self.before.is_some())
    }
}

impl Tokens {
    /// Takes the token as it is stored now.
    pub fn set(&self, token: &str) {
        let mut pair = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if pair.newest.as_deref() != Some(token) {
            pair.before = pair.newest.replace(token.into());
        }
    }

    /// Those to be tried, in this order.
    pub fn candidates(&self) -> impl Iterator<Item = Arc<str>> {
        let pair = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        [pair.newest.clone(), pair.before.clone()].into_iter().flatten()
    }

    pub fn is_known(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).newest.is_some()
    }
}
