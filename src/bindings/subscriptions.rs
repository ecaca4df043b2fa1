//! `subscribe` and `psubscribe`: a handler of JavaScript that is called for each message.
//!
//! Messages travel in the queue of completions. A handler that is slower than its channel loses messages, not memory:
//! beyond [`MAX_WAITING`] they are thrown away and counted.

use super::client::tied;
use super::completions::Queue;
use super::environment::State;
use super::events::Event;
use super::raw::{Frame, Function, Member, NOTHING, Tagged};
use super::reply::Reply;
use super::values::{Js, Value};
use super::{Call, args, promise_of};
use crate::engine::redis::{ENDED, Lasting, Listener, Message, Topic};
use crate::error::{Error, Result};
use crate::process;
use napi::sys::napi_type_tag;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use tokio_util::sync::CancellationToken;

/// Messages that may wait for a handler.
const MAX_WAITING: usize = 1_000;

/// What all threads know of a subscription.
pub struct Subscription {
    pub topic: Topic,
    /// Its handler, in the environment of the queue.
    pub handler: u64,
    queue: Arc<Queue>,
    waiting: AtomicUsize,
    dropped: AtomicU64,
    /// Ends it: by `unsubscribe()`, or because its connection is no more.
    stop: CancellationToken,
    /// Ends it with its client.
    ending: CancellationToken,
}

impl Subscription {
    pub fn is_pattern(&self) -> bool {
        matches!(self.topic, Topic::Pattern(_))
    }

    /// No message is to be handed out any more.
    pub fn is_over(&self) -> bool {
        self.stop.is_cancelled() || self.ending.is_cancelled()
    }

    /// A message left the queue.
    pub fn handed_out(&self) {
        self.waiting.fetch_sub(1, Relaxed);
    }

    fn lose(&self) {
        if self.dropped.fetch_add(1, Relaxed) == 0 {
            let channel = self.topic.name();
            tracing::warn!(channel, "messages of a subscription are lost: its handler is slower than they come");
        }
    }

    /// The handler gets nothing more, and keeps the process alive no longer.
    pub fn over(&self, js: Js<'_>, state: &State) {
        if state.handlers.remove(js, self.handler)
            && let Some(completions) = state.existing_completions()
        {
            completions.release(js, 1);
        }
    }
}

/// The side of a subscription that the connection sees.
struct Feed(Arc<Subscription>);

impl Listener for Feed {
    fn message(&self, message: &Message) {
        let subscription = &self.0;
        if subscription.waiting.fetch_add(1, Relaxed) >= MAX_WAITING {
            subscription.waiting.fetch_sub(1, Relaxed);
            return subscription.lose();
        }
        let event = Event::Message { subscription: subscription.clone(), message: message.clone() };
        subscription.queue.tell(event);
    }

    fn ended(&self, _: &Error) {
        self.0.stop.cancel();
    }
}

/// `subscribe` or `psubscribe` of a client.
pub struct Subscribe;

/// What tells the two apart: the name of the first argument, and what it becomes.
pub struct Kind(&'static str, fn(String) -> Topic);
pub const CHANNEL: &Kind = &Kind("channel", Topic::Channel);
pub const PATTERN: &Kind = &Kind("pattern", Topic::Pattern);

impl Function for Subscribe {
    fn run(frame: Frame<'_>) -> Result<Value<'_>> {
        let client = tied(&frame)?;
        // SAFETY: the class of clients made every `Subscribe` with one of the two above.
        let Kind(name, topic) = unsafe { frame.data::<Kind>() };
        promise_of(frame.call, |Call { js, state }| {
            let topic = topic(args::text(js, frame.argument(0), name)?);
            let handler = args::function(js, frame.argument(1), "handler")?;
            let lasting = client.lasting(frame.call)?;
            let completions = state.completions(js)?;
            let handler = state.handlers.add(js, handler)?;
            completions.hold(js);
            let subscription = Arc::new(Subscription {
                topic,
                handler,
                queue: completions.queue().clone(),
                waiting: AtomicUsize::new(0),
                dropped: AtomicU64::new(0),
                stop: CancellationToken::new(),
                ending: client.ending.clone(),
            });
            let ending = client.ending.clone();
            // Said on whatever way out of here, it lets the process go.
            let over = Over(subscription.clone());
            Ok(async move {
                let id = tokio::select! {
                    id = lasting.subscribe(subscription.topic.clone(), Arc::new(Feed(subscription.clone()))) => id?,
                    () = ending.cancelled() => return Err(ENDED),
                };
                process::spawn(live(subscription.clone(), over, lasting, id, ending));
                Ok(Reply::Subscription(subscription))
            })
        })
    }
}

/// Waits for the end of a subscription, and ends it everywhere.
async fn live(subscription: Arc<Subscription>, over: Over, lasting: Lasting, id: u64, ending: CancellationToken) {
    tokio::select! {
        () = subscription.stop.cancelled() => {}
        () = ending.cancelled() => {}
        () = lasting.ended() => {}
    }
    drop(over);
    lasting.unsubscribe(id).await;
}

/// Tells the environment when it is dropped that a subscription is over.
struct Over(Arc<Subscription>);

impl Drop for Over {
    fn drop(&mut self) {
        self.0.queue.tell(Event::Ended { subscription: self.0.clone() });
    }
}

/// What an object of the class is tied to.
pub struct Handle(pub Arc<Subscription>);

impl Tagged for Handle {
    const TAG: napi_type_tag = napi_type_tag { lower: 0x5d0c_18fb_e3a7_2694, upper: 0x86e1_4f5d_09b2_c3a7 };
}

/// The class, for this environment. Objects of it are made by `Reply` only.
pub fn class<'scope>(js: Js<'scope>) -> Result<Value<'scope>> {
    let members = [
        Member::method::<Unsubscribe, _>("unsubscribe", NOTHING),
        Member::getter::<Channel>("channel"),
        Member::getter::<Dropped>("dropped"),
    ];
    js.define_class::<Construct>("Subscription", &members)
}

struct Construct;

impl Function for Construct {
    fn run(frame: Frame<'_>) -> Result<Value<'_>> {
        let Call { js, state } = frame.call;
        let Some(subscription) = state.making_subscription.take().filter(|_| frame.constructing()) else {
            return Err(Error::type_error("A subscription is made by subscribe() or psubscribe()."));
        };
        js.wrap(frame.this(), Handle(subscription))?;
        Ok(frame.this())
    }
}

struct Channel;

impl Function for Channel {
    fn run(frame: Frame<'_>) -> Result<Value<'_>> {
        let Handle(subscription) = frame.call.js.unwrap_tagged(frame.this())?;
        frame.call.js.string(subscription.topic.name().as_bytes())
    }
}

struct Dropped;

impl Function for Dropped {
    fn run(frame: Frame<'_>) -> Result<Value<'_>> {
        let Handle(subscription) = frame.call.js.unwrap_tagged(frame.this())?;
        frame.call.js.integer(i64::try_from(subscription.dropped.load(Relaxed)).unwrap_or(i64::MAX))
    }
}

struct Unsubscribe;

impl Function for Unsubscribe {
    fn run(frame: Frame<'_>) -> Result<Value<'_>> {
        let Call { js, state } = frame.call;
        let Handle(subscription) = js.unwrap_tagged(frame.this())?;
        subscription.over(js, state);
        subscription.stop.cancel();
        super::completions::resolved(js, state, Reply::Undefined)
    }
}
