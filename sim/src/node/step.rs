//! Steps of the core: an input, what it orders in return, and what is checked on the way.

use rdb_protocol::status::DivergenceReport;
use rdb_protocol::{Epoch, Index, Member, Position};
use rdb_replication::{Input, LogView, Output, PeerMessage, Replica, RoleChange, RoleView, Side};

use crate::event::{NodeEvent, NodeId};
use crate::world::World;

/// What is left to do after a step.
#[derive(Debug, Default)]
pub(crate) struct Effects {
    pub(super) refused: bool,
    pub(super) no_room_for: Option<Index>,
}

/// After one output.
enum Next {
    Go,
    /// The rest of the step is dropped.
    NoRoom(Index),
    /// The process has ended.
    Ended,
}

impl World {
    /// Gives an input and carries out what it leads to.
    pub(crate) fn step(&mut self, node: NodeId, input: Input) -> Effects {
        let now = self.node_time(node);
        let mut effects = Effects::default();
        let mut outputs = std::mem::take(&mut self.scratch);
        let mut input = Some(input);
        while let Some(next) = input.take() {
            let Some(place) = self.nodes.get_mut(&node) else { break };
            let (Some(process), Some(volume)) = (&mut place.process, &place.volume) else { break };
            let Some(core) = &mut process.core else { break };
            core.step_into(now, next, &volume.log, &mut outputs);
            for output in outputs.drain(..) {
                match self.carry_out(node, output, &mut effects) {
                    Next::Go => {}
                    Next::NoRoom(index) => {
                        effects.no_room_for.get_or_insert(index);
                        input = Some(Input::AppendRefused);
                        break;
                    }
                    Next::Ended => {
                        input = None;
                        break;
                    }
                }
            }
            outputs.clear();
        }
        self.scratch = outputs;
        self.checks_after_step(node);
        effects
    }

    fn dies_now(&mut self, node: NodeId) -> bool {
        let Some(process) = self.process(node) else { return true };
        match &mut process.dies_after {
            Some(0) => {
                self.hit("step: process died between two outputs");
                self.end_process(node, "is killed between two outputs");
                true
            }
            Some(left) => {
                *left -= 1;
                false
            }
            None => false,
        }
    }

    fn carry_out(&mut self, node: NodeId, output: Output, effects: &mut Effects) -> Next {
        if self.dies_now(node) {
            return Next::Ended;
        }
        self.trace.fold(output_tag(&output));
        let Some(place) = self.nodes.get_mut(&node) else { return Next::Ended };
        let (Some(process), Some(volume)) = (&mut place.process, &mut place.volume) else { return Next::Ended };
        let Some(control) = &mut volume.control else { return Next::Ended };
        match output {
            Output::PersistControl(persistent) => {
                let member = control.core.member.clone();
                control.core = *persistent;
                control.core.member = member;
                process.report_due = true;
            }
            Output::Append(entry) => {
                if volume.full {
                    self.hit("step: no room for a record");
                    return Next::NoRoom(entry.position.index);
                }
                process.hybrid = process.hybrid.max(entry.timestamp());
                volume.log.append(entry);
            }
            Output::ArchiveTail { from } => {
                let applied = process.applied;
                let report = divergence(control, &volume.log, from, applied);
                control.divergences.push(report);
                self.hit("step: divergent tail archived");
            }
            Output::Truncate { after } => {
                volume.log.truncate_after(after);
                self.hit("step: tail cut");
                self.tell(|| format!("db-{node} cuts its log after {after}"));
            }
            Output::Sync => {
                let (generation, upto) = (process.generation, volume.log.last());
                self.begin_flush(node, generation, upto);
            }
            Output::Send { to, message } => {
                let spoken = match &message {
                    PeerMessage::Ack { epoch, .. } | PeerMessage::Append { epoch, .. } => *epoch,
                    _ => Epoch::ZERO,
                };
                let round = match &message {
                    PeerMessage::Append { round, .. } if process.is_open() => Some(*round),
                    _ => None,
                };
                if let Some((side, conn)) = process.links.get(&to) {
                    let side = usize::from(*side == Side::Accepted);
                    let conn = *conn;
                    self.send(conn, side, message);
                }
                self.check_promise(node, spoken);
                if let Some(round) = round {
                    self.sent_round(node, round);
                }
            }
            Output::Fetch { to, prev, max_bytes } => {
                let event = NodeEvent::Fetch { generation: process.generation, to, prev, max_bytes };
                let delay = self.rng.skewed(10, 2000);
                self.node_later(node, delay, event);
            }
            Output::Committed { index } => self.committed(node, index),
            Output::ProposalRefused { .. } => effects.refused = true,
            Output::AdminReply { token, reply } => {
                process.report_due = true;
                if let Some(caller) = process.calls.remove(&token) {
                    self.answer_call(node, caller, reply);
                }
            }
            Output::Became(change) => self.became(node, change),
            Output::Dial { leader } => self.aim(node, Some(leader)),
            Output::Hangup => self.aim(node, None),
            Output::Disconnect { member } => {
                if let Some((side, conn)) = process.links.get(&member).copied() {
                    self.close_link(node, &member, side, conn);
                }
            }
            Output::SeedNeeded { leader: _, reason } => {
                process.given_up = true;
                process.report_due = true;
                let event = NodeEvent::SeedBegin { generation: process.generation };
                self.hit(match reason {
                    rdb_replication::SeedReason::Behind { .. } => "step: seed needed, log too old",
                    rdb_replication::SeedReason::PartsBelowBase => "step: seed needed, parts below the base",
                    rdb_replication::SeedReason::LostByPermission { .. } => "step: seed needed, lost by permission",
                });
                self.tell(|| format!("db-{node} needs a base copy: {reason:?}"));
                self.node_later(node, 100, event);
            }
            Output::Halt { code, reason } => {
                process.problem(code.as_str(), reason.clone());
                self.checks.halted(node, &reason);
                self.tell(|| format!("db-{node} halts: {reason}"));
            }
        }
        Next::Go
    }

    fn committed(&mut self, node: NodeId, index: Index) {
        let Some(place) = self.nodes.get_mut(&node) else { return };
        let (Some(process), Some(volume)) = (&mut place.process, &place.volume) else { return };
        let Some(core) = &process.core else { return };
        self.checks.committed_by(core, &volume.log, index);
        self.trace.fold(index.0);
        if core.config().is_some_and(|config| config.next.is_some() || core.settled().is_some()) {
            process.report_due = true;
        }
        self.check_copies(node, index);
        self.wake_worker(node);
    }

    fn became(&mut self, node: NodeId, change: RoleChange) {
        let Some(place) = self.nodes.get_mut(&node) else { return };
        let (Some(process), Some(volume)) = (&mut place.process, &place.volume) else { return };
        process.report_due = true;
        if let (RoleChange::Opened { .. }, Some(core)) = (&change, &process.core) {
            let status = &self.api.objects.resource.status;
            self.checks.opened(core, &volume.log, status, self.now);
        }
        if let (RoleChange::Leader { .. }, Some(core)) = (&change, &process.core) {
            self.checks.promoted(core, &volume.log);
        }
        if matches!(change, RoleChange::Opened { .. }) {
            self.check_leases(node);
        }
        let Some(process) = self.process(node) else { return };
        let open = process.core.as_ref().is_some_and(Replica::is_open);
        let was_open = std::mem::replace(&mut process.was_open, open);
        self.hit(match change {
            RoleChange::Follower { .. } if was_open => "step: open leader stepped down",
            RoleChange::Follower { .. } => "step: follower",
            RoleChange::Leader { .. } => "step: promoted",
            RoleChange::Opened { .. } => "step: opened",
            RoleChange::WritesStopped => "step: writes stopped",
            RoleChange::WritesResumed => "step: writes resumed",
        });
        self.tell(|| format!("db-{node} becomes {change:?}"));
        self.wake_worker(node);
    }

    fn begin_flush(&mut self, node: NodeId, generation: u64, upto: Position) {
        let (slow, stuck) = self.nodes.get(&node).map_or((false, false), |place| (place.slow, place.stuck));
        let (low, high) = self.profile.flush;
        let mut delay = self.rng.skewed(low, high);
        if slow {
            delay += self.rng.skewed(10_000, 2_000_000);
        }
        if stuck {
            // As long as the fault lasts: looked at again when the flush would be done.
            delay += 500_000;
        }
        self.node_later(node, delay, NodeEvent::Flushed { generation, upto });
    }

    pub(super) fn flushed(&mut self, node: NodeId, generation: u64, upto: Position) {
        if self.nodes.get(&node).is_some_and(|place| place.stuck) {
            return self.begin_flush(node, generation, upto);
        }
        let Some(process) = self.process(node) else { return };
        if process.generation != generation {
            return;
        }
        if process.fails_flush {
            self.hit("step: a failed flush ended the process");
            return self.end_process(node, "ends: a flush failed");
        }
        if let Some(volume) = self.nodes.get_mut(&node).and_then(|place| place.volume.as_mut()) {
            volume.log.flush_to(upto);
        }
        self.step(node, Input::Persisted { upto });
    }

    pub(super) fn fetch(&mut self, node: NodeId, generation: u64, to: Member, prev: Position, max_bytes: u64) {
        let Some(place) = self.nodes.get(&node) else { return };
        let (Some(process), Some(volume)) = (&place.process, &place.volume) else { return };
        if process.generation == generation {
            // Small reads, so that catching up takes several.
            let entries = volume.log.read(prev, max_bytes.min(16 << 10));
            self.step(node, Input::Fetched { to, prev, entries });
        }
    }

    /// A record's timestamp: the wall clock, counting on where it stands still.
    pub(crate) fn timestamp(&mut self, node: NodeId) -> u64 {
        let wall = (1_700_000_000_000 + self.now / 1000) << 16;
        match self.process(node) {
            Some(process) => {
                process.hybrid = wall.max(process.hybrid + 1);
                process.hybrid
            }
            None => wall,
        }
    }

    fn checks_after_step(&mut self, node: NodeId) {
        if let Some(process) = self.nodes.get(&node).and_then(|place| place.process.as_ref())
            && let Some(core) = &process.core
            && (core.role() == RoleView::Opening || core.is_open())
        {
            self.checks.leads(core, process.boot);
        }
        self.check_late_lease(node);
        if self.process(node).is_some_and(|process| std::mem::take(&mut process.report_due)) {
            self.node_later(node, 500, NodeEvent::Report);
        }
    }
}

/// What a cut tail is reported as.
fn divergence(
    control: &crate::disk::Control,
    log: &crate::disk::SimLog,
    from: Position,
    applied: Index,
) -> DivergenceReport {
    let to = log.last();
    // As the leader that wrote them, this node may have acknowledged all records of the last epoch that it opened in: the hint
    // on disk lags behind.
    #[allow(unused_mut, reason = "changed by a planted bug")]
    let mut wrote = log.epochs().into_iter().find(|end| end.epoch == control.core.opened);
    rdb_protocol::if_planted!(ReceiptMissesRecords => { wrote = None; });
    let acknowledged = control.core.acknowledged.min(to.index).max(wrote.map_or(Index::ZERO, |end| end.index));
    DivergenceReport {
        archive: format!("{}-{}", to.epoch, to.index),
        incarnation: control.core.member.incarnation,
        acknowledged,
        from,
        to,
        complete: applied <= from.index,
    }
}

fn output_tag(output: &Output) -> u64 {
    match output {
        Output::PersistControl(_) => 1,
        Output::Append(entry) => entry.position.chain.0,
        Output::ArchiveTail { .. } => 3,
        Output::Truncate { after } => after.0,
        Output::Sync => 5,
        Output::Send { .. } => 6,
        Output::Fetch { .. } => 7,
        Output::Committed { index } => index.0,
        Output::ProposalRefused { .. } => 9,
        Output::AdminReply { .. } => 10,
        Output::Became(_) => 11,
        Output::Dial { .. } => 12,
        Output::Hangup => 13,
        Output::Disconnect { .. } => 14,
        Output::SeedNeeded { .. } => 15,
        Output::Halt { .. } => 16,
    }
}
