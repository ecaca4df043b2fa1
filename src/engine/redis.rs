//! One pool of a Redis server, with the breaker that all pools of the server share.

use crate::error::{Backlog, Error, Result};
use crate::redis_request::{Batch, Replies, Request, encode};
use crate::redis_url::RedisUrl;
use crate::redis_value::Value;
use crate::resilience::guard::{Guard, Pass};
use crate::stores::redis::{Blocking, Fleet, LaneStats, Origin, Subscriber};
#[cfg_attr(not(feature = "node"), expect(unused_imports, reason = "some are for its JavaScript face only"))]
pub use crate::stores::redis::{Departure, Link, Listener, Message, Sizes, Topic};
use bytes::{Bytes, BytesMut};
use serde::Serialize;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// What `getPoolStats()` returns. On a multiplexed connection nobody waits for a connection, only for answers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct PoolStats {
    /// Open connections.
    pub size: usize,
    /// Open connections on which every command was answered.
    pub available: usize,
    /// Commands that wait for an answer.
    pub pending: usize,
}

impl From<LaneStats> for PoolStats {
    fn from(LaneStats { open, idle, unanswered }: LaneStats) -> Self {
        Self { size: open, available: idle, pending: unanswered }
    }
}

/// A pool and its guard.
pub struct Redis {
    pub(super) url: RedisUrl,
    pub(super) fleet: Fleet,
    guard: Arc<Guard>,
    /// Calls that have no answer yet.
    calls: AtomicUsize,
    /// Subscriptions, and commands that wait on a connection of their own.
    lasting: AtomicUsize,
    subscriber: Subscriber,
    blocking: Blocking,
    ended: CancellationToken,
    /// Clients that have not been closed.
    clients: AtomicUsize,
    /// It is not to be used any more; who holds it asks the engine for another one.
    retired: AtomicBool,
    born: Instant,
    /// Milliseconds from `born` until its last use.
    used: AtomicU64,
}

impl Redis {
    pub(super) fn new(url: RedisUrl, origin: &Origin, fleet: Fleet, guard: Arc<Guard>) -> Self {
        let name = |role| format!("studio-redis-native:{}:{role}", std::process::id());
        Self {
            lasting: AtomicUsize::new(0),
            subscriber: Subscriber::new(origin.clone(), name("subscriber")),
            blocking: Blocking::new(origin.clone(), name("blocking")),
            ended: CancellationToken::new(),
            url,
            fleet,
            guard,
            calls: AtomicUsize::new(0),
            clients: AtomicUsize::new(0),
            retired: AtomicBool::new(false),
            born: Instant::now(),
            used: AtomicU64::new(0),
        }
    }

    /// The right to make a call, of one command or of a batch; `None` if this pool has been retired.
    ///
    /// # Errors
    /// [`Error::CircuitOpen`] or [`Error::Overloaded`].
    pub fn enter(self: &Arc<Self>) -> Result<Option<Entered>> {
        // Counted first: who retires a pool looks for calls after he has said so, so that one of both sees the other.
        let counted = Counted::new(self.clone());
        if self.retired.load(SeqCst) {
            return Ok(None);
        }
        Ok(Some(Entered(Pass::enter(counted)?)))
    }

    /// Sends what was allowed in.
    ///
    /// Their deadline begins now: JavaScript that is busy for long before its tick ends says nothing about the server.
    pub fn send(&self, mut batch: Batch, departure: Departure) {
        self.touch();
        batch.set_deadlines(Instant::now());
        self.fleet.send(batch, departure);
    }

    /// Sends what there is of a batch that goes on, if a lane is up, which the rest of it takes as well: what is sent
    /// together is executed in its order.
    pub fn send_part(&self, batch: &mut Batch, lane: &mut Option<Link>) {
        if lane.is_none() {
            *lane = self.fleet.up();
        }
        if let Some(link) = lane {
            self.send_on(link, std::mem::replace(batch, Batch::with_room()));
        }
    }

    /// Sends the rest of a batch.
    pub fn send_rest(&self, batch: Batch, lane: Option<Link>) {
        match lane {
            Some(link) => self.send_on(&link, batch),
            None => self.send(batch, Departure::Now),
        }
    }

    fn send_on(&self, link: &Link, mut batch: Batch) {
        self.touch();
        batch.set_deadlines(Instant::now());
        let Some(batch) = self.fleet.send_reads(batch, Departure::Now) else { return };
        if let Err((_, batch)) = link.send_batch(batch, Departure::Now) {
            self.fleet.send(batch, Departure::Now);
        }
    }

    fn touch(&self) {
        self.used.store(u64::try_from(self.born.elapsed().as_millis()).unwrap_or(u64::MAX), SeqCst);
    }

    /// Sends one command and waits for its reply.
    ///
    /// # Errors
    /// The errors of the contract's fifth section that concern Redis.
    pub async fn command(self: &Arc<Self>, arguments: &[Bytes], repeatable: bool) -> Result<Value> {
        let mut bytes = BytesMut::new();
        encode(&mut bytes, arguments);
        self.ask(bytes, repeatable).await
    }

    /// The same for a command that is encoded already.
    ///
    /// # Errors
    /// As above.
    pub async fn ask(self: &Arc<Self>, bytes: BytesMut, repeatable: bool) -> Result<Value> {
        let retired = || Error::Closed("The pool was closed meanwhile.");
        let entered = self.enter()?.ok_or_else(retired)?;
        let (reply, receiver) = oneshot::channel();
        let request = entered.request(bytes.len(), Replies::One, repeatable, move |result, _| drop(reply.send(result)));
        self.send(Batch { bytes, requests: vec![request] }, Departure::Soon);
        receiver.await.unwrap_or_else(|_| Err(retired()))
    }

    /// True if the server answers a PING within its deadline.
    pub async fn health(self: &Arc<Self>) -> bool {
        self.command(&[Bytes::from_static(b"PING")], true).await.is_ok()
    }

    /// How messages name the server.
    pub fn server(&self) -> &Arc<str> {
        self.guard.server()
    }

    /// Connections and commands at this moment.
    pub fn stats(&self) -> PoolStats {
        let lanes = PoolStats::from(self.fleet.stats());
        PoolStats { size: lanes.size + self.subscriber.connections() + self.blocking.connections(), ..lanes }
    }

    /// Which life of the server this is: a number that is another one after a restart, and of another server.
    pub fn life(&self) -> u64 {
        self.fleet.life()
    }

    /// Nobody waits for anything.
    pub(super) fn is_idle(&self) -> bool {
        self.calls.load(SeqCst) == 0
    }

    pub(super) fn has_clients(&self) -> bool {
        self.clients.load(SeqCst) > 0
    }

    pub(super) fn idle_for(&self) -> Duration {
        self.born.elapsed().saturating_sub(Duration::from_millis(self.used.load(SeqCst)))
    }

    /// Retires the pool, unless somebody is using it at this moment.
    pub(super) fn retire_if_idle(&self) -> bool {
        self.retired.store(true, SeqCst);
        let idle = self.is_idle() && self.lasting.load(SeqCst) == 0;
        self.retired.store(idle, SeqCst);
        idle
    }

    /// No call gets in any more, and what lasts ends.
    pub(super) fn retire(&self) {
        self.retired.store(true, SeqCst);
        self.ended.cancel();
    }

    pub fn is_retired(&self) -> bool {
        self.retired.load(SeqCst)
    }

    /// Ends every connection; what is unanswered fails with `error`.
    pub(super) fn close(&self, error: &Error) {
        self.retire();
        self.subscriber.close();
        self.blocking.close();
        self.fleet.close(error);
    }
}

/// Why something that lasts has ended, or cannot begin.
pub const ENDED: Error = Error::Closed("This client was closed, or shutdown() ended what it did.");

/// Subscriptions and waiting commands of a pool at most; each of the latter has a connection.
const MAX_LASTING: usize = 1_000;

/// The right to something that lasts. The pool stays open for it, but `shutdown()` does not wait for it.
pub struct Lasting(Arc<Membership>);

impl Lasting {
    fn new(membership: Arc<Membership>) -> Self {
        membership.redis.lasting.fetch_add(1, SeqCst);
        Self(membership)
    }

    fn redis(&self) -> &Arc<Redis> {
        &self.0.redis
    }

    /// How messages name the server.
    pub fn server(&self) -> &Arc<str> {
        self.redis().server()
    }

    /// Resolves when it has to end.
    pub async fn ended(&self) {
        self.redis().ended.cancelled().await;
    }

    /// Sends one command on a connection of its own, and waits as long as it takes.
    ///
    /// The pool is asked first whether the server answers: how long this command takes says nothing about that.
    pub async fn wait(&self, command: Vec<Bytes>) -> Result<Value> {
        tokio::select! {
            biased;
            () = self.ended() => Err(ENDED),
            reply = async {
                self.redis().command(&[Bytes::from_static(b"PING")], true).await?;
                self.redis().blocking.run(command).await
            } => reply,
        }
    }

    /// Begins to listen; the number ends it.
    pub async fn subscribe(&self, topic: Topic, listener: Arc<dyn Listener>) -> Result<u64> {
        let guard = &self.redis().guard;
        tokio::select! {
            biased;
            () = self.ended() => Err(ENDED),
            id = guard.run(guard.deadline(), self.redis().subscriber.subscribe(topic, listener)) => id,
        }
    }

    /// Ends a subscription. Its listener gets nothing from the call on.
    pub async fn unsubscribe(&self, id: u64) {
        self.redis().subscriber.unsubscribe(id).await;
    }
}

impl Drop for Lasting {
    fn drop(&mut self) {
        self.redis().lasting.fetch_sub(1, SeqCst);
    }
}

/// A client's share in a pool: of the client, and of what it began that lasts longer than the client's object.
pub struct Membership {
    redis: Arc<Redis>,
    left: AtomicBool,
}

impl Membership {
    pub(super) fn new(redis: Arc<Redis>) -> Self {
        redis.clients.fetch_add(1, SeqCst);
        Self { redis, left: AtomicBool::new(false) }
    }

    pub fn redis(&self) -> &Arc<Redis> {
        &self.redis
    }

    /// Gives the share back; true if it was the last one.
    pub(super) fn leave(&self) -> bool {
        !self.left.swap(true, SeqCst) && self.redis.clients.fetch_sub(1, SeqCst) == 1
    }

    /// The right to use the pool for something that lasts; `None` if it has been retired.
    ///
    /// # Errors
    /// [`Error::Overloaded`].
    pub fn last(self: &Arc<Self>) -> Result<Option<Lasting>> {
        let lasting = Lasting::new(self.clone());
        let redis = &self.redis;
        if redis.is_retired() {
            return Ok(None);
        }
        if redis.lasting.load(SeqCst) > MAX_LASTING {
            let limit = Backlog::Calls(MAX_LASTING);
            return Err(Error::Overloaded { server: redis.server().clone(), limit });
        }
        redis.touch();
        Ok(Some(lasting))
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        self.leave();
    }
}

struct Counted(Arc<Redis>);

impl Counted {
    fn new(redis: Arc<Redis>) -> Self {
        redis.calls.fetch_add(1, SeqCst);
        Self(redis)
    }
}

impl Deref for Counted {
    type Target = Guard;

    fn deref(&self) -> &Guard {
        &self.0.guard
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.calls.fetch_sub(1, SeqCst);
    }
}

/// A call that was let in. It is counted until it has its answer.
pub struct Entered(Pass<Counted>);

impl Entered {
    /// The pool that let it in.
    pub fn redis(&self) -> &Arc<Redis> {
        &self.0.guard().0
    }

    /// What to send for it, `length` bytes. `answered` gets the answer, and the server's name, after the breaker did.
    pub fn request(
        self,
        length: usize,
        replies: Replies,
        repeatable: bool,
        answered: impl FnOnce(Result<Value>, &Arc<str>) + Send + 'static,
    ) -> Request {
        let Self(mut pass) = self;
        let answered = Box::new(move |result: Result<Value>| {
            match outage_within(&result) {
                Some(outage) => pass.settle::<Value>(&Err(outage)),
                None => pass.settle(&result),
            }
            answered(result, pass.guard().server());
        });
        Request::new(length, replies, repeatable, answered)
    }
}

/// The reply of several that says that the server serves nobody.
fn outage_within(result: &Result<Value>) -> Option<Error> {
    let errors = result.as_ref().ok()?.as_array()?.iter().filter_map(|reply| match reply {
        Value::Error(text) => Some(Error::Reply { server: "".into(), text: text.clone() }),
        _ => None,
    });
    errors.into_iter().find(Error::is_outage)
}
