//! Command line of `rdb-node`.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Parser;
use rdb_protocol::{Chain, ClusterId, Epoch, Index, NodeName, Position};

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
    /// Milliseconds between two checks of every page of the database.
    #[arg(long, env = "RDB_SCRUB_INTERVAL_MS", default_value_t = 86_400_000)]
    pub scrub_interval_ms: u64,
    /// Print the log as JSON lines.
    #[arg(long, env = "RDB_LOG_JSON")]
    pub log_json: bool,
    /// Id of the volume that the data directory is on. When the directory was used on a volume of another id, it came with a
    /// copy of that volume, and this node goes on with its content as a new member.
    #[arg(long, env = "RDB_VOLUME_ID")]
    pub volume_id: Option<String>,
    /// For a copied volume: the cluster whose data it must hold.
    #[arg(long, env = "RDB_SEED_CLUSTER", requires = "volume_id")]
    pub seed_cluster: Option<ClusterId>,
    /// For a copied volume: the position that its log must contain, as `EPOCH/INDEX/CHAIN`.
    #[arg(long, env = "RDB_SEED_POSITION", requires = "seed_cluster", value_parser = parse_position)]
    pub seed_position: Option<Position>,
    /// File to write this process's id to, as `boot` in the status, before it serves.
    #[arg(long, env = "RDB_BOOT_FILE")]
    pub boot_file: Option<PathBuf>,
}

fn parse_position(text: &str) -> Result<Position, String> {
    let expected = || format!("expected EPOCH/INDEX/CHAIN, such as 3/1207/00c3f2a9b81d4e57, got {text:?}");
    let mut parts = text.split('/');
    let (Some(epoch), Some(index), Some(chain), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
        return Err(expected());
    };
    let number = |part: &str| part.parse().map_err(|_| expected());
    let chain: Chain = chain.parse().map_err(|_| expected())?;
    Ok(Position { epoch: Epoch(number(epoch)?), index: Index(number(index)?), chain })
}

impl Args {
    pub fn scrub_interval(&self) -> std::time::Duration {
        std::time::Duration::from_millis(self.scrub_interval_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_are_read_as_they_are_printed() {
        let position = Position { epoch: Epoch(3), index: Index(1207), chain: Chain(0xc3f2) };
        let text = format!("{}/{}/{}", position.epoch, position.index, position.chain);
        assert_eq!(parse_position(&text), Ok(position));
        for bad in ["", "3/1207", "3/1207/c3f2", "3/1207/000000000000c3f2/1", "x/1207/000000000000c3f2"] {
            assert!(parse_position(bad).is_err(), "{bad}");
        }
    }
}
