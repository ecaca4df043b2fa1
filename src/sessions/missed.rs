//! News from Postgres that may have been missed. What Redis held at that time is not believed any more.

use std::sync::{Mutex, PoisonError};
use tokio::sync::watch;

/// Until when copies are not believed, because the listener was not listening.
pub struct Missed {
    /// `None` while a gap was noticed and its end, by the clock of Redis, is not known.
    until: Mutex<Option<u64>>,
    /// Counts gaps.
    gaps: watch::Sender<u64>,
}

impl Default for Missed {
    fn default() -> Self {
        Self { until: Mutex::new(Some(0)), gaps: watch::Sender::new(0) }
    }
}

impl Missed {
    /// Copies that were read until then (microseconds of the clock of Redis) are not believed; `None`: no copy is.
    pub fn until(&self) -> Option<u64> {
        *self.until.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notices a gap. No copy is believed until [`Missed::settle`].
    pub fn begin(&self) {
        let mut until = self.until.lock().unwrap_or_else(PoisonError::into_inner);
        *until = None;
        self.gaps.send_modify(|gaps| *gaps += 1);
    }

    /// Waits until the end of a gap is wanted; returns which gap that is.
    pub async fn some_gap(&self) -> u64 {
        let mut gaps = self.gaps.subscribe();
        loop {
            let gap = *gaps.borrow_and_update();
            if self.until().is_none() {
                return gap;
            }
            // The sender lives as long as `self`.
            let _ = gaps.changed().await;
        }
    }

    /// Ends a gap at `now`, unless another one was noticed meanwhile.
    pub fn settle(&self, gap: u64, now: u64) {
        let mut until = self.until.lock().unwrap_or_else(PoisonError::into_inner);
        if *self.gaps.borrow() == gap {
            *until = Some(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_gap_ends_at_the_time_that_was_asked_after_it() {
        let missed = Missed::default();
        assert_eq!(missed.until(), Some(0), "at first nothing was missed");
        missed.begin();
        assert_eq!(missed.until(), None);
        let first = missed.some_gap().await;
        missed.begin();
        missed.settle(first, 5);
        assert_eq!(missed.until(), None, "the second gap is still open");
        missed.settle(missed.some_gap().await, 9);
        assert_eq!(missed.until(), Some(9));
    }
}
