//! A node without a database: it keeps promises, positions and configs in a small file and answers the admin API the way
//! the rules say, so that the supervisor and the real `decide` can be tested with real processes that are killed and frozen.
//!
//! Followers pull from the leader every few milliseconds instead of being pushed to. There are no records, only positions.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rdb_protocol::admin::{
    AdminRefusal, Done, Fence, Follow, Init, NextConfig, PeerAddress, Promote, Recruit, Reseed, Settle, StopWrites,
};
use rdb_protocol::status::{FollowerProgress, NodeState, NodeStatus, Promise, Role, SettleReport};
use rdb_protocol::{Chain, ClusterId, ConfigPair, Epoch, Incarnation, Index, Member, NodeName, Position};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// How long a follower waits for an answer, and how long a leader takes it for connected.
pub(crate) const PULL_TIMEOUT: Duration = Duration::from_millis(200);

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Durable {
    pub(crate) incarnation: Incarnation,
    pub(crate) cluster: Option<ClusterId>,
    pub(crate) promise: Promise,
    pub(crate) led: Epoch,
    pub(crate) config: Option<ConfigPair>,
    pub(crate) flushed: Position,
    pub(crate) committed: Index,
    pub(crate) seeded: bool,
}

pub(crate) struct Node {
    pub(crate) name: NodeName,
    pub(crate) path: PathBuf,
    pub(crate) boot: Incarnation,
    pub(crate) durable: Durable,
    pub(crate) leads: bool,
    pub(crate) opened: bool,
    pub(crate) open_at: Instant,
    pub(crate) writes_stopped: bool,
    pub(crate) settled: Option<SettleReport>,
    pub(crate) followers: BTreeMap<Member, (Index, Instant)>,
    pub(crate) heard: Option<Instant>,
    pub(crate) peers: Vec<PeerAddress>,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct Pull {
    pub(crate) member: Member,
    pub(crate) epoch: Epoch,
    pub(crate) position: Position,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct Pulled {
    pub(crate) flushed: Position,
    pub(crate) committed: Index,
    pub(crate) config: Option<ConfigPair>,
}

type Outcome = Result<serde_json::Value, AdminRefusal>;

pub(crate) fn random() -> Incarnation {
    Incarnation(getrandom::u64().unwrap())
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, AdminRefusal> {
    serde_json::from_slice(body).map_err(|error| state(&error.to_string()))
}

fn state(reason: &str) -> AdminRefusal {
    AdminRefusal::State { reason: reason.to_owned() }
}

fn done() -> Outcome {
    Ok(serde_json::to_value(Done {}).unwrap())
}

impl Node {
    pub(crate) fn member(&self) -> Member {
        Member { name: self.name.clone(), incarnation: self.durable.incarnation }
    }

    pub(crate) fn save(&self) {
        let temporary = self.path.with_extension("tmp");
        std::fs::write(&temporary, serde_json::to_vec(&self.durable).unwrap()).unwrap();
        std::fs::rename(&temporary, &self.path).unwrap();
    }

    /// Rule 5.
    fn raise(&mut self, epoch: Epoch, leader: Option<&Member>) -> Result<(), AdminRefusal> {
        let promise = &mut self.durable.promise;
        if epoch < promise.epoch {
            return Err(AdminRefusal::Fenced { promise: promise.clone() });
        }
        if epoch > promise.epoch {
            *promise = Promise { epoch, leader: None };
            self.leads = false;
            self.opened = false;
            self.followers.clear();
            self.settled = None;
        }
        if promise.leader.is_none() {
            promise.leader = leader.cloned();
        }
        Ok(())
    }

    pub(crate) fn handle(&mut self, path: &str, body: &[u8]) -> Outcome {
        let outcome = match path.rsplit('/').next().unwrap_or_default() {
            "status" => Ok(serde_json::to_value(self.status()).unwrap()),
            "pull" => self.pulled(parse(body)?),
            "init" => self.init(parse(body)?),
            "fence" => self.fence(parse(body)?),
            "promote" => self.promote(parse(body)?),
            "follow" => self.follow(parse(body)?),
            "config" => self.next_config(parse(body)?),
            "settle" => self.settle(parse(body)?),
            "stop-writes" => self.stop_writes(&parse(body)?),
            "resume-writes" => {
                self.writes_stopped = false;
                done()
            }
            "reseed" => self.reseed(&parse(body)?),
            _ => done(),
        };
        self.save();
        outcome
    }

    fn init(&mut self, call: Init) -> Outcome {
        if call.incarnation != self.durable.incarnation {
            return Err(state("another incarnation"));
        }
        // The first call decides whether it starts empty or waits for a seed.
        match self.durable.cluster {
            Some(cluster) if cluster != call.cluster => return Err(state("of another cluster")),
            Some(_) => {}
            None => {
                self.durable.cluster = Some(call.cluster);
                self.durable.seeded = call.create;
            }
        }
        done()
    }

    fn fence(&mut self, call: Fence) -> Outcome {
        self.raise(call.epoch, None)?;
        if !self.durable.seeded {
            return Err(state("has no data yet"));
        }
        let recruit = Recruit {
            epoch: call.epoch,
            member: self.member(),
            position: self.durable.flushed,
            committed: self.durable.committed,
            answered_ms_ago: self.heard.map_or(0, |heard| heard.elapsed().as_millis() as u64),
            had_opened: false,
            acknowledged: Index(0),
            config: self.durable.config.clone(),
        };
        Ok(serde_json::to_value(recruit).unwrap())
    }

    /// Rule 9.
    fn promote(&mut self, call: Promote) -> Outcome {
        self.raise(call.epoch, Some(&call.leader))?;
        if self.leads && self.durable.led == call.epoch {
            return done();
        }
        if self.durable.led >= call.epoch || call.leader != self.member() {
            return Err(state("has led this epoch, or is not meant"));
        }
        self.durable.led = call.epoch;
        self.durable.config = Some(call.config);
        self.leads = true;
        self.writes_stopped = false;
        self.peers = call.peers;
        self.open_at = Instant::now() + Duration::from_millis(call.lease_wait_ms);
        self.append();
        done()
    }

    fn append(&mut self) {
        let (epoch, index) = (self.durable.promise.epoch, self.durable.flushed.index.0 + 1);
        self.durable.flushed = Position { epoch, index: Index(index), chain: Chain(epoch.0 << 32 | index) };
    }

    fn follow(&mut self, call: Follow) -> Outcome {
        self.raise(call.epoch, Some(&call.leader))?;
        self.peers = call.peers;
        done()
    }

    fn next_config(&mut self, call: NextConfig) -> Outcome {
        self.raise(call.epoch, None)?;
        match &mut self.durable.config {
            Some(config) if self.leads => config.next = Some(call.next),
            _ => return Err(state("does not lead")),
        }
        done()
    }

    fn settle(&mut self, call: Settle) -> Outcome {
        self.raise(call.epoch, None)?;
        if !self.leads {
            return Err(state("does not lead"));
        }
        if self.settled.as_ref().is_some_and(|settled| settled.version >= call.version) {
            return done();
        }
        self.durable.config = Some(ConfigPair::settled(call.keep.clone()));
        self.append();
        self.settled =
            Some(SettleReport { epoch: call.epoch, version: call.version, keep: call.keep, committed: false });
        done()
    }

    fn stop_writes(&mut self, call: &StopWrites) -> Outcome {
        self.raise(call.epoch, None)?;
        self.writes_stopped = self.leads;
        done()
    }

    fn reseed(&mut self, call: &Reseed) -> Outcome {
        if call.incarnation == self.durable.incarnation {
            self.durable.incarnation = random();
            self.durable.flushed = Position::ZERO;
            self.durable.seeded = false;
        }
        done()
    }

    fn pulled(&mut self, pull: Pull) -> Outcome {
        if !self.leads || pull.epoch != self.durable.promise.epoch {
            return Err(state("does not lead this epoch"));
        }
        let same = pull.position == self.durable.flushed;
        let acknowledged = if same { pull.position.index } else { Index(0) };
        let entry = self.followers.entry(pull.member).or_insert((Index(0), Instant::now()));
        *entry = (acknowledged.max(entry.0), Instant::now());
        let durable = &self.durable;
        Ok(serde_json::to_value(Pulled {
            flushed: durable.flushed,
            committed: durable.committed,
            config: durable.config.clone(),
        })
        .unwrap())
    }

    /// Rules 3 and 13, for the last record.
    pub(crate) fn advance(&mut self) {
        let Some(config) = self.durable.config.as_ref().filter(|_| self.leads) else { return };
        let last = self.durable.flushed.index;
        let holders = self.followers.iter().filter(|(_, (index, _))| *index >= last).map(|(member, _)| member.clone());
        let holders: BTreeSet<Member> = holders.chain([self.member()]).collect();
        if config.is_durable(&holders) {
            self.durable.committed = last;
            self.opened |= Instant::now() >= self.open_at;
            if let Some(settled) = &mut self.settled {
                settled.committed = true;
            }
        }
    }

    fn state(&self) -> NodeState {
        let heard = self.heard.is_some_and(|heard| heard.elapsed() < Duration::from_secs(1));
        match () {
            () if self.durable.cluster.is_none() => NodeState::Empty,
            () if self.leads && self.opened && self.writes_stopped => NodeState::WritesStopped,
            () if self.leads && self.opened => NodeState::Leading,
            () if self.leads => NodeState::Opening,
            () if !self.durable.seeded => NodeState::Seeding,
            () if heard => NodeState::Streaming,
            () => NodeState::Searching,
        }
    }

    pub(crate) fn status(&self) -> NodeStatus {
        let ms = |since: Instant| since.elapsed().as_millis() as u64;
        let last = self.durable.flushed.index;
        let progress = |(member, (index, at)): (&Member, &(Index, Instant))| FollowerProgress {
            member: member.clone(),
            connected: at.elapsed() < PULL_TIMEOUT,
            acknowledged: *index,
            answered_ms_ago: Some(ms(*at)),
            caught_up: *index >= last,
        };
        NodeStatus {
            name: self.name.clone(),
            incarnation: self.durable.incarnation,
            cluster: self.durable.cluster,
            boot: self.boot,
            version: "fake".to_owned(),
            role: match self.state() {
                NodeState::Empty => Role::Empty,
                _ if self.leads => Role::Leader,
                _ => Role::Follower,
            },
            state: self.state(),
            promise: self.durable.promise.clone(),
            led: self.durable.led,
            lossy: Epoch::ZERO,
            flushed: self.durable.flushed,
            committed: self.durable.committed,
            applied: self.durable.committed,
            first_retained: Index(1),
            config: self.durable.config.clone(),
            peers: self.peers.clone(),
            opened: self.opened,
            settled: self.settled.clone(),
            followers: self.followers.iter().map(progress).collect(),
            leader_heard_ms_ago: self.heard.map(ms),
            lease_valid: self.opened,
            lease_request: None,
            uncommitted_ms: None,
            acknowledged: self.durable.committed,
            seed: None,
            other_layout: false,
            exact: Default::default(),
            divergences: Vec::new(),
            problems: Vec::new(),
        }
    }
}
