//! The follower role: appends only after a matching record (rule 10), acknowledges what is verified and flushed (rule 11),
//! applies what is committed, verified and flushed (rule 12), and knows how stale it is.

use std::collections::VecDeque;
use std::time::Duration;

use rdb_protocol::{ConfigPair, Epoch, Index, Member, Position};
use rdb_record::Entry;

use crate::io::{HaltCode, Output, SeedReason, Time};
use crate::matching::boundaries;
use crate::message::PeerMessage;
use crate::step::Step;

/// Answered probes whose committed index is not applied yet: at the default heartbeat, 16 seconds of them. When more wait,
/// the newest ones are joined, which can only make this node look staler than it is.
const MAX_PROBES: usize = 64;
/// A connected leader that was heard before counts as silent after so many heartbeats.
const SILENT_HEARTBEATS: u32 = 4;

/// One epoch's follower. A new epoch starts a new one: nothing is verified yet.
#[derive(Debug, Default)]
pub(crate) struct Follower {
    /// The log is known to agree with the leader's up to here.
    verified: Index,
    /// Highest round that was answered.
    round: u64,
    /// Highest committed index that the leader stated.
    stated: Index,
    /// Index of the last `Ack`.
    acknowledged: Index,
    heard_at: Option<Time>,
    hello_at: Option<Time>,
    seed_needed: bool,
    /// Answered probes: when they were sent, and what must be applied before they count.
    probes: VecDeque<(Time, Index)>,
    /// All that was acknowledged before this time can be read here.
    fresh_at: Option<Time>,
}

/// An [`PeerMessage::Append`] without its epoch, which was checked.
pub(crate) struct Append {
    pub(crate) prev: Position,
    pub(crate) entries: Vec<Entry>,
    pub(crate) committed: Index,
    pub(crate) round: u64,
    pub(crate) answered_probe: u64,
}

/// What rule 10 says to an append.
enum Verdict {
    /// The log has no record `prev`.
    Mismatch,
    /// The records from here on in the message are new.
    Extend { from: usize },
    /// As above, after a cut of the own records from `at` on.
    Cut { at: Index, from: usize },
    /// The leader contradicts itself.
    Nonsense,
}

impl Follower {
    pub(crate) fn hello(&mut self, step: &mut Step<'_>, leader: &Member) {
        self.hello_at = Some(step.now);
        let message = PeerMessage::Hello {
            to: leader.clone(),
            cluster: step.shared.durable.cluster,
            promise: step.shared.durable.promise.clone(),
            base: step.log.base(),
            boundaries: boundaries(step.log),
        };
        step.send(leader, message);
    }

    pub(crate) fn append(&mut self, step: &mut Step<'_>, from: &Member, epoch: Epoch, append: Append) {
        let Append { prev, entries, committed, round, answered_probe } = append;
        self.heard_at = Some(step.now);
        let new_from = match self.verdict(step, epoch, prev, &entries) {
            Verdict::Nonsense => return,
            Verdict::Mismatch => {
                let (base, boundaries) = (step.log.base(), boundaries(step.log));
                step.send(from, PeerMessage::Mismatch { epoch, base, boundaries });
                self.answer_round(step, from, round);
                return;
            }
            Verdict::Extend { from } => from,
            Verdict::Cut { at, from: new_from } => {
                if !self.cut(step, from, at) {
                    return;
                }
                new_from
            }
        };
        // All that relies on what is flushed goes out before the appends, which the disk may have no room for.
        let known = entries[..new_from].last().map_or(prev.index, |entry| entry.position.index);
        self.verified = self.verified.max(known);
        self.stated = self.stated.max(committed);
        self.apply_more(step);
        self.note_answered_probe(step, answered_probe, committed);
        let repeats = new_from > 0 && new_from == entries.len();
        if round > self.round || repeats {
            self.ack(step, from, round);
        }
        rdb_protocol::if_planted!(CutsAlways => {
            if repeats && step.shared.last.index > known {
                let from = step.at(known).unwrap_or(Position::ZERO);
                step.out.push(Output::Truncate { after: known });
                step.shared.last = from;
                if step.shared.flushed.index > known {
                    step.shared.flushed = from;
                }
                self.verified = known;
                return;
            }
        });
        self.extend(step, entries.into_iter().skip(new_from));
    }

    fn extend(&mut self, step: &mut Step<'_>, entries: impl Iterator<Item = Entry>) {
        let mut extended = false;
        for entry in entries {
            if !entry.follows(step.shared.last) {
                // Damaged on the way or at the leader: the rest is not taken, and the next message will not match.
                break;
            }
            self.verified = entry.position.index;
            step.shared.append(entry, step.out);
            extended = true;
        }
        if extended {
            step.out.push(Output::Sync);
            rdb_protocol::if_planted!(AcknowledgedBeforeFlush => {
                if let Some(leader) = step.shared.dialled.clone() {
                    let position = step.shared.last;
                    let epoch = step.shared.promised();
                    step.send(&leader, PeerMessage::Ack { epoch, position, round: self.round, probe: step.now.0 });
                }
            });
        }
    }

    /// Rule 10: compares by epoch, index and chain. Skips what it has; finds the first record that differs.
    fn verdict(&self, step: &Step<'_>, epoch: Epoch, prev: Position, entries: &[Entry]) -> Verdict {
        // Below the own first record nothing can be compared; index 0 without records says nothing and always matches.
        let below_base = prev.index < step.log.base().index && !entries.is_empty();
        if below_base || step.at(prev.index) != Some(prev) {
            return Verdict::Mismatch;
        }
        let mut expected = prev.index;
        for (number, entry) in entries.iter().enumerate() {
            let Position { epoch: of_entry, index, chain: _ } = entry.position;
            expected = expected.next();
            if index != expected || of_entry > epoch {
                return Verdict::Nonsense;
            }
            match step.at(index) {
                Some(ours) if ours == entry.position => {}
                Some(_) if index <= self.verified => return Verdict::Nonsense,
                Some(_) => return Verdict::Cut { at: index, from: number },
                None => return Verdict::Extend { from: number },
            }
        }
        Verdict::Extend { from: entries.len() }
    }

    /// Cuts the tail from `at` on, after it was archived. Not below what is known to be committed: that is either the end of
    /// this copy, by permission, or a broken promise of the protocol.
    fn cut(&mut self, step: &mut Step<'_>, leader: &Member, at: Index) -> bool {
        let after = at.previous();
        let Some(from) = step.at(after) else { return false };
        if at <= step.shared.durable.committed {
            self.lost(step, leader, from);
            return false;
        }
        step.out.push(Output::ArchiveTail { from });
        step.out.push(Output::Truncate { after });
        step.shared.last = from;
        if step.shared.flushed.index > after {
            step.shared.flushed = from;
        }
        true
    }

    /// Records after `from` that this node knows as committed are not in the leader's log.
    fn lost(&mut self, step: &mut Step<'_>, leader: &Member, from: Position) {
        let committed = step.shared.durable.committed;
        if step.shared.durable.loss_permitted {
            if !self.seed_needed {
                step.out.push(Output::ArchiveTail { from });
                self.need_seed(step, leader, SeedReason::LostByPermission { from, committed });
            }
            return;
        }
        step.shared.halted = true;
        let reason = format!(
            "leader {leader} of epoch {} has another history after {from}, but this node knows index {committed} as committed",
            step.shared.promised(),
        );
        step.out.push(Output::Halt { code: HaltCode::CutBelowCommitted, reason });
        step.dial(None);
    }

    fn need_seed(&mut self, step: &mut Step<'_>, leader: &Member, reason: SeedReason) {
        if !std::mem::replace(&mut self.seed_needed, true) {
            step.out.push(Output::SeedNeeded { leader: leader.clone(), reason });
        }
    }

    pub(crate) fn seed_required(&mut self, step: &mut Step<'_>, from: &Member, first_retained: Index) {
        self.heard_at = Some(step.now);
        let base = step.log.base();
        if base.index.next() < first_retained {
            return self.need_seed(step, from, SeedReason::Behind { first_retained });
        }
        // The leader still has the place of our base, which is committed, and it is another record.
        if base.index <= step.shared.durable.committed {
            return self.lost(step, from, base);
        }
        self.need_seed(step, from, SeedReason::PartsBelowBase);
    }

    pub(crate) fn config(&mut self, step: &mut Step<'_>, config: ConfigPair) {
        self.heard_at = Some(step.now);
        if step.shared.durable.config.as_ref() != Some(&config) {
            step.shared.durable.config = Some(config);
            step.persist();
        }
    }

    fn answer_round(&mut self, step: &mut Step<'_>, leader: &Member, round: u64) {
        if round > self.round {
            self.ack(step, leader, round);
        }
    }

    /// Rule 11: of what is verified in this epoch and flushed, the lesser.
    fn ack(&mut self, step: &mut Step<'_>, leader: &Member, round: u64) {
        self.round = self.round.max(round);
        #[allow(unused_mut, reason = "changed by a planted bug")]
        let mut index = self.verified.min(step.shared.flushed.index);
        rdb_protocol::if_planted!(AcknowledgedBeforeFlush => { index = self.verified; });
        let position = step.at(index).unwrap_or(Position::ZERO);
        self.acknowledged = position.index;
        step.shared.answered_at = step.now;
        let epoch = step.shared.promised();
        step.send(leader, PeerMessage::Ack { epoch, position, round: self.round, probe: step.now.0 });
    }

    /// The disk has more: acknowledge it, and apply what was only waiting for that.
    pub(crate) fn persisted(&mut self, step: &mut Step<'_>) {
        let leader = step.shared.dialled.clone().filter(|_| step.shared.link_up);
        if let Some(leader) = leader
            && self.verified.min(step.shared.flushed.index) > self.acknowledged
        {
            self.ack(step, &leader, self.round);
        }
        self.apply_more(step);
    }

    /// Rule 12. And flushed: a database that is ahead of its own log could not be explained after a crash.
    fn apply_more(&mut self, step: &mut Step<'_>) {
        rdb_protocol::if_planted!(UnmatchedApply => {
            step.commit_to(self.stated.min(step.shared.flushed.index));
            return;
        });
        step.commit_to(self.stated.min(self.verified).min(step.shared.flushed.index));
    }

    pub(crate) fn append_refused(&mut self, last: Position) {
        self.verified = self.verified.min(last.index);
    }

    // --- staleness ---

    /// A leader with a lease got the probe that we sent at `probe` (our own clock), and all that anyone had acknowledged by
    /// then is at or below `committed`.
    fn note_answered_probe(&mut self, step: &mut Step<'_>, probe: u64, committed: Index) {
        let newest = self.probes.back().map(|(sent, _)| *sent).or(self.fresh_at);
        let (sent, is_ours) = (Time(probe), probe > 0 && probe <= step.now.0);
        if !is_ours || newest.is_some_and(|newest| sent <= newest) {
            return;
        }
        if self.probes.len() >= MAX_PROBES {
            self.probes.pop_back();
        }
        self.probes.push_back((sent, committed));
        self.applied(step.shared.applied);
    }

    pub(crate) fn applied(&mut self, applied: Index) {
        while let Some((sent, needs)) = self.probes.front().copied()
            && needs <= applied
        {
            self.fresh_at = Some(sent);
            self.probes.pop_front();
        }
    }

    pub(crate) fn staleness(&self, now: Time) -> Option<Duration> {
        self.fresh_at.map(|at| now.since(at))
    }

    #[cfg(feature = "planted")]
    pub(crate) fn verified(&self) -> Index {
        self.verified
    }

    pub(crate) fn heard_at(&self) -> Option<Time> {
        self.heard_at
    }

    /// It has all that the leader had committed when it last spoke.
    pub(crate) fn has_all(&self) -> bool {
        self.heard_at.is_some() && self.verified >= self.stated && !self.seed_needed
    }

    // --- greeting ---

    /// When to say `Hello` again to a leader that is connected but silent: it may have been promoted only since. One that knows
    /// us takes it as a question and sends nothing twice, so a record that is long on its way is not asked for again.
    pub(crate) fn hello_due(&self, heartbeat: Duration) -> Option<Time> {
        let hello = self.hello_at?.after(heartbeat);
        let heard = self.heard_at.map(|at| at.after(heartbeat * SILENT_HEARTBEATS));
        Some(heard.map_or(hello, |heard| heard.max(hello)))
    }
}
