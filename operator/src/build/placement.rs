//! Where instances may run: spread over nodes and zones, as far as `spec.placement` asks for it.

use k8s_openapi::api::core::v1::{
    Affinity, PodAffinityTerm, PodAntiAffinity, Toleration, TopologySpreadConstraint, WeightedPodAffinityTerm,
};
use rdb_control::spec::Spread;

use super::{BuildError, Owner};

const NODE_KEY: &str = "kubernetes.io/hostname";
const ZONE_KEY: &str = "topology.kubernetes.io/zone";

/// The strongest preference that there is: two copies on one machine are worth little more than one.
const FULL_WEIGHT: i32 = 100;

/// Keeps instances off each other's machines.
pub(super) fn affinity(owner: &Owner) -> Option<Affinity> {
    let term = PodAffinityTerm {
        label_selector: Some(owner.selector()),
        topology_key: NODE_KEY.to_owned(),
        ..PodAffinityTerm::default()
    };
    let apart = match owner.spec().placement.nodes {
        Spread::Ignore => return None,
        Spread::Require => PodAntiAffinity {
            required_during_scheduling_ignored_during_execution: Some(vec![term]),
            preferred_during_scheduling_ignored_during_execution: None,
        },
        Spread::Spread => PodAntiAffinity {
            required_during_scheduling_ignored_during_execution: None,
            preferred_during_scheduling_ignored_during_execution: Some(vec![WeightedPodAffinityTerm {
                weight: FULL_WEIGHT,
                pod_affinity_term: term,
            }]),
        },
    };
    Some(Affinity { pod_anti_affinity: Some(apart), ..Affinity::default() })
}

/// Spreads instances evenly over zones.
pub(super) fn zones(owner: &Owner) -> Option<Vec<TopologySpreadConstraint>> {
    let when_unsatisfiable = match owner.spec().placement.zones {
        Spread::Ignore => return None,
        Spread::Require => "DoNotSchedule",
        Spread::Spread => "ScheduleAnyway",
    };
    Some(vec![TopologySpreadConstraint {
        label_selector: Some(owner.selector()),
        max_skew: 1,
        topology_key: ZONE_KEY.to_owned(),
        when_unsatisfiable: when_unsatisfiable.to_owned(),
        // A zone whose nodes are all cordoned must not count as an empty one that has to be filled first.
        node_taints_policy: Some("Honor".to_owned()),
        ..TopologySpreadConstraint::default()
    }])
}

pub(super) fn tolerations(owner: &Owner) -> Result<Option<Vec<Toleration>>, BuildError> {
    let parse = |value: &serde_json::Value| serde_json::from_value::<Toleration>(value.clone());
    let parsed = owner.spec().placement.tolerations.iter().map(parse).collect::<Result<Vec<_>, _>>();
    let tolerations = parsed
        .map_err(|error| BuildError { field: "placement.tolerations", problem: format!("no toleration: {error}") })?;
    Ok((!tolerations.is_empty()).then_some(tolerations))
}
