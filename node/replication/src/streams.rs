//! A leader and its followers' streams: `Hello`, finding the match point, records old and new, acknowledgements, heartbeats.

use rdb_protocol::{Index, Member, Position};
use rdb_record::Entry;

use crate::io::{Output, Time};
use crate::leader::{Leader, take_probe};
use crate::matching::{Match, last_common};
use crate::message::PeerMessage;
use crate::step::Step;

impl Leader {
    /// A follower of this epoch or a lower one joins. It raises its promise with the first message it gets.
    pub(crate) fn hello(&mut self, step: &mut Step<'_>, from: &Member, base: Position, boundaries: &[Position]) {
        // Caught up = has what was committed when it asked; before opening nothing of this epoch is, so all that there is.
        let joins_at = if self.opened { step.shared.durable.committed } else { step.shared.last.index };
        let progress = self.followers.entry(from.clone()).or_default();
        if progress.connected && progress.matched {
            // Repeated on the same connection: nothing is lost, and what is on the way will arrive.
            return self.say(step, from);
        }
        progress.disconnected();
        progress.connected = true;
        progress.joins_at = joins_at;
        rdb_protocol::if_planted!(HelloCounts => {
            let stated = boundaries.last().copied().unwrap_or(base).index;
            progress.acknowledged(stated.min(step.shared.last.index));
        });
        step.send(from, PeerMessage::Config { epoch: self.epoch, config: self.config.clone() });
        self.compare(step, from, base, boundaries);
    }

    /// The follower lacks the record before those that it was sent: a message was lost.
    pub(crate) fn mismatch(&mut self, step: &mut Step<'_>, from: &Member, base: Position, boundaries: &[Position]) {
        let pause = step.shared.durable.settings.heartbeat_interval();
        let Some(progress) = self.followers.get_mut(from).filter(|progress| progress.connected) else { return };
        if progress.matched && step.now < progress.compared_at.after(pause) {
            // The next heartbeat brings the next mismatch; answering each at once could go round at full speed.
            return;
        }
        self.compare(step, from, base, boundaries);
    }

    fn compare(&mut self, step: &mut Step<'_>, from: &Member, base: Position, boundaries: &[Position]) {
        let Some(progress) = self.followers.get_mut(from) else { return };
        progress.compared_at = step.now;
        match last_common(step.log, base, boundaries) {
            Match::At(common) => {
                progress.resume_after(common);
                self.say(step, from);
                self.fetch_for(step, from);
            }
            Match::SeedRequired => self.require_seed(step, from),
        }
    }

    fn require_seed(&mut self, step: &mut Step<'_>, from: &Member) {
        if let Some(progress) = self.followers.get_mut(from) {
            progress.matched = false;
        }
        let first_retained = step.log.base().index.next();
        step.send(from, PeerMessage::SeedRequired { epoch: self.epoch, first_retained });
    }

    /// Rule 11: an acknowledgement of this epoch, from a log that agrees with ours.
    pub(crate) fn ack(&mut self, step: &mut Step<'_>, from: &Member, position: Position, round: u64, probe: u64) {
        let agrees = position.index == Index::ZERO || step.at(position.index) == Some(position);
        let Some(progress) = self.followers.get_mut(from).filter(|_| agrees) else { return };
        progress.answered_at = Some(step.now);
        progress.probe = progress.probe.max(probe);
        progress.acknowledged(position.index);
        if round > progress.round && round <= self.rounds.newest() {
            progress.round = round;
            self.renew_lease(step.shared);
        }
        self.fetch_for(step, from);
        self.advance(step);
    }

    /// Records that were read for a follower.
    pub(crate) fn fetched(&mut self, step: &mut Step<'_>, to: &Member, prev: Position, entries: Vec<Entry>) {
        let answerable = self.answers_probes(step.now);
        let Some(progress) = self.followers.get_mut(to) else { return };
        if !progress.fetching || progress.sent != prev {
            return; // asked for before it reconnected
        }
        progress.fetching = false;
        let Some(last) = entries.last().map(|entry| entry.position) else {
            // Retention overtook the read, or the disk failed it: the next tick tries again.
            if prev.index < step.log.base().index {
                self.require_seed(step, to);
            }
            return;
        };
        progress.sent(last, entries.iter().map(|entry| entry.bytes.len() as u64).sum());
        let message = PeerMessage::Append {
            epoch: self.epoch,
            prev,
            entries,
            committed: step.shared.durable.committed,
            round: self.rounds.newest(),
            answered_probe: take_probe(progress, answerable),
        };
        step.send(to, message);
        self.fetch_for(step, to);
    }

    pub(crate) fn fetch_for(&mut self, step: &mut Step<'_>, to: &Member) {
        let last = step.shared.last;
        let Some(progress) = self.followers.get_mut(to) else { return };
        if let Some(max_bytes) = progress.wants(last) {
            progress.fetching = true;
            step.out.push(Output::Fetch { to: to.clone(), prev: progress.sent, max_bytes });
        }
    }

    pub(crate) fn fetch_for_all(&mut self, step: &mut Step<'_>) {
        let last = step.shared.last;
        for (member, progress) in &mut self.followers {
            if let Some(max_bytes) = progress.wants(last) {
                progress.fetching = true;
                step.out.push(Output::Fetch { to: member.clone(), prev: progress.sent, max_bytes });
            }
        }
    }

    /// Tells every follower the present round and committed index.
    pub(crate) fn say_to_all(&mut self, step: &mut Step<'_>) {
        let answerable = self.answers_probes(step.now);
        for (member, progress) in &mut self.followers {
            if progress.connected {
                let message = PeerMessage::Append {
                    epoch: self.epoch,
                    // A follower whose log does not meet ours still hears that there is a leader.
                    prev: if progress.matched { progress.sent } else { Position::ZERO },
                    entries: Vec::new(),
                    committed: step.shared.durable.committed,
                    round: self.rounds.newest(),
                    answered_probe: take_probe(progress, answerable),
                };
                step.out.push(Output::Send { to: member.clone(), message });
            }
        }
    }

    fn say(&mut self, step: &mut Step<'_>, to: &Member) {
        let answerable = self.answers_probes(step.now);
        let Some(progress) = self.followers.get_mut(to) else { return };
        let message = PeerMessage::Append {
            epoch: self.epoch,
            prev: progress.sent,
            entries: Vec::new(),
            committed: step.shared.durable.committed,
            round: self.rounds.newest(),
            answered_probe: take_probe(progress, answerable),
        };
        step.send(to, message);
    }

    pub(crate) fn peer_down(&mut self, member: &Member) {
        if let Some(progress) = self.followers.get_mut(member) {
            progress.disconnected();
        }
    }

    /// The configs changed: every control file should have them.
    pub(crate) fn announce_config(&mut self, step: &mut Step<'_>) {
        for member in self.followers.iter().filter(|(_, progress)| progress.connected).map(|(member, _)| member) {
            let message = PeerMessage::Config { epoch: self.epoch, config: self.config.clone() };
            step.out.push(Output::Send { to: member.clone(), message });
        }
    }

    /// The lowest index that somebody who counts, or was seen in this epoch, still needs.
    pub(crate) fn needed_from(&self, me: &Member) -> Index {
        let unseen = self.config.standing().flat_map(|config| &config.cohort);
        let lacks_all =
            unseen.filter(|member| *member != me && !self.followers.contains_key(member)).map(|_| Index::ZERO);
        let seen = self.followers.values().map(|progress| progress.acknowledged.next());
        lacks_all.chain(seen).min().unwrap_or(Index(u64::MAX))
    }

    pub(crate) fn answered_ms_ago(&self, member: &Member, now: Time) -> Option<u64> {
        self.followers.get(member)?.answered_at.map(|at| now.millis_since(at))
    }
}
