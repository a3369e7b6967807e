//! Outputs and messages as short lines. A position is shown as epoch/index.

use rdb_protocol::admin::AdminRefusal;
use rdb_protocol::{ClusterConfig, ConfigPair, Member, Position};
use rdb_record::{Entry, RecordKind};
use rdb_replication::{AdminAnswer, Output, PeerMessage, Persistent, RoleChange};

pub fn name(member: &Member) -> String {
    match member.incarnation.0 {
        1 => member.name.to_string(),
        n => format!("{}@{n}", member.name),
    }
}

fn named(member: &Option<Member>) -> String {
    member.as_ref().map_or("-".to_owned(), name)
}

fn ends(positions: &[Position]) -> String {
    let ends: Vec<String> = positions.iter().map(ToString::to_string).collect();
    format!("[{}]", ends.join(" "))
}

fn records(entries: &[Entry]) -> String {
    let entries: Vec<String> = entries.iter().map(record).collect();
    format!("[{}]", entries.join(" "))
}

pub fn record(entry: &Entry) -> String {
    let kind = match entry.kind {
        RecordKind::Noop => " noop",
        RecordKind::EpochStart => " start",
        RecordKind::Config => " config",
        _ => "",
    };
    format!("{}{kind}", entry.position)
}

pub fn config(config: &ClusterConfig) -> String {
    let cohort: Vec<String> = config.cohort.iter().map(name).collect();
    format!("v{}:{}:w{}", config.version, cohort.join("/"), config.acks)
}

pub fn pair(pair: &ConfigPair) -> String {
    let next = pair.next.as_ref().map_or(String::new(), |next| format!(" next {}", config(next)));
    format!("{}{next}", config(&pair.current))
}

pub fn message(message: &PeerMessage) -> String {
    match message {
        PeerMessage::Hello { to: _, cluster: _, promise, base, boundaries } => {
            let base = if base.index.0 > 0 { format!(" base {base}") } else { String::new() };
            format!("hello promise {}{base} {}", promise.epoch, ends(boundaries))
        }
        PeerMessage::Append { epoch, prev, entries, committed, round, answered_probe } => {
            let answer = if *answered_probe > 0 { " answers probe" } else { "" };
            format!("append({epoch}) after {prev} {} committed {committed} round {round}{answer}", records(entries))
        }
        PeerMessage::Ack { epoch, position, round, probe: _ } => format!("ack({epoch}) {position} round {round}"),
        PeerMessage::Mismatch { epoch, base: _, boundaries } => format!("mismatch({epoch}) {}", ends(boundaries)),
        PeerMessage::Refused { promise } => {
            format!("refused, promised {} of {}", promise.epoch, named(&promise.leader))
        }
        PeerMessage::SeedRequired { epoch, first_retained } => {
            format!("seed-required({epoch}) log from {first_retained}")
        }
        PeerMessage::Config { epoch, config } => format!("config({epoch}) {}", pair(config)),
    }
}

fn control(persistent: &Persistent) -> String {
    let Persistent { promise, led, opened, config, loss_permitted, .. } = persistent;
    let config = config.as_ref().map_or("-".to_owned(), pair);
    let loss = if *loss_permitted { " loss permitted" } else { "" };
    format!(
        "persist promise {} of {} led {led} opened {opened} config {config}{loss}",
        promise.epoch,
        named(&promise.leader)
    )
}

pub fn reply(reply: &Result<AdminAnswer, AdminRefusal>) -> String {
    match reply {
        Ok(AdminAnswer::Done) => "done".to_owned(),
        Ok(AdminAnswer::Recruit(recruit)) => format!(
            "recruit({}) at {} committed {} answered {} ms ago{}",
            recruit.epoch,
            recruit.position,
            recruit.committed,
            recruit.answered_ms_ago,
            if recruit.had_opened { ", had opened" } else { "" }
        ),
        Err(refusal) => format!("refused: {refusal}"),
    }
}

pub fn output(output: &Output) -> String {
    match output {
        Output::PersistControl(persistent) => control(persistent),
        Output::Append(entry) => format!("append {}", record(entry)),
        Output::ArchiveTail { from } => format!("archive after {from}"),
        Output::Truncate { after } => format!("truncate after {after}"),
        Output::Sync => "sync".to_owned(),
        Output::Send { to, message: sent } => format!("-> {} {}", name(to), message(sent)),
        Output::Fetch { to, prev, max_bytes: _ } => format!("fetch for {} after {prev}", name(to)),
        Output::Committed { index } => format!("committed {index}"),
        Output::ProposalRefused { position, reason } => format!("proposal {position} refused: {reason:?}"),
        Output::AdminReply { token: _, reply: answer } => format!("reply {}", reply(answer)),
        Output::Became(RoleChange::Follower { leader }) => format!("became follower of {}", named(leader)),
        Output::Became(change) => format!("became {change:?}"),
        Output::Dial { leader } => format!("dial {}", name(leader)),
        Output::Hangup => "hang up".to_owned(),
        Output::Disconnect { member } => format!("disconnect {}", name(member)),
        Output::SeedNeeded { leader, reason } => format!("seed needed from {}: {reason:?}", name(leader)),
        Output::Halt { code, reason } => format!("HALT {}: {reason}", code.as_str()),
    }
}
