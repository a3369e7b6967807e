//! Reads. The history is the witness: what a client was shown must be its state at the stated position, and that position
//! must not be before anything that the client may rely on.

use rdb_protocol::{Epoch, Index};

use super::Checks;
use crate::client::{Ask, Key, Level, Reply, Token, UnderWay, Value};
use crate::event::{At, MS};

/// One operation of a client, for the linearizability checker outside.
#[derive(Clone, Debug)]
pub struct Operation {
    pub client: usize,
    pub begun: At,
    /// `None`: nobody knows whether it took effect.
    pub ended: Option<At>,
    pub ask: Ask,
    pub reply: Option<Reply>,
}

/// Histories for the checker outside stay small; a longer one is not exported at all, because a part of it would lack
/// writes that its reads show.
pub(crate) const MAX_OPERATIONS: usize = 1000;

impl Token {
    pub(crate) fn min_by_index(self, other: Token) -> Token {
        if other.index < self.index { other } else { self }
    }

    fn max_by_index(self, other: Token) -> Token {
        if other.index > self.index { other } else { self }
    }
}

impl Checks {
    /// What an operation that begins now must see.
    pub(crate) fn floor(&self) -> Token {
        self.floor
    }

    pub(crate) fn invoked(&mut self, _client: usize, _now: At, _ask: &Ask) {}

    /// Is this token's record part of the history?
    fn alive(&self, token: Token) -> bool {
        token.index == Index::ZERO || self.history.position(token.index).is_some_and(|at| at.epoch == token.epoch)
    }

    /// A node serves a read from its database as it stands at `snapshot`.
    pub(crate) fn read(&mut self, now: At, level: Level, key: Key, value: &Value, snapshot: Token) {
        if !self.alive(snapshot) {
            if self.lossy.is_empty() {
                self.violate(format!("a read at {}/{}, which is not committed", snapshot.epoch, snapshot.index));
            }
            return;
        }
        let expected = self.history.value(key, snapshot.index);
        if expected != *value {
            let at = snapshot.index;
            return self.violate(format!("a read of {key:?} at {at} gives {value:?} instead of {expected:?}"));
        }
        if let Level::Bounded(ms) = level {
            self.bounded(now, ms, snapshot);
        }
    }

    /// Everything that was acknowledged so long ago is shown. The bound is counted by the node's own clock.
    fn bounded(&mut self, now: At, ms: u64, snapshot: Token) {
        let age = ms * MS * 105 / 100 + MS;
        let Some(before) = now.checked_sub(age) else { return };
        let late = self.acknowledged.iter().rev().find(|ack| ack.at < before).copied();
        if let Some(ack) = late.filter(|ack| self.history.changes_between(snapshot.index, ack.index))
            && !self.loss_between(snapshot.epoch, ack.epoch)
        {
            self.violate(format!(
                "a read that may be {ms} ms old shows {}, but {} was acknowledged {} ms before",
                snapshot.index,
                ack.index,
                (now - ack.at) / MS
            ));
        }
    }

    /// A client has its answer, or has given up. Gives the position that its session may build on.
    pub(crate) fn completed(
        &mut self,
        now: At,
        client: usize,
        under_way: &UnderWay,
        session: Token,
        reply: &Reply,
    ) -> Option<Token> {
        self.note(now, client, under_way, reply);
        let floor = Some(under_way.floor).filter(|floor| self.alive(*floor)).unwrap_or_default();
        match (&under_way.ask, reply) {
            (Ask::Write { op, .. }, Reply::Written { position, replayed, .. }) => {
                let lost = self.loss_between(position.epoch, Epoch(u64::MAX));
                if self.history.effect(op.client, op.sequence).is_none() && !lost {
                    self.violate(format!("{}:{} was acknowledged, but never took effect", op.client, op.sequence));
                }
                if !replayed && position.index <= floor.index && self.alive(*position) {
                    let (at, from) = (position.index, floor.index);
                    self.violate(format!("a write that began after {from} was visible took effect at {at}"));
                }
                if !self.alive(*position) {
                    return Some(*position);
                }
                self.floor = self.floor.max_by_index(*position);
                Some(session.max_by_index(*position))
            }
            (Ask::Read { level: Level::Linearizable, .. }, Reply::Value { position, snapshot, .. }) => {
                if !self.alive(*snapshot) {
                    return Some(*position);
                }
                let behind = self.history.changes_between(snapshot.index, floor.index);
                if behind && !self.loss_between(position.epoch, floor.epoch) {
                    self.violate(format!(
                        "a linearizable read in epoch {} shows {}, but {} was visible when it began",
                        position.epoch, snapshot.index, floor.index
                    ));
                }
                self.floor = self.floor.max_by_index(*snapshot);
                Some(session.max_by_index(*snapshot))
            }
            (Ask::Read { level: Level::Session(token), .. }, Reply::Value { position, snapshot, .. }) => {
                if self.alive(*snapshot) && !self.alive(*token) && snapshot.epoch > token.epoch {
                    let (of, at) = (token.epoch, token.index);
                    self.violate(format!("a session was served although its record {of}/{at} was lost"));
                }
                if self.alive(*snapshot) && self.alive(*token) {
                    if self.history.changes_between(snapshot.index, token.index) || position.index < token.index {
                        let (at, from) = (snapshot.index, token.index);
                        self.violate(format!("a session that had seen {from} was shown {at}"));
                    }
                    return Some(*position);
                }
                Some(*position)
            }
            (_, Reply::PositionLost) => Some(Token::default()),
            _ => None,
        }
    }

    fn note(&mut self, now: At, client: usize, under_way: &UnderWay, reply: &Reply) {
        let counts = match &under_way.ask {
            Ask::Write { .. } => *reply != Reply::Refused || under_way.unsure,
            Ask::Read { level: Level::Linearizable, .. } => matches!(reply, Reply::Value { .. }),
            Ask::Read { .. } => false,
        };
        if counts && self.operations.len() <= MAX_OPERATIONS {
            let known = matches!(reply, Reply::Written { .. } | Reply::Value { .. });
            self.operations.push(Operation {
                client,
                begun: under_way.begun,
                ended: known.then_some(now),
                ask: under_way.ask.clone(),
                reply: known.then(|| reply.clone()),
            });
        }
    }
}
