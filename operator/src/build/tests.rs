//! The builders against written expectations.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use rdb_control::ClusterSpec;
use rdb_control::spec::{Size, Spread};
use rdb_protocol::{Chain, ClusterId, Epoch, Index, NodeName, Position};
use serde_json::{Value, json};

use super::*;
use crate::crd::{ReplicatedDB, annotation};

fn resource(change: impl FnOnce(&mut ClusterSpec)) -> ReplicatedDB {
    let mut spec = ClusterSpec::default();
    change(&mut spec);
    let mut resource = ReplicatedDB::new("orders", spec);
    resource.metadata.namespace = Some("shop".to_owned());
    resource.metadata.uid = Some("0000-uid".to_owned());
    resource
}

fn images() -> Images {
    Images { node: "ghcr.io/replicateddb/rdb-node:0.1.0".to_owned() }
}

fn with<T>(resource: &ReplicatedDB, build: impl FnOnce(&Owner) -> T) -> T {
    build(&Owner { resource, images: &images() })
}

fn node(name: &str) -> NodeName {
    NodeName::new(name).unwrap()
}

fn seed() -> SnapshotSeed {
    SnapshotSeed {
        snapshot: "orders-20260131180000".to_owned(),
        cluster: ClusterId(7),
        position: Position { epoch: Epoch(4), index: Index(88_213), chain: Chain(0xabc) },
        restore_bytes: Some(3 << 30),
    }
}

fn facts() -> VolumeFacts {
    VolumeFacts { claim_uid: "claim-uid".to_owned(), seed: None }
}

fn pod_of(resource: &ReplicatedDB) -> Pod {
    with(resource, |owner| pod(owner, &node("orders-2"), &facts())).unwrap()
}

fn json_of(object: &impl serde::Serialize) -> Value {
    serde_json::to_value(object).unwrap()
}

/// The written expectation, as a user would read it with `kubectl get -o yaml`.
fn assert_golden(object: &impl serde::Serialize, golden: &str) {
    let expected: Value = serde_yaml::from_str(golden).unwrap();
    let actual = json_of(object);
    let text = |value: &Value| serde_yaml::to_string(value).unwrap();
    assert_eq!(text(&actual), text(&expected));
}

#[test]
fn a_pod_is_as_written() {
    let pod = pod_of(&resource(|_| {}));
    let mut pod = json_of(&pod);
    let template = pod["metadata"]["annotations"]["replicateddb.io/template"].take();
    assert!(template.as_str().unwrap().starts_with("image="), "{template}");
    assert_golden(&pod, include_str!("../../tests/golden/pod.yaml"));
}

#[test]
fn services_slices_and_budget_are_as_written() {
    let resource = resource(|_| {});
    let endpoint = |n: u32, zone: &str| Endpoint {
        name: node(&format!("orders-{n}")),
        ip: format!("10.0.0.{n}"),
        node: Some(format!("worker-{n}")),
        zone: Some(zone.to_owned()),
        pod_uid: Some(format!("pod-uid-{n}")),
    };
    let routes = Routes {
        leader: Some(endpoint(2, "b")),
        all: vec![endpoint(3, "c"), endpoint(2, "b"), endpoint(1, "a")],
        ipv6: false,
    };
    let all = with(&resource, |owner| {
        json!({
            "services": services(owner),
            "slices": endpoint_slices(owner, &routes),
            "budget": disruption_budget(owner),
        })
    });
    assert_golden(&all, include_str!("../../tests/golden/network.yaml"));
}

#[test]
fn a_claim_is_empty_or_from_a_snapshot_and_belongs_to_nobody() {
    let resource = resource(|spec| spec.storage.storage_class = "fast".to_owned());
    let claims = with(&resource, |owner| {
        json!([volume_claim(owner, &node("orders-1"), None), volume_claim(owner, &node("orders-4"), Some(&seed()))])
    });
    assert_golden(&claims, include_str!("../../tests/golden/claims.yaml"));
    assert!(!claims.to_string().contains("ownerReferences"));
}

#[test]
fn a_claim_from_a_snapshot_is_at_least_as_large_as_it() {
    let larger = resource(|spec| spec.storage.size = Size(5 << 30));
    let claim = with(&larger, |owner| volume_claim(owner, &node("orders-1"), Some(&seed())));
    assert_eq!(json_of(&claim)["spec"]["resources"]["requests"]["storage"], "5Gi");
}

#[test]
fn a_pod_on_a_volume_from_a_snapshot_knows_what_has_to_be_there() {
    let resource = resource(|_| {});
    let mut claim = with(&resource, |owner| volume_claim(owner, &node("orders-4"), Some(&seed())));
    claim.metadata.uid = Some("u".to_owned());
    let facts = VolumeFacts::of(&claim);
    let pod = with(&resource, |owner| pod(owner, &node("orders-4"), &facts)).unwrap();
    let env = json_of(&pod)["spec"]["containers"][0]["env"].clone();
    let value = |name: &str| {
        let found = env.as_array().unwrap().iter().find(|variable| variable["name"] == name);
        found.map(|variable| variable["value"].as_str().unwrap().to_owned())
    };
    assert_eq!(value("RDB_SEED_CLUSTER").as_deref(), Some("0000000000000007"));
    assert_eq!(value("RDB_SEED_POSITION").as_deref(), Some("4/88213/0000000000000abc"));
    assert_eq!(value("RDB_VOLUME_ID").as_deref(), Some("u"));
}

/// Every control of the Pod Security Standard `restricted` (and of `baseline`, which it contains), in its order. Fields
/// that must not be set are absent from the whole pod, whatever the spec asks for.
#[test]
fn a_pod_keeps_the_restricted_security_standard() {
    let pod = pod_of(&resource(|spec| {
        spec.pod_metadata.labels.insert("team".to_owned(), "blue".to_owned());
        spec.placement.tolerations.push(json!({"key": "db", "operator": "Exists"}));
    }));
    let pod = json_of(&pod);
    let spec = &pod["spec"];
    for host in ["hostNetwork", "hostPID", "hostIPC", "hostUsers", "initContainers", "ephemeralContainers"] {
        assert!(spec[host].is_null(), "{host}");
    }
    let allowed =
        ["configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"];
    for volume in spec["volumes"].as_array().unwrap() {
        let mut kinds = volume.as_object().unwrap().keys().filter(|key| *key != "name");
        assert!(kinds.all(|kind| allowed.contains(&kind.as_str())), "{volume}");
    }
    let context = &spec["securityContext"];
    assert_eq!(context["runAsNonRoot"], true);
    assert_ne!(context["runAsUser"], 0);
    assert_eq!(context["seccompProfile"]["type"], "RuntimeDefault");
    for never in ["seLinuxOptions", "sysctls", "windowsOptions", "appArmorProfile", "supplementalGroups"] {
        assert!(context[never].is_null(), "{never}");
    }
    assert_eq!(spec["automountServiceAccountToken"], false);
    for container in spec["containers"].as_array().unwrap() {
        let context = &container["securityContext"];
        assert_eq!(context["allowPrivilegeEscalation"], false);
        assert_eq!(context["capabilities"], json!({"drop": ["ALL"]}));
        assert_eq!(context["runAsNonRoot"], true);
        assert_ne!(context["runAsUser"], 0);
        assert_eq!(context["seccompProfile"]["type"], "RuntimeDefault");
        assert_eq!(context["readOnlyRootFilesystem"], true);
        assert!(context["privileged"].is_null() || context["privileged"] == false);
        for never in ["procMount", "seLinuxOptions", "windowsOptions", "appArmorProfile"] {
            assert!(context[never].is_null(), "{never}");
        }
        for port in container["ports"].as_array().unwrap() {
            assert!(port["hostPort"].is_null());
        }
        for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
            assert!(container[probe]["httpGet"]["host"].is_null(), "a probe asks the node itself");
        }
    }
}

#[test]
fn placement_spreads_requires_or_ignores() {
    let of = |nodes, zones| {
        let pod = json_of(&pod_of(&resource(|spec| {
            spec.placement.nodes = nodes;
            spec.placement.zones = zones;
        })));
        (pod["spec"]["affinity"].clone(), pod["spec"]["topologySpreadConstraints"].clone())
    };
    let (apart, zones) = of(Spread::Spread, Spread::Spread);
    let preferred = &apart["podAntiAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"][0];
    assert_eq!(preferred["podAffinityTerm"]["topologyKey"], "kubernetes.io/hostname");
    assert_eq!(zones[0]["whenUnsatisfiable"], "ScheduleAnyway");
    let (apart, zones) = of(Spread::Require, Spread::Require);
    let required = &apart["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"][0];
    assert_eq!(required["labelSelector"]["matchLabels"]["replicateddb.io/cluster"], "orders");
    assert_eq!((&zones[0]["whenUnsatisfiable"], &zones[0]["maxSkew"]), (&json!("DoNotSchedule"), &json!(1)));
    assert_eq!(of(Spread::Ignore, Spread::Ignore), (Value::Null, Value::Null));
}

#[test]
fn what_the_spec_asks_for_reaches_the_pod() {
    let pod = json_of(&pod_of(&resource(|spec| {
        spec.image = "registry.example/rdb-node@sha256:00".to_owned();
        spec.resources = json!({"limits": {"memory": "2Gi"}}).as_object().unwrap().clone();
        spec.placement.node_selector = BTreeMap::from([("disk".to_owned(), "ssd".to_owned())]);
        spec.placement.tolerations = vec![json!({"key": "db", "operator": "Exists", "effect": "NoSchedule"})];
        spec.placement.priority_class_name = "high".to_owned();
        spec.access.client_token_secret = "mine".to_owned();
        spec.pod_metadata.labels =
            BTreeMap::from([("team".to_owned(), "blue".to_owned()), (label::CLUSTER.to_owned(), "stolen".to_owned())]);
        spec.pod_metadata.annotations = BTreeMap::from([("note".to_owned(), "x".to_owned())]);
    })));
    let container = &pod["spec"]["containers"][0];
    assert_eq!(container["image"], "registry.example/rdb-node@sha256:00");
    assert_eq!(container["resources"], json!({"limits": {"memory": "2Gi"}}));
    assert_eq!(pod["spec"]["nodeSelector"]["disk"], "ssd");
    assert_eq!(pod["spec"]["tolerations"][0]["key"], "db");
    assert_eq!(pod["spec"]["priorityClassName"], "high");
    assert!(pod["spec"]["volumes"].to_string().contains("\"secretName\":\"mine\""));
    let labels = &pod["metadata"]["labels"];
    assert_eq!((&labels["team"], &labels[label::CLUSTER]), (&json!("blue"), &json!("orders")), "ours are ours");
    assert_eq!(pod["metadata"]["annotations"]["note"], "x");
}

#[test]
fn what_cannot_be_used_names_its_field() {
    let wrong = resource(|spec| spec.placement.tolerations = vec![json!("all")]);
    let error = with(&wrong, |owner| pod(owner, &node("orders-1"), &facts())).unwrap_err();
    assert!(error.to_string().starts_with("spec.placement.tolerations: "), "{error}");
    let wrong = resource(|spec| {
        spec.resources.insert("limits".to_owned(), json!(["memory"]));
    });
    let error = with(&wrong, |owner| pod(owner, &node("orders-1"), &facts())).unwrap_err();
    assert!(error.to_string().starts_with("spec.resources: "), "{error}");
}

#[test]
fn only_what_needs_a_new_pod_makes_it_outdated() {
    let old = resource(|_| {});
    let pod = pod_of(&old);
    let told = |change: fn(&mut ClusterSpec)| with(&resource(change), |owner| outdated(owner, &pod));
    assert_eq!(told(|_| {}), None);
    assert_eq!(told(|spec| spec.failover.detection_timeout = rdb_control::spec::Span::from_secs(30)), None);
    assert_eq!(told(|spec| spec.instances = 5), None);
    assert_eq!(told(|spec| spec.storage.size = Size(2 << 30)), None);
    assert_eq!(
        told(|spec| spec.image = "b:2".to_owned()).as_deref(),
        Some("image ghcr.io/replicateddb/rdb-node:0.1.0 → b:2")
    );
    assert_eq!(
        told(|spec| {
            spec.resources.insert("limits".to_owned(), json!({"cpu": "1"}));
            spec.placement.zones = Spread::Ignore;
        })
        .as_deref(),
        Some("resources, placement")
    );
    assert_eq!(told(|spec| spec.access.client_token_secret = "mine".to_owned()).as_deref(), Some("clientTokenSecret"));
    let mut foreign = pod.clone();
    foreign.metadata.annotations = None;
    assert!(with(&old, |owner| outdated(owner, &foreign)).is_some());
}

#[test]
fn a_restart_renews_every_pod_once() {
    let mut resource = resource(|spec| spec.instances = 2);
    let old = pod_of(&resource);
    resource.metadata.annotations = Some(BTreeMap::from([(annotation::RESTART.to_owned(), "now".to_owned())]));
    assert_eq!(with(&resource, |owner| outdated(owner, &old)).as_deref(), Some("restart asked for: now"));
    let new = pod_of(&resource);
    assert_eq!(with(&resource, |owner| outdated(owner, &new)), None);
    assert!(!with(&resource, |owner| restart_is_done(owner, [&old, &new])));
    assert!(!with(&resource, |owner| restart_is_done(owner, [&new])), "the other one is missing");
    assert!(with(&resource, |owner| restart_is_done(owner, [&new, &new])));
    resource.metadata.annotations = None;
    assert_eq!(with(&resource, |owner| outdated(owner, &new)), None, "the annotation was removed when it was done");
    assert!(!with(&resource, |owner| restart_is_done(owner, [&new, &new])), "nothing was asked for");
}

#[test]
fn reads_go_to_followers_or_else_to_whoever_is_there() {
    let resource = resource(|_| {});
    let endpoint = |n: u32| Endpoint {
        name: node(&format!("orders-{n}")),
        ip: format!("10.0.0.{n}"),
        node: None,
        zone: None,
        pod_uid: None,
    };
    let addresses = |routes: &Routes| -> Vec<Vec<String>> {
        let slices = with(&resource, |owner| endpoint_slices(owner, routes));
        let of = |slice: k8s_openapi::api::discovery::v1::EndpointSlice| {
            slice.endpoints.unwrap().into_iter().flat_map(|endpoint| endpoint.addresses).collect()
        };
        slices.into_iter().map(of).collect()
    };
    let alone = Routes { leader: Some(endpoint(1)), all: vec![endpoint(1)], ipv6: false };
    assert_eq!(addresses(&alone), [["10.0.0.1"], ["10.0.0.1"], ["10.0.0.1"]].map(|a| a.map(str::to_owned).to_vec()));
    let leaderless = Routes { leader: None, all: vec![endpoint(2), endpoint(1)], ipv6: false };
    let empty: Vec<String> = Vec::new();
    let both = vec!["10.0.0.1".to_owned(), "10.0.0.2".to_owned()];
    assert_eq!(addresses(&leaderless), [empty, both.clone(), both]);
    let nobody = Routes { ipv6: true, ..Routes::default() };
    let slices = with(&resource, |owner| endpoint_slices(owner, &nobody));
    assert!(slices.iter().all(|slice| slice.address_type == "IPv6" && slice.endpoints.as_ref().unwrap().is_empty()));
}

#[test]
fn a_node_without_a_zone_takes_the_hints_from_all() {
    let resource = resource(|_| {});
    let endpoint = |n: u32, zone: Option<&str>| Endpoint {
        name: node(&format!("orders-{n}")),
        ip: format!("10.0.0.{n}"),
        node: None,
        zone: zone.map(str::to_owned),
        pod_uid: None,
    };
    let routes = Routes { leader: None, all: vec![endpoint(1, Some("a")), endpoint(2, None)], ipv6: false };
    let slices = with(&resource, |owner| endpoint_slices(owner, &routes));
    assert!(!json_of(&slices[1]).to_string().contains("hints"));
}

#[test]
fn secrets_hold_a_token_and_the_clients_may_be_the_users_own() {
    let ours = resource(|_| {});
    let made = with(&ours, |owner| secret(owner, TokenKind::Client, "abc"));
    assert_eq!(made.metadata.name.as_deref(), Some("orders-client"));
    assert_eq!(json_of(&made)["data"]["token"], "YWJj");
    let mine = resource(|spec| spec.access.client_token_secret = "mine".to_owned());
    let kinds = TokenKind::ALL.map(|kind| with(&mine, |owner| (kind.secret_name(owner), kind.is_generated(owner))));
    assert_eq!(
        kinds,
        [("mine", false), ("orders-peer", true), ("orders-admin", true)].map(|(name, own)| (name.to_owned(), own))
    );
}

#[test]
fn one_instance_has_no_budget() {
    assert!(with(&resource(|spec| spec.instances = 1), disruption_budget).is_none());
}

#[test]
fn every_owned_object_names_its_owner_and_its_namespace() {
    let resource = resource(|_| {});
    let metas: Vec<ObjectMeta> = with(&resource, |owner| {
        let mut metas: Vec<ObjectMeta> = services(owner).into_iter().map(|service| service.metadata).collect();
        metas.extend(endpoint_slices(owner, &Routes::default()).into_iter().map(|slice| slice.metadata));
        metas.extend(disruption_budget(owner).map(|budget| budget.metadata));
        metas.push(secret(owner, TokenKind::Peer, "x").metadata);
        metas.push(pod(owner, &node("orders-1"), &facts()).unwrap().metadata);
        metas
    });
    for meta in metas {
        let owner = &meta.owner_references.as_ref().unwrap()[0];
        assert_eq!((owner.uid.as_str(), owner.controller), ("0000-uid", Some(true)));
        assert_eq!(meta.namespace.as_deref(), Some("shop"));
        assert_eq!(meta.labels.unwrap()[label::CLUSTER], "orders");
    }
}
