//! Where data lives. The features see these traits; what speaks Redis or SQL is behind them.

pub mod postgres;
pub mod redis;

use crate::error::Result;
use crate::keys::TokenHash;
use crate::session::{Disbelief, Session, SessionWithUser, UserSessionStats};
use std::future::Future;
use std::time::{Duration, SystemTime};
use uuid::Uuid;

/// Proof that nothing happened to a token's copy since a read began; it vanishes by itself when in doubt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// Names this lease among all that ever were.
    pub nonce: String,
    /// The server's life in which the lease was given, as the holder's connection learned it.
    pub run: String,
    /// Microseconds of the server's clock when the lease was given.
    pub since: u64,
    /// The lease is new, and its writing will be pushed to this process.
    pub announced: bool,
}

/// What Redis knows of a token.
pub enum Lookup {
    /// A copy that is believed.
    Copy {
        session: Box<SessionWithUser>,
        /// How much longer it is valid, counted from before it was asked for.
        life: Duration,
        /// Whatever is done to its key after this reply will be pushed to this process, on the same link.
        pushed: bool,
    },
    /// No believable copy. Who holds the lease may leave one; without a lease nothing may be left.
    Miss { lease: Option<Lease>, disbelief: Option<Disbelief> },
}

/// Copies of sessions that several processes share. All of it is one command on one key.
pub trait SessionCopies: Send + Sync + 'static {
    /// The copy if one is believed, or else a lease. A copy that was read until `after` (microseconds of the server's
    /// clock) is not believed.
    fn read_or_lease(&self, token: TokenHash, after: u64) -> impl Future<Output = Result<Lookup>> + Send;

    /// The server's clock, in microseconds.
    fn now(&self) -> impl Future<Output = Result<u64>> + Send;

    /// Leaves a copy, the JSON of a [`SessionWithUser`], that lives for `life` from the beginning of the lease. `false` if the
    /// lease is gone.
    fn fill(
        &self,
        token: TokenHash,
        lease: &Lease,
        session: &str,
        life: Duration,
    ) -> impl Future<Output = Result<bool>> + Send;

    /// Whether the server answers.
    fn ping(&self) -> impl Future<Output = Result<()>> + Send;

    /// Removes copy and lease of each token. All of them are gone when this returns `Ok`.
    fn forget(&self, tokens: &[TokenHash]) -> impl Future<Output = Result<()>> + Send;
}

/// A valid session, and how long it stays valid by the database's clock.
pub struct Found {
    pub session: SessionWithUser,
    pub remaining: Duration,
}

/// Some sessions: the ones that a revocation or an invalidation is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which<'a> {
    /// The session of this id (a UUID).
    Id(&'a str),
    /// The session of this token.
    Token(TokenHash),
    /// All sessions of this user (a UUID).
    User(&'a str),
    /// All sessions of `user` but the one with the id `except`.
    Others { user: &'a str, except: &'a str },
}

/// Sessions that a statement named.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Named {
    /// How many rows there were.
    pub rows: u64,
    /// Their tokens; a stored token that is no SHA-256 can have no copy and is left out.
    pub tokens: Vec<TokenHash>,
}

/// The sessions themselves. A row that is hidden from this role makes every method fail, never answer "nobody".
pub trait SessionRows: Send + Sync + 'static {
    /// The valid session of a token: not expired, its user neither deleted nor banned, by the database's clock.
    fn find(&self, token: TokenHash) -> impl Future<Output = Result<Option<Found>>> + Send;

    /// Names sessions without changing them. Expired ones are named too.
    fn name(&self, which: Which<'_>) -> impl Future<Output = Result<Named>> + Send;

    /// Names sessions and tells every listening process to forget them, in one statement.
    fn announce(&self, which: Which<'_>) -> impl Future<Output = Result<Named>> + Send;

    /// Deletes sessions and tells every listening process, in one statement.
    fn delete(&self, which: Which<'_>) -> impl Future<Output = Result<Named>> + Send;

    /// Gives a valid session a new token and end, and tells every listening process to forget the old token, in one
    /// statement. `false` if `token` has no valid session.
    fn rotate(
        &self,
        token: TokenHash,
        new_token: TokenHash,
        expires_at: SystemTime,
    ) -> impl Future<Output = Result<bool>> + Send;

    /// The valid sessions among those of several tokens.
    fn find_all(&self, tokens: &[TokenHash]) -> impl Future<Output = Result<Vec<(TokenHash, Found)>>> + Send;

    /// Tokens of at most `limit` valid sessions that were active `within` so long, the latest first.
    fn newest(&self, limit: u32, within: Duration) -> impl Future<Output = Result<Vec<TokenHash>>> + Send;

    /// The sessions of a user (a UUID) that have not expired, the latest active first.
    fn of_user(&self, user: &str) -> impl Future<Output = Result<Vec<Session>>> + Send;

    /// How many sessions of a user (a UUID) have not expired, and since when.
    fn stats_of_user(&self, user: &str) -> impl Future<Output = Result<UserSessionStats>> + Send;

    /// Deletes at most `most` sessions that have expired, and tells every listening process, in one statement.
    fn delete_expired(&self, most: u32) -> impl Future<Output = Result<Named>> + Send;

    /// Deletes at most `most` sessions that were not active for so long, and tells every listening process, in one
    /// statement. Fails where activity cannot be written, because then they may all be active.
    fn delete_inactive(&self, idle: Duration, most: u32) -> impl Future<Output = Result<Named>> + Send;

    /// Writes when sessions (their ids) were last active: so long ago. In one statement; a time never moves backwards, and
    /// what is no session any more is passed over. Fails without trying where a trigger makes every update fail.
    fn write_activity(&self, active: &[(Uuid, Duration)]) -> impl Future<Output = Result<()>> + Send;
}
