//! The session cache: who is this, and who is it no longer.
//!
//! Reading (this file): Redis for a share of the time, then Postgres; concurrent reads of one token are one.
//! Ending and forgetting: [`revoke`]. What could not be removed from Redis yet: [`undelivered`].
//!
//! A session that was revoked cannot come back, because every way into the cache needs proof that nothing happened
//! since the read began: a lease in Redis, and in the process a flight that nobody has forgotten.

mod missed;
mod revoke;
#[cfg(test)]
mod tests;
mod undelivered;

use crate::config::{MAX_TTL, REDIS_SHARE_OF_VALIDATION};
use crate::error::{Error, Result};
use crate::keys::TokenHash;
use crate::metrics::{SessionCounters, SessionMetrics, count};
use crate::resilience::breaker::State;
use crate::resilience::guard::Guard;
use crate::resilience::single_flight::{Flight, Joined, SingleFlight};
use crate::session::SessionWithUser;
use crate::stores::{Lease, Lookup, SessionCopies, SessionRows};
use missed::Missed;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;
use undelivered::Undelivered;

/// A session, or nobody.
pub type Answer = Result<Option<Arc<SessionWithUser>>>;

/// A store behind the guard of its server.
pub struct Guarded<S> {
    pub store: S,
    pub guard: Arc<Guard>,
}

impl<S> Guarded<S> {
    async fn ask<T>(&self, call: impl Future<Output = Result<T>>) -> Result<T> {
        self.guard.run(self.guard.deadline(), call).await
    }
}

/// What [`Sessions::configure`] changes; `None` leaves a setting as it is.
#[derive(Debug, Clone, Copy, Default)]
pub struct Switches {
    pub enabled: Option<bool>,
    pub ttl_seconds: Option<f64>,
}

/// Sessions over their two stores. Without Redis every validation asks Postgres; without Postgres none is answered.
pub struct Sessions<C, R> {
    copies: Option<Guarded<C>>,
    rows: Option<Arc<Guarded<R>>>,
    memory: Memory,
    background: TaskTracker,
    counters: SessionCounters,
    enabled: AtomicBool,
    ttl_seconds: AtomicU64,
}

/// What this process knows of reads under way and of invalidations that Redis has not confirmed.
///
/// It outlives an engine: a revocation that one began must hold in the next one. Clones are handles to the same memory.
#[derive(Clone, Default)]
pub struct Memory {
    flights: SingleFlight<TokenHash, (Answer, Source)>,
    undelivered: Arc<Undelivered>,
    /// What Postgres said to forget, and nobody has removed from Redis yet.
    heard: Arc<Undelivered>,
    missed: Arc<Missed>,
}

/// Who answered a validation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Redis,
    Postgres,
}

impl<C: SessionCopies, R: SessionRows> Sessions<C, R> {
    pub fn new(
        copies: Option<Guarded<C>>,
        rows: Option<Arc<Guarded<R>>>,
        memory: Memory,
        enabled: bool,
        ttl: Duration,
    ) -> Self {
        Self {
            copies,
            rows,
            memory,
            background: TaskTracker::new(),
            counters: SessionCounters::default(),
            enabled: AtomicBool::new(enabled),
            ttl_seconds: AtomicU64::new(ttl.as_secs()),
        }
    }

    /// The valid session of a token; `None` as token is one that cannot be anybody's.
    ///
    /// # Errors
    /// [`Error::SessionStore`] if neither store could answer. Never "nobody" in that case.
    pub async fn validate(self: &Arc<Self>, token: Option<TokenHash>) -> Answer {
        self.rows()?;
        let Some(token) = token else {
            count(&self.counters.refused);
            return Ok(None);
        };
        loop {
            let (answer, source) = match self.memory.flights.join(token, Instant::now()) {
                Joined::Leader(flight) => self.lead(token, flight).await,
                Joined::Follower(follower) => {
                    // A leader that vanished without an answer leaves its followers to start anew.
                    let Some(answer) = follower.answer().await else { continue };
                    count(&self.counters.coalesced);
                    answer
                }
            };
            count(match source {
                Source::Redis => &self.counters.redis_hits,
                Source::Postgres => &self.counters.misses,
            });
            return answer;
        }
    }

    /// The valid session of a token by Postgres alone: nothing is read from or left in the cache, nothing is counted.
    ///
    /// # Errors
    /// [`Error::SessionStore`] if Postgres could not answer.
    pub async fn validate_uncached(&self, token: Option<TokenHash>) -> Answer {
        let rows = self.rows()?;
        let Some(token) = token else { return Ok(None) };
        let found = rows.ask(rows.store.find(token)).await.map_err(Error::session_store)?;
        Ok(found.map(|found| Arc::new(found.session)))
    }

    async fn lead(self: &Arc<Self>, token: TokenHash, flight: Flight<TokenHash, (Answer, Source)>) -> (Answer, Source) {
        let lease = match self.look_up(token).await {
            Some(Lookup::Copy(session)) => {
                let answer = (Ok(Some(session)), Source::Redis);
                flight.publish(answer.clone());
                return answer;
            }
            Some(Lookup::Miss(lease)) => lease,
            None => None,
        };
        let found = self.read_row(token).await;
        let answer = found.as_ref().map(|found| found.as_ref().map(|(session, _)| session.clone()));
        let answer = (answer.map_err(Clone::clone), Source::Postgres);
        flight.publish(answer.clone());
        if let (Ok(Some((session, remaining))), Some(lease)) = (found, lease)
            && flight.storable()
        {
            let sessions = self.clone();
            // The callers have their answer; the copy is for those who come later. The flight lasts until it is there.
            self.background.spawn(async move {
                sessions.fill(token, lease, session, remaining).await;
                drop(flight);
            });
        }
        answer
    }

    /// Asks Redis, unless it is switched off, away, or not to be trusted yet.
    async fn look_up(&self, token: TokenHash) -> Option<Lookup> {
        let redis = self.copies.as_ref().filter(|_| self.enabled.load(Relaxed) && self.memory.undelivered.none())?;
        // A breaker that is still open closes the other way to an answer: better an old copy than a user who is turned away.
        let postgres_answers = self.rows.as_ref().is_some_and(|rows| rows.guard.state() == State::Closed);
        let after = if postgres_answers { self.memory.missed.until()? } else { 0 };
        match redis.guard.run(REDIS_SHARE_OF_VALIDATION, redis.store.read_or_lease(token, after)).await {
            Ok(lookup) => Some(lookup),
            Err(error) => {
                count(&self.counters.errors);
                tracing::debug!("session not read from Redis: {error}");
                None
            }
        }
    }

    /// The session in Postgres, and how long it is valid.
    async fn read_row(&self, token: TokenHash) -> Result<Option<(Arc<SessionWithUser>, Duration)>> {
        let rows = self.rows()?;
        let read = async {
            count(&self.counters.database_reads);
            rows.store.find(token).await
        };
        match rows.ask(read).await {
            Ok(found) => Ok(found.map(|found| (Arc::new(found.session), found.remaining))),
            Err(error) => {
                count(&self.counters.errors);
                Err(Error::session_store(error))
            }
        }
    }

    async fn fill(&self, token: TokenHash, lease: Lease, session: Arc<SessionWithUser>, remaining: Duration) {
        let Some(redis) = self.copies.as_ref().filter(|_| self.enabled.load(Relaxed)) else { return };
        let life = remaining.min(Duration::from_secs(self.ttl_seconds.load(Relaxed)));
        // A refused fill is the fence at work; an unanswered one leaves the next read to Postgres.
        let fill = redis.store.fill(token, &lease, &session, life);
        if let Err(error) = redis.guard.run(REDIS_SHARE_OF_VALIDATION, fill).await {
            tracing::debug!("session not copied to Redis: {error}");
        }
    }

    fn rows(&self) -> Result<&Guarded<R>> {
        self.rows.as_deref().ok_or(Error::NotConfigured("DATABASE_URL"))
    }

    /// Counts since the start or the last reset.
    pub fn metrics(&self) -> SessionMetrics {
        self.counters.read(self.enabled.load(Relaxed), self.ttl_seconds.load(Relaxed))
    }

    /// Starts every count anew.
    pub fn reset_metrics(&self) {
        self.counters.reset();
    }

    /// Changes settings at once. Switched off, the cache is neither read nor filled; invalidations go on.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if `ttl_seconds` is no whole number from 1 to 300; then nothing is changed.
    pub fn configure(&self, switches: Switches) -> Result<()> {
        if let Some(ttl) = switches.ttl_seconds {
            #[expect(clippy::cast_precision_loss, reason = "300 is exact")]
            let longest = MAX_TTL.as_secs() as f64;
            if ttl.fract() != 0.0 || !(1.0..=longest).contains(&ttl) {
                return Err(Error::range_error(format!(
                    "ttlSeconds must be a whole number from 1 to {longest}, got {ttl}."
                )));
            }
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked above")]
            self.ttl_seconds.store(ttl as u64, Relaxed);
        }
        if let Some(enabled) = switches.enabled {
            self.enabled.store(enabled, Relaxed);
        }
        Ok(())
    }
}
