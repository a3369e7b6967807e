//! What the steps of the core had to say and was not sent yet.
//!
//! News of a commit alone may wait (see [`super::Node::unlock`]). Whatever follows on the same connection says it as well, so
//! that news that waited until then need not be sent at all.

use std::sync::Arc;

use rdb_replication::PeerMessage;

/// Messages with their connections, in the order of the steps that made them.
pub(super) struct Sends<L> {
    waiting: Vec<(Arc<L>, PeerMessage)>,
    /// Some of it cannot wait for the clients' answers.
    urgent: bool,
    /// The present step said something to followers that carries no record: a heartbeat, or news of a commit.
    said: bool,
}

impl<L> Default for Sends<L> {
    fn default() -> Sends<L> {
        Sends { waiting: Vec::new(), urgent: false, said: false }
    }
}

impl<L> Sends<L> {
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    pub(super) fn is_urgent(&self) -> bool {
        self.urgent
    }

    /// Queues a message behind the others. What it replaces is lost as a message in the network may be.
    pub(super) fn push(&mut self, link: &Arc<L>, mut message: PeerMessage) {
        let before = self.waiting.iter().rposition(|(to, _)| Arc::ptr_eq(to, link));
        if let Some(before) = before
            && let Some((_, old)) = self.waiting.get(before)
            && takes_the_place_of(&mut message, old)
        {
            self.waiting.remove(before);
        }
        match &message {
            PeerMessage::Append { entries, .. } if entries.is_empty() => self.said = true,
            _ => self.urgent = true,
        }
        self.waiting.push((link.clone(), message));
    }

    /// The end of a step: what it said without records was news only if it committed something.
    pub(super) fn end_step(&mut self, committed: bool) {
        self.urgent |= std::mem::take(&mut self.said) && !committed;
    }

    /// Exchanges the messages for the empty `buffer`.
    pub(super) fn take_into(&mut self, buffer: &mut Vec<(Arc<L>, PeerMessage)>) {
        std::mem::swap(buffer, &mut self.waiting);
        self.urgent = false;
    }
}

/// Whether `new` says all that `old`, which would arrive right before it, has to say; made so where that is possible.
fn takes_the_place_of(new: &mut PeerMessage, old: &PeerMessage) -> bool {
    match (new, old) {
        (
            PeerMessage::Append { epoch, committed, round, answered_probe, .. },
            PeerMessage::Append {
                epoch: old_epoch,
                entries,
                committed: old_committed,
                round: old_round,
                answered_probe: old_probe,
                prev: _,
            },
        ) if entries.is_empty() && epoch == old_epoch && *committed >= *old_committed && *round >= *old_round => {
            // All that was acknowledged before the older probe is committed in the newer message, too.
            *answered_probe = (*answered_probe).max(*old_probe);
            true
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use rdb_protocol::{Epoch, Index, Position};
    use rdb_record::{Entry, Payload, Record};

    use super::*;

    fn append(epoch: u64, committed: u64, entries: Vec<Entry>) -> PeerMessage {
        let (epoch, committed) = (Epoch(epoch), Index(committed));
        PeerMessage::Append { epoch, prev: Position::ZERO, entries, committed, round: 1, answered_probe: 0 }
    }

    fn in_round(wanted: u64, mut message: PeerMessage) -> PeerMessage {
        if let PeerMessage::Append { round, .. } = &mut message {
            *round = wanted;
        }
        message
    }

    fn record() -> Vec<Entry> {
        let noop = Record { timestamp: 0, content: 0, clients: Vec::new(), payload: Payload::Noop };
        vec![noop.encode(Position::ZERO, Epoch(1))]
    }

    /// Committed index and number of records of what is sent to `link`.
    fn sent_to(sends: &mut Sends<u8>, link: &Arc<u8>) -> Vec<(u64, usize)> {
        let mut taken = Vec::new();
        sends.take_into(&mut taken);
        of(&taken, link)
    }

    fn of(taken: &[(Arc<u8>, PeerMessage)], link: &Arc<u8>) -> Vec<(u64, usize)> {
        let of_link = taken.iter().filter(|(to, _)| Arc::ptr_eq(to, link));
        of_link
            .map(|(_, message)| match message {
                PeerMessage::Append { committed, entries, .. } => (committed.0, entries.len()),
                other => panic!("{other:?}"),
            })
            .collect()
    }

    #[test]
    fn news_of_a_commit_alone_can_wait_and_nothing_else_can() {
        let link = Arc::new(1);
        let urgent = |message, committed| {
            let mut sends = Sends::<u8>::default();
            sends.push(&link, message);
            sends.end_step(committed);
            sends.is_urgent()
        };
        assert!(!urgent(append(1, 5, vec![]), true));
        assert!(urgent(append(1, 5, vec![]), false), "a heartbeat");
        assert!(urgent(append(1, 5, record()), true));
        assert!(urgent(PeerMessage::Refused { promise: Default::default() }, true));
    }

    #[test]
    fn what_follows_on_the_same_connection_takes_the_place_of_news() {
        let (one, other) = (Arc::new(1), Arc::new(1));
        let mut sends = Sends::default();
        for link in [&one, &other] {
            sends.push(link, append(1, 5, vec![]));
        }
        sends.push(&one, append(1, 6, record()));
        let mut taken = Vec::new();
        sends.take_into(&mut taken);
        assert_eq!(of(&taken, &one), [(6, 1)]);
        assert_eq!(of(&taken, &other), [(5, 0)], "of another connection nothing is left out");
        sends.push(&one, append(1, 6, record()));
        sends.push(&other, append(1, 5, vec![]));
        sends.push(&one, append(1, 7, vec![]));
        assert_eq!(sent_to(&mut sends, &one), [(6, 1), (7, 0)], "records are never left out");
    }

    #[test]
    fn news_that_says_more_stays() {
        let link = Arc::new(1);
        let news = |epoch, committed| append(epoch, committed, vec![]);
        let of_a_round_before = in_round(0, news(1, 6));
        for (old, new) in [(news(2, 5), news(1, 6)), (news(1, 5), news(1, 4)), (news(1, 5), of_a_round_before)] {
            let mut sends = Sends::<u8>::default();
            sends.push(&link, old);
            sends.push(&link, new);
            assert_eq!(sent_to(&mut sends, &link).len(), 2);
        }
    }

    #[test]
    fn news_of_a_later_round_takes_the_place_of_a_heartbeat_and_its_haste() {
        let link = Arc::new(1);
        let mut sends = Sends::<u8>::default();
        sends.push(&link, append(1, 5, vec![]));
        sends.end_step(false);
        sends.push(&link, in_round(2, append(1, 6, vec![])));
        sends.end_step(true);
        assert!(sends.is_urgent());
        assert_eq!(sent_to(&mut sends, &link), [(6, 0)]);
    }

    #[test]
    fn the_answer_to_a_probe_is_kept() {
        let link = Arc::new(1);
        let mut sends = Sends::<u8>::default();
        let mut old = append(1, 5, vec![]);
        if let PeerMessage::Append { answered_probe, .. } = &mut old {
            *answered_probe = 9;
        }
        sends.push(&link, old);
        sends.push(&link, append(1, 6, record()));
        let mut taken = Vec::new();
        sends.take_into(&mut taken);
        assert!(matches!(&taken[..], [(_, PeerMessage::Append { answered_probe: 9, .. })]));
    }
}
