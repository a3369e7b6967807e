//! What people ask for, by the spec or a request.

use crate::event::{Event, Heal};
use crate::plan::Wish;
use crate::world::{World, node_name};

impl World {
    pub(super) fn wish(&mut self, wish: Wish) -> bool {
        let found = match wish {
            Wish::Switchover(target) | Wish::Reseed(target) | Wish::Fence(target, _) | Wish::Drain(target, _) => {
                match self.find(target) {
                    Some(node) => Some(node_name(node)),
                    None => return false,
                }
            }
            _ => None,
        };
        let resource = &mut self.api.objects.resource;
        match (wish, found) {
            (Wish::Switchover(_), name) => resource.requests.switchover = name,
            (Wish::Reseed(_), name) => resource.requests.reseed = name,
            (Wish::Fence(_, span), Some(name)) => {
                resource.requests.fence.insert(name.clone());
                let node = crate::world::node_id(&name);
                self.schedule(span, Event::Heal(Heal::Unfence { node }));
            }
            (Wish::Instances(count), _) => {
                resource.spec.instances = count;
                if count > 1 {
                    let most = count - 1;
                    let replication = &mut resource.spec.replication;
                    replication.sync_followers = replication.sync_followers.min(most);
                    replication.min_sync_followers = replication.min_sync_followers.min(replication.sync_followers);
                }
            }
            (Wish::Mode(mode), _) => resource.spec.replication.mode = mode,
            (Wish::SyncSet(set), _) => resource.spec.replication.sync_set = set,
            (Wish::WhenUnavailable(when), _) => resource.spec.replication.when_unavailable = when,
            (Wish::Format(format), _) => resource.spec.replication.log_format = format,
            (Wish::Maintenance(span), _) => {
                resource.spec.maintenance.active = true;
                self.schedule(span, Event::Heal(Heal::Maintenance));
            }
            (Wish::Paused(span), _) => {
                resource.spec.paused = true;
                self.schedule(span, Event::Heal(Heal::Unpause));
            }
            (Wish::Hibernate(span), _) => {
                resource.spec.hibernated = true;
                self.schedule(span, Event::Heal(Heal::WakeUp));
            }
            (Wish::Upgrade, _) => resource.image += 1,
            (Wish::Drain(_, span), Some(name)) => {
                let node = crate::world::node_id(&name);
                self.api.objects.draining.insert(node);
                self.schedule(span, Event::Heal(Heal::Evict { node }));
            }
            (Wish::Fence(..) | Wish::Drain(..), None) => return false,
        }
        self.wrote_spec();
        true
    }

    pub(super) fn wrote_spec(&mut self) {
        self.api.objects.resource.generation += 1;
        self.wrote_resource();
    }
}
