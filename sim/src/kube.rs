//! The rest of Kubernetes: the API server's answers, and the kubelets that run containers.

use crate::api::{Claim, Objects, Pod};
use crate::disk::Volume;
use crate::event::{ApiRequest, At, Event, KubeletEvent, MS, NodeId, ObjectAction, OperatorEvent, SECOND, SwapError};
use crate::net::Place;
use crate::operator::watch::LEASE;
use crate::world::World;

/// Snapshots kept, as `snapshots.keep` would.
const KEEP_SNAPSHOTS: usize = 3;
/// States that a restore may go back to.
const KEEP_BACKUPS: usize = 12;
/// A container that lived so long is restarted without a back-off.
const LIVED: At = 30 * SECOND;
/// The longest back-off; a real kubelet goes up to five minutes, which teaches nothing more.
const MAX_BACKOFF: At = 20 * SECOND;
/// How long a terminating container may take.
const GRACE: At = 5 * SECOND;

impl World {
    // --- the API server ---

    pub(crate) fn api_request(&mut self, operator: usize, life: u64, request: ApiRequest) {
        if self.api.down {
            return;
        }
        let answer = match request {
            ApiRequest::Swap { order: _, version, status } => {
                #[allow(unused_mut, reason = "changed by a planted bug")]
                let mut current = version == self.api.objects.resource.version;
                rdb_protocol::if_planted!(NoCompareAndSwap => { current = true; });
                if current {
                    let old = self.api.objects.resource.status.clone();
                    self.checks.swapped(&old, &status);
                    self.check_choice(&old, &status);
                    self.tell_swap(&status);
                    self.api.objects.resource.status = *status;
                    self.api.wrote_resource();
                    self.back_up();
                    self.notify();
                    OperatorEvent::Swapped(Ok(Box::new(self.api.objects.clone())))
                } else {
                    OperatorEvent::Swapped(Err(SwapError::Conflict))
                }
            }
            ApiRequest::Read { .. } => OperatorEvent::Objects(Box::new(self.read_maybe_stale())),
            ApiRequest::Lease { asked_at } => {
                let held = self.give_lease(operator, life);
                OperatorEvent::Lease { held, asked_at }
            }
            ApiRequest::Act(action) => return self.act_on_objects(action),
        };
        if let Some(delay) = self.passes(Place::Api, Place::Operator(operator)) {
            self.schedule(delay, Event::Operator { operator, life, event: answer });
        }
    }

    fn tell_swap(&mut self, status: &rdb_control::ClusterStatus) {
        let old = &self.api.objects.resource.status;
        let same = (old.phase, old.epoch, old.leader_epoch, &old.config)
            == (status.phase, status.epoch, status.leader_epoch, &status.config);
        if !self.trace.telling() || same {
            return;
        }
        let leader = status.leader.as_ref().map_or("none", |leader| leader.name.as_str());
        let configs = status.config.as_ref().map(crate::node::serve::configs);
        let line = format!(
            "the status says: {:?}, epoch {}, leader {leader} of {}, config {}",
            status.phase,
            status.epoch,
            status.leader_epoch,
            configs.unwrap_or_default()
        );
        self.tell(|| line);
    }

    /// A cache of the API server may lag behind.
    fn read_maybe_stale(&mut self) -> Objects {
        let mut objects = self.api.objects.clone();
        if self.rng.chance(self.calmly(50))
            && let Some(old) = self.api.backups.last()
        {
            objects.resource = old.clone();
            objects.revision = old.version;
            self.hit("API: stale read");
        }
        objects
    }

    fn back_up(&mut self) {
        // Backups of a cluster that has been open: before that there is nothing to lose.
        if self.api.objects.resource.status.opened.is_some() && self.rng.chance(200) {
            self.api.backups.push(self.api.objects.resource.clone());
            if self.api.backups.len() > KEEP_BACKUPS {
                self.api.backups.remove(0);
            }
        }
    }

    fn give_lease(&mut self, operator: usize, life: u64) -> bool {
        let free = match self.api.lease {
            Some((holder, of, renewed)) => (holder, of) == (operator, life) || self.now > renewed + LEASE,
            None => true,
        };
        if free {
            self.api.lease = Some((operator, life, self.now));
        }
        free
    }

    /// Watches bring every change, sooner or later.
    pub(crate) fn notify(&mut self) {
        for operator in 0..self.operators.len() {
            let life = self.operators[operator].life;
            if life == 0 || self.api.down {
                continue;
            }
            if let Some(mut delay) = self.passes(Place::Api, Place::Operator(operator)) {
                if self.rng.chance(self.calmly(100)) {
                    delay += self.rng.skewed(0, 5 * SECOND);
                }
                let event = OperatorEvent::Objects(Box::new(self.api.objects.clone()));
                self.schedule(delay, Event::Operator { operator, life, event });
            }
        }
    }

    /// Somebody wrote an object that is not the resource.
    fn wrote(&mut self) {
        self.api.wrote();
        self.notify();
    }

    /// Somebody wrote the resource: its spec or a request.
    pub(crate) fn wrote_resource(&mut self) {
        self.api.wrote_resource();
        self.notify();
    }

    fn act_on_objects(&mut self, action: ObjectAction) {
        match action {
            ObjectAction::Create { node } => {
                if !self.api.objects.claims.contains_key(&node) {
                    self.create_claim(node);
                    self.hit("object: instance created");
                }
                self.create_pod(node);
            }
            ObjectAction::Start { node } => self.create_pod(node),
            // The next plan starts it again, from the present template.
            ObjectAction::Recreate { node } => {
                self.hit("object: pod renewed");
                self.delete_pod(node);
            }
            ObjectAction::Stop { node } => self.delete_pod(node),
            ObjectAction::Delete { node, claim } => {
                let Some(held) = self.api.objects.claims.get_mut(&node) else { return };
                if claim.is_some_and(|claim| claim != held.uid) {
                    return;
                }
                held.deleting = true;
                self.hit("object: instance deleted");
                self.delete_pod(node);
                self.wrote();
                self.remove_if_free(node);
            }
            ObjectAction::Clear(kind) => {
                let requests = &mut self.api.objects.resource.requests;
                match kind {
                    rdb_control::RequestKind::Switchover => requests.switchover = None,
                    rdb_control::RequestKind::Reseed => requests.reseed = None,
                    rdb_control::RequestKind::AcceptDataLoss => requests.accept_data_loss = None,
                }
                self.wrote_resource();
            }
        }
    }

    /// A claim with an empty volume, or one made from the newest snapshot.
    pub(crate) fn create_claim(&mut self, node: NodeId) {
        let uid = self.api.uid();
        let mut volume = Volume::empty(uid);
        let cluster = self.api.objects.resource.status.cluster;
        let usable = self.api.snapshots.last().filter(|snapshot| Some(snapshot.labels.cluster) == cluster);
        if let Some(snapshot) = usable.cloned()
            && self.rng.chance(700)
        {
            volume = snapshot.volume;
            volume.id = uid;
            volume.seed_from = Some(snapshot.labels);
            self.hit("object: volume made from a snapshot");
        }
        self.place(node).volume = Some(volume);
        self.api.objects.claims.insert(node, Claim { uid, deleting: false });
        self.wrote();
    }

    fn create_pod(&mut self, node: NodeId) {
        if self.api.objects.pods.contains_key(&node) || !self.api.objects.claims.contains_key(&node) {
            return;
        }
        let (uid, image) = (self.api.uid(), self.api.objects.resource.image);
        self.api.objects.pods.insert(node, Pod { uid, deleting: false, terminated: Vec::new(), image });
        self.wrote();
        self.place(node).restarts = 0;
        let delay = self.rng.between(200 * MS, 3 * SECOND);
        self.schedule(delay, Event::Kubelet(KubeletEvent::Start { node, pod: uid }));
    }

    pub(crate) fn delete_pod(&mut self, node: NodeId) {
        let Some(pod) = self.api.objects.pods.get_mut(&node).filter(|pod| !pod.deleting) else { return };
        pod.deleting = true;
        let uid = pod.uid;
        self.wrote();
        let delay = self.rng.skewed(5 * MS, GRACE);
        self.schedule(delay, Event::Kubelet(KubeletEvent::Kill { node, pod: uid }));
    }

    /// A volume is removed when no process uses it any more.
    pub(crate) fn remove_if_free(&mut self, node: NodeId) {
        let deleting = self.api.objects.claims.get(&node).is_some_and(|claim| claim.deleting);
        let pod = self.api.objects.pods.contains_key(&node);
        let process = self.nodes.get(&node).is_some_and(|place| place.process.is_some());
        if deleting && !pod && !process {
            self.api.objects.claims.remove(&node);
            if let Some(place) = self.nodes.get_mut(&node) {
                place.volume = None;
            }
            self.wrote();
        }
    }

    // --- kubelets ---

    pub(crate) fn kubelet_event(&mut self, event: KubeletEvent) {
        match event {
            KubeletEvent::Start { node, pod } => self.run_container(node, pod),
            KubeletEvent::Kill { node, pod } => {
                let Some(held) = self.api.objects.pods.get(&node).filter(|held| held.uid == pod) else { return };
                if !held.deleting {
                    return;
                }
                if self.api.down || self.nodes.get(&node).is_some_and(|place| place.host_down) {
                    return self.schedule(SECOND, Event::Kubelet(KubeletEvent::Kill { node, pod }));
                }
                self.end_process(node, "is told to end");
                self.api.objects.pods.remove(&node);
                self.wrote();
                self.remove_if_free(node);
            }
            KubeletEvent::Terminated { node, pod, boot } => {
                if self.api.down {
                    return self.schedule(SECOND, Event::Kubelet(KubeletEvent::Terminated { node, pod, boot }));
                }
                if let Some(held) = self.api.objects.pods.get_mut(&node).filter(|held| held.uid == pod) {
                    held.terminated = vec![boot];
                    self.hit("object: end of a process proved");
                    self.wrote();
                }
            }
        }
    }

    fn run_container(&mut self, node: NodeId, pod: u64) {
        let Some(held) = self.api.objects.pods.get(&node).filter(|held| held.uid == pod && !held.deleting) else {
            return;
        };
        let version = held.image;
        let place = self.place(node);
        if place.host_down || place.process.is_some() {
            // The machine is away, or the old process still holds the volume's lock.
            return self.schedule(500 * MS, Event::Kubelet(KubeletEvent::Start { node, pod }));
        }
        self.start_process(node, version);
    }

    /// A process has ended: its kubelet notices, and starts the next one.
    pub(crate) fn container_ended(&mut self, node: NodeId, boot: u64) {
        let Some(pod) = self.api.objects.pods.get(&node).map(|pod| pod.uid) else {
            return self.remove_if_free(node);
        };
        let now = self.now;
        let place = self.place(node);
        if now > place.started + LIVED {
            place.restarts = 0;
        }
        place.restarts += 1;
        let backoff = if place.restarts <= 1 { 200 * MS } else { (SECOND << place.restarts.min(5)).min(MAX_BACKOFF) };
        let down = place.host_down;
        if !down {
            let seen = self.rng.between(600 * MS, 900 * MS);
            self.schedule(seen, Event::Kubelet(KubeletEvent::Terminated { node, pod, boot }));
        }
        self.schedule(backoff, Event::Kubelet(KubeletEvent::Start { node, pod }));
    }

    /// Takes a volume snapshot of a node as its labels say: first the position, then, a moment later, the copy.
    pub(crate) fn take_snapshot(&mut self, node: NodeId) {
        let Some(status) = self.status_of(node) else { return };
        let Some(cluster) = status.cluster.filter(|_| status.state != rdb_protocol::status::NodeState::Seeding) else {
            return;
        };
        let id = self.api.uid();
        let mut rng = crate::rng::Rng::new(self.rng.word(), 3);
        let Some(volume) = self.nodes.get(&node).and_then(|place| place.volume.as_ref()) else { return };
        let labels = crate::disk::SeedFrom { cluster, position: status.flushed };
        let volume = volume.snapshot(id, &mut rng);
        self.api.snapshots.push(crate::api::Snapshot { labels, volume });
        if self.api.snapshots.len() > KEEP_SNAPSHOTS {
            self.api.snapshots.remove(0);
        }
        self.tell(|| format!("a snapshot of db-{node} is taken at {}", labels.position));
    }
}
