//! The simulated API server: one resource with its status, and the pods and claims of its instances. Every write gets a new
//! version; whoever watches gets copies later.

use std::collections::{BTreeMap, BTreeSet};

use rdb_control::observed::Requests;
use rdb_control::{ClusterSpec, ClusterStatus};
use rdb_protocol::Epoch;

use crate::disk::SeedFrom;
use crate::event::{At, NodeId};

/// What an operator may read. Cloned for every reader, as over a network.
#[derive(Clone, Debug, Default)]
pub struct Objects {
    /// Grows with every write of anything.
    pub revision: u64,
    pub resource: Resource,
    pub pods: BTreeMap<NodeId, Pod>,
    pub claims: BTreeMap<NodeId, Claim>,
    /// Instances on machines that are being emptied.
    pub draining: BTreeSet<NodeId>,
}

#[derive(Clone, Debug, Default)]
pub struct Resource {
    /// Revision of its last write: what a compare-and-swap carries.
    pub version: u64,
    pub generation: u64,
    pub spec: ClusterSpec,
    pub requests: Requests,
    pub status: ClusterStatus,
    /// What pods are made from now: grows with every upgrade.
    pub image: u64,
}

#[derive(Clone, Debug)]
pub struct Pod {
    pub uid: u64,
    /// Being deleted, gracefully.
    pub deleting: bool,
    /// Boot ids of containers that the kubelet saw ending.
    pub terminated: Vec<u64>,
    /// Generation of the template that it was made from.
    pub image: u64,
}

#[derive(Clone, Debug)]
pub struct Claim {
    pub uid: u64,
    pub deleting: bool,
}

/// A volume snapshot as its labels describe it.
#[derive(Clone, Debug)]
pub struct Snapshot {
    pub labels: SeedFrom,
    pub volume: crate::disk::Volume,
}

#[derive(Debug, Default)]
pub struct Api {
    pub objects: Objects,
    /// Nobody gets an answer.
    pub down: bool,
    /// Kept for a restore: the resource as it was.
    pub backups: Vec<Resource>,
    /// Highest epoch that ever had a leader in the status, whatever was restored since.
    pub highest_leader_epoch: Epoch,
    pub snapshots: Vec<Snapshot>,
    /// Who holds the operators' Lease, and when it was renewed last.
    pub lease: Option<(usize, u64, At)>,
    next_uid: u64,
}

impl Api {
    pub fn uid(&mut self) -> u64 {
        self.next_uid += 1;
        self.next_uid
    }

    /// Notes that something was written.
    pub fn wrote(&mut self) {
        self.objects.revision += 1;
    }

    pub fn wrote_resource(&mut self) {
        self.wrote();
        self.objects.resource.version = self.objects.revision;
        self.highest_leader_epoch = self.highest_leader_epoch.max(self.objects.resource.status.leader_epoch);
    }
}
