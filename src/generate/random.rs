//! The dice: a seeded generator and the few distributions that the traffic needs. Pure.
//!
//! ChaCha8 is a fixed algorithm, and every draw is made here from its 64-bit words, so that a seed
//! means the same stream with every later version of the `rand` crates, whose own distributions
//! promise no such thing.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

use super::share::Share;

/// A seeded source of draws.
#[derive(Debug, Clone)]
pub(super) struct Random {
    generator: ChaCha8Rng,
}

impl Random {
    pub(super) fn seeded(seed: u64) -> Random {
        Random { generator: ChaCha8Rng::seed_from_u64(seed) }
    }

    /// 64 even bits.
    pub(super) fn bits(&mut self) -> u64 {
        self.generator.next_u64()
    }

    /// 128 even bits.
    pub(super) fn bits_128(&mut self) -> u128 {
        u128::from(self.bits()) << 64 | u128::from(self.bits())
    }

    /// Evenly one of `0..bound`; 0 if the bound is 0.
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        // Multiply and keep the high half: no division, and a bias of bound / 2^64, which nobody will see.
        u64::try_from((u128::from(self.bits()) * u128::from(bound)) >> 64).unwrap_or(0)
    }

    /// Evenly one of `low..=high`.
    pub(super) fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high.saturating_sub(low) + 1)
    }

    /// True for that share of the calls.
    pub(super) fn chance(&mut self, share: Share) -> bool {
        share != Share::NONE && self.below(1_000_000) < u64::from(share.parts_per_million())
    }

    /// True once in `calls` calls.
    pub(super) fn once_in(&mut self, calls: u64) -> bool {
        self.below(calls) == 0
    }

    /// Evenly one of the choices.
    pub(super) fn pick<T: Copy, const N: usize>(&mut self, choices: &[T; N]) -> T {
        const { assert!(N > 0, "a pick needs a choice") };
        choices[usize::try_from(self.below(N as u64)).unwrap_or(0)]
    }

    /// Log-normal with that median. `sigma` is the standard deviation of the logarithm.
    ///
    /// The normal deviate is a sum of four even 16-bit numbers (Irwin-Hall), which reaches 3.4
    /// deviations to either side: one draw, and only `exp` depends on the platform's mathematics.
    pub(super) fn log_normal(&mut self, median: f64, sigma: f64) -> f64 {
        const LANE_MAX: f64 = 65_535.0;
        let bits = self.bits();
        let sum: f64 = (0..4).map(|lane| f64::from((bits >> (16 * lane) & 0xffff) as u16)).sum();
        let deviate = (sum / LANE_MAX - 2.0) * 3.0_f64.sqrt();
        median * (deviate * sigma).exp()
    }
}

/// Draws an index by weight.
#[derive(Debug, Clone)]
pub(super) struct Weighted {
    /// Sums of the weights up to and including each index.
    sums: Vec<u64>,
}

impl Weighted {
    pub(super) fn new(weights: impl IntoIterator<Item = u64>) -> Weighted {
        let running_sum = |sum: &mut u64, weight: u64| {
            *sum = sum.saturating_add(weight);
            Some(*sum)
        };
        Weighted { sums: weights.into_iter().scan(0, running_sum).collect() }
    }

    /// Zipf's law with exponent 1: the k-th of `count` is drawn 1/k times as often as the first.
    pub(super) fn zipf(count: u32) -> Weighted {
        const FIRST: u64 = 1 << 32; // In integers: exact everywhere, and the sum stays below 2^37.
        Weighted::new((1..=u64::from(count)).map(|rank| FIRST / rank))
    }

    pub(super) fn draw(&self, random: &mut Random) -> usize {
        let ticket = random.below(self.sums.last().copied().unwrap_or(0));
        self.sums.partition_point(|&sum| sum <= ticket)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stream_of_a_seed_is_fixed_for_ever() {
        let mut random = Random::seeded(42);
        let drawn = [random.bits(), random.bits(), random.bits()];
        assert_eq!(drawn, [12578764544318200737, 17529487244874322312, 7886285670807131020]);
    }

    #[test]
    fn bounds_hold_and_every_value_comes_up() {
        let mut random = Random::seeded(1);
        let mut seen = [0_u32; 7];
        for _ in 0..7_000 {
            seen[usize::try_from(random.below(7)).unwrap()] += 1;
        }
        assert!(seen.iter().all(|&count| (800..1_200).contains(&count)), "{seen:?}");
        assert_eq!(random.below(0), 0);
    }

    #[test]
    fn zipf_prefers_the_first_by_its_rank() {
        let (mut random, zipf) = (Random::seeded(2), Weighted::zipf(10));
        let mut seen = [0_u32; 10];
        for _ in 0..100_000 {
            seen[zipf.draw(&mut random)] += 1;
        }
        let ratio = f64::from(seen[0]) / f64::from(seen[9]);
        assert!((8.5..11.5).contains(&ratio), "{seen:?}");
    }

    #[test]
    fn log_normal_has_its_median_and_a_long_tail() {
        let mut random = Random::seeded(3);
        let mut drawn: Vec<f64> = (0..10_001).map(|_| random.log_normal(40.0, 0.9)).collect();
        drawn.sort_by(f64::total_cmp);
        assert!((38.0..42.0).contains(&drawn[5_000]), "median {}", drawn[5_000]);
        assert!(drawn[9_900] > 250.0, "p99 {}", drawn[9_900]);
    }
}
