//! Annotations by which people ask for something, read into [`Requests`]. What can't be read is told and removed: an
//! annotation that acts once must not wait for a day on which it makes sense.

use std::collections::BTreeSet;

use rdb_control::{RequestKind, Requests};
use rdb_protocol::{Epoch, NodeName};

use crate::crd::{RawReplicatedDB, annotation};

/// An annotation whose value makes no sense.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreadable {
    pub key: &'static str,
    pub problem: String,
}

/// What is asked for now.
pub fn read(resource: &RawReplicatedDB) -> (Requests, Vec<Unreadable>) {
    let mut unreadable = Vec::new();
    let mut name = |key: &'static str| {
        let value = resource.annotation(key)?.trim();
        match NodeName::new(value) {
            Ok(name) => Some(name),
            Err(_) => {
                unreadable.push(Unreadable { key, problem: format!("{value:?} is no name of an instance") });
                None
            }
        }
    };
    let (switchover, reseed) = (name(annotation::SWITCHOVER), name(annotation::RESEED));
    let accept_data_loss = resource.annotation(annotation::ACCEPT_DATA_LOSS).and_then(|value| {
        let epoch = value.trim().parse().ok().map(Epoch);
        if epoch.is_none() {
            let problem = format!("{value:?} is no number of an epoch; the status message names the right one");
            unreadable.push(Unreadable { key: annotation::ACCEPT_DATA_LOSS, problem });
        }
        epoch
    });
    (Requests { switchover, reseed, accept_data_loss, fence: fenced(resource) }, unreadable)
}

/// Instances to be kept stopped. Names that make no sense fence nothing; the annotation stays, it is not ours to end it.
fn fenced(resource: &RawReplicatedDB) -> BTreeSet<NodeName> {
    let value = resource.annotation(annotation::FENCE).unwrap_or_default();
    value.split(',').filter_map(|name| NodeName::new(name.trim()).ok()).collect()
}

/// The annotation of a request that acts once.
pub fn key(kind: &RequestKind) -> &'static str {
    match kind {
        RequestKind::Switchover => annotation::SWITCHOVER,
        RequestKind::Reseed => annotation::RESEED,
        RequestKind::AcceptDataLoss => annotation::ACCEPT_DATA_LOSS,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn annotated(pairs: &[(&str, &str)]) -> RawReplicatedDB {
        let mut resource = RawReplicatedDB::new("orders", Value::Null);
        let pairs = pairs.iter().map(|(key, value)| (key.to_string(), value.to_string()));
        resource.metadata.annotations = Some(pairs.collect());
        resource
    }

    #[test]
    fn requests_are_annotations() {
        let (requests, unreadable) = read(&annotated(&[
            (annotation::SWITCHOVER, "orders-2"),
            (annotation::ACCEPT_DATA_LOSS, "7"),
            (annotation::FENCE, "orders-1, orders-3,"),
        ]));
        assert_eq!(unreadable, []);
        assert_eq!(requests.switchover.unwrap().as_str(), "orders-2");
        assert_eq!(requests.accept_data_loss, Some(Epoch(7)));
        assert_eq!(requests.fence.len(), 2);
        assert_eq!(requests.reseed, None);
    }

    #[test]
    fn nonsense_is_told() {
        let nonsense = [(annotation::RESEED, "Orders 2"), (annotation::ACCEPT_DATA_LOSS, "yes")];
        let (requests, unreadable) = read(&annotated(&nonsense));
        assert_eq!(requests, Requests::default());
        assert_eq!(
            unreadable.iter().map(|u| u.key).collect::<Vec<_>>(),
            [annotation::RESEED, annotation::ACCEPT_DATA_LOSS]
        );
    }
}
