//! `rdb status URL`: asks one node for its status, and then every member that it knows.
//!
//! The lag is counted against the furthest flushed index that any of them reports, so it needs no leader.

use std::collections::BTreeMap;
use std::process::ExitCode;

use rdb_protocol::NodeName;
use rdb_protocol::status::NodeStatus;
use serde::Serialize;

use crate::args::StatusOptions;
use crate::client::{Client, ClientError, base_url};
use crate::{Failure, output};

/// Members asked at once, each by a thread; a cluster has at most 15.
const MAX_NODES: usize = 64;

/// What is printed as JSON and YAML.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterReport {
    pub nodes: Vec<NodeReport>,
}

/// One row.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeReport {
    pub name: NodeName,
    pub url: String,
    /// Records behind the furthest node.
    pub lag_records: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    pub status: Option<NodeStatus>,
}

pub fn run(options: &StatusOptions) -> Result<ExitCode, Failure> {
    let client = Client::new(&options.target.url, options.target.token_file.as_deref())?;
    let report = ClusterReport { nodes: collect(&client, options)? };
    output::report(options.output, &report, || table(&report))?;
    // A member that does not answer is a finding, not a failure of this command.
    Ok(ExitCode::SUCCESS)
}

/// The first endpoint that answers names the others.
fn collect(client: &Client, options: &StatusOptions) -> Result<Vec<NodeReport>, Failure> {
    let mut first = None;
    let mut last_error = None;
    for url in client.endpoints() {
        match client.status_of(url) {
            Ok(status) => {
                first = Some((url.clone(), status));
                break;
            }
            Err(error) => last_error = Some(error),
        }
    }
    let Some((url, status)) = first else {
        return Err(last_error.unwrap_or_else(|| ClientError::Config("no URL given".to_owned())).into());
    };
    let mut others: BTreeMap<NodeName, String> =
        status.peers.iter().map(|peer| (peer.name.clone(), base_url(&peer.address))).take(MAX_NODES).collect();
    others.remove(&status.name);
    let mut nodes =
        vec![NodeReport { name: status.name.clone(), url, lag_records: None, error: None, status: Some(status) }];
    nodes.extend(ask_all(options, others));
    nodes.sort_by(|a, b| a.name.cmp(&b.name));
    let furthest = nodes.iter().filter_map(|node| node.status.as_ref()).map(|status| status.flushed.index.0).max();
    for node in &mut nodes {
        node.lag_records =
            node.status.as_ref().zip(furthest).map(|(status, max)| max.saturating_sub(status.flushed.index.0));
    }
    Ok(nodes)
}

/// All at once: one that does not answer shall not hold up the rest.
fn ask_all(options: &StatusOptions, nodes: BTreeMap<NodeName, String>) -> Vec<NodeReport> {
    let token_file = options.target.token_file.as_deref();
    let ask = |url: &str| -> Result<NodeStatus, ClientError> { Client::new(url, token_file)?.status_of(url) };
    std::thread::scope(|scope| {
        let threads: Vec<_> = nodes
            .into_iter()
            .map(|(name, url)| {
                let answer = {
                    let url = url.clone();
                    scope.spawn(move || ask(&url))
                };
                (name, url, answer)
            })
            .collect();
        let report = |(name, url, thread): (NodeName, String, std::thread::ScopedJoinHandle<'_, _>)| {
            let (status, error) = match thread.join() {
                Ok(Ok(status)) => (Some(status), None),
                Ok(Err(error)) => (None, Some(ClientError::to_string(&error))),
                Err(_) => (None, Some("asking it failed".to_owned())),
            };
            NodeReport { name, url, lag_records: None, error, status }
        };
        threads.into_iter().map(report).collect()
    })
}

fn table(report: &ClusterReport) -> String {
    let rows: Vec<Vec<String>> = report.nodes.iter().map(row).collect();
    let table = output::table(&["NODE", "ROLE", "EPOCH", "POSITION", "LAG", "STATE", "URL"], &rows);
    let problems = report.nodes.iter().flat_map(problems);
    problems.fold(table, |text, problem| format!("{text}\n{}", crate::text::printable(&problem)))
}

fn row(node: &NodeReport) -> Vec<String> {
    let field = |of: &dyn Fn(&NodeStatus) -> String| node.status.as_ref().map_or("-".to_owned(), of);
    vec![
        node.name.to_string(),
        field(&|status| format!("{:?}", status.role)),
        field(&|status| status.promise.epoch.to_string()),
        field(&|status| status.flushed.to_string()),
        node.lag_records.map_or("-".to_owned(), |lag| lag.to_string()),
        node.status.as_ref().map_or("Unreachable".to_owned(), |status| format!("{:?}", status.state)),
        node.url.clone(),
    ]
}

fn problems(node: &NodeReport) -> Vec<String> {
    let known = node.status.iter().flat_map(|status| &status.problems);
    let known = known.map(|problem| format!("{}: {}: {}", node.name, problem.code, problem.message));
    known.chain(node.error.as_ref().map(|error| format!("{}: {error}", node.name))).collect()
}
