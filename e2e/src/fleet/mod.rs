//! Many databases at once, without nodes: what one operator costs, and whether it is as quick with three hundred of them as
//! with one.
//!
//! The API server is real, and so is everything that the operator makes there. Only what a kubelet and a node would do is
//! played: pods are declared running ([`kubelet`]), each with an address of its own on the loopback interface, where a fake
//! node ([`node`], [`server`]) answers the status stream and the admin calls by the rules that `decide` relies on. It has no
//! data: its log is a number.
//!
//! [`measure`] runs it: one database first, and failovers of it; then all of them, memory and processor time of the
//! operator at rest, and failovers among them.

pub mod kubelet;
pub mod measure;
pub mod node;
pub mod server;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, PoisonError};

use node::Database;
use rdb_protocol::NodeName;

/// Addresses of the fake nodes: from a range for benchmarks of network devices (RFC 2544), which nothing else here uses.
/// The API server does not take loopback addresses as endpoints.
pub const NETWORK: &str = "198.18.0.0/16";

/// Where fake node number `n` listens.
pub fn address(n: u32) -> Ipv4Addr {
    let [_, _, high, low] = (n + 256).to_be_bytes();
    Ipv4Addr::new(198, 18, high, low)
}

/// The databases by name, and the numbers that their nodes were given.
#[derive(Default)]
pub struct Fleet {
    databases: Mutex<BTreeMap<String, Arc<Database>>>,
    numbers: Mutex<BTreeMap<NodeName, u32>>,
}

impl Fleet {
    pub fn database(&self, name: &str) -> Arc<Database> {
        let mut databases = self.databases.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(databases.entry(name.to_owned()).or_default())
    }

    /// A node keeps its number, and so its address, for good.
    pub fn number(&self, node: &NodeName) -> u32 {
        let mut numbers = self.numbers.lock().unwrap_or_else(PoisonError::into_inner);
        let next = u32::try_from(numbers.len()).unwrap_or(u32::MAX);
        *numbers.entry(node.clone()).or_insert(next)
    }
}

/// The database that a node's name belongs to: `<database>-<n>`.
pub fn database_of(node: &NodeName) -> Option<&str> {
    node.as_str().rsplit_once('-').map(|(database, _)| database)
}
