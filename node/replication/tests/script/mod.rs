//! The commands of the scenarios. Members are `n1`, `n2`, …; a position is epoch/index; times are milliseconds.
//!
//! | command | does |
//! | --- | --- |
//! | `cluster n1 n2 n3` | empty nodes |
//! | `lead n1 epoch=1 [w=1] [k=n1/n2] [with=n1/n2] [wait=0]` | fence, promote, follow, connect, deliver: a whole election |
//! | `fence n1 n2 epoch=2` · `promote n1 epoch=2 …` · `follow n2 leader=n1 epoch=2 [loss=true]` | the operator's calls |
//! | `config n1 epoch=1 v=2 k=… w=…` · `settle n1 epoch=1 version=2 k=… w=…` | config changes |
//! | `stop-writes n1 epoch=1 ms=500` · `resume-writes n1 epoch=1` · `answer-lease n1 epoch=1 request=3` | |
//! | `write n1 [2]` · `noop n1` · `reserve n1` · `propose n1` · `release n1` | the writer |
//! | `connect` · `cut n1 n2` · `heal n1 n2` | connections |
//! | `deliver [n1 n2] [n=1]` · `drop n1 n2` · `repeat n1 n2` | messages on the way |
//! | `inject n2 n1 ack epoch=1 index=3 [round=9]` · `inject n1 n2 append epoch=1 committed=9` (or `heartbeat`, `hello to=n1`) | a message that nobody sent |
//! | `time 250` | time passes, everybody ticks |
//! | `manual n1 flush` · `manual n1 apply` · `flush n1` · `apply n1 2` | the disk and the database do as told |
//! | `full n1` · `room n1` · `retain n1 from=3` · `lose-tail n1 2` | |
//! | `crash n1` · `start n1` | |
//! | `expect-loss` | this script loses committed records on purpose |
//! | `status [n1 …]` · `lease n1` · `progress n1` | |

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;

use goldenscript::{Command, Context, Runner};
use rdb_protocol::admin::{Fence, Follow, LeaseAnswer, NextConfig, Promote, ResumeWrites, Settle, StopWrites};
use rdb_protocol::settings::NodeSettings;
use rdb_protocol::status::Promise;
use rdb_protocol::{ClusterConfig, ClusterId, ConfigPair, Epoch, Index, Member, Position};
use rdb_replication::{AdminCall, Input, LogView, PeerMessage, Slot, Time};

use crate::harness::cluster::{CLUSTER, Cluster, member, write};
use crate::harness::show;

#[derive(Default)]
pub struct Script {
    cluster: Option<Cluster>,
    slot: Option<Slot>,
}

/// A command's arguments, taken one by one.
struct Words {
    positional: Vec<String>,
    named: BTreeMap<String, String>,
}

type Failure = Box<dyn Error>;

impl Words {
    fn of(command: &Command) -> Words {
        let mut args = command.consume_args();
        let positional = std::iter::from_fn(|| args.next_pos().map(str::to_owned)).collect();
        let named = std::iter::from_fn(|| args.next_key().map(|(k, v)| (k.to_owned(), v.to_owned()))).collect();
        Words { positional, named }
    }

    fn text(&mut self, key: &str) -> Result<String, Failure> {
        self.named.remove(key).ok_or_else(|| format!("{key}= is missing").into())
    }

    fn number(&mut self, key: &str) -> Result<u64, Failure> {
        Ok(self.text(key)?.parse()?)
    }

    fn number_or(&mut self, key: &str, default: u64) -> Result<u64, Failure> {
        if self.named.contains_key(key) { self.number(key) } else { Ok(default) }
    }

    fn epoch(&mut self) -> Result<Epoch, Failure> {
        Ok(Epoch(self.number("epoch")?))
    }

    fn member(&self, at: usize) -> Result<Member, Failure> {
        Ok(member(self.positional.get(at).ok_or("a member is missing")?))
    }

    fn members(&self) -> Vec<Member> {
        self.positional.iter().map(|name| member(name)).collect()
    }

    /// `k=` and `w=`, `nk=` and `nw=`.
    fn config(&mut self, prefix: &str, version: u64, all: &[Member]) -> Result<ClusterConfig, Failure> {
        let cohort: BTreeSet<Member> = match self.named.remove(&format!("{prefix}k")) {
            Some(names) => names.split('/').map(member).collect(),
            None => all.iter().cloned().collect(),
        };
        let acks = self.number_or(&format!("{prefix}w"), 1)? as u32;
        Ok(ClusterConfig { version, cohort, acks })
    }

    fn pair(&mut self, all: &[Member]) -> Result<ConfigPair, Failure> {
        let version = self.number_or("v", 1)?;
        let current = self.config("", version, all)?;
        let next = if self.named.contains_key("nk") { Some(self.config("n", version + 1, all)?) } else { None };
        Ok(ConfigPair { current, next })
    }

    fn end(self) -> Result<(), Failure> {
        self.named.into_keys().next().map_or(Ok(()), |key| Err(format!("what is {key}=?").into()))
    }
}

impl Runner for Script {
    type Command = Command;

    fn run(&mut self, command: &Command, _: &Context) -> Result<String, Failure> {
        let mut words = Words::of(command);
        if command.name == "cluster" {
            let names: Vec<&str> = words.positional.iter().map(String::as_str).collect();
            self.cluster = Some(Cluster::new(&names));
            return Ok(String::new());
        }
        let slot = &mut self.slot;
        let cluster = self.cluster.as_mut().ok_or("begin with `cluster n1 n2 n3`")?;
        cluster.events.clear();
        let said = match command.name.as_str() {
            "expect-loss" => {
                cluster.checker.loss_permitted = true;
                String::new()
            }
            "fence" | "promote" | "follow" | "config" | "settle" | "stop-writes" | "resume-writes" | "answer-lease" => {
                operator(cluster, &command.name, &mut words)?;
                String::new()
            }
            "lead" => {
                lead(cluster, &mut words)?;
                String::new()
            }
            "deliver" | "drop" | "repeat" | "connect" | "cut" | "heal" | "inject" => {
                network(cluster, &command.name, &mut words)?;
                String::new()
            }
            "status" | "lease" | "progress" => report(cluster, &command.name, &words)?,
            name => node(cluster, slot, name, &mut words)?,
        };
        words.end()?;
        let mut lines = std::mem::take(&mut cluster.events);
        lines.extend(said.lines().map(str::to_owned));
        Ok(lines.join("\n"))
    }
}

fn operator(cluster: &mut Cluster, name: &str, words: &mut Words) -> Result<(), Failure> {
    let epoch = words.epoch()?;
    let all: Vec<Member> = cluster.nodes.keys().cloned().collect();
    let call = |words: &mut Words, leader: &Member| -> Result<AdminCall, Failure> {
        Ok(match name {
            "fence" => AdminCall::Fence(Fence { epoch }),
            "promote" => AdminCall::Promote(Promote {
                epoch,
                leader: leader.clone(),
                config: words.pair(&all)?,
                lease_wait_ms: words.number_or("wait", 0)?,
                lossy: false,
                peers: Vec::new(),
                settings: NodeSettings::default(),
            }),
            "follow" => AdminCall::Follow(Follow {
                epoch,
                leader: member(&words.text("leader")?),
                peers: Vec::new(),
                settings: NodeSettings::default(),
                loss_permitted: words.named.remove("loss").is_some(),
            }),
            "config" => {
                let version = words.number("v")?;
                AdminCall::NextConfig(NextConfig { epoch, next: words.config("", version, &all)? })
            }
            "settle" => {
                let version = words.number("version")?;
                let kept_as = words.number_or("v", version)?;
                AdminCall::Settle(Settle { epoch, version, keep: words.config("", kept_as, &all)? })
            }
            "stop-writes" => AdminCall::StopWrites(StopWrites { epoch, deadline_ms: words.number("ms")? }),
            "resume-writes" => AdminCall::ResumeWrites(ResumeWrites { epoch }),
            "answer-lease" => AdminCall::Lease(LeaseAnswer { epoch, request: words.number("request")? }),
            other => return Err(format!("unknown call {other}").into()),
        })
    };
    let call = call(words, &words.member(0)?)?;
    for to in words.members() {
        if let AdminCall::Follow(follow) = &call {
            cluster.checker.loss_permitted |= follow.loss_permitted;
        }
        cluster.call(&to, call.clone());
    }
    Ok(())
}

/// A whole election without faults, for the scenes before the one that matters.
fn lead(cluster: &mut Cluster, words: &mut Words) -> Result<(), Failure> {
    let epoch = words.epoch()?;
    let leader = words.member(0)?;
    let all: Vec<Member> = cluster.nodes.keys().cloned().collect();
    let with = match words.named.remove("with") {
        Some(names) => names.split('/').map(member).collect(),
        None => all.clone(),
    };
    let (config, lease_wait_ms) = (words.pair(&all)?, words.number_or("wait", 0)?);
    for to in &with {
        cluster.call(to, AdminCall::Fence(Fence { epoch }));
    }
    let settings = NodeSettings::default();
    let peers = Vec::new;
    let promote = Promote {
        epoch,
        leader: leader.clone(),
        config,
        lease_wait_ms,
        lossy: false,
        peers: peers(),
        settings: settings.clone(),
    };
    cluster.call(&leader, AdminCall::Promote(promote));
    for to in with.iter().filter(|to| **to != leader) {
        let (leader, settings) = (leader.clone(), settings.clone());
        let follow = Follow { epoch, leader, peers: peers(), settings, loss_permitted: false };
        cluster.call(to, AdminCall::Follow(follow));
    }
    cluster.connect();
    cluster.deliver_all();
    Ok(())
}

fn network(cluster: &mut Cluster, name: &str, words: &mut Words) -> Result<(), Failure> {
    let limit = words.number_or("n", u64::MAX)? as usize;
    match name {
        "connect" => {
            cluster.connect();
            return Ok(());
        }
        "deliver" if words.positional.is_empty() => {
            cluster.deliver_all();
            return Ok(());
        }
        "inject" => return inject(cluster, words),
        _ => {}
    }
    let (from, to) = (words.member(0)?, words.member(1)?);
    match name {
        "cut" => cluster.partition(&from, &to),
        "heal" => {
            cluster.cut.retain(|pair| *pair != (from.clone(), to.clone()) && *pair != (to.clone(), from.clone()));
        }
        _ => {
            // Those that are on the way now, not those that these lead to.
            let is_it = |(a, b, _): &(Member, Member, PeerMessage)| *a == from && *b == to;
            let count = cluster.network.iter().filter(|message| is_it(message)).count().min(limit);
            if count == 0 {
                return Err("nothing is on the way".into());
            }
            for nth in 0..count {
                match name {
                    "repeat" => {
                        let copy = cluster.network.iter().filter(|message| is_it(message)).nth(nth).cloned();
                        cluster.network.extend(copy);
                    }
                    _ => {
                        let at = cluster.network.iter().position(is_it).ok_or("nothing is on the way")?;
                        if name == "deliver" {
                            cluster.deliver_at(at);
                        } else {
                            cluster.network.remove(at);
                        }
                    }
                }
            }
        }
    }
    Ok(())
}

/// A message as a faulty or confused node would send it: with the sender's own positions.
fn inject(cluster: &mut Cluster, words: &mut Words) -> Result<(), Failure> {
    let (from, to) = (words.member(0)?, words.member(1)?);
    let epoch = words.epoch()?;
    let log = cluster.node(&from).log.clone();
    let index = Index(words.number_or("index", log.last().index.0)?);
    let position = log.position(index).unwrap_or(Position::ZERO);
    let message = match words.positional.get(2).map(String::as_str) {
        Some("ack") => PeerMessage::Ack { epoch, position, round: words.number_or("round", 0)?, probe: 0 },
        Some(kind @ ("append" | "heartbeat")) => PeerMessage::Append {
            epoch,
            prev: position,
            entries: if kind == "append" { log.read(position, u64::MAX) } else { Vec::new() },
            committed: Index(words.number_or("committed", 0)?),
            round: words.number_or("round", 0)?,
            answered_probe: 0,
        },
        Some("hello") => PeerMessage::Hello {
            to: words.text("to").map(|name| member(&name))?,
            cluster: ClusterId(words.number_or("cluster", CLUSTER.0)?),
            promise: Promise { epoch, leader: None },
            base: Position::ZERO,
            boundaries: log.epochs(),
        },
        other => return Err(format!("cannot inject {other:?}").into()),
    };
    cluster.step(&to, Input::Peer { from, message });
    Ok(())
}

fn node(cluster: &mut Cluster, slot: &mut Option<Slot>, name: &str, words: &mut Words) -> Result<String, Failure> {
    if name == "time" {
        let ms: u64 = words.positional.first().ok_or("how long?")?.parse()?;
        cluster.now = Time(cluster.now.0 + ms * 1000);
        let all: Vec<Member> = cluster.nodes.keys().cloned().collect();
        all.iter().for_each(|member| cluster.tick(member));
        return Ok(String::new());
    }
    let member = words.member(0)?;
    let second = words.positional.get(1).cloned();
    let now = cluster.now;
    match name {
        "write" => {
            for _ in 0..second.map_or(Ok(1), |n| n.parse())? {
                if !cluster.write(&member) {
                    return Ok("no slot".to_owned());
                }
            }
        }
        "noop" => cluster.step(&member, Input::Noop),
        "reserve" => {
            *slot = cluster.node(&member).replica.as_mut().and_then(|replica| replica.reserve_slot(now));
            return Ok(slot.map_or("no slot".to_owned(), |slot| format!("slot after {}", slot.previous)));
        }
        "propose" => {
            let slot = slot.ok_or("reserve first")?;
            cluster.step(&member, Input::Propose { entry: write(999, slot.previous, slot.epoch) });
        }
        "release" => cluster.step(&member, Input::ReleaseSlot),
        "manual" if second.as_deref() == Some("flush") => cluster.node(&member).auto_flush = false,
        "manual" => cluster.node(&member).auto_apply = false,
        "flush" => cluster.finish_flush(&member),
        "apply" => {
            let index = Index(second.ok_or("up to where?")?.parse()?);
            cluster.step(&member, Input::Applied { index });
        }
        "full" => cluster.node(&member).full = true,
        "room" => cluster.node(&member).full = false,
        "retain" => {
            let from = Index(words.number("from")?);
            cluster.node(&member).log.retain_from(from);
        }
        // A disk that forgot what it had flushed.
        "lose-tail" => {
            let after = Index(second.ok_or("after which?")?.parse()?);
            cluster.node(&member).log.truncate(after);
        }
        "crash" => cluster.crash(&member),
        "start" => cluster.start(&member),
        other => return Err(format!("unknown command {other}").into()),
    }
    Ok(String::new())
}

fn report(cluster: &Cluster, name: &str, words: &Words) -> Result<String, Failure> {
    let all: Vec<Member> = cluster.nodes.keys().cloned().collect();
    let members = if words.positional.is_empty() { all } else { words.members() };
    let now = cluster.now;
    let mut lines = Vec::new();
    for member in members {
        let node = &cluster.nodes[&member];
        let Some(replica) = &node.replica else {
            lines.push(format!("{}: down", show::name(&member)));
            continue;
        };
        lines.push(match name {
            "lease" => format!(
                "{}: lease {}{}",
                show::name(&member),
                if replica.lease_valid(now) { "valid" } else { "none" },
                replica.lease_request().map_or(String::new(), |request| format!(", request {request}")),
            ),
            "progress" => {
                let followers = replica.followers(now).into_iter().map(|f| {
                    let how = if f.caught_up { "caught up" } else { "behind" };
                    format!("{} {} at {}", show::name(&f.member), how, f.acknowledged)
                });
                let followers: Vec<String> = followers.collect();
                format!("{}: {} | log needed from {}", show::name(&member), followers.join(", "), replica.needed_from())
            }
            _ => {
                let log: Vec<String> = node.log.entries.iter().map(|entry| entry.position.to_string()).collect();
                let settled = replica.settled().map_or(String::new(), |report| {
                    format!(
                        " settled {}{}",
                        show::config(&report.keep),
                        if report.committed { " committed" } else { "" }
                    )
                });
                let stale =
                    replica.staleness(now).map_or(String::new(), |age| format!(" stale {} ms", age.as_millis()));
                let leader = replica.leader().map_or("-".to_owned(), show::name);
                format!(
                    "{}: {:?} epoch {} leader {leader} log [{}] flushed {} committed {} applied {}{stale}{settled}",
                    show::name(&member),
                    replica.role(),
                    replica.epoch(),
                    log.join(" "),
                    replica.flushed().index,
                    replica.committed(),
                    replica.applied(),
                )
            }
        });
    }
    Ok(lines.join("\n"))
}
