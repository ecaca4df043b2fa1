//! A connection that is used for one thing: subscriptions, or one command after the other. Dropping it closes it.

use super::connection::Lost;
use super::link::{CLOSED, Link};
use super::origin::{Origin, Wanted};
use super::subscriber::{Message, Topic};
use crate::config::{MAX_IN_FLIGHT, REDIS_DEADLINE};
use crate::error::{Error, Result};
use crate::redis_url::Address;
use crate::redis_value::Value;
use bytes::Bytes;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout, timeout_at};

/// Time for connecting and for the handshake, together.
const CONNECT_DEADLINE: Duration = Duration::from_secs(2);

/// Who gets the messages of subscriptions, in their order.
pub type Sink = Box<dyn Fn(Topic, Message) + Send + Sync>;

/// What a connection is for.
pub enum Purpose {
    Subscriptions(Sink),
    /// Commands that may block.
    Commands,
    /// Commands that are answered at once.
    Questions,
}

/// A living connection.
pub struct Wire {
    server: Arc<str>,
    address: Address,
    link: Link,
    lost: watch::Receiver<Option<Error>>,
    driver: AbortHandle,
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Wire {
    /// Connects within 2 s, and introduces itself as `name`.
    ///
    /// # Errors
    /// [`Error::Connection`] with the cause: refused, too slow, bad credentials.
    pub async fn open(origin: &Origin, name: &str, purpose: Purpose) -> Result<Self> {
        let late = || Error::Connection {
            server: origin.server().clone(),
            reason: format!("no connection within {} ms", CONNECT_DEADLINE.as_millis()),
        };
        timeout(CONNECT_DEADLINE, Self::connect(origin, name, purpose)).await.map_err(|_| late())?
    }

    async fn connect(origin: &Origin, name: &str, purpose: Purpose) -> Result<Self> {
        let wanted = Wanted { name, limit: MAX_IN_FLIGHT, pushes: None };
        let (connection, seat) = origin.open(wanted).await?;
        let connection = match purpose {
            Purpose::Subscriptions(sink) => connection.hearing(Arc::new(move |push| hand_on(push, &sink))),
            Purpose::Commands => connection.unprobed(),
            Purpose::Questions => connection,
        };
        let link = connection.link();
        let (tell, lost) = watch::channel(None);
        let (here, there) = (origin.clone(), seat.clone());
        let driver = tokio::spawn(async move {
            // Whoever waits here decides himself what becomes of a lost command.
            let Lost { error, again } = connection.drive_until(here.moved(&there)).await;
            again.settle(&Err(error.clone()));
            tell.send_replace(Some(error));
        });
        Ok(Self { server: origin.server().clone(), address: seat.address, link, lost, driver: driver.abort_handle() })
    }

    /// Where the server is.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Sends one command, once, and waits for its reply for as long as it takes.
    ///
    /// # Errors
    /// [`Error::Reply`] for an error reply; [`Error::Connection`] if the connection is lost before the reply.
    pub async fn command(&self, command: &[Bytes]) -> Result<Value> {
        self.link.send(command).await
    }

    /// Subscribes to all of `topics`, and returns those that the server refuses, each with its error.
    ///
    /// # Errors
    /// [`Error::Timeout`] if there was no answer, which leaves open what has become of them; [`Error::Connection`].
    pub async fn subscribe(&self, topics: &[Topic]) -> Result<Vec<(Topic, Error)>> {
        let mut replies = Vec::with_capacity(topics.len());
        for topic in topics {
            let command = match topic {
                Topic::Channel(channel) => ["SUBSCRIBE", channel],
                Topic::Pattern(pattern) => ["PSUBSCRIBE", pattern],
            };
            replies.push(self.link.submit(&command)?);
        }
        let (deadline, mut refused) = (Instant::now() + REDIS_DEADLINE, Vec::new());
        for (topic, reply) in topics.iter().zip(replies) {
            match timeout_at(deadline, self.link.answer(reply)).await {
                Ok(Ok(_)) => {}
                Ok(Err(error @ Error::Reply { .. })) => refused.push((topic.clone(), error)),
                Ok(Err(error)) => return Err(error),
                Err(_) => return Err(self.late()),
            }
        }
        Ok(refused)
    }

    /// Ends the subscription to `topic`. Errors as in [`Wire::subscribe`].
    pub async fn unsubscribe(&self, topic: &Topic) -> Result<()> {
        let command = match topic {
            Topic::Channel(channel) => ["UNSUBSCRIBE", channel],
            Topic::Pattern(pattern) => ["PUNSUBSCRIBE", pattern],
        };
        match timeout(REDIS_DEADLINE, self.link.send(&command)).await {
            Ok(Ok(_) | Err(Error::Reply { .. })) => Ok(()),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(self.late()),
        }
    }

    /// Waits until the connection is lost, which it also is when the server does not answer to probes.
    pub async fn lost(&self) -> Error {
        let mut lost = self.lost.clone();
        let seen = lost.wait_for(Option::is_some).await.ok().and_then(|seen| seen.clone());
        seen.unwrap_or_else(|| Error::Connection { server: self.server.clone(), reason: CLOSED.to_owned() })
    }

    /// True if the connection is not lost yet.
    pub fn is_open(&self) -> bool {
        self.lost.borrow().is_none()
    }

    fn late(&self) -> Error {
        Error::Timeout { server: self.server.clone(), after: REDIS_DEADLINE }
    }
}

/// Passes a message on; other pushes are nobody's. A name that is no UTF-8 was never subscribed to.
fn hand_on(push: Vec<Value>, sink: &Sink) {
    let mut parts = push.into_iter().filter_map(|part| match part {
        Value::Text(bytes) => Some(bytes),
        _ => None,
    });
    let mut next = || parts.next().unwrap_or_default();
    let text = |bytes: Bytes| String::from_utf8_lossy(&bytes).into_owned();
    let (topic, channel) = match &*next() {
        b"message" => {
            let channel = text(next());
            (Topic::Channel(channel.clone()), channel)
        }
        b"pmessage" => (Topic::Pattern(text(next())), text(next())),
        _ => return,
    };
    sink(topic, Message { channel, payload: next() });
}
