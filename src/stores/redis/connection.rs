//! A connection: its handshake, and what drives it until it is lost.

use super::decoder::{Decoder, Incoming};
use super::link::{CLOSED, Link, ServerInfo};
use super::origin::{Access, Role, Seat, Wanted};
use super::replication::{Replication, info_field};
use super::stream::Stream;
use crate::error::{Error, Result};
use crate::redis_request::{Batch, encode};
use crate::redis_value::Value;
use bytes::BytesMut;
use std::convert::Infallible;
use std::future::pending;
use std::io::IoSlice;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{sleep, timeout};

/// Time for connecting and for the handshake, each.
const CONNECT_DEADLINE: Duration = Duration::from_secs(2);

/// A link is asked for a sign of life each time after this long.
const PROBE_AFTER: Duration = Duration::from_secs(1);

/// A link on which nothing arrived for this long while a probe is out is dead: 3 s of silence in all, as promised.
const PROBE_PATIENCE: Duration = Duration::from_secs(2);

/// Pushes that are the reply to a command: it has no other one, unless it is refused.
const CONFIRMATIONS: &[&str] = &["subscribe", "psubscribe", "unsubscribe", "punsubscribe"];

/// Bytes asked of the socket at once: the replies to some hundred small commands.
const READ_CHUNK: usize = 64 * 1024;

/// Why a connection ended, and what may be sent again on another one.
pub struct Lost {
    pub error: Error,
    pub again: Batch,
}

/// A connection that has shaken hands and waits to be driven.
pub struct Connection {
    link: Link,
    ending: EndOnDrop,
    stream: Arc<Stream>,
    decoder: Decoder,
    ears: Arc<dyn Ears>,
    probe: Probe,
    role: Role,
}

/// How the server is asked for a sign of life.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Probe {
    /// It is left to the kernel to find out whether it is there.
    None,
    Ping,
    /// It is also asked whether it still is what it was.
    Replication(Replication),
}

/// Who hears what the server says without being asked, and of signs of life. Called on the task that drives the connection, in
/// the order in which things arrive: a reply that came before a push was handed out before it.
pub trait Ears: Send + Sync {
    /// A push. Confirmations of subscriptions are not among them: those are replies.
    fn pushed(&self, _: Vec<Value>) {}

    /// A probe is about to be sent.
    fn probing(&self) {}

    /// The probe was answered. Whatever was pushed before the server saw it has been handed out.
    fn alive(&self) {}
}

impl<F: Fn(Vec<Value>) + Send + Sync> Ears for F {
    fn pushed(&self, items: Vec<Value>) {
        self(items);
    }
}

/// How a connection begins.
pub struct Introduction<'a> {
    pub seat: &'a Seat,
    pub access: &'a Access,
    /// Names the server in errors.
    pub server: &'a Arc<str>,
    /// What the server has to be.
    pub role: Role,
    pub wanted: Wanted<'a>,
}

impl Connection {
    /// Connects, introduces itself and learns who the server is.
    ///
    /// # Errors
    /// [`Error::Connection`] with the cause: refused, too slow, bad credentials, too old a server.
    pub async fn open(introduction: Introduction<'_>) -> Result<Self> {
        let Introduction { seat, access, server, role, wanted } = introduction;
        let fault = |reason: String| Error::Connection { server: server.clone(), reason };
        let late = |what: &str| fault(format!("no {what} within {} ms", CONNECT_DEADLINE.as_millis()));
        let connected = timeout(CONNECT_DEADLINE, Stream::connect(&seat.address, access.tls.as_deref())).await;
        let stream = connected.map_err(|_| late("connection"))?.map_err(fault)?;
        let mut decoder = Decoder::default();
        let (info, replication) = timeout(CONNECT_DEADLINE, shake_hands(&stream, &mut decoder, &introduction))
            .await
            .map_err(|_| match (&access.tls, late("answer to the handshake")) {
                (None, Error::Connection { server, reason }) => {
                    // Some that speak TLS wait in silence for its first message.
                    let reason = format!("{reason}; if this port is one for TLS, use rediss:");
                    Error::Connection { server, reason }
                }
                (_, late) => late,
            })?
            .map_err(fault)?;
        let stream = Arc::new(stream);
        let probe = match replication {
            Some(replication) if wanted.pushes.is_some() => Probe::Replication(replication),
            _ => Probe::Ping,
        };
        let link = Link::new(server.clone(), info, wanted.limit, &stream);
        let ending = EndOnDrop(link.clone());
        Ok(Self { link, ending, stream, decoder, ears: Arc::new(|_: Vec<Value>| {}), probe, role })
    }

    /// Tells `ears` of pushes and signs of life.
    pub fn hearing(self, ears: Arc<dyn Ears>) -> Self {
        Self { ears, ..self }
    }

    /// Leaves it to the kernel to find out whether the server is there: a command may block the connection.
    pub fn unprobed(self) -> Self {
        Self { probe: Probe::None, ..self }
    }

    /// A handle that others may send on while [`Connection::drive`] runs.
    pub fn link(&self) -> Link {
        self.link.clone()
    }

    /// Moves bytes until the connection is lost, and returns why. Dropping the future closes the connection.
    pub async fn drive(self) -> Lost {
        self.drive_until(pending()).await
    }

    /// The same until `end` resolves with a reason to give it up.
    pub async fn drive_until(self, end: impl Future<Output = Error>) -> Lost {
        let Self { link, ending, stream, decoder, ears, probe, role } = self;
        let error = tokio::select! {
            Err(error) = read(&link, &stream, decoder, &*ears, role) => error,
            Err(error) = link.write(&stream) => error,
            Err(error) = watch(&link, &*ears, &probe), if probe != Probe::None => error,
            Err(error) = link.watch_deadlines() => error,
            error = end => error,
        };
        let again = link.end(&error);
        drop(ending);
        Lost { error, again }
    }
}

/// A connection that is dropped, because its lane was closed, must not leave callers waiting: also one that was never driven.
struct EndOnDrop(Link);

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        let closed = self.0.broken(CLOSED);
        self.0.end(&closed).settle(&Err(closed));
    }
}

/// HELLO, SELECT, INFO and CLIENT TRACKING in one write. The error is a reason without secrets.
async fn shake_hands(
    stream: &Stream,
    decoder: &mut Decoder,
    introduction: &Introduction<'_>,
) -> std::result::Result<(ServerInfo, Option<Replication>), String> {
    let Introduction { seat, access, role, wanted, .. } = *introduction;
    let database = access.database.to_string();
    let mut hello = vec!["HELLO", "3"];
    if let Some(password) = &access.login.password {
        hello.extend(["AUTH", access.login.username.as_deref().unwrap_or("default"), password.reveal()]);
    }
    hello.extend(["SETNAME", wanted.name]);
    let mut bytes = BytesMut::new();
    encode(&mut bytes, &hello);
    if role != Role::Sentinel {
        encode(&mut bytes, &["SELECT", &database]);
    }
    encode(&mut bytes, &["INFO", "server"]);
    encode(&mut bytes, &["INFO", "replication"]);
    if let Some(prefix) = wanted.pushes {
        // By prefix, and of everybody's writes, this connection's own included: that does not depend on what was read here
        // before.
        encode(&mut bytes, &["CLIENT", "TRACKING", "ON", "BCAST", "PREFIX", prefix]);
    }
    if role == Role::Replica {
        // In a cluster it would send us to the primary otherwise; elsewhere it refuses, which changes nothing.
        encode(&mut bytes, &["READONLY"]);
    }
    write(stream, &bytes).await.map_err(|error| error.to_string())?;

    match next_reply(stream, decoder).await? {
        // Not in its own words: it repeats what it does not understand, and that has the password in it.
        Value::Error(text) if text.starts_with("NOPROTO") || text.contains("unknown command") => {
            return Err("the server speaks no RESP3 (HELLO); Redis 6.2 or later is needed".to_owned());
        }
        Value::Error(text) => return Err(text),
        _ => {}
    }
    if role != Role::Sentinel
        && let Value::Error(text) = next_reply(stream, decoder).await?
    {
        return Err(format!("database {database} cannot be selected ({text})"));
    }
    let info = next_reply(stream, decoder).await?;
    let replication = Replication::of(&next_reply(stream, decoder).await?);
    if role == Role::Primary && replication.as_ref().is_some_and(Replication::is_replica) {
        return Err("it is a replica".to_owned());
    }
    let not_pushed = match wanted.pushes {
        None => None,
        Some(_) => match next_reply(stream, decoder).await? {
            Value::Error(text) => Some(text),
            _ => None,
        },
    };
    if role == Role::Replica {
        next_reply(stream, decoder).await?;
    }
    let run_id = info_field(&info, "run_id");
    let life = match (run_id, &replication) {
        (Some(run_id), Some(replication)) => replication.life(run_id, seat.term),
        (run_id, _) => run_id.map(Arc::from),
    };
    let info = ServerInfo {
        life,
        tells: run_id.is_some(),
        version: info_field(&info, "redis_version").map(str::to_owned),
        pushes: wanted.pushes.is_some() && not_pushed.is_none(),
        not_pushed,
    };
    Ok((info, replication))
}

async fn write(stream: &Stream, mut bytes: &[u8]) -> std::io::Result<()> {
    while !bytes.is_empty() {
        stream.writable().await?;
        match stream.try_write(&[IoSlice::new(bytes)]) {
            Ok(written) => bytes = &bytes[written..],
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

async fn next_reply(stream: &Stream, decoder: &mut Decoder) -> std::result::Result<Value, String> {
    loop {
        match decoder.next() {
            Ok(Some(Incoming::Reply(value))) => return Ok(value),
            Ok(Some(Incoming::Push(_))) => {}
            Ok(None) => match stream.read(decoder.buffer()).await {
                Ok(0) => return Err("the server closed it during the handshake".to_owned()),
                Ok(_) => {}
                Err(error) => return Err(error.to_string()),
            },
            Err(malformed) => return Err(malformed.to_string()),
        }
    }
}

/// Reads replies. All that arrived at once are handed out at once, so that JavaScript is woken once for them.
async fn read(link: &Link, stream: &Stream, mut decoder: Decoder, ears: &dyn Ears, role: Role) -> Result<Infallible> {
    let mut replies = Vec::new();
    loop {
        let understood = loop {
            match decoder.next() {
                Ok(Some(Incoming::Reply(reply))) => replies.push(reply),
                Ok(Some(Incoming::Push(items))) if is_confirmation(&items) => replies.push(Value::Null),
                Ok(Some(Incoming::Push(items))) => {
                    link.receive(&mut replies)?;
                    ears.pushed(items);
                }
                Ok(None) => break Ok(()),
                Err(malformed) => break Err(link.broken(malformed)),
            }
        };
        let demoted = role == Role::Primary && replies.iter().any(refuses_writes);
        link.receive(&mut replies)?;
        understood?;
        if demoted {
            return Err(link.broken("it is a replica now"));
        }
        decoder.buffer().reserve(READ_CHUNK);
        match stream.read(decoder.buffer()).await {
            Ok(0) => return Err(link.broken("the server closed it")),
            Ok(_) => link.hear(),
            Err(error) => return Err(link.broken(error)),
        }
    }
}

fn refuses_writes(reply: &Value) -> bool {
    matches!(reply, Value::Error(text) if text.starts_with("READONLY"))
}

fn is_confirmation(items: &[Value]) -> bool {
    items.first().and_then(Value::as_str).is_some_and(|kind| CONFIRMATIONS.contains(&kind))
}

fn silence(link: &Link) -> Error {
    link.broken(format!("nothing arrived for {} ms", link.silent_for().as_millis()))
}

/// Sends a probe again and again, and declares the link dead if nothing arrives after one, or if something else is its
/// answer: then every later answer would be somebody else's, too.
async fn watch(link: &Link, ears: &dyn Ears, probe: &Probe) -> Result<Infallible> {
    let question: &[&str] = if let Probe::Replication(_) = probe { &["INFO", "replication"] } else { &["PING"] };
    loop {
        sleep(PROBE_AFTER).await;
        ears.probing();
        // A full outbox needs no probe: its commands wait for an answer as well.
        let Ok(mut answer) = link.submit(question) else {
            if link.silent_for() < PROBE_AFTER + PROBE_PATIENCE {
                continue;
            }
            return Err(silence(link));
        };
        let mut patience = PROBE_PATIENCE;
        let answer = loop {
            match timeout(patience, &mut answer).await {
                Ok(answer) => break answer,
                // A long reply may be arriving slowly before it.
                Err(_) => match PROBE_PATIENCE.checked_sub(link.silent_for()) {
                    Some(rest) if !rest.is_zero() => patience = rest,
                    _ => return Err(silence(link)),
                },
            }
        };
        match (answer, probe) {
            (Ok(Ok(Value::Text(text))), Probe::Ping) if text == "PONG" => ears.alive(),
            (Ok(Ok(info)), Probe::Replication(known)) if Replication::of(&info).as_ref() == Some(known) => ears.alive(),
            (Ok(Ok(info)), Probe::Replication(_)) if Replication::of(&info).is_some() => {
                return Err(link.broken("it is not the server that it was: it was demoted or promoted"));
            }
            // This user may not ask. That is an answer, too.
            (Ok(Err(Error::Reply { .. })), _) => ears.alive(),
            (Ok(Err(lost)), _) => return Err(lost),
            _ => return Err(link.broken("its replies are out of step: a probe got another command's")),
        }
    }
}

#[cfg(test)]
mod tests {
    //! Against servers that misbehave as no real one would on demand.

    use super::*;
    use crate::redis_url::{Address, Login, Secret};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio::task::JoinHandle;
    use tokio::time::Instant;

    const HELLO: &[u8] =
        b"%1\r\n+proto\r\n:3\r\n+OK\r\n$36\r\nredis_version:7.0.0\r\nrun_id:life-one\r\n$30\r\nrole:master\r\nmaster_replid:abc\r\n";

    /// A server that answers each time something arrives with the next of `answers`, and closes after the last.
    async fn server(answers: Vec<&'static [u8]>) -> (Address, JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = Address::Tcp { host: "127.0.0.1".to_owned(), port: listener.local_addr().unwrap().port() };
        let serving = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut bytes = [0; 4096];
            for answer in answers {
                assert!(stream.read(&mut bytes).await.unwrap() > 0);
                stream.write_all(answer).await.unwrap();
            }
        });
        (address, serving)
    }

    async fn open(address: &Address) -> Result<Connection> {
        let login = Login { username: None, password: Some(Secret::new("secret")) };
        let access = Access { login, ..Access::default() };
        let wanted = Wanted { name: "test", limit: 2, pushes: None };
        let (server, role) = (&"Redis".into(), Role::Any);
        let seat = &Seat { address: address.clone(), term: 0 };
        Connection::open(Introduction { seat, access: &access, server, role, wanted }).await
    }

    async fn driven(answers: Vec<&'static [u8]>) -> (Link, JoinHandle<Lost>) {
        let (url, _) = server(answers).await;
        let connection = open(&url).await.unwrap();
        (connection.link(), tokio::spawn(connection.drive()))
    }

    #[tokio::test]
    async fn the_handshake_tells_which_life_of_the_server_this_is() {
        let (link, _) = driven(vec![HELLO]).await;
        assert_eq!(link.info().life.as_deref(), Some("life-one:abc"));
        assert_eq!(link.info().version.as_deref(), Some("7.0.0"));
    }

    #[tokio::test]
    async fn a_handshake_that_fails_says_why_and_shows_no_password() {
        for (answer, reason) in [
            (&b"-ERR unknown command 'HELLO'\r\n"[..], "Redis 6.2 or later"),
            (
                b"-ERR unknown command `HELLO`, with args beginning with: `3`, `AUTH`, `default`, `secret`, \r\n",
                "Redis 6.2 or later",
            ),
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
            assert_eq!(driver.await.unwrap().error.code(), "ERR_CONNECTION");
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
        let address = Address::Tcp { host: "127.0.0.1".to_owned(), port: listener.local_addr().unwrap().port() };
        let client = async { open(&address).await.unwrap() };
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
    async fn a_link_whose_probe_gets_another_answer_is_out_of_step_and_ends() {
        let (_, driver) = driven(vec![HELLO, b"+OTHER\r\n", b""]).await;
        let lost = driver.await.unwrap().error.to_string();
        assert!(lost.contains("out of step"), "{lost}");
    }

    #[tokio::test]
    async fn a_closed_driver_leaves_nobody_waiting() {
        let (link, driver) = driven(vec![HELLO, b""]).await;
        let waiting = link.submit(&["GET", "k"]).unwrap();
        driver.abort();
        assert_eq!(waiting.await.unwrap().unwrap_err().code(), "ERR_CONNECTION");
    }
}
