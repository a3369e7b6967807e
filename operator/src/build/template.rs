//! What a pod was made from. Every pod carries a digest of each part of the spec that only a new pod can take over, so
//! that a difference can be told in words. What nodes are told while they run (modes, timeouts, limits) is no part of it,
//! and neither is the code of the builders: an operator of a later version does not renew pods that are as asked for.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Pod;
use serde::Serialize;

use super::{Owner, TokenKind, pod::CONTAINER};
use crate::crd::annotation;

/// Annotation of a pod: `part=digest` for each part.
pub const TEMPLATE: &str = "replicateddb.io/template";
/// Annotation of a pod: the restart that was asked for when it was made.
pub const RESTARTED: &str = "replicateddb.io/restarted";

/// The parts, in the order in which they are named.
fn parts(owner: &Owner) -> [(&'static str, String); 5] {
    let spec = owner.spec();
    [
        ("image", digest(owner.image())),
        ("resources", digest(&spec.resources)),
        ("placement", digest(&spec.placement)),
        ("podMetadata", digest(&spec.pod_metadata)),
        ("clientTokenSecret", digest(&TokenKind::Client.secret_name(owner))),
    ]
}

/// FNV-1a of the JSON text, 64 bits: stable over versions of the program, and nobody gains by a collision.
fn digest(value: &(impl Serialize + ?Sized)) -> String {
    // Maps are sorted, so equal values have equal texts. What can't be written has no text at all.
    let text = serde_json::to_string(value).unwrap_or_default();
    let hash = text
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
    format!("{hash:016x}")
}

pub(super) fn annotations(owner: &Owner) -> BTreeMap<String, String> {
    let template = parts(owner).map(|(part, digest)| format!("{part}={digest}")).join(" ");
    let restart = owner.resource.annotation(annotation::RESTART).map(|at| (RESTARTED.to_owned(), at.to_owned()));
    [(TEMPLATE.to_owned(), template)].into_iter().chain(restart).collect()
}

/// In what this pod differs from what is asked for now; `None` = it is up to date.
pub fn outdated(owner: &Owner, pod: &Pod) -> Option<String> {
    let has = |key: &str| pod.metadata.annotations.as_ref().and_then(|all| all.get(key)).map(String::as_str);
    if let Some(restart) = owner.resource.annotation(annotation::RESTART)
        && has(RESTARTED) != Some(restart)
    {
        return Some(format!("restart asked for: {restart}"));
    }
    let Some(made_from) = has(TEMPLATE) else { return Some("it was not made by this operator".to_owned()) };
    let made_from: BTreeMap<&str, &str> = made_from.split(' ').filter_map(|part| part.split_once('=')).collect();
    // A part that this pod does not know was added by a later version, and is no reason to renew it.
    let differs = |(part, digest): &(&'static str, String)| made_from.get(part).is_some_and(|old| old != digest);
    let different: Vec<String> =
        parts(owner).iter().filter(|part| differs(part)).map(|(p, _)| describe(owner, pod, p)).collect();
    (!different.is_empty()).then(|| different.join(", "))
}

fn describe(owner: &Owner, pod: &Pod, part: &str) -> String {
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    let image =
        containers.filter(|container| container.name == CONTAINER).find_map(|container| container.image.as_deref());
    match (part, image) {
        ("image", Some(image)) => format!("image {image} → {}", owner.image()),
        _ => part.to_owned(),
    }
}

/// A restart was asked for, and all these pods, of all instances that should have one, were made since.
pub fn restart_is_done<'a>(owner: &Owner, pods: impl IntoIterator<Item = &'a Pod>) -> bool {
    let Some(restart) = owner.resource.annotation(annotation::RESTART) else { return false };
    let made_since = |pod: &Pod| {
        let annotations = pod.metadata.annotations.as_ref();
        annotations.and_then(|all| all.get(RESTARTED)).is_some_and(|at| at == restart)
    };
    let pods: Vec<&Pod> = pods.into_iter().collect();
    pods.len() >= owner.spec().instances as usize && pods.into_iter().all(made_since)
}
