//! Invalidations that Redis has not confirmed. While there is one, this process reads no session from Redis.

use crate::config::MAX_TTL;
use crate::keys::TokenHash;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// Invalidations kept by name, about 10 MB. Beyond it they are kept by time alone, which distrusts more.
const MOST: usize = 100_000;

/// After this long no copy or lease from before an invalidation can live: a lease's 6 s, then the longest life of a
/// copy, and 10 s for clocks that do not run at quite the same speed.
const OUTLIVES_ALL: Duration = Duration::from_secs(6 + MAX_TTL.as_secs() + 10);

/// A set of tokens to remove from Redis, bounded in size and in time.
#[derive(Default)]
pub struct Undelivered {
    kept: Mutex<Kept>,
    /// True while something is kept. A state rather than an event: whoever delivers may have come later.
    any: watch::Sender<bool>,
    /// The same, for those who ask often.
    some: AtomicBool,
}

#[derive(Default)]
struct Kept {
    /// When each was added last. Added anew while a delivery is under way, it has to be delivered anew.
    tokens: HashMap<TokenHash, Instant>,
    /// What was too much to keep by name is outlived then.
    overflow_until: Option<Instant>,
}

impl Undelivered {
    /// True if every invalidation was delivered or outlived: Redis may be read.
    pub fn none(&self) -> bool {
        !self.some.load(SeqCst)
    }

    /// True if this token may be among what is kept.
    pub fn holds(&self, token: &TokenHash) -> bool {
        if self.none() {
            return false;
        }
        let kept = self.kept();
        kept.overflow_until.is_some() || kept.tokens.contains_key(token)
    }

    /// Keeps tokens until they are delivered.
    pub fn add(&self, tokens: &[TokenHash], now: Instant) {
        let mut kept = self.kept();
        for token in tokens {
            if kept.tokens.len() < MOST || kept.tokens.contains_key(token) {
                kept.tokens.insert(*token, now);
            } else {
                kept.overflow_until = Some(now + OUTLIVES_ALL);
            }
        }
        self.note(&kept);
    }

    /// Distrusts everything that Redis holds now, for as long as it can live.
    pub fn distrust(&self, now: Instant) {
        let mut kept = self.kept();
        kept.overflow_until = Some(now + OUTLIVES_ALL);
        self.note(&kept);
    }

    /// Drops everything.
    pub fn clear(&self) {
        let mut kept = self.kept();
        *kept = Kept::default();
        self.note(&kept);
    }

    /// Up to `most` tokens to deliver, with the time that [`Undelivered::delivered`] wants back.
    pub fn some(&self, most: usize) -> Vec<(TokenHash, Instant)> {
        self.kept().tokens.iter().take(most).map(|(token, added)| (*token, *added)).collect()
    }

    /// Drops what was delivered, unless it was added anew meanwhile.
    pub fn delivered(&self, tokens: &[(TokenHash, Instant)]) {
        let mut kept = self.kept();
        for (token, added) in tokens {
            if kept.tokens.get(token) == Some(added) {
                kept.tokens.remove(token);
            }
        }
        self.note(&kept);
    }

    /// Drops what has outlived every copy; returns true if something is still kept.
    pub fn outlive(&self, now: Instant) -> bool {
        let mut kept = self.kept();
        kept.tokens.retain(|_, added| now.duration_since(*added) < OUTLIVES_ALL);
        kept.overflow_until = kept.overflow_until.filter(|until| now < *until);
        self.note(&kept);
        kept.any()
    }

    /// Waits until something is kept.
    pub async fn some_kept(&self) {
        // The sender lives as long as `self`, so that the wait ends in no other way.
        let _ = self.any.subscribe().wait_for(|any| *any).await;
    }

    /// Called under the mutex after whatever may have changed it.
    fn note(&self, kept: &Kept) {
        self.some.store(kept.any(), SeqCst);
        self.any.send_replace(kept.any());
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn any(&self) -> bool {
        !self.tokens.is_empty() || self.overflow_until.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(number: u32) -> TokenHash {
        TokenHash::of(&number.to_be_bytes()).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_added_anew_during_a_delivery_is_kept() {
        let undelivered = Undelivered::default();
        undelivered.add(&[token(1)], Instant::now());
        let under_way = undelivered.some(10);
        tokio::time::advance(Duration::from_millis(1)).await;
        undelivered.add(&[token(1)], Instant::now());
        undelivered.delivered(&under_way);
        assert!(!undelivered.none());
        assert!(undelivered.holds(&token(1)) && !undelivered.holds(&token(2)));
        undelivered.delivered(&undelivered.some(10));
        assert!(undelivered.none());
    }

    #[tokio::test(start_paused = true)]
    async fn memory_is_bounded_and_what_does_not_fit_is_distrusted_by_time() {
        let undelivered = Undelivered::default();
        let all: Vec<_> = (0..u32::try_from(MOST).unwrap() + 1).map(token).collect();
        undelivered.add(&all, Instant::now());
        assert_eq!(undelivered.some(usize::MAX).len(), MOST);
        undelivered.delivered(&undelivered.some(usize::MAX));
        assert!(!undelivered.none(), "one had no place");
        assert!(undelivered.holds(&token(0)), "it may have been this one");
        tokio::time::advance(OUTLIVES_ALL - Duration::from_millis(1)).await;
        assert!(undelivered.outlive(Instant::now()));
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(!undelivered.outlive(Instant::now()) && undelivered.none());
    }

    #[tokio::test(start_paused = true)]
    async fn an_invalidation_is_kept_as_long_as_a_copy_could_live() {
        let undelivered = Undelivered::default();
        undelivered.add(&[token(1)], Instant::now());
        tokio::time::advance(Duration::from_secs(306)).await;
        assert!(undelivered.outlive(Instant::now()));
        tokio::time::advance(OUTLIVES_ALL).await;
        assert!(!undelivered.outlive(Instant::now()));
    }
}
