//! Latencies in buckets whose width is at most 1/64 of their value, over the whole range of nanoseconds in a u64.
//!
//! A bucket is named by the position of the value's highest bit and the six bits below it; values below 64 have a bucket
//! each. Recording is two shifts and an add, without allocation.

use std::time::Duration;

/// Bits kept below the highest one: 2^6 buckets for each power of two, so percentiles are exact within 1.6 %.
const PRECISION: u32 = 6;
const SUB_BUCKETS: usize = 1 << PRECISION;
const BUCKETS: usize = (64 - PRECISION as usize + 1) * SUB_BUCKETS;

/// Counts of latencies.
#[derive(Clone, Debug)]
pub struct Histogram {
    counts: Vec<u64>,
    total: u64,
    sum_ns: u128,
    max_ns: u64,
}

impl Default for Histogram {
    fn default() -> Histogram {
        Histogram { counts: vec![0; BUCKETS], total: 0, sum_ns: 0, max_ns: 0 }
    }
}

fn bucket(ns: u64) -> usize {
    let high = 63 - (ns | 1).leading_zeros();
    if high < PRECISION {
        return ns as usize;
    }
    let shift = high - PRECISION;
    ((shift as usize + 1) << PRECISION) + ((ns >> shift) as usize - SUB_BUCKETS)
}

/// Highest value that falls into the bucket.
fn top(bucket: usize) -> u64 {
    if bucket < SUB_BUCKETS {
        return bucket as u64;
    }
    let shift = (bucket >> PRECISION) as u32 - 1;
    let base = ((bucket & (SUB_BUCKETS - 1)) + SUB_BUCKETS) as u64;
    (base << shift) + ((1u64 << shift) - 1)
}

impl Histogram {
    pub fn record(&mut self, latency: Duration) {
        let ns = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        self.counts[bucket(ns)] += 1;
        self.total += 1;
        self.sum_ns += u128::from(ns);
        self.max_ns = self.max_ns.max(ns);
    }

    pub fn merge(&mut self, other: &Histogram) {
        for (mine, theirs) in self.counts.iter_mut().zip(&other.counts) {
            *mine += theirs;
        }
        self.total += other.total;
        self.sum_ns += other.sum_ns;
        self.max_ns = self.max_ns.max(other.max_ns);
    }

    pub fn count(&self) -> u64 {
        self.total
    }

    pub fn mean(&self) -> Duration {
        Duration::from_nanos(u64::try_from(self.sum_ns / u128::from(self.total.max(1))).unwrap_or(u64::MAX))
    }

    pub fn max(&self) -> Duration {
        Duration::from_nanos(self.max_ns)
    }

    /// The latency that `percent` of all stayed at or below; zero when nothing was recorded.
    pub fn percentile(&self, percent: f64) -> Duration {
        let wanted = ((percent / 100.0 * self.total as f64).ceil() as u64).clamp(1, self.total.max(1));
        let mut seen = 0;
        for (index, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= wanted {
                return Duration::from_nanos(top(index).min(self.max_ns));
            }
        }
        Duration::ZERO
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_lies_in_its_bucket() {
        let mut previous = None;
        for ns in (0..4096).chain((12..64).flat_map(|bit| [(1u64 << bit) - 1, 1 << bit, (1 << bit) + 1, u64::MAX])) {
            let b = bucket(ns);
            assert!(b < BUCKETS, "{ns}");
            assert!(top(b) >= ns && top(b) - ns <= ns / 32, "{ns} in bucket up to {}", top(b));
            if let Some((p, pb)) = previous
                && p <= ns
            {
                assert!(pb <= b, "buckets are in the order of values");
            }
            previous = Some((ns, b));
        }
    }

    #[test]
    fn percentiles_of_known_values() {
        let mut a = Histogram::default();
        let mut b = Histogram::default();
        for us in 1..=500 {
            a.record(Duration::from_micros(us));
        }
        for us in 501..=1000 {
            b.record(Duration::from_micros(us));
        }
        a.merge(&b);
        let near = |percent, us: u64| {
            let got = a.percentile(percent).as_micros() as u64;
            assert!(got.abs_diff(us) <= us / 50, "p{percent}: {got} us instead of {us}");
        };
        near(50.0, 500);
        near(99.0, 990);
        near(100.0, 1000);
        assert_eq!(a.count(), 1000);
        assert_eq!(a.mean().as_micros(), 500);
        assert_eq!(Histogram::default().percentile(99.0), Duration::ZERO);
    }
}
