//! Liveness: after the faults have ended, is everything as asked for? And then: does everything agree?

use rdb_control::Phase;
use rdb_protocol::settings::{LogFormat, Mode, SyncSet};
use rdb_replication::LogView as _;

use crate::world::World;

impl World {
    /// What is not in order yet; `None` = everything is.
    pub(crate) fn unsettled(&self) -> Option<String> {
        let resource = &self.api.objects.resource;
        let (status, spec) = (&resource.status, &resource.spec);
        if status.phase != Phase::Steady {
            return Some(format!("phase {:?}", status.phase));
        }
        if status.ready_instances != spec.instances || self.api.objects.claims.len() != spec.instances as usize {
            return Some(format!("{} of {} instances are ready", status.ready_instances, spec.instances));
        }
        let pair = status.config.as_ref()?;
        let followers = spec.instances - 1;
        let asked = match spec.replication.mode {
            Mode::Async => 0,
            Mode::SemiSync => spec.replication.sync_followers.min(followers),
            Mode::Sync => followers,
        };
        let one = spec.replication.sync_set == SyncSet::One && spec.replication.mode == Mode::SemiSync;
        let members = if one { asked + 1 } else { spec.instances };
        let current = &pair.current;
        if pair.next.is_some() || current.acks != asked || current.cohort.len() != members as usize {
            return Some(format!("config {} is not what is asked for", current.version));
        }
        if resource.requests != Default::default() {
            return Some(format!("not carried out: {:?}", resource.requests));
        }
        if self.clients.iter().any(|client| client.under_way.is_some()) || !self.clients_end() {
            return Some("clients are at work".to_owned());
        }
        // Where every copy is needed, none is given up for this: the records carry row changes for as long as it takes.
        let spare = current.cohort.len() > current.acks as usize + 1;
        let pages = spare && spec.replication.log_format != LogFormat::Logical;
        if pages && self.nodes.keys().any(|node| self.status_of(*node).is_some_and(|status| status.other_layout)) {
            return Some("a follower has pages of its own".to_owned());
        }
        let ends: Vec<_> =
            self.nodes.values().filter_map(|place| place.volume.as_ref()?.db.as_ref()).map(|db| db.index).collect();
        if ends.iter().any(|end| *end != ends[0]) {
            return Some("databases are behind".to_owned());
        }
        None
    }

    /// Everything is in order: then all logs and databases agree, and every acknowledged write is there once.
    pub(crate) fn final_check(&mut self) {
        let mut first: Option<u64> = None;
        let mut wrong = Vec::new();
        for place in self.nodes.values() {
            let (Some(volume), Some(process)) = (&place.volume, &place.process) else { continue };
            let Some(db) = &volume.db else { continue };
            let content = db.computed();
            if content != db.stated || *first.get_or_insert(content) != content {
                wrong.push(format!("{} holds another content than the others", place.name));
            }
            let committed = process.core.as_ref().map(rdb_replication::Replica::committed).unwrap_or_default();
            if volume.log.position(committed) != self.checks.history.position(committed) {
                wrong.push(format!("{} has another history up to {committed}", place.name));
            }
        }
        for ack in &self.checks.acknowledged {
            if self.checks.history.effect(ack.op.client, ack.op.sequence) != Some(ack.index) {
                wrong.push(format!(
                    "{}:{} was acknowledged at {} and is gone",
                    ack.op.client, ack.op.sequence, ack.index
                ));
            }
        }
        if let Some(message) = wrong.into_iter().next() {
            self.checks.violate(message);
        }
    }
}
