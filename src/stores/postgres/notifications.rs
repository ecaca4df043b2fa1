//! What other processes, and whoever else notifies, tell this one to forget.
//!
//! A listener knows that it was cut off when its connection says so. A connection that dies without a word (a cable,
//! a firewall, a server that stands still) is not noticed here: that takes a probe that travels the whole way.

use super::Postgres;
use super::errors::translate;
use crate::error::Result;
use crate::keys::TokenHash;
use sqlx::postgres::{PgListener, PgPoolOptions};
use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

/// The channel of NOTIFY. A payload that is no SHA-256 in hex is somebody else's message.
pub(super) const CHANNEL: &str = "studio_sessions";

/// The first and the longest pause between two attempts to connect.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// How long one attempt to connect may take.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

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
    /// Returns only where nothing can be heard: behind a transaction pooler. The findings have said so.
    pub async fn listen(&self, mut on_event: impl FnMut(Event) + Send) {
        let mut pause = BACKOFF.0;
        loop {
            let mut connected = false;
            let reason = match self.findings().await {
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
        let connect = async {
            let mut listener = PgListener::connect_with(&pool).await?;
            // It would connect again without a word, and what was said meanwhile would be lost silently.
            listener.eager_reconnect(false);
            listener.listen(CHANNEL).await?;
            Ok(listener)
        };
        let connected = tokio::time::timeout(CONNECT_LIMIT, connect).await;
        let mut listener = connected.unwrap_or(Err(sqlx::Error::PoolTimedOut)).map_err(fail)?;
        on_event(Event::Connected);
        while let Some(notification) = listener.try_recv().await.map_err(fail)? {
            if let Some(token) = TokenHash::from_hex(notification.payload()) {
                on_event(Event::Forget(token));
            }
        }
        Ok(())
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
    use crate::stores::postgres::testing::{TestDatabase, token};
    use crate::stores::{SessionRows, Which};
    use std::time::SystemTime;
    use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

    const LISTENERS: &str =
        "FROM pg_stat_activity WHERE application_name LIKE '%:listener' AND datname = current_database()";

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
    async fn a_listener_waits_for_a_server_that_is_away() {
        let database = TestDatabase::create(false).await;
        let proxy = database.proxy().await;
        let postgres = database.open_with(crate::stores::postgres::PostgresOptions {
            url: proxy.url.clone(),
            pool_size: 1,
            statement_cache: true,
        });
        proxy.refuse(true);
        let (mut events, task) = listener(&postgres);
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert!(events.try_recv().is_err());
        proxy.refuse(false);
        assert_eq!(next(&mut events).await, Event::Connected);
        task.abort();
    }
}
