//! What Redis has denied a moment ago: answered here, until it can be allowed or was known for a second.
//!
//! Forgetting any of it is harmless: Redis is asked again.

use super::answer::Answer;
use super::{Check, Key};
use crate::clock::Moment;
use crate::limit::{Limit, Standing};
use quick_cache::sync::Cache;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Duration;

/// How long an answer of Redis is repeated: a count that was cleared elsewhere is seen after so long.
const LONGEST: Duration = Duration::from_secs(1);

/// Different costs of one key that are remembered.
const MOST_A_KEY: usize = 8;

/// An answer that holds until `until`.
#[derive(Clone, Copy)]
struct Denial {
    limit: Limit,
    cost: u32,
    until: Moment,
    /// What was told, and when: by the clock here, and in microseconds since 1970.
    standing: Standing,
    told: Moment,
    unix: u64,
}

/// The denials of one engine.
pub struct Denied {
    keys: Cache<Box<[u8]>, Arc<[Denial]>>,
    /// When something was last forgotten. What was asked before is not learned any more.
    forgotten: AtomicU64,
}

impl Denied {
    pub fn new(most_keys: usize) -> Self {
        Self { keys: Cache::new(most_keys), forgotten: AtomicU64::new(Moment::NEVER.as_micros()) }
    }

    /// The answer for a call, if it is known that it cannot be allowed yet.
    pub fn answer(&self, key: &[u8], limit: Limit, cost: u32, now: Moment) -> Option<Answer> {
        let denials = self.keys.get(key)?;
        let denial =
            denials.iter().find(|denial| denial.limit == limit && denial.cost == cost && now < denial.until)?;
        let passed = u64::try_from(now.since(denial.told).as_micros()).unwrap_or(u64::MAX);
        let Standing { remaining, wait, clear } = denial.standing;
        let later = |time: u64| time.saturating_sub(passed);
        let standing = Standing { remaining, wait: later(wait), clear: later(clear) };
        Some(Answer::new(false, limit, &standing, denial.unix.saturating_add(passed)))
    }

    /// Redis has denied a call. It decided between `asked` and `told`: what matters for asking again is the first, for what
    /// others are told to wait the second.
    pub fn learn(&self, check: &Check, asked: Moment, told: Moment, unix: u64, standing: &Standing) {
        let Check { key, limit, cost, .. } = check;
        let (limit, cost) = (*limit, *cost);
        if asked.as_micros() <= self.forgotten.load(SeqCst) {
            return;
        }
        let wait = Duration::from_micros(standing.wait);
        let denial = Denial { limit, cost, until: asked.after(wait.min(LONGEST)), standing: *standing, told, unix };
        let others = self.keys.get(key.as_bytes());
        let others = others.iter().flat_map(|denials| denials.iter());
        // A check against another limit may have changed how long the others have to wait.
        let others = others.filter(|other| other.limit == limit && other.cost != cost && asked < other.until);
        let denials = std::iter::once(denial).chain(others.copied()).take(MOST_A_KEY).collect();
        self.keys.insert(key.as_bytes().into(), denials);
    }

    /// Another call of this key was allowed: what was told to others is not so any more.
    pub fn outdate(&self, key: &Key) {
        self.keys.remove(key.as_bytes());
    }

    pub fn forget(&self, key: &[u8], now: Moment) {
        self.forgotten.store(now.as_micros(), SeqCst);
        self.keys.remove(key);
    }

    pub fn forget_all(&self, now: Moment) {
        self.forgotten.store(now.as_micros(), SeqCst);
        self.keys.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limit::Algorithm;
    use crate::rate_limit::{OnOutage, Place};

    const LIMIT: Limit = Limit { quota: 10, window: 60_000_000 };
    const KEY: &[u8] = b"key";

    fn at(micros: u64) -> Moment {
        Moment::from_micros(micros)
    }

    fn check(cost: u32) -> Check {
        let (place, algorithm, on_outage) = (Place::Redis, Algorithm::SlidingWindow, OnOutage::Local);
        Check { key: Key::new("", KEY), place, algorithm, on_outage, limit: LIMIT, cost }
    }

    /// Denied for so long, after a round trip of 500 us.
    fn denied(wait: u64) -> Denied {
        let denied = Denied::new(100);
        let standing = Standing { remaining: 2, wait, clear: 50_000_000 };
        denied.learn(&check(3), at(1_000), at(1_500), 7_000_000, &standing);
        denied
    }

    #[test]
    fn a_denial_is_repeated_for_a_second_at_most() {
        let denied = denied(30_000_000);
        let answer = denied.answer(KEY, LIMIT, 3, at(1_500)).unwrap();
        assert!(!answer.allowed);
        assert_eq!((answer.limit, answer.remaining, answer.reset, answer.retry_after), (10, 2, 57, Some(30)));
        assert_eq!(denied.answer(KEY, LIMIT, 3, at(1_000_999)).unwrap().retry_after, Some(30));
        assert_eq!(denied.answer(KEY, LIMIT, 3, at(1_001_000)), None);
    }

    #[test]
    fn who_waits_as_long_as_he_is_told_has_waited_enough() {
        let denied = denied(2_900_000);
        assert_eq!(denied.answer(KEY, LIMIT, 3, at(901_400)).unwrap().retry_after, Some(3), "2.0001 s are left");
        assert_eq!(denied.answer(KEY, LIMIT, 3, at(901_500)).unwrap().retry_after, Some(2));
    }

    #[test]
    fn it_ends_when_the_call_can_be_allowed() {
        let denied = denied(400_000);
        assert_eq!(denied.answer(KEY, LIMIT, 3, at(400_999)).unwrap().retry_after, Some(1));
        assert_eq!(denied.answer(KEY, LIMIT, 3, at(401_000)), None);
    }

    #[test]
    fn other_limits_costs_and_keys_are_asked() {
        let denied = denied(30_000_000);
        assert_eq!(denied.answer(KEY, LIMIT, 2, at(1_500)), None);
        assert_eq!(denied.answer(KEY, Limit { quota: 11, ..LIMIT }, 3, at(1_500)), None);
        assert_eq!(denied.answer(b"other", LIMIT, 3, at(1_500)), None);
        let standing = Standing { remaining: 0, wait: 9_000_000, clear: 0 };
        denied.learn(&check(4), at(2_000), at(2_000), 0, &standing);
        assert!(denied.answer(KEY, LIMIT, 3, at(2_000)).is_some() && denied.answer(KEY, LIMIT, 4, at(2_000)).is_some());
    }

    #[test]
    fn what_was_asked_before_it_was_forgotten_is_not_learned() {
        let denied = denied(30_000_000);
        denied.forget(KEY, at(2_000));
        assert_eq!(denied.answer(KEY, LIMIT, 3, at(2_000)), None);
        let standing = Standing { remaining: 0, wait: 9_000_000, clear: 0 };
        denied.learn(&check(3), at(2_000), at(2_500), 0, &standing);
        assert_eq!(denied.answer(KEY, LIMIT, 3, at(2_500)), None);
        denied.learn(&check(3), at(2_001), at(2_500), 0, &standing);
        assert!(denied.answer(KEY, LIMIT, 3, at(2_500)).is_some());
        denied.forget_all(at(2_600));
        assert_eq!(denied.answer(KEY, LIMIT, 3, at(2_600)), None);
    }

    #[test]
    fn a_key_that_is_asked_with_ever_new_costs_stays_small() {
        let denied = denied(30_000_000);
        let standing = Standing { remaining: 0, wait: 9_000_000, clear: 0 };
        for cost in 1..100 {
            denied.learn(&check(cost), at(2_000), at(2_000), 0, &standing);
        }
        assert_eq!(denied.keys.get(KEY).unwrap().len(), MOST_A_KEY);
    }
}
