//! What a node does when the operator calls it.

use rdb_control::AdminCall;
use rdb_protocol::admin::{AdminRefusal, Recruit};
use rdb_protocol::status::{Promise, RecordPlace, Role, SettleReport};
use rdb_protocol::{ConfigPair, Epoch, Incarnation, Index};

use super::Node;

impl Node {
    fn refuse<T>(reason: &str) -> Result<T, AdminRefusal> {
        Err(AdminRefusal::State { reason: reason.to_owned() })
    }

    fn heed(&mut self, epoch: Epoch) -> Result<(), AdminRefusal> {
        if epoch < self.promise.epoch {
            return Err(AdminRefusal::Fenced { promise: self.promise.clone() });
        }
        Ok(())
    }

    pub fn call(&mut self, call: &AdminCall, now: u64, seed: Incarnation) -> Result<Option<Recruit>, AdminRefusal> {
        if self.role == Role::Empty && !matches!(call, AdminCall::Init(_)) {
            return Node::refuse("empty");
        }
        match call {
            AdminCall::Init(init) => {
                if self.role != Role::Empty || init.incarnation != self.incarnation {
                    return Node::refuse("not empty");
                }
                self.cluster = Some(init.cluster);
                self.created = init.create;
                self.layout = if init.create { self.incarnation.0 } else { 0 };
                self.role = Role::Follower;
            }
            AdminCall::Fence(fence) => {
                self.heed(fence.epoch)?;
                if self.stuck_since_ms.is_some() {
                    return Node::refuse("the disk does not finish");
                }
                let had_opened =
                    self.led == self.promise.epoch && self.opened_epoch == self.led && self.led > Epoch::ZERO;
                if self.promise.epoch < fence.epoch {
                    self.promise = Promise { epoch: fence.epoch, leader: None };
                    self.step_down();
                }
                return Ok(Some(Recruit {
                    epoch: fence.epoch,
                    member: self.member(),
                    position: self.position(),
                    committed: Index(self.committed as u64),
                    answered_ms_ago: now - self.answered_ms,
                    had_opened,
                    acknowledged: Index(self.acknowledged as u64),
                    config: self.config.clone(),
                }));
            }
            AdminCall::Promote(promote) => {
                self.heed(promote.epoch)?;
                self.settings = promote.settings.clone();
                if self.role == Role::Leader && self.led == promote.epoch {
                    return Ok(None);
                }
                if self.promise.epoch != promote.epoch || self.led >= promote.epoch {
                    return Node::refuse("has led this epoch");
                }
                self.promise.leader = Some(self.member());
                self.role = Role::Leader;
                self.led = promote.epoch;
                self.config = Some(promote.config.clone());
                self.log.push((promote.epoch, 0));
                self.open_at_ms = now + promote.lease_wait_ms;
                self.lossy = promote.lossy;
                if promote.lossy {
                    self.lossy_epoch = promote.epoch;
                }
                self.waiting_since_ms = Some(now);
            }
            AdminCall::Follow(follow) => {
                self.heed(follow.epoch)?;
                if self.role == Role::Leader && self.led == follow.epoch {
                    return Node::refuse("leads this epoch");
                }
                self.step_down();
                self.promise = Promise { epoch: follow.epoch, leader: Some(follow.leader.clone()) };
            }
            AdminCall::NextConfig(next) => {
                self.heed(next.epoch)?;
                if self.refuses_changes {
                    return Node::refuse("not caught up");
                }
                let pair = self.config.as_mut().filter(|_| self.role == Role::Leader);
                match pair {
                    Some(pair) if pair.next.is_none() && next.next.version > pair.current.version => {
                        pair.next = Some(next.next.clone());
                    }
                    _ => return Node::refuse("no change fits"),
                }
            }
            AdminCall::Settle(settle) => {
                self.heed(settle.epoch)?;
                let Some(pair) = self.config.as_ref().filter(|_| self.role == Role::Leader) else {
                    return Node::refuse("not the leader");
                };
                if self.settled.as_ref().is_some_and(|settled| settled.version >= settle.version) {
                    return Node::refuse("settled before");
                }
                let (keep, version) = (&settle.keep, settle.version);
                let is_given_up = *keep == pair.current.after_giving_up(version);
                let fits = match &pair.next {
                    Some(next) => next.version == version && (keep == next || is_given_up),
                    None => version > pair.current.version && is_given_up,
                };
                if !fits {
                    return Node::refuse("no such change stands");
                }
                self.config = Some(ConfigPair::settled(settle.keep.clone()));
                self.log.push((self.led, 0));
                self.settle_index = self.log.len();
                let (epoch, version, keep) = (settle.epoch, settle.version, settle.keep.clone());
                self.settled = Some(SettleReport { epoch, version, keep, committed: false });
            }
            AdminCall::StopWrites(stop) => {
                self.heed(stop.epoch)?;
                self.stopped_writes_until_ms = now + stop.deadline_ms;
            }
            AdminCall::ResumeWrites(resume) => {
                self.heed(resume.epoch)?;
                self.stopped_writes_until_ms = 0;
            }
            AdminCall::Reseed(reseed) => {
                if reseed.incarnation != self.incarnation || self.role == Role::Leader {
                    return Node::refuse("another incarnation");
                }
                self.incarnation = seed;
                self.log.clear();
                self.committed = 0;
                self.acknowledged = 0;
                self.state_override = None;
                self.heard_ms = None;
                self.layout = 0;
                self.other_layout = false;
                self.exact = RecordPlace::default();
            }
        }
        Ok(None)
    }
}
