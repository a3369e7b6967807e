//! Cuts in the network.

use crate::event::{At, Event, Heal};
use crate::net::{Blocked, Place};
use crate::plan::Cut;
use crate::world::World;

impl World {
    pub(super) fn cut(&mut self, cut: Cut, span: At) -> bool {
        let Some(blocked) = self.blocked(cut) else { return false };
        let id = self.fresh_id();
        self.cuts.push((id, blocked));
        self.schedule(span, Event::Heal(Heal::Partition(id)));
        true
    }

    fn places(&self) -> Vec<Place> {
        let nodes = self.nodes.keys().map(|node| Place::Node(*node));
        let operators = (0..self.operators.len()).map(Place::Operator);
        nodes.chain(operators).chain([Place::Clients, Place::Api]).collect()
    }

    fn blocked(&self, cut: Cut) -> Option<Blocked> {
        let places = self.places();
        let others = |me: Place| places.iter().copied().filter(move |place| *place != me);
        let both = |a: Place, b: Place| [(a, b), (b, a)];
        let is_node = |place: &Place| matches!(place, Place::Node(_));
        let is_operator = |place: &Place| matches!(place, Place::Operator(_));
        let node = |target| self.find(target).map(Place::Node);
        let operator = |which: u64| Place::Operator(which as usize % self.operators.len().max(1));
        Some(match cut {
            Cut::Isolated(target) => {
                let me = node(target)?;
                others(me).flat_map(|other| both(me, other)).collect()
            }
            Cut::Marooned(target) => {
                let me = node(target)?;
                let near = |place: &Place| is_node(place) || is_operator(place);
                others(me).filter(near).flat_map(|other| both(me, other)).collect()
            }
            Cut::Unobserved(target) => {
                let me = node(target)?;
                others(me).filter(is_operator).flat_map(|other| both(me, other)).collect()
            }
            Cut::Untold(target) => {
                let me = node(target)?;
                others(me).filter(is_operator).map(|other| (other, me)).collect()
            }
            Cut::Unpeered(target) => {
                let me = node(target)?;
                others(me).filter(is_node).flat_map(|other| both(me, other)).collect()
            }
            Cut::Mute(target) => {
                let me = node(target)?;
                others(me).map(|other| (me, other)).collect()
            }
            Cut::Deaf(target) => {
                let me = node(target)?;
                others(me).map(|other| (other, me)).collect()
            }
            Cut::Split(mask) => {
                let side = |at: usize| mask >> (at % 64) & 1;
                let mut blocked = Blocked::new();
                for (a, one) in places.iter().enumerate() {
                    for (b, other) in places.iter().enumerate() {
                        let clients = *one == Place::Clients || *other == Place::Clients;
                        if side(a) != side(b) && !clients {
                            blocked.insert((*one, *other));
                        }
                    }
                }
                blocked
            }
            Cut::OperatorFromApi(which) => both(operator(which), Place::Api).into_iter().collect(),
            Cut::OperatorFromNodes(which) => {
                let me = operator(which);
                others(me).filter(is_node).flat_map(|other| both(me, other)).collect()
            }
        })
    }
}
