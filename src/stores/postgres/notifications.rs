//! What other processes, and whoever else notifies, tell this one to forget.
//!
//! A listener knows that it was cut off when its connection says so. A connection that dies without a word (a cable,
//! a firewall, a server that stands still) is noticed by a probe: silence is believed only for a moment.

use super::Postgres;
use super::errors::translate;
use crate::error::{Error, Result};
use crate::keys::TokenHash;
use sqlx::Row;
use sqlx::postgres::{PgListener, PgPool, PgPoolOptions};
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

/// The channel of NOTIFY. A payload that is no SHA-256 in hex is somebody else's message.
pub(super) const CHANNEL: &str = "studio_sessions";

/// The first and the longest pause between two attempts to connect.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// How long one attempt to connect may take.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// After this long a silence the connection is asked for a sign of life.
const PROBE: Duration = Duration::from_secs(1);

/// How long a sign of life may take.
const PROBE_LIMIT: Duration = Duration::from_secs(2);

/// Asks on the listener's connection whether it listens: if a pooler gave it another server process, it does not.
const LISTENS: &str = "SELECT EXISTS (SELECT FROM pg_listening_channels() AS c WHERE c = 'studio_sessions') AS listens";

/// What a listener hears.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// From now on everything is heard. What happened before was not.
    Connected,
    /// From now on nothing is heard.
    Lost,
    /// Copies of this token's session must not be used any more.
    Forget(TokenHash),
}

impl Postgres {
    /// Listens until it is dropped, on a connection of its own, which is opened again whenever it is lost.
    ///
    /// Returns only where nothing can be heard: behind a transaction pooler, as the findings have said, and once it was
    /// closed.
    pub async fn listen(&self, mut on_event: impl FnMut(Event) + Send) {
        let mut pause = BACKOFF.0;
        loop {
            let mut connected = false;
            // What comes back after a loss may be something else, such as a pooler.
            let reason = match self.shared.checks.doubt(&self.shared.pool).await {
                Ok(findings) if findings.transaction_pooler => return,
                Ok(_) => {
                    let life = self.listen_once(|event| {
                        connected |= event == Event::Connected;
                        on_event(event);
                    });
                    life.await.err()
                }
                Err(error) => Some(error),
            };
            if self.shared.pool.is_closed() {
                return;
            }
            if connected {
                on_event(Event::Lost);
                pause = BACKOFF.0;
            }
            // The first failure in a row is news, the others are not.
            if pause == BACKOFF.0 {
                let reason = reason.map_or_else(|| "The server closed the connection.".to_owned(), |e| e.to_string());
                let server = &**self.server();
                tracing::warn!(server, "Until Postgres is reached, revocations by others are not heard. {reason}");
            }
            tokio::time::sleep(jittered(pause)).await;
            pause = (pause * 2).min(BACKOFF.1);
        }
    }

    /// One life of the connection. `Ok` if its end was seen, an error if anything else went wrong.
    async fn listen_once(&self, mut on_event: impl FnMut(Event) + Send) -> Result<()> {
        let name = format!("studio-redis-native:{}:listener", std::process::id());
        // The driver's listener wants a pool. Without limits of age this one starts no task of its own.
        let pool = PgPoolOptions::new()
            .max_connections(1)
            .max_lifetime(None)
            .idle_timeout(None)
            .connect_lazy_with(self.shared.options.clone().application_name(&name));
        let fail = |error| translate(self.server(), error);
        let connected = timeout(CONNECT_LIMIT, Listener::connect(&pool)).await;
        let mut listener = connected.unwrap_or(Err(sqlx::Error::PoolTimedOut)).map_err(fail)?;
        let Some(listener) = &mut listener.0 else { return Ok(()) };
        on_event(Event::Connected);
        loop {
            // The driver may be stopped while it waits here: it takes whole messages from its buffer or nothing.
            let Ok(heard) = timeout(PROBE, listener.try_recv()).await else {
                self.probe(listener).await?;
                continue;
            };
            let Some(notification) = heard.map_err(fail)? else { return Ok(()) };
            if let Some(token) = TokenHash::from_hex(notification.payload()) {
                on_event(Event::Forget(token));
            }
        }
    }

    /// A sign of life from the server's end of the connection. What is notified meanwhile is kept for `try_recv`.
    async fn probe(&self, listener: &mut PgListener) -> Result<()> {
        let late = |_| Error::Timeout { server: Arc::clone(self.server()), after: PROBE_LIMIT };
        let answer = timeout(PROBE_LIMIT, sqlx::raw_sql(LISTENS).fetch_all(listener)).await.map_err(late)?;
        let listens = answer.and_then(|rows| rows.first().map_or(Ok(false), |row| row.try_get("listens")));
        if listens.map_err(|error| translate(self.server(), error))? {
            return Ok(());
        }
        Err(Error::Connection { server: Arc::clone(self.server()), reason: "it no longer listens".into() })
    }
}

/// The driver's listener, whose connection ends with it. `None` only while it is dropped.
///
/// By itself the driver's listener leaves a task behind when it is dropped, which sends `UNLISTEN` and waits for the
/// answer without a limit: the connection would stay open for as long as the server stands still. The driver has no
/// way to take the connection out of it before.
struct Listener(Option<PgListener>);

impl Listener {
    async fn connect(pool: &PgPool) -> sqlx::Result<Self> {
        let mut this = Self(Some(PgListener::connect_with(pool).await?));
        if let Some(listener) = &mut this.0 {
            // It would connect again without a word, and what was said meanwhile would be lost silently.
            listener.eager_reconnect(false);
            listener.listen(CHANNEL).await?;
        }
        Ok(this)
    }
}

impl Drop for Listener {
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

/// Between half and all of a pause, so that processes that were cut off together do not come back together.
fn jittered(pause: Duration) -> Duration {
    let random = RandomState::new().hash_one(0) % 1024;
    pause / 2 + pause * random as u32 / 2048
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stores::postgres::PostgresOptions;
    use crate::stores::postgres::testing::{Proxy, TestDatabase, token};
    use crate::stores::{SessionRows, Which};
    use std::time::SystemTime;
    use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

    const LISTENERS: &str =
        "FROM pg_stat_activity WHERE application_name LIKE '%:listener' AND datname = current_database()";

    fn open(proxy: &Proxy) -> Postgres {
        Postgres::new(PostgresOptions { url: proxy.url.clone(), pool_size: 1, statement_cache: true }).unwrap()
    }

    fn listener(postgres: &Postgres) -> (UnboundedReceiver<Event>, tokio::task::JoinHandle<()>) {
        let (sender, receiver) = unbounded_channel();
        let postgres = postgres.clone();
        let task = tokio::spawn(async move {
            postgres
                .listen(|event| {
                    sender.send(event).unwrap();
                })
                .await;
        });
        (receiver, task)
    }

    async fn next(events: &mut UnboundedReceiver<Event>) -> Event {
        tokio::time::timeout(Duration::from_secs(10), events.recv()).await.expect("no event came").unwrap()
    }

    #[test]
    fn pauses_are_spread_over_their_upper_half() {
        for _ in 0..100 {
            let pause = jittered(Duration::from_millis(100));
            assert!((50..=100).contains(&pause.as_millis()));
        }
    }

    #[tokio::test]
    async fn a_listener_hears_what_is_forgotten_and_says_when_it_was_deaf() {
        let database = TestDatabase::create(false).await;
        let user = database.user("a@x.io").await;
        for name in ["a", "b", "c"] {
            database.session(&user, name, "now() + interval '1 hour'").await;
        }
        let (listening, other) = (database.open(1), database.open(1));
        let (mut events, task) = listener(&listening);
        assert_eq!(next(&mut events).await, Event::Connected);

        other.announce(Which::Token(token("a"))).await.unwrap();
        assert_eq!(next(&mut events).await, Event::Forget(token("a")));
        other.delete(Which::Token(token("a"))).await.unwrap();
        assert_eq!(next(&mut events).await, Event::Forget(token("a")));
        other.rotate(token("b"), token("d"), SystemTime::now() + Duration::from_secs(60)).await.unwrap();
        assert_eq!(next(&mut events).await, Event::Forget(token("b")));

        database.run("NOTIFY studio_sessions, 'hello'; NOTIFY studio_sessions").await;
        database.run(&format!("SELECT pg_terminate_backend(pid) {LISTENERS}")).await;
        assert_eq!(next(&mut events).await, Event::Lost);
        assert_eq!(next(&mut events).await, Event::Connected);
        let others = other.delete(Which::User(&user)).await.unwrap().tokens;
        for _ in 0..2 {
            let Event::Forget(token) = next(&mut events).await else { panic!("lost") };
            assert!(others.contains(&token));
        }

        task.abort();
        assert!(task.await.is_err());
        database.until(&format!("SELECT count(*)::text {LISTENERS}"), "0").await;
    }

    #[tokio::test]
    async fn a_listener_that_hears_nothing_finds_out_whether_it_can() {
        let database = TestDatabase::create(false).await;
        let proxy = database.proxy().await;
        let (mut events, task) = listener(&open(&proxy));
        assert_eq!(next(&mut events).await, Event::Connected);
        tokio::time::sleep(PROBE * 5 / 2).await;
        assert!(events.try_recv().is_err(), "a probe is no event, and silence is no loss");
        proxy.freeze();
        assert_eq!(next(&mut events).await, Event::Lost);
        proxy.thaw();
        assert_eq!(next(&mut events).await, Event::Connected);
        database.run(&format!("NOTIFY studio_sessions, '{}'", token("a").to_hex())).await;
        assert_eq!(next(&mut events).await, Event::Forget(token("a")));
        task.abort();
    }

    #[tokio::test]
    async fn a_connection_that_does_not_listen_is_no_listener() {
        let database = TestDatabase::create(false).await;
        let postgres = database.open(1);
        let pool = PgPoolOptions::new().connect_lazy_with(postgres.shared.options.clone());
        let mut listener = Listener::connect(&pool).await.unwrap();
        let listener = listener.0.as_mut().unwrap();
        postgres.probe(listener).await.unwrap();
        database.run(&format!("NOTIFY studio_sessions, '{}'", token("a").to_hex())).await;
        postgres.probe(listener).await.unwrap();
        assert_eq!(listener.try_recv().await.unwrap().unwrap().payload(), token("a").to_hex());
        listener.unlisten_all().await.unwrap();
        assert_eq!(postgres.probe(listener).await.unwrap_err().code(), "ERR_CONNECTION");
    }

    #[tokio::test]
    async fn a_listener_that_is_dropped_leaves_no_connection_open_though_the_server_stands_still() {
        let database = TestDatabase::create(false).await;
        let proxy = database.proxy().await;
        let (mut events, task) = listener(&open(&proxy));
        assert_eq!(next(&mut events).await, Event::Connected);
        proxy.until_clients(1).await;
        proxy.freeze();
        task.abort();
        assert!(task.await.unwrap_err().is_cancelled());
        proxy.until_clients(0).await;
    }

    #[tokio::test]
    async fn a_listener_of_a_closed_store_ends_without_a_word() {
        let database = TestDatabase::create(false).await;
        let postgres = database.open(1);
        postgres.close().await;
        let heard = |event| panic!("it heard {event:?}");
        tokio::time::timeout(Duration::from_secs(10), postgres.listen(heard)).await.expect("it goes on");
    }

    #[tokio::test]
    async fn a_listener_waits_for_a_server_that_is_away() {
        let database = TestDatabase::create(false).await;
        let proxy = database.proxy().await;
        proxy.refuse(true);
        let (mut events, task) = listener(&open(&proxy));
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert!(events.try_recv().is_err());
        proxy.refuse(false);
        assert_eq!(next(&mut events).await, Event::Connected);
        task.abort();
    }
}
