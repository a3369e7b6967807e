//! Same seed, same run: a trace that depends on anything else could not be shortened, told again or kept as a regression.

use sim::profile::Profile;
use sim::world::World;

fn run(seed: u64, story: bool) -> (u64, u64, u64) {
    let (report, _) = World::new(Profile::of(seed), story).run();
    (report.hash, report.events, report.committed)
}

#[test]
fn the_same_seed_gives_the_same_trace_told_or_not() {
    for seed in 1..=20 {
        assert_eq!(run(seed, false), run(seed, true), "seed {seed}");
    }
}

#[test]
fn another_seed_gives_another_trace() {
    let hashes: std::collections::BTreeSet<u64> = (1..=20).map(|seed| run(seed, false).0).collect();
    assert_eq!(hashes.len(), 20);
}

#[test]
fn threads_do_not_change_what_comes_out() {
    let seeds: Vec<u64> = (1..=20).collect();
    let one = sim::runner::run(&seeds, 1, usize::MAX, |_, _| {});
    let four = sim::runner::run(&seeds, 4, usize::MAX, |_, _| {});
    assert_eq!(one.hash, four.hash);
    assert_eq!(one.simulated, four.simulated);
}
