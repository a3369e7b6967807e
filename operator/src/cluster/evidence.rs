//! What a Pod tells about the process in it. Pure, and careful: only what proves something is taken as proof.
//!
//! | the kubelet says | we take it as |
//! | --- | --- |
//! | a container state `terminated` whose message is a boot id | proof that this very process ended (rule 16) |
//! | the pod has an address and is not over | where to find the instance |
//! | the pod is being deleted, or its machine cordoned | it will end soon |
//! | the container waits with an error, or the pod can't be scheduled | why no process runs |
//! | the pod is gone, or its machine not ready | nothing: its process may live on |
//!
//! A node writes its boot id to the file that the kubelet copies into `terminated.message`, once, when it starts.

use k8s_openapi::api::core::v1::{ContainerState, ContainerStatus, Node, Pod};
use rdb_protocol::Incarnation;

/// Name of the container that runs the node.
pub const CONTAINER: &str = "node";

/// The node's port.
pub const PORT: u16 = 7700;

/// Label by which machines tell their zone.
const ZONE_LABEL: &str = "topology.kubernetes.io/zone";

/// Reasons of a waiting container that do not pass by themselves; `ContainerCreating` and `PodInitializing` do.
const PASSING: [&str; 2] = ["ContainerCreating", "PodInitializing"];

/// Longest text of somebody else that goes into a status or an event.
const MAX_QUOTE: usize = 300;

/// Processes of this pod that surely ended.
pub fn ended_boots(pod: &Pod) -> Vec<Incarnation> {
    let states = node_containers(pod).flat_map(|status| [&status.state, &status.last_state]);
    states.flatten().filter_map(ended_boot).collect()
}

fn node_containers(pod: &Pod) -> impl Iterator<Item = &ContainerStatus> {
    let statuses = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
    statuses.filter(|status| status.name == CONTAINER)
}

fn ended_boot(state: &ContainerState) -> Option<Incarnation> {
    state.terminated.as_ref()?.message.as_ref()?.trim().parse().ok()
}

/// The pod will never run a process again.
pub fn is_over(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Failed" | "Succeeded"))
}

pub fn is_being_deleted(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

/// `host:port` of the instance's HTTP port.
pub fn address(pod: &Pod) -> Option<String> {
    if is_over(pod) {
        return None;
    }
    let ip = pod.status.as_ref()?.pod_ip.as_deref().filter(|ip| !ip.is_empty())?;
    Some(if ip.contains(':') { format!("[{ip}]:{PORT}") } else { format!("{ip}:{PORT}") })
}

/// The machine that it runs on.
pub fn machine(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref()
}

pub fn zone(node: &Node) -> Option<&str> {
    node.metadata.labels.as_ref()?.get(ZONE_LABEL).map(String::as_str)
}

/// The machine takes no new pods: it is being emptied, or soon will be.
pub fn is_cordoned(node: &Node) -> bool {
    node.spec.as_ref().and_then(|spec| spec.unschedulable).unwrap_or(false)
}

/// Why no process of this pod runs, nor will without a change. `None`: it runs, or it is starting.
pub fn stuck(pod: &Pod) -> Option<String> {
    if is_over(pod) {
        let status = pod.status.as_ref()?;
        let text = status.message.as_deref().or(status.reason.as_deref()).unwrap_or("it ended");
        return Some(format!("the pod is over: {}", quote(text)));
    }
    let waiting = node_containers(pod).find_map(|status| status.state.as_ref()?.waiting.as_ref());
    if let Some(waiting) = waiting {
        let reason = waiting.reason.as_deref().filter(|reason| !PASSING.contains(reason))?;
        let message = waiting.message.as_deref().map(|text| format!(": {}", quote(text))).unwrap_or_default();
        return Some(format!("{reason}{message}{}", last_end(pod).unwrap_or_default()));
    }
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref())?;
    let unscheduled = conditions.iter().find(|c| c.type_ == "PodScheduled" && c.status == "False")?;
    Some(format!("not scheduled: {}", quote(unscheduled.message.as_deref().unwrap_or("no machine fits"))))
}

/// How its last process ended, for a crash loop.
fn last_end(pod: &Pod) -> Option<String> {
    let ended = node_containers(pod).find_map(|status| status.last_state.as_ref()?.terminated.as_ref())?;
    let reason = ended.reason.as_deref().unwrap_or("ended");
    Some(format!("; the last process: {reason}, exit code {}", ended.exit_code))
}

/// One line, not too long.
pub fn quote(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(MAX_QUOTE) {
        Some((end, _)) => format!("{}…", line.get(..end).unwrap_or_default()),
        None => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(status: serde_json::Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "orders-1"}, "status": status})).unwrap()
    }

    fn with_container(name: &str, state: serde_json::Value, last: serde_json::Value) -> Pod {
        pod(json!({"phase": "Running", "podIP": "10.0.0.7", "containerStatuses": [{
            "name": name, "image": "i", "imageID": "", "ready": false, "restartCount": 1, "state": state, "lastState": last,
        }]}))
    }

    #[test]
    fn only_a_boot_id_in_the_nodes_own_termination_message_is_proof() {
        let ended = |message: &str| json!({"terminated": {"exitCode": 137, "message": message}});
        let boot: Incarnation = "00000000000000ab".parse().unwrap();
        assert_eq!(ended_boots(&with_container("node", ended("00000000000000ab\n"), json!({}))), [boot]);
        assert_eq!(ended_boots(&with_container("node", json!({"running": {}}), ended("00000000000000ab\n"))), [boot]);
        assert_eq!(ended_boots(&with_container("sidecar", ended("00000000000000ab\n"), json!({}))), []);
        assert_eq!(ended_boots(&with_container("node", ended("panic at 00000000000000ab"), json!({}))), []);
        assert_eq!(ended_boots(&with_container("node", json!({"terminated": {"exitCode": 1}}), json!({}))), []);
        assert_eq!(ended_boots(&pod(json!({"phase": "Failed", "reason": "NodeLost"}))), []);
    }

    #[test]
    fn addresses_of_pods_that_may_run() {
        assert_eq!(address(&pod(json!({"podIP": "10.0.0.7"}))).as_deref(), Some("10.0.0.7:7700"));
        assert_eq!(address(&pod(json!({"podIP": "fd00::7"}))).as_deref(), Some("[fd00::7]:7700"));
        assert_eq!(address(&pod(json!({}))), None);
        assert_eq!(address(&pod(json!({"phase": "Failed", "podIP": "10.0.0.7"}))), None);
    }

    #[test]
    fn what_keeps_a_process_from_running() {
        let waiting =
            |reason: &str| json!({"waiting": {"reason": reason, "message": "Back-off  pulling\nimage \"x\""}});
        let told = stuck(&with_container("node", waiting("ImagePullBackOff"), json!({}))).unwrap();
        assert_eq!(told, "ImagePullBackOff: Back-off pulling image \"x\"");
        assert_eq!(stuck(&with_container("node", waiting("ContainerCreating"), json!({}))), None);
        let last = json!({"terminated": {"exitCode": 2, "reason": "Error"}});
        let told = stuck(&with_container("node", waiting("CrashLoopBackOff"), last)).unwrap();
        assert!(told.ends_with("; the last process: Error, exit code 2"), "{told}");
        let conditions = json!([{"type": "PodScheduled", "status": "False", "message": "0/2 nodes are available"}]);
        let told = stuck(&pod(json!({"phase": "Pending", "conditions": conditions}))).unwrap();
        assert_eq!(told, "not scheduled: 0/2 nodes are available");
        assert_eq!(stuck(&with_container("node", json!({"running": {}}), json!({}))), None);
    }
}
