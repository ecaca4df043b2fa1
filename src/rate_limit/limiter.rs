//! Settings of a limiter, and what its limits have decided.

use crate::limit::Algorithm;
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

/// Names whose decisions are counted apart.
const MOST_NAMES: usize = 1_000;

/// What names beyond [`MOST_NAMES`] are counted as. No limiter can have it.
const OTHERS: &str = "(others)";

/// Who counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Redis, for all processes.
    Redis,
    /// This process, for itself.
    Process,
}

/// What is done while Redis does not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnOutage {
    Local,
    Allow,
    Deny,
}

/// Whose counts are asked, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limiter {
    pub place: Place,
    pub algorithm: Algorithm,
    /// Counts of different names are different counts.
    pub name: String,
    pub on_outage: OnOutage,
    /// Counts and reports, but allows every call.
    pub shadow: bool,
}

impl Limiter {
    /// A limiter of that name with the defaults.
    pub fn named(name: &str) -> Self {
        let (place, algorithm) = (Place::Redis, Algorithm::SlidingWindow);
        Self { place, algorithm, name: name.to_owned(), on_outage: OnOutage::Local, shadow: false }
    }
}

/// Decisions of all limiters of a name.
#[derive(Debug, Default)]
pub struct Counters {
    pub allowed: AtomicU64,
    pub denied: AtomicU64,
    pub shadow_denied: AtomicU64,
    pub answered_locally: AtomicU64,
    pub answered_in_outage: AtomicU64,
}

/// The counters as `getRateLimitMetrics()` shows them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LimiterMetrics {
    allowed: u64,
    denied: u64,
    shadow_denied: u64,
    answered_locally: u64,
    answered_in_outage: u64,
}

/// The counters of every name that was used.
#[derive(Debug, Default)]
pub struct Registry(Mutex<BTreeMap<String, Arc<Counters>>>);

impl Registry {
    pub fn counters(&self, name: &str) -> Arc<Counters> {
        let mut names = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = names.get(name) {
            return known.clone();
        }
        let name = if names.len() < MOST_NAMES { name } else { OTHERS };
        names.entry(name.to_owned()).or_default().clone()
    }

    pub fn metrics(&self) -> BTreeMap<String, LimiterMetrics> {
        let names = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let metrics = |counters: &Counters| LimiterMetrics {
            allowed: counters.allowed.load(Relaxed),
            denied: counters.denied.load(Relaxed),
            shadow_denied: counters.shadow_denied.load(Relaxed),
            answered_locally: counters.answered_locally.load(Relaxed),
            answered_in_outage: counters.answered_in_outage.load(Relaxed),
        };
        names.iter().map(|(name, counters)| (name.clone(), metrics(counters))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_bounded() {
        let registry = Registry::default();
        for number in 0..MOST_NAMES + 5 {
            registry.counters(&number.to_string()).allowed.fetch_add(1, Relaxed);
        }
        let metrics = registry.metrics();
        assert_eq!((metrics.len(), metrics[OTHERS].allowed, metrics["7"].allowed), (MOST_NAMES + 1, 5, 1));
    }
}
