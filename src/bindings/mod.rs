//! Level 5: JavaScript. The only place that says `napi`.
//!
//! An exported function converts its arguments, makes one call to a level below, and converts the answer back. Every
//! one goes through [`promise`] or [`answer`], which own what they have in common: errors of the caller's realm, panics
//! that stop here, and (for promises) the way back through the completion queue.
//!
//! No future of this crate is polled on a JavaScript thread, and no value of JavaScript leaves one.

// `expect` would do, if rustc did not take what it covers for used and then miss the warning.
#![cfg_attr(test, allow(dead_code, reason = "napi registers no function in a build for tests"))]

mod admission;
mod args;
mod batch;
mod blocking;
mod checks;
mod client;
mod command;
mod completions;
mod environment;
mod error;
mod events;
mod hot;
mod limit_stores;
mod limits;
mod log;
mod options;
mod process;
mod raw;
mod reading;
mod redis;
mod reply;
mod sessions;
mod signal;
mod subscriptions;
mod tick;
mod triggers;
mod upkeep;
mod values;
mod warm;

use crate::engine::Engine;
use crate::error::Result;
use environment::State;
use napi::Env;
use napi::bindgen_prelude::Unknown;
use reply::{Reply, Sessions};
use std::future::{Future, Ready};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use values::{Js, Value};

/// The call that is being served.
#[derive(Clone, Copy)]
struct Call<'scope> {
    js: Js<'scope>,
    state: &'scope State,
}

impl<'scope> Call<'scope> {
    fn begin(env: Env) -> napi::Result<Call<'scope>> {
        // SAFETY: napi makes an `Env` only for a function that it calls on this thread, and `Call` is used in there only.
        let js = unsafe { Js::new(env.raw()) };
        let state = State::of(js).map_err(|failure| error::throw_plain(js, &failure))?;
        Ok(Call { js, state })
    }

    /// The engine; opened with this environment's variables if it is not open.
    fn engine(self) -> Result<Arc<Engine>> {
        environment::engine(self.js, self.state)
    }
}

/// How a call goes on after its synchronous part.
enum Start<'scope, F> {
    /// It is answered by a promise that is there already.
    Promised(Value<'scope>),
    /// It is answered already; no thread is crossed.
    Answered(Reply),
    /// The rest runs on the runtime.
    UnderWay(F),
}

/// An export that returns a promise. Whatever fails, in `start` already or later, rejects it; nothing is thrown.
fn promise<F>(env: Env, start: impl FnOnce(Call<'_>) -> Result<F>) -> napi::Result<Unknown<'static>>
where
    F: Future<Output = Result<Reply>> + Send + 'static,
{
    begin(env, |call| start(call).map(Start::UnderWay))
}

/// Like [`promise`], for what may be answered in the call itself.
fn begin<F>(
    env: Env,
    start: impl for<'scope> FnOnce(Call<'scope>) -> Result<Start<'scope, F>>,
) -> napi::Result<Unknown<'static>>
where
    F: Future<Output = Result<Reply>> + Send + 'static,
{
    let call = Call::begin(env)?;
    let promise = begin_in(call, start).map_err(|failure| error::throw_plain(call.js, &failure))?;
    Ok(returned(env, promise))
}

/// Like [`promise`], for a function that is made by hand.
fn promise_of<'scope, F>(call: Call<'scope>, start: impl FnOnce(Call<'scope>) -> Result<F>) -> Result<Value<'scope>>
where
    F: Future<Output = Result<Reply>> + Send + 'static,
{
    begin_in(call, |call| start(call).map(Start::UnderWay))
}

/// A promise that is rejected if there is none.
fn rejected<'scope>(call: Call<'scope>, start: impl FnOnce() -> Result<Value<'scope>>) -> Result<Value<'scope>> {
    begin_in::<Ready<Result<Reply>>>(call, |_| start().map(Start::Promised))
}

fn begin_in<'scope, F>(
    call: Call<'scope>,
    start: impl FnOnce(Call<'scope>) -> Result<Start<'scope, F>>,
) -> Result<Value<'scope>>
where
    F: Future<Output = Result<Reply>> + Send + 'static,
{
    let Call { js, state } = call;
    let started = guarded(|| start(call));
    if let Ok(Start::Promised(promise)) = started {
        return Ok(promise);
    }
    let (deferred, promise) = js.promise()?;
    let answered = match started {
        Ok(Start::Promised(_)) => return Ok(promise),
        Ok(Start::UnderWay(work)) => match state.completions(js) {
            Ok(completions) => {
                let ticket = completions.ticket(js, deferred);
                // A panic in here drops the ticket, which rejects.
                let spawn = || crate::process::spawn(async move { ticket.settle(work.await) });
                let _ = catch_unwind(AssertUnwindSafe(spawn));
                return Ok(promise);
            }
            Err(failure) => Err(failure),
        },
        Ok(Start::Answered(reply)) => Ok(reply),
        Err(failure) => Err(failure),
    };
    completions::settle(js, state, deferred, answered, &mut Sessions::default());
    Ok(promise)
}

/// An export that answers at once, or throws.
fn answer(env: Env, work: impl FnOnce(Call<'_>) -> Result<Reply>) -> napi::Result<Unknown<'static>> {
    answer_value(env, |call| work(call)?.into_value(call.js, call.state, &mut Sessions::default()))
}

/// The same for a value that is made in the call.
fn answer_value(
    env: Env,
    work: impl for<'scope> FnOnce(Call<'scope>) -> Result<Value<'scope>>,
) -> napi::Result<Unknown<'static>> {
    let call = Call::begin(env)?;
    let Call { js, state } = call;
    let value = guarded(|| work(call));
    value.map(|value| returned(env, value)).map_err(|failure| error::throw(js, state, &failure))
}

/// Turns a panic into an error.
fn guarded<R>(work: impl FnOnce() -> Result<R>) -> Result<R> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| Err(error::from_panic(&*panic)))
}

fn returned(env: Env, value: Value<'_>) -> Unknown<'static> {
    // SAFETY: environment and value are those of the running call, and the caller returns them to napi at once.
    unsafe { Unknown::from_raw_unchecked(env.raw(), value.raw()) }
}
