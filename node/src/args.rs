//! Command line of `rdb-node`.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Parser;
use rdb_protocol::NodeName;

/// One node of a ReplicatedDB cluster: an embedded SQLite database with a replicated log.
#[derive(Clone, Debug, Parser)]
#[command(name = "rdb-node", version)]
pub struct Args {
    /// Name of this node within its cluster, a DNS label such as `orders-1`.
    #[arg(long, env = "RDB_NAME")]
    pub name: NodeName,
    /// Directory of database and log; created when absent, and locked while the node runs.
    #[arg(long, env = "RDB_DATA")]
    pub data: PathBuf,
    /// Address that clients, peers and the operator connect to.
    #[arg(long, env = "RDB_LISTEN", default_value = "127.0.0.1:7700")]
    pub listen: SocketAddr,
    /// File with the bearer token of clients. Without it only loopback connections are served.
    #[arg(long, env = "RDB_CLIENT_TOKEN_FILE")]
    pub client_token_file: Option<PathBuf>,
    /// File with the bearer token by which the nodes know each other.
    #[arg(long, env = "RDB_PEER_TOKEN_FILE")]
    pub peer_token_file: PathBuf,
    /// File with the bearer token of the operator.
    #[arg(long, env = "RDB_ADMIN_TOKEN_FILE")]
    pub admin_token_file: PathBuf,
    /// Print the log as JSON lines.
    #[arg(long, env = "RDB_LOG_JSON")]
    pub log_json: bool,
}
