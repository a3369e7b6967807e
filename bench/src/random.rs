//! A small seeded generator (the output function of SplitMix64, Steele, Lea and Flood, "Fast splittable pseudorandom
//! number generators", 2014). A run of the torture test is named by its seed: the same seed plans the same faults, though
//! threads and disks still interleave as they like.

/// A seed that differs from run to run and is short enough to be typed again.
pub fn fresh_seed() -> u64 {
    // The standard library seeds its hash maps from the system.
    let random = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), std::process::id());
    random % 1_000_000
}

/// A stream of pseudo-random numbers.
#[derive(Clone, Debug)]
pub struct Random {
    state: u64,
}

impl Random {
    pub fn new(seed: u64) -> Random {
        Random { state: seed }
    }

    /// A stream of its own for a worker, so that workers do not share one.
    pub fn fork(&mut self) -> Random {
        Random::new(self.number())
    }

    pub fn number(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `limit`; 0 when `limit` is 0. The bias of the remainder does not matter here.
    pub fn below(&mut self, limit: u64) -> u64 {
        if limit == 0 { 0 } else { self.number() % limit }
    }

    /// A number in `from..=to`.
    pub fn between(&mut self, from: u64, to: u64) -> u64 {
        from + self.below(to.saturating_sub(from) + 1)
    }

    /// True in `percent` of 100 calls.
    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// One of the items.
    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> Option<&'a T> {
        items.get(self.below(items.len() as u64) as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_names_a_run() {
        let numbers = |seed| (0..100).map(|_| Random::new(seed).number()).collect::<Vec<_>>();
        assert_eq!(numbers(7), numbers(7));
        assert_ne!(numbers(7), numbers(8));
    }

    #[test]
    fn bounds_are_kept() {
        let mut random = Random::new(1);
        let mut seen = [false; 3];
        for _ in 0..1000 {
            seen[random.between(5, 7) as usize - 5] = true;
        }
        assert_eq!(seen, [true; 3]);
        assert_eq!(random.below(0), 0);
        assert_eq!(random.pick::<u8>(&[]), None);
    }
}
