//! The commands and their options.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use rdb_protocol::NodeName;

/// Replicated SQLite: status, SQL, loading data, and a cluster on this machine.
///
/// Exit codes: 0 done; 1 refused or failed, nothing happened; 2 wrong use; 3 no node could be reached; 4 it is not known
/// whether the request took effect.
#[derive(Debug, Parser)]
#[command(name = "rdb", version, max_term_width = 110)]
pub struct Arguments {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a cluster of processes on this machine.
    #[command(subcommand)]
    Local(LocalCommand),
    /// Show every node of a cluster: role, epoch, position, lag, state.
    Status(StatusOptions),
    /// Run SQL: one statement or script, or an interactive session.
    Sql(SqlOptions),
    /// Load a SQL dump or a SQLite file.
    Load(LoadOptions),
    /// Print the records of a node's log, a line of JSON each.
    Log(LogOptions),
    /// Look at records that a failover took back, as a node's archive keeps them.
    #[command(subcommand)]
    Divergence(DivergenceCommand),
}

#[derive(Debug, Args)]
pub struct LogOptions {
    /// A node's URL, or the data directory of a node.
    #[command(flatten)]
    pub target: Target,
    /// Begin behind this position, such as 1/42; the default is the first record that is kept.
    #[arg(long, value_name = "EPOCH/INDEX")]
    pub from: Option<String>,
    /// Go on with new records as they come (from a URL).
    #[arg(long)]
    pub follow: bool,
}

#[derive(Debug, Subcommand)]
pub enum DivergenceCommand {
    /// The archives of a node.
    List {
        #[command(flatten)]
        target: DivergenceTarget,
    },
    /// An archive's row changes, a line of JSON each.
    Show {
        #[command(flatten)]
        target: DivergenceTarget,
        /// As `list` names it.
        archive: String,
    },
    /// An archive's row changes as SQL or JSON.
    Export {
        #[command(flatten)]
        target: DivergenceTarget,
        /// As `list` names it.
        archive: String,
        #[arg(long, value_enum, default_value_t)]
        format: ExportFormat,
    },
}

/// A node's URL, or its data directory.
#[derive(Debug, Args)]
pub struct DivergenceTarget {
    #[command(flatten)]
    pub target: Target,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum ExportFormat {
    #[default]
    Sql,
    Jsonl,
}

/// How to reach a cluster.
#[derive(Clone, Debug, Args)]
pub struct Target {
    /// A node's URL, such as http://127.0.0.1:7401; more than one, separated by commas, to survive the loss of one.
    pub url: String,
    /// File with the client token.
    #[arg(long, env = "RDB_TOKEN_FILE", value_name = "FILE")]
    pub token_file: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct StatusOptions {
    #[command(flatten)]
    pub target: Target,
    /// How to print it.
    #[arg(short, long, value_enum, default_value_t)]
    pub output: ReportFormat,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum ReportFormat {
    #[default]
    Table,
    Json,
    Yaml,
}

#[derive(Debug, Args)]
pub struct SqlOptions {
    #[command(flatten)]
    pub target: Target,
    /// One or more statements; without them a session starts, or a script is read from standard input.
    pub sql: Option<String>,
    /// How to print rows.
    #[arg(short, long, value_enum, default_value_t)]
    pub mode: RowFormat,
    /// What reads may see.
    #[arg(long, value_enum, default_value_t)]
    pub consistency: ReadLevel,
    /// With `--consistency bounded`.
    #[arg(long, value_name = "MS", default_value_t = 1000)]
    pub max_staleness_ms: u64,
    /// Give up after this time; the default is the cluster's transactionTimeout.
    #[arg(long, value_name = "MS")]
    pub deadline_ms: Option<u64>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum RowFormat {
    #[default]
    Table,
    Json,
    Csv,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum ReadLevel {
    /// The leader's, within its lease.
    #[default]
    Linearizable,
    /// Any node that has what this session has seen.
    Session,
    /// Any node that is not more than --max-staleness-ms behind.
    Bounded,
    /// Any node.
    Any,
}

#[derive(Debug, Args)]
pub struct LoadOptions {
    #[command(flatten)]
    pub target: Target,
    /// SQL text or a SQLite database.
    pub file: PathBuf,
    /// Go on where an earlier load stopped, as its message says.
    #[arg(long, value_name = "WHERE")]
    pub resume: Option<String>,
    /// Leave out everything before this line (SQL text) or statement (SQLite file).
    #[arg(long, value_name = "N", conflicts_with = "resume")]
    pub start_at: Option<u64>,
    /// How long to try again, in seconds, when no node serves writes.
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    pub patience: u64,
    /// No progress bar.
    #[arg(long)]
    pub quiet: bool,
}

#[derive(Debug, Subcommand)]
pub enum LocalCommand {
    /// Start a cluster and supervise it in the foreground; Ctrl-C ends it.
    Up(Box<UpOptions>),
    /// Show the cluster.
    Status {
        #[command(flatten)]
        data: DataOption,
        #[arg(short, long, value_enum, default_value_t)]
        output: ReportFormat,
    },
    /// Wait until the cluster serves and holds its durability rule, as last set.
    Wait {
        #[command(flatten)]
        data: DataOption,
        /// Wait longer: until every node is caught up and counts.
        #[arg(long)]
        healthy: bool,
        /// Give up after this many seconds.
        #[arg(long, default_value_t = 60)]
        timeout: u64,
    },
    /// Kill a node's process (SIGKILL). It is restarted after a second unless the supervisor runs with --no-restart.
    Kill(NodeOption),
    /// Stop a node's process in its tracks (SIGSTOP): its port still accepts connections, but nothing answers.
    Freeze(NodeOption),
    /// Let a frozen node go on (SIGCONT).
    Thaw(NodeOption),
    /// Start a dead node again.
    Start(NodeOption),
    /// Make another node the leader, losing nothing.
    Switchover {
        #[command(flatten)]
        data: DataOption,
        /// The new leader, a caught-up follower.
        target: NodeName,
        /// Do not wait for the outcome.
        #[arg(long)]
        no_wait: bool,
    },
    /// While it is on, no failover is started.
    Maintenance {
        #[command(flatten)]
        data: DataOption,
        #[arg(value_enum)]
        switch: Switch,
    },
    /// Change a field of the spec while the cluster runs, such as `replication.mode sync`.
    Set {
        #[command(flatten)]
        data: DataOption,
        /// Path below `spec`; the last part is enough where it is unique.
        path: String,
        value: String,
    },
    /// Throw a node's data away and seed it again from the leader.
    Reseed(NodeOption),
    /// Elect a leader in this epoch although acknowledged writes may be lost.
    AcceptDataLoss {
        #[command(flatten)]
        data: DataOption,
        epoch: u64,
    },
    /// End the nodes and the supervisor; the data is kept.
    Down(DataOption),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Switch {
    On,
    Off,
}

#[derive(Clone, Debug, Args)]
pub struct DataOption {
    /// Directory of the cluster.
    #[arg(long, env = "RDB_LOCAL_DATA", default_value = "rdb-data", value_name = "DIR")]
    pub data: PathBuf,
}

#[derive(Clone, Debug, Args)]
pub struct NodeOption {
    #[command(flatten)]
    pub data: DataOption,
    /// A node's name, or `leader`.
    pub node: String,
}

/// Fields of the spec that are not given keep their stored value, or the default in a new cluster.
#[derive(Debug, Args)]
pub struct UpOptions {
    #[command(flatten)]
    pub data: DataOption,
    /// Name of the cluster, the prefix of its nodes' names.
    #[arg(long, default_value = "local")]
    pub name: String,
    /// Node i listens on 127.0.0.1, on this port + i [default: 7400].
    #[arg(long, env = "RDB_LOCAL_PORT")]
    pub port: Option<u16>,
    /// How many nodes.
    #[arg(long, visible_alias = "instances")]
    pub replicas: Option<u32>,
    /// async, semiSync or sync.
    #[arg(long)]
    pub mode: Option<String>,
    /// How many followers must have flushed a write before it is acknowledged (semiSync).
    #[arg(long, value_name = "W")]
    pub sync_followers: Option<u32>,
    /// all or one.
    #[arg(long)]
    pub sync_set: Option<String>,
    /// block or degrade.
    #[arg(long)]
    pub when_unavailable: Option<String>,
    /// What the leader logs: page, statement, logical or mixed.
    #[arg(long)]
    pub log_format: Option<String>,
    /// Silence after which a leader counts as failed, such as 3s.
    #[arg(long)]
    pub detection_timeout: Option<String>,
    /// Such as 1s; less than the detection timeout.
    #[arg(long)]
    pub lease_duration: Option<String>,
    /// Such as 250ms; at most a quarter of the lease.
    #[arg(long)]
    pub heartbeat_interval: Option<String>,
    /// Least time between two failovers, such as 10s.
    #[arg(long)]
    pub cooldown: Option<String>,
    /// refuse or allow.
    #[arg(long)]
    pub data_loss: Option<String>,
    /// Any other field, as PATH=VALUE; may be repeated.
    #[arg(long, value_name = "PATH=VALUE")]
    pub set: Vec<String>,
    /// YAML file with a ReplicatedDB or only its spec; the other options override it.
    #[arg(long, value_name = "FILE")]
    pub spec: Option<PathBuf>,
    /// Leave a dead node dead.
    #[arg(long)]
    pub no_restart: bool,
    /// The node's program; by default `rdb-node` beside this one.
    #[arg(long, value_name = "FILE")]
    pub node_binary: Option<PathBuf>,
}

impl UpOptions {
    /// What to change in the spec, in the order of application.
    pub fn changes(&self) -> Result<Vec<(String, String)>, String> {
        let number = |value: Option<u32>| value.map(|n| n.to_string());
        let named = [
            ("instances", number(self.replicas)),
            ("replication.mode", self.mode.clone()),
            ("replication.syncFollowers", number(self.sync_followers)),
            ("replication.syncSet", self.sync_set.clone()),
            ("replication.whenUnavailable", self.when_unavailable.clone()),
            ("replication.logFormat", self.log_format.clone()),
            ("failover.detectionTimeout", self.detection_timeout.clone()),
            ("failover.leaseDuration", self.lease_duration.clone()),
            ("failover.heartbeatInterval", self.heartbeat_interval.clone()),
            ("failover.cooldown", self.cooldown.clone()),
            ("failover.dataLoss", self.data_loss.clone()),
        ];
        let mut changes: Vec<(String, String)> =
            named.into_iter().filter_map(|(path, value)| Some((path.to_owned(), value?))).collect();
        for text in &self.set {
            let (path, value) = text.split_once('=').ok_or_else(|| format!("--set {text:?}: expected PATH=VALUE"))?;
            changes.push((path.to_owned(), value.to_owned()));
        }
        Ok(changes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_arguments_are_consistent() {
        Arguments::command().debug_assert();
    }
}
