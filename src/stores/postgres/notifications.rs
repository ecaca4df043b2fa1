//! What other processes, and whoever else notifies, tell this one to forget.
//!
//! A listener knows that it was cut off when its connection says so. A connection that dies without a word (a cable,
//! a firewall, a server that stands still), or lives and does not hear, is noticed by a probe: every second a
//! notification makes a round trip, whatever else arrives.

use super::Postgres;
use super::listener::Listener;
use super::triggers::Triggers;
use crate::error::{Error, Result};
use crate::keys::TokenHash;
use crate::random;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, timeout, timeout_at};

/// The first and the longest pause between two attempts to connect.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// How long one attempt to connect may take.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// From the beginning of one probe to that of the next one.
const PROBE: Duration = Duration::from_secs(1);

/// How long a probe may take. With `PROBE`: how long a deaf listener passes for a living one.
const PROBE_LIMIT: Duration = Duration::from_secs(2);

/// What a listener hears.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// A probe is about to be sent: the first one of a connection before `Connected`, each other one before `Alive`.
    Probing,
    /// From now on everything is heard; what happened before was not. `triggers`: writes of anyone are announced, not
    /// only those of this package.
    Connected { triggers: bool },
    /// The latest probe was answered in full: all that was committed before it was sent has been told. `triggers` as it
    /// was then.
    Alive { triggers: bool },
    /// From now on nothing is heard.
    Lost,
    /// Copies of this token's session must not be used any more.
    Forget(TokenHash),
    /// No copy must be used any more: somebody said so, or the triggers were changed in the last second, so that it is not
    /// known what they missed.
    ForgetAll,
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
                        connected |= matches!(event, Event::Connected { .. });
                        on_event(event);
                    });
                    let Err(error) = life.await;
                    error
                }
                Err(error) => error,
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
                let server = &**self.server();
                tracing::warn!(server, "Until Postgres is reached, revocations by others are not heard. {reason}");
            }
            tokio::time::sleep(random::shortened(pause)).await;
            pause = (pause * 2).min(BACKOFF.1);
        }
    }

    /// One life of the connection, to its end.
    async fn listen_once(&self, mut on_event: impl FnMut(Event) + Send) -> Result<Infallible> {
        let server = self.server();
        let late = |after| move |_| Error::Timeout { server: Arc::clone(server), after };
        let name = format!("studio-redis-native:{}:listener", std::process::id());
        let options = self.shared.options.clone().application_name(&name);
        let connected = timeout(CONNECT_LIMIT, Listener::connect(server, options)).await;
        let mut listener = connected.map_err(late(CONNECT_LIMIT))??;
        let mut mark = None;
        loop {
            let begun = Instant::now();
            on_event(Event::Probing);
            let mut on_heard = |payload: &str| tell(payload, &mut on_event);
            let probed = timeout_at(begun + PROBE_LIMIT, listener.probe(&mut on_heard)).await;
            let state = probed.map_err(late(PROBE_LIMIT))??;
            self.shared.checks.saw(server, &state.triggers);
            let triggers = state.triggers == Triggers::Working;
            match mark.replace(state.mark) {
                None => on_event(Event::Connected { triggers }),
                before => {
                    if before != mark {
                        on_event(Event::ForgetAll);
                    }
                    on_event(Event::Alive { triggers });
                }
            }
            // Asked of the clock each time, because what is there already is given out without looking at it.
            let due = begun + PROBE;
            while Instant::now() < due {
                let Ok(heard) = timeout_at(due, listener.heard()).await else { break };
                tell(heard?.payload(), &mut on_event);
            }
        }
    }
}

/// Reads a payload: tokens with a space between, or `*` for all. Anything else is somebody else's message.
fn tell(payload: &str, on_event: &mut impl FnMut(Event)) {
    if payload == "*" {
        return on_event(Event::ForgetAll);
    }
    payload.split(' ').filter_map(TokenHash::from_hex).for_each(|token| on_event(Event::Forget(token)));
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

    async fn any(events: &mut UnboundedReceiver<Event>) -> Event {
        tokio::time::timeout(Duration::from_secs(10), events.recv()).await.expect("no event came").unwrap()
    }

    /// The next event that is no probe without news.
    async fn next(events: &mut UnboundedReceiver<Event>) -> Event {
        let news = async {
            loop {
                let event = any(events).await;
                if !matches!(event, Event::Probing | Event::Alive { triggers: false }) {
                    return event;
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(10), news).await.expect("no news came")
    }

    /// Passes over what comes before an event.
    async fn until(events: &mut UnboundedReceiver<Event>, expected: Event) {
        let passed = async { while any(events).await != expected {} };
        tokio::time::timeout(Duration::from_secs(10), passed).await.unwrap_or_else(|_| panic!("no {expected:?} came"));
    }

    const CONNECTED: Event = Event::Connected { triggers: false };

    #[test]
    fn a_payload_is_tokens_or_all_of_them_and_anything_else_is_nothing() {
        let told = |payload: &str| {
            let mut events = Vec::new();
            tell(payload, &mut |event| events.push(event));
            events
        };
        let [a, b] = ["a", "b"].map(|name| token(name).to_hex());
        assert_eq!(told(&a), [Event::Forget(token("a"))]);
        assert_eq!(told(&format!("{a} {b}")), [Event::Forget(token("a")), Event::Forget(token("b"))]);
        assert_eq!(
            told(&format!("{a} x {} {b}", a.to_uppercase())),
            [Event::Forget(token("a")), Event::Forget(token("b"))]
        );
        assert_eq!(told("*"), [Event::ForgetAll]);
        for nothing in ["", " ", "hello", "**", &a[1..], &format!("{a}{b}")] {
            assert_eq!(told(nothing), [], "{nothing}");
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
        assert_eq!(next(&mut events).await, CONNECTED);

        other.announce(Which::Token(token("a"))).await.unwrap();
        assert_eq!(next(&mut events).await, Event::Forget(token("a")));
        other.delete(Which::Token(token("a"))).await.unwrap();
        assert_eq!(next(&mut events).await, Event::Forget(token("a")));
        other.rotate(token("b"), token("d"), SystemTime::now() + Duration::from_secs(60)).await.unwrap();
        assert_eq!(next(&mut events).await, Event::Forget(token("b")));

        database.run("NOTIFY studio_sessions, 'hello'; NOTIFY studio_sessions").await;
        database.run(&format!("SELECT pg_terminate_backend(pid) {LISTENERS}")).await;
        assert_eq!(next(&mut events).await, Event::Lost);
        assert_eq!(next(&mut events).await, CONNECTED);
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
        assert_eq!(next(&mut events).await, CONNECTED);
        for _ in 0..2 {
            assert_eq!(any(&mut events).await, Event::Probing);
            assert_eq!(any(&mut events).await, Event::Alive { triggers: false });
        }
        proxy.freeze();
        assert_eq!(next(&mut events).await, Event::Lost);
        proxy.thaw();
        assert_eq!(next(&mut events).await, CONNECTED);
        database.run(&format!("NOTIFY studio_sessions, '{}'", token("a").to_hex())).await;
        assert_eq!(next(&mut events).await, Event::Forget(token("a")));
        task.abort();
    }

    #[tokio::test]
    async fn a_listener_that_is_connected_and_deaf_is_lost_within_three_seconds() {
        let database = TestDatabase::create(false).await;
        let proxy = database.proxy().await;
        let (mut events, task) = listener(&open(&proxy));
        assert_eq!(next(&mut events).await, CONNECTED);
        proxy.deafen();
        let deaf = Instant::now();
        database.run(&format!("NOTIFY studio_sessions, '{}'", token("a").to_hex())).await;
        assert_eq!(next(&mut events).await, Event::Lost);
        assert!(deaf.elapsed() < PROBE + PROBE_LIMIT + Duration::from_secs(2), "{:?}", deaf.elapsed());
        assert_eq!(PROBE + PROBE_LIMIT, Duration::from_secs(3));
        proxy.thaw();
        assert_eq!(next(&mut events).await, CONNECTED);
        task.abort();
    }

    #[tokio::test]
    async fn a_connection_that_does_not_listen_is_no_listener() {
        let database = TestDatabase::create(false).await;
        let postgres = database.open(1);
        let mut listener = Listener::connect(postgres.server(), postgres.shared.options.clone()).await.unwrap();
        let mut heard = Vec::new();
        let mut on_heard = |payload: &str| heard.push(payload.to_owned());
        timeout(PROBE_LIMIT, listener.probe(&mut on_heard)).await.unwrap().unwrap();
        let hex = token("a").to_hex();
        for number in 0..3 {
            database.run(&format!("NOTIFY studio_sessions, '{hex} {number}'")).await;
        }
        timeout(PROBE_LIMIT, listener.probe(&mut on_heard)).await.unwrap().unwrap();
        assert_eq!(heard, [0, 1, 2].map(|number| format!("{hex} {number}")), "all that was said before it");
        listener.unlisten().await;
        let error = timeout(PROBE_LIMIT, listener.probe(&mut |_| {})).await.unwrap().unwrap_err();
        assert_eq!(error.code(), "ERR_CONNECTION");
    }

    #[tokio::test]
    async fn probes_go_on_while_news_arrive() {
        let database = TestDatabase::create(false).await;
        let (mut events, task) = listener(&database.open(1));
        assert_eq!(next(&mut events).await, CONNECTED);
        let hex = token("a").to_hex();
        let mut told = 0;
        let begun = Instant::now();
        while begun.elapsed() < PROBE * 3 {
            told += 20;
            database
                .run(
                    &format!("NOTIFY studio_sessions, '{hex}'; ")
                        .repeat(20)
                        .replace("; ", &format!("; SELECT {told}; ")),
                )
                .await;
        }
        database.run("NOTIFY studio_sessions, '*'").await;
        let (mut alive, mut heard) = (0, 0);
        loop {
            match any(&mut events).await {
                Event::Alive { triggers: false } => alive += 1,
                Event::Forget(_) => heard += 1,
                Event::ForgetAll => break,
                Event::Probing => {}
                event => panic!("{event:?}"),
            }
        }
        assert!(alive >= 2, "{alive} signs of life beside {heard} news");
        assert!(heard > 20);
        task.abort();
    }

    #[tokio::test]
    async fn triggers_that_come_go_or_rest_for_a_moment_are_told_by_the_next_sign_of_life() {
        let database = TestDatabase::create(false).await;
        let listening = database.open(1);
        let (mut events, task) = listener(&listening);
        assert_eq!(next(&mut events).await, CONNECTED);
        let disable = "ALTER TABLE platform.users DISABLE TRIGGER studio_session_events_update";
        let enable = "ALTER TABLE platform.users ENABLE ALWAYS TRIGGER studio_session_events_update";
        let rest = format!("BEGIN; {disable}; {enable}; COMMIT");
        let install = super::super::INSTALL_TRIGGERS;
        let uninstall = super::super::UNINSTALL_TRIGGERS;
        let mut complaints = 0;
        for (sql, triggers) in
            [(install, true), (disable, false), (enable, true), (&rest, true), (install, true), (uninstall, false)]
        {
            database.run(sql).await;
            // What they did not announce meanwhile is not known.
            until(&mut events, Event::ForgetAll).await;
            assert_eq!(any(&mut events).await, Event::Alive { triggers });
            complaints += usize::from(listening.findings().await.unwrap().triggers.complaint().is_some());
        }
        assert_eq!(complaints, 1, "the findings follow, so that it is said once");
        database.run(install).await;
        until(&mut events, Event::Alive { triggers: true }).await;
        database.run(&format!("SELECT pg_terminate_backend(pid) {LISTENERS}")).await;
        until(&mut events, Event::Lost).await;
        assert_eq!(any(&mut events).await, Event::Probing);
        assert_eq!(any(&mut events).await, Event::Connected { triggers: true });
        let user = database.user("a@x.io").await;
        database.session(&user, "a", "now() + interval '1 hour'").await;
        database.run("TRUNCATE platform.user_sessions").await;
        until(&mut events, Event::ForgetAll).await;
        task.abort();
    }

    #[tokio::test]
    async fn a_listener_that_is_dropped_leaves_no_connection_open_though_the_server_stands_still() {
        let database = TestDatabase::create(false).await;
        let proxy = database.proxy().await;
        let (mut events, task) = listener(&open(&proxy));
        assert_eq!(next(&mut events).await, CONNECTED);
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
        assert_eq!(next(&mut events).await, CONNECTED);
        task.abort();
    }
}
