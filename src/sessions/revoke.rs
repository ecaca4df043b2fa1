//! Ending sessions and forgetting copies. Both are the same act: nothing that was read before may be used after.
//!
//! The order of a revocation: this process forgets (flights, then its own copy), the row is deleted (which tells every
//! listening process), this process forgets once more, then `DEL` in Redis, and once more. Only then does it resolve.

use super::Sessions;
use crate::error::{Error, Result};
use crate::keys::TokenHash;
use crate::stores::{Named, SessionCopies, SessionRows, Which};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, SystemTime};
use tokio::time::{Instant, sleep};
use uuid::Uuid;

/// Waits between attempts to deliver what Redis has not confirmed.
const FIRST_RETRY: Duration = Duration::from_millis(50);
const LAST_RETRY: Duration = Duration::from_secs(1);

/// Tokens that one attempt delivers.
const DELIVERY_BATCH: usize = 500;

impl<C: SessionCopies, R: SessionRows> Sessions<C, R> {
    /// Ends the session `id`; copies of `token` are forgotten too, even if Postgres is away. `false` if there is none.
    ///
    /// # Errors
    /// [`Error::SessionStore`] if it is not known whether the session was ended; the call can be repeated.
    pub async fn revoke(self: &Arc<Self>, id: &str, token: Option<TokenHash>) -> Result<bool> {
        self.rows()?;
        let Some(id) = canonical(id) else {
            self.forget_everywhere(token.as_slice()).await;
            return Ok(false);
        };
        Ok(self.end(Which::Id(&id), token.as_slice()).await? > 0)
    }

    /// Ends the session of a token. `false` if there is none.
    ///
    /// # Errors
    /// As [`Sessions::revoke`].
    pub async fn revoke_token(self: &Arc<Self>, token: Option<TokenHash>) -> Result<bool> {
        self.rows()?;
        let Some(token) = token else { return Ok(false) };
        Ok(self.end(Which::Token(token), &[token]).await? > 0)
    }

    /// Ends all sessions of a user; returns how many there were.
    ///
    /// # Errors
    /// As [`Sessions::revoke`].
    pub async fn revoke_user(self: &Arc<Self>, user: &str) -> Result<u64> {
        self.rows()?;
        let Some(user) = canonical(user) else { return Ok(0) };
        self.end(Which::User(&user), &[]).await
    }

    /// Ends all sessions of a user but one; returns how many there were.
    ///
    /// # Errors
    /// As [`Sessions::revoke`].
    pub async fn revoke_others(self: &Arc<Self>, user: &str, except: &str) -> Result<u64> {
        self.rows()?;
        // Without the id of the one that stays, nothing is ended.
        let (Some(user), Some(except)) = (canonical(user), canonical(except)) else { return Ok(0) };
        self.end(Which::Others { user: &user, except: &except }, &[]).await
    }

    /// Moves a valid session to a new token and end; the old token is refused from then on. `false` if `token` has no
    /// valid session.
    ///
    /// # Errors
    /// As [`Sessions::revoke`]; [`Error::InvalidArgument`] if the new token is the old one, or another session's.
    pub async fn rotate(
        self: &Arc<Self>,
        token: Option<TokenHash>,
        new_token: TokenHash,
        expires_at: SystemTime,
    ) -> Result<bool> {
        let rows = self.rows()?;
        let Some(token) = token else { return Ok(false) };
        if token == new_token {
            return Err(Error::range_error("newToken must differ from token."));
        }
        // The new token may have been asked for before it was anybody's.
        let both = [token, new_token];
        self.memory.forget(&both);
        let rotated = rows.ask(rows.store.rotate(token, new_token, expires_at)).await;
        self.forget_everywhere(&both).await;
        rotated.map_err(store_error)
    }

    /// Forgets the copies of a token; its session goes on.
    pub async fn forget(self: &Arc<Self>, token: Option<TokenHash>) {
        self.forget_everywhere(token.as_slice()).await;
    }

    /// Forgets the copies of all sessions of a user, here and in every listening process; returns how many there are.
    ///
    /// # Errors
    /// [`Error::SessionStore`] if Postgres cannot name the sessions.
    pub async fn forget_user(self: &Arc<Self>, user: &str) -> Result<u64> {
        let rows = self.rows()?;
        let Some(user) = canonical(user) else { return Ok(0) };
        let named = rows.ask(rows.store.announce(Which::User(&user))).await.map_err(store_error)?;
        self.forget_everywhere(&named.tokens).await;
        Ok(named.rows)
    }

    /// Forgets tokens because Postgres said so: somebody else has ended or changed their sessions.
    pub fn heard_of(&self, tokens: &[TokenHash]) {
        self.counters.heard.fetch_add(tokens.len() as u64, Relaxed);
        self.memory.heard_of(tokens, Instant::now());
    }

    /// What runs beside the calls, for as long as it is polled: see [`Sessions::deliver`] and the two below it.
    pub async fn run(&self) {
        let news = async { tokio::join!(self.forget_what_was_heard(), self.learn_what_was_missed()) };
        tokio::join!(self.deliver(), news, self.write_activity());
    }

    async fn write_activity(&self) {
        let Some(rows) = &self.rows else { return };
        self.memory.activity().run(rows, || self.memory.now(), self.flush).await;
    }

    async fn forget_what_was_heard(&self) {
        loop {
            self.memory.heard().some_kept().await;
            let batch = self.memory.heard().some(DELIVERY_BATCH);
            let tokens: Vec<_> = batch.iter().map(|(token, _)| *token).collect();
            self.forget_copies(&tokens).await;
            self.memory.heard().delivered(&batch);
            // More than can be kept was heard: what has no name any more is left to the ends of its copies.
            if batch.is_empty() {
                self.memory.undelivered().distrust(Instant::now());
                self.memory.heard().clear();
            }
        }
    }

    /// Copies from before the present must not be believed, by the clock that they were dated with.
    async fn learn_what_was_missed(&self) {
        loop {
            let gap = self.memory.missed().some_gap().await;
            let Some(redis) = &self.copies else { return std::future::pending().await };
            match redis.ask(redis.store.now()).await {
                Ok(now) => self.memory.missed().settle(gap, now),
                Err(_) => sleep(LAST_RETRY).await,
            }
        }
    }

    /// Delivers what Redis has not confirmed.
    async fn deliver(&self) {
        loop {
            self.memory.undelivered().some_kept().await;
            let mut retry = FIRST_RETRY;
            while self.memory.undelivered().outlive(Instant::now()) {
                if self.deliver_some().await {
                    retry = FIRST_RETRY;
                } else {
                    sleep(retry).await;
                    retry = (retry * 2).min(LAST_RETRY);
                }
            }
        }
    }

    /// Waits for what runs behind the answers, then tries once to deliver and to write everything. For `shutdown()`, when no
    /// call is under way any more.
    pub async fn finish(&self) {
        self.background.close();
        self.background.wait().await;
        let deliver = async { while !self.memory.undelivered().some(1).is_empty() && self.deliver_some().await {} };
        let write = async {
            let Some(rows) = &self.rows else { return };
            match self.memory.activity().flush_all(rows, || self.memory.now()).await {
                // The finding was said when it was made.
                Ok(()) | Err(Error::SessionStore { source: None, .. }) => {}
                Err(error) => tracing::warn!("when sessions were last active is not written yet: {error}"),
            }
        };
        tokio::join!(deliver, write);
    }

    /// Delivers a batch. `false` if there is none, or Redis did not confirm it.
    async fn deliver_some(&self) -> bool {
        let batch = self.memory.undelivered().some(DELIVERY_BATCH);
        let tokens: Vec<_> = batch.iter().map(|(token, _)| *token).collect();
        if tokens.is_empty() {
            return false;
        }
        let delivered = self.remove_copies(&tokens).await.is_ok();
        if delivered {
            self.memory.undelivered().delivered(&batch);
            if self.memory.undelivered().none() {
                tracing::info!("Redis has forgotten everything that was revoked; sessions are read from it again");
            }
        }
        delivered
    }

    /// Deletes rows and forgets every copy that could be named, also when the deletion failed or its answer was lost.
    async fn end(self: &Arc<Self>, which: Which<'_>, also: &[TokenHash]) -> Result<u64> {
        let rows = self.rows()?;
        let mut tokens = also.to_vec();
        self.memory.forget(&tokens);
        let ended = async {
            if !matches!(which, Which::Token(_)) {
                // Named before they are deleted: if the answer of the deletion is lost, they can still be forgotten.
                tokens.extend(rows.ask(rows.store.name(which)).await?.tokens);
                self.memory.forget(&tokens);
            }
            rows.ask(rows.store.delete(which)).await
        };
        let ended = ended.await;
        if let Ok(Named { tokens: deleted, .. }) = &ended {
            tokens.extend(deleted);
        }
        tokens.sort_unstable();
        tokens.dedup();
        self.forget_everywhere(&tokens).await;
        Ok(ended.map_err(store_error)?.rows)
    }

    /// Forgets what a caller asked to forget.
    pub(super) async fn forget_everywhere(&self, tokens: &[TokenHash]) {
        self.counters.invalidations.fetch_add(tokens.len() as u64, Relaxed);
        self.forget_copies(tokens).await;
    }

    /// Forgets here, then in Redis, then here again: a flight that began meanwhile may have read the old copy.
    async fn forget_copies(&self, tokens: &[TokenHash]) {
        if tokens.is_empty() {
            return;
        }
        self.memory.forget(tokens);
        if let Err(error) = self.remove_copies(tokens).await {
            if self.memory.undelivered().none() {
                tracing::warn!("sessions are read from Postgres until Redis has forgotten what was revoked: {error}");
            }
            // Kept before flights are forgotten again, so that no later flight reads Redis.
            self.memory.undelivered().add(tokens, Instant::now());
        }
        self.memory.forget(tokens);
    }

    /// Removes copies and leases from Redis. An error means that it is not certain.
    async fn remove_copies(&self, tokens: &[TokenHash]) -> Result<()> {
        let Some(redis) = &self.copies else { return Ok(()) };
        redis.ask(redis.store.forget(tokens)).await
    }
}

/// A UUID in the one form that Postgres compares; `None` for what is none, which is nobody's id.
pub(super) fn canonical(id: &str) -> Option<String> {
    Uuid::try_parse(id).ok().map(|id| id.to_string())
}

/// What a statement that failed says to the caller: a misuse stays one.
pub(super) fn store_error(error: Error) -> Error {
    match error {
        misuse @ Error::InvalidArgument { .. } => misuse,
        error => Error::session_store(error),
    }
}
