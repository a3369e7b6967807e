//! Making a failing world small: fewer faults, less noise, fewer clients, a shorter time, as long as it still fails.

use crate::profile::Profile;
use crate::world::World;

/// Runs that shrinking may take; each takes some ten milliseconds.
const MAX_RUNS: u32 = 400;

/// A smaller profile that still fails, and how.
pub fn shrink(profile: Profile) -> Option<(Profile, String)> {
    let mut left = MAX_RUNS;
    let message = fails(&profile, &mut left)?;
    let mut best = (profile, message);
    loop {
        let before = size(&best.0);
        cut_time(&mut best, &mut left);
        drop_faults(&mut best, &mut left);
        simplify(&mut best, &mut left);
        if size(&best.0) >= before || left == 0 {
            return Some(best);
        }
    }
}

fn size(profile: &Profile) -> u64 {
    let noise = profile.loss + profile.duplicates + profile.reorder + profile.drift;
    profile.plan.len() as u64 * 100
        + profile.clients as u64 * 10
        + profile.operators as u64 * 10
        + noise
        + profile.calm_at / 1_000_000
}

fn fails(profile: &Profile, left: &mut u32) -> Option<String> {
    *left = left.checked_sub(1)?;
    World::new(profile.clone(), false).run().0.violation
}

fn attempt(best: &mut (Profile, String), left: &mut u32, change: impl FnOnce(&mut Profile)) -> bool {
    let mut smaller = best.0.clone();
    change(&mut smaller);
    match fails(&smaller, left) {
        Some(message) => {
            *best = (smaller, message);
            true
        }
        None => false,
    }
}

/// Ends the fault phase soon after the last fault that is needed.
fn cut_time(best: &mut (Profile, String), left: &mut u32) {
    while best.0.calm_at > 20_000_000
        && attempt(best, left, |profile| {
            profile.calm_at = profile.calm_at * 3 / 4;
            let until = profile.calm_at;
            profile.plan.retain(|(at, _)| *at < until);
        })
    {}
}

/// Halves, quarters, and so on down to single faults.
fn drop_faults(best: &mut (Profile, String), left: &mut u32) {
    let mut width = best.0.plan.len().div_ceil(2);
    while width > 0 {
        let mut from = 0;
        while from < best.0.plan.len() {
            let to = (from + width).min(best.0.plan.len());
            if !attempt(best, left, |profile| drop(profile.plan.drain(from..to))) {
                from += width;
            }
        }
        width /= 2;
    }
}

fn simplify(best: &mut (Profile, String), left: &mut u32) {
    for change in [
        (|profile: &mut Profile| profile.loss = 0) as fn(&mut Profile),
        |profile| profile.duplicates = 0,
        |profile| profile.reorder = 0,
        |profile| profile.drift = 0,
        |profile| profile.operators = 1,
        |profile| profile.clients = 1,
        |profile| profile.retention = 2000,
    ] {
        attempt(best, left, change);
    }
}

/// The story of a world, told again.
pub fn story(profile: &Profile) -> Vec<String> {
    let (_, world) = World::new(profile.clone(), true).run();
    world.trace.story().iter().map(|(at, line)| format!("{} {line}", crate::trace::Stamp(*at))).collect()
}
