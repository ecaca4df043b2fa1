//! Chance, to spread out what many processes would do at the same moment. No secret depends on it.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

/// Different at each call, and in each process: the seed of the standard library's hash tables is random enough.
pub fn number() -> u64 {
    RandomState::new().build_hasher().finish()
}

/// A number from 0 to 1.
pub fn share() -> f64 {
    f64::from((number() >> 32) as u32) / f64::from(u32::MAX)
}

/// A wait that is shortened by up to half.
pub fn shortened(wait: Duration) -> Duration {
    wait.mul_f64(1.0 - share() / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_spread_from_zero_to_one() {
        let shares: Vec<f64> = (0..200).map(|_| share()).collect();
        assert!(shares.iter().all(|share| (0.0..=1.0).contains(share)));
        assert!(shares.iter().any(|share| *share < 0.25) && shares.iter().any(|share| *share > 0.75));
    }

    #[test]
    fn waits_are_shortened_by_half_at_most() {
        let waits: Vec<_> = (0..200).map(|_| shortened(Duration::from_secs(2))).collect();
        assert!(waits.iter().all(|wait| (Duration::from_secs(1)..=Duration::from_secs(2)).contains(wait)));
    }
}
