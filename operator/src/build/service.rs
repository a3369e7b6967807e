//! Services, and the routes behind them. A service without a selector gets its endpoints from whoever writes them: one
//! slice each, under the same name, replaced in one write, so that clients change over from one leader to the next at once.

use k8s_openapi::api::core::v1::{ObjectReference, Service, ServicePort, ServiceSpec};
use k8s_openapi::api::discovery::v1::{
    Endpoint as SliceEndpoint, EndpointConditions, EndpointHints, EndpointPort, EndpointSlice, ForZone,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use rdb_protocol::NodeName;

use super::{Owner, PORT, PORT_NAME};
use crate::crd::label;

/// Ties a slice to its service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// Tells Kubernetes' own controller to leave a slice alone.
const SLICE_MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";

/// A node that takes requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    pub name: NodeName,
    pub ip: String,
    /// The Kubernetes node that it runs on.
    pub node: Option<String>,
    pub zone: Option<String>,
    pub pod_uid: Option<String>,
}

/// Where requests go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Routes {
    /// The open leader.
    pub leader: Option<Endpoint>,
    /// Every ready node, the leader included.
    pub all: Vec<Endpoint>,
    /// The cluster's services have IPv6 addresses. It is the same for all of them, for good.
    pub ipv6: bool,
}

/// `-rw`, `-ro`, any and `-nodes`.
pub fn services(owner: &Owner) -> Vec<Service> {
    let routed = |name: String, near: bool| {
        service(
            owner,
            name,
            ServiceSpec {
                type_: Some("ClusterIP".to_owned()),
                // Reads stay in the client's zone where the endpoints' hints say which that is.
                traffic_distribution: near.then(|| "PreferClose".to_owned()),
                ..ServiceSpec::default()
            },
        )
    };
    let nodes = ServiceSpec {
        cluster_ip: Some("None".to_owned()),
        selector: Some(owner.pod_selector()),
        // A name that resolves only when its node is ready would be of no use to whoever wants to see why it is not.
        publish_not_ready_addresses: Some(true),
        ..ServiceSpec::default()
    };
    vec![
        routed(owner.rw_service(), false),
        routed(owner.ro_service(), true),
        routed(owner.any_service(), false),
        service(owner, owner.nodes_service(), nodes),
    ]
}

fn service(owner: &Owner, name: String, spec: ServiceSpec) -> Service {
    let port = ServicePort {
        name: Some(PORT_NAME.to_owned()),
        port: PORT,
        protocol: Some("TCP".to_owned()),
        target_port: Some(IntOrString::Int(PORT)),
        ..ServicePort::default()
    };
    Service {
        metadata: owner.owned(name, owner.labels()),
        spec: Some(ServiceSpec { ports: Some(vec![port]), ..spec }),
        status: None,
    }
}

/// One slice for each routed service; without endpoints where there is nobody to route to.
pub fn endpoint_slices(owner: &Owner, routes: &Routes) -> Vec<EndpointSlice> {
    let leader = routes.leader.as_ref();
    let followers: Vec<&Endpoint> =
        routes.all.iter().filter(|node| leader.is_none_or(|leader| leader.name != node.name)).collect();
    let all: Vec<&Endpoint> = routes.all.iter().collect();
    let readers = if followers.is_empty() { all.clone() } else { followers };
    vec![
        slice(owner, owner.rw_service(), &leader.into_iter().collect::<Vec<_>>(), routes.ipv6, false),
        slice(owner, owner.ro_service(), &readers, routes.ipv6, true),
        slice(owner, owner.any_service(), &all, routes.ipv6, false),
    ]
}

fn slice(owner: &Owner, service: String, nodes: &[&Endpoint], ipv6: bool, near: bool) -> EndpointSlice {
    let mut labels = owner.labels();
    labels.insert(SERVICE_NAME.to_owned(), service.clone());
    labels.insert(SLICE_MANAGED_BY.to_owned(), label::MANAGED_BY_VALUE.to_owned());
    // A zone without an endpoint of its own is served by all the others; with one zone unknown, hints would hide a node.
    let hinted = near && nodes.iter().all(|node| node.zone.is_some());
    let mut nodes: Vec<&Endpoint> = nodes.to_vec();
    nodes.sort_by(|a, b| a.name.cmp(&b.name));
    let port = EndpointPort {
        name: Some(PORT_NAME.to_owned()),
        port: Some(PORT),
        protocol: Some("TCP".to_owned()),
        app_protocol: None,
    };
    EndpointSlice {
        metadata: owner.owned(service, labels),
        address_type: if ipv6 { "IPv6" } else { "IPv4" }.to_owned(),
        endpoints: Some(nodes.into_iter().map(|node| endpoint(owner, node, hinted)).collect()),
        ports: Some(vec![port]),
    }
}

fn endpoint(owner: &Owner, node: &Endpoint, hinted: bool) -> SliceEndpoint {
    let zone = node.zone.clone().filter(|_| hinted);
    SliceEndpoint {
        addresses: vec![node.ip.clone()],
        conditions: Some(EndpointConditions { ready: Some(true), serving: Some(true), terminating: Some(false) }),
        hints: zone.map(|name| EndpointHints { for_zones: Some(vec![ForZone { name }]), for_nodes: None }),
        node_name: node.node.clone(),
        target_ref: Some(ObjectReference {
            kind: Some("Pod".to_owned()),
            name: Some(node.name.to_string()),
            namespace: Some(owner.resource.namespace().to_owned()),
            uid: node.pod_uid.clone(),
            ..ObjectReference::default()
        }),
        zone: node.zone.clone(),
        ..SliceEndpoint::default()
    }
}
