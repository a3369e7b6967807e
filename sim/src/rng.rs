//! The one source of randomness of a world: a seeded ChaCha generator.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng as _, SeedableRng};

/// Parts of a thousand, for chances.
pub type PerMille = u64;

/// Draws numbers; the same seed and stream give the same ones.
#[derive(Debug)]
pub struct Rng(ChaCha8Rng);

impl Rng {
    /// `stream` keeps what is drawn for one purpose apart from what is drawn for another.
    pub fn new(seed: u64, stream: u64) -> Rng {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(stream);
        Rng(rng)
    }

    pub fn word(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// Below `bound`; 0 for 0. The bias of the modulus does not matter here.
    pub fn below(&mut self, bound: u64) -> u64 {
        if bound == 0 { 0 } else { self.0.next_u64() % bound }
    }

    /// Both ends included.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high.saturating_sub(low) + 1)
    }

    pub fn chance(&mut self, per_mille: PerMille) -> bool {
        per_mille > 0 && self.below(1000) < per_mille
    }

    pub fn pick<T: Copy>(&mut self, from: &[T]) -> Option<T> {
        let at = self.below(from.len() as u64);
        from.get(at as usize).copied()
    }

    /// Mostly near `low`, rarely near `high`: as delays are.
    pub fn skewed(&mut self, low: u64, high: u64) -> u64 {
        let span = high.saturating_sub(low);
        let shift = self.below(8);
        low + self.below((span >> shift) + 1)
    }
}
