//! News from Postgres that may have been missed. What Redis held at that time is not believed any more.

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;

/// Until when copies are not believed, because nobody was listening.
pub struct Missed {
    state: Mutex<State>,
    /// Whether a gap is open, for those who ask often.
    open: AtomicBool,
    /// Tells that the state has changed.
    changes: watch::Sender<()>,
}

struct State {
    /// `None` while a gap was noticed and its end, by the clock of Redis, is not known.
    until: Option<u64>,
    /// Counts gaps.
    gap: u64,
    /// Somebody listens, so that a gap can end.
    listening: bool,
}

impl Default for Missed {
    fn default() -> Self {
        let state = State { until: Some(0), gap: 0, listening: true };
        Self { state: Mutex::new(state), open: AtomicBool::new(false), changes: watch::Sender::new(()) }
    }
}

impl Missed {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.state();
        change(&mut state);
        self.open.store(state.until.is_none(), SeqCst);
        drop(state);
        self.changes.send_replace(());
    }

    /// Copies that were read until then (microseconds of the clock of Redis) are not believed; `None`: no copy is.
    pub fn until(&self) -> Option<u64> {
        self.state().until
    }

    /// Whether no copy is believed.
    pub fn is_open(&self) -> bool {
        self.open.load(SeqCst)
    }

    /// Notices a gap. No copy is believed until [`Missed::settle`].
    pub fn begin(&self) {
        self.change(|state| {
            state.until = None;
            state.gap += 1;
        });
    }

    /// Whether somebody listens: without, a gap does not end.
    pub fn set_listening(&self, listening: bool) {
        self.change(|state| state.listening = listening);
    }

    /// Waits until the end of a gap is wanted; returns which gap that is.
    pub async fn some_gap(&self) -> u64 {
        let mut changes = self.changes.subscribe();
        loop {
            changes.borrow_and_update();
            {
                let state = self.state();
                if state.until.is_none() && state.listening {
                    return state.gap;
                }
            }
            // The sender lives as long as `self`.
            let _ = changes.changed().await;
        }
    }

    /// Ends a gap at `now`, unless another one was noticed meanwhile, or nobody listens any more.
    pub fn settle(&self, gap: u64, now: u64) {
        self.change(|state| {
            if state.gap == gap && state.listening {
                state.until = Some(now);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_gap_ends_at_the_time_that_was_asked_after_it() {
        let missed = Missed::default();
        assert_eq!((missed.until(), missed.is_open()), (Some(0), false), "at first nothing was missed");
        missed.begin();
        assert_eq!((missed.until(), missed.is_open()), (None, true));
        let first = missed.some_gap().await;
        missed.begin();
        missed.settle(first, 5);
        assert_eq!(missed.until(), None, "the second gap is still open");
        missed.settle(missed.some_gap().await, 9);
        assert_eq!((missed.until(), missed.is_open()), (Some(9), false));
    }

    #[tokio::test]
    async fn a_gap_does_not_end_while_nobody_listens() {
        let missed = Missed::default();
        missed.begin();
        let gap = missed.some_gap().await;
        missed.set_listening(false);
        missed.settle(gap, 5);
        assert_eq!(missed.until(), None);
        tokio::select! {
            biased;
            _ = missed.some_gap() => panic!("its end is wanted"),
            () = tokio::task::yield_now() => {}
        }
        missed.set_listening(true);
        missed.settle(missed.some_gap().await, 7);
        assert_eq!(missed.until(), Some(7));
    }
}
