//! What JavaScript is told without having asked at that moment: messages of subscriptions, breakers that change, how
//! far something is that takes a while.

use super::environment::State;
use super::reply::{Reply, Sessions};
use super::subscriptions::Subscription;
use super::values::{Js, Reference, Value};
use super::warm::Warming;
use super::{Call, answer, args};
use crate::engine::redis::Message;
use crate::error::Result;
use crate::process;
use crate::resilience::breaker::State as Breaker;
use crate::sessions::Progress;
use napi::Env;
use napi::bindgen_prelude::Unknown;
use napi_derive::napi;
use serde::Serialize;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::sync::Arc;

/// Something to call a handler for.
pub enum Event {
    Breaker { handler: u64, server: Arc<str>, state: Breaker },
    Message { subscription: Arc<Subscription>, message: Message },
    Ended { subscription: Arc<Subscription> },
    Progress { handler: u64, progress: Progress },
    Warmed { warming: Box<Warming> },
}

/// The functions that are called for events, by number.
#[derive(Default)]
pub struct Handlers {
    next: Cell<u64>,
    all: RefCell<HashMap<u64, Reference>>,
}

impl Handlers {
    pub fn add(&self, js: Js<'_>, handler: Value<'_>) -> Result<u64> {
        let id = self.next.get();
        self.next.set(id + 1);
        self.all.borrow_mut().insert(id, js.keep(handler)?);
        Ok(id)
    }

    /// Takes a handler away; `false` if that has happened before.
    pub fn remove(&self, js: Js<'_>, id: u64) -> bool {
        let handler = self.all.borrow_mut().remove(&id);
        let known = handler.is_some();
        handler.into_iter().for_each(|handler| js.release(handler));
        known
    }

    pub fn get<'scope>(&self, js: Js<'scope>, id: u64) -> Option<Value<'scope>> {
        self.all.borrow().get(&id).and_then(|handler| js.kept(handler).ok())
    }

    /// Every handler, when the environment has gone.
    pub fn release_all(self, js: Js<'_>) {
        self.all.into_inner().into_values().for_each(|handler| js.release(handler));
    }

    /// Calls a handler, if it is still there. What it throws is its own affair, and is logged.
    fn call(&self, js: Js<'_>, id: u64, what: &str, arguments: &[Value<'_>]) {
        if let Some(handler) = self.get(js, id)
            && let Err(thrown) = js.try_call(handler, arguments)
        {
            tracing::error!(what, "a handler threw: {thrown}");
        }
    }
}

/// Calls the handler of an event.
pub fn hand_out(js: Js<'_>, state: &State, event: &Event) {
    let handed = js.scope(|js| match event {
        Event::Breaker { handler, server, state: breaker } => {
            let change = Reply::object(&Change { server, state: breaker.as_str() })?;
            let change = change.into_value(js, state, &mut Sessions::default())?;
            state.handlers.call(js, *handler, "onBreakerChange", &[change]);
            Ok(())
        }
        Event::Message { subscription, message } => {
            subscription.handed_out();
            if subscription.is_over() {
                return Ok(());
            }
            let (text, channel) = (js.string(&message.payload)?, js.string(message.channel.as_bytes())?);
            let topic = js.string(subscription.topic.name().as_bytes())?;
            let arguments = [text, channel, topic];
            let count = if subscription.is_pattern() { 3 } else { 2 };
            state.handlers.call(js, subscription.handler, "subscribe", &arguments[..count]);
            Ok(())
        }
        Event::Ended { subscription } => {
            subscription.over(js, state);
            Ok(())
        }
        Event::Progress { handler, progress } => {
            let progress = Reply::object(progress)?.into_value(js, state, &mut Sessions::default())?;
            state.handlers.call(js, *handler, "warmSessionCache", &[progress]);
            Ok(())
        }
        Event::Warmed { warming } => {
            warming.over(js, state);
            Ok(())
        }
    });
    if let Ok(Err(fault)) = handed {
        let fault: crate::error::Error = fault;
        tracing::error!("an event could not be handed out: {fault}");
    }
}

#[derive(Serialize)]
struct Change<'a> {
    server: &'a str,
    state: &'static str,
}

/// Calls a function at each change of a breaker; gives a number by which that is ended.
#[napi(catch_unwind)]
pub fn on_breaker_change(env: Env, handler: Unknown) -> napi::Result<Unknown<'static>> {
    answer(env, |call| {
        let Call { js, state } = call;
        let handler = args::function(js, handler.into(), "handler")?;
        let queue = state.completions(js)?.queue().clone();
        let handler = state.handlers.add(js, handler)?;
        let listener = process::breakers().add(Arc::new(move |server, state| {
            queue.tell(Event::Breaker { handler, server: server.clone(), state });
        }));
        state.breaker_listeners.borrow_mut().push((handler, listener));
        Ok(Reply::Integer(i64::try_from(handler).unwrap_or(i64::MAX)))
    })
}

/// Ends what `onBreakerChange` began.
#[napi(catch_unwind)]
pub fn off_breaker_change(env: Env, handler: Unknown) -> napi::Result<Unknown<'static>> {
    answer(env, |call| {
        let Call { js, state } = call;
        let number = js.read_number(handler.into())?;
        state.breaker_listeners.borrow_mut().retain(|(handler, listener)| {
            #[expect(clippy::cast_precision_loss, reason = "a number that is given out by one is never that large")]
            let other = *handler as f64 != number;
            if !other {
                state.handlers.remove(js, *handler);
                process::breakers().remove(*listener);
            }
            other
        });
        Ok(Reply::Undefined)
    })
}
