//! Ends of faults and wishes.

use rdb_protocol::settings::Mode;

use crate::event::{Event, Heal, SECOND};
use crate::world::{World, node_name};

impl World {
    pub(crate) fn heal(&mut self, heal: Heal) {
        match heal {
            Heal::Partition(id) => self.cuts.retain(|(held, _)| *held != id),
            Heal::Resume { node, boot } => {
                if self.process(node).is_some_and(|process| process.boot.0 == boot) {
                    self.resume(node);
                }
            }
            Heal::Disk { node } => {
                let place = self.place(node);
                (place.slow, place.stuck) = (false, false);
                if let Some(volume) = &mut place.volume {
                    volume.full = false;
                }
            }
            Heal::HostUp { node } => self.place(node).host_down = false,
            Heal::Operator { operator } => {
                if self.operators.get(operator).is_some_and(|me| me.life == 0) {
                    self.start_operator(operator);
                }
            }
            Heal::ResumeOperator { operator } => self.resume_operator(operator),
            Heal::Api => self.api.down = false,
            Heal::Orphan { node, boot } => {
                if self.process(node).is_some_and(|process| process.boot.0 == boot) {
                    self.end_process(node, "is ended at last, without its pod");
                }
            }
            Heal::Evict { node } => {
                if self.api.objects.draining.contains(&node) {
                    self.delete_pod(node);
                    let delay = self.rng.between(SECOND, 5 * SECOND);
                    self.schedule(delay, Event::Heal(Heal::Uncordon { node }));
                }
            }
            Heal::Uncordon { node } => {
                self.api.objects.draining.remove(&node);
                self.wrote_resource();
            }
            Heal::Unfence { node } => {
                self.api.objects.resource.requests.fence.remove(&node_name(node));
                self.wrote_resource();
            }
            Heal::Maintenance => {
                self.api.objects.resource.spec.maintenance.active = false;
                self.wrote_spec();
            }
            Heal::Unpause => {
                self.api.objects.resource.spec.paused = false;
                self.wrote_spec();
            }
            Heal::WakeUp => {
                self.api.objects.resource.spec.hibernated = false;
                self.wrote_spec();
            }
        }
    }

    /// Every fault ends: from here on the cluster must find its way back.
    pub(crate) fn calm_down(&mut self) {
        self.tell(|| "*** all faults end".to_owned());
        self.calm = true;
        self.cuts.clear();
        self.api.down = false;
        for node in self.nodes.keys().copied().collect::<Vec<_>>() {
            self.heal(Heal::Disk { node });
            self.heal(Heal::HostUp { node });
            self.resume(node);
            if let Some(process) = self.process(node) {
                process.dies_after = None;
                process.fails_flush = false;
            }
        }
        for operator in 0..self.operators.len() {
            self.operators[operator].dies_after = None;
            self.resume_operator(operator);
            self.heal(Heal::Operator { operator });
        }
        let spec = &mut self.api.objects.resource.spec;
        (spec.paused, spec.hibernated, spec.maintenance.active) = (false, false, false);
        if spec.replication.mode == Mode::Async && spec.failover.data_loss.is_some() {
            spec.failover.data_loss = None;
        }
        self.api.objects.resource.requests.fence.clear();
        self.api.objects.draining.clear();
        self.wrote_spec();
        self.schedule(SECOND, Event::Heal(Heal::Api));
    }
}
