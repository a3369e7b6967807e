//! An instance's pod: one container, `node`, on its volume.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Container, ContainerPort, EmptyDirVolumeSource, EnvVar, HTTPGetAction, Lifecycle, LifecycleHandler,
    PersistentVolumeClaimVolumeSource, Pod, PodSpec, Probe, ResourceRequirements, SecretVolumeSource, SleepAction,
    Volume, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use rdb_protocol::NodeName;

use super::support::TokenKind;
use super::volume::VolumeFacts;
use super::{BuildError, Owner, PORT, PORT_NAME, placement, security, template};

/// Name of the container.
pub const CONTAINER: &str = "node";

const VOLUME_PATH: &str = "/var/lib/rdb";
/// Below the mount, where file systems keep things of their own, such as `lost+found`.
const DATA_PATH: &str = "/var/lib/rdb/data";
/// The kubelet reads this file when the process ends; the node writes its boot id there, and so the kubelet's word
/// "terminated" names the process that it is about.
const BOOT_FILE: &str = "/dev/termination-log";

/// A node ends within its longest transaction, five seconds by default, and answers its clients; twice that, and what comes
/// before.
const GRACE_SECONDS: i64 = 15;

/// A pod that is to go (drained, deleted, updated) serves on for a while before it is told to end: a switchover takes half a
/// second, and kube-proxy another second until it has the new route. So its clients notice nothing.
const FAREWELL_SECONDS: i64 = 3;

/// Readable by owner and group only. Kubernetes takes the number as it is, in decimal: 0440.
const SECRET_MODE: i32 = 0o440;

/// SQLite's sorter spills beside the data; what libraries put into /tmp is small.
const TMP_LIMIT: &str = "64Mi";

/// Where the spec asks for nothing: enough for a few hundred writes a second and a page cache of some ten MiB, so that a
/// cluster finds room on a laptop. Requests only, since a node that is throttled or killed for memory costs a failover.
const DEFAULT_REQUESTS: [(&str, &str); 2] = [("cpu", "100m"), ("memory", "256Mi")];

/// The pod of an instance on its volume.
pub fn pod(owner: &Owner, instance: &NodeName, volume: &VolumeFacts) -> Result<Pod, BuildError> {
    let metadata = &owner.spec().pod_metadata;
    let mut labels = metadata.labels.clone();
    labels.extend(owner.instance_labels(instance));
    let mut annotations = metadata.annotations.clone();
    annotations.extend(template::annotations(owner));
    let mut meta = owner.owned(instance.as_str(), labels);
    meta.annotations = Some(annotations);
    Ok(Pod { metadata: meta, spec: Some(spec(owner, instance, volume)?), status: None })
}

fn spec(owner: &Owner, instance: &NodeName, volume: &VolumeFacts) -> Result<PodSpec, BuildError> {
    let placement = &owner.spec().placement;
    let node_selector = placement.node_selector.clone();
    let priority = placement.priority_class_name.clone();
    Ok(PodSpec {
        affinity: placement::affinity(owner),
        automount_service_account_token: Some(false),
        containers: vec![container(owner, instance, volume)?],
        enable_service_links: Some(false),
        hostname: Some(instance.to_string()),
        node_selector: (!node_selector.is_empty()).then_some(node_selector),
        priority_class_name: (!priority.is_empty()).then_some(priority),
        restart_policy: Some("Always".to_owned()),
        security_context: Some(security::pod()),
        subdomain: Some(owner.nodes_service()),
        termination_grace_period_seconds: Some(GRACE_SECONDS),
        tolerations: placement::tolerations(owner)?,
        topology_spread_constraints: placement::zones(owner),
        volumes: Some(volumes(owner, instance)),
        ..PodSpec::default()
    })
}

fn container(owner: &Owner, instance: &NodeName, volume: &VolumeFacts) -> Result<Container, BuildError> {
    let port = ContainerPort {
        container_port: PORT,
        name: Some(PORT_NAME.to_owned()),
        protocol: Some("TCP".to_owned()),
        ..ContainerPort::default()
    };
    Ok(Container {
        name: CONTAINER.to_owned(),
        image: Some(owner.image().to_owned()),
        env: Some(environment(instance, volume)),
        ports: Some(vec![port]),
        resources: Some(resources(owner)?),
        security_context: Some(security::container()),
        startup_probe: Some(startup_probe()),
        liveness_probe: Some(liveness_probe()),
        readiness_probe: Some(readiness_probe()),
        lifecycle: Some(farewell()),
        termination_message_path: Some(BOOT_FILE.to_owned()),
        termination_message_policy: Some("File".to_owned()),
        volume_mounts: Some(mounts()),
        ..Container::default()
    })
}

fn farewell() -> Lifecycle {
    let sleep =
        LifecycleHandler { sleep: Some(SleepAction { seconds: FAREWELL_SECONDS }), ..LifecycleHandler::default() };
    Lifecycle { pre_stop: Some(sleep), ..Lifecycle::default() }
}

fn environment(instance: &NodeName, volume: &VolumeFacts) -> Vec<EnvVar> {
    let mut pairs = vec![
        ("RDB_NAME", instance.to_string()),
        ("RDB_DATA", DATA_PATH.to_owned()),
        ("RDB_LISTEN", format!("0.0.0.0:{PORT}")),
    ];
    pairs.extend(TokenKind::ALL.map(|kind| (kind.variable(), format!("{}/{}", kind.path(), super::TOKEN_KEY))));
    pairs.push(("RDB_LOG_JSON", "true".to_owned()));
    pairs.push(("RDB_VOLUME_ID", volume.claim_uid.clone()));
    pairs.push(("RDB_BOOT_FILE", BOOT_FILE.to_owned()));
    if let Some(seed) = &volume.seed {
        let at = &seed.position;
        pairs.push(("RDB_SEED_CLUSTER", seed.cluster.to_string()));
        pairs.push(("RDB_SEED_POSITION", format!("{}/{}/{}", at.epoch, at.index, at.chain)));
    }
    pairs.into_iter().map(|(name, value)| env(name, value)).collect()
}

fn env(name: &str, value: String) -> EnvVar {
    EnvVar { name: name.to_owned(), value: Some(value), value_from: None }
}

fn resources(owner: &Owner) -> Result<ResourceRequirements, BuildError> {
    let asked = &owner.spec().resources;
    if asked.is_empty() {
        let requests = DEFAULT_REQUESTS.map(|(name, amount)| (name.to_owned(), Quantity(amount.to_owned())));
        return Ok(ResourceRequirements {
            requests: Some(BTreeMap::from(requests)),
            ..ResourceRequirements::default()
        });
    }
    serde_json::from_value(serde_json::Value::Object(asked.clone()))
        .map_err(|error| BuildError { field: "resources", problem: format!("no requests and limits: {error}") })
}

fn probe(path: &str, period: i32, timeout: i32, failures: i32) -> Probe {
    let get = HTTPGetAction {
        path: Some(path.to_owned()),
        port: IntOrString::String(PORT_NAME.to_owned()),
        ..HTTPGetAction::default()
    };
    Probe {
        http_get: Some(get),
        period_seconds: Some(period),
        timeout_seconds: Some(timeout),
        failure_threshold: Some(failures),
        ..Probe::default()
    }
}

/// Rolling forward through a full log and checking a large database may take long; half an hour.
fn startup_probe() -> Probe {
    probe("/livez", 1, 5, 1800)
}

/// Two minutes without an answer: a frozen or slow node is the operator's business, which fails over in seconds. The
/// kubelet only ends what nobody will ever hear of again.
fn liveness_probe() -> Probe {
    probe("/livez", 10, 5, 12)
}

/// Read by people, by the disruption budget and by `-nodes`; the routes do not wait for it.
fn readiness_probe() -> Probe {
    probe("/readyz", 1, 2, 3)
}

fn mounts() -> Vec<VolumeMount> {
    let mount = |name: &str, path: &str, read_only: bool| VolumeMount {
        name: name.to_owned(),
        mount_path: path.to_owned(),
        read_only: read_only.then_some(true),
        ..VolumeMount::default()
    };
    let mut mounts = vec![mount("data", VOLUME_PATH, false), mount("tmp", "/tmp", false)];
    mounts.extend(TokenKind::ALL.map(|kind| mount(kind.volume(), kind.path(), true)));
    mounts
}

fn volumes(owner: &Owner, instance: &NodeName) -> Vec<Volume> {
    let claim = PersistentVolumeClaimVolumeSource { claim_name: instance.to_string(), read_only: None };
    let tmp = EmptyDirVolumeSource { medium: None, size_limit: Some(Quantity(TMP_LIMIT.to_owned())) };
    let secret = |kind: TokenKind| Volume {
        name: kind.volume().to_owned(),
        secret: Some(SecretVolumeSource {
            secret_name: Some(kind.secret_name(owner)),
            default_mode: Some(SECRET_MODE),
            ..SecretVolumeSource::default()
        }),
        ..Volume::default()
    };
    let mut volumes = vec![
        Volume { name: "data".to_owned(), persistent_volume_claim: Some(claim), ..Volume::default() },
        Volume { name: "tmp".to_owned(), empty_dir: Some(tmp), ..Volume::default() },
    ];
    volumes.extend(TokenKind::ALL.map(secret));
    volumes
}
