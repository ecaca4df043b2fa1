//! Reads from replicas, with the primary behind them.

use super::link::Departure;
use super::nodes::{NodePlan, Nodes};
use super::origin::Origin;
use super::pool::{Home, LaneStats, Pool, Sizes};
use crate::error::{Error, Result};
use crate::redis_request::{Answered, Batch, Request};
use crate::redis_url::Address;
use crate::redis_value::Value;
use bytes::Bytes;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// What a replica gets of a read's time, before the primary is asked.
pub const SHARE: Duration = Duration::from_millis(250);

/// How often the primary is asked for its replicas, while somebody reads from them.
const PERIOD: Duration = Duration::from_secs(5);

/// The same where it did not answer.
const PAUSE: Duration = Duration::from_millis(100);

/// Lanes to a replica.
const SIZES: Sizes = Sizes { least: 1, most: 2 };

/// Whether somebody else has to be asked: the replica is away, or not in step, or sends us to the primary itself.
pub fn has_failed(result: &Result<Value>) -> bool {
    match result {
        Err(Error::Reply { text, .. }) => serves_nobody(text),
        Err(Error::Overloaded { .. } | Error::Closed(_)) => true,
        Err(error) => error.is_outage(),
        Ok(Value::Array(replies)) => {
            replies.iter().any(|reply| matches!(reply, Value::Error(text) if serves_nobody(text)))
        }
        Ok(_) => false,
    }
}

fn serves_nobody(text: &str) -> bool {
    let redirected = text.starts_with("MOVED ") || text.starts_with("ASK ");
    redirected || Error::Reply { server: "".into(), text: text.to_owned() }.is_outage()
}

/// Gives a read to a replica; `otherwise` gets it back, with its own deadline, if that does not answer.
pub fn ask_first(
    mut request: Request,
    bytes: &Bytes,
    otherwise: impl FnOnce(Request, Bytes) + Send + 'static,
) -> Request {
    let (now, bytes) = (Instant::now(), bytes.clone());
    let deadline = request.deadline;
    let noop: Answered = Box::new(|_| {});
    let answered = std::mem::replace(&mut request.answered, noop);
    let (length, replies, repeatable) = (request.length, request.replies, request.repeatable);
    let (patience, target) = (request.patience, request.target.clone());
    request.deadline = Some(deadline.map_or(now + SHARE, |deadline| deadline.min(now + SHARE)));
    request.patience = Some(SHARE);
    request.by_replica = false;
    request.answered = Box::new(move |result| {
        let late = deadline.is_some_and(|deadline| deadline <= Instant::now());
        if late || !has_failed(&result) {
            return answered(result);
        }
        let request = Request::new(length, replies, repeatable, answered);
        otherwise(Request { deadline, patience, target, ..request }, bytes);
    });
    request
}

/// The replicas of one primary.
pub struct Replicas {
    nodes: Arc<Nodes>,
    origin: Origin,
    primary: Pool,
    /// Keeps the way back alive that the pools have.
    _home: Arc<Primary>,
    known: Arc<Mutex<KnownReplicas>>,
    asking: Arc<AtomicBool>,
    turn: AtomicUsize,
}

#[derive(Default)]
struct KnownReplicas {
    addresses: Vec<Address>,
    asked: Option<Instant>,
}

/// What a replica's pool cannot send goes to the primary.
struct Primary(Pool);

impl Home for Primary {
    fn homeless(&self, batch: Batch, _: Option<&Error>) {
        self.0.send(batch, Departure::Soon);
    }
}

impl Replicas {
    /// Connects nothing.
    pub fn new(origin: Origin, primary: Pool, name: String, limit: usize) -> Self {
        let home = Arc::new(Primary(primary.clone()));
        let weak: std::sync::Weak<dyn Home> = Arc::downgrade(&(home.clone() as Arc<dyn Home>));
        let (access, runtime) = (origin.access().clone(), primary.runtime().clone());
        let plan = NodePlan { access, name, limit, runtime, home: weak, on_new_life: None };
        Self {
            nodes: Arc::new(Nodes::new(plan, SIZES)),
            origin,
            primary,
            _home: home,
            known: Arc::default(),
            asking: Arc::default(),
            turn: AtomicUsize::new(0),
        }
    }

    /// Sends reads that a replica may answer.
    pub fn send(&self, batch: Batch, departure: Departure) {
        self.refresh();
        let ready = self.nodes.ready_replicas(known(&self.known).addresses.clone().iter());
        if ready.is_empty() {
            return self.primary.send(batch, departure);
        }
        let (address, pool) = &ready[self.turn.fetch_add(1, Relaxed) % ready.len()];
        let (mut bytes, mut first) = (batch.bytes.freeze(), Batch::default());
        for request in batch.requests {
            let piece = bytes.split_to(request.length);
            let (nodes, primary, address) = (self.nodes.clone(), self.primary.clone(), address.clone());
            let otherwise = move |request, bytes: Bytes| {
                nodes.set_aside(&address);
                let mut batch = Batch::default();
                batch.push(&bytes, request);
                primary.send(batch, Departure::Soon);
            };
            first.push(&piece, ask_first(request, &piece, otherwise));
        }
        pool.send(first, departure);
    }

    /// Asks for the replicas, if nobody did so lately.
    fn refresh(&self) {
        let fresh = known(&self.known).asked.is_some_and(|asked| asked.elapsed() < PERIOD);
        if fresh || self.asking.swap(true, Relaxed) {
            return;
        }
        let (origin, primary) = (self.origin.clone(), self.primary.clone());
        let (replicas, asking) = (self.known.clone(), self.asking.clone());
        self.primary.runtime().spawn(async move {
            let found = origin.replicas(&primary).await;
            match found {
                Ok(addresses) => {
                    let mut known = known(&replicas);
                    known.addresses = addresses;
                    known.asked = Some(Instant::now());
                }
                Err(error) => {
                    tracing::debug!("the replicas are not known: {error}");
                    sleep(PAUSE).await;
                }
            }
            asking.store(false, Relaxed);
        });
    }

    pub fn stats(&self) -> LaneStats {
        self.nodes.stats()
    }

    pub fn tend(&self, now: Instant) {
        let known = known(&self.known).addresses.clone();
        self.nodes.tend(now, |address, _| !known.contains(address));
    }

    pub fn close(&self, error: &Error) {
        self.nodes.close(error);
    }
}

fn known(known: &Mutex<KnownReplicas>) -> MutexGuard<'_, KnownReplicas> {
    known.lock().unwrap_or_else(PoisonError::into_inner)
}
