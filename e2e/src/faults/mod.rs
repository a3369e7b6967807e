//! What can be done to a cluster. Each fault is begun by a function that gives a [`Guard`]; the guard undoes it, at the
//! latest when it is dropped. [`heal_all`] undoes whatever an interrupted run left behind; it runs before every test.
//!
//! | fault | is like |
//! | --- | --- |
//! | [`kill_process`] | a crash: connections end at once, the kubelet starts the container again |
//! | [`freeze_process`] | a process that hangs: connections stay open and nobody answers |
//! | [`isolate_pod`] | a pod cut off from the network, while the kubelet's probes still pass |
//! | [`cut_pods`] | two pods that do not reach each other |
//! | [`freeze_node`] | a virtual machine that is paused, and comes back believing that no time has passed |
//! | [`kill_node`] | a machine that crashes |
//! | [`unplug_node`] | a machine without network |
//! | [`fill_disk`] | a volume without free space |
//! | [`stop_api_server`] | an API server that refuses connections |
//! | [`hang_api_server`] | an API server that accepts connections and never answers |
//!
//! All of it works on kind's containers, so it needs docker on this machine.

mod disk;
mod heal;
mod network;
mod node;
mod process;

pub use disk::fill_disk;
pub use heal::{heal_all, nodes, workers};
pub use network::{cut_pods, isolate_pod, unplug_node};
pub use node::{freeze_node, hang_api_server, kill_node, stop_api_server};
pub use process::{container_of, freeze_process, kill_process};

use crate::harness::shell::run_now;

/// A fault that lasts until it is healed.
#[must_use = "the fault ends when its guard is dropped"]
#[derive(Debug)]
pub struct Guard {
    what: String,
    /// Arguments of `docker`, in this order.
    undo: Vec<Vec<String>>,
}

impl Guard {
    fn new(what: String, undo: &[&[&str]]) -> Guard {
        let undo = undo.iter().map(|command| command.iter().map(|&word| word.to_owned()).collect()).collect();
        Guard { what, undo }
    }

    /// Ends the fault now.
    pub fn heal(self) {}
}

impl Drop for Guard {
    fn drop(&mut self) {
        for command in std::mem::take(&mut self.undo) {
            if !run_now("docker", &command) {
                tracing::warn!("undoing {}: docker {} failed; heal_all tries again", self.what, command.join(" "));
            }
        }
    }
}
