//! Counters of the session cache. Each validation is counted once: hits + misses + refused = total.

use crate::session::Disbelief;
use serde::Serialize;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Counts since the start or the last reset.
#[derive(Debug, Default)]
pub struct SessionCounters {
    /// Answered by a copy in the process.
    pub local_hits: AtomicU64,
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
    /// Writes to keys of sessions that Redis told of.
    pub pushed: AtomicU64,
    /// Tokens that Postgres said to forget.
    pub heard: AtomicU64,
    /// Queries for a session that went to Postgres.
    pub database_reads: AtomicU64,
    /// Validations that joined the read of another one.
    pub coalesced: AtomicU64,
    /// Entries of Redis that were not believed.
    pub not_believed: NotBelieved,
}

/// Entries that were not believed, by reason.
#[derive(Debug, Default)]
pub struct NotBelieved {
    pub other_life: AtomicU64,
    pub ended: AtomicU64,
    pub other_version: AtomicU64,
    pub older_than_news: AtomicU64,
    pub unsealed: AtomicU64,
    pub unreadable: AtomicU64,
    /// Something happened to the key while it was read; it was read again.
    pub overtaken: AtomicU64,
}

impl NotBelieved {
    pub fn count(&self, disbelief: Option<Disbelief>) {
        let Some(disbelief) = disbelief else { return };
        count(match disbelief {
            Disbelief::OtherLife => &self.other_life,
            Disbelief::Ended => &self.ended,
            Disbelief::OtherVersion => &self.other_version,
            Disbelief::OlderThanNews => &self.older_than_news,
            Disbelief::Unsealed => &self.unsealed,
            Disbelief::Unreadable => &self.unreadable,
        });
    }
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
    pub local_entries: usize,
    pub not_believed: NotBelievedCounts,
    pub invalidations_by: Invalidations,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NotBelievedCounts {
    pub other_life: u64,
    pub ended: u64,
    pub other_version: u64,
    pub older_than_news: u64,
    pub unsealed: u64,
    pub unreadable: u64,
    pub overtaken: u64,
}

/// Tokens that had to be forgotten, by who said so.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Invalidations {
    pub calls: u64,
    pub redis: u64,
    pub postgres: u64,
}

/// Counts one.
pub fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Relaxed);
}

impl SessionCounters {
    /// Reads all counters; `total` and `hits` are derived, so that the sums hold in every reading.
    pub fn read(&self, enabled: bool, ttl_seconds: u64, local_entries: usize) -> SessionMetrics {
        let of = |counter: &AtomicU64| counter.load(Relaxed);
        let (local_hits, redis_hits) = (of(&self.local_hits), of(&self.redis_hits));
        let (misses, refused) = (of(&self.misses), of(&self.refused));
        let invalidations = of(&self.invalidations);
        let hits = local_hits + redis_hits;
        let not = &self.not_believed;
        SessionMetrics {
            enabled,
            hits,
            misses,
            refused,
            errors: of(&self.errors),
            invalidations,
            total: hits + misses + refused,
            hit_rate: percentage(hits, hits + misses),
            ttl: ttl_seconds,
            local_hits,
            redis_hits,
            database_reads: of(&self.database_reads),
            coalesced: of(&self.coalesced),
            local_entries,
            not_believed: NotBelievedCounts {
                other_life: of(&not.other_life),
                ended: of(&not.ended),
                other_version: of(&not.other_version),
                older_than_news: of(&not.older_than_news),
                unsealed: of(&not.unsealed),
                unreadable: of(&not.unreadable),
                overtaken: of(&not.overtaken),
            },
            invalidations_by: Invalidations {
                calls: invalidations,
                redis: of(&self.pushed),
                postgres: of(&self.heard),
            },
        }
    }

    /// Starts every count anew.
    pub fn reset(&self) {
        let Self { local_hits, redis_hits, misses, refused, errors, .. } = self;
        let Self { invalidations, pushed, heard, database_reads, coalesced, not_believed, .. } = self;
        let NotBelieved { other_life, ended, other_version, older_than_news, unsealed, unreadable, overtaken } =
            not_believed;
        for counter in [local_hits, redis_hits, misses, refused, errors]
            .into_iter()
            .chain([invalidations, pushed, heard, database_reads, coalesced])
            .chain([other_life, ended, other_version, older_than_news, unsealed, unreadable, overtaken])
        {
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
        let metrics = counters.read(true, 300, 0);
        assert_eq!((metrics.hits, metrics.total, metrics.hit_rate), (2, 4, 66.67));
        counters.reset();
        assert_eq!(counters.read(true, 300, 0).hit_rate, 0.0);
    }
}
