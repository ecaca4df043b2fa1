//! Copies that are left in Redis before anybody asks for them.
//!
//! They are left as a validation leaves its own: under a lease that was taken before Postgres was read. Whatever is
//! revoked or forgotten meanwhile removes the lease, and the copy is refused.

use super::revoke::store_error;
use super::{Guarded, Sessions};
use crate::error::{Error, Result};
use crate::keys::TokenHash;
use crate::stores::{Found, Lease, Lookup, SessionCopies, SessionRows};
use serde::Serialize;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Sessions that are read from Postgres by one statement, and commands that Redis is sent at once: a hundredth of what it
/// may have unanswered, which leaves room for others.
const BATCH: usize = 100;

/// How far it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Progress {
    /// Sessions that were found.
    pub total: usize,
    /// Those that have a copy.
    pub warmed: usize,
    /// Those that were tried and have none.
    pub failed: usize,
}

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    Completed,
    Stopped,
    /// A store failed a whole batch.
    Failed,
}

impl Status {
    /// The name for JavaScript.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Stopped => "stopped",
            Self::Failed => "failed",
        }
    }
}

/// What came of [`Sessions::warm`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Warmed {
    pub progress: Progress,
    pub status: Status,
}

impl<C: SessionCopies, R: SessionRows> Sessions<C, R> {
    /// Leaves copies of the `limit` sessions with the newest activity `within` so long. Ends after the batch that is under
    /// way when `stop` is cancelled, or when this engine is shut down. `progress` is told after every batch.
    ///
    /// Where no copies may be left, because there is no Redis or it must not be read now, there is nothing to do.
    ///
    /// # Errors
    /// [`Error::NotConfigured`] without Postgres.
    pub async fn warm(
        self: &Arc<Self>,
        limit: u32,
        within: Duration,
        stop: &CancellationToken,
        mut progress: impl FnMut(Progress) + Send,
    ) -> Result<Warmed> {
        let rows = self.rows()?;
        let mut done = Progress::default();
        let is_stopped = || stop.is_cancelled() || self.background.is_closed();
        let warming = async {
            if is_stopped() {
                return Ok(Status::Stopped);
            }
            if self.warmable().is_none() {
                return Ok(Status::Completed);
            }
            let tokens = rows.ask(rows.store.newest(limit, within)).await?;
            done.total = tokens.len();
            for batch in tokens.chunks(BATCH) {
                if is_stopped() {
                    return Ok(Status::Stopped);
                }
                let (warmed, outcome) = self.warm_some(batch).await;
                done.warmed += warmed;
                done.failed += batch.len() - warmed;
                progress(done);
                outcome?;
            }
            Ok(Status::Completed)
        };
        let warming: Result<Status> = warming.await;
        let status = warming.unwrap_or_else(|error| {
            // What shutdown() cuts off is no failure of a store.
            if is_stopped() {
                return Status::Stopped;
            }
            tracing::warn!("warming the session cache has ended early: {error}");
            Status::Failed
        });
        Ok(Warmed { progress: done, status })
    }

    /// Leaves a copy of one session. `false` if there is no such session, or no copy could be left.
    ///
    /// # Errors
    /// [`Error::SessionStore`] if Postgres could not answer.
    pub async fn warm_one(self: &Arc<Self>, token: Option<TokenHash>) -> Result<bool> {
        self.rows()?;
        let Some(token) = token else { return Ok(false) };
        match self.warm_some(&[token]).await {
            (_, Err(error @ Error::SessionStore { .. })) => Err(error),
            (warmed, _) => Ok(warmed > 0),
        }
    }

    /// Leaves copies of some sessions; gives how many have one then. It is an error if a store failed all of them; one of
    /// Postgres is [`Error::SessionStore`].
    async fn warm_some(self: &Arc<Self>, tokens: &[TokenHash]) -> (usize, Result<()>) {
        let (mut warmed, mut leases) = (0, HashMap::new());
        let looked_up = all(tokens.iter().map(|token| {
            let (sessions, token) = (self.clone(), *token);
            async move { Ok((token, sessions.lease(token).await?)) }
        }));
        let looked_up = match unless_all_failed(looked_up.await) {
            Ok(looked_up) => looked_up,
            Err(error) => return (warmed, Err(error)),
        };
        for (token, lookup) in looked_up {
            match lookup {
                Some(Lookup::Copy { .. }) => warmed += 1,
                Some(Lookup::Miss { lease: Some(lease), .. }) => drop(leases.insert(token, lease)),
                Some(Lookup::Miss { lease: None, .. }) | None => {}
            }
        }
        if leases.is_empty() {
            return (warmed, Ok(()));
        }
        let found = match self.rows_of(leases.keys().copied().collect()).await {
            Ok(found) => found,
            Err(error) => return (warmed, Err(store_error(error))),
        };
        let fills = all(found.into_iter().filter_map(|(token, found)| {
            let (sessions, lease) = (self.clone(), leases.remove(&token)?);
            Some(async move { sessions.leave(token, lease, found).await })
        }));
        match unless_all_failed(fills.await) {
            Ok(left) => (warmed + left.into_iter().filter(|left| *left).count(), Ok(())),
            Err(error) => (warmed, Err(error)),
        }
    }

    /// The copy of a token, or a lease for it; `None` where none may be asked for.
    async fn lease(&self, token: TokenHash) -> Result<Option<Lookup>> {
        let Some((redis, after)) = self.warmable() else { return Ok(None) };
        redis.ask(redis.store.read_or_lease(token, after)).await.map(Some)
    }

    async fn rows_of(&self, tokens: Vec<TokenHash>) -> Result<Vec<(TokenHash, Found)>> {
        let rows = self.rows()?;
        rows.ask(rows.store.find_all(&tokens)).await
    }

    /// Leaves a copy under its lease; `false` if the lease is gone, or none may be left any more.
    async fn leave(&self, token: TokenHash, lease: Lease, found: Found) -> Result<bool> {
        let Some((redis, _)) = self.warmable() else { return Ok(false) };
        let fault = |error| Error::Internal(format!("a session is no JSON: {error}"));
        let json = serde_json::to_string(&found.session).map_err(fault)?;
        let life = found.remaining.min(Duration::from_secs(self.ttl_seconds.load(Relaxed)));
        redis.ask(redis.store.fill(token, &lease, &json, life)).await
    }

    /// Redis, where it may be read and filled now, and the time that its copies must be younger than.
    fn warmable(&self) -> Option<(&Guarded<C>, u64)> {
        Some((self.readable_copies()?, self.memory.missed().until()?))
    }
}

/// Runs all at once, and waits for all. One that panics is left out.
async fn all<F>(futures: impl Iterator<Item = F>) -> Vec<F::Output>
where
    F: Future<Output: Send> + Send + 'static,
{
    let mut running: JoinSet<_> = futures.collect();
    let mut results = Vec::with_capacity(running.len());
    while let Some(result) = running.join_next().await {
        results.extend(result);
    }
    results
}

/// What succeeded; the error if nothing did.
fn unless_all_failed<T>(results: Vec<Result<T>>) -> Result<Vec<T>> {
    let (mut succeeded, mut failure) = (Vec::with_capacity(results.len()), None);
    for result in results {
        match result {
            Ok(value) => succeeded.push(value),
            Err(error) => failure = Some(error),
        }
    }
    match failure {
        Some(error) if succeeded.is_empty() => Err(error),
        _ => Ok(succeeded),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Switches;
    use super::super::tests::{Double, ID, Tested, hold_up, let_go, row, some_sessions, token};
    use super::*;
    use crate::session::SessionWithUser;

    const DAY: Duration = Duration::from_secs(24 * 60 * 60);
    const MOMENT: Duration = Duration::from_millis(1);

    fn numbered(number: usize) -> TokenHash {
        token(&format!("{number:04}"))
    }

    /// So many sessions, of which those with a higher number were active later. Their names are their numbers.
    fn many(count: usize) -> (Tested, Arc<Double>) {
        let (sessions, double) = some_sessions(&[]);
        for number in 0..count {
            let name = format!("{number:04}");
            let session = SessionWithUser { last_activity_at: name.clone(), ..row(&name) };
            double.rows.lock().unwrap().insert(token(&name), session);
        }
        (sessions, double)
    }

    async fn warm(sessions: &Tested, limit: u32, progress: impl FnMut(Progress) + Send) -> Warmed {
        sessions.warm(limit, DAY, &CancellationToken::new(), progress).await.unwrap()
    }

    fn ended(total: usize, warmed: usize, failed: usize, status: Status) -> Warmed {
        Warmed { progress: Progress { total, warmed, failed }, status }
    }

    fn finds(double: &Double) -> usize {
        double.finds.load(Relaxed)
    }

    #[tokio::test(start_paused = true)]
    async fn the_latest_active_get_copies_by_one_query_a_batch() {
        let (sessions, double) = many(300);
        let mut told = Vec::new();
        let warmed = warm(&sessions, 250, |progress| told.push((progress.total, progress.warmed))).await;
        assert_eq!(warmed, ended(250, 250, 0, Status::Completed));
        assert_eq!(told, [(250, 100), (250, 200), (250, 250)]);
        assert_eq!(finds(&double), 3);
        let copies = double.copies.lock().unwrap();
        assert_eq!(copies.len(), 250);
        assert!((50..300).all(|number| copies.contains_key(&numbered(number))));
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_a_copy_is_warm_without_a_query() {
        let (sessions, double) = many(100);
        assert_eq!(warm(&sessions, 1000, |_| {}).await, ended(100, 100, 0, Status::Completed));
        assert_eq!(warm(&sessions, 1000, |_| {}).await, ended(100, 100, 0, Status::Completed));
        assert_eq!((finds(&double), double.fills.load(Relaxed)), (1, 100));
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_no_lease_or_no_session_fails_alone() {
        let (sessions, double) = many(150);
        double.leaseless.lock().unwrap().insert(numbered(149));
        // It is gone when its batch comes.
        let warmed = warm(&sessions, 1000, |_| drop(double.rows.lock().unwrap().remove(&numbered(0)))).await;
        assert_eq!(warmed, ended(150, 148, 2, Status::Completed));
        let copies = double.copies.lock().unwrap();
        assert!(!copies.contains_key(&numbered(149)) && !copies.contains_key(&numbered(0)));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_revoked_while_it_is_warmed_has_no_copy_afterwards() {
        // Also where Redis cannot be told of the revocation, and the lease still stands.
        for delivered in [true, false] {
            let (sessions, double) = many(10);
            hold_up(&double);
            let warming = tokio::spawn({
                let sessions = sessions.clone();
                async move { warm(&sessions, 1000, |_| {}).await }
            });
            tokio::time::sleep(MOMENT).await;
            assert_eq!(finds(&double), 1, "Postgres was read");
            double.fail((!delivered).then_some("forget"));
            assert!(sessions.revoke_token(Some(numbered(3))).await.unwrap());
            let_go(&double);
            let warmed = if delivered { 9 } else { 0 };
            assert_eq!(warming.await.unwrap(), ended(10, warmed, 10 - warmed, Status::Completed));
            let copies = double.copies.lock().unwrap();
            assert!(copies.len() == warmed && !copies.contains_key(&numbered(3)));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn where_no_copies_may_be_left_there_is_nothing_to_do() {
        let (sessions, double) = many(10);
        double.fail(Some("newest"));
        let nothing = ended(0, 0, 0, Status::Completed);
        sessions.configure(Switches { enabled: Some(false), ..Switches::default() }).unwrap();
        assert_eq!(warm(&sessions, 1000, |_| {}).await, nothing);
        sessions.configure(Switches { enabled: Some(true), ..Switches::default() }).unwrap();
        sessions.memory.undelivered().add(&[token("x")], tokio::time::Instant::now());
        assert_eq!(warm(&sessions, 1000, |_| {}).await, nothing);
        assert!(!sessions.warm_one(Some(numbered(0))).await.unwrap());
        sessions.memory.undelivered().clear();
        sessions.memory.doubt();
        assert_eq!(warm(&sessions, 1000, |_| {}).await, nothing);
        assert_eq!(double.reads.load(Relaxed), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_store_that_fails_a_whole_batch_ends_it() {
        for (failing, total) in [("newest", 0), ("find_all", 250), ("read", 250), ("fill", 250)] {
            let (sessions, double) = many(250);
            double.fail(Some(failing));
            let mut told = 0;
            let warmed = warm(&sessions, 1000, |_| told += 1).await;
            assert_eq!(warmed, ended(total, 0, total.min(100), Status::Failed), "{failing}");
            assert_eq!(told, total.min(1), "{failing}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_warmed_before_a_failure_counts() {
        let (sessions, double) = many(250);
        double.fail_after(1, "find_all");
        assert_eq!(warm(&sessions, 1000, |_| {}).await, ended(250, 100, 100, Status::Failed));
        // Redis fails some of a batch: the others go on.
        let (sessions, double) = many(250);
        double.fail_after(30, "fill");
        let warmed = warm(&sessions, 1000, |_| double.fail(None)).await;
        assert_eq!(warmed, ended(250, 180, 70, Status::Completed));
    }

    #[tokio::test(start_paused = true)]
    async fn it_stops_after_the_batch_that_is_under_way() {
        let (sessions, double) = many(250);
        let stop = CancellationToken::new();
        let warmed = sessions.warm(1000, DAY, &stop, |_| stop.cancel()).await.unwrap();
        assert_eq!(warmed, ended(250, 100, 0, Status::Stopped));
        double.fail(Some("newest"));
        let warmed = sessions.warm(1000, DAY, &stop, |_| {}).await.unwrap();
        assert_eq!(warmed, ended(0, 0, 0, Status::Stopped), "at once, without a query");
    }

    #[tokio::test(start_paused = true)]
    async fn the_end_of_its_engine_stops_it() {
        let (sessions, _) = many(250);
        sessions.finish().await;
        assert_eq!(warm(&sessions, 1000, |_| {}).await, ended(0, 0, 0, Status::Stopped));
    }

    #[tokio::test(start_paused = true)]
    async fn one_session_is_warmed_by_what_postgres_says() {
        let (sessions, double) = some_sessions(&["t"]);
        assert!(sessions.warm_one(Some(token("t"))).await.unwrap());
        assert_eq!(double.copies.lock().unwrap()[&token("t")].id, ID);
        assert!(sessions.warm_one(Some(token("t"))).await.unwrap(), "it has a copy");
        assert!(!sessions.warm_one(Some(token("u"))).await.unwrap());
        assert!(!sessions.warm_one(None).await.unwrap());
        assert_eq!(finds(&double), 2);
        double.fail(Some("find_all"));
        assert_eq!(sessions.warm_one(Some(token("u"))).await.unwrap_err().code(), "ERR_SESSION_STORE");
        double.fail(Some("read"));
        assert!(!sessions.warm_one(Some(token("u"))).await.unwrap(), "Redis is away: none could be left");
    }
}
