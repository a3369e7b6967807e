//! The leader role: appends, sends, counts copies (rules 3 and 13), keeps the lease and opens. What concerns one follower's
//! stream is in `streams`, config changes are in `config_change`.

use std::collections::{BTreeMap, VecDeque};

use rdb_protocol::admin::Promote;
use rdb_protocol::{ConfigPair, Epoch, Index, Member, Position};
use rdb_record::{Entry, Payload, Record};

use crate::config_change::Settled;
use crate::io::{Output, ProposalRefusal, RoleChange, Time};
use crate::lease::{Evidence, Rounds, is_async};
use crate::message::PeerMessage;
use crate::progress::Progress;
use crate::shared::Shared;
use crate::step::Step;

#[derive(Debug)]
pub(crate) struct Leader {
    pub(crate) epoch: Epoch,
    /// The configs that stand; the same as in the control file.
    pub(crate) config: ConfigPair,
    pub(crate) followers: BTreeMap<Member, Progress>,
    pub(crate) rounds: Rounds,
    /// Highest lease request that the operator answered.
    pub(crate) operator_answered: u64,
    /// Kept up to date by [`Leader::renew_lease`].
    pub(crate) lease_until: Time,
    /// Rule 16: not before the leases of earlier leaders have ended.
    open_not_before: Time,
    pub(crate) opened: bool,
    /// The `EpochStart` record, once it is in the log.
    start: Option<Index>,
    pub(crate) settled: Option<Settled>,
    noop_wanted: bool,
    /// A writer prepares a record on top of the log's end: no other record may come in between.
    pub(crate) reserved: bool,
    pub(crate) writes_stopped_until: Option<Time>,
    next_heartbeat: Time,
    /// (index, when appended) of the records of this epoch that are not committed.
    uncommitted: VecDeque<(Index, Time)>,
}

impl Leader {
    /// Rule 9: the caller has persisted "led e". `EpochStart` is appended by [`Leader::append_own`].
    pub(crate) fn promoted(call: &Promote, now: Time) -> Leader {
        Leader {
            epoch: call.epoch,
            config: call.config.clone(),
            followers: BTreeMap::new(),
            rounds: Rounds::default(),
            operator_answered: 0,
            lease_until: Time(0),
            open_not_before: now.after(std::time::Duration::from_millis(call.lease_wait_ms)),
            opened: false,
            start: None,
            settled: None,
            noop_wanted: false,
            reserved: false,
            writes_stopped_until: None,
            next_heartbeat: now,
            uncommitted: VecDeque::new(),
        }
    }

    // --- records ---

    /// May a write be taken now?
    pub(crate) fn accepts(&self, now: Time, shared: &Shared) -> Result<(), ProposalRefusal> {
        if !self.opened {
            return Err(ProposalRefusal::NotOpen);
        }
        if self.writes_stopped_until.is_some() {
            return Err(ProposalRefusal::WritesStopped);
        }
        rdb_protocol::if_planted!(WritesWithoutLease => { return Ok(()); });
        let needs_lease = self.config.standing().all(|config| is_async(config, shared.member()));
        if needs_lease && !self.lease_valid(now) { Err(ProposalRefusal::NoLease) } else { Ok(()) }
    }

    pub(crate) fn propose(&mut self, step: &mut Step<'_>, entry: Entry) {
        self.reserved = false;
        let position = entry.position;
        let previous = step.shared.last;
        let follows = position.epoch == self.epoch && position.index == previous.index.next();
        let reason = match self.accepts(step.now, step.shared) {
            Err(reason) => Some(reason),
            Ok(()) if !follows => Some(ProposalRefusal::DoesNotFollow),
            Ok(()) => None,
        };
        match reason {
            Some(reason) => step.out.push(Output::ProposalRefused { position, reason }),
            None => {
                // The log checks it once more; between slot and proposal only an append could change it.
                debug_assert!(entry.follows(previous), "encoded on its slot");
                self.append(step, entry);
                step.out.push(Output::Sync);
            }
        }
        self.append_own(step);
    }

    /// Appends, then sends to every follower that has all before it. In this order: what the own log has no room for must
    /// not be in another's, or one index of one epoch could mean two records.
    fn append(&mut self, step: &mut Step<'_>, entry: Entry) {
        let prev = step.shared.last;
        self.uncommitted.push_back((entry.position.index, step.now));
        step.shared.append(entry.clone(), step.out);
        let bytes = entry.bytes.len() as u64;
        let probes_answerable = self.answers_probes(step.now);
        for (member, progress) in &mut self.followers {
            if progress.is_live_at(prev, bytes) {
                progress.sent(entry.position, bytes);
                let answered_probe = take_probe(progress, probes_answerable);
                let message = PeerMessage::Append {
                    epoch: self.epoch,
                    prev,
                    entries: vec![entry.clone()],
                    committed: step.shared.durable.committed,
                    round: self.rounds.newest(),
                    answered_probe,
                };
                step.out.push(Output::Send { to: member.clone(), message });
            }
        }
        self.fetch_for_all(step);
    }

    /// The records that the core makes itself and that are still missing: `EpochStart` first (rule 13), `Config`, `Noop`.
    /// Called again until each found room.
    pub(crate) fn append_own(&mut self, step: &mut Step<'_>) {
        if self.start.is_none() {
            let leader = step.shared.member().clone();
            self.start = Some(self.append_payload(step, Payload::EpochStart { leader }));
        }
        if self.reserved {
            return;
        }
        if let Some(keep) = self.settled.as_ref().and_then(Settled::wants_record) {
            let record = self.append_payload(step, Payload::Config(keep));
            if let Some(settled) = &mut self.settled {
                settled.record = Some(record);
            }
        }
        if self.noop_wanted {
            self.noop_wanted = false;
            self.append_payload(step, Payload::Noop);
        }
    }

    fn append_payload(&mut self, step: &mut Step<'_>, payload: Payload) -> Index {
        let record = Record { timestamp: step.shared.timestamp, content: 0, clients: Vec::new(), payload };
        let entry = record.encode(step.shared.last, self.epoch);
        let index = entry.position.index;
        self.append(step, entry);
        step.out.push(Output::Sync);
        index
    }

    pub(crate) fn noop(&mut self, step: &mut Step<'_>) {
        self.noop_wanted = true;
        self.append_own(step);
    }

    /// The log had no room. Nothing of what was dropped has left this node.
    pub(crate) fn append_refused(&mut self, last: Position) {
        let is_lost = |index: Index| index > last.index;
        self.uncommitted.retain(|(index, _)| !is_lost(*index));
        self.start = self.start.filter(|index| !is_lost(*index));
        if let Some(settled) = &mut self.settled {
            settled.record = settled.record.filter(|index| !is_lost(*index));
        }
        self.followers.values_mut().for_each(|progress| progress.clamp(last));
    }

    // --- commits ---

    /// Rules 3, 13, 15 and 17: the greatest index that is durable under a config that stands, from `EpochStart` on.
    pub(crate) fn advance(&mut self, step: &mut Step<'_>) {
        let flushed = step.shared.flushed.index;
        #[allow(unused_mut, reason = "changed by a planted bug")]
        let mut in_lease = self.lease_valid(step.now);
        rdb_protocol::if_planted!(WritesWithoutLease => { in_lease = true; });
        let copies = |member: &Member| match step.shared.is_self(member) {
            true => flushed.0,
            false => self.followers.get(member).map_or(0, |progress| progress.acknowledged.0),
        };
        let counts = |config: &&rdb_protocol::ClusterConfig| in_lease || !is_async(config, step.shared.member());
        let durable = self.config.standing().filter(counts).map(|config| config.held_by_enough(copies)).max();
        #[cfg(feature = "planted")]
        let durable = self.any_copies(step, durable);
        let index = flushed.min(Index(durable.unwrap_or(0)));
        rdb_protocol::if_planted!(NoEpochStart => {
            if step.commit_to(index) {
                self.say_to_all(step);
            }
        });
        if self.start.is_some_and(|start| index >= start) && step.commit_to(index) {
            while self.uncommitted.front().is_some_and(|(oldest, _)| *oldest <= index) {
                self.uncommitted.pop_front();
            }
            if self.opened {
                let acknowledged = &mut step.shared.durable.acknowledged;
                *acknowledged = index.max(*acknowledged);
            }
            self.say_to_all(step);
        }
        self.open_if_ready(step);
    }

    #[cfg(feature = "planted")]
    fn any_copies(&self, step: &Step<'_>, durable: Option<u64>) -> Option<u64> {
        rdb_protocol::if_planted!(AnyFollowerCounts => {
            let mut held: Vec<u64> = self.followers.values().map(|progress| progress.acknowledged.0).collect();
            held.push(step.shared.flushed.index.0);
            held.sort_unstable_by(|a, b| b.cmp(a));
            return held.get(self.config.current.acks as usize).copied().max(durable);
        });
        durable
    }

    /// Rule 13: `EpochStart` committed and applied; rule 16: every older lease has ended.
    fn open_if_ready(&mut self, step: &mut Step<'_>) {
        let applied =
            self.start.is_some_and(|start| step.shared.applied >= start && step.shared.durable.committed >= start);
        if self.opened || !applied || step.now < self.open_not_before {
            return;
        }
        self.opened = true;
        step.shared.durable.opened = self.epoch;
        step.persist();
        step.out.push(Output::Became(RoleChange::Opened { epoch: self.epoch }));
    }

    // --- time ---

    pub(crate) fn lease_valid(&self, now: Time) -> bool {
        rdb_protocol::if_planted!(ReadsWithoutLease => { return true; });
        now < self.lease_until
    }

    /// A probe is answered only by an open leader with a lease: then all that anyone acknowledged is in `committed`.
    pub(crate) fn answers_probes(&self, now: Time) -> bool {
        self.opened && self.lease_valid(now)
    }

    pub(crate) fn renew_lease(&mut self, shared: &Shared) {
        #[cfg(feature = "planted")]
        let now = shared.now;
        let answered = |member: &Member| self.followers.get(member).map_or(0, |progress| progress.round);
        let evidence = Evidence {
            leader: shared.member(),
            rounds: &self.rounds,
            answered,
            operator: self.operator_answered,
            duration: shared.durable.settings.lease_duration(),
            #[cfg(feature = "planted")]
            now,
        };
        self.lease_until = evidence.until(&self.config);
    }

    pub(crate) fn tick(&mut self, step: &mut Step<'_>) {
        if self.writes_stopped_until.is_some_and(|until| step.now >= until) {
            self.resume_writes(step);
        }
        if step.now >= self.next_heartbeat {
            self.begin_round(step);
            self.say_to_all(step);
        }
        self.fetch_for_all(step);
        self.advance(step);
        self.append_own(step);
    }

    pub(crate) fn begin_round(&mut self, step: &mut Step<'_>) {
        let settings = &step.shared.durable.settings;
        self.next_heartbeat = step.now.after(settings.heartbeat_interval());
        self.rounds.begin(step.now, settings.lease_duration());
        self.renew_lease(step.shared);
    }

    pub(crate) fn resume_writes(&mut self, step: &mut Step<'_>) {
        if self.writes_stopped_until.take().is_some() {
            step.out.push(Output::Became(RoleChange::WritesResumed));
        }
    }

    pub(crate) fn wake_at(&self, now: Time) -> Time {
        let opens = Some(self.open_not_before).filter(|at| !self.opened && *at > now);
        [Some(self.next_heartbeat), self.writes_stopped_until, opens].into_iter().flatten().min().unwrap_or(Time::NEVER)
    }

    pub(crate) fn oldest_uncommitted(&self) -> Option<Time> {
        self.uncommitted.front().map(|(_, since)| *since)
    }

    /// Async mode: the number that an operator's answer must name.
    pub(crate) fn lease_request(&self, shared: &Shared) -> Option<u64> {
        let asks = self.config.standing().any(|config| is_async(config, shared.member()));
        asks.then_some(self.rounds.newest())
    }
}

/// The probe that the next message to this follower answers; 0 = none.
pub(crate) fn take_probe(progress: &mut Progress, answerable: bool) -> u64 {
    if answerable { std::mem::take(&mut progress.probe) } else { 0 }
}
