//! Who in this process wants to know of every breaker that changes, whichever engine it belongs to.

use crate::engine::Changes;
use crate::resilience::breaker::State;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Is told the server and the new state. Called on any thread.
pub type Listener = Arc<dyn Fn(&Arc<str>, State) + Send + Sync>;

/// The listeners, by the number that each was given.
#[derive(Default)]
pub struct Listeners {
    next: AtomicU64,
    all: Mutex<Vec<(u64, Listener)>>,
}

impl Listeners {
    fn all(&self) -> MutexGuard<'_, Vec<(u64, Listener)>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn add(&self, listener: Listener) -> u64 {
        let id = self.next.fetch_add(1, Relaxed);
        self.all().push((id, listener));
        id
    }

    pub fn remove(&self, id: u64) {
        self.all().retain(|(known, _)| *known != id);
    }

    /// What an engine is to call at each change.
    pub fn changes(self: Arc<Self>) -> Changes {
        Arc::new(move |server, state| {
            let all = self.all().clone();
            for (_, listener) in all {
                listener(server, state);
            }
        })
    }
}
