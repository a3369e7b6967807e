//! Random walks: real replicas, an operator that keeps the operator's rules, and faults of every kind; the checker watches
//! every step. Each walk is one seed; a failing one prints its seed, and `WALK_SEED=<n>` runs it alone.
//!
//! The operator is a short form of the one in `control`: rules 1, 4, 7, 8 and 15 and the waits of rules 16 and 17. Its calls
//! travel like messages: late, repeated or never.

mod harness;
#[allow(unreachable_pub)]
mod operator;

use harness::cluster::Cluster;
use operator::Operator;
use rdb_protocol::Member;
use rdb_replication::{Input, Time};

/// Walks per run; a few seconds in a debug build.
const WALKS: u64 = 600;
/// Steps per walk: enough for a handful of elections and a config change or two.
const STEPS: u32 = 3000;

/// A generator that needs nothing from outside (xorshift64*).
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random((seed.wrapping_add(1)).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % n.max(1)
    }

    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> Option<&'a T> {
        if items.is_empty() { None } else { items.get(self.below(items.len() as u64) as usize) }
    }
}

/// How often what happens; drawn once per walk, so that some walks are calm and others are not.
struct Weather {
    deliver: u64,
    lose: u64,
    repeat: u64,
    flush: u64,
    write: u64,
    crash: u64,
    cut: u64,
    operate: u64,
    time: u64,
}

fn walk(seed: u64) -> Summary {
    let mut random = Random::new(seed);
    let random = &mut random;
    let members = ["n1", "n2", "n3", "n4"];
    let count = 3 + random.below(2) as usize;
    let mut cluster = Cluster::new(&members[..count]);
    let all: Vec<Member> = cluster.nodes.keys().cloned().collect();
    let mut operator = Operator::new(&all, random);
    let slow_disks = random.chance(60);
    for member in &all {
        cluster.node(member).auto_flush = !slow_disks;
        cluster.node(member).auto_apply = random.chance(70);
    }
    let weather = Weather {
        deliver: 20 + random.below(60),
        lose: random.below(4),
        repeat: random.below(4),
        flush: 5 + random.below(30),
        write: 2 + random.below(20),
        crash: random.below(6),
        cut: random.below(4),
        operate: 5 + random.below(30),
        time: 1 + random.below(15),
    };
    for _ in 0..STEPS {
        cluster.events.clear();
        one_step(&mut cluster, &mut operator, &all, &weather, random);
    }
    calm_down(&mut cluster, &mut operator, &all, random);
    Summary {
        epochs: cluster.checker.epochs_that_committed(),
        records: cluster.checker.highest().0,
        changes: operator.changes,
    }
}

fn one_step(cluster: &mut Cluster, operator: &mut Operator, all: &[Member], weather: &Weather, random: &mut Random) {
    let Weather { deliver, lose, repeat, flush, write, crash, cut, operate, time } = *weather;
    let member = random.pick(all).expect("members").clone();
    let mut dice = random.below(deliver + lose + repeat + flush + write + crash + cut + operate + time + 14);
    let mut is = |weight: u64| {
        let hit = dice < weight;
        dice = dice.wrapping_sub(weight);
        hit
    };
    let on_the_way = cluster.network.len() as u64;
    if is(deliver) {
        // Mostly in order, as a connection has it.
        for _ in 0..random.below(6) {
            let at = if random.chance(80) { 0 } else { random.below(cluster.network.len() as u64) };
            cluster.deliver_at(at as usize);
        }
    } else if is(lose) {
        cluster.network.remove(random.below(on_the_way) as usize);
    } else if is(repeat) {
        let copy = cluster.network.get(random.below(on_the_way) as usize).cloned();
        cluster.network.extend(copy);
    } else if is(flush) {
        cluster.finish_flush(&member);
        let index = cluster.replica(&member).map(|replica| replica.committed()).unwrap_or_default();
        cluster.step(&member, Input::Applied { index });
    } else if is(write) {
        if random.chance(90) {
            cluster.write(&member);
        } else {
            cluster.step(&member, Input::Noop);
        }
    } else if is(crash) {
        cluster.crash(&member);
    } else if is(cut) {
        let other = random.pick(all).expect("members").clone();
        if other != member {
            cluster.partition(&member, &other);
        }
    } else if is(operate) {
        operator.step(cluster, random);
    } else if is(time) {
        let up_to = if random.chance(10) { 2_000_000 } else { 200_000 };
        cluster.now = Time(cluster.now.0 + random.below(up_to));
        all.iter().filter(|_| random.chance(80)).for_each(|member| cluster.tick(member));
    } else {
        recover(cluster, &member, random);
    }
}

/// What was broken works again: a node, connections, a disk with room.
fn recover(cluster: &mut Cluster, member: &Member, random: &mut Random) {
    if cluster.replica(member).is_none() {
        cluster.start(member);
    }
    if random.chance(70) {
        cluster.cut.clear();
    }
    let full = random.chance(3);
    cluster.node(member).full = full;
    cluster.connect();
}

/// Faults end: the cluster must open and take a write.
fn calm_down(cluster: &mut Cluster, operator: &mut Operator, all: &[Member], random: &mut Random) {
    cluster.cut.clear();
    for member in all {
        let node = cluster.node(member);
        (node.auto_flush, node.auto_apply, node.full) = (true, true, false);
        if cluster.replica(member).is_none() {
            cluster.start(member);
        }
        cluster.finish_flush(member);
        let index = cluster.replica(member).expect("started").committed();
        cluster.step(member, Input::Applied { index });
    }
    let before = cluster.checker.highest();
    for _ in 0..200 {
        cluster.connect();
        cluster.deliver_all();
        operator.push_on(cluster, random);
        cluster.now = Time(cluster.now.0 + 100_000);
        all.iter().for_each(|member| cluster.tick(member));
        cluster.deliver_all();
        all.iter().for_each(|member| {
            cluster.write(member);
        });
        cluster.deliver_all();
        let everywhere = |index| all.iter().all(|member| cluster.replica(member).is_some_and(|r| r.applied() >= index));
        if cluster.checker.highest() > before && everywhere(cluster.checker.highest()) {
            return;
        }
    }
    let state = |member: &Member| {
        let replica = cluster.replica(member).expect("started");
        (replica.role(), replica.epoch(), replica.flushed(), replica.committed())
    };
    panic!("no write came through after the faults ended: {:?}", all.iter().map(state).collect::<Vec<_>>());
}

#[derive(Default)]
struct Summary {
    epochs: usize,
    records: u64,
    changes: u64,
}

#[test]
fn no_walk_breaks_a_promise() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seeds = match number("WALK_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("WALKS").unwrap_or(WALKS),
    };
    let walks = seeds.end - seeds.start;
    let mut total = Summary::default();
    for seed in seeds {
        let walked = std::panic::catch_unwind(|| walk(seed));
        let Summary { epochs, records, changes } = walked.unwrap_or_else(|panic| {
            eprintln!("WALK_SEED={seed} fails");
            std::panic::resume_unwind(panic)
        });
        total.epochs += epochs;
        total.records += records;
        total.changes += changes;
    }
    println!("{walks} walks: {} epochs, {} records, {} config changes", total.epochs, total.records, total.changes);
    // A walk in which nothing happens proves nothing.
    assert!(
        walks < 100 || (total.epochs as u64 > 2 * walks && total.records > 10 * walks && total.changes > walks / 4)
    );
}
