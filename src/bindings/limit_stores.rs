//! Stores of counts: three classes, whose methods are the same.

use super::checks::{Check, Form, Subject};
use super::limits::{DEFAULT_NAME, Settings, check};
use super::raw::{Frame, Function, Member, NOTHING, Tagged};
use super::reply::Reply;
use super::values::{Js, Kind, Value};
use super::{Call, args, promise_of, rejected};
use crate::error::{Error, Result};
use crate::limit::Algorithm;
use crate::rate_limit::{Limiter, Place};
use napi::sys::napi_type_tag;
use std::rc::Rc;

/// What a store object is tied to.
struct Store(Rc<Subject>);

impl Tagged for Store {
    const TAG: napi_type_tag = napi_type_tag { lower: 0x1f6a_c04e_77d2_8b39, upper: 0xe950_3d8c_42b7_a615 };
}

/// The classes of stores, for this environment.
pub fn classes<'scope>(js: Js<'scope>) -> Result<[Value<'scope>; 3]> {
    let members = [
        Member::method::<StoreCheck, _>("checkLimit", NOTHING),
        Member::method::<Peek, _>("peek", NOTHING),
        Member::method::<Refund, _>("refund", NOTHING),
        Member::method::<Get, _>("get", NOTHING),
        Member::method::<Clear, _>("clear", NOTHING),
    ];
    Ok([
        js.define_class::<SlidingWindows>("RedisRateLimitStore", &members)?,
        js.define_class::<TokenBuckets>("RedisTokenBucketStore", &members)?,
        js.define_class::<InProcess>("InMemoryRateLimitStore", &members)?,
    ])
}

struct SlidingWindows;

impl Function for SlidingWindows {
    fn run(frame: Frame<'_>) -> Result<Value<'_>> {
        construct(&frame, "RedisRateLimitStore", Limiter::named(DEFAULT_NAME))
    }
}

struct TokenBuckets;

impl Function for TokenBuckets {
    fn run(frame: Frame<'_>) -> Result<Value<'_>> {
        let limiter = Limiter { algorithm: Algorithm::TokenBucket, ..Limiter::named(DEFAULT_NAME) };
        construct(&frame, "RedisTokenBucketStore", limiter)
    }
}

struct InProcess;

impl Function for InProcess {
    fn run(frame: Frame<'_>) -> Result<Value<'_>> {
        let limiter = Limiter { place: Place::Process, ..Limiter::named(DEFAULT_NAME) };
        construct(&frame, "InMemoryRateLimitStore", limiter)
    }
}

fn construct<'scope>(frame: &Frame<'scope>, class: &str, limiter: Limiter) -> Result<Value<'scope>> {
    let Call { js, state } = frame.call;
    if !frame.constructing() {
        return Err(Error::type_error(format!("{class} is a class: call it with new.")));
    }
    let limiter = match js.kind(frame.argument(0))? {
        Kind::Undefined => limiter,
        _ => settings(js, frame.argument(0), limiter)?,
    };
    js.wrap(frame.this(), Store(state.checks.subject(limiter)))?;
    Ok(frame.this())
}

/// A store's options. How it counts is part of the class of token buckets; an outage of Redis is none of the process's business.
fn settings<'scope>(js: Js<'scope>, options: Value<'scope>, limiter: Limiter) -> Result<Limiter> {
    let nothing = js.undefined()?;
    let settings = match (limiter.place, limiter.algorithm) {
        (Place::Redis, Algorithm::TokenBucket) => {
            let [on_outage, shadow, name] = args::options(js, options, "options", [c"onOutage", c"shadow", c"name"])?;
            Settings { algorithm: nothing, on_outage, shadow, name }
        }
        (Place::Redis, _) => {
            let names = [c"algorithm", c"onOutage", c"shadow", c"name"];
            let [algorithm, on_outage, shadow, name] = args::options(js, options, "options", names)?;
            Settings { algorithm, on_outage, shadow, name }
        }
        (Place::Process, _) => {
            let [algorithm, shadow, name] = args::options(js, options, "options", [c"algorithm", c"shadow", c"name"])?;
            Settings { algorithm, on_outage: nothing, shadow, name }
        }
    };
    settings.read(js, "options", limiter)
}

/// The store of a method's receiver.
fn store<'scope>(frame: &Frame<'scope>) -> Result<&'scope Rc<Subject>> {
    // SAFETY: every function here that asks is a method of a class whose constructor wraps a `Store`.
    unsafe { frame.call.js.unwrap::<Store>(frame.this()) }.map(|Store(subject)| subject)
}

/// The check of a store's method, whose only option is the cost.
fn store_check(frame: &Frame<'_>) -> Result<(Rc<Subject>, Check)> {
    let (call, subject) = (frame.call, store(frame)?);
    let cost = match call.js.kind(frame.argument(3))? {
        Kind::Undefined => None,
        _ => {
            let [cost] = args::options(call.js, frame.argument(3), "options", [c"cost"])?;
            Some(cost)
        }
    };
    Ok((subject.clone(), check(call, frame, subject, cost)?))
}

struct StoreCheck;

impl Function for StoreCheck {
    fn run(frame: Frame<'_>) -> Result<Value<'_>> {
        rejected(frame.call, || {
            let (subject, check) = store_check(&frame)?;
            frame.call.state.checks.ask(frame.call, &subject, check, Form::Result)
        })
    }
}

struct Peek;

impl Function for Peek {
    fn run(frame: Frame<'_>) -> Result<Value<'_>> {
        promise_of(frame.call, |call| {
            let (subject, check) = store_check(&frame)?;
            let (counts, shadow) = (call.state.checks.counts(call, check.place)?, subject.limiter().shadow);
            Ok(async move { Ok(Reply::Limit(counts.peek(&check, shadow).await, Form::Result)) })
        })
    }
}

struct Refund;

impl Function for Refund {
    fn run(frame: Frame<'_>) -> Result<Value<'_>> {
        promise_of(frame.call, |call| {
            let (_, check) = store_check(&frame)?;
            let counts = call.state.checks.counts(call, check.place)?;
            Ok(async move {
                counts.give_back(&check).await;
                Ok(Reply::Undefined)
            })
        })
    }
}

struct Get;

impl Function for Get {
    fn run(frame: Frame<'_>) -> Result<Value<'_>> {
        promise_of(frame.call, |call| {
            let subject = store(&frame)?;
            let key = subject.key(call, frame.argument(0), "key")?;
            let counts = call.state.checks.counts(call, subject.limiter().place)?;
            let (place, algorithm) = (subject.limiter().place, subject.limiter().algorithm);
            Ok(async move {
                let standing = counts.standing(key, place, algorithm).await;
                Ok(standing.map_or(Reply::Null, |answer| Reply::Limit(answer, Form::Info)))
            })
        })
    }
}

struct Clear;

impl Function for Clear {
    fn run(frame: Frame<'_>) -> Result<Value<'_>> {
        promise_of(frame.call, |call| {
            let subject = store(&frame)?;
            let one = match call.js.kind(frame.argument(0))? {
                Kind::Undefined => None,
                _ => Some(subject.key(call, frame.argument(0), "key")?),
            };
            let (all, algorithm) = (subject.beginning(call)?, subject.limiter().algorithm);
            let counts = call.state.checks.counts(call, subject.limiter().place)?;
            Ok(async move {
                match one {
                    Some(key) => counts.forget(key, algorithm).await,
                    None => counts.forget_all(&all).await,
                }
                Ok(Reply::Undefined)
            })
        })
    }
}
