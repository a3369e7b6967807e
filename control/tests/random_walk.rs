//! Seeded random walks: faults, requests, changes of the spec and of the operator in any order. On the way every plan,
//! swap, open leader and lease is checked (`world::checker`); at the end everything is healed, and the cluster must come
//! to rest with all that was asked for.

mod world;

use rdb_protocol::settings::{LogFormat, Mode, SyncSet, WhenUnavailable};
use world::World;

/// Steps of one walk, of up to a second each.
const MOVES: usize = 120;

struct Rng(u64);

impl Rng {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize % n
    }
}

fn walk(seed: u64) {
    let mut rng = Rng(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
    let mut world = World::new(|spec| {
        spec.instances = 3;
        spec.failover.cooldown = rdb_control::spec::Span::from_secs(0);
    });
    world.exit_proof = rng.below(2) == 0;
    world.restart_after_ms = (rng.below(2) == 0).then_some(1000);
    // Dice of its own, so that other walks stay what they were.
    let mut format = Rng(seed.wrapping_mul(0xD1B5_4A32_D192_ED03) | 1);
    for _ in 0..MOVES {
        if seed.is_multiple_of(3) && format.below(15) == 0 {
            let wanted = [LogFormat::Page, LogFormat::Logical][format.below(2)];
            world.change_spec(|spec| spec.replication.log_format = wanted);
        }
        disturb(&mut world, &mut rng);
        world.run_ms(50 * (1 + rng.below(20)) as u64);
    }
    heal(&mut world);
    let instances = world.cluster.instances();
    world.run_until("it comes to rest after the faults", |w| {
        let renewed = w.nodes.values().all(|node| node.outdated.is_none());
        // Where every copy is needed, none is given up for the sake of pages.
        let spare = || w.cohort().len() > w.acks() as usize + 1;
        let alike = || !w.status().layouts_differ || !spare();
        w.settled() && w.status().ready_instances == instances && renewed && alike()
    });
}

fn disturb(world: &mut World, rng: &mut Rng) {
    let names: Vec<_> = world.nodes.keys().cloned().collect();
    if names.is_empty() {
        return;
    }
    let name = names[rng.below(names.len())].clone();
    let kind = rng.below(27);
    if std::env::var_os("TRACE").is_some() {
        eprintln!("{} disturb {kind} {name}", world.now_ms);
    }
    match kind {
        0 | 1 => world.kill(&name),
        2..=4 => world.revive(&name),
        5 => world.node(&name).frozen = true,
        6 | 7 => world.node(&name).frozen = false,
        8 => world.node(&name).hidden = true,
        9 | 10 => world.node(&name).hidden = false,
        11 => world.node(&name).isolated = true,
        12 | 13 => world.node(&name).isolated = false,
        14 => world.observed.requests.switchover = Some(name),
        15 => world.observed.requests.reseed = Some(name),
        16 => world.replace_operator(),
        17 => world.change_spec(|spec| spec.paused = !spec.paused),
        18 => world.change_spec(|spec| spec.replication.mode = [Mode::Async, Mode::SemiSync, Mode::Sync][rng.below(3)]),
        19 => world.change_spec(|spec| {
            spec.replication.when_unavailable = [WhenUnavailable::Block, WhenUnavailable::Degrade][rng.below(2)];
        }),
        20 => world.change_spec(|spec| spec.replication.sync_set = [SyncSet::All, SyncSet::One][rng.below(2)]),
        21 => world.change_spec(|spec| spec.instances = 2 + rng.below(4) as u32),
        22 if world.settled() && world.status().ready_instances == world.cluster.instances() => {
            // One lost disk at a time: with more, nothing acknowledged could be kept by anybody.
            let config = world.status().config.as_ref().unwrap();
            let all_count = world.nodes.values().all(|node| config.counts(&node.member()));
            if world.leader() != name && all_count {
                world.wipe(&name);
            }
        }
        22 => {}
        23 => world.node(&name).outdated = Some("image".to_owned()),
        24 => world.nodes.values_mut().for_each(|node| node.outdated = Some("image".to_owned())),
        25 => {
            let node = world.node(&name);
            node.draining = !node.draining;
        }
        _ => world.change_spec(|spec| spec.maintenance.active = !spec.maintenance.active),
    }
}

fn heal(world: &mut World) {
    world.restart_after_ms = Some(1000);
    for node in world.nodes.values_mut() {
        node.frozen = false;
        node.hidden = false;
        node.isolated = false;
        node.draining = false;
    }
    world.change_spec(|spec| {
        spec.paused = false;
        spec.maintenance.active = false;
        spec.replication.log_format = LogFormat::Page;
    });
}

#[test]
fn no_walk_breaks_a_rule_and_every_walk_recovers() {
    let seeds = std::env::var("WALKS").ok().and_then(|text| text.parse().ok()).unwrap_or(150u64);
    let first = std::env::var("FIRST").ok().and_then(|text| text.parse().ok()).unwrap_or(0);
    for seed in first..first + seeds {
        if let Err(panic) = std::panic::catch_unwind(|| walk(seed)) {
            eprintln!("seed {seed}");
            std::panic::resume_unwind(panic);
        }
    }
}
