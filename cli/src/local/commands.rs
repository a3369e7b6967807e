//! The `rdb local` commands: starting the supervisor, and asking a running one.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use rdb_control::Phase;
use rdb_protocol::NodeName;
use rdb_protocol::settings::Mode;
use rdb_protocol::status::{NodeState, NodeStatus};

use super::LocalError;
use super::control_socket::{InstanceReport, Reply, Report, Request, ask};
use super::layout::Layout;
use super::process::Launcher;
use super::spec::StoredSpec;
use super::supervisor::{Options, Supervisor};
use crate::args::{DataOption, LocalCommand, ReportFormat, Switch, UpOptions};
use crate::{Failure, clock, output};

/// Pause between two looks at a cluster that something is waited for.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// A switchover stops writes for a second or two at most and is refused or given up by then.
const SWITCHOVER_PATIENCE: Duration = Duration::from_secs(60);

/// A node ends its incarnation as soon as it is told to.
const RESEED_PATIENCE: Duration = Duration::from_secs(20);

/// `rdb local up`: runs until the cluster has ended.
pub fn up(options: &UpOptions) -> Result<ExitCode, Failure> {
    log_to_stderr();
    let layout = Layout::create(&options.data.data)?;
    let stored = wanted_spec(&layout, options)?;
    let binary = match &options.node_binary {
        Some(binary) => binary.clone(),
        None => Launcher::default_binary()?,
    };
    let binary = binary.canonicalize().map_err(LocalError::io(&binary))?;
    let launcher = Launcher { binary, layout: layout.clone() };
    let supervisor = Supervisor::new(Options { layout, launcher, stored, restart: !options.no_restart, print: true })?;
    supervisor.run()?;
    Ok(ExitCode::SUCCESS)
}

/// What is stored, changed by the file and the options.
fn wanted_spec(layout: &Layout, options: &UpOptions) -> Result<StoredSpec, Failure> {
    let mut stored = StoredSpec::read(layout, &options.name)?;
    if let Some(path) = &options.spec {
        let text = std::fs::read_to_string(path).map_err(LocalError::io(path))?;
        stored.replace_from_yaml(&text)?;
    }
    for (path, value) in options.changes().map_err(LocalError::Spec)? {
        stored.set(&path, &value)?;
    }
    stored.port = options.port.unwrap_or(stored.port);
    stored.cluster()?;
    Ok(stored)
}

fn log_to_stderr() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("RDB_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn"));
    // Fails only if somebody installed a logger before, as a test may have.
    let _ = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).try_init();
}

/// All commands that ask a running supervisor.
pub fn other(command: LocalCommand) -> Result<ExitCode, Failure> {
    match command {
        // Handled by `up`, which does not come here.
        LocalCommand::Up(options) => up(&options),
        LocalCommand::Status { data, output } => status(&data, output),
        LocalCommand::Wait { data, healthy, timeout } => wait(&data, healthy, Duration::from_secs(timeout)),
        LocalCommand::Kill(on) => request(&on.data, &Request::Kill { node: on.node }),
        LocalCommand::Freeze(on) => request(&on.data, &Request::Freeze { node: on.node }),
        LocalCommand::Thaw(on) => request(&on.data, &Request::Thaw { node: on.node }),
        LocalCommand::Start(on) => request(&on.data, &Request::Start { node: on.node }),
        LocalCommand::Reseed(on) => reseed(&on.data, on.node),
        LocalCommand::AcceptDataLoss { data, epoch } => request(&data, &Request::AcceptDataLoss { epoch }),
        LocalCommand::Set { data, path, value } => request(&data, &Request::Set { path, value }),
        LocalCommand::Maintenance { data, switch } => {
            let value = (switch == Switch::On).to_string();
            request(&data, &Request::Set { path: "maintenance.active".to_owned(), value })
        }
        LocalCommand::Switchover { data, target, no_wait } => switchover(&data, target, no_wait),
        LocalCommand::Down(data) => request(&data, &Request::Down),
    }
}

fn socket(data: &DataOption) -> Result<std::path::PathBuf, LocalError> {
    let missing = |_| LocalError::NotRunning(data.data.clone());
    Layout::existing(&data.data).map(|layout| layout.socket()).map_err(missing)
}

fn send(data: &DataOption, request: &Request) -> Result<String, Failure> {
    match ask(&socket(data)?, request)? {
        Reply::Done(message) => Ok(message),
        Reply::Refused(reason) => Err(LocalError::Supervisor(reason).into()),
        Reply::Status(_) => Err(LocalError::Supervisor("an answer to another question".to_owned()).into()),
    }
}

fn request(data: &DataOption, request: &Request) -> Result<ExitCode, Failure> {
    output::line(&send(data, request)?)?;
    Ok(ExitCode::SUCCESS)
}

fn look(socket: &Path) -> Result<Report, Failure> {
    match ask(socket, &Request::Status)? {
        Reply::Status(report) => Ok(*report),
        Reply::Refused(reason) => Err(LocalError::Supervisor(reason).into()),
        Reply::Done(_) => Err(LocalError::Supervisor("an answer to another question".to_owned()).into()),
    }
}

fn status(data: &DataOption, format: ReportFormat) -> Result<ExitCode, Failure> {
    let report = look(&socket(data)?)?;
    output::report(format, &report, || table(&report))?;
    Ok(ExitCode::SUCCESS)
}

/// The cluster in one line.
fn headline(report: &Report) -> String {
    let status = &report.status;
    let leader = status.leader.as_ref().map_or("none", |leader| leader.name.as_str());
    let mode = match report.spec.replication.mode {
        Mode::Async => "async",
        Mode::SemiSync => "semiSync",
        Mode::Sync => "sync",
    };
    let maintenance = if report.spec.maintenance.active { ", maintenance" } else { "" };
    format!("{}: {:?}, epoch {}, leader {leader}, {mode}{maintenance}", report.name, status.phase, status.epoch)
}

fn table(report: &Report) -> String {
    let head = format!("{}\n{}\n", headline(report), report.status.message);
    let rows: Vec<Vec<String>> = report.instances.iter().map(|instance| row(report, instance)).collect();
    head + &output::table(&["NODE", "ROLE", "EPOCH", "POSITION", "LAG", "SYNC", "STATE", "PID", "URL"], &rows)
}

fn row(report: &Report, instance: &InstanceReport) -> Vec<String> {
    let told = report.status.instances.iter().find(|told| told.name == instance.name);
    let node = instance.report.as_ref();
    let last = report.instances.iter().filter_map(|other| other.report.as_ref()).map(|r| r.flushed.index.0).max();
    let state = match (instance.pid, instance.frozen, node) {
        (None, _, _) => "Dead".to_owned(),
        (Some(_), true, _) => "Frozen".to_owned(),
        (Some(_), false, Some(node)) if instance.connected => format!("{:?}", node.state),
        (Some(_), false, _) => "Starting".to_owned(),
    };
    vec![
        instance.name.to_string(),
        node.map_or("-".to_owned(), |node| format!("{:?}", node.role)),
        node.map_or("-".to_owned(), |node| node.promise.epoch.to_string()),
        node.map_or("-".to_owned(), |node| node.flushed.to_string()),
        node.zip(last).map_or("-".to_owned(), |(node, last)| last.saturating_sub(node.flushed.index.0).to_string()),
        told.map_or("-", |told| if told.sync { "yes" } else { "no" }).to_owned(),
        state,
        instance.pid.map_or("-".to_owned(), |pid| pid.to_string()),
        instance.url.clone(),
    ]
}

/// Does the cluster serve by the spec as it stands, with all requests carried out?
fn is_ready(report: &Report) -> bool {
    let status = &report.status;
    let current = status.observed_generation == report.generation && status.phase == Phase::Steady;
    let asked = report.switchover.is_some() || report.reseed.is_some();
    current && !asked && status.condition("Ready").is_some_and(|ready| ready.status)
}

/// Is there nothing less than asked for? The nodes' own words count beside the status, which may be a moment older.
fn is_healthy(report: &Report) -> bool {
    let live = |node: &NodeStatus| matches!(node.state, NodeState::Leading | NodeState::Streaming);
    let all_live = report.instances.iter().all(|told| told.connected && told.report.as_ref().is_some_and(live));
    all_live && report.status.condition("Degraded").is_some_and(|degraded| !degraded.status)
}

fn wait(data: &DataOption, healthy: bool, timeout: Duration) -> Result<ExitCode, Failure> {
    let deadline = clock::now() + timeout;
    let mut last = String::new();
    while clock::now() < deadline {
        // A supervisor that was just started may not listen yet.
        match socket(data).map_err(Failure::from).and_then(|socket| look(&socket)) {
            Ok(report) => {
                if is_ready(&report) && (!healthy || is_healthy(&report)) {
                    output::line(&headline(&report))?;
                    return Ok(ExitCode::SUCCESS);
                }
                last = report.status.message;
            }
            Err(error @ Failure::Local(LocalError::NotRunning(_))) => last = error.to_string(),
            Err(error) => return Err(error),
        }
        clock::pause(LOOK_AGAIN);
    }
    Err(Failure::Other(format!("not ready after {} s: {last}", timeout.as_secs())))
}

fn switchover(data: &DataOption, target: NodeName, no_wait: bool) -> Result<ExitCode, Failure> {
    let socket = socket(data)?;
    let before = look(&socket)?;
    let message = send(data, &Request::Switchover { target: target.clone() })?;
    if no_wait {
        output::line(&message)?;
        return Ok(ExitCode::SUCCESS);
    }
    let deadline = clock::now() + SWITCHOVER_PATIENCE;
    while clock::now() < deadline {
        let report = look(&socket)?;
        let leads = report.status.leader.as_ref().is_some_and(|leader| leader.name == target);
        let settled = matches!(report.status.phase, Phase::Steady | Phase::Stalled | Phase::Bootstrapping);
        if settled && leads && report.switchover.is_none() {
            output::line(&format!("{target} leads epoch {}", report.status.epoch))?;
            return Ok(ExitCode::SUCCESS);
        }
        if settled && report.switchover.is_none() && report.status.switchover.is_none() {
            let why = warning_since(&before, &report).unwrap_or(report.status.message);
            return Err(Failure::Other(format!("{target} does not lead: {why}")));
        }
        clock::pause(LOOK_AGAIN);
    }
    Err(Failure::Other(format!("the switchover to {target} is not done after {} s", SWITCHOVER_PATIENCE.as_secs())))
}

/// The latest warning that `before` did not have yet: why something that was asked for is not done.
fn warning_since(before: &Report, report: &Report) -> Option<String> {
    let since = before.events.last().map_or(0, |event| event.boottime_us);
    let warning = report.events.iter().rev().find(|event| event.warning && event.boottime_us > since);
    warning.map(|event| event.message.clone())
}

/// Asks for it and waits until the node has begun anew: from then on `rdb local wait` knows what to wait for.
fn reseed(data: &DataOption, node: String) -> Result<ExitCode, Failure> {
    let socket = socket(data)?;
    let before = look(&socket)?;
    send(data, &Request::Reseed { node })?;
    let deadline = clock::now() + RESEED_PATIENCE;
    while clock::now() < deadline {
        let report = look(&socket)?;
        if let Some(name) = begun_anew(&before, &report) {
            output::line(&format!("{name} begins anew, with a copy from the leader"))?;
            return Ok(ExitCode::SUCCESS);
        }
        if let (None, Some(why)) = (&report.reseed, warning_since(&before, &report)) {
            return Err(Failure::Other(why));
        }
        clock::pause(LOOK_AGAIN);
    }
    Err(Failure::Other(format!("the re-seeding has not begun after {} s", RESEED_PATIENCE.as_secs())))
}

/// The node that has another incarnation than before.
fn begun_anew<'a>(before: &Report, report: &'a Report) -> Option<&'a NodeName> {
    let incarnation = |told: &InstanceReport| told.report.as_ref().map(|node| node.incarnation);
    let changed = report.instances.iter().find(|told| {
        let old = before.instances.iter().find(|old| old.name == told.name).and_then(incarnation);
        old.zip(incarnation(told)).is_some_and(|(old, new)| old != new)
    });
    changed.map(|told| &told.name)
}
