//! Planted bugs: is each of them found, and how soon?

#[cfg(not(feature = "planted"))]
pub fn find_all(_most: u64, _only: Option<&str>, _jobs: usize) -> bool {
    println!("planted: compiled without the feature `planted`");
    false
}

#[cfg(feature = "planted")]
pub use search::find_all;

#[cfg(feature = "planted")]
mod search {
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use rdb_protocol::planted::{Bug, plant};

    use crate::profile::Profile;
    use crate::world::World;

    /// What was found, and how many seeds it took.
    type Found = Option<(u64, String)>;

    /// Looks for every bug in at most so many seeds. False: one was not found.
    pub fn find_all(most: u64, only: Option<&str>, jobs: usize) -> bool {
        let wanted = |bug: &&Bug| only.is_none_or(|only| format!("{bug:?}").contains(only));
        let bugs: Vec<Bug> = Bug::ALL.iter().filter(wanted).copied().collect();
        let next = AtomicUsize::new(0);
        let found: Mutex<Vec<(Bug, Found)>> = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            for _ in 0..jobs.max(1) {
                scope.spawn(|| {
                    while let Some(bug) = bugs.get(next.fetch_add(1, Ordering::AcqRel)).copied() {
                        let result = find(bug, most);
                        tell(bug, &result, most);
                        found.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push((bug, result));
                    }
                });
            }
        });
        let found = found.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
        let count = found.iter().filter(|(_, result)| result.is_some()).count();
        println!("planted: found={count} of={}", bugs.len());
        count == bugs.len()
    }

    fn tell(bug: Bug, result: &Found, most: u64) {
        match result {
            Some((seeds, violation)) => {
                let short: String = violation.chars().take(110).collect();
                println!("{bug:?} ({}): found after {seeds} seeds: {short}", bug.rule().trim());
            }
            None => println!("{bug:?} ({}): NOT FOUND in {most} seeds", bug.rule().trim()),
        }
    }

    fn find(bug: Bug, most: u64) -> Found {
        (1..=most).find_map(|seed| {
            plant(Some(bug));
            let found = violation(seed);
            plant(None);
            // A seed that fails without the bug says nothing about it.
            found.filter(|_| violation(seed).is_none()).map(|violation| (seed, violation))
        })
    }

    /// A core's own assertion counts as a finding: it would have stopped a real node.
    fn violation(seed: u64) -> Option<String> {
        let run = || World::new(Profile::of(seed), false).run().0.violation;
        std::panic::catch_unwind(run).unwrap_or_else(|_| Some("an assertion of the core failed".to_owned()))
    }
}
