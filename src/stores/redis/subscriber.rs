//! Subscriptions: any number of listeners on one connection, which is there while somebody listens.
//!
//! What is wanted stands in [`Topics`]; one task makes it so. It looks at a topic when somebody touched it, and at all
//! of them on a new connection, always comparing what is wanted now with what the server was told. So nothing that
//! happens during a reconnect can be missed.

use super::link::CLOSED;
use super::origin::Origin;
use super::topics::{Outcome, Topics};
use super::wire::{Purpose, Wire};
use crate::config::REDIS_DEADLINE;
use crate::error::{Error, Result};
use crate::random;
use bytes::Bytes;
use std::collections::HashSet;
use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, timeout};

/// Waits between attempts: doubled from the first to the last, each shortened by up to half at random.
const FIRST_BACKOFF: Duration = Duration::from_millis(50);
const LAST_BACKOFF: Duration = Duration::from_secs(2);

/// Topics that one command names.
const BATCH: usize = 500;

/// What one can subscribe to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Topic {
    Channel(String),
    /// Such as `news.*`.
    Pattern(String),
}

impl Topic {
    /// The channel or the pattern.
    pub fn name(&self) -> &str {
        match self {
            Self::Channel(name) | Self::Pattern(name) => name,
        }
    }
}

/// What was published. The channel is the one that it was published to, for a pattern too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    pub channel: String,
    pub payload: Bytes,
}

/// Gets the messages of one subscription, in their order, from before `subscribe` has resolved.
///
/// Nothing here may block, or call the [`Subscriber`].
pub trait Listener: Send + Sync {
    fn message(&self, message: &Message);
    /// There will be no more messages: it was closed, or the server refuses the topic on a new connection.
    fn ended(&self, error: &Error);
}

/// All subscriptions of a pool, on one connection.
pub struct Subscriber(Arc<Shared>);

struct Shared {
    origin: Origin,
    name: String,
    topics: Mutex<Topics>,
    /// Wakes the task when a topic was touched.
    touched: Notify,
    task: Mutex<Option<AbortHandle>>,
    connections: AtomicUsize,
}

impl Subscriber {
    /// Connects nothing. Connections call themselves `name`.
    pub fn new(origin: Origin, name: String) -> Self {
        Self(Arc::new(Shared {
            origin,
            name,
            topics: Mutex::default(),
            touched: Notify::new(),
            task: Mutex::default(),
            connections: AtomicUsize::new(0),
        }))
    }

    /// Resolves with the subscription's id once the server has confirmed. Listeners of one topic share one SUBSCRIBE.
    ///
    /// # Errors
    /// [`Error::Timeout`] after 1 s; [`Error::Connection`] while the server is away; [`Error::Reply`] for a refusal.
    pub async fn subscribe(&self, topic: Topic, listener: Arc<dyn Listener>) -> Result<u64> {
        let (id, outcome) = self.0.topics().add(topic, listener)?;
        let mut unless_done = Unless { shared: &self.0, id, done: false };
        self.0.start();
        self.0.touched.notify_one();
        let outcome = timeout(REDIS_DEADLINE, outcome).await;
        match outcome {
            Ok(Ok(Ok(()))) => {
                unless_done.done = true;
                Ok(id)
            }
            Ok(Ok(Err(error))) => Err(error),
            Ok(Err(_)) => Err(self.0.closed()),
            Err(_) => Err(Error::Timeout { server: self.0.origin.server().clone(), after: REDIS_DEADLINE }),
        }
    }

    /// Ends a subscription: its listener gets nothing more from the call on, before the future is even polled.
    ///
    /// The future resolves when the server knows, or after 1 s.
    pub fn unsubscribe(&self, id: u64) -> impl Future<Output = ()> + Send + use<> {
        let told = self.0.remove(id);
        async move {
            if let Some(told) = told {
                // Whatever became of it, nobody listens any more.
                let _ = timeout(REDIS_DEADLINE, told).await;
            }
        }
    }

    /// Open connections: 0 or 1.
    pub fn connections(&self) -> usize {
        self.0.connections.load(Relaxed)
    }

    /// Ends everything at once: each listener, pending calls of `subscribe`, and the connection.
    pub fn close(&self) {
        let closed = self.0.closed();
        let ended = self.0.topics().close(&closed);
        if let Some(task) = self.0.task().take() {
            task.abort();
        }
        ended.into_iter().for_each(|subscription| subscription.end(&closed));
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        self.close();
    }
}

/// A call of `subscribe` that fails or is dropped leaves no listener behind.
struct Unless<'a> {
    shared: &'a Arc<Shared>,
    id: u64,
    done: bool,
}

impl Drop for Unless<'_> {
    fn drop(&mut self) {
        if !self.done {
            self.shared.remove(self.id);
        }
    }
}

impl Shared {
    fn topics(&self) -> MutexGuard<'_, Topics> {
        self.topics.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn task(&self) -> MutexGuard<'_, Option<AbortHandle>> {
        self.task.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn closed(&self) -> Error {
        Error::Connection { server: self.origin.server().clone(), reason: CLOSED.to_owned() }
    }

    fn remove(&self, id: u64) -> Option<Outcome> {
        let (subscription, told) = self.topics().remove(id)?;
        subscription.silence();
        self.touched.notify_one();
        Some(told)
    }

    /// Starts the task if it does not run. It ends by itself when nobody listens.
    fn start(self: &Arc<Self>) {
        let mut task = self.task();
        if self.topics().begin() {
            *task = Some(tokio::spawn(supervise(self.clone())).abort_handle());
        }
    }

    /// Resolves when nobody listens any more.
    async fn deserted(&self) {
        while !self.topics().ends() {
            self.touched.notified().await;
        }
    }

    fn news(&self, topic: &Topic, message: &Message) {
        // Not under the lock: listeners are foreign code.
        let listeners = self.topics().listeners(topic);
        listeners.iter().for_each(|subscription| subscription.message(message));
    }
}

/// Counts the connection while it lives.
struct Counted<'a>(&'a AtomicUsize);

impl<'a> Counted<'a> {
    fn new(connections: &'a AtomicUsize) -> Self {
        connections.fetch_add(1, Relaxed);
        Self(connections)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

/// One connection after another, while somebody listens.
async fn supervise(shared: Arc<Shared>) {
    let mut backoff = FIRST_BACKOFF;
    loop {
        let sink = {
            let shared = shared.clone();
            move |topic, message| shared.news(&topic, &message)
        };
        let opening = Wire::open(&shared.origin, &shared.name, Purpose::Subscriptions(Box::new(sink)));
        let opened = tokio::select! {
            biased;
            () = shared.deserted() => return,
            opened = opening => opened,
        };
        let lost = match opened {
            Ok(wire) => {
                let (_counted, begun) = (Counted::new(&shared.connections), Instant::now());
                shared.topics().connected();
                let Some(lost) = serve(&shared, &wire).await else { return };
                tracing::warn!(server = %shared.origin.server(), connection = shared.name, "lost: {lost}");
                if begun.elapsed() > LAST_BACKOFF {
                    // It was a connection worth having: the next one is tried at once, and may be waited for.
                    backoff = FIRST_BACKOFF;
                    shared.topics().lost();
                    continue;
                }
                lost
            }
            Err(error) => {
                tracing::warn!(server = %shared.origin.server(), connection = shared.name, "cannot connect: {error}");
                error
            }
        };
        shared.topics().failed(&lost);
        tokio::select! {
            biased;
            () = shared.deserted() => return,
            () = sleep(random::shortened(backoff)) => {}
        }
        backoff = (backoff * 2).min(LAST_BACKOFF);
    }
}

/// Makes the server's subscriptions what is wanted, until the connection is lost (and why), or nobody listens.
async fn serve(shared: &Shared, wire: &Wire) -> Option<Error> {
    // What the server may believe that we listen to.
    let mut told: HashSet<Topic> = HashSet::new();
    loop {
        if shared.topics().ends() {
            return None;
        }
        let work = shared.topics().work(&told, BATCH);
        if work.is_empty() {
            tokio::select! {
                lost = wire.lost() => return Some(lost),
                () = shared.touched.notified() => continue,
            }
        }
        if !work.begin.is_empty() {
            told.extend(work.begin.iter().cloned());
            match wire.subscribe(&work.begin).await {
                Ok(refused) => {
                    told.retain(|topic| !refused.iter().any(|(one, _)| one == topic));
                    let ended = shared.topics().begun(&work.begin, &refused);
                    ended.iter().for_each(|(subscription, error)| subscription.end(error));
                }
                Err(Error::Timeout { .. }) => shared.topics().again(work.begin),
                Err(lost) => return Some(lost),
            }
        }
        for topic in work.end {
            match wire.unsubscribe(&topic).await {
                Ok(()) => {
                    told.remove(&topic);
                    shared.topics().ended(&topic);
                }
                Err(Error::Timeout { .. }) => shared.topics().again(vec![topic]),
                Err(lost) => return Some(lost),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::redis_url::{Login, RedisUrl, Secret};
    use crate::redis_value::Value;
    use crate::stores::redis::testing::{Server, field, nowhere, origin, soon, until};
    use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

    #[derive(Debug, PartialEq)]
    enum Heard {
        Message(String, Vec<u8>),
        Ended(&'static str),
    }

    struct Ear(UnboundedSender<Heard>);

    impl Listener for Ear {
        fn message(&self, message: &Message) {
            let _ = self.0.send(Heard::Message(message.channel.clone(), message.payload.to_vec()));
        }
        fn ended(&self, error: &Error) {
            let _ = self.0.send(Heard::Ended(error.code()));
        }
    }

    type Ears = UnboundedReceiver<Heard>;

    fn ear() -> (Arc<dyn Listener>, Ears) {
        let (sender, receiver) = unbounded_channel();
        (Arc::new(Ear(sender)), receiver)
    }

    fn subscriber(url: &RedisUrl, name: &str) -> Subscriber {
        Subscriber::new(origin(url), name.to_owned())
    }

    fn channel(name: &str) -> Topic {
        Topic::Channel(name.to_owned())
    }

    fn pattern(name: &str) -> Topic {
        Topic::Pattern(name.to_owned())
    }

    async fn listen(subscriber: &Subscriber, topic: Topic) -> (u64, Ears) {
        let (listener, ears) = ear();
        (soon(subscriber.subscribe(topic, listener)).await.unwrap(), ears)
    }

    async fn heard(ears: &mut Ears) -> Heard {
        soon(ears.recv()).await.expect("the listener is gone")
    }

    fn said(channel: &str, payload: &str) -> Heard {
        Heard::Message(channel.to_owned(), payload.as_bytes().to_vec())
    }

    async fn subscriptions(server: &Server, name: &str) -> (usize, usize) {
        let clients = server.clients(name).await;
        let sum = |kind| clients.iter().map(|client| field(client, kind).parse::<usize>().unwrap()).sum();
        (sum("sub"), sum("psub"))
    }

    #[tokio::test]
    async fn each_subscription_gets_its_messages_in_order() {
        let server = Server::new();
        let subscriber = subscriber(&server.url, "test:order");
        assert_eq!(subscriber.connections(), 0);
        let (_, mut direct) = listen(&subscriber, channel("order:a")).await;
        let (_, mut wide) = listen(&subscriber, pattern("order:*")).await;
        let (_, mut narrow) = listen(&subscriber, pattern("order:[a-b]")).await;
        assert_eq!(subscriber.connections(), 1);
        assert_eq!(subscriptions(&server, "test:order").await, (1, 2));
        let messages = ["one", "one", "two", "", "two"];
        for message in messages {
            server.run(&["PUBLISH", "order:a", message]).await;
        }
        server.run(&["PUBLISH", "order:c", "far"]).await;
        server.run_all(&[vec![b"PUBLISH".to_vec(), b"order:b".to_vec(), vec![0, 255]]]).await;
        for ears in [&mut direct, &mut wide, &mut narrow] {
            for message in messages {
                assert_eq!(heard(ears).await, said("order:a", message));
            }
        }
        assert_eq!(heard(&mut wide).await, said("order:c", "far"));
        for ears in [&mut wide, &mut narrow] {
            assert_eq!(heard(ears).await, Heard::Message("order:b".to_owned(), vec![0, 255]));
        }
        assert!(direct.try_recv().is_err() && wide.try_recv().is_err() && narrow.try_recv().is_err());
    }

    #[tokio::test]
    async fn keyspace_notifications_are_messages_like_others() {
        let server = Server::new();
        server.run(&["CONFIG", "SET", "notify-keyspace-events", "KEA"]).await;
        let subscriber = subscriber(&server.url, "test:keyspace");
        let (_, mut of_key) = listen(&subscriber, channel("__keyspace@0__:keyspace:k")).await;
        let (_, mut of_keys) = listen(&subscriber, pattern("__keyspace@0__:keyspace:*")).await;
        let (_, mut of_event) = listen(&subscriber, channel("__keyevent@0__:setrange")).await;
        server.run(&["SETRANGE", "keyspace:k", "0", "v"]).await;
        for ears in [&mut of_key, &mut of_keys] {
            assert_eq!(heard(ears).await, said("__keyspace@0__:keyspace:k", "setrange"));
        }
        assert_eq!(heard(&mut of_event).await, said("__keyevent@0__:setrange", "keyspace:k"));
        server.run(&["CONFIG", "SET", "notify-keyspace-events", ""]).await;
    }

    #[tokio::test]
    async fn listeners_share_subscriptions_and_the_last_one_ends_them() {
        let server = Server::new();
        let subscriber = subscriber(&server.url, "test:share");
        let (first, mut one) = listen(&subscriber, channel("share:a")).await;
        let (second, mut two) = listen(&subscriber, channel("share:a")).await;
        let (third, _three) = listen(&subscriber, pattern("share:b")).await;
        assert_eq!(subscriptions(&server, "test:share").await, (1, 1));
        server.run(&["PUBLISH", "share:a", "both"]).await;
        assert_eq!((heard(&mut one).await, heard(&mut two).await), (said("share:a", "both"), said("share:a", "both")));
        let leaving = subscriber.unsubscribe(first);
        server.run(&["PUBLISH", "share:a", "second"]).await;
        assert_eq!(heard(&mut two).await, said("share:a", "second"));
        assert!(one.recv().await.is_none(), "nothing comes from the call on");
        leaving.await;
        assert_eq!(subscriptions(&server, "test:share").await, (1, 1));
        subscriber.unsubscribe(second).await;
        assert_eq!(subscriptions(&server, "test:share").await, (0, 1));
        subscriber.unsubscribe(second).await;
        subscriber.unsubscribe(third).await;
        until!(server.clients("test:share").await.is_empty());
        until!(subscriber.connections() == 0);
        let (_, mut again) = listen(&subscriber, channel("share:a")).await;
        server.run(&["PUBLISH", "share:a", "again"]).await;
        assert_eq!(heard(&mut again).await, said("share:a", "again"));
    }

    #[tokio::test]
    async fn a_refusal_is_an_error_and_disturbs_nobody() {
        let server = Server::new();
        server.run(&["ACL", "SETUSER", "limited", "on", ">p", "+@all", "resetchannels", "&limited:*"]).await;
        let url = RedisUrl {
            login: Login { username: Some("limited".to_owned()), password: Some(Secret::new("p")) },
            ..server.url.clone()
        };
        let subscriber = subscriber(&url, "test:limited");
        for round in 0..3 {
            let (listener, _) = ear();
            let refused = subscriber.subscribe(channel("forbidden"), listener).await.unwrap_err();
            assert_eq!(refused.reply_kind(), Some("NOPERM"), "{refused}");
            let (id, mut ears) = listen(&subscriber, channel("limited:a")).await;
            server.run(&["PUBLISH", "limited:a", "x"]).await;
            assert_eq!(heard(&mut ears).await, said("limited:a", "x"));
            if round == 0 {
                subscriber.unsubscribe(id).await;
            }
        }
        // Two at once, of which one may not: the other one does not suffer.
        let (_, mut later) = listen(&subscriber, channel("limited:later")).await;
        server.run(&["ACL", "SETUSER", "limited", "resetchannels", "&limited:a"]).await;
        assert_eq!(heard(&mut later).await, Heard::Ended("ERR_REPLY"));
        let (_, mut ears) = listen(&subscriber, channel("limited:a")).await;
        server.run(&["PUBLISH", "limited:a", "y"]).await;
        assert_eq!(heard(&mut ears).await, said("limited:a", "y"));
    }

    #[tokio::test]
    async fn subscriptions_survive_a_killed_connection() {
        let server = Server::new();
        let subscriber = subscriber(&server.url, "test:killed-sub");
        let mut all = Vec::new();
        for number in 0..20 {
            all.push((number, listen(&subscriber, channel(&format!("killed-sub:{number}"))).await.1));
        }
        let (_, mut wide) = listen(&subscriber, pattern("killed-sub:?")).await;
        for _ in 0..2 {
            server.kill("test:killed-sub").await;
            until!(subscriptions(&server, "test:killed-sub").await == (20, 1));
            for (number, ears) in &mut all {
                let name = format!("killed-sub:{number}");
                server.run(&["PUBLISH", &name, "x"]).await;
                assert_eq!(heard(ears).await, said(&name, "x"));
            }
            for number in 0..10 {
                assert_eq!(heard(&mut wide).await, said(&format!("killed-sub:{number}"), "x"));
            }
        }
    }

    #[tokio::test]
    async fn a_peer_that_vanished_is_noticed() {
        let server = Server::new();
        let proxy = server.proxy().await;
        let subscriber = subscriber(&proxy.url, "test:frozen");
        let (gone, _) = listen(&subscriber, channel("frozen:gone")).await;
        let (_, mut ears) = listen(&subscriber, channel("frozen:a")).await;
        proxy.freeze(1);
        let begun = Instant::now();
        soon(subscriber.unsubscribe(gone)).await;
        assert!(begun.elapsed() < Duration::from_millis(1900), "{:?}", begun.elapsed());
        until!(server.clients("test:frozen").await.len() == 2);
        assert!(begun.elapsed() > Duration::from_secs(2), "patience comes first");
        assert!(begun.elapsed() < Duration::from_secs(6), "{:?}", begun.elapsed());
        until!(server.run(&["PUBLISH", "frozen:a", "x"]).await != Value::Int(1));
        assert_eq!(heard(&mut ears).await, said("frozen:a", "x"));
        assert_eq!(subscriber.connections(), 1);
    }

    #[tokio::test]
    async fn what_changes_while_the_server_is_away_counts_when_it_is_back() {
        let server = Server::new();
        let proxy = server.proxy().await;
        let subscriber = subscriber(&proxy.url, "test:away");
        let (leaves, mut left) = listen(&subscriber, channel("away:leaves")).await;
        let (_, mut stays) = listen(&subscriber, channel("away:stays")).await;
        proxy.refuse(true);
        until!(subscriber.connections() == 0);
        soon(subscriber.unsubscribe(leaves)).await;
        until!({
            let (listener, _) = ear();
            subscriber.subscribe(channel("away:new"), listener).await.unwrap_err().code() == "ERR_CONNECTION"
        });
        proxy.refuse(false);
        until!(subscriptions(&server, "test:away").await == (1, 0));
        server.run(&["PUBLISH", "away:leaves", "x"]).await;
        server.run(&["PUBLISH", "away:stays", "x"]).await;
        assert_eq!(heard(&mut stays).await, said("away:stays", "x"));
        assert!(left.recv().await.is_none());
    }

    #[tokio::test]
    async fn who_cannot_subscribe_leaves_nothing_behind() {
        let away = subscriber(&nowhere().await, "test:nowhere");
        let (listener, _) = ear();
        let error = soon(away.subscribe(channel("x"), listener)).await.unwrap_err();
        assert!(error.to_string().contains("Connection refused"), "{error}");
        until!(!away.0.topics().begin() && Arc::strong_count(&away.0) == 1);

        let server = Server::new();
        let proxy = server.proxy().await;
        proxy.freeze(usize::MAX);
        let silent = subscriber(&proxy.url, "test:silent");
        let (listener, mut ears) = ear();
        assert_eq!(soon(silent.subscribe(channel("x"), listener)).await.unwrap_err().code(), "ERR_TIMEOUT");
        assert!(ears.recv().await.is_none());
        until!(Arc::strong_count(&silent.0) == 1);

        let dropped = subscriber(&server.url, "test:dropped");
        let (listener, mut ears) = ear();
        let subscribing = dropped.subscribe(channel("x"), listener);
        tokio::select! {
            biased;
            outcome = subscribing => panic!("{outcome:?}"),
            () = std::future::ready(()) => {}
        }
        assert!(ears.recv().await.is_none());
        until!(Arc::strong_count(&dropped.0) == 1);
        until!(server.clients("test:dropped").await.is_empty());
    }

    #[tokio::test]
    async fn closing_ends_everything_at_once() {
        let server = Server::new();
        let proxy = server.proxy().await;
        let subscriber = subscriber(&proxy.url, "test:closing");
        let (_, mut ears) = listen(&subscriber, channel("closing:a")).await;
        proxy.freeze(1);
        let (listener, mut pending) = ear();
        let subscribing = subscriber.subscribe(channel("closing:b"), listener);
        let (outcome, ()) = tokio::join!(subscribing, async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            subscriber.close();
        });
        assert_eq!(outcome.unwrap_err().code(), "ERR_CONNECTION");
        assert_eq!(heard(&mut ears).await, Heard::Ended("ERR_CONNECTION"));
        assert!(ears.recv().await.is_none() && pending.recv().await.is_none());
        let (listener, _) = ear();
        assert_eq!(subscriber.subscribe(channel("x"), listener).await.unwrap_err().code(), "ERR_CONNECTION");
        until!(Arc::strong_count(&subscriber.0) == 1);
        assert_eq!(subscriber.connections(), 0);
        proxy.freeze(0);
        until!(server.clients("test:closing").await.is_empty());
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn of_a_flood_every_message_arrives() {
        let server = Server::new();
        let subscriber = subscriber(&server.url, "test:flood");
        let (_, mut ears) = listen(&subscriber, channel("flood")).await;
        let numbers = (0..20_000).map(|number| vec!["PUBLISH".to_owned(), "flood".to_owned(), number.to_string()]);
        server.run_all(&numbers.collect::<Vec<_>>()).await;
        for number in 0..20_000 {
            assert_eq!(heard(&mut ears).await, said("flood", &number.to_string()));
        }
    }
}
