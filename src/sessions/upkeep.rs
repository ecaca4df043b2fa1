//! Looking after sessions in Postgres: listing those of a user, and deleting those that nobody uses any more.

use super::Sessions;
use super::revoke::{canonical, store_error};
use crate::error::{Error, Result};
use crate::session::{Session, UserSessionStats};
use crate::stores::{Named, SessionCopies, SessionRows};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::yield_now;

/// Sessions that one statement deletes: it holds its locks, and its connection, for a moment only.
const BATCH: u32 = 1_000;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

impl<C: SessionCopies, R: SessionRows> Sessions<C, R> {
    /// The sessions of a user that have not expired, the latest active first.
    ///
    /// # Errors
    /// [`Error::SessionStore`] if Postgres cannot say.
    pub async fn sessions_of(&self, user: &str) -> Result<Vec<Session>> {
        let rows = self.rows()?;
        let Some(user) = canonical(user) else { return Ok(Vec::new()) };
        rows.ask(rows.store.of_user(&user)).await.map_err(store_error)
    }

    /// How many sessions of a user have not expired, and since when.
    ///
    /// # Errors
    /// [`Error::SessionStore`] if Postgres cannot say.
    pub async fn stats_of(&self, user: &str) -> Result<UserSessionStats> {
        let rows = self.rows()?;
        let Some(user) = canonical(user) else {
            return Ok(UserSessionStats {
                total_active: 0,
                oldest_session: None,
                newest_session: None,
                devices_count: 0,
            });
        };
        rows.ask(rows.store.stats_of_user(&user)).await.map_err(store_error)
    }

    /// Deletes sessions that have expired; returns how many there were.
    ///
    /// # Errors
    /// [`Error::SessionStore`] if not all of them could be deleted. Those that were are forgotten.
    pub async fn cleanup_expired(self: &Arc<Self>) -> Result<u64> {
        let rows = self.rows()?;
        self.delete_all(|| rows.ask(rows.store.delete_expired(BATCH))).await
    }

    /// Deletes sessions that nobody has used for so many days; returns how many there were.
    ///
    /// # Errors
    /// As [`Sessions::cleanup_expired`]. Also where it is not certain that Postgres knows of all activity, of which this
    /// process writes its own first: then nothing is deleted.
    pub async fn cleanup_inactive(self: &Arc<Self>, days: u32) -> Result<u64> {
        let rows = self.rows()?;
        let written = self.memory.activity().flush_all(rows, || self.memory.now()).await;
        written.map_err(Error::session_store)?;
        self.delete_all(|| rows.ask(rows.store.delete_inactive(DAY * days, BATCH))).await
    }

    /// Deletes a batch after another until one is not full. Other calls get their turns in between.
    async fn delete_all<D>(self: &Arc<Self>, delete_some: impl Fn() -> D) -> Result<u64>
    where
        D: Future<Output = Result<Named>>,
    {
        let mut deleted = 0;
        loop {
            let Named { rows, tokens } = delete_some().await.map_err(store_error)?;
            self.forget_everywhere(&tokens).await;
            deleted += rows;
            if rows < u64::from(BATCH) {
                return Ok(deleted);
            }
            yield_now().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::local::Known;
    use super::super::tests::{Double, ID, IDLE, Tested, row, some_sessions, token, validate};
    use super::*;
    use crate::clock::Moment;
    use crate::session::SessionWithUser;
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

    const DOOMED: usize = 2_500;

    /// A session `t` that goes on, and [`DOOMED`] that do not; all of them have a copy in Redis.
    fn doomed() -> (Tested, Arc<Double>) {
        let (sessions, double) = some_sessions(&["t"]);
        let ended = SessionWithUser { expires_at: "past".into(), last_activity_at: IDLE.into(), ..row("t") };
        let mut rows = double.rows.lock().unwrap();
        rows.extend((0..DOOMED).map(|number| (token(&number.to_string()), ended.clone())));
        double.copies.lock().unwrap().clone_from(&rows);
        drop(rows);
        (sessions, double)
    }

    fn left(double: &Double) -> (usize, usize) {
        (double.rows.lock().unwrap().len(), double.copies.lock().unwrap().len())
    }

    /// An id of a session that was used just now, as far as the process knows.
    fn used(sessions: &Tested) {
        let known = Known::new(&row("t"), Moment::NEVER, Moment::NEVER).unwrap();
        sessions.memory.activity().touch(&known, sessions.memory.now());
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_no_user_has_no_sessions_and_costs_no_query() {
        let (sessions, double) = some_sessions(&["t"]);
        for user in ["", "no uuid", "'; DROP TABLE"] {
            assert!(sessions.sessions_of(user).await.unwrap().is_empty());
            assert_eq!(sessions.stats_of(user).await.unwrap().total_active, 0);
        }
        assert_eq!(double.finds.load(Relaxed), 0);
        assert_eq!(sessions.sessions_of(&ID.to_uppercase()).await.unwrap()[0].id, ID);
        assert_eq!(sessions.stats_of(ID).await.unwrap().total_active, 1);
        double.fail(Some("of_user"));
        assert_eq!(sessions.sessions_of(ID).await.unwrap_err().code(), "ERR_SESSION_STORE");
        assert_eq!(sessions.stats_of(ID).await.unwrap_err().code(), "ERR_SESSION_STORE");
    }

    #[tokio::test(start_paused = true)]
    async fn whole_batches_are_deleted_until_nothing_is_left_and_every_copy_goes_with_its_row() {
        let (sessions, double) = doomed();
        assert_eq!(sessions.cleanup_expired().await.unwrap(), DOOMED as u64);
        assert_eq!(left(&double), (1, 1));
        assert_eq!(sessions.metrics().invalidations, DOOMED as u64);
        assert_eq!(sessions.cleanup_expired().await.unwrap(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn others_get_their_turns_between_the_batches() {
        let (sessions, _) = doomed();
        let turns = Arc::new(AtomicUsize::new(0));
        let others = tokio::spawn({
            let turns = turns.clone();
            async move {
                loop {
                    turns.fetch_add(1, Relaxed);
                    yield_now().await;
                }
            }
        });
        sessions.cleanup_expired().await.unwrap();
        assert!(turns.load(Relaxed) >= 2);
        others.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_deleted_before_a_failure_is_forgotten() {
        let (sessions, double) = doomed();
        double.fail_after(2, "delete_expired");
        assert_eq!(sessions.cleanup_expired().await.unwrap_err().code(), "ERR_SESSION_STORE");
        assert_eq!(left(&double), (DOOMED - 2000 + 1, DOOMED - 2000 + 1));
        double.fail(None);
        assert_eq!(sessions.cleanup_expired().await.unwrap(), 500);
    }

    #[tokio::test(start_paused = true)]
    async fn redis_is_not_read_until_it_has_forgotten_what_was_deleted() {
        let (sessions, double) = doomed();
        double.fail(Some("forget"));
        assert_eq!(sessions.cleanup_expired().await.unwrap(), DOOMED as u64);
        assert!(!sessions.memory.undelivered().none());
        assert!(validate(&sessions, Some(token("7"))).await.unwrap().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn activity_is_written_before_inactive_sessions_are_deleted() {
        let (sessions, double) = doomed();
        used(&sessions);
        assert_eq!(sessions.cleanup_inactive(30).await.unwrap(), DOOMED as u64);
        assert_eq!(double.activity.lock().unwrap().concat().len(), 1);
        assert_eq!(left(&double), (1, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn where_activity_cannot_be_written_no_session_counts_as_inactive() {
        let refusal = Error::SessionStore { reason: "A trigger makes every update fail.".into(), source: None };
        let denial = Error::Reply { server: "double".into(), text: "42501 permission denied".into() };
        let away = Error::Connection { server: "double".into(), reason: "reset".into() };
        for error in [refusal, denial, away] {
            let (sessions, double) = doomed();
            used(&sessions);
            double.fail_with("write_activity", error);
            for _ in 0..2 {
                assert_eq!(sessions.cleanup_inactive(30).await.unwrap_err().code(), "ERR_SESSION_STORE");
            }
            assert_eq!(left(&double), (DOOMED + 1, DOOMED + 1));
        }
    }
}
