//! Commands that block, each on a connection of its own for as long as it takes.

use super::cluster::{Redirect, slot_of};
use super::link::CLOSED;
use super::origin::Origin;
use super::wire::{Purpose, Wire};
use crate::error::{Error, Result};
use crate::redis_url::Address;
use crate::redis_value::Value;
use bytes::Bytes;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

/// So often others' word for where a key is is followed.
const MOST_HOPS: usize = 16;

/// How long a command waits whose slot is being moved.
const TRY_AGAIN: Duration = Duration::from_millis(15);

/// Connections that are kept for the next command, and for how long.
const MOST_IDLE: usize = 4;
const IDLE_LIFE: Duration = Duration::from_secs(60);

/// Runs commands that may block.
pub struct Blocking(Arc<Shared>);

struct Shared {
    origin: Origin,
    name: String,
    idle_life: Duration,
    idle: Mutex<Idle>,
    open: Arc<AtomicUsize>,
    closing: CancellationToken,
}

/// Which node of a cluster, and whether it has to be told that the key is on its way to it. Without an address: the server.
#[derive(Default)]
struct Place {
    address: Option<Address>,
    asking: bool,
}

/// Connections whose last command was answered, the longest idle first.
#[derive(Default)]
struct Idle {
    connections: Vec<(Instant, Connection)>,
    /// Closes them in time. Runs while there are any.
    closer: Option<AbortHandle>,
}

/// A connection that is counted while it lives.
struct Connection {
    wire: Wire,
    open: Arc<AtomicUsize>,
}

impl Connection {
    fn new(wire: Wire, open: &Arc<AtomicUsize>) -> Self {
        open.fetch_add(1, Relaxed);
        Self { wire, open: open.clone() }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.open.fetch_sub(1, Relaxed);
    }
}

impl Blocking {
    /// Connects nothing. Connections call themselves `name`.
    pub fn new(origin: Origin, name: String) -> Self {
        Self::with_idle_life(origin, name, IDLE_LIFE)
    }

    fn with_idle_life(origin: Origin, name: String, idle_life: Duration) -> Self {
        Self(Arc::new(Shared {
            origin,
            name,
            idle_life,
            idle: Mutex::default(),
            open: Arc::default(),
            closing: CancellationToken::new(),
        }))
    }

    /// Runs one command, once, for as long as it takes. Dropping the future closes the connection, so that an abandoned
    /// command takes nothing that comes later.
    ///
    /// # Errors
    /// [`Error::Reply`] for an error reply; [`Error::Connection`] if there is none within 2 s, if it is lost before the
    /// reply, in which case the command may or may not have been executed, or by [`Blocking::close`].
    pub async fn run(&self, command: Vec<Bytes>) -> Result<Value> {
        let shared = &self.0;
        tokio::select! {
            biased;
            () = shared.closing.cancelled() => Err(shared.closed()),
            answer = async {
                let mut place = shared.place(&command).await?;
                for _ in 0..MOST_HOPS {
                    let answer = shared.run(&command, &place).await;
                    match shared.elsewhere(&command, &place, &answer).await {
                        Some(next) => place = next?,
                        None => return answer,
                    }
                }
                shared.run(&command, &place).await
            } => answer,
        }
    }

    /// Open connections, idle ones included.
    pub fn connections(&self) -> usize {
        self.0.open.load(Relaxed)
    }

    /// Closes all connections. What runs fails at once, and so does every later call.
    pub fn close(&self) {
        self.0.closing.cancel();
        let mut idle = self.0.idle();
        if let Some(closer) = idle.closer.take() {
            closer.abort();
        }
        let connections = std::mem::take(&mut idle.connections);
        drop(idle);
        drop(connections);
    }
}

impl Drop for Blocking {
    fn drop(&mut self) {
        self.close();
    }
}

impl Shared {
    fn idle(&self) -> MutexGuard<'_, Idle> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn closed(&self) -> Error {
        Error::Connection { server: self.origin.server().clone(), reason: CLOSED.to_owned() }
    }

    async fn run(self: &Arc<Self>, command: &[Bytes], place: &Place) -> Result<Value> {
        let connection = self.connection(place).await?;
        if place.asking {
            connection.wire.command(&[Bytes::from_static(b"ASKING")]).await?;
        }
        let answer = connection.wire.command(command).await;
        if matches!(answer, Ok(_) | Err(Error::Reply { .. })) {
            self.keep(connection);
        }
        answer
    }

    /// Where a command has to go.
    async fn place(&self, command: &[Bytes]) -> Result<Place> {
        let Some(topology) = self.origin.topology() else { return Ok(Place::default()) };
        let map = topology.known().await?;
        let address = match slot_of(command)? {
            Some(slot) => map.primary(slot).cloned(),
            None => map.primaries().next().cloned(),
        };
        Ok(Place { address, asking: false })
    }

    /// Where a command has to go after this answer to it; `None` if it is the last one.
    async fn elsewhere(&self, command: &[Bytes], asked: &Place, answer: &Result<Value>) -> Option<Result<Place>> {
        let (Err(Error::Reply { text, .. }), Some(topology)) = (answer, self.origin.topology()) else { return None };
        match Redirect::read(text, asked.address.as_ref().unwrap_or(&Address::unknown()))? {
            Redirect::Ask { to, .. } => return Some(Ok(Place { address: Some(to), asking: true })),
            moved @ Redirect::Moved { .. } => topology.redirected(&moved),
            Redirect::TryAgain | Redirect::NotPrimary => {
                topology.doubt();
                sleep(TRY_AGAIN).await;
            }
        }
        Some(self.place(command).await)
    }

    async fn connection(&self, place: &Place) -> Result<Connection> {
        loop {
            // The one that was used last is the most likely to live.
            let idle = {
                let all = &mut self.idle().connections;
                let fits = |connection: &Connection| {
                    place.address.as_ref().is_none_or(|address| connection.wire.address() == address)
                };
                all.iter().rposition(|(_, connection)| fits(connection)).map(|index| all.remove(index))
            };
            match idle {
                Some((_, connection)) if connection.wire.is_open() => return Ok(connection),
                Some(_) => {}
                None => break,
            }
        }
        let wire = match &place.address {
            Some(address) => Wire::open(&self.origin.at_member(address), &self.name, Purpose::Commands).await?,
            None => Wire::open(&self.origin, &self.name, Purpose::Commands).await?,
        };
        Ok(Connection::new(wire, &self.open))
    }

    fn keep(self: &Arc<Self>, connection: Connection) {
        let mut idle = self.idle();
        // Under the lock: `close` cancels before it empties this.
        if self.closing.is_cancelled() || idle.connections.len() >= MOST_IDLE {
            return;
        }
        idle.connections.push((Instant::now() + self.idle_life, connection));
        if idle.closer.is_none() {
            idle.closer = Some(tokio::spawn(close_in_time(self.clone())).abort_handle());
        }
    }
}

async fn close_in_time(shared: Arc<Shared>) {
    loop {
        let now = Instant::now();
        let next = {
            let mut idle = shared.idle();
            idle.connections.retain(|(end, connection)| *end > now && connection.wire.is_open());
            let next = idle.connections.first().map(|(end, _)| *end);
            if next.is_none() {
                idle.closer = None;
            }
            next
        };
        let Some(next) = next else { return };
        sleep_until(next).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::redis_url::{Login, RedisUrl};
    use crate::stores::redis::testing::{Server, field, nowhere, origin, soon, until};

    fn blocking(url: &RedisUrl, name: &str) -> Arc<Blocking> {
        Arc::new(Blocking::new(origin(url), name.to_owned()))
    }

    fn command(words: &[&str]) -> Vec<Bytes> {
        words.iter().map(|word| Bytes::copy_from_slice(word.as_bytes())).collect()
    }

    fn text(text: &str) -> Value {
        Value::Text(Bytes::copy_from_slice(text.as_bytes()))
    }

    fn run(blocking: &Arc<Blocking>, words: &[&str]) -> tokio::task::JoinHandle<Result<Value>> {
        let (blocking, command) = (blocking.clone(), command(words));
        tokio::spawn(async move { blocking.run(command).await })
    }

    #[tokio::test]
    async fn replies_are_what_the_server_sent() {
        let server = Server::new();
        let blocking = blocking(&server.url, "test:shapes");
        let ask = async |words: &[&str]| soon(blocking.run(command(words))).await;
        assert_eq!(ask(&["BLPOP", "shapes:none", "0.05"]).await.unwrap(), Value::Null);
        server.run(&["ZADD", "shapes:z", "1.5", "m"]).await;
        let popped = Value::Array(vec![text("shapes:z"), text("m"), text("1.5")]);
        assert_eq!(ask(&["BZPOPMIN", "shapes:z", "0"]).await.unwrap(), popped);
        server.run(&["DEL", "shapes:s"]).await;
        server.run(&["XADD", "shapes:s", "1-1", "f", "v"]).await;
        let entry = Value::Array(vec![text("1-1"), Value::Array(vec![text("f"), text("v")])]);
        let streams = Value::Map(vec![(text("shapes:s"), Value::Array(vec![entry]))]);
        let read = ask(&["XREAD", "BLOCK", "0", "STREAMS", "shapes:s", "0"]).await.unwrap();
        assert_eq!(read, streams);
        assert_eq!(ask(&["WAIT", "0", "10"]).await.unwrap(), Value::Int(0));
        let nested = ask(&["EVAL", "return {1, false, redis.error_reply('ERR x'), {}}", "0"]).await.unwrap();
        let Value::Array(items) = nested else { panic!("an array") };
        assert_eq!(items[..2], [Value::Int(1), Value::Null]);
        assert!(matches!(&items[2], Value::Error(text) if text == "ERR x"));
        assert_eq!(items[3], Value::Array(vec![]));

        server.run(&["SET", "shapes:text", "x"]).await;
        let wrong = ask(&["BLPOP", "shapes:text", "0"]).await.unwrap_err();
        let own_text = "WRONGTYPE Operation against a key holding the wrong kind of value";
        assert!(matches!(&wrong, Error::Reply { text, .. } if text == own_text), "{wrong}");
        assert_eq!(ask(&["NO SUCH", "x"]).await.unwrap_err().code(), "ERR_REPLY");
        server.run(&["ZADD", "message", "1", "m"]).await;
        let popped = Value::Array(vec![text("message"), text("m"), text("1")]);
        assert_eq!(ask(&["BZPOPMIN", "message", "0"]).await.unwrap(), popped);
        assert_eq!(blocking.connections(), 1, "an error reply is an answer");
    }

    #[tokio::test]
    async fn keys_and_values_are_bytes() {
        let server = Server::new();
        let blocking = blocking(&server.url, "test:bytes");
        let (key, value) = (Bytes::from_static(b"\xff\0\r\n key"), Bytes::from((0..=255).collect::<Vec<u8>>()));
        server.run_all(&[vec![b"DEL".to_vec(), key.to_vec()]]).await;
        let waiting = {
            let (blocking, key) = (blocking.clone(), key.clone());
            tokio::spawn(async move { blocking.run(vec!["BLPOP".into(), key, "0".into()]).await })
        };
        until!(!server.clients("test:bytes").await.is_empty());
        server.run_all(&[vec![b"LPUSH".to_vec(), key.to_vec(), value.to_vec()]]).await;
        let popped = soon(waiting).await.unwrap().unwrap();
        assert_eq!(popped, Value::Array(vec![Value::Text(key), Value::Text(value)]));
    }

    #[tokio::test]
    async fn an_abandoned_command_takes_nothing_that_comes_later() {
        let server = Server::new();
        let blocking = blocking(&server.url, "test:abandoned");
        server.run(&["DEL", "abandoned"]).await;
        let waiting = run(&blocking, &["BRPOP", "abandoned", "0"]);
        until!(server.clients("test:abandoned").await.iter().any(|client| field(client, "cmd") == "brpop"));
        waiting.abort();
        until!(server.clients("test:abandoned").await.is_empty());
        assert_eq!(blocking.connections(), 0);
        server.run(&["LPUSH", "abandoned", "x"]).await;
        assert_eq!(server.run(&["LLEN", "abandoned"]).await, Value::Int(1));
    }

    #[tokio::test]
    async fn a_connection_is_used_again_while_it_is_fresh() {
        let server = Server::new();
        let life = Duration::from_millis(300);
        let blocking = Arc::new(Blocking::with_idle_life(origin(&server.url), "test:idle".into(), life));
        let id = blocking.run(command(&["CLIENT", "ID"])).await.unwrap();
        assert_eq!(blocking.run(command(&["CLIENT", "ID"])).await.unwrap(), id);
        assert_eq!(blocking.connections(), 1);
        let many: Vec<_> = (0..6).map(|_| run(&blocking, &["BLPOP", "idle:none", "0.2"])).collect();
        until!(blocking.connections() == 6);
        for one in many {
            assert_eq!(soon(one).await.unwrap().unwrap(), Value::Null);
        }
        assert!(blocking.connections() <= MOST_IDLE);
        until!(server.clients("test:idle").await.is_empty());
        assert_eq!(blocking.connections(), 0);
        assert!(blocking.0.idle().closer.is_none(), "its task has ended");
        assert_eq!(Arc::strong_count(&blocking.0), 1);
    }

    #[tokio::test]
    async fn a_command_whose_connection_is_lost_fails_and_is_not_sent_again() {
        let server = Server::new();
        let blocking = blocking(&server.url, "test:killed");
        server.run(&["DEL", "killed"]).await;
        let waiting = run(&blocking, &["BRPOP", "killed", "0"]);
        until!(server.clients("test:killed").await.iter().any(|client| field(client, "cmd") == "brpop"));
        server.kill("test:killed").await;
        assert_eq!(soon(waiting).await.unwrap().unwrap_err().code(), "ERR_CONNECTION");
        assert_eq!(blocking.connections(), 0);
        server.run(&["LPUSH", "killed", "x"]).await;
        assert_eq!(server.run(&["LLEN", "killed"]).await, Value::Int(1));
        let popped = soon(blocking.run(command(&["BRPOP", "killed", "0"]))).await.unwrap();
        assert_eq!(popped, Value::Array(vec![text("killed"), text("x")]));
        server.kill("test:killed").await;
        until!(!blocking.0.idle().connections[0].1.wire.is_open());
        assert!(blocking.run(command(&["CLIENT", "ID"])).await.is_ok(), "a dead one is not used");
    }

    #[tokio::test]
    async fn closing_ends_everything_at_once() {
        let server = Server::new();
        let blocking = blocking(&server.url, "test:closed");
        blocking.run(command(&["CLIENT", "ID"])).await.unwrap();
        let waiting: Vec<_> = (0..3).map(|_| run(&blocking, &["BLPOP", "closed:none", "0"])).collect();
        until!(
            server.clients("test:closed").await.iter().filter(|client| field(client, "cmd") == "blpop").count() == 3
        );
        blocking.close();
        for one in waiting {
            let error = soon(one).await.unwrap().unwrap_err();
            assert!(matches!(&error, Error::Connection { reason, .. } if reason == CLOSED), "{error}");
        }
        assert_eq!(blocking.run(command(&["PING"])).await.unwrap_err().code(), "ERR_CONNECTION");
        until!(server.clients("test:closed").await.is_empty());
        assert_eq!((blocking.connections(), Arc::strong_count(&blocking.0)), (0, 1));
    }

    #[tokio::test]
    async fn a_server_that_cannot_be_reached_is_an_error_of_the_connection() {
        let refused = blocking(&nowhere().await, "test:refused").run(command(&["PING"])).await.unwrap_err();
        assert!(refused.to_string().contains("Connection refused"), "{refused}");
        let server = Server::new();
        let proxy = server.proxy().await;
        proxy.freeze(usize::MAX);
        let late = soon(blocking(&proxy.url, "test:late").run(command(&["PING"]))).await.unwrap_err();
        assert!(late.to_string().contains("within 2000 ms"), "{late}");
        let wrong = RedisUrl { database: 4_000_000, ..server.url.clone() };
        let wrong = blocking(&wrong, "test:wrong").run(command(&["PING"])).await.unwrap_err();
        assert!(wrong.to_string().contains("database 4000000 cannot be selected"), "{wrong}");
        let stranger = crate::redis_url::Secret::new("hunter2");
        let stranger = RedisUrl {
            login: Login { username: Some("nobody".into()), password: Some(stranger) },
            ..server.url.clone()
        };
        let stranger = blocking(&stranger, "test:stranger").run(command(&["PING"])).await.unwrap_err();
        assert!(stranger.to_string().contains("WRONGPASS") && !stranger.to_string().contains("hunter2"), "{stranger}");
        assert_eq!(stranger.code(), "ERR_CONNECTION");
    }

    /// The kernel's probes, which no test on one machine can let go unanswered: the timer shows that they are armed.
    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn a_blocked_connection_is_probed_each_second() {
        let server = Server::new();
        let blocking = blocking(&server.url, "test:keepalive");
        let waiting = run(&blocking, &["BLPOP", "keepalive:none", "0"]);
        until!(server.clients("test:keepalive").await.iter().any(|client| field(client, "cmd") == "blpop"));
        let client = server.clients("test:keepalive").await.remove(0);
        let port: u16 = field(&client, "addr").rsplit_once(':').unwrap().1.parse().unwrap();
        let local = format!(":{port:04X}");
        // Kind and hundredths of a second; another kind while the command is not acknowledged yet.
        let timer = || {
            let sockets = std::fs::read_to_string("/proc/net/tcp").unwrap();
            let mut rows = sockets.lines().map(|line| line.split_ascii_whitespace().collect::<Vec<_>>());
            let timer = rows.find(|row| row[1].ends_with(&local)).expect("the socket is listed")[5].to_owned();
            let (kind, ticks) = timer.split_once(':').map(|(kind, ticks)| (kind.to_owned(), ticks.to_owned())).unwrap();
            (kind, u32::from_str_radix(&ticks, 16).unwrap())
        };
        until!(timer().0 == "02");
        assert!(timer().1 <= 110, "{:?}", timer());
        waiting.abort();
    }
}
