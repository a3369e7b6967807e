//! What kind of world a seed is: its spec, its speeds, how much goes wrong by chance, and its plan.

use rdb_control::ClusterSpec;
use rdb_control::spec::{DataLoss, Span};
use rdb_protocol::settings::{Mode, SyncSet, WhenUnavailable};

use crate::event::{At, MS, SECOND};
use crate::plan::{DAMAGED_COPY, Fault, OLD_ANSWERS, SCRIPTS, TWO_ENDS, Times, Wish, draw, scripts};
use crate::rng::{PerMille, Rng};

#[derive(Clone, Debug)]
pub struct Profile {
    pub seed: u64,
    pub spec: ClusterSpec,
    pub operators: usize,
    pub clients: usize,
    /// Both operators act, as if neither had a Lease: the compare-and-swap alone keeps them apart. Not where the mode may be
    /// `async`, whose lease needs one operator (rule 17).
    pub both_act: bool,
    /// Between two operations of a client.
    pub think: (At, At),
    /// One-way delay of messages.
    pub delay: (At, At),
    pub loss: PerMille,
    pub duplicates: PerMille,
    pub reorder: PerMille,
    /// Of a flush.
    pub flush: (At, At),
    /// Rates of the clocks differ by up to this many parts of a thousand each way.
    pub drift: u64,
    /// Records that a log keeps beyond what is needed.
    pub retention: usize,
    /// The fault phase ends here.
    pub calm_at: At,
    pub plan: Vec<(At, Fault)>,
}

/// Rule 16 allows for clocks whose rates differ by 10 %: 1.04 / 0.96 is 8.3 %.
const MAX_DRIFT: u64 = 40;

impl Profile {
    pub fn of(seed: u64) -> Profile {
        let mut rng = Rng::new(seed, 1);
        // About a tenth of the seeds have no faults at all.
        let quiet = rng.below(10) == 0;
        let calm_at = rng.between(30, 150) * SECOND;
        let spec = spec(&mut rng);
        let rough = !quiet && rng.chance(400);
        let mut noise = |most: u64| if rough { rng.skewed(0, most) } else { 0 };
        let (loss, duplicates, reorder) = (noise(60), noise(100), noise(100));
        let slow = rng.chance(150);
        let mut profile = Profile {
            seed,
            spec,
            operators: if rng.chance(700) { 2 } else { 1 },
            clients: rng.between(1, 5) as usize,
            both_act: false,
            think: if rng.chance(300) { (5 * MS, 100 * MS) } else { (100 * MS, 2 * SECOND) },
            delay: if slow { (5 * MS, 120 * MS) } else { (100, 2 * MS) },
            loss,
            duplicates,
            reorder,
            flush: if rng.chance(200) { (MS, 60 * MS) } else { (100, 3 * MS) },
            drift: if rng.chance(500) { MAX_DRIFT } else { 0 },
            retention: if rng.chance(300) { rng.between(5, 40) as usize } else { 2000 },
            calm_at,
            plan: Vec::new(),
        };
        if !quiet && rng.chance(200) {
            profile.focus(&mut rng);
        } else if !quiet {
            profile.plan = draw(&mut rng, calm_at);
            if rng.chance(350) {
                let times = profile.times();
                profile.plan.extend(scripts(&mut rng, calm_at, times, None));
                profile.plan.sort_by_key(|(at, _)| *at);
            }
        }
        if profile.operators == 2 && rng.chance(450) && profile.spec.replication.mode != Mode::Async {
            profile.both_act = true;
            profile.spec.replication.min_sync_followers = 1;
            let asynchronous = Fault::Wish(Wish::Mode(Mode::Async));
            profile.plan.retain(|(_, fault)| *fault != asynchronous);
        }
        // Drawn apart from the rest, so that it leaves all other worlds as they are.
        let mut apart = Rng::new(seed, 5);
        if !quiet && apart.chance(50) {
            profile.with_two_ends(&mut apart);
        } else if !quiet && apart.chance(30) {
            profile.with_old_answers(&mut apart);
        } else if !quiet && apart.chance(20) {
            profile.be_plain(&mut apart);
            profile.plan = scripts(&mut apart, calm_at, profile.times(), Some(DAMAGED_COPY));
        }
        profile
    }

    /// A plain cluster and busy clients, and nothing but one sequence of faults, again and again.
    fn focus(&mut self, rng: &mut Rng) {
        self.be_plain(rng);
        let which = rng.below(SCRIPTS);
        self.plan = scripts(rng, self.calm_at, self.times(), Some(which));
    }

    fn with_two_ends(&mut self, rng: &mut Rng) {
        self.be_plain(rng);
        self.spec.replication.when_unavailable = WhenUnavailable::Block;
        (self.loss, self.calm_at) = (0, self.calm_at.max(120 * SECOND));
        self.plan = scripts(rng, self.calm_at, self.times(), Some(TWO_ENDS));
    }

    fn with_old_answers(&mut self, rng: &mut Rng) {
        self.be_plain(rng);
        (self.loss, self.delay) = (0, (100, 2 * MS));
        self.plan = scripts(rng, self.calm_at, self.times(), Some(OLD_ANSWERS));
    }

    fn be_plain(&mut self, rng: &mut Rng) {
        let replication = &mut self.spec.replication;
        self.spec.instances = 3;
        (replication.mode, replication.sync_set, replication.sync_followers) = (Mode::SemiSync, SyncSet::All, 1);
        self.spec.failover.data_loss = None;
        self.spec.failover.cooldown = Span::from_secs(0);
        if rng.chance(500) {
            self.spec.failover.progress_timeout = Span::from_secs(1);
        }
        (self.think, self.clients) = ((5 * MS, 100 * MS), self.clients.max(3));
        if rng.chance(400) {
            // Between a question and its answer, more can happen.
            self.delay = (20 * MS, 120 * MS);
        }
    }

    fn times(&self) -> Times {
        let failover = &self.spec.failover;
        Times {
            lease: failover.lease_duration.millis() * MS,
            detection: failover.detection_timeout.millis() * MS,
            progress: failover.progress_timeout.millis() * MS,
        }
    }
}

fn spec(rng: &mut Rng) -> ClusterSpec {
    let mut spec = ClusterSpec { instances: [3, 3, 3, 3, 2, 4, 5, 1][rng.below(8) as usize], ..ClusterSpec::default() };
    let replication = &mut spec.replication;
    replication.mode = [Mode::SemiSync, Mode::SemiSync, Mode::SemiSync, Mode::Sync, Mode::Async][rng.below(5) as usize];
    if spec.instances > 3 && rng.chance(400) {
        replication.sync_followers = 2;
    }
    if rng.chance(200) {
        replication.sync_set = SyncSet::One;
    }
    if rng.chance(350) {
        replication.when_unavailable = WhenUnavailable::Degrade;
        replication.min_sync_followers = rng.below(2) as u32;
    }
    replication.sync_timeout = Span::from_secs(rng.between(1, 10));
    let failover = &mut spec.failover;
    let heartbeat = [100, 250, 250, 500, 1000][rng.below(5) as usize];
    failover.heartbeat_interval = Span::from_millis(heartbeat);
    failover.lease_duration = Span::from_millis(heartbeat * rng.between(4, 8));
    failover.detection_timeout = Span::from_millis(failover.lease_duration.millis() + rng.between(1, 20) * 500);
    failover.progress_timeout = Span::from_secs(rng.between(1, 10));
    if rng.chance(300) {
        spec.seeding.catch_up_timeout = Span::from_secs(rng.between(1, 10));
    }
    failover.cooldown = Span::from_secs([0, 0, 1, 10][rng.below(4) as usize]);
    if rng.chance(100) {
        failover.data_loss = Some([DataLoss::Allow, DataLoss::Refuse][rng.below(2) as usize]);
    }
    spec
}
