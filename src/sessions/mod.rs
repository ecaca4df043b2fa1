//! The session cache: who is this, and who is it no longer.
//!
//! Reading (this file): the process itself, Redis for a share of the time, then Postgres; concurrent reads of one token are one.
//! Ending and forgetting: [`revoke`]. What may be used, kept and has to be forgotten: [`memory`].
//!
//! A session that was revoked cannot come back, because every way into the cache needs proof that nothing happened
//! since the read began: a lease in Redis, and in the process a flight that nobody has forgotten.

mod activity;
mod local;
mod memory;
mod missed;
#[cfg(test)]
mod model;
mod revoke;
#[cfg(test)]
mod tests;
mod undelivered;
mod unknown;
mod upkeep;
mod warm;

use crate::clock::Moment;
use crate::config::{MAX_TTL, REDIS_SHARE_OF_VALIDATION};
use crate::error::{Error, Result};
use crate::keys::TokenHash;
use crate::metrics::{SessionCounters, SessionMetrics, count};
use crate::resilience::breaker::State;
use crate::resilience::guard::Guard;
use crate::resilience::single_flight::{Joined, Stored};
use crate::stores::{Lease, Lookup, SessionCopies, SessionRows};
pub use local::Known;
use memory::Answering;
pub use memory::Memory;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use tokio::time::timeout;
use tokio_util::task::TaskTracker;
#[cfg_attr(not(feature = "node"), expect(unused_imports, reason = "they are for its JavaScript face only"))]
pub use warm::{Progress, Status};

/// A session, or nobody.
pub type Answer = Result<Option<Arc<Known>>>;

/// An answer, and who gave it.
pub type Answered = (Answer, Source);

/// Who answered a validation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    Process,
    Redis,
    Postgres,
}

/// How often a copy is read again because something happened to its key meanwhile. A key that changes all the time is left to
/// Postgres.
const LOOKS: usize = 3;

/// How long Postgres may take to confirm a copy that is in doubt, before the copy counts: nobody is logged out, or kept waiting
/// for seconds, because Postgres is away.
const DOUBT_PATIENCE: Duration = Duration::from_millis(500);

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
    pub local_enabled: Option<bool>,
    pub ttl_seconds: Option<f64>,
}

/// How the cache is set up.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    pub enabled: bool,
    pub local_enabled: bool,
    pub ttl: Duration,
    /// Between two writes of activity.
    pub flush: Duration,
}

/// Sessions over their two stores. Without Redis this process has its own copies only; without Postgres nobody is answered.
pub struct Sessions<C, R> {
    copies: Option<Guarded<C>>,
    rows: Option<Arc<Guarded<R>>>,
    memory: Memory,
    background: TaskTracker,
    counters: Arc<SessionCounters>,
    enabled: AtomicBool,
    local_enabled: AtomicBool,
    ttl_seconds: AtomicU64,
    flush: Duration,
}

/// A session that Postgres had, and how long a copy of it may live.
struct Row {
    known: Arc<Known>,
    life: Duration,
}

impl<C: SessionCopies, R: SessionRows> Sessions<C, R> {
    pub fn new(
        copies: Option<Guarded<C>>,
        rows: Option<Arc<Guarded<R>>>,
        memory: Memory,
        counters: Arc<SessionCounters>,
        settings: Settings,
    ) -> Self {
        Self {
            copies,
            rows,
            memory,
            background: TaskTracker::new(),
            counters,
            enabled: AtomicBool::new(settings.enabled),
            local_enabled: AtomicBool::new(settings.local_enabled),
            ttl_seconds: AtomicU64::new(settings.ttl.as_secs()),
            flush: settings.flush,
        }
    }

    /// Who a token belongs to, or that it is nobody's, if that is known without waiting. `None` as token is one that cannot be
    /// anybody's.
    ///
    /// # Errors
    /// [`Error::NotConfigured`] without a database.
    pub fn immediate(&self, token: Option<&TokenHash>) -> Result<Option<Option<Arc<Known>>>> {
        self.rows()?;
        let now = self.memory.now();
        let known = match token {
            None => Some(None),
            Some(token) => self.known(token, now),
        };
        Ok(known.inspect(|known| self.note(known.as_ref(), Source::Process, now)))
    }

    /// What this process knows of a token.
    fn known(&self, token: &TokenHash, now: Moment) -> Option<Option<Arc<Known>>> {
        if !self.enabled.load(Relaxed) {
            return None;
        }
        if self.local_enabled.load(Relaxed)
            && let Some(known) = self.memory.hit(token, now)
        {
            return Some(Some(known));
        }
        self.memory.is_unknown(token, now).then_some(None)
    }

    /// Counts an answer, and notes that its session is used.
    fn note(&self, known: Option<&Arc<Known>>, source: Source, now: Moment) {
        count(match (source, known) {
            (Source::Process, Some(_)) => &self.counters.local_hits,
            (Source::Process, None) => &self.counters.refused,
            (Source::Redis, _) => &self.counters.redis_hits,
            (Source::Postgres, _) => &self.counters.misses,
        });
        if let Some(known) = known {
            self.memory.activity().touch(known, now);
        }
    }

    /// The valid session of a token that [`Sessions::immediate`] did not know.
    ///
    /// # Errors
    /// [`Error::SessionStore`] if neither store could answer. Never "nobody" in that case.
    pub async fn validate(self: &Arc<Self>, token: TokenHash) -> Answer {
        self.rows()?;
        loop {
            let (answer, source) = match self.memory.flights().join(token, self.memory.now()) {
                Joined::Leader(flight) => match self.known(&token, self.memory.now()) {
                    // An earlier flight ended just now: of many calls at once only some could join it.
                    Some(known) => {
                        let answer = (Ok(known), Source::Process);
                        flight.publish(answer.clone());
                        answer
                    }
                    None => self.lead(token, flight).await,
                },
                Joined::Follower(follower) => {
                    // A leader that vanished without an answer leaves its followers to start anew.
                    let Some(answer) = follower.answer().await else { continue };
                    count(&self.counters.coalesced);
                    answer
                }
            };
            self.note(answer.as_ref().ok().and_then(Option::as_ref), source, self.memory.now());
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
        let asked = self.memory.now();
        let found = rows.ask(rows.store.find(token)).await.map_err(Error::session_store)?;
        found.map(|found| Known::new(&found.session, asked, asked.after(found.remaining))).transpose()
    }

    async fn lead(self: &Arc<Self>, token: TokenHash, flight: Answering) -> Answered {
        let doubtful = self.is_doubtful(&token);
        let mut lease = None;
        if !doubtful {
            match self.look_up(token, &flight).await {
                Some(Looked::Known(known)) => {
                    let answer = (Ok(Some(known)), Source::Redis);
                    flight.publish(answer.clone());
                    return answer;
                }
                Some(Looked::Lease(found)) => lease = found,
                None => {}
            }
        }
        flight.go_on(None).await;
        let asked = self.memory.now();
        let found = if doubtful { self.confirm(token).await } else { self.read_row(token).await.map(Confirmed::Row) };
        let (answer, row) = match found {
            Ok(Confirmed::Row(Some(row))) => {
                if self.enabled.load(Relaxed) && self.local_enabled.load(Relaxed) {
                    self.memory.keep_row(&flight, token, &row.known);
                }
                ((Ok(Some(row.known.clone())), Source::Postgres), Some(row))
            }
            Ok(Confirmed::Row(None)) => {
                self.memory.keep_unknown(&flight, token, asked);
                ((Ok(None), Source::Postgres), None)
            }
            Ok(Confirmed::OldCopy(known)) => ((Ok(Some(known)), Source::Redis), None),
            Err(error) => ((Err(error), Source::Postgres), None),
        };
        flight.publish(answer.clone());
        if let (Some(row), Some(lease)) = (row, lease)
            && flight.storable()
        {
            let sessions = self.clone();
            // The callers have their answer; the copy is for those who come later. The flight lasts until it is there.
            self.background.spawn(async move {
                sessions.fill(token, &lease, &row).await;
                drop(flight);
            });
        }
        answer
    }

    /// Whether Postgres has to confirm what Redis has: news may have been missed, or could not be acted upon.
    fn is_doubtful(&self, token: &TokenHash) -> bool {
        let missed = self.memory.missed().is_open();
        self.readable_copy(token).is_some()
            && (missed || self.rows.as_ref().is_some_and(|rows| rows.guard.state() != State::Closed))
    }

    /// Redis, unless there is none, it is switched off, or it has not forgotten yet what it has to.
    fn readable_copies(&self) -> Option<&Guarded<C>> {
        self.copies.as_ref().filter(|_| self.enabled.load(Relaxed) && self.memory.undelivered().none())
    }

    /// The same for one token: what others said to forget may still be there.
    fn readable_copy(&self, token: &TokenHash) -> Option<&Guarded<C>> {
        self.readable_copies().filter(|_| !self.memory.heard().holds(token))
    }

    /// Asks Redis for a copy that may be believed, or else for a lease. `None` if it is not to be asked, or does not answer.
    async fn look_up(&self, token: TokenHash, flight: &Answering) -> Option<Looked> {
        let redis = self.readable_copy(&token)?;
        let after = self.memory.missed().until()?;
        let look = async {
            for _ in 0..LOOKS {
                // What happened to the key meanwhile may be what Redis has not confirmed.
                if self.readable_copy(&token).is_none() {
                    break;
                }
                let (nudges, asked) = (flight.nudges(), self.memory.now());
                match redis.store.read_or_lease(token, after).await? {
                    Lookup::Copy { session, life, pushed } => {
                        let known = Known::new(&session, asked, asked.after(life))?;
                        let keep = pushed && self.local_enabled.load(Relaxed);
                        if self.memory.keep_copy(flight, nudges, token, &known, keep) != Stored::Overtaken {
                            return Ok(Some(Looked::Known(known)));
                        }
                        count(&self.counters.not_believed.overtaken);
                    }
                    Lookup::Miss { lease, disbelief } => {
                        self.counters.not_believed.count(disbelief);
                        // The lease itself is a write, of which we are told. What was done to the key before that cannot be told
                        // from it, but had happened before Postgres is asked.
                        let announced = lease.as_ref().is_some_and(|lease| lease.announced);
                        flight.go_on(announced.then_some(nudges)).await;
                        return Ok(Some(Looked::Lease(lease)));
                    }
                }
            }
            Ok(None)
        };
        redis.guard.run(REDIS_SHARE_OF_VALIDATION, look).await.unwrap_or_else(|error| {
            count(&self.counters.errors);
            tracing::debug!("session not read from Redis: {error}");
            None
        })
    }

    /// Asks Postgres first, because copies are in doubt. Where it does not answer, a copy is better than a user who is turned
    /// away.
    async fn confirm(self: &Arc<Self>, token: TokenHash) -> Result<Confirmed> {
        let sessions = self.clone();
        let mut reading = tokio::spawn(async move { sessions.read_row(token).await });
        let abandoned = |_| Error::Internal("a read of Postgres was abandoned".to_owned());
        let failed = match timeout(DOUBT_PATIENCE, &mut reading).await {
            Ok(read) => match read.map_err(abandoned)? {
                Ok(found) => return Ok(Confirmed::Row(found)),
                Err(error) => Some(error),
            },
            Err(_) => None,
        };
        if let Some(known) = self.old_copy(token).await {
            return Ok(Confirmed::OldCopy(known));
        }
        match failed {
            Some(error) => Err(error),
            None => reading.await.map_err(abandoned)?.map(Confirmed::Row),
        }
    }

    /// A copy whatever news were missed.
    async fn old_copy(&self, token: TokenHash) -> Option<Arc<Known>> {
        let redis = self.readable_copy(&token)?;
        let asked = self.memory.now();
        let read = redis.guard.run(REDIS_SHARE_OF_VALIDATION, redis.store.read_or_lease(token, 0)).await;
        match read.ok()? {
            Lookup::Copy { session, life, .. } => Known::new(&session, asked, asked.after(life)).ok(),
            Lookup::Miss { .. } => None,
        }
    }

    /// The session in Postgres.
    async fn read_row(&self, token: TokenHash) -> Result<Option<Row>> {
        let rows = self.rows()?;
        let asked = self.memory.now();
        let read = async {
            count(&self.counters.database_reads);
            rows.store.find(token).await
        };
        let found = rows.ask(read).await.map_err(|error| {
            count(&self.counters.errors);
            Error::session_store(error)
        });
        let Some(found) = found? else { return Ok(None) };
        let life = found.remaining.min(Duration::from_secs(self.ttl_seconds.load(Relaxed)));
        Ok(Some(Row { known: Known::new(&found.session, asked, asked.after(life))?, life }))
    }

    async fn fill(&self, token: TokenHash, lease: &Lease, row: &Row) {
        let Some(redis) = self.copies.as_ref().filter(|_| self.enabled.load(Relaxed)) else { return };
        // A refused fill is the fence at work; an unanswered one leaves the next read to Postgres.
        let fill = redis.store.fill(token, lease, &row.known.json, row.life);
        if let Err(error) = redis.guard.run(REDIS_SHARE_OF_VALIDATION, fill).await {
            tracing::debug!("session not copied to Redis: {error}");
        }
    }

    fn rows(&self) -> Result<&Guarded<R>> {
        self.rows.as_deref().ok_or(Error::NotConfigured("DATABASE_URL"))
    }

    /// Whether Redis answers on the connection of sessions; `false` without Redis.
    pub async fn is_healthy(&self) -> bool {
        let Some(redis) = &self.copies else { return false };
        redis.ask(redis.store.ping()).await.is_ok()
    }

    /// The store of copies, if there is one.
    pub fn copies(&self) -> Option<&C> {
        self.copies.as_ref().map(|copies| &copies.store)
    }

    /// Counts since the start or the last reset.
    pub fn metrics(&self) -> SessionMetrics {
        let entries = self.memory.local().len();
        self.counters.read(self.enabled.load(Relaxed), self.ttl_seconds.load(Relaxed), entries)
    }

    /// Starts every count anew.
    pub fn reset_metrics(&self) {
        self.counters.reset();
    }

    /// Changes settings at once. Switched off, the cache is neither read nor filled; invalidations go on. Switched on again, it
    /// begins empty.
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
        if let Some(enabled) = switches.enabled
            && self.enabled.swap(enabled, Relaxed) != enabled
        {
            self.memory.doubt();
        }
        if let Some(local_enabled) = switches.local_enabled
            && self.local_enabled.swap(local_enabled, Relaxed) != local_enabled
        {
            self.memory.local().clear();
        }
        Ok(())
    }
}

/// What a look into Redis gave.
enum Looked {
    Known(Arc<Known>),
    Lease(Option<Lease>),
}

/// What Postgres said of a copy that is in doubt.
enum Confirmed {
    Row(Option<Row>),
    /// It did not answer.
    OldCopy(Arc<Known>),
}
