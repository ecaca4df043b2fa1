//! One connection, from its handshake to its loss: commands go out in batches, replies are matched in order.
//!
//! What is sent on a link dies with it, and the server's run id is a property of it. So no command can reach another
//! life of the server than the one that its sender was told of.

use super::decoder::{Decoder, Incoming};
use super::encoder::encode;
use crate::error::{Error, Result};
use crate::redis_url::{Address, RedisUrl};
use crate::redis_value::Value;
use bytes::BytesMut;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, sleep, timeout};

/// Time for connecting and for the handshake, each.
const CONNECT_DEADLINE: Duration = Duration::from_secs(2);

/// A link on which nothing arrived for this long is asked for a sign of life.
const PROBE_AFTER: Duration = Duration::from_secs(1);

/// A link on which nothing arrived for this long after the probe is dead: 3 s of silence in all, as promised.
const PROBE_PATIENCE: Duration = Duration::from_secs(2);

/// Bytes asked of the socket at once. A session copy is about 600.
const READ_CHUNK: usize = 16 * 1024;

/// Why a link of a lane that was closed is none.
pub const CLOSED: &str = "it was closed by shutdown()";

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// What the server said of itself at the handshake.
#[derive(Debug, Clone, Default)]
pub struct ServerInfo {
    /// Names this life of the server; `None` where the server does not tell (an ACL without INFO).
    pub run_id: Option<Arc<str>>,
    /// `redis_version`, such as `7.0.15`.
    pub version: Option<String>,
}

/// A handle to a living connection. Cheap to clone; works until the connection is lost.
#[derive(Clone)]
pub struct Link(Arc<Shared>);

struct Shared {
    server: Arc<str>,
    info: ServerInfo,
    limit: usize,
    outbox: Mutex<Outbox>,
    /// Wakes the writer when the outbox is no longer empty.
    filled: Notify,
    opened: Instant,
    /// Milliseconds from `opened` until bytes last arrived.
    heard: AtomicU64,
}

#[derive(Default)]
struct Outbox {
    bytes: BytesMut,
    /// Who waits for a reply, oldest first: Redis answers in order.
    waiting: VecDeque<oneshot::Sender<Result<Value>>>,
    lost: Option<Error>,
}

impl Link {
    /// What the server said of itself when this link was made.
    pub fn info(&self) -> &ServerInfo {
        &self.0.info
    }

    /// Commands without an answer yet.
    pub fn unanswered(&self) -> usize {
        self.outbox().waiting.len()
    }

    /// Sends one command with the next batch and waits for its reply.
    ///
    /// # Errors
    /// [`Error::Reply`] for an error reply; [`Error::Connection`] if the link is lost before the reply, in which case
    /// the command may or may not have been executed; [`Error::Overloaded`] if too many commands are unanswered.
    pub async fn send<A: AsRef<[u8]>>(&self, arguments: &[A]) -> Result<Value> {
        let reply = self.submit(arguments)?;
        self.answer(reply).await
    }

    /// Waits for the reply to a command that was submitted here.
    pub async fn answer(&self, reply: oneshot::Receiver<Result<Value>>) -> Result<Value> {
        reply.await.unwrap_or_else(|_| Err(self.0.broken(CLOSED)))
    }

    /// Puts a command into the outbox; the receiver gets its reply. Commands keep their order.
    pub fn submit<A: AsRef<[u8]>>(&self, arguments: &[A]) -> Result<oneshot::Receiver<Result<Value>>> {
        let (reply, receiver) = oneshot::channel();
        let mut outbox = self.outbox();
        if let Some(lost) = &outbox.lost {
            return Err(lost.clone());
        }
        if outbox.waiting.len() >= self.0.limit {
            return Err(Error::Overloaded { server: self.0.server.clone(), limit: self.0.limit });
        }
        let idle = outbox.bytes.is_empty();
        encode(&mut outbox.bytes, arguments);
        outbox.waiting.push_back(reply);
        drop(outbox);
        if idle {
            self.0.filled.notify_one();
        }
        Ok(receiver)
    }

    fn outbox(&self) -> MutexGuard<'_, Outbox> {
        self.0.outbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the link: everything unanswered fails, nothing more is accepted.
    fn end(&self, error: &Error) {
        let mut outbox = self.outbox();
        // The first reason is the one that counts.
        let error = outbox.lost.get_or_insert_with(|| error.clone()).clone();
        outbox.bytes.clear();
        let waiting = std::mem::take(&mut outbox.waiting);
        drop(outbox);
        for reply in waiting {
            let _ = reply.send(Err(error.clone()));
        }
    }

    fn silent_for(&self) -> Duration {
        self.0.opened.elapsed().saturating_sub(Duration::from_millis(self.0.heard.load(Relaxed)))
    }
}

impl Shared {
    fn broken(&self, reason: impl std::fmt::Display) -> Error {
        Error::Connection { server: self.server.clone(), reason: reason.to_string() }
    }
}

/// A connection that has shaken hands and waits to be driven.
pub struct Connection {
    link: Link,
    ending: EndOnDrop,
    stream: Box<dyn Stream>,
    decoder: Decoder,
}

impl Connection {
    /// Connects, introduces itself as `name` and learns who the server is.
    ///
    /// # Errors
    /// [`Error::Connection`] with the cause: refused, too slow, bad credentials, too old a server.
    pub async fn open(url: &RedisUrl, server: &Arc<str>, name: &str, limit: usize) -> Result<Self> {
        let fault = |reason: String| Error::Connection { server: server.clone(), reason };
        let late = || fault(format!("no connection within {} ms", CONNECT_DEADLINE.as_millis()));
        let mut stream = timeout(CONNECT_DEADLINE, connect(&url.address))
            .await
            .map_err(|_| late())?
            .map_err(|error| fault(error.to_string()))?;
        let mut decoder = Decoder::default();
        let info = timeout(CONNECT_DEADLINE, shake_hands(stream.as_mut(), &mut decoder, url, name))
            .await
            .map_err(|_| fault(format!("no answer to the handshake within {} ms", CONNECT_DEADLINE.as_millis())))?
            .map_err(fault)?;
        let shared = Shared {
            server: server.clone(),
            info,
            limit,
            outbox: Mutex::default(),
            filled: Notify::new(),
            opened: Instant::now(),
            heard: AtomicU64::new(0),
        };
        let link = Link(Arc::new(shared));
        Ok(Self { ending: EndOnDrop(link.clone()), link, stream, decoder })
    }

    /// A handle that others may send on while [`Connection::drive`] runs.
    pub fn link(&self) -> Link {
        self.link.clone()
    }

    /// Moves bytes until the connection is lost, and returns why. Dropping the future closes the connection.
    pub async fn drive(self) -> Error {
        let Self { link, ending: _ending, stream, decoder } = self;
        let (reader, writer) = tokio::io::split(stream);
        let lost = tokio::select! {
            Err(error) = read(&link, reader, decoder) => error,
            Err(error) = write(&link, writer) => error,
            Err(error) = watch(&link) => error,
        };
        link.end(&lost);
        lost
    }
}

/// A driver that is dropped, because its lane was closed, must not leave callers waiting.
struct EndOnDrop(Link);

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        let closed = self.0.0.broken(CLOSED);
        self.0.end(&closed);
    }
}

async fn connect(address: &Address) -> std::io::Result<Box<dyn Stream>> {
    match address {
        Address::Tcp { host, port } => {
            let stream = TcpStream::connect((host.as_str(), *port)).await?;
            stream.set_nodelay(true)?;
            Ok(Box::new(stream))
        }
        Address::Unix { path } => Ok(Box::new(UnixStream::connect(path).await?)),
    }
}

/// HELLO, SELECT and INFO in one write. The error is a reason without secrets.
async fn shake_hands(
    stream: &mut dyn Stream,
    decoder: &mut Decoder,
    url: &RedisUrl,
    name: &str,
) -> std::result::Result<ServerInfo, String> {
    let database = url.database.to_string();
    let mut hello = vec!["HELLO", "3"];
    if let Some(password) = &url.password {
        hello.extend(["AUTH", url.username.as_deref().unwrap_or("default"), password.reveal()]);
    }
    hello.extend(["SETNAME", name]);
    let mut bytes = BytesMut::new();
    encode(&mut bytes, &hello);
    encode(&mut bytes, &["SELECT", &database]);
    encode(&mut bytes, &["INFO", "server"]);
    stream.write_all(&bytes).await.map_err(|error| error.to_string())?;

    match next_reply(stream, decoder).await? {
        Value::Error(text) if text.starts_with("NOPROTO") || text.contains("unknown command") => {
            return Err(format!("the server speaks no RESP3 ({text}); Redis 6.2 or later is needed"));
        }
        Value::Error(text) => return Err(text),
        _ => {}
    }
    if let Value::Error(text) = next_reply(stream, decoder).await? {
        return Err(format!("database {database} cannot be selected ({text})"));
    }
    let info = next_reply(stream, decoder).await?;
    let field = |name: &str| {
        let lines = info.as_str().unwrap_or_default().lines();
        lines.filter_map(|line| line.split_once(':')).find(|(key, _)| *key == name).map(|(_, value)| value.trim())
    };
    Ok(ServerInfo {
        run_id: field("run_id").filter(|id| !id.is_empty()).map(Arc::from),
        version: field("redis_version").map(str::to_owned),
    })
}

async fn next_reply(stream: &mut dyn Stream, decoder: &mut Decoder) -> std::result::Result<Value, String> {
    loop {
        match decoder.next() {
            Ok(Some(Incoming::Reply(value))) => return Ok(value),
            Ok(Some(Incoming::Push(_))) => {}
            Ok(None) => match stream.read_buf(decoder.buffer()).await {
                Ok(0) => return Err("the server closed it during the handshake".to_owned()),
                Ok(_) => {}
                Err(error) => return Err(error.to_string()),
            },
            Err(malformed) => return Err(malformed.to_string()),
        }
    }
}

async fn read(link: &Link, mut reader: impl AsyncRead + Unpin, mut decoder: Decoder) -> Result<Infallible> {
    let shared = &link.0;
    loop {
        while let Some(incoming) = decoder.next().map_err(|malformed| shared.broken(malformed))? {
            let Incoming::Reply(value) = incoming else { continue };
            let Some(waiting) = link.outbox().waiting.pop_front() else {
                return Err(shared.broken("it sent a reply that nobody asked for"));
            };
            let reply = match value {
                Value::Error(text) => Err(Error::Reply { server: shared.server.clone(), text }),
                value => Ok(value),
            };
            // The caller may have given up; the reply was still its own.
            let _ = waiting.send(reply);
        }
        decoder.buffer().reserve(READ_CHUNK);
        match reader.read_buf(decoder.buffer()).await {
            Ok(0) => return Err(shared.broken("the server closed it")),
            Ok(_) => shared.heard.store(millis(shared.opened.elapsed()), Relaxed),
            Err(error) => return Err(shared.broken(error)),
        }
    }
}

async fn write(link: &Link, mut writer: impl AsyncWrite + Unpin) -> Result<Infallible> {
    let shared = &link.0;
    let mut batch = BytesMut::new();
    loop {
        std::mem::swap(&mut link.outbox().bytes, &mut batch);
        if batch.is_empty() {
            shared.filled.notified().await;
            continue;
        }
        writer.write_all(&batch).await.map_err(|error| shared.broken(error))?;
        batch.clear();
    }
}

/// Sends a probe on a silent link, and declares it dead if nothing arrives after it.
async fn watch(link: &Link) -> Result<Infallible> {
    loop {
        let silent = link.silent_for();
        if silent < PROBE_AFTER {
            sleep(PROBE_AFTER - silent).await;
            continue;
        }
        let before = link.0.heard.load(Relaxed);
        // A full outbox needs no probe: its commands wait for an answer as well.
        let _ = link.submit(&["PING"]);
        sleep(PROBE_PATIENCE).await;
        if link.0.heard.load(Relaxed) == before {
            return Err(link.0.broken(format!("nothing arrived for {} ms", link.silent_for().as_millis())));
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    //! Against servers that misbehave as no real one would on demand.

    use super::*;
    use tokio::net::TcpListener;
    use tokio::task::JoinHandle;

    const HELLO: &[u8] = b"%1\r\n+proto\r\n:3\r\n+OK\r\n$36\r\nredis_version:7.0.0\r\nrun_id:life-one\r\n";

    /// A server that answers each time something arrives with the next of `answers`, and closes after the last.
    async fn server(answers: Vec<&'static [u8]>) -> (RedisUrl, JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("redis://:secret@{}", listener.local_addr().unwrap());
        let serving = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut bytes = [0; 4096];
            for answer in answers {
                assert!(stream.read(&mut bytes).await.unwrap() > 0);
                stream.write_all(answer).await.unwrap();
            }
        });
        (RedisUrl::parse("URL", &url).unwrap(), serving)
    }

    async fn open(url: &RedisUrl) -> Result<Connection> {
        Connection::open(url, &"Redis".into(), "test", 2).await
    }

    async fn driven(answers: Vec<&'static [u8]>) -> (Link, JoinHandle<Error>) {
        let (url, _) = server(answers).await;
        let connection = open(&url).await.unwrap();
        (connection.link(), tokio::spawn(connection.drive()))
    }

    #[tokio::test]
    async fn the_handshake_tells_which_life_of_the_server_this_is() {
        let (link, _) = driven(vec![HELLO]).await;
        assert_eq!(link.info().run_id.as_deref(), Some("life-one"));
        assert_eq!(link.info().version.as_deref(), Some("7.0.0"));
    }

    #[tokio::test]
    async fn a_handshake_that_fails_says_why_and_shows_no_password() {
        for (answer, reason) in [
            (&b"-ERR unknown command 'HELLO'\r\n"[..], "Redis 6.2 or later"),
            (b"-WRONGPASS invalid username-password pair or user is disabled.\r\n", "WRONGPASS"),
            (b"%0\r\n-ERR DB index is out of range\r\n", "database 0 cannot be selected"),
            (b"HTTP/1.1 400 Bad Request\r\n\r\n", "not RESP3"),
            (b"%1\r\n+pro", "closed it during the handshake"),
        ] {
            let (url, _) = server(vec![answer]).await;
            let error = open(&url).await.err().unwrap();
            assert_eq!(error.code(), "ERR_CONNECTION");
            assert!(error.to_string().contains(reason) && !error.to_string().contains("secret"), "{error}");
        }
    }

    #[tokio::test]
    async fn what_is_unanswered_when_the_link_breaks_fails_once_and_nothing_more_is_taken() {
        for broken in [&b"$5\r\nab"[..], b"?", b"+OK\r\n+nobody asked\r\n"] {
            let (link, driver) = driven(vec![HELLO, broken]).await;
            let answer = link.send(&["GET", "k"]).await;
            assert_eq!(driver.await.unwrap().code(), "ERR_CONNECTION");
            assert!(answer.is_ok() == broken.starts_with(b"+OK"));
            assert_eq!(link.send(&["GET", "k"]).await.unwrap_err().code(), "ERR_CONNECTION");
        }
    }

    #[tokio::test]
    async fn replies_go_to_those_who_asked_in_order_and_pushes_to_nobody() {
        let (link, _) = driven(vec![HELLO, b">2\r\n+invalidate\r\n_\r\n:1\r\n-ERR two\r\n"]).await;
        let (one, two) = (link.submit(&["A"]).unwrap(), link.submit(&["B"]).unwrap());
        assert_eq!(link.submit(&["C"]).unwrap_err().code(), "ERR_OVERLOADED", "the limit is two");
        assert_eq!(one.await.unwrap().unwrap(), Value::Int(1));
        assert_eq!(two.await.unwrap().unwrap_err().code(), "ERR_REPLY");
    }

    #[tokio::test]
    async fn a_caller_who_gave_up_leaves_his_reply_behind() {
        let (link, _) = driven(vec![HELLO, b":1\r\n:2\r\n"]).await;
        drop(link.submit(&["A"]).unwrap());
        assert_eq!(link.send(&["B"]).await.unwrap(), Value::Int(2));
    }

    #[tokio::test]
    async fn a_silent_server_is_given_up_after_three_seconds() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = RedisUrl::parse("URL", &format!("redis://{}", listener.local_addr().unwrap())).unwrap();
        let client = async { open(&url).await.unwrap() };
        let (connection, (mut silent, _)) = tokio::join!(client, async {
            let (mut stream, peer) = listener.accept().await.unwrap();
            stream.write_all(HELLO).await.unwrap();
            (stream, peer)
        });
        let link = connection.link();
        tokio::time::pause();
        let driver = tokio::spawn(connection.drive());
        let begun = Instant::now();
        let unanswered = link.send(&["GET", "k"]).await.unwrap_err();
        assert!(unanswered.to_string().contains("nothing arrived for 3"), "{unanswered}");
        assert_eq!(begun.elapsed().as_secs(), 3);
        driver.await.unwrap();
        let mut bytes = Vec::new();
        silent.read_to_end(&mut bytes).await.unwrap();
        assert!(bytes.ends_with(b"*1\r\n$4\r\nPING\r\n"), "it was asked for a sign of life");
    }

    #[tokio::test]
    async fn a_closed_driver_leaves_nobody_waiting() {
        let (link, driver) = driven(vec![HELLO, b""]).await;
        let waiting = link.submit(&["GET", "k"]).unwrap();
        driver.abort();
        assert_eq!(waiting.await.unwrap().unwrap_err().code(), "ERR_CONNECTION");
    }
}
