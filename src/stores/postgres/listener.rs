//! One connection that listens, and how it is known that it hears.

use super::errors::translate;
use super::triggers::{self, State};
use crate::error::{Error, Result};
use crate::random;
use sqlx::postgres::{PgConnectOptions, PgListener, PgNotification, PgPoolOptions};
use sqlx::{AssertSqlSafe, Row};
use std::sync::Arc;

/// The channel of NOTIFY.
pub(super) const CHANNEL: &str = "studio_sessions";

/// A connection that listens, and ends when this is dropped.
pub(super) struct Listener {
    server: Arc<str>,
    driver: Driver,
    /// A channel that nobody else knows.
    own: String,
    probes: u64,
}

impl Listener {
    /// Connects, and returns when the server has confirmed that it is listened to.
    pub(super) async fn connect(server: &Arc<str>, options: PgConnectOptions) -> Result<Self> {
        // The driver's listener wants a pool. Without limits of age this one starts no task of its own.
        let pool =
            PgPoolOptions::new().max_connections(1).max_lifetime(None).idle_timeout(None).connect_lazy_with(options);
        let fail = |error| translate(server, error);
        let driver = Driver(Some(PgListener::connect_with(&pool).await.map_err(fail)?));
        let own = format!("{CHANNEL}_{:016x}", random::number());
        let mut this = Self { server: Arc::clone(server), driver, own, probes: 0 };
        let channels = [CHANNEL, &this.own.clone()];
        let listener = this.listener()?;
        // It would connect again without a word, and what was said meanwhile would be lost silently.
        listener.eager_reconnect(false);
        listener.listen_all(channels).await.map_err(fail)?;
        Ok(this)
    }

    fn listener(&mut self) -> Result<&mut PgListener> {
        self.driver.0.as_mut().ok_or_else(|| lost(&self.server, "it was closed"))
    }

    /// Waits for what is said on `CHANNEL`, or on the channel of its own.
    ///
    /// May be dropped while it waits: the driver takes whole messages from its buffer or nothing.
    async fn next(&mut self) -> Result<PgNotification> {
        let heard = self.listener()?.try_recv().await.map_err(|error| translate(&self.server, error))?;
        heard.ok_or_else(|| lost(&self.server, "the server closed it"))
    }

    /// Waits for a payload on `CHANNEL`. May be dropped while it waits.
    pub(super) async fn heard(&mut self) -> Result<PgNotification> {
        loop {
            let notification = self.next().await?;
            if notification.channel() == CHANNEL {
                return Ok(notification);
            }
        }
    }

    /// A round trip of a notification: when it returns, everything that was committed before it began was heard, and
    /// given to `on_heard` with what else arrives. Asks for the triggers in the same statement.
    ///
    /// Has no limit of time of its own. When it was dropped, the connection is of no use any more.
    pub(super) async fn probe(&mut self, on_heard: &mut impl FnMut(&str)) -> Result<State> {
        self.probes += 1;
        let number = self.probes.to_string();
        let question = format!(
            "SELECT pg_notify('{}', '{number}')::text, t.*, \
             EXISTS (SELECT FROM pg_listening_channels() AS c WHERE c = '{CHANNEL}') AS listens FROM ({}) AS t",
            self.own,
            triggers::QUESTION
        );
        // What is notified before the answer is kept for `next`.
        let row = sqlx::raw_sql(AssertSqlSafe(question)).fetch_one(self.listener()?).await;
        let read = row.and_then(|row| Ok((State::read(&row)?, row.try_get::<bool, _>("listens")?)));
        let (state, listens) = read.map_err(|error| translate(&self.server, error))?;
        // A pooler gave it another server process, or somebody reset it.
        if !listens {
            return Err(lost(&self.server, "it no longer listens"));
        }
        loop {
            let notification = self.next().await?;
            if notification.channel() == CHANNEL {
                on_heard(notification.payload());
            } else if notification.payload() == number {
                return Ok(state);
            }
        }
    }

    /// Makes it deaf on a living connection.
    #[cfg(test)]
    pub(super) async fn unlisten(&mut self) {
        self.listener().unwrap().unlisten_all().await.unwrap();
    }
}

fn lost(server: &Arc<str>, reason: &str) -> Error {
    Error::Connection { server: Arc::clone(server), reason: reason.into() }
}

/// The driver's listener, whose connection ends with it. `None` only while it is dropped.
///
/// By itself the driver's listener leaves a task behind when it is dropped, which sends `UNLISTEN` and waits for the
/// answer without a limit: the connection would stay open for as long as the server stands still. The driver has no
/// way to take the connection out of it before.
struct Driver(Option<PgListener>);

impl Drop for Driver {
    fn drop(&mut self) {
        // The task goes to the current runtime. This one never runs it, but drops it at once, and the connection with
        // it. It has no thread and no driver, so that nothing but memory is needed to make it.
        if let Ok(runtime) = tokio::runtime::Builder::new_current_thread().build() {
            let current = runtime.enter();
            drop(self.0.take());
            drop(current);
            runtime.shutdown_background();
        }
    }
}
