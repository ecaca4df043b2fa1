//! Counters of the session cache. Each validation is counted once: hits + misses + refused = total.

use serde::Serialize;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Counts since the start or the last reset.
#[derive(Debug, Default)]
pub struct SessionCounters {
    /// Answered by a copy in Redis.
    pub redis_hits: AtomicU64,
    /// Asked Postgres, or joined a call that did.
    pub misses: AtomicU64,
    /// Answered "nobody" without asking Postgres.
    pub refused: AtomicU64,
    /// Stores that failed to answer a validation, whether or not another one could.
    pub errors: AtomicU64,
    /// Tokens that calls of this process revoked or forgot.
    pub invalidations: AtomicU64,
    /// Queries for a session that went to Postgres.
    pub database_reads: AtomicU64,
    /// Validations that joined the read of another one.
    pub coalesced: AtomicU64,
}

/// What `getSessionCacheMetrics()` returns.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SessionMetrics {
    pub enabled: bool,
    pub hits: u64,
    pub misses: u64,
    pub refused: u64,
    pub errors: u64,
    pub invalidations: u64,
    pub total: u64,
    /// Percentage with two decimals of hits among hits and misses.
    pub hit_rate: f64,
    /// Seconds.
    pub ttl: u64,
    pub local_hits: u64,
    pub redis_hits: u64,
    pub database_reads: u64,
    pub coalesced: u64,
}

/// Counts one.
pub fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Relaxed);
}

impl SessionCounters {
    /// Reads all counters; `total` and `hits` are derived, so that the sums hold in every reading.
    pub fn read(&self, enabled: bool, ttl_seconds: u64) -> SessionMetrics {
        let redis_hits = self.redis_hits.load(Relaxed);
        let (misses, refused) = (self.misses.load(Relaxed), self.refused.load(Relaxed));
        let local_hits = 0;
        let hits = local_hits + redis_hits;
        SessionMetrics {
            enabled,
            hits,
            misses,
            refused,
            errors: self.errors.load(Relaxed),
            invalidations: self.invalidations.load(Relaxed),
            total: hits + misses + refused,
            hit_rate: percentage(hits, hits + misses),
            ttl: ttl_seconds,
            local_hits,
            redis_hits,
            database_reads: self.database_reads.load(Relaxed),
            coalesced: self.coalesced.load(Relaxed),
        }
    }

    /// Starts every count anew.
    pub fn reset(&self) {
        let Self { redis_hits, misses, refused, errors, invalidations, database_reads, coalesced } = self;
        for counter in [redis_hits, misses, refused, errors, invalidations, database_reads, coalesced] {
            counter.store(0, Relaxed);
        }
    }
}

fn percentage(part: u64, whole: u64) -> f64 {
    if whole == 0 {
        return 0.0;
    }
    #[expect(clippy::cast_precision_loss, reason = "counts beyond 2^53 may be off by one in ten quadrillions")]
    let exact = part as f64 * 100.0 / whole as f64;
    (exact * 100.0).round() / 100.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sums_hold_and_the_rate_has_two_decimals() {
        let counters = SessionCounters::default();
        count(&counters.redis_hits);
        count(&counters.redis_hits);
        count(&counters.misses);
        count(&counters.refused);
        let metrics = counters.read(true, 300);
        assert_eq!((metrics.hits, metrics.total, metrics.hit_rate), (2, 4, 66.67));
        counters.reset();
        assert_eq!(counters.read(true, 300).hit_rate, 0.0);
    }
}
