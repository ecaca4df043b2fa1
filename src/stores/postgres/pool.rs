//! A few connections to Postgres, of which each carries one statement at a time.
//!
//! The driver's own pool is not used: it pings after every statement, waits for a server that refuses connections
//! until its time is over, needs a runtime to be made, and cannot be asked for a connection that is certainly new.

use super::errors::{CLOSED, translate};
use crate::config::POSTGRES_DEADLINE;
use crate::error::{Error, Result};
use sqlx::postgres::{PgConnectOptions, PgConnection, PgRow};
use sqlx::{ConnectOptions, Connection};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;

/// After this the server ends a statement by itself: a caller who gave up closes the connection, but Postgres only
/// notices that when it answers, and statements that wait for a lock would pile up there.
pub(super) const STATEMENT_LIMIT: Duration = POSTGRES_DEADLINE;

/// A connection that nobody used for this long is closed: firewalls and load balancers forget silent connections
/// after some minutes, without telling either end.
const IDLE_LIMIT: Duration = Duration::from_secs(120);

/// No connection grows older than this, so that after a change of the server's address none stays with the old one.
const LIFE_LIMIT: Duration = Duration::from_secs(30 * 60);

/// Whether a statement may be repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Changes no row, so that nothing happens if it is executed twice.
    Read,
    /// Must not be sent again once it may have been executed.
    Write,
}

/// A statement. Its parameters are all text and cast in the SQL, so that no type is ever looked up on the server.
pub(super) struct Statement {
    pub kind: Kind,
    pub sql: &'static str,
}

/// How statements are sent on a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mode {
    /// Nothing is left on the connection: statements have no name, and settings last for one transaction.
    pub unnamed: bool,
    /// Policies of row-level security apply to this role, and were found to hide nothing.
    pub policies_apply: bool,
}

impl Mode {
    /// What a connection is told at its beginning.
    ///
    /// `row_security = off` does not switch policies off: it makes Postgres fail, instead of hiding rows silently,
    /// where one would apply. A policy that is made later can thus not turn a session into nobody's.
    fn session(self) -> Option<&'static str> {
        match (self.unnamed, self.policies_apply) {
            (true, _) => None,
            (false, true) => Some("SET statement_timeout = '5s'"),
            (false, false) => Some("SET statement_timeout = '5s'; SET row_security = off"),
        }
    }

    /// The same for one transaction. Parts of a statement outside a transaction may reach different servers behind a
    /// transaction pooler.
    fn begin(self) -> Option<&'static str> {
        match (self.unnamed, self.policies_apply) {
            (false, _) => None,
            (true, true) => Some("BEGIN; SET LOCAL statement_timeout = '5s'"),
            (true, false) => Some("BEGIN; SET LOCAL statement_timeout = '5s'; SET LOCAL row_security = off"),
        }
    }
}

struct Idle {
    connection: PgConnection,
    mode: Mode,
    born: Instant,
    since: Instant,
}

impl Idle {
    fn is_worn(&self, now: Instant) -> bool {
        now.duration_since(self.since) > IDLE_LIMIT || now.duration_since(self.born) > LIFE_LIMIT
    }
}

/// The connections. The one used last is used first, so that those beyond the need grow old and are closed.
pub(super) struct Pool {
    options: PgConnectOptions,
    server: Arc<str>,
    size: u32,
    permits: Semaphore,
    idle: Mutex<VecDeque<Idle>>,
}

impl Pool {
    /// A pool of at most `size` connections, none of them open yet.
    pub(super) fn new(options: PgConnectOptions, server: Arc<str>, size: u32) -> Self {
        let size = size.max(1);
        Self { options, server, size, permits: Semaphore::new(size as usize), idle: Mutex::default() }
    }

    pub(super) fn server(&self) -> &Arc<str> {
        &self.server
    }

    pub(super) fn is_closed(&self) -> bool {
        self.permits.is_closed()
    }

    fn closed(&self) -> Error {
        Error::Connection { server: Arc::clone(&self.server), reason: CLOSED.into() }
    }

    /// A connection of nobody, beside the pool.
    pub(super) async fn connect(&self) -> Result<PgConnection> {
        if self.is_closed() {
            return Err(self.closed());
        }
        self.options.connect().await.map_err(|error| translate(&self.server, error))
    }

    /// A connection for one statement; waits for one as long as the caller does.
    pub(super) async fn lease(&self, kind: Kind, mode: Mode) -> Result<Leased<'_>> {
        let permit = self.permits.acquire().await.map_err(|_| self.closed())?;
        if let Some(mut idle) = self.take_idle(mode) {
            // One round trip is a small price for a write, because a write cannot be tried again. A read can.
            if kind == Kind::Read || idle.connection.ping().await.is_ok() {
                let Idle { connection, mode, born, .. } = idle;
                return Ok(Leased { connection, mode, born, was_idle: true, pool: self, permit });
            }
            self.forget_idle();
        }
        self.open(mode, permit).await
    }

    async fn open<'p>(&'p self, mode: Mode, permit: SemaphorePermit<'p>) -> Result<Leased<'p>> {
        let mut connection = self.connect().await?;
        if let Some(setup) = mode.session() {
            sqlx::raw_sql(setup).execute(&mut connection).await.map_err(|error| translate(&self.server, error))?;
        }
        Ok(Leased { connection, mode, born: Instant::now(), was_idle: false, pool: self, permit })
    }

    fn take_idle(&self, mode: Mode) -> Option<Idle> {
        let now = Instant::now();
        let mut idle = self.idle();
        idle.retain(|one| one.mode == mode && !one.is_worn(now));
        idle.pop_back()
    }

    /// Where one idle connection is dead, its siblings most likely are.
    fn forget_idle(&self) {
        let dead = std::mem::take(&mut *self.idle());
        drop(dead);
    }

    fn idle(&self) -> MutexGuard<'_, VecDeque<Idle>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Closes all connections, each after its statement. Who waits for one gets `Closed`.
    pub(super) async fn close(&self) {
        // Permits are given out in order: whoever asks after this line waits until the pool is closed.
        let all = self.permits.acquire_many(self.size).await;
        self.permits.close();
        drop(all);
        let idle = std::mem::take(&mut *self.idle());
        for Idle { connection, .. } in idle {
            // The connection ends in any case; a polite end only spares the server a line in its log.
            drop(connection.close().await);
        }
    }
}

/// A connection that is closed when this is dropped, unless `finish` says that nothing is under way on it.
pub(super) struct Leased<'p> {
    connection: PgConnection,
    mode: Mode,
    born: Instant,
    was_idle: bool,
    pool: &'p Pool,
    permit: SemaphorePermit<'p>,
}

impl<'p> Leased<'p> {
    /// True if the connection lay in the pool before, where it may have died unnoticed.
    pub(super) fn was_idle(&self) -> bool {
        self.was_idle
    }

    /// Executes a statement in the connection's mode.
    pub(super) async fn execute(&mut self, statement: &Statement, values: &[&str]) -> Result<Vec<PgRow>> {
        self.try_execute(statement, values).await.map_err(|error| translate(&self.pool.server, error))
    }

    async fn try_execute(&mut self, statement: &Statement, values: &[&str]) -> sqlx::Result<Vec<PgRow>> {
        let query = sqlx::query(statement.sql).persistent(!self.mode.unnamed);
        let query = values.iter().fold(query, |query, value| query.bind(*value));
        let Some(begin) = self.mode.begin() else {
            return query.fetch_all(&mut self.connection).await;
        };
        let mut transaction = self.connection.begin_with(begin).await?;
        let rows = query.fetch_all(&mut *transaction).await?;
        transaction.commit().await?;
        Ok(rows)
    }

    /// A connection that is certainly new instead of this one, which was lost.
    pub(super) async fn replace(self) -> Result<Leased<'p>> {
        let Self { connection, mode, pool, permit, .. } = self;
        drop(connection);
        pool.forget_idle();
        pool.open(mode, permit).await
    }

    /// Leaves the connection to the next statement.
    pub(super) fn finish(self) {
        let Self { connection, mode, born, pool, permit, .. } = self;
        pool.idle().push_back(Idle { connection, mode, born, since: Instant::now() });
        // Only now, so that whoever gets the permit finds the connection.
        drop(permit);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stores::postgres::testing::TestDatabase;

    const DIRECT: Mode = Mode { unnamed: false, policies_apply: false };
    const ONE: Statement = Statement { kind: Kind::Read, sql: "SELECT 1" };

    fn pool(database: &TestDatabase, size: u32) -> Pool {
        let options = super::super::connect_options(&database.url).unwrap();
        Pool::new(options, "Postgres".into(), size)
    }

    #[tokio::test]
    async fn connections_are_reused_until_they_are_worn_or_of_another_mode() {
        let database = TestDatabase::create(false).await;
        let pool = pool(&database, 2);
        let mut lease = pool.lease(Kind::Read, DIRECT).await.unwrap();
        assert!(!lease.was_idle());
        lease.execute(&ONE, &[]).await.unwrap();
        lease.finish();
        let lease = pool.lease(Kind::Write, DIRECT).await.unwrap();
        assert!(lease.was_idle());
        lease.finish();
        let other = Mode { unnamed: true, ..DIRECT };
        pool.lease(Kind::Read, other).await.unwrap().finish();
        let lease = pool.lease(Kind::Read, DIRECT).await.unwrap();
        assert!(!lease.was_idle(), "a connection of another mode was told other things");
        lease.finish();

        assert_eq!(pool.idle().len(), 1);
        let long_ago = Instant::now() - IDLE_LIMIT - Duration::from_secs(1);
        for idle in pool.idle().iter_mut() {
            idle.since = long_ago;
        }
        assert!(!pool.lease(Kind::Read, DIRECT).await.unwrap().was_idle());
    }

    #[tokio::test]
    async fn a_lease_that_is_not_finished_is_closed_and_gives_its_place_back() {
        let database = TestDatabase::create(false).await;
        let pool = pool(&database, 1);
        drop(pool.lease(Kind::Read, DIRECT).await.unwrap());
        assert_eq!((pool.idle().len(), pool.permits.available_permits()), (0, 1));
    }

    #[tokio::test]
    async fn the_server_ends_a_statement_that_takes_too_long() {
        let database = TestDatabase::create(false).await;
        let pool = pool(&database, 1);
        const LIMITS: Statement = Statement {
            kind: Kind::Read,
            sql: "SELECT current_setting('statement_timeout') || ' ' || current_setting('row_security') AS limits",
        };
        for unnamed in [false, true] {
            let mut lease = pool.lease(Kind::Read, Mode { unnamed, policies_apply: false }).await.unwrap();
            let rows = lease.execute(&LIMITS, &[]).await.unwrap();
            assert_eq!(sqlx::Row::get::<String, _>(&rows[0], "limits"), "5s off");
            lease.finish();
        }
        assert_eq!(STATEMENT_LIMIT, Duration::from_secs(5), "the limit stands in the SQL too");
    }
}
