//! Counts the successes and failures of the last seconds, in a ring of buckets.
//!
//! Time is cut into buckets from the moment the window was made. A bucket remembers which cut of time it counts, so that
//! nothing has to be moved while time passes: a slot that is found to belong to the past is simply started anew. An idle
//! gap of any length therefore costs nothing and leaves nothing behind.

use std::time::Duration;

use tokio::time::Instant;

/// What the window holds at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    pub successes: u32,
    pub failures: u32,
}

impl Counts {
    /// All calls that were counted.
    pub fn total(self) -> u64 {
        u64::from(self.successes) + u64::from(self.failures)
    }
}

#[derive(Debug, Clone, Copy, Default)]
struct Bucket {
    /// Which cut of time is counted here: the number of bucket lengths since the start.
    cut: u128,
    counts: Counts,
}

/// A rolling window. It covers the bucket of `now` and the ones before it, so between `length - length / buckets` and
/// `length` of the past.
#[derive(Debug, Clone)]
pub struct Window {
    ring: Box<[Bucket]>,
    bucket_length: Duration,
    start: Instant,
}

impl Window {
    /// A window of `length`, cut into `buckets` (at least one) from `now` on.
    pub fn new(length: Duration, buckets: usize, now: Instant) -> Self {
        let buckets = buckets.max(1);
        let parts = u32::try_from(buckets).unwrap_or(u32::MAX);
        Self {
            ring: vec![Bucket::default(); buckets].into(),
            bucket_length: (length / parts).max(Duration::from_nanos(1)),
            start: now,
        }
    }

    /// Counts one call that ended at `now`.
    pub fn record(&mut self, now: Instant, success: bool) {
        let cut = self.cut(now);
        let slot = (cut % self.ring.len() as u128) as usize;
        let bucket = &mut self.ring[slot];
        if bucket.cut < cut {
            *bucket = Bucket { cut, counts: Counts::default() };
        }
        let count = if success { &mut bucket.counts.successes } else { &mut bucket.counts.failures };
        *count = count.saturating_add(1);
    }

    /// The calls that ended within the window that ends at `now`.
    pub fn counts(&self, now: Instant) -> Counts {
        let cut = self.cut(now);
        let length = self.ring.len() as u128;
        self.ring.iter().filter(|bucket| bucket.cut + length > cut).fold(Counts::default(), |sum, bucket| Counts {
            successes: sum.successes.saturating_add(bucket.counts.successes),
            failures: sum.failures.saturating_add(bucket.counts.failures),
        })
    }

    /// Forgets every call.
    pub fn clear(&mut self) {
        for bucket in &mut self.ring {
            bucket.counts = Counts::default();
        }
    }

    fn cut(&self, now: Instant) -> u128 {
        now.saturating_duration_since(self.start).as_nanos() / self.bucket_length.as_nanos()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn window() -> (Window, Instant) {
        let start = Instant::now();
        (Window::new(10 * SECOND, 10, start), start)
    }

    #[test]
    fn a_call_counts_until_its_bucket_is_ten_buckets_old() {
        let (mut window, start) = window();
        window.record(start + Duration::from_millis(1999), false);
        assert_eq!(window.counts(start + Duration::from_millis(10_999)), Counts { successes: 0, failures: 1 });
        assert_eq!(window.counts(start + Duration::from_secs(11)), Counts::default());
    }

    #[test]
    fn an_idle_gap_leaves_nothing_behind() {
        let (mut window, start) = window();
        for second in 0..10 {
            window.record(start + second * SECOND, true);
        }
        assert_eq!(window.counts(start + 9 * SECOND).total(), 10);
        let much_later = start + Duration::from_secs(365 * 24 * 3600);
        assert_eq!(window.counts(much_later).total(), 0);
        window.record(much_later, false);
        assert_eq!(window.counts(much_later), Counts { successes: 0, failures: 1 });
    }

    #[test]
    fn a_cleared_window_is_empty_and_goes_on_counting() {
        let (mut window, start) = window();
        window.record(start, true);
        window.clear();
        assert_eq!(window.counts(start).total(), 0);
        window.record(start, true);
        assert_eq!(window.counts(start).total(), 1);
    }

    proptest! {
        /// The model keeps every call with its time and counts them all again at each step.
        #[test]
        fn the_ring_agrees_with_a_list_of_all_calls(
            steps in prop::collection::vec((prop_oneof![9 => 0_u64..1500, 1 => 0_u64..40_000], any::<bool>()), 1..120),
            buckets in 1_usize..12,
        ) {
            let start = Instant::now();
            let mut window = Window::new(SECOND * u32::try_from(buckets).unwrap(), buckets, start);
            let mut calls: Vec<(u64, bool)> = Vec::new();
            let mut millis = 0;
            for (gap, success) in steps {
                millis += gap;
                let now = start + Duration::from_millis(millis);
                let count = |calls: &[(u64, bool)], wanted| {
                    let oldest_second = (millis / 1000).saturating_sub(buckets as u64 - 1);
                    calls.iter().filter(|call| call.0 >= oldest_second * 1000 && call.1 == wanted).count()
                };
                let before = window.counts(now);
                prop_assert_eq!(before.successes as usize, count(&calls, true));
                prop_assert_eq!(before.failures as usize, count(&calls, false));
                window.record(now, success);
                calls.push((millis, success));
                prop_assert_eq!(window.counts(now).total() as usize, count(&calls, true) + count(&calls, false));
            }
        }
    }
}
