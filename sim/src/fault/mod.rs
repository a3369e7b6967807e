//! Carrying out the plan: faults of processes, machines and data here; what the network does, what people wish for, and how
//! all of it ends, in the modules.

mod end;
mod network;
mod wish;

use rdb_control::ClusterStatus;
use rdb_replication::Persistent;

use crate::event::{At, Event, Heal, NodeId};
use crate::plan::{Fault, Target};
use crate::world::{World, node_name};

impl World {
    pub(crate) fn inject(&mut self, fault: Fault) {
        if self.calm {
            return;
        }
        self.tell(|| format!("*** {fault:?}"));
        if self.do_fault(fault) {
            self.hit(fault.scenario());
        }
    }

    /// False: there was nothing that it could hit.
    fn do_fault(&mut self, fault: Fault) -> bool {
        match fault {
            Fault::OperatorCrash(which, away) => self.operator_crash(which, away),
            Fault::OperatorCrashWithin(which, actions) => match self.operator_mut(which) {
                Some(me) => {
                    me.dies_after = Some(actions);
                    true
                }
                None => false,
            },
            Fault::OperatorPause(which, span) => match self.operator_mut(which) {
                Some(me) => {
                    me.paused = true;
                    let operator = me.id;
                    self.schedule(span, Event::Heal(Heal::ResumeOperator { operator }));
                    true
                }
                None => false,
            },
            Fault::PauseAtRound(span) => {
                self.pause_at_round = Some((span, None));
                true
            }
            Fault::AtNextChange(target, span) => {
                self.at_next_change = Some((target, span));
                true
            }
            Fault::ApiOutage(span) => {
                self.api.down = true;
                self.schedule(span, Event::Heal(Heal::Api));
                true
            }
            Fault::ApiRestore(ago) => self.restore_api(ago),
            Fault::AllDown(span) => {
                let nodes: Vec<NodeId> = self.nodes.keys().copied().collect();
                nodes.into_iter().for_each(|node| self.power_loss(node, span));
                true
            }
            Fault::Cut(cut, span) => self.cut(cut, span),
            Fault::Wish(wish) => self.wish(wish),
            Fault::Crash(target)
            | Fault::CrashWithin(target, _)
            | Fault::PowerLoss(target, _)
            | Fault::Pause(target, _)
            | Fault::SlowDisk(target, _)
            | Fault::StuckDisk(target, _)
            | Fault::FullDisk(target, _)
            | Fault::FlushError(target)
            | Fault::DamageLog(target)
            | Fault::DamageDatabase(target)
            | Fault::LoseVolume(target)
            | Fault::RollBack(target)
            | Fault::DeletePod(target)
            | Fault::ForceDeletePod(target)
            | Fault::TakeSnapshot(target) => match self.find(target) {
                Some(node) => self.hit_node(node, fault),
                None => false,
            },
        }
    }

    /// An open leader has sent a message of this heartbeat round: if it is a new one, the fault that waited for it.
    pub(crate) fn sent_round(&mut self, node: NodeId, round: u64) {
        let Some((span, seen)) = self.pause_at_round.filter(|_| !self.calm) else { return };
        if seen.is_none_or(|seen| round <= seen) {
            self.pause_at_round = Some((span, seen.or(Some(round))));
            return;
        }
        self.pause_at_round = None;
        let Some(process) = self.process(node) else { return };
        process.paused = true;
        let boot = process.boot.0;
        self.schedule(span, Event::Heal(Heal::Resume { node, boot }));
    }

    /// A leader was told of a change of the config: the fault that waited for it.
    pub(crate) fn told_of_change(&mut self) {
        let Some((target, span)) = self.at_next_change.take().filter(|_| !self.calm) else { return };
        self.calls_late_until = self.now + span;
        if let Some(node) = self.find(target) {
            self.end_process(node, "is killed");
        }
    }

    fn operator_mut(&mut self, which: u64) -> Option<&mut crate::operator::Operator> {
        let count = self.operators.len().max(1);
        self.operators.get_mut(which as usize % count).filter(|me| me.life != 0 && !me.paused)
    }

    fn operator_crash(&mut self, which: u64, away: At) -> bool {
        let Some(operator) = self.operator_mut(which).map(|me| me.id) else { return false };
        self.end_operator(operator);
        self.schedule(away, Event::Heal(Heal::Operator { operator }));
        true
    }

    /// Who is meant, as things are now.
    pub(crate) fn find(&self, target: Target) -> Option<NodeId> {
        let leads =
            |node: &NodeId| self.nodes.get(node).is_some_and(|p| p.process.as_ref().is_some_and(|p| p.is_open()));
        let nodes: Vec<NodeId> = self.nodes.iter().filter(|(_, p)| p.volume.is_some()).map(|(id, _)| *id).collect();
        let nth = |list: Vec<NodeId>, n: u64| list.get(n as usize % list.len().max(1)).copied();
        match target {
            Target::Leader => nodes.iter().rev().copied().find(|node| leads(node)),
            Target::Chosen => {
                self.api.objects.resource.status.leader.as_ref().map(|leader| crate::world::node_id(&leader.name))
            }
            Target::Follower(n) => nth(nodes.into_iter().filter(|node| !leads(node)).collect(), n),
            Target::Any(n) => nth(nodes, n),
        }
    }

    fn hit_node(&mut self, node: NodeId, fault: Fault) -> bool {
        let runs = self.process(node).is_some();
        match fault {
            Fault::Crash(_) => self.end_process(node, "is killed"),
            Fault::CrashWithin(_, outputs) => {
                if let Some(process) = self.process(node) {
                    process.dies_after = Some(outputs);
                }
            }
            Fault::PowerLoss(_, span) => self.power_loss(node, span),
            Fault::Pause(_, span) => {
                let Some(process) = self.process(node) else { return false };
                process.paused = true;
                let boot = process.boot.0;
                self.schedule(span, Event::Heal(Heal::Resume { node, boot }));
            }
            Fault::SlowDisk(_, span) => {
                self.place(node).slow = true;
                self.schedule(span, Event::Heal(Heal::Disk { node }));
            }
            Fault::StuckDisk(_, span) => {
                self.place(node).stuck = true;
                self.schedule(span, Event::Heal(Heal::Disk { node }));
            }
            Fault::FullDisk(_, span) => {
                let Some(volume) = &mut self.place(node).volume else { return false };
                volume.full = true;
                self.schedule(span, Event::Heal(Heal::Disk { node }));
            }
            Fault::FlushError(_) => match self.process(node) {
                Some(process) => process.fails_flush = true,
                None => return false,
            },
            Fault::DamageLog(_) | Fault::DamageDatabase(_) => return self.damage(node, fault),
            Fault::LoseVolume(_) => return self.lose_volume(node, false),
            Fault::RollBack(_) => return self.lose_volume(node, true),
            Fault::DeletePod(_) => self.delete_pod(node),
            Fault::ForceDeletePod(_) => return self.force_delete(node),
            Fault::TakeSnapshot(_) => self.take_snapshot(node),
            _ => return false,
        }
        runs || !matches!(fault, Fault::Crash(_) | Fault::CrashWithin(..))
    }

    fn power_loss(&mut self, node: NodeId, span: At) {
        let mut rng = crate::rng::Rng::new(self.rng.word(), 4);
        let place = self.place(node);
        if place.host_down {
            return;
        }
        place.host_down = true;
        self.end_process(node, "loses power");
        if let Some(volume) = &mut self.place(node).volume {
            volume.power_loss(&mut rng);
        }
        self.schedule(span, Event::Heal(Heal::HostUp { node }));
    }

    /// May this node's data be taken away? One copy at a time: with more gone, nothing acknowledged could be kept by anybody.
    fn may_lose(&self, node: NodeId) -> bool {
        let name = node_name(node);
        let status = &self.api.objects.resource.status;
        if self.checks.restored {
            // What the status says is not what counts now.
            return false;
        }
        let Some(pair) = &status.config else { return false };
        let whole = |member: &rdb_protocol::Member| {
            self.nodes.values().any(|place| place.volume.as_ref().is_some_and(|volume| volume.holds(member)))
        };
        // What one config needs for an election, without this node.
        pair.standing().all(|config| {
            let left = config.cohort.iter().filter(|member| member.name != name && whole(member)).count();
            left >= config.cohort.len().saturating_sub(config.acks as usize).max(1)
        })
    }

    fn damage(&mut self, node: NodeId, fault: Fault) -> bool {
        if !self.may_lose(node) {
            return false;
        }
        let word = self.rng.word();
        self.robbed = true;
        self.end_process(node, "is killed, and its disk is damaged");
        let Some(volume) = &mut self.place(node).volume else { return false };
        match fault {
            Fault::DamageLog(_) => {
                volume.log.damaged = volume.log.flushed > 0;
                volume.log.damaged
            }
            _ => volume.db.as_mut().is_some_and(|db| db.flip_bit(word)),
        }
    }

    /// The claim is deleted and made anew: empty, or from a snapshot.
    fn lose_volume(&mut self, node: NodeId, from_snapshot: bool) -> bool {
        if !self.may_lose(node) || (from_snapshot && self.api.snapshots.is_empty()) {
            return false;
        }
        self.robbed = true;
        self.end_process(node, "loses its volume");
        let uid = self.api.uid();
        let mut volume = crate::disk::Volume::empty(uid);
        let name = node_name(node);
        let own = |snapshot: &&crate::api::Snapshot| {
            snapshot.volume.control.as_ref().is_some_and(|control| *control.name() == name)
        };
        let snapshots = &self.api.snapshots;
        if from_snapshot && let Some(snapshot) = snapshots.iter().find(own).or(snapshots.first()) {
            volume = snapshot.volume.clone();
            volume.id = uid;
        }
        self.place(node).volume = Some(volume);
        if let Some(claim) = self.api.objects.claims.get_mut(&node) {
            claim.uid = uid;
        }
        self.api.wrote();
        self.notify();
        true
    }

    fn force_delete(&mut self, node: NodeId) -> bool {
        if self.api.objects.pods.remove(&node).is_none() {
            return false;
        }
        self.api.wrote();
        self.notify();
        match self.process(node).map(|process| process.boot.0) {
            // The process lives on for a while.
            Some(boot) => {
                let delay = self.rng.between(100_000, 3_700_000);
                self.schedule(delay, Event::Heal(Heal::Orphan { node, boot }));
            }
            None => self.remove_if_free(node),
        }
        true
    }

    fn restore_api(&mut self, ago: u64) -> bool {
        let backups = &self.api.backups;
        let Some(at) = backups.len().checked_sub(1 + ago as usize % backups.len().max(1)) else { return false };
        let mut old = backups[at].clone();
        if !self.is_told(&old.status) {
            return false;
        }
        if ago == 0 {
            // Somebody made the resource anew, without a status.
            old.status = Default::default();
            self.hit("fault: status lost");
        }
        self.robbed = true;
        self.checks.restored(&old.status);
        self.api.objects.resource = old;
        self.api.wrote_resource();
        self.notify();
        true
    }

    /// Can it be told that this status is old? An election among nodes that do not know could not be told from a good one, by
    /// anybody: every node has to know of a config that is forgotten, and enough of them of a leader that is.
    fn is_told(&self, old: &ClusterStatus) -> bool {
        self.forgotten_config_is_told(old) && self.forgotten_leader_is_told(old)
    }

    fn with_data(&self) -> impl Iterator<Item = &Persistent> {
        let controls = self.nodes.values().filter_map(|place| place.volume.as_ref()?.control.as_ref());
        controls.filter(|control| control.cluster.is_some()).map(|control| &control.core)
    }

    fn forgotten_leader_is_told(&self, old: &ClusterStatus) -> bool {
        let forgotten = old.leader_epoch < self.api.highest_leader_epoch;
        let Some(config) = old.config.as_ref().filter(|_| forgotten) else { return true };
        let knows = |node: &Persistent| {
            let promise = &node.promise;
            promise.epoch > old.epoch || (promise.epoch == old.epoch && promise.leader.is_some() && !old.has_leader())
        };
        let others = self.with_data().filter(|node| !knows(node)).map(|node| node.member.clone()).collect();
        !config.is_electable(&others, old.leader.as_ref())
    }

    fn forgotten_config_is_told(&self, old: &ClusterStatus) -> bool {
        let known: Vec<u64> =
            self.with_data().map(|node| node.config.as_ref().map_or(0, rdb_protocol::ConfigPair::version)).collect();
        let newest = known.iter().copied().max().unwrap_or(0);
        newest <= old.config_version || known.iter().all(|version| *version == newest)
    }
}
