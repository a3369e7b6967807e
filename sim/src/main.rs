//! `sim`: see the library's header.

use sim::profile::Profile;
use sim::world::World;

fn main() {
    let mut args = std::env::args().skip(1);
    let first: u64 = args.next().and_then(|a| a.parse().ok()).unwrap_or(1);
    let count: u64 = args.next().and_then(|a| a.parse().ok()).unwrap_or(1);
    let story = args.next().is_some();
    let mut bad = 0;
    let mut time = 0;
    let mut coverage = sim::coverage::Coverage::default();
    for seed in first..first + count {
        let (report, world) = World::new(Profile::of(seed), story).run();
        if story {
            for (at, line) in world.trace.story() {
                println!("{} {line}", sim::trace::Stamp(*at));
            }
        }
        coverage.add(&world.coverage);
        time += report.simulated;
        if let Some(violation) = &report.violation {
            bad += 1;
            println!("seed {seed} at {}: {violation}", sim::trace::Stamp(report.simulated));
        }
        if count < 20 {
            println!("{seed} {:016x} simulated {} events {} committed {} acked {}", report.hash, report.simulated / 1_000_000, report.events, report.committed, report.acknowledged);
        }
    }
    println!("seeds {count} bad {bad} simulated hours {:.1}", time as f64 / 3.6e9);
    for name in coverage.unlisted() {
        println!("{:>8} {name}", coverage.count(name));
    }
}
