//! A handle to one connection, for as long as that lives: commands go out in batches, replies are matched in order.
//!
//! What is sent on a link dies with it, and the server's life is a property of it. So no command can reach another
//! life of the server than the one that its sender was told of.

use super::outbox::{Answer, Outbox};
use super::stream::Stream;
use crate::config::REDIS_DEADLINE;
use crate::error::{Backlog, Error, Result};
use crate::redis_request::{Batch, Replies, Request, encode};
use crate::redis_value::Value;
use bytes::BytesMut;
use std::convert::Infallible;
use std::io::{ErrorKind, IoSlice};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, sleep_until};

/// Pieces that are written at once.
const PIECES_A_WRITE: usize = 64;

/// Why a link of a lane that was closed is none.
pub const CLOSED: &str = "it was closed by shutdown()";

/// What the server said of itself at the handshake.
#[derive(Debug, Clone, Default)]
pub struct ServerInfo {
    /// Names this life of the server as a primary; `None` where the server does not tell (an ACL without INFO), and for a
    /// replica.
    pub life: Option<Arc<str>>,
    /// The server tells which it is.
    pub tells: bool,
    /// `redis_version`, such as `7.0.15`.
    pub version: Option<String>,
    /// Writes are pushed on this connection, as was asked for.
    pub pushes: bool,
    /// Why they are not, though it was asked for.
    pub not_pushed: Option<String>,
}

/// When a batch leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Departure {
    /// At once, written by this thread. That saves waking another one.
    Now,
    /// In a moment, together with what others add until then.
    Soon,
}

/// A handle to a living connection. Cheap to clone; works until the connection is lost.
#[derive(Clone)]
pub struct Link(Arc<Shared>);

struct Shared {
    server: Arc<str>,
    info: ServerInfo,
    limit: usize,
    /// Owned by whoever drives the connection.
    stream: Weak<Stream>,
    sending: Mutex<Sending>,
    /// Wakes the writer: there is something that nobody else writes.
    unwritten: Notify,
    /// Wakes the watch over deadlines: there is one that comes earlier than it knew.
    sooner: Notify,
    opened: Instant,
    /// Milliseconds from `opened` until bytes last arrived; 0 if none have.
    heard: AtomicU64,
}

struct Sending {
    outbox: Outbox,
    /// Somebody writes, and goes on until nothing is left.
    writing: bool,
    /// When deadlines are looked at next.
    look: Instant,
}

impl Link {
    pub fn new(server: Arc<str>, info: ServerInfo, limit: usize, stream: &Arc<Stream>) -> Self {
        let opened = Instant::now();
        Self(Arc::new(Shared {
            server,
            info,
            limit,
            stream: Arc::downgrade(stream),
            sending: Mutex::new(Sending { outbox: Outbox::default(), writing: false, look: opened }),
            unwritten: Notify::new(),
            sooner: Notify::new(),
            opened,
            heard: AtomicU64::new(0),
        }))
    }

    /// What the server said of itself when this link was made.
    pub fn info(&self) -> &ServerInfo {
        &self.0.info
    }

    /// Replies that are still to come.
    pub fn unanswered(&self) -> usize {
        self.sending().outbox.missing()
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

    /// The same for a command whose slot is on its way to this server, which it has to be told of at once before.
    pub async fn send_asking<A: AsRef<[u8]>>(&self, arguments: &[A]) -> Result<Value> {
        let (reply, receiver) = oneshot::channel();
        let mut bytes = BytesMut::new();
        encode(&mut bytes, &["ASKING"]);
        encode(&mut bytes, arguments);
        let answered = Box::new(move |result| drop(reply.send(result)));
        let request = Request::new(bytes.len(), Replies::Array(2), false, answered);
        let batch = Batch { bytes, requests: vec![request] };
        self.send_batch(batch, Departure::Now).map_err(|(error, _)| error)?;
        let Value::Array(mut replies) = self.answer(receiver).await? else {
            return Err(Error::Internal("two commands have one reply".to_owned()));
        };
        match replies.pop() {
            Some(Value::Error(text)) => Err(Error::Reply { server: self.0.server.clone(), text }),
            Some(reply) => Ok(reply),
            None => Err(Error::Internal("two commands have no reply".to_owned())),
        }
    }

    /// Waits for the reply to a command that was submitted here.
    pub async fn answer(&self, reply: oneshot::Receiver<Result<Value>>) -> Result<Value> {
        reply.await.unwrap_or_else(|_| Err(self.broken(CLOSED)))
    }

    /// Sends one command with the next batch; the receiver gets its reply. Commands keep their order.
    pub fn submit<A: AsRef<[u8]>>(&self, arguments: &[A]) -> Result<oneshot::Receiver<Result<Value>>> {
        let (reply, receiver) = oneshot::channel();
        let mut bytes = BytesMut::new();
        encode(&mut bytes, arguments);
        // Who asks in this way decides himself what becomes of a lost command, and when he has waited enough.
        let answered = Box::new(move |result| drop(reply.send(result)));
        let batch = Batch::of(bytes, None, answered);
        // Alone it goes at once; the writer collects what comes while others are under way.
        let departure = if self.unanswered() == 0 { Departure::Now } else { Departure::Soon };
        self.send_batch(batch, departure).map_err(|(error, _)| error)?;
        Ok(receiver)
    }

    /// Sends a batch; gives it back, with the reason, if it cannot be taken.
    pub fn send_batch(&self, batch: Batch, departure: Departure) -> std::result::Result<(), (Error, Batch)> {
        let deadline = batch.deadline();
        let mut sending = self.sending();
        sending.outbox.push(batch, &self.0.server, self.0.limit)?;
        let sooner = deadline.is_some_and(|deadline| deadline < sending.look);
        let write = !std::mem::replace(&mut sending.writing, true);
        drop(sending);
        if sooner {
            self.0.sooner.notify_one();
        }
        if write && (departure == Departure::Soon || !self.write_now()) {
            self.0.unwritten.notify_one();
        }
        Ok(())
    }

    fn sending(&self) -> MutexGuard<'_, Sending> {
        self.0.sending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The error of this connection for a reason that holds no secret.
    pub fn broken(&self, reason: impl std::fmt::Display) -> Error {
        Error::Connection { server: self.0.server.clone(), reason: reason.to_string() }
    }

    /// Writes what the socket takes; `false` if the writer has to go on.
    fn write_now(&self) -> bool {
        let Some(stream) = self.0.stream.upgrade() else { return false };
        matches!(self.write_all(&stream), Ok(true))
    }

    /// Writes until nothing is left, or the socket takes no more (`false`). Called by the one that `writing` is about.
    fn write_all(&self, stream: &Stream) -> Result<bool> {
        loop {
            let pieces = {
                let mut sending = self.sending();
                let pieces = sending.outbox.offer(PIECES_A_WRITE);
                // What an encrypted stream has taken counts as written, and may have to be pushed on.
                sending.writing = !pieces.is_empty() || stream.owes();
                if !sending.writing {
                    return Ok(true);
                }
                pieces
            };
            let slices: Vec<IoSlice<'_>> = pieces.iter().map(|piece| IoSlice::new(piece)).collect();
            match stream.try_write(&slices) {
                Ok(written) => self.sending().outbox.wrote(written),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.sending().outbox.kept_back();
                    return Ok(false);
                }
                Err(error) => return Err(self.broken(error)),
            }
        }
    }

    /// Writes what others left to it, for ever.
    pub async fn write(&self, stream: &Stream) -> Result<Infallible> {
        loop {
            self.0.unwritten.notified().await;
            while !self.write_all(stream)? {
                stream.writable().await.map_err(|error| self.broken(error))?;
            }
        }
    }

    /// Takes replies that have arrived, and hands them out.
    pub fn receive(&self, replies: &mut Vec<Value>) -> Result<()> {
        let mut answers: Vec<Answer> = Vec::with_capacity(replies.len());
        let understood = {
            let mut sending = self.sending();
            replies.drain(..).all(|reply| sending.outbox.reply(&self.0.server, reply, &mut answers))
        };
        for (answered, result) in answers {
            answered(result);
        }
        if understood { Ok(()) } else { Err(self.broken("it sent a reply that nobody asked for")) }
    }

    /// Tells those whose deadline has come, for ever.
    pub async fn watch_deadlines(&self) -> Result<Infallible> {
        loop {
            let now = Instant::now();
            let mut late = Vec::new();
            let look = {
                let mut sending = self.sending();
                // What is sent later than now has a deadline that is later than this, or wakes us.
                let look = sending.outbox.late(now, &mut late).unwrap_or(now + REDIS_DEADLINE);
                sending.look = look;
                look
            };
            for (answered, patience) in late {
                answered(Err(self.missed(patience)));
            }
            tokio::select! {
                () = sleep_until(look) => {}
                () = self.0.sooner.notified() => {}
            }
        }
    }

    /// What a request is told whose time is over. One that has less time than others may have it spent in the line while the
    /// server is busy with what came before: that says nothing against the server.
    fn missed(&self, patience: Option<Duration>) -> Error {
        let server = self.0.server.clone();
        match patience {
            Some(patience) if self.silent_for() < patience / 2 => {
                Error::Overloaded { server, limit: Backlog::Calls(self.unanswered()) }
            }
            patience => Error::Timeout { server, after: patience.unwrap_or(REDIS_DEADLINE) },
        }
    }

    /// Ends the link: nothing more is taken. What may be sent on another connection is given back, for the rest this is
    /// the answer.
    pub fn end(&self, error: &Error) -> Batch {
        let (again, told) = self.sending().outbox.end(error);
        for answered in told {
            answered(Err(error.clone()));
        }
        again
    }

    /// Takes note that bytes have arrived.
    pub fn hear(&self) {
        self.0.heard.store(millis(self.0.opened.elapsed()).max(1), Relaxed);
    }

    /// How long nothing has arrived.
    pub fn silent_for(&self) -> Duration {
        self.0.opened.elapsed().saturating_sub(Duration::from_millis(self.0.heard.load(Relaxed)))
    }

    /// Whether anything has arrived since the handshake.
    pub fn has_heard(&self) -> bool {
        self.0.heard.load(Relaxed) > 0
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
