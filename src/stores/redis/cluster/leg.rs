//! One command on its way: sent to a node, and on to others where that says so, until it has its answer.

use super::Shared;
use super::redirect::Redirect;
use crate::error::{Error, Result};
use crate::redis_request::{Answered, Batch, Replies, Request, Target, encode};
use crate::redis_url::Address;
use crate::redis_value::Value;
use crate::stores::redis::link::Departure;
use bytes::{Bytes, BytesMut};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// So often a command follows others' word for where its slot is, or waits for it. More of it is nodes that disagree.
const MOST_HOPS: u8 = 100;

/// How long a command waits that has to be tried again, because a slot is being moved.
const TRY_AGAIN: Duration = Duration::from_millis(15);

/// A request with its bytes.
pub struct Leg {
    pub request: Request,
    pub bytes: Bytes,
}

impl Leg {
    pub fn of_batch(batch: Batch) -> impl Iterator<Item = Self> {
        let mut bytes = batch.bytes.freeze();
        batch.requests.into_iter().map(move |request| {
            let bytes = bytes.split_to(request.length);
            Self { request, bytes }
        })
    }
}

/// What every leg of a request has from it.
#[derive(Clone)]
pub struct About {
    repeatable: bool,
    deadline: Option<Instant>,
    patience: Option<Duration>,
    by_replica: bool,
    hops: u8,
}

impl About {
    pub fn of(request: &Request) -> Self {
        let Request { repeatable, deadline, patience, by_replica, .. } = *request;
        Self { repeatable, deadline, patience, by_replica, hops: 0 }
    }

    fn is_late(&self) -> bool {
        self.hops > MOST_HOPS || self.deadline.is_some_and(|deadline| deadline <= Instant::now())
    }
}

/// What is to be done, and by whom.
#[derive(Clone)]
pub struct Errand {
    pub target: Target,
    pub bytes: Bytes,
    pub replies: Replies,
    pub about: About,
}

impl Shared {
    /// A leg whose answer is the one of the right node.
    pub fn leg(self: &Arc<Self>, errand: Errand, answered: Answered) -> Leg {
        let (shared, again) = (self.clone(), errand.clone());
        let follow: Answered = Box::new(move |result| shared.finish(again, answered, result));
        let Errand { target, bytes, replies, about } = errand;
        let About { repeatable, deadline, patience, by_replica, .. } = about;
        let request = Request::new(bytes.len(), replies, repeatable, follow);
        Leg { request: Request { deadline, patience, target, by_replica, ..request }, bytes }
    }

    /// Hands out an answer, or asks whom it names.
    fn finish(self: &Arc<Self>, errand: Errand, answered: Answered, result: Result<Value>) {
        let text = redirect(&result, errand.replies).filter(|_| !errand.about.is_late());
        let redirect = text.and_then(|text| Redirect::read(&text, &self.asked(&errand.target)));
        let Some(redirect) = redirect else { return answered(result) };
        let about = About { hops: errand.about.hops + 1, by_replica: false, ..errand.about };
        let errand = Errand { about, ..errand };
        match redirect {
            Redirect::Moved { .. } => {
                self.topology.redirected(&redirect);
                self.forward(self.leg(errand, answered));
            }
            Redirect::Ask { to, .. } => self.forward(self.asking(errand, to, answered)),
            Redirect::TryAgain | Redirect::NotPrimary => {
                self.topology.doubt();
                let shared = self.clone();
                self.runtime.spawn(async move {
                    sleep(TRY_AGAIN).await;
                    shared.dispatch([shared.leg(errand, answered)], Departure::Soon);
                });
            }
        }
    }

    /// A command, or a transaction, for a node that is taking its slot over, which it has to be told of.
    fn asking(self: &Arc<Self>, errand: Errand, to: Address, answered: Answered) -> Leg {
        let (shared, again, server) = (self.clone(), errand.clone(), self.topology.server().clone());
        let follow: Answered = Box::new(move |result| {
            let result = result.and_then(|value| without_first(value, again.replies, server));
            shared.finish(again, answered, result);
        });
        let mut bytes = BytesMut::new();
        encode(&mut bytes, &["ASKING"]);
        bytes.extend_from_slice(&errand.bytes);
        let About { repeatable, deadline, patience, .. } = errand.about;
        let request = Request::new(bytes.len(), Replies::Array(1 + errand.replies.count()), repeatable, follow);
        let request = Request { deadline, patience, target: Target::Node(Arc::new(to)), ..request };
        Leg { request, bytes: bytes.freeze() }
    }

    /// Which node was most likely asked.
    fn asked(&self, target: &Target) -> Address {
        let map = self.topology.map();
        let known = match target {
            Target::Node(address) => Some((**address).clone()),
            Target::Slot(slot) => map.as_ref().and_then(|map| map.primary(*slot)).cloned(),
            Target::Any => None,
        };
        known.unwrap_or_else(Address::unknown)
    }
}

/// What is left of an answer without the reply to ASKING.
fn without_first(answer: Value, replies: Replies, server: Arc<str>) -> Result<Value> {
    let Value::Array(mut all) = answer else {
        return Err(Error::Internal("several commands have one reply".to_owned()));
    };
    match replies {
        Replies::Array(_) => {
            all.drain(..1.min(all.len()));
            Ok(Value::Array(all))
        }
        Replies::One => match all.pop() {
            Some(Value::Error(text)) => Err(Error::Reply { server, text }),
            Some(reply) => Ok(reply),
            None => Err(Error::Internal("two commands have no reply".to_owned())),
        },
    }
}

/// The error by which a node sends a command elsewhere, or a transaction, of which it then has executed nothing: it refuses
/// a command that is queued and with it the whole, or EXEC itself.
fn redirect(result: &Result<Value>, replies: Replies) -> Option<String> {
    let elsewhere = |text: &str| ["MOVED ", "ASK ", "TRYAGAIN", "READONLY"].iter().any(|word| text.starts_with(word));
    let text = |reply: &Value| if let Value::Error(text) = reply { Some(text.to_string()) } else { None };
    match (result, replies) {
        (Err(Error::Reply { text, .. }), _) => Some(text.to_string()).filter(|text| elsewhere(text)),
        (Ok(Value::Array(all)), Replies::Array(_)) => {
            let exec = text(all.last()?)?;
            let refused =
                exec.starts_with("EXECABORT").then(|| all.iter().filter_map(text).find(|text| elsewhere(text)));
            refused.flatten().or(Some(exec)).filter(|text| elsewhere(text))
        }
        _ => None,
    }
}
