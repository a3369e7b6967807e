//! What every handler needs: the state that all roles share, the time, the log and the outputs so far.

use rdb_protocol::{Index, Member, Position};

use crate::io::{LogView, Output, Time};
use crate::message::PeerMessage;
use crate::shared::Shared;

pub(crate) struct Step<'a> {
    pub(crate) shared: &'a mut Shared,
    pub(crate) now: Time,
    pub(crate) log: &'a dyn LogView,
    pub(crate) out: &'a mut Vec<Output>,
}

impl Step<'_> {
    pub(crate) fn send(&mut self, to: &Member, message: PeerMessage) {
        self.out.push(Output::Send { to: to.clone(), message });
    }

    pub(crate) fn persist(&mut self) {
        self.shared.persist(self.out);
    }

    pub(crate) fn at(&self, index: Index) -> Option<Position> {
        self.shared.at(index, self.log)
    }

    pub(crate) fn commit_to(&mut self, index: Index) -> bool {
        self.shared.commit_to(index, self.out)
    }

    /// Whom this node keeps a connection to.
    pub(crate) fn dial(&mut self, leader: Option<Member>) {
        if self.shared.dialled == leader {
            return;
        }
        self.shared.link_up = false;
        self.shared.dialled.clone_from(&leader);
        self.out.push(match leader {
            Some(leader) => Output::Dial { leader },
            None => Output::Hangup,
        });
    }
}
