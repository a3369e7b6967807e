//! The command line, and the environment in its place.

use std::net::SocketAddr;

use clap::{Args, Parser, Subcommand};

/// Keeps ReplicatedDB resources as they are asked to be.
#[derive(Debug, Parser)]
#[command(name = "rdb-operator", version)]
pub struct Arguments {
    #[command(subcommand)]
    pub command: Option<Command>,
    #[command(flatten)]
    pub run: RunArguments,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the operator; what is done without a command.
    Run(RunArguments),
    /// Print the CustomResourceDefinition as YAML.
    Crd,
    /// Ask an operator whether it is ready; for `helm test`.
    Check {
        /// Such as http://operator:8080/readyz.
        url: String,
    },
}

/// How the operator runs.
#[derive(Clone, Debug, Args)]
pub struct RunArguments {
    /// Namespaces to look after, separated by commas; empty = all.
    #[arg(long, env = "RDB_WATCH_NAMESPACES", value_delimiter = ',', default_value = "")]
    pub watch_namespaces: Vec<String>,
    /// The image of instances whose resource names none.
    #[arg(long, env = "RDB_NODE_IMAGE", default_value = concat!("ghcr.io/replicateddb/rdb-node:", env!("CARGO_PKG_VERSION")))]
    pub node_image: String,
    /// Where the operator's own Lease is.
    #[arg(long, env = "POD_NAMESPACE", default_value = "replicateddb-system")]
    pub lease_namespace: String,
    #[arg(long, env = "RDB_LEASE_NAME", default_value = "rdb-operator")]
    pub lease_name: String,
    /// Where /livez, /readyz and /metrics are served.
    #[arg(long, env = "RDB_LISTEN", default_value = "0.0.0.0:8080")]
    pub listen: SocketAddr,
    /// Name of this replica; its pod's name.
    #[arg(long, env = "POD_NAME", default_value = "rdb-operator")]
    pub identity: String,
    /// Log lines as JSON.
    #[arg(long, env = "RDB_LOG_JSON", default_value_t = true, action = clap::ArgAction::Set)]
    pub log_json: bool,
}

impl RunArguments {
    /// `None` = all.
    pub fn namespaces(&self) -> Vec<Option<String>> {
        let named: Vec<Option<String>> = self
            .watch_namespaces
            .iter()
            .map(|name| name.trim())
            .filter(|n| !n.is_empty())
            .map(|n| Some(n.to_owned()))
            .collect();
        if named.is_empty() { vec![None] } else { named }
    }
}
