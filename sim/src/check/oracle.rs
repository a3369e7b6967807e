//! What only somebody who sees every disk at once can say: are there as many copies as a commit claims, could an old leader
//! still commit when a new one is chosen, does an old lease still run when the new leader opens? Each would be found by its
//! consequences too, but later and more rarely.

use rdb_control::ClusterStatus;
use rdb_protocol::{ClusterConfig, Epoch, Index, Member};
use rdb_replication::{LogView as _, Replica, RoleView};

use crate::disk::Volume;
use crate::event::NodeId;
use crate::world::World;

fn leads(core: &Replica) -> bool {
    matches!(core.role(), RoleView::Opening | RoleView::Open | RoleView::WritesStopped)
}

impl World {
    /// Nobody's data were taken away, and no loss was permitted: the rules hold without exception.
    fn strict(&self, epoch: Epoch) -> bool {
        !self.robbed && !self.checks.loss_between(Epoch::ZERO, epoch)
    }

    /// Rule 3: what a leader announces as committed is on the disks of W+1 members of one of its configs; or was, and the
    /// member has been told to re-seed since it said so: one copy less, as if its disk had been lost a moment later.
    pub(crate) fn check_copies(&mut self, node: NodeId, index: Index) {
        let Some(place) = self.nodes.get(&node) else { return };
        let (Some(process), Some(volume)) = (&place.process, &place.volume) else { return };
        let Some(core) = process.core.as_ref().filter(|core| leads(core) && self.strict(core.epoch())) else { return };
        let (Some(pair), Some(position)) = (core.config(), volume.log.position(index)) else { return };
        let holds = |member: &Member| {
            let volumes = self.nodes.values().filter_map(|place| place.volume.as_ref());
            let is_its = |volume: &&Volume| volume.control.as_ref().is_some_and(|c| c.core.member == *member);
            let mut logs = volumes.filter(is_its).map(|volume| &volume.log).chain(self.given_up.get(member));
            logs.any(|log| {
                let kept = log.position(index) == Some(position) || log.base().index > index;
                kept && log.flushed_position().index >= index
            })
        };
        let enough =
            |config: &ClusterConfig| config.cohort.iter().filter(|member| holds(member)).count() > config.acks as usize;
        let lacks = |place: &crate::world::Node| {
            let (core, log) = (place.process.as_ref()?.core.as_ref()?, &place.volume.as_ref()?.log);
            let later = leads(core) && core.epoch() > position.epoch && self.strict(core.epoch());
            let there = log.position(index) == Some(position) || log.base().index > index;
            (later && !there).then(|| core.member().clone())
        };
        if let Some(later) = self.nodes.values().find_map(lacks) {
            let message = format!("{} commits {position}, which {later} leads without", core.member());
            return self.checks.violate(message);
        }
        if !pair.standing().any(enough) {
            let message = format!("{} announced {position} as committed, which too few disks hold", core.member());
            self.checks.violate(message);
        }
    }

    /// Rules 4 and 15: when a leader is chosen, no earlier one can commit any more, whatever the status says.
    pub(crate) fn check_choice(&mut self, old: &ClusterStatus, new: &ClusterStatus) {
        let permitted = new.loss_epoch == Some(new.epoch) || new.election.as_ref().is_some_and(|e| e.lossy);
        let epoch = new.epoch;
        if new.leader_epoch != epoch || old.leader_epoch == epoch || permitted || !self.strict(epoch) {
            return;
        }
        // It has promised nothing above the epoch of the leader that would ask it. A copy of its volume is not it.
        let free = |member: &Member, of: Epoch| {
            let volumes = self.nodes.values().filter_map(|place| place.volume.as_ref());
            let own =
                volumes.filter_map(|volume| volume.control.as_ref().filter(|control| control.volume == volume.id));
            own.into_iter().any(|control| control.core.member == *member && control.core.promise.epoch <= of)
        };
        let could = self.nodes.values().filter_map(|place| place.process.as_ref()?.core.as_ref()).find(|core| {
            let enough = |config: &ClusterConfig| {
                config.cohort.iter().filter(|member| free(member, core.epoch())).count() > config.acks as usize
            };
            leads(core) && core.epoch() < epoch && core.config().is_some_and(|pair| pair.standing().any(enough))
        });
        if let Some(core) = could {
            let configs = core.config().into_iter().flat_map(rdb_protocol::ConfigPair::standing);
            let configs: Vec<String> = configs.map(crate::node::serve::config).collect();
            let message = format!(
                "a leader is chosen for epoch {epoch}, while {} can still commit in epoch {} under config {}",
                core.member(),
                core.epoch(),
                configs.join(" or ")
            );
            self.checks.violate(message);
        }
    }

    /// Has none of those promised a later epoch from whose answers this leader's lease follows, by one of its configs? By a
    /// person's word a leader can be chosen without any of them, and then no wait of its own ends that lease.
    pub(crate) fn is_unfenced(&self, node: NodeId) -> bool {
        if self.coverage.count("wish: a person accepts a loss") == 0 {
            return false;
        }
        let Some(core) = self.nodes.get(&node).and_then(|place| place.process.as_ref()?.core.as_ref()) else {
            return false;
        };
        let free = |member: &&Member| {
            let controls = self.nodes.values().filter_map(|place| place.volume.as_ref()?.control.as_ref());
            let mut own = controls.filter(|control| control.core.member == **member);
            own.any(|control| control.core.promise.epoch <= core.epoch())
        };
        let others = |config: &ClusterConfig| config.cohort.iter().filter(|m| *m != core.member()).all(|m| free(&m));
        core.config().is_some_and(|pair| pair.standing().any(others))
    }

    /// Rule 5: persist before you speak. Whoever speaks in an epoch has promised it on its disk.
    pub(crate) fn check_promise(&mut self, node: NodeId, epoch: Epoch) {
        let Some(volume) = self.nodes.get(&node).and_then(|place| place.volume.as_ref()) else { return };
        let Some(control) = &volume.control else { return };
        let promised = control.core.promise.epoch;
        if promised < epoch {
            let message = format!("{} speaks in epoch {epoch}, but its disk says {promised}", control.core.member);
            self.checks.violate(message);
        }
    }

    /// Rule 16: after a leader has opened, no earlier one gets a lease.
    pub(crate) fn check_late_lease(&mut self, node: NodeId) {
        let now = self.node_time(node);
        let opened = self.checks.opened_max;
        let Some(core) = self.nodes.get(&node).and_then(|place| place.process.as_ref()?.core.as_ref()) else { return };
        if core.is_open() && core.epoch() < opened && core.lease_valid(now) && self.strict(opened) {
            let message =
                format!("{} has the lease in epoch {} after epoch {opened} opened", core.member(), core.epoch());
            self.checks.violate(message);
        }
    }

    /// Rule 16: no lease of an earlier leader runs when a leader opens.
    pub(crate) fn check_leases(&mut self, node: NodeId) {
        let opened = self.nodes.get(&node).and_then(|place| place.process.as_ref()?.core.as_ref());
        let Some(epoch) = opened.map(Replica::epoch) else { return };
        if !self.strict(epoch) {
            return;
        }
        let holder = self.nodes.iter().find_map(|(other, place)| {
            let core = place.process.as_ref()?.core.as_ref()?;
            let runs = *other != node && core.is_open() && core.epoch() < epoch;
            (runs && core.lease_valid(self.node_time(*other))).then(|| (core.member().clone(), core.epoch()))
        });
        if let Some((member, of)) = holder {
            self.checks.violate(format!("epoch {epoch} opens within the lease that {member} has in epoch {of}"));
        }
    }
}
